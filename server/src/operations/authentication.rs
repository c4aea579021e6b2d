//! Logins: a signed challenge for an access token bound to the client certificate.

use super::{OperationError, Operations};
use crate::identity::challenge::{Challenge, ChallengeError, signed_message};
use crate::identity::registry::{Caller, Credential};
use crate::identity::token::{Confirmation, Grant, IssuedToken, TokenParty};
use crate::model::Standing;

impl Operations {
    /// A challenge for the key of the caller's certificate.
    pub(crate) async fn challenge(
        &self,
        credential: &Credential,
    ) -> Result<Challenge, OperationError> {
        self.known_caller(credential).await?;
        let Some(certificate) = credential.certificate.as_deref() else {
            return Err(OperationError::Signature);
        };
        let now = (self.pdp.clock)();
        let challenge = self.challenges.issue(certificate.key_sha256(), now)?;
        if let Some(connection) = &credential.connection {
            connection.gave(&challenge.bytes);
        }
        Ok(challenge)
    }

    /// Exchanges a signed challenge for an access token. On record before the answer.
    pub(crate) async fn authenticate(
        &self,
        credential: &Credential,
        challenge: &[u8],
        signature: &[u8],
    ) -> Result<(IssuedToken, Caller), OperationError> {
        let now = (self.pdp.clock)();
        let caller = self.known_caller(credential).await?;
        let Some(certificate) = credential.certificate.as_deref() else {
            return Err(OperationError::Signature);
        };
        // Spent before the signature is looked at: a wrong one spends it, too.
        if let Err(error) = self
            .challenges
            .redeem(challenge, certificate.key_sha256(), now)
        {
            self.pdp
                .record_refusal(credential, &error.to_string(), now)
                .await?;
            return Err(match error {
                ChallengeError::Full | ChallengeError::Random => error.into(),
                _ => OperationError::ChallengeInvalid,
            });
        }
        if !certificate.verify_signature(&signed_message(challenge), signature) {
            self.pdp
                .record_refusal(credential, "the challenge's signature is wrong", now)
                .await?;
            return Err(OperationError::Signature);
        }
        let principal = &caller.principal;
        let state = self.pdp.replica.current();
        let grant = Grant {
            subject: TokenParty::registered(principal.kind, &principal.id),
            actors: Vec::new(),
            scope: Vec::new(),
            lineage: caller.lineage.clone(),
            epoch: state.epoch,
            confirmation: Confirmation::Certificate(*certificate.certificate_sha256()),
            auth_time: now,
            lifetime: self.token_lifetime(&state, principal),
            not_after: Some(certificate.not_after()),
        };
        let token = self.log_in(credential, grant, Some(&caller), now).await?;
        if let Some(connection) = &credential.connection {
            connection.answered(challenge, now);
        }
        Ok((token, caller))
    }

    /// The caller, if it may log in at all.
    pub(super) async fn known_caller(
        &self,
        credential: &Credential,
    ) -> Result<Caller, OperationError> {
        let now = (self.pdp.clock)();
        let state = self.pdp.replica.current();
        let caller = self.pdp.authenticate(credential, &state, now).await?;
        // Who has to prove its key again comes here to do so.
        if caller.principal.state != Standing::Active && !caller.proof_missed {
            self.pdp
                .record_refusal(credential, "login while contained", now)
                .await?;
            return Err(OperationError::Contained(caller.principal.state));
        }
        Ok(caller)
    }
}
