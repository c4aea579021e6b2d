//! The types of events.

use serde::{Deserialize, Serialize};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventType {
    /// A request was decided.
    Decision,
    /// What became of a permitted call, as its PEP reports it.
    Outcome,
    /// A principal asked what it may do; no decision.
    PermissionsListed,
    /// An administrative act was decided; if allowed, its change is in the same transaction.
    Admin,
    /// A principal proved its key and got an access token.
    Login,
    /// A principal asked to let an agent act on its behalf; decided, and if allowed, granted.
    Delegated,
    /// An agent turned a grant into a token to act on somebody's behalf.
    TokenExchanged,
    /// A credential was refused.
    LoginFailed,
    /// More credentials of one source were refused within a second than are listed singly.
    LoginFailedSummary,
    /// A key was not proved again in time; over that connection it counts as suspended.
    ProofMissed,
    /// Logins failed too often; those of this source or key are refused for a while.
    LockedOut,
    /// A key was enrolled and got its first certificate.
    Enrolled,
    /// A key got its next certificate.
    Renewed,
    /// A key got a certificate after its last one had ended.
    Recovered,
    /// A key was found in two hands.
    CloneDetected,
    /// The server started.
    ServerStarted,
    /// The server stopped after draining.
    ServerStopped,
    /// The log was created; always the first event.
    LogCreated,
    /// Records were pruned after they had been exported.
    LogPruned,
    /// One of the server's own keys was made.
    KeyMade,
    /// One of the server's own keys, or the secret that they are sealed with, was loaded.
    KeyLoaded,
    /// One of the server's own keys was used for the first time in a process.
    KeyUsed,
    /// Something of the log did not verify.
    VerificationFailed,
}

impl EventType {
    /// Each type, for filters and documentation.
    pub const ALL: [Self; 23] = [
        Self::Decision,
        Self::Outcome,
        Self::PermissionsListed,
        Self::Admin,
        Self::Login,
        Self::Delegated,
        Self::TokenExchanged,
        Self::LoginFailed,
        Self::LoginFailedSummary,
        Self::ProofMissed,
        Self::LockedOut,
        Self::Enrolled,
        Self::Renewed,
        Self::Recovered,
        Self::CloneDetected,
        Self::ServerStarted,
        Self::ServerStopped,
        Self::LogCreated,
        Self::LogPruned,
        Self::KeyMade,
        Self::KeyLoaded,
        Self::KeyUsed,
        Self::VerificationFailed,
    ];

    /// The type's name in leaves and columns.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decision => "decision",
            Self::Outcome => "outcome",
            Self::PermissionsListed => "permissions_listed",
            Self::Admin => "admin",
            Self::Login => "login",
            Self::Delegated => "delegated",
            Self::TokenExchanged => "token_exchanged",
            Self::LoginFailed => "login_failed",
            Self::LoginFailedSummary => "login_failed_summary",
            Self::ProofMissed => "proof_missed",
            Self::LockedOut => "locked_out",
            Self::Enrolled => "enrolled",
            Self::Renewed => "renewed",
            Self::Recovered => "recovered",
            Self::CloneDetected => "clone_detected",
            Self::ServerStarted => "server_started",
            Self::ServerStopped => "server_stopped",
            Self::LogCreated => "log_created",
            Self::LogPruned => "log_pruned",
            Self::KeyMade => "key_made",
            Self::KeyLoaded => "key_loaded",
            Self::KeyUsed => "key_used",
            Self::VerificationFailed => "verification_failed",
        }
    }
}
