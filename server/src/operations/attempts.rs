//! Attempts to log in: those who keep failing wait longer each time, and learn nothing
//! meanwhile.

use time::Duration;

use super::{OperationError, Operations};
use crate::audit::Record;
use crate::audit::throttle::network_of;
use crate::identity::lockout::Subject;
use crate::identity::registry::{AuthenticationError, Credential};
use crate::identity::token::TokenError;
use crate::model::EventType;
use crate::pdp::PdpError;

impl Operations {
    /// Makes an attempt, unless whoever makes it is locked out. A failure counts against
    /// the key that the handshake proved or, where none did, against the address and the
    /// key that is claimed.
    pub(crate) async fn attempt<T>(
        &self,
        credential: &Credential,
        work: impl Future<Output = Result<T, OperationError>>,
    ) -> Result<T, OperationError> {
        let subjects = subjects(credential);
        let now = (self.pdp.clock)();
        if let Some(wait) = self.lockouts.wait(&subjects, now) {
            self.pdp
                .record_refusal(credential, "locked out after failed logins", now)
                .await?;
            return Err(OperationError::LockedOut(wait));
        }
        let done = work.await;
        match &done {
            Ok(_) => subjects.iter().for_each(|s| self.lockouts.succeeded(*s)),
            Err(error) if is_failed_login(error) => {
                for subject in subjects {
                    let wait = self.lockouts.failed(subject, (self.pdp.clock)());
                    if let Some(wait) = wait {
                        self.record_lockout(credential, subject, wait).await?;
                    }
                }
            }
            Err(_) => {}
        }
        done
    }

    /// The event of a lockout that begins: at most one for each failure, and fewer the
    /// longer it goes on.
    async fn record_lockout(
        &self,
        credential: &Credential,
        subject: Subject,
        wait: Duration,
    ) -> Result<(), OperationError> {
        let seconds = wait.whole_seconds().to_string();
        let of = match subject {
            Subject::Source(_) => "source",
            Subject::Key(_) => "key",
            Subject::ClaimedKey(_) => "claimed_key",
        };
        let mut event = self
            .pdp
            .event(EventType::LockedOut, (self.pdp.clock)())
            .with_detail("of", of)
            .with_detail("seconds", seconds);
        if let Subject::Key(key) | Subject::ClaimedKey(key) = subject {
            event = event.with_detail("key_sha256", hex::encode(key));
        }
        event.source = credential.source;
        let appended = self.pdp.audit.append(Record::fact(event)).await;
        appended.map(drop).map_err(|e| PdpError::Append(e).into())
    }
}

/// Over the connection of a proxy with a certificate of its own, each caller proves another
/// key with its call: that must not count against the proxy.
fn subjects(credential: &Credential) -> Vec<Subject> {
    let claimed = credential.proof.as_ref();
    let claimed = claimed.map(|proof| proof.public_key.sha256());
    if let Some(certificate) = &credential.certificate {
        let own = certificate.key_sha256();
        if claimed.is_none_or(|claimed| claimed == *own) {
            return vec![Subject::Key(*own)];
        }
    }
    let source = credential.source.map(network_of).map(Subject::Source);
    let claimed = claimed.map(Subject::ClaimedKey);
    source.into_iter().chain(claimed).collect()
}

/// Whether an error says that somebody is not who they would like to be. Nothing else
/// counts: not what has expired, not what was sent wrong, not what is our own defect.
fn is_failed_login(error: &OperationError) -> bool {
    match error {
        OperationError::JoinToken
        | OperationError::ChallengeInvalid
        | OperationError::Signature
        | OperationError::IdentityToken
        | OperationError::RecoveryRefused
        | OperationError::DelegationInvalid => true,
        OperationError::Pdp(PdpError::Authentication(error)) => !matches!(
            error,
            AuthenticationError::CertificateExpired
                | AuthenticationError::IssuerRetired
                | AuthenticationError::ProofMissing
                | AuthenticationError::Token(TokenError::Expired)
        ),
        _ => false,
    }
}
