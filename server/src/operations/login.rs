//! Logins where TLS ends before this server, or of those who have no certificate: a
//! certificate or a provider's token, with a proof of a key (DPoP), for an access token
//! that is bound to that key.

use std::sync::Arc;

use time::OffsetDateTime;

use super::issuers::IdentityError;
use super::{OperationError, Operations};
use crate::audit::Record;
use crate::identity::dpop::DpopError;
use crate::identity::possession::ProvenKey;
use crate::identity::registry::{AuthenticationError, Caller, Credential};
use crate::identity::svid;
use crate::identity::token::{Confirmation, Grant, IssuedToken, TokenParty};
use crate::model::{EntityUid, Event, EventType};
use crate::pdp::PdpError;

/// Who logged in, with what it got.
pub(crate) struct LoggedIn {
    /// The token.
    pub(crate) token: IssuedToken,
    /// Who it is.
    pub(crate) principal: EntityUid,
}

impl Operations {
    /// Exchanges a certificate of ours and a proof by its key for an access token that is
    /// bound to the key. On record before the answer.
    pub(crate) async fn authenticate_by_certificate(
        &self,
        credential: &Credential,
        der: &[u8],
    ) -> Result<LoggedIn, OperationError> {
        let now = (self.pdp.clock)();
        let proof = self.proof_of(credential, now).await?;
        let issuers = self.ca.current().issuers();
        let certificate = match svid::verify(der, &issuers, self.ca.trust_domain(), now) {
            Ok(certificate) => certificate,
            Err(error) => return Err(self.refuse(credential, error, now).await?),
        };
        let not_after = certificate.not_after();
        let other_key = certificate.public_key() != &proof.public_key;
        // From here on the same as one that a handshake proved, now.
        let by_certificate = Credential {
            certificate: Some(Arc::new(certificate)),
            token: None,
            handshake_time: now,
            ..credential.clone()
        };
        if other_key {
            let error = DpopError::OtherKey.into();
            return Err(self.refuse(&by_certificate, error, now).await?);
        }
        let caller = self.known_caller(&by_certificate).await?;
        let principal = &caller.principal;
        let lifetime = self.token_lifetime(&self.pdp.replica.current(), principal);
        let grant = Grant {
            subject: TokenParty::registered(principal.kind, &principal.id),
            actors: Vec::new(),
            scope: Vec::new(),
            confirmation: Confirmation::Key(proof.thumbprint),
            auth_time: now,
            lifetime,
            not_after: Some(not_after),
        };
        let token = self.pdp.tokens.issue(&grant, now)?;
        let mut event = self.login_event(credential, &token, principal.uid(), now);
        event.instance = principal.instance;
        self.record_login(event, Some(&caller)).await?;
        Ok(LoggedIn {
            token,
            principal: caller.principal.uid(),
        })
    }

    /// Exchanges a provider's token, with a proof of a key, for an access token that is
    /// bound to the key. On record before the answer.
    pub(crate) async fn authenticate_by_identity_token(
        &self,
        credential: &Credential,
        token: &str,
    ) -> Result<LoggedIn, OperationError> {
        let now = (self.pdp.clock)();
        let proof = match &credential.proof {
            None if self.pdp.tokens.takes_unbound() => None,
            _ => Some(self.proof_of(credential, now).await?),
        };
        let identity = match self.issuers.identify(token, &self.pdp.clock).await {
            Ok(identity) => identity,
            Err(error) => return Err(self.refuse_identity(credential, error, now).await?),
        };
        let thumbprint = proof.as_ref().map(|proof| &proof.thumbprint);
        if let Err(error) = identity.require_key(thumbprint) {
            return Err(self.refuse_identity(credential, error.into(), now).await?);
        }
        let party = TokenParty {
            kind: identity.kind,
            id: identity.id,
            name: identity.name,
            roles: identity.roles,
            attributes: Arc::new(identity.attributes),
        };
        let principal = EntityUid::new(party.kind.cedar_type(), &party.id);
        // The key of an enrolled principal speaks for that one only.
        let state = self.pdp.replica.current();
        let enrolled = |proof: &Arc<ProvenKey>| {
            let key_sha256 = proof.public_key.sha256();
            state.registry.instance(&key_sha256).is_some()
        };
        if proof.as_ref().is_some_and(enrolled) {
            let error = DpopError::OtherKey.into();
            return Err(self.refuse(credential, error, now).await?);
        }
        let roles = party.roles.join(" ");
        let grant = Grant {
            subject: party,
            actors: Vec::new(),
            scope: Vec::new(),
            confirmation: proof.map_or(Confirmation::Nothing, |proof| {
                Confirmation::Key(proof.thumbprint)
            }),
            auth_time: now,
            lifetime: self.token_lifetime_max,
            not_after: Some(identity.expire_time),
        };
        let token = self.pdp.tokens.issue(&grant, now)?;
        let event = self
            .login_event(credential, &token, principal.clone(), now)
            .with_detail("roles", roles);
        self.record_login(event, None).await?;
        Ok(LoggedIn { token, principal })
    }

    /// The key that was proved for this call.
    async fn proof_of(
        &self,
        credential: &Credential,
        now: OffsetDateTime,
    ) -> Result<Arc<ProvenKey>, OperationError> {
        match &credential.proof {
            Some(proof) => Ok(Arc::clone(proof)),
            None => {
                let error = AuthenticationError::ProofMissing;
                Err(self.refuse(credential, error, now).await?)
            }
        }
    }

    /// A refused login, on record.
    async fn refuse(
        &self,
        credential: &Credential,
        error: AuthenticationError,
        now: OffsetDateTime,
    ) -> Result<OperationError, PdpError> {
        let why = error.to_string();
        self.pdp.record_refusal(credential, &why, now).await?;
        Ok(PdpError::from(error).into())
    }

    /// The same of a provider's token: the record says why, the caller hears one thing.
    async fn refuse_identity(
        &self,
        credential: &Credential,
        error: IdentityError,
        now: OffsetDateTime,
    ) -> Result<OperationError, PdpError> {
        let why = error.to_string();
        self.pdp.record_refusal(credential, &why, now).await?;
        Ok(match error {
            IdentityError::Expired => OperationError::IdentityTokenExpired,
            IdentityError::Refused(_) => OperationError::IdentityToken,
        })
    }

    pub(super) fn login_event(
        &self,
        credential: &Credential,
        token: &IssuedToken,
        actor: EntityUid,
        now: OffsetDateTime,
    ) -> Event {
        let event = self.pdp.event(EventType::Login, now);
        let mut event = event.with_detail("token_id", token.id.as_str());
        event.actor = Some(actor);
        event.source = credential.source;
        event
    }

    /// A login on record, and with it that the caller's certificate was used.
    pub(super) async fn record_login(
        &self,
        event: Event,
        caller: Option<&Caller>,
    ) -> Result<(), OperationError> {
        let record = Record {
            rider: caller.and_then(Caller::rider),
            ..Record::fact(event)
        };
        let appended = self.pdp.audit.append(record).await;
        appended.map_err(PdpError::Append)?;
        caller.inspect(|caller| caller.on_record());
        Ok(())
    }
}
