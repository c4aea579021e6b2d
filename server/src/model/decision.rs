//! What was decided.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use super::request::EntityUid;

/// Allow or deny, nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// The PEP may go on.
    Allow,
    /// The PEP must not.
    Deny,
}

impl Effect {
    /// The effect's name in events and columns.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// Why a request was denied. The names are those of `zta.v1.DenyReason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DenyReason {
    /// A forbid policy matched.
    Forbidden,
    /// No permit policy matched.
    NotPermitted,
    /// A forbid policy could not be evaluated.
    EvaluationError,
    /// Arguments or context do not fit the schema.
    InvalidArguments,
    /// A matching policy asks for what the PEP cannot do.
    ObligationUnsupported,
    /// The agent is suspended.
    Suspended,
    /// The agent is isolated.
    Isolated,
    /// The agent is revoked or banned, or its key is revoked.
    Revoked,
    /// The key is locked.
    Locked,
    /// The delegation that the request relies on does not hold.
    Delegation,
}

impl DenyReason {
    /// The reason's name in events, columns and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Forbidden => "FORBIDDEN",
            Self::NotPermitted => "NOT_PERMITTED",
            Self::EvaluationError => "EVALUATION_ERROR",
            Self::InvalidArguments => "INVALID_ARGUMENTS",
            Self::ObligationUnsupported => "OBLIGATION_UNSUPPORTED",
            Self::Suspended => "SUSPENDED",
            Self::Isolated => "ISOLATED",
            Self::Revoked => "REVOKED",
            Self::Locked => "LOCKED",
            Self::Delegation => "DELEGATION",
        }
    }
}

/// Something the PEP must do when it enforces the decision.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Obligation {
    /// From the policy's annotation `@obligation`.
    pub name: String,
    /// The policy that asks for it.
    pub policy: String,
}

/// A permit whose scope matched and that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nearest {
    /// Its `@id`.
    pub policy: String,
    /// The first condition that failed, as source text.
    pub condition: String,
    /// Why it could not be evaluated; `None` where it was false.
    pub error: Option<&'static str>,
}

/// A policy's annotations, for the PEP; not on record, the revision has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotations {
    /// Its `@id`.
    pub policy: String,
    /// All but `@id`.
    pub annotations: BTreeMap<String, String>,
}

/// What policy says about a request; not yet a decision, because nothing is on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `None` means allow.
    pub deny: Option<DenyReason>,
    /// One sentence for a person or a model.
    pub message: String,
    /// The `@id` of each policy that determined the effect, sorted.
    pub policies: Vec<String>,
    /// The `@id` of each policy that could not be evaluated, sorted.
    pub errored: Vec<String>,
    /// What the PEP must do, sorted.
    pub obligations: Vec<Obligation>,
    /// The action that was evaluated: a declared tool's own for `call_tool`.
    pub action: EntityUid,
    /// For a default deny: the permits that came nearest, sorted by id.
    pub nearest: Vec<Nearest>,
    /// Of the determining policies that have any, sorted by id.
    pub annotations: Vec<Arc<Annotations>>,
}

impl Verdict {
    /// A deny that no policy determined.
    pub fn deny(reason: DenyReason, message: impl Into<String>, action: EntityUid) -> Self {
        Self {
            deny: Some(reason),
            message: message.into(),
            policies: Vec::new(),
            errored: Vec::new(),
            obligations: Vec::new(),
            action,
            nearest: Vec::new(),
            annotations: Vec::new(),
        }
    }

    /// Bytes that the names in it take in its record.
    pub fn record_bytes(&self) -> usize {
        let names = (&self.policies, &self.errored, &self.obligations);
        serde_json::to_string(&names).map_or(usize::MAX, |text| text.len())
    }

    /// Allow only where nothing denies.
    pub fn effect(&self) -> Effect {
        if self.deny.is_none() {
            Effect::Allow
        } else {
            Effect::Deny
        }
    }
}

/// A verdict on record: the only thing that a door may answer with.
#[derive(Clone, Debug)]
pub struct Decision {
    /// What policy said.
    pub verdict: Verdict,
    /// The id of the decision and of its event.
    pub id: Uuid,
    /// The place of its event in the log.
    pub sequence: u64,
    /// The log.
    pub log_id: Uuid,
    /// The policy revision that made it.
    pub revision: u64,
    /// When it was made.
    pub time: OffsetDateTime,
}
