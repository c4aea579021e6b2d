//! What the clones of a client share: proving the key, renewing its certificate, and
//! recovering one that has expired.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{sync::MutexGuard, time::Instant};
use zta_proto::v1::{
    self, agent_service_client::AgentServiceClient,
    authentication_service_client::AuthenticationServiceClient,
};

use super::{Inner, TIMEOUT};
use crate::{
    connection::Connection, credential::Credential, dpop::Possession, error::Error, renewal, tls,
};

/// How long calls leave a failed recovery alone.
const RECOVERY_PAUSE: Duration = Duration::from_secs(5);

impl Inner {
    pub(crate) fn credential(&self) -> Option<Arc<Credential>> {
        self.credential.as_ref().map(ArcSwap::load_full)
    }

    pub(super) fn required_credential(&self) -> Result<Arc<Credential>, Error> {
        self.credential()
            .ok_or_else(|| Error::credential("", "a plain-text client has none"))
    }

    pub(super) fn authentication(&self) -> AuthenticationServiceClient<Connection> {
        AuthenticationServiceClient::new(self.connection.clone())
    }

    /// A token, and how often the server asks for a proof of the key.
    pub(super) async fn authenticate(&self) -> Result<(v1::AuthenticateResponse, Duration), Error> {
        let credential = self.required_credential()?;
        let mut authentication = self.authentication();
        let given = authentication
            .get_challenge(v1::GetChallengeRequest {})
            .await?
            .into_inner();
        let challenge = given.challenge;
        let signature = credential.sign_challenge(&challenge)?;
        let proof = v1::authenticate_request::Proof::SignedChallenge(v1::SignedChallenge {
            challenge,
            signature,
        });
        let request = v1::AuthenticateRequest { proof: Some(proof) };
        let answer = authentication.authenticate(request).await?.into_inner();
        Ok((answer, Duration::from_secs(given.proof_interval_s.into())))
    }

    /// Proves the key; how often the server asks for it.
    pub(crate) async fn prove(&self) -> Result<Duration, Error> {
        Ok(self.authenticate().await?.1)
    }

    /// How often the server asks for a proof of the key.
    pub(crate) async fn proof_interval(&self) -> Result<Duration, Error> {
        let request = v1::GetChallengeRequest {};
        let answer = self.authentication().get_challenge(request).await?;
        let seconds = answer.into_inner().proof_interval_s;
        Ok(Duration::from_secs(seconds.into()))
    }

    pub(super) fn agents(&self) -> AgentServiceClient<Connection> {
        AgentServiceClient::new(self.connection.clone())
    }

    /// Whether no connection can be made with the certificate any more.
    pub(crate) fn has_expired(&self) -> bool {
        let credential = self.credential.as_ref().map(ArcSwap::load);
        credential.is_some_and(|c| c.validity().not_after <= renewal::now())
    }

    /// Recovers, unless another call has done so meanwhile or failed to a moment ago.
    pub(crate) async fn recover_if_expired(&self) -> Result<(), Error> {
        let alone = self.renewing.lock().await;
        let refused = || *self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let again = refused().is_none_or(|at| at.elapsed() >= RECOVERY_PAUSE);
        if !self.has_expired() || !again {
            return Ok(());
        }
        let done = self.renew_alone(alone).await;
        let failed = done.is_err().then(Instant::now);
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = failed;
        done
    }

    /// One renewal: under the folder's lock, and only if no other process was faster.
    pub(crate) async fn renew(&self) -> Result<(), Error> {
        let alone = self.renewing.lock().await;
        self.renew_alone(alone).await
    }

    pub(super) async fn renew_alone(&self, _alone: MutexGuard<'_, ()>) -> Result<(), Error> {
        let current = self.required_credential()?;
        let locked = Arc::clone(&current);
        let work = move || Ok::<_, Error>((locked.lock()?, locked.reload()?));
        // Waiting for another process's lock must not block the runtime.
        let (_lock, stored) = tokio::task::spawn_blocking(work)
            .await
            .map_err(|e| Error::unreachable(&self.address, e))??;
        if let Some(stored) = stored
            && stored.validity().not_after > current.validity().not_after
        {
            return self.adopt(stored);
        }
        // For a server that sees no certificate of ours in the handshake.
        let leaf = current.chain().into_iter().next();
        let certificate_der = leaf.map(|leaf| leaf.to_vec()).unwrap_or_default();
        let issued = match self.has_expired() {
            true => {
                let request = v1::RecoverRequest { certificate_der };
                let answer = self.recovering(&current)?.recover(request).await?;
                let issued = answer.into_inner().certificate;
                issued.ok_or(Error::Answer("no certificate"))?
            }
            false => {
                let request = v1::RenewRequest { certificate_der };
                let answer = self.agents().renew(request).await?;
                let issued = answer.into_inner().certificate;
                issued.ok_or(Error::Answer("no certificate"))?
            }
        };
        let proxy_of_another_ca = self.proxied.as_ref().is_some_and(|p| p.roots.is_some());
        let (renewed, parts) = current.renewed(&issued, !proxy_of_another_ca)?;
        // Stored first: after a crash, one that was used and is not in the folder would make
        // a copy's of the one that is. Were the disk full, this process could at least go on.
        let stored = renewed.store(&parts);
        self.adopt(renewed)?;
        stored
    }

    /// A way to the server for a key whose certificate has ended: no connection can be made
    /// with that, so the call carries a proof of the key instead.
    pub(super) fn recovering(
        &self,
        of: &Credential,
    ) -> Result<AgentServiceClient<Connection>, Error> {
        let (channel, possession) = match &self.proxied {
            Some(proxied) => (
                proxied.channel(&self.address, of)?,
                Arc::clone(&proxied.possession),
            ),
            None => (
                tls::proven_channel(&self.address, of.roots())?,
                Arc::new(Possession::new(of.clone(), self.address.to_string())),
            ),
        };
        let connection = Connection::new(channel, TIMEOUT).proving(possession);
        Ok(AgentServiceClient::new(connection))
    }

    pub(super) fn adopt(&self, renewed: Credential) -> Result<(), Error> {
        let channel = match &self.proxied {
            Some(proxied) => {
                proxied.possession.renewed(renewed.clone());
                proxied.channel(&self.address, &renewed)?
            }
            None => tls::channel(&self.address, &renewed)?,
        };
        if let Some(credential) = &self.credential {
            credential.store(Arc::new(renewed));
        }
        self.connection.replace(channel);
        Ok(())
    }
}
