//! How the log is queried: which events are asked for, and what the databases can say of
//! them without looking through all of it.

use std::ops::Range;

use async_trait::async_trait;
use time::OffsetDateTime;

use super::value::refuse_nul;
use super::{StoreError, StoredEvent};
use crate::model::Effect;

/// Which events to list. All conditions together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EventFilter {
    /// Event types by name; empty means all.
    pub types: Vec<String>,
    /// Only this actor's.
    pub actor_id: Option<String>,
    /// Only those about this resource.
    pub resource_id: Option<String>,
    /// Only those of the action of this id, in whatever namespace.
    pub action_id: Option<String>,
    /// Only decisions with this effect.
    pub effect: Option<Effect>,
    /// Only those with this reason.
    pub reason: Option<String>,
    /// Only those that this policy determined, by its `@id`.
    pub policy_id: Option<String>,
    /// Only those that this revision decided.
    pub revision: Option<u64>,
    /// Only those of this session.
    pub session_id: Option<String>,
    /// Only those of this task.
    pub task_id: Option<String>,
    /// Only those with this user, as the PEP named it.
    pub user_id: Option<String>,
    /// Only those with this id of the PEP's own.
    pub correlation_id: Option<String>,
    /// Only those of this W3C trace.
    pub trace_id: Option<String>,
    /// Only at or after.
    pub start_time: Option<OffsetDateTime>,
    /// Only before.
    pub end_time: Option<OffsetDateTime>,
    /// Each with its row of the side table.
    pub with_inputs: bool,
}

impl EventFilter {
    /// The columns that are compared as texts, each with what it must be.
    pub(super) fn texts(&self) -> impl Iterator<Item = (&'static str, &String)> {
        let columns = [
            ("actor_id", &self.actor_id),
            ("resource_id", &self.resource_id),
            ("action_id", &self.action_id),
            ("reason", &self.reason),
            ("session_id", &self.session_id),
            ("task_id", &self.task_id),
            ("user_id", &self.user_id),
            ("correlation_id", &self.correlation_id),
            ("trace_id", &self.trace_id),
        ];
        let given = columns.into_iter();
        given.filter_map(|(name, value)| Some((name, value.as_ref()?)))
    }

    /// Refuses what one of the databases could not look for.
    pub(super) fn refuse_nul(&self) -> Result<(), StoreError> {
        let texts = self.texts().map(|(_, text)| text);
        refuse_nul(self.types.iter().chain(texts).chain(&self.policy_id))
    }
}

/// Events by what they say. A range of places bounds what a query looks through; the other
/// functions say, by an index, where nothing needs to be looked for.
#[async_trait]
pub trait EventQueries: Send + Sync {
    /// Events that match at these places, in the direction asked for, at most `limit`.
    async fn list(
        &self,
        filter: &EventFilter,
        places: Range<u64>,
        descending: bool,
        limit: u32,
    ) -> Result<Vec<StoredEvent>, StoreError>;
    /// The first of these places, in the direction asked for, with an event of this actor.
    async fn next_of_actor(
        &self,
        actor_id: &str,
        places: Range<u64>,
        descending: bool,
    ) -> Result<Option<u64>, StoreError>;
    /// Whether the time of an event at one of these places is at or after `start` and before
    /// `end`. One of them is given.
    async fn any_in_time(
        &self,
        start: Option<OffsetDateTime>,
        end: Option<OffsetDateTime>,
        places: Range<u64>,
    ) -> Result<bool, StoreError>;
}

/// Places in the log, as both databases count them.
pub(super) fn bounds(places: &Range<u64>) -> (i64, i64) {
    let bound = |place: u64| i64::try_from(place).unwrap_or(i64::MAX);
    (bound(places.start), bound(places.end))
}
