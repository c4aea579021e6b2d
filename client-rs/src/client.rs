//! The client of one identity.

mod inner;

use std::{
    env,
    sync::{Arc, OnceLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;
use tokio::{
    sync::Mutex,
    task::AbortHandle,
    time::{Instant, timeout_at},
};
use tonic::{Status, transport::Channel};
use zta_proto::v1::{
    self, agent_service_client::AgentServiceClient, audit_service_client::AuditServiceClient,
    authentication_service_client::AuthenticationServiceClient,
    authorization_service_client::AuthorizationServiceClient,
    certificate_authority_service_client::CertificateAuthorityServiceClient,
    entity_service_client::EntityServiceClient, policy_service_client::PolicyServiceClient,
    user_service_client::UserServiceClient,
};

use crate::{
    acting::Acting,
    connection::Connection,
    credential::{Credential, certificates},
    decision::Decision,
    dpop::Possession,
    error::Error,
    proving, renewal, tls,
};

const TIMEOUT: Duration = Duration::from_secs(10);
/// A page of 1,000 audit events of 32 KiB each, with room.
const ANSWER_BYTES_MAX: usize = 40 << 20;
/// A policy set of 64 MiB with the names of its files.
const POLICY_BYTES_MAX: usize = 72 << 20;

/// Calls a server under one identity. Cheap to clone; clones share the connection.
///
/// The connection is made at the first call and again whenever it was lost. The
/// certificate is renewed in the background at half of its life for as long as a clone
/// exists; no call fails for it. One that has expired, because the machine slept, is made
/// good before the next call. Needs a tokio runtime.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
    /// The channel that its calls take: that of `inner`, on somebody's behalf or not.
    connection: Connection,
}

#[derive(Debug)]
pub(crate) struct Inner {
    address: tls::Address,
    connection: Connection,
    credential: Option<ArcSwap<Credential>>,
    proxied: Option<Proxied>,
    /// One renewal at a time in this process; other processes are kept out by the
    /// folder's lock.
    renewing: Mutex<()>,
    /// When a recovery failed last: calls do not try again at once.
    refused: std::sync::Mutex<Option<Instant>>,
    /// The renewal of the certificate, and the proofs of the key.
    tasks: OnceLock<Vec<AbortHandle>>,
}

/// How a server is reached behind a proxy that ends TLS.
#[derive(Debug)]
struct Proxied {
    possession: Arc<Possession>,
    /// The CAs of the proxy's certificate; without them those of the credential.
    roots: Option<Vec<CertificateDer<'static>>>,
}

impl Proxied {
    fn channel(&self, address: &tls::Address, of: &Credential) -> Result<Channel, Error> {
        tls::proven_channel(address, self.roots.as_deref().unwrap_or(of.roots()))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for task in self.tasks.get().into_iter().flatten() {
            task.abort();
        }
    }
}

/// How to make a [`Client`].
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    credential: Credential,
    timeout: Duration,
    renewal: bool,
    dpop: bool,
    server_roots: Option<Vec<u8>>,
}

impl ClientBuilder {
    /// Another server (`host:port`) than the one that the credential names.
    #[must_use]
    pub fn server(mut self, server: &str) -> Self {
        self.credential.set_endpoint(server);
        self
    }

    /// How long a call may take, connecting included; 10 seconds if not said.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// No background task: for a process of a few seconds, which calls
    /// [`Client::renew_if_due`] once. A renewal that a process does not live to finish
    /// would be lost.
    #[must_use]
    pub fn without_renewal(mut self) -> Self {
        self.renewal = false;
        self
    }

    /// For a server behind a proxy that ends TLS: no client certificate is shown; instead
    /// each call carries a proof of the key (DPoP, RFC 9449). The client logs in by itself.
    #[must_use]
    pub fn dpop(mut self) -> Self {
        self.dpop = true;
        self
    }

    /// The CAs (PEM) of the proxy's certificate, for [`Self::dpop`]; without it the
    /// credential's own.
    #[must_use]
    pub fn server_roots(mut self, pem: &[u8]) -> Self {
        self.server_roots = Some(pem.to_vec());
        self
    }

    /// The client. Nothing is sent before the first call.
    ///
    /// # Errors
    /// The server's address or the credential cannot be used.
    pub fn build(self) -> Result<Client, Error> {
        let address: tls::Address = self.credential.endpoint().parse()?;
        let proxied = self.proxied(&address)?;
        let channel = match &proxied {
            Some(proxied) => proxied.channel(&address, &self.credential)?,
            None => tls::channel(&address, &self.credential)?,
        };
        let mut connection = Connection::new(channel, self.timeout);
        if let Some(proxied) = &proxied {
            connection = connection.proving(Arc::clone(&proxied.possession));
        }
        let client = Client::with(address, connection, Some(self.credential), proxied);
        if self.renewal {
            let inner = || Arc::downgrade(&client.inner);
            client.connection.owned_by(inner());
            let renewed = tokio::spawn(renewal::keep_renewed(inner()));
            let mut tasks = vec![renewed.abort_handle()];
            // Where each call proves the key, nothing else need.
            if client.inner.proxied.is_none() {
                let proved = tokio::spawn(proving::keep_proved(inner()));
                tasks.push(proved.abort_handle());
            }
            let _ = client.inner.tasks.set(tasks);
        }
        Ok(client)
    }
}

impl ClientBuilder {
    fn proxied(&self, address: &tls::Address) -> Result<Option<Proxied>, Error> {
        let refuse = |problem: &str| Error::credential("server_roots", problem);
        let roots = match &self.server_roots {
            Some(_) if !self.dpop => {
                return Err(refuse(
                    "are for dpop(); over mutual TLS the credential has them",
                ));
            }
            Some(pem) => Some(certificates(pem).map_err(refuse)?),
            None => None,
        };
        let credential = self.credential.clone();
        Ok(self.dpop.then(|| Proxied {
            possession: Arc::new(Possession::new(credential, address.to_string())),
            roots,
        }))
    }
}

impl Client {
    /// A client with everything as usual; see [`Self::builder`].
    ///
    /// # Errors
    /// As [`ClientBuilder::build`].
    pub fn new(credential: Credential) -> Result<Self, Error> {
        Self::builder(credential).build()
    }

    /// A client for this credential.
    pub fn builder(credential: Credential) -> ClientBuilder {
        ClientBuilder {
            credential,
            timeout: TIMEOUT,
            renewal: true,
            dpop: false,
            server_roots: None,
        }
    }

    /// A client by the environment: `ZTA_CREDENTIAL` names the credential folder,
    /// `ZTA_SERVER` another server than the folder does.
    ///
    /// # Errors
    /// `ZTA_CREDENTIAL` is not set, or as [`Credential::load`] and [`ClientBuilder::build`].
    pub fn from_env() -> Result<Self, Error> {
        let folder = env::var_os("ZTA_CREDENTIAL")
            .ok_or_else(|| Error::credential("", "set ZTA_CREDENTIAL to a credential folder"))?;
        let builder = Self::builder(Credential::load(folder)?);
        match env::var("ZTA_SERVER") {
            Ok(server) => builder.server(&server).build(),
            Err(_) => builder.build(),
        }
    }

    /// A client without TLS and without an identity, for a server on the same machine
    /// that was told to listen so. Refuses every address that is not loopback.
    ///
    /// # Errors
    /// The address cannot be used.
    pub fn plaintext(server: &str) -> Result<Self, Error> {
        let address: tls::Address = server.parse()?;
        let channel = tls::plaintext_channel(&address)?;
        let connection = Connection::new(channel, TIMEOUT);
        Ok(Self::with(address, connection, None, None))
    }

    fn with(
        address: tls::Address,
        connection: Connection,
        credential: Option<Credential>,
        proxied: Option<Proxied>,
    ) -> Self {
        Self {
            connection: connection.clone(),
            inner: Arc::new(Inner {
                address,
                connection,
                proxied,
                credential: credential.map(ArcSwap::from_pointee),
                renewing: Mutex::new(()),
                refused: std::sync::Mutex::default(),
                tasks: OnceLock::new(),
            }),
        }
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The credential in use: none in plain text.
    pub fn credential(&self) -> Option<Arc<Credential>> {
        self.inner.credential()
    }

    /// `AgentService`: the registry of agents.
    pub fn agents(&self) -> AgentServiceClient<Connection> {
        AgentServiceClient::new(self.connection.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// `UserService`: people with keys of their own.
    pub fn users(&self) -> UserServiceClient<Connection> {
        UserServiceClient::new(self.connection.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// `PolicyService`: policy sets and their revisions.
    pub fn policies(&self) -> PolicyServiceClient<Connection> {
        PolicyServiceClient::new(self.connection.clone())
            .max_decoding_message_size(POLICY_BYTES_MAX)
    }

    /// `CertificateAuthorityService`: the CAs of the trust domain.
    pub fn certificate_authorities(&self) -> CertificateAuthorityServiceClient<Connection> {
        CertificateAuthorityServiceClient::new(self.inner.connection.clone())
            .max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// `EntityService`: what policies know beside the registry.
    pub fn entities(&self) -> EntityServiceClient<Connection> {
        EntityServiceClient::new(self.connection.clone())
            .max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// `AuditService`: the log.
    pub fn audit(&self) -> AuditServiceClient<Connection> {
        AuditServiceClient::new(self.connection.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// `AuthorizationService`: decisions.
    pub fn authorization(&self) -> AuthorizationServiceClient<Connection> {
        AuthorizationServiceClient::new(self.connection.clone())
    }

    /// `AuthenticationService`: access tokens. See [`Self::authenticate`].
    pub fn authentication(&self) -> AuthenticationServiceClient<Connection> {
        AuthenticationServiceClient::new(self.connection.clone())
    }

    /// Has one request decided. A deny is an answer; for an enforcement point an error is
    /// a deny. A call that did not get through is tried once more.
    ///
    /// # Errors
    /// There is no decision.
    pub async fn authorize(&self, request: v1::AuthorizeRequest) -> Result<Decision, Error> {
        self.authorize_within(request, self.connection.timeout())
            .await
    }

    pub(crate) async fn authorize_within(
        &self,
        request: v1::AuthorizeRequest,
        timeout: Duration,
    ) -> Result<Decision, Error> {
        let connection = self.connection.with_timeout(timeout);
        let mut authorization = AuthorizationServiceClient::new(connection);
        let asked = async {
            // A connection that the server closed may be noticed only by the call that
            // was to use it. Asking twice does no harm: each decision is on record.
            match authorization.authorize(request.clone()).await {
                Err(status) if got_lost(&status) => authorization.authorize(request).await,
                answer => answer,
            }
        };
        let answer = timeout_at(Instant::now() + timeout, asked)
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))?;
        Ok(answer.into_inner().into())
    }

    /// Signs a challenge for an access token that is bound to this client's certificate.
    /// The certificate alone authenticates calls; a token is an extra.
    ///
    /// # Errors
    /// The server refuses, or there is no credential to sign with.
    pub async fn authenticate(&self) -> Result<v1::AuthenticateResponse, Error> {
        Ok(self.inner.authenticate().await?.0)
    }

    /// Lets an agent (by name or SPIFFE ID) act on this client's behalf, if policy permits
    /// `delegate` on it: for the actions in `scope`, as `action` or `action:resource` (none:
    /// whatever both may do), for as long as `lifetime` says, at most an hour and no longer
    /// than this client's certificate. The grant is worth something to that agent only.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn delegate(
        &self,
        agent: &str,
        scope: &[&str],
        lifetime: Duration,
    ) -> Result<String, Error> {
        let delegate = v1::Delegate {
            agent: agent.to_owned(),
            scope: scope.iter().map(|&entry| entry.to_owned()).collect(),
            lifetime_s: u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX),
            note: String::new(),
        };
        let request = v1::ExchangeTokenRequest {
            exchange: Some(v1::exchange_token_request::Exchange::Delegate(delegate)),
        };
        let answer = self.authentication().exchange_token(request).await?;
        Ok(answer.into_inner().token)
    }

    /// This client, acting on the behalf of whoever made the grant: each of its calls is
    /// made with a token for it, which is kept fresh while the grant lives. After that its
    /// calls fail; none of them is ever made on the client's own behalf. Nothing is sent
    /// before the first call.
    #[must_use]
    pub fn act_for(&self, grant: &str) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            // Not on top of what it acts for now: a grant names the whole chain.
            connection: self.inner.connection.acting(Arc::new(Acting::new(grant))),
        }
    }

    /// Renews the certificate now and goes on with the new one. One that has expired is
    /// recovered, which a server does a few times.
    ///
    /// # Errors
    /// The server refuses, or the new certificate cannot be stored (it is in use then
    /// all the same).
    pub async fn renew(&self) -> Result<(), Error> {
        self.inner.renew().await
    }

    /// Renews the certificate if half of its life is over.
    ///
    /// # Errors
    /// As [`Self::renew`].
    pub async fn renew_if_due(&self) -> Result<(), Error> {
        let credential = self.inner.required_credential()?;
        if renewal::now() < renewal::due(credential.validity(), 0.0) {
            return Ok(());
        }
        self.renew().await
    }
}

/// Whether a call failed below gRPC.
fn got_lost(status: &Status) -> bool {
    matches!(&Error::from(status.clone()), Error::Rpc(e) if e.transport().is_some())
}
