//! What a caller asks for.

use serde::{Deserialize, Serialize};

use super::arguments::Arguments;
use super::entity::GivenEntity;

/// The namespace of the built-in Cedar types.
pub const NAMESPACE: &str = "ZTA";
/// The entity type of built-in actions.
pub const ACTION_TYPE: &str = "ZTA::Action";
/// The parent of every tool's action.
pub const CALL_TOOL: &str = "call_tool";

/// A Cedar entity reference, not yet parsed as Cedar.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EntityUid {
    /// The fully qualified entity type, for example `ZTA::Tool`.
    #[serde(rename = "type")]
    pub ty: String,
    /// The entity's id.
    pub id: String,
}

impl EntityUid {
    /// A reference to the entity `ty::"id"`.
    pub fn new(ty: impl Into<String>, id: impl Into<String>) -> Self {
        Self {
            ty: ty.into(),
            id: id.into(),
        }
    }

    /// A built-in action, `ZTA::Action::"id"`.
    pub fn action(id: impl Into<String>) -> Self {
        Self::new(ACTION_TYPE, id)
    }
}

impl std::fmt::Display for EntityUid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}::{:?}", self.ty, self.id)
    }
}

/// One request to be decided. The principal is not part of it: it comes from the
/// credential alone.
#[derive(Clone, Debug)]
pub struct AccessRequest {
    /// The action as the caller named it.
    pub action: EntityUid,
    /// What it acts on.
    pub resource: EntityUid,
    /// The tool's arguments, parsed strictly; `Err` says why they cannot be used.
    pub arguments: Option<Result<Arguments, String>>,
    /// What the PEP says about the call: becomes `context.request`.
    pub pep_context: Result<Arguments, String>,
    /// The client's name for the run of calls, scoped to the principal.
    pub session_id: Option<String>,
    /// The task the call belongs to.
    pub task_id: Option<String>,
    /// The user that the guard names; unproven.
    pub user: Option<String>,
    /// Entities that this request alone brings.
    pub entities: Vec<GivenEntity>,
    /// Echoed and recorded.
    pub correlation_id: Option<String>,
    /// Obligations that the PEP can carry out.
    pub supported_obligations: Vec<String>,
    /// The trace the call belongs to (32 hex digits).
    pub trace_id: Option<String>,
}

impl AccessRequest {
    /// A request with nothing but an action and a resource.
    pub fn new(action: EntityUid, resource: EntityUid) -> Self {
        Self {
            action,
            resource,
            arguments: None,
            pep_context: Ok(Arguments::empty()),
            session_id: None,
            task_id: None,
            user: None,
            entities: Vec::new(),
            correlation_id: None,
            supported_obligations: Vec::new(),
            trace_id: None,
        }
    }
}
