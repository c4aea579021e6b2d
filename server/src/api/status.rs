//! Errors as gRPC statuses of the richer model: each with an `ErrorInfo` whose reason
//! stands in `zta/v1/error_reason.proto`. The one place that maps them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use zta_proto::v1::ErrorReason;

use crate::audit::AppendError;
use crate::identity::challenge::ChallengeError;
use crate::identity::registry::AuthenticationError;
use crate::identity::token::TokenError;
use crate::model::proposal::OPEN_MAX;
use crate::model::repeats::Repeats;
use crate::model::{AgentState, Conflict, Decision, Standing};
use crate::operations::OperationError;
use crate::pdp::PdpError;
use crate::policy::{Diagnostic, EntityError, PolicyError, SignatureError};

/// The domain of every `ErrorInfo`.
pub(crate) const DOMAIN: &str = "zta";
/// When to try again after a refusal that passes.
const RETRY: Duration = Duration::from_millis(200);

/// When there is room for another challenge or proof: they live for minutes.
const CHALLENGE_RETRY: Duration = Duration::from_secs(10);

/// Diagnostics of one status: its headers are bounded. Validate returns all.
const DIAGNOSTICS_MAX: usize = 16;

/// The reason's name on the wire.
pub(crate) fn reason_name(reason: ErrorReason) -> &'static str {
    reason.as_str_name().trim_start_matches("ERROR_REASON_")
}

/// A status with its reason.
pub(crate) fn status(code: Code, reason: ErrorReason, message: impl Into<String>) -> Status {
    detailed(code, reason, message, ErrorDetails::new())
}

fn detailed(
    code: Code,
    reason: ErrorReason,
    message: impl Into<String>,
    mut details: ErrorDetails,
) -> Status {
    details.set_error_info(reason_name(reason), DOMAIN, HashMap::new());
    Status::with_error_details(code, message, details)
}

fn retriable(reason: ErrorReason, message: String) -> Status {
    let mut details = ErrorDetails::new();
    details.set_retry_info(Some(RETRY));
    detailed(Code::Unavailable, reason, message, details)
}

/// There is no room for another challenge or proof of this caller.
fn rate_limited(message: String) -> Status {
    later(message, CHALLENGE_RETRY)
}

fn later(message: String, retry: Duration) -> Status {
    let mut details = ErrorDetails::new();
    details.set_retry_info(Some(retry));
    let (code, reason) = (Code::ResourceExhausted, ErrorReason::RateLimited);
    detailed(code, reason, message, details)
}

/// A field of the request is no good.
pub(crate) fn field(name: &str, why: impl Into<String>) -> Status {
    let why = why.into();
    let mut details = ErrorDetails::new();
    details.add_bad_request_violation(name, &why);
    detailed(
        Code::InvalidArgument,
        ErrorReason::FieldInvalid,
        format!("{name}: {why}"),
        details,
    )
}

/// A documented limit is exceeded.
pub(crate) fn limit(name: &str, size: usize, max: usize) -> Status {
    let mut details = ErrorDetails::new();
    let metadata = HashMap::from([
        ("limit".to_owned(), name.to_owned()),
        ("max".to_owned(), max.to_string()),
    ]);
    details.set_error_info(reason_name(ErrorReason::LimitExceeded), DOMAIN, metadata);
    let message = format!("{name}: {size} is over the limit of {max}");
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// A defect of ours: the caller gets an id, the log the error.
pub(crate) fn internal(error: &dyn std::fmt::Display) -> Status {
    let id = uuid::Uuid::new_v4();
    tracing::error!(%id, %error, "internal error");
    status(
        Code::Internal,
        ErrorReason::Internal,
        format!("internal error {id}; look for this id in the server's log"),
    )
}

impl From<PdpError> for Status {
    fn from(error: PdpError) -> Self {
        let message = error.to_string();
        match error {
            PdpError::Authentication(e) => authentication(&e, message),
            PdpError::Policy(e) => policy(&e, message),
            PdpError::NotReady => retriable(ErrorReason::NotReady, message),
            PdpError::NotFresh => retriable(ErrorReason::NotFresh, message),
            PdpError::Stale => retriable(ErrorReason::StoreUnavailable, message),
            PdpError::Conflict(e) => conflict(&e, message),
            PdpError::OwnRecord => {
                status(Code::PermissionDenied, ErrorReason::NotPermitted, message)
            }
            PdpError::LastAdministrator | PdpError::Lockout => {
                status(Code::FailedPrecondition, ErrorReason::Lockout, message)
            }
            PdpError::Delegation(_) => status(
                Code::FailedPrecondition,
                ErrorReason::DelegationInvalid,
                message,
            ),
            PdpError::Signature(SignatureError::Missing) => status(
                Code::FailedPrecondition,
                ErrorReason::PolicyUnsigned,
                message,
            ),
            PdpError::Signature(SignatureError::Invalid(_)) => status(
                Code::FailedPrecondition,
                ErrorReason::PolicySignatureInvalid,
                message,
            ),
            PdpError::ApprovalRequired
            | PdpError::SecondIdentity
            | PdpError::RollbackUnapproved(_) => status(
                Code::FailedPrecondition,
                ErrorReason::ApprovalRequired,
                message,
            ),
            PdpError::OwnProposal => {
                status(Code::FailedPrecondition, ErrorReason::OwnProposal, message)
            }
            PdpError::PrincipalNotFound => {
                status(Code::NotFound, ErrorReason::AgentNotFound, message)
            }
            PdpError::UserNotFound => status(Code::NotFound, ErrorReason::UserNotFound, message),
            PdpError::Entity(e) => entity(&e, message),
            PdpError::Misfits(_) => {
                status(Code::InvalidArgument, ErrorReason::PolicyInvalid, message)
            }
            PdpError::Append(AppendError::Overloaded) => {
                retriable(ErrorReason::Overloaded, message)
            }
            PdpError::Append(AppendError::Leaf(_)) => {
                status(Code::ResourceExhausted, ErrorReason::LimitExceeded, message)
            }
            // The store's own words may name hosts and files: they are for the log, where
            // the writer has put its own.
            PdpError::Append(_) => unrecorded(),
            PdpError::Store(_) => {
                say_unavailable(&message);
                unrecorded()
            }
        }
    }
}

/// Puts an outage of the store into the log, not once for each call of it.
fn say_unavailable(message: &str) {
    static OUTAGE: Mutex<Repeats> = Mutex::new(Repeats::new());
    let admitted = {
        let mut outage = OUTAGE.lock().unwrap_or_else(PoisonError::into_inner);
        outage.admit(message, 1, Instant::now())
    };
    if let Some(unsaid) = admitted {
        tracing::error!(unsaid, error = %message, "the store is not available");
    }
}

/// Nothing is answered of what is not on record.
fn unrecorded() -> Status {
    retriable(
        ErrorReason::StoreUnavailable,
        "the audit record could not be written, so nothing was decided; try again".into(),
    )
}

fn authentication(error: &AuthenticationError, message: String) -> Status {
    let reason = match error {
        AuthenticationError::CredentialMissing => ErrorReason::CredentialMissing,
        AuthenticationError::CertificateExpired => ErrorReason::CertificateExpired,
        AuthenticationError::IssuerRetired => ErrorReason::IssuerRetired,
        AuthenticationError::KeyUnknown => ErrorReason::KeyUnknown,
        AuthenticationError::ProofMissing => ErrorReason::ProofMissing,
        AuthenticationError::PrincipalUnknown | AuthenticationError::CertificateUntrusted => {
            ErrorReason::PrincipalUnknown
        }
        AuthenticationError::Proof(e) if e.passes() => return rate_limited(message),
        AuthenticationError::Proof(e) if e.wants_nonce() => ErrorReason::NonceRequired,
        AuthenticationError::Proof(_) => ErrorReason::ProofInvalid,
        AuthenticationError::Token(TokenError::Expired) => ErrorReason::TokenExpired,
        AuthenticationError::Token(
            TokenError::Binding | TokenError::Subject | TokenError::Unbound,
        ) => ErrorReason::TokenBinding,
        AuthenticationError::Token(_) => ErrorReason::TokenInvalid,
    };
    status(Code::Unauthenticated, reason, message)
}

fn policy(error: &PolicyError, message: String) -> Status {
    match error {
        PolicyError::ActionUnknown(_) => {
            status(Code::InvalidArgument, ErrorReason::ActionUnknown, message)
        }
        PolicyError::ResourceType { .. } | PolicyError::ToolMismatch { .. } => status(
            Code::InvalidArgument,
            ErrorReason::ResourceTypeInvalid,
            message,
        ),
        PolicyError::Entity(e) => entity(e, message),
        PolicyError::Internal(_) => internal(&message),
    }
}

/// Entities that cannot be put, or cannot come with a request.
fn entity(error: &EntityError, message: String) -> Status {
    let reason = match error {
        EntityError::Reserved(_) => ErrorReason::EntityTypeReserved,
        EntityError::Invalid(_) => ErrorReason::EntityInvalid,
        EntityError::Stored(_) => ErrorReason::EntityStored,
        EntityError::Limit { name, size, max } => return limit(name, *size, *max),
    };
    let mut details = ErrorDetails::new();
    details.add_bad_request_violation("entities", &message);
    detailed(Code::InvalidArgument, reason, message, details)
}

fn conflict(error: &Conflict, message: String) -> Status {
    let precondition = |reason, subject: &str| {
        let mut details = ErrorDetails::new();
        details.add_precondition_failure_violation(reason_name(reason), subject, &message);
        detailed(Code::FailedPrecondition, reason, message.clone(), details)
    };
    match error {
        Conflict::AgentExists | Conflict::UserExists => status(
            Code::AlreadyExists,
            ErrorReason::AgentExists,
            format!("{message}; registering again never changes or replaces one"),
        ),
        Conflict::AgentNotFound => status(Code::NotFound, ErrorReason::AgentNotFound, message),
        Conflict::AgentState(state) => {
            contained_or(*state, precondition(ErrorReason::StateConflict, "agent"))
        }
        Conflict::JoinToken => status(
            Code::Unauthenticated,
            ErrorReason::JoinTokenInvalid,
            message,
        ),
        Conflict::ProposalNotFound => {
            status(Code::NotFound, ErrorReason::ProposalNotFound, message)
        }
        Conflict::RevisionNotFound(_) => {
            status(Code::NotFound, ErrorReason::RevisionNotFound, message)
        }
        Conflict::RevisionInForce(_) => precondition(ErrorReason::StateConflict, "revision"),
        Conflict::ProposalDecided(_) => precondition(ErrorReason::StateConflict, "proposal"),
        Conflict::ProposalMoved => retriable(ErrorReason::StoreUnavailable, message),
        Conflict::ProposalsOpen => {
            let max = OPEN_MAX as usize;
            limit("open_proposals", max + 1, max)
        }
        Conflict::KeyEnrolled => precondition(ErrorReason::StateConflict, "key"),
        Conflict::KeyRevoked => precondition(ErrorReason::Revoked, "key"),
        Conflict::KeyLocked => status(Code::PermissionDenied, ErrorReason::InstanceLocked, message),
        Conflict::KeyState(_) => precondition(ErrorReason::StateConflict, "key"),
        Conflict::UserNotFound => status(Code::NotFound, ErrorReason::UserNotFound, message),
        Conflict::KeyNotFound => status(Code::NotFound, ErrorReason::AgentNotFound, message),
        Conflict::GenerationMoved => retriable(ErrorReason::StoreUnavailable, message),
        Conflict::Generation => precondition(ErrorReason::GenerationConflict, "key"),
        Conflict::RecoveriesExhausted => {
            status(Code::Unauthenticated, ErrorReason::RecoveryRefused, message)
        }
        Conflict::Pruned { .. } => precondition(ErrorReason::StateConflict, "log"),
        Conflict::Authority(_) => precondition(ErrorReason::StateConflict, "certificate authority"),
        Conflict::Revision { .. } => precondition(ErrorReason::RevisionConflict, "revision"),
    }
}

/// A final state says so by its own reason.
fn contained_or(state: AgentState, otherwise: Status) -> Status {
    if state == AgentState::Banned {
        let message = "the agent is banned, for good; register another one";
        return status(Code::FailedPrecondition, ErrorReason::Revoked, message);
    }
    otherwise
}

/// Why a principal does not get what only an active one gets.
fn contained(standing: Standing) -> ErrorReason {
    match standing {
        Standing::Suspended => ErrorReason::Suspended,
        Standing::Isolated => ErrorReason::Isolated,
        Standing::KeyLocked => ErrorReason::InstanceLocked,
        Standing::Active | Standing::Revoked | Standing::Banned | Standing::KeyRevoked => {
            ErrorReason::Revoked
        }
    }
}

/// A denied act, with where its decision stands in the log.
fn denied(decision: &Decision, message: String) -> Status {
    let metadata = HashMap::from([
        ("decision_id".to_owned(), decision.id.to_string()),
        ("sequence".to_owned(), decision.sequence.to_string()),
        ("policies".to_owned(), decision.verdict.policies.join(", ")),
    ]);
    let mut details = ErrorDetails::new();
    details.set_error_info(reason_name(ErrorReason::NotPermitted), DOMAIN, metadata);
    Status::with_error_details(Code::PermissionDenied, message, details)
}

/// A candidate that does not pass, with the first places where it does not.
fn policy_invalid(diagnostics: &[Diagnostic], message: String) -> Status {
    let mut details = ErrorDetails::new();
    for d in diagnostics.iter().take(DIAGNOSTICS_MAX) {
        let at = format!("{}:{}:{}", d.file, d.line, d.column);
        details.add_bad_request_violation(at, d.message.clone());
    }
    let (code, reason) = (Code::InvalidArgument, ErrorReason::PolicyInvalid);
    detailed(code, reason, message, details)
}

/// What stands does not allow it.
fn failed(reason: ErrorReason, message: String) -> Status {
    status(Code::FailedPrecondition, reason, message)
}

/// A place that this log does not have, or not any more.
fn beyond(reason: ErrorReason, message: String) -> Status {
    status(Code::OutOfRange, reason, message)
}

/// What was given proves nothing.
fn unauthenticated(reason: ErrorReason, message: String) -> Status {
    status(Code::Unauthenticated, reason, message)
}

/// There is none of that name.
fn absent(reason: ErrorReason, message: String) -> Status {
    status(Code::NotFound, reason, message)
}

impl From<OperationError> for Status {
    fn from(error: OperationError) -> Self {
        let message = error.to_string();
        match error {
            OperationError::Pdp(e) => e.into(),
            OperationError::Denied(decision) => denied(&decision, message),
            OperationError::Contained(standing) => {
                status(Code::PermissionDenied, contained(standing), message)
            }
            OperationError::GenerationMissing => failed(ErrorReason::GenerationConflict, message),
            OperationError::RecoveryRefused => {
                status(Code::Unauthenticated, ErrorReason::RecoveryRefused, message)
            }
            OperationError::Field { field: name, why } => field(name, why),
            OperationError::Limit { name, size, max } => limit(name, size, max),
            OperationError::AgentNotFound(_) => absent(ErrorReason::AgentNotFound, message),
            OperationError::EventNotFound => absent(ErrorReason::EventNotFound, message),
            OperationError::EventPruned { .. } => absent(ErrorReason::EventPruned, message),
            OperationError::CursorBeyondLog { .. } => beyond(ErrorReason::CursorBeyondLog, message),
            OperationError::CursorTooOld { .. } => beyond(ErrorReason::CursorTooOld, message),
            OperationError::Stopping => retriable(ErrorReason::Stopping, message),
            OperationError::DecisionNotFound => absent(ErrorReason::DecisionNotFound, message),
            OperationError::DecisionDenied => failed(ErrorReason::DecisionDenied, message),
            OperationError::OutcomeLate(_) => failed(ErrorReason::OutcomeLate, message),
            OperationError::OutcomeConflict => {
                status(Code::AlreadyExists, ErrorReason::OutcomeConflict, message)
            }
            OperationError::NotSigned => retriable(ErrorReason::NotReady, message),
            OperationError::LogAltered(_) => {
                tracing::error!(error = %message, "the log");
                status(Code::DataLoss, ErrorReason::LogAltered, message)
            }
            OperationError::RevisionNotFound(_) => absent(ErrorReason::RevisionNotFound, message),
            OperationError::JoinToken => unauthenticated(ErrorReason::JoinTokenInvalid, message),
            OperationError::Csr(_) => {
                status(Code::InvalidArgument, ErrorReason::CsrInvalid, message)
            }
            OperationError::ChallengeInvalid => {
                unauthenticated(ErrorReason::ChallengeInvalid, message)
            }
            OperationError::ReplayRunning
            | OperationError::Challenge(ChallengeError::TooManyOfKey | ChallengeError::Full) => {
                rate_limited(message)
            }
            OperationError::NoLongerPermitted => {
                status(Code::PermissionDenied, ErrorReason::NotPermitted, message)
            }
            OperationError::IdentityToken => status(
                Code::Unauthenticated,
                ErrorReason::IdentityTokenInvalid,
                message,
            ),
            OperationError::IdentityTokenExpired => {
                status(Code::Unauthenticated, ErrorReason::TokenExpired, message)
            }
            OperationError::Signature => unauthenticated(ErrorReason::SignatureInvalid, message),
            OperationError::PolicyInvalid(diagnostics) => policy_invalid(&diagnostics, message),
            OperationError::LockedOut(wait) => {
                later(message, wait.try_into().unwrap_or(Duration::from_secs(1)))
            }
            OperationError::DelegationInvalid => status(
                Code::Unauthenticated,
                ErrorReason::DelegationInvalid,
                message,
            ),
            OperationError::Lockout => failed(ErrorReason::Lockout, message),
            OperationError::Challenge(_) | OperationError::Ca(_) | OperationError::Token(_) => {
                internal(&message)
            }
        }
    }
}
