//! Proof of possession with each call (DPoP, RFC 9449), where TLS ends before the server:
//! no client certificate is shown; the key is proved in the metadata of each call.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use aws_lc_rs::{
    digest::{SHA256, digest},
    rand,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, request::Parts};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use tonic::{Status, body::Body, transport::Channel};
use tonic_types::StatusExt as _;
use tower::ServiceExt as _;
use zta_proto::v1::{self, authentication_service_client::AuthenticationServiceClient};

use crate::{
    connection::{BoxError, Connection, secret},
    credential::Credential,
    renewal::now,
};

/// The calls that need no token: they lead to one, or to a certificate.
const TOKENLESS: [&str; 2] = [
    "/zta.v1.AuthenticationService/Authenticate",
    "/zta.v1.AgentService/Recover",
];
/// The first may lack a nonce, the second a token that is still good.
const ATTEMPTS: u32 = 3;
/// A token is replaced this long before it ends, so that no call meets its end on the way.
const TOKEN_MARGIN: Duration = Duration::from_secs(30);

/// The key, the token that is bound to it, and the server's last nonce.
pub(crate) struct Possession {
    credential: ArcSwap<Credential>,
    authority: String,
    state: Mutex<State>,
    /// One login at a time; the others wait for its token.
    login: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    nonce: Option<String>,
    token: Option<Token>,
}

#[derive(Clone)]
struct Token {
    text: Arc<str>,
    /// From when on another one is to be had.
    old: SystemTime,
}

/// Without key, token and nonce.
impl fmt::Debug for Possession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Possession")
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}

impl Possession {
    /// Of a credential's key, for calls to this `host:port`.
    pub(crate) fn new(credential: Credential, authority: String) -> Self {
        Self {
            credential: ArcSwap::from_pointee(credential),
            authority,
            state: Mutex::default(),
            login: tokio::sync::Mutex::default(),
        }
    }

    /// Goes on with a renewed certificate of the same key.
    pub(crate) fn renewed(&self, credential: Credential) {
        self.credential.store(Arc::new(credential));
    }

    /// Makes a call with a proof. One that is refused for want of a nonce, or because its
    /// token has ended, is made again: the server did nothing. `acting` is the token of a
    /// call on somebody's behalf.
    pub(crate) async fn call(
        &self,
        connection: &Connection,
        channel: Channel,
        request: Request<Body>,
        acting: Option<Arc<str>>,
    ) -> Result<Response<Body>, BoxError> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let path = parts.uri.path().to_owned();
        for attempt in 1.. {
            let token = match &acting {
                _ if TOKENLESS.contains(&path.as_str()) => None,
                Some(token) => Some(Arc::clone(token)),
                None => Some(self.token(connection).await?),
            };
            let request = self.proven(&parts, &body, &path, token.as_deref())?;
            let answer = channel.clone().oneshot(request).await?;
            self.learn(answer.headers());
            if attempt == ATTEMPTS || !self.is_worth_another(answer.headers(), token.as_deref()) {
                return Ok(answer);
            }
        }
        Err(Status::internal("no attempt was made").into())
    }

    /// The call with its proof.
    fn proven(
        &self,
        parts: &Parts,
        body: &Bytes,
        path: &str,
        token: Option<&str>,
    ) -> Result<Request<Body>, BoxError> {
        let mut request = Request::new(Body::new(Full::new(body.clone())));
        request.method_mut().clone_from(&parts.method);
        request.uri_mut().clone_from(&parts.uri);
        *request.version_mut() = parts.version;
        let headers = request.headers_mut();
        headers.clone_from(&parts.headers);
        headers.insert("dpop", secret(&self.proof(path, token)?)?);
        if let Some(token) = token {
            headers.insert("authorization", secret(&format!("DPoP {token}"))?);
        }
        Ok(request)
    }

    /// Whether the same call can pass with what is known now.
    fn is_worth_another(&self, headers: &HeaderMap, token: Option<&str>) -> bool {
        let Some(status) = Status::from_header_map(headers) else {
            return false;
        };
        let reason = status.get_details_error_info().map(|info| info.reason);
        match reason.as_deref() {
            Some("NONCE_REQUIRED") => true,
            Some("TOKEN_EXPIRED" | "TOKEN_INVALID") => {
                let mut state = self.state();
                let is_own = token.is_some() && state.token.as_ref().map(|t| &*t.text) == token;
                if is_own {
                    state.token = None;
                }
                is_own
            }
            _ => false,
        }
    }

    fn learn(&self, headers: &HeaderMap) {
        let nonce = headers.get("dpop-nonce").and_then(|n| n.to_str().ok());
        if let Some(nonce) = nonce {
            self.state().nonce = Some(nonce.to_owned());
        }
    }

    /// A token that is good for some time, by a login if need be.
    async fn token(&self, connection: &Connection) -> Result<Arc<str>, Status> {
        if let Some(token) = self.current() {
            return Ok(token);
        }
        let _alone = self.login.lock().await;
        if let Some(token) = self.current() {
            return Ok(token);
        }
        let chain = self.credential.load().chain();
        let leaf = chain.first();
        let leaf = leaf.ok_or_else(|| Status::unauthenticated("there is no certificate"))?;
        let proof = v1::authenticate_request::Proof::Certificate(v1::CertificateProof {
            certificate_der: leaf.to_vec(),
        });
        let request = v1::AuthenticateRequest { proof: Some(proof) };
        let mut service = AuthenticationServiceClient::new(connection.clone());
        let answer = service.authenticate(request).await?.into_inner();
        let end = answer.expire_time.map_or(0, |end| end.seconds);
        let end = UNIX_EPOCH + Duration::from_secs(u64::try_from(end).unwrap_or(0));
        let left = end.duration_since(now()).unwrap_or_default();
        let token = Token {
            text: answer.access_token.into(),
            old: now() + left.saturating_sub(TOKEN_MARGIN.min(left / 4)),
        };
        self.state().token = Some(token.clone());
        Ok(token.text)
    }

    fn current(&self) -> Option<Arc<str>> {
        let state = self.state();
        let token = state.token.as_ref().filter(|token| now() < token.old);
        token.map(|token| Arc::clone(&token.text))
    }

    fn proof(&self, path: &str, token: Option<&str>) -> Result<String, Status> {
        let credential = self.credential.load();
        let mut id = [0; 16];
        rand::fill(&mut id).map_err(|_| Status::internal("no randomness for a proof"))?;
        let made = now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut claims = json!({
            "jti": BASE64.encode(id),
            "htm": "POST",
            "htu": format!("https://{}{path}", self.authority),
            "iat": made.as_secs(),
        });
        if let Some(nonce) = &self.state().nonce {
            claims["nonce"] = json!(nonce);
        }
        if let Some(token) = token {
            claims["ath"] = json!(BASE64.encode(digest(&SHA256, token.as_bytes())));
        }
        let (x, y) = credential.key().public_key()[1..].split_at(32);
        let (x, y) = (BASE64.encode(x), BASE64.encode(y));
        let jwk = json!({"kty": "EC", "crv": "P-256", "x": x, "y": y});
        let header = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk});
        let encode = |value: &Value| BASE64.encode(value.to_string());
        let text = format!("{}.{}", encode(&header), encode(&claims));
        let signature = credential.key().sign_jws(text.as_bytes());
        let signature = signature.map_err(Status::internal)?;
        Ok(format!("{text}.{}", BASE64.encode(signature)))
    }

    // Every update leaves it usable.
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
