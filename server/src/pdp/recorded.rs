//! Decisions read back from the record: the counterpart of `recording`, for replay.
//!
//! Pure. Nothing here answers for a decision: what is read back is decided again under a
//! candidate, and compared.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;
use time::OffsetDateTime;

use crate::model::arguments::Arguments;
use crate::model::{
    AccessRequest, Delegation, DenyReason, Effect, EntityUid, Event, GivenEntity, Obligation,
    Principal, PrincipalKind, Standing,
};
use crate::policy::Facts;
use crate::store::StoredEvent;

mod told;

use told::{Recorded, Told, texts};

/// Why a decision cannot be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(crate) enum NotReplayable {
    /// Its row of the side table is gone.
    #[error("the inputs were destroyed")]
    Destroyed,
    /// A rule of redaction took something out of them.
    #[error("a part of the inputs was redacted")]
    Redacted,
    /// They are not what the leaf commits to.
    #[error("the inputs are not those that the decision was made from; verify the log")]
    Altered,
    /// Policy was not asked: the caller or another party was contained.
    #[error("no policy was asked, because a party was not active")]
    Contained,
    /// They are of a form that this server does not write.
    #[error("the inputs cannot be read by this version")]
    Unreadable,
    /// The entities of that time do not fit the candidate's schema.
    #[error("the entities of that time do not fit the candidate's schema")]
    Misfit,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Outcome {
    /// Whether the PEP may go on.
    pub(crate) allowed: bool,
    /// The reason of a deny, by name; empty for an allow.
    pub(crate) reason: String,
    /// The determining policies, sorted.
    pub(crate) policies: Vec<String>,
    /// What the PEP had to do, sorted.
    pub(crate) obligations: Vec<Obligation>,
}

/// A decision of the log with all that it was made from.
#[derive(Clone, Debug)]
pub(crate) struct RecordedDecision {
    /// Its place in the log.
    pub(crate) sequence: u64,
    /// What is on record of it.
    pub(crate) event: Event,
    /// In which epoch it was made.
    pub(crate) epoch: u64,
    /// Who asked.
    pub(crate) principal: Principal,
    /// What for.
    pub(crate) request: AccessRequest,
    /// What the server knew of the call, without the party that the resource may be.
    pub(crate) facts: Facts,
    /// What came of it.
    pub(crate) outcome: Outcome,
}

/// Reads a decision back, or says why it cannot be made again.
pub(crate) fn read(stored: &StoredEvent) -> Result<RecordedDecision, NotReplayable> {
    let unreadable = |_| NotReplayable::Unreadable;
    let event = Event::from_leaf(&stored.leaf).map_err(unreadable)?;
    if was_contained(&event) {
        return Err(NotReplayable::Contained);
    }
    let inputs = stored.inputs.as_ref().ok_or(NotReplayable::Destroyed)?;
    let committed = event.inputs_sha256.as_deref();
    if committed != Some(hex::encode(inputs.commitment()).as_str()) {
        return Err(NotReplayable::Altered);
    }
    let text = std::str::from_utf8(&inputs.json).map_err(|_| NotReplayable::Unreadable)?;
    if told::redacted(text).map_err(|_| NotReplayable::Unreadable)? {
        return Err(NotReplayable::Redacted);
    }
    let inputs: Inputs<'_> = serde_json::from_str(text).map_err(|_| NotReplayable::Unreadable)?;
    inputs
        .decision(stored.sequence, event)
        .ok_or(NotReplayable::Unreadable)
}

/// Whether no policy was asked, because the caller or one of its delegation was not active.
fn was_contained(event: &Event) -> bool {
    let contained = ["SUSPENDED", "ISOLATED", "REVOKED", "LOCKED"];
    let standings = ["BANNED", "KEY_LOCKED", "KEY_REVOKED"];
    let reason = event.reason.as_deref().unwrap_or_default();
    let denier = event
        .detail
        .get("delegation")
        .and_then(|told| told.pointer("/denied_by/reason")?.as_str());
    let is = |reason: &str| contained.contains(&reason) || standings.contains(&reason);
    is(reason) || (reason == DenyReason::Delegation.as_str() && denier.is_some_and(is))
}

/// As `recording` writes them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Inputs<'a> {
    action: Uid,
    arguments: Recorded,
    arguments_sha256: Option<&'a str>,
    authentication: Authentication,
    delegation: Option<Chain>,
    #[serde(default)]
    entities: Vec<Given>,
    epoch: String,
    principal: PrincipalFacts,
    request: Recorded,
    supported_obligations: Vec<Told>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Authentication {
    age_seconds: i64,
    method: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PrincipalFacts {
    #[serde(default)]
    attributes: BTreeMap<String, Told>,
    name: Told,
    owner: Told,
    roles: Vec<Told>,
    #[serde(default)]
    zone: Told,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Chain {
    actors: Vec<ChainParty>,
    scope: Vec<Told>,
    subject: ChainParty,
    token_id: Told,
}

#[derive(Deserialize)]
struct ChainParty {
    id: Told,
    #[serde(rename = "type")]
    ty: Told,
    #[serde(flatten)]
    facts: PrincipalFacts,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    attributes: Recorded,
    parents: Vec<Uid>,
    tags: Recorded,
    uid: Uid,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Uid {
    id: Told,
    #[serde(rename = "type")]
    ty: Told,
}

impl From<Uid> for EntityUid {
    fn from(uid: Uid) -> Self {
        Self::new(uid.ty.0, uid.id.0)
    }
}

impl Inputs<'_> {
    fn decision(self, sequence: u64, event: Event) -> Option<RecordedDecision> {
        let actor = event.actor.as_ref()?;
        let principal = self.principal.of(&actor.ty, actor.id.clone())?;
        let arguments = self.arguments.object();
        // What was read back must be what the PEP bound the decision to.
        let same = |arguments: &Arguments| {
            self.arguments_sha256 == Some(hex::encode(arguments.sha256()).as_str())
        };
        if matches!(&arguments, Some(Ok(arguments)) if !same(arguments)) {
            return None;
        }
        let given = |given: Given| {
            Some(GivenEntity {
                uid: given.uid.into(),
                parents: given.parents.into_iter().map(EntityUid::from).collect(),
                attributes: given.attributes.object()?.ok()?,
                tags: given.tags.object()?.ok()?,
            })
        };
        let delegation = match self.delegation {
            Some(chain) => Some(Arc::new(chain.delegation()?)),
            None => None,
        };
        let request = AccessRequest {
            action: self.action.into(),
            resource: event.resource.clone()?,
            arguments,
            pep_context: self.request.object()?,
            session_id: event.session.clone(),
            task_id: event.task.clone(),
            user: event.user.clone(),
            entities: self
                .entities
                .into_iter()
                .map(given)
                .collect::<Option<_>>()?,
            correlation_id: None,
            supported_obligations: texts(self.supported_obligations),
            trace_id: None,
        };
        let facts = facts(event.time, event.source, &self.authentication, delegation)?;
        Some(RecordedDecision {
            sequence,
            epoch: self.epoch.parse().ok()?,
            principal,
            request,
            facts,
            outcome: Outcome {
                allowed: event.effect? == Effect::Allow,
                reason: event.reason.clone().unwrap_or_default(),
                policies: event.policies.clone(),
                obligations: event.obligations.clone(),
            },
            event,
        })
    }
}

fn facts(
    now: OffsetDateTime,
    source: Option<IpAddr>,
    authentication: &Authentication,
    delegation: Option<Arc<Delegation>>,
) -> Option<Facts> {
    let methods = ["mtls", "token", "dpop", "development"];
    let method = methods.into_iter().find(|m| *m == authentication.method)?;
    Some(Facts {
        now,
        source,
        authentication_method: method,
        authentication_age_seconds: authentication.age_seconds,
        resource: None,
        delegation,
    })
}

impl PrincipalFacts {
    /// A principal of this Cedar type, as policies saw it.
    fn of(self, ty: &str, id: String) -> Option<Principal> {
        let kinds = [
            PrincipalKind::Agent,
            PrincipalKind::User,
            PrincipalKind::Workload,
        ];
        let attributes = self.attributes.into_iter();
        let attributes = attributes.map(|(key, value)| (key, value.0)).collect();
        Some(Principal {
            kind: kinds.into_iter().find(|kind| kind.cedar_type() == ty)?,
            id,
            name: self.name.0,
            roles: texts(self.roles),
            owner: self.owner.0,
            zone: self.zone.0,
            attributes: Arc::new(attributes),
            state: Standing::Active,
            instance: None,
        })
    }
}

impl Chain {
    fn delegation(self) -> Option<Delegation> {
        let party = |party: ChainParty| party.facts.of(&party.ty.0, party.id.0);
        Some(Delegation {
            token_id: self.token_id.0,
            subject: party(self.subject)?,
            actors: self.actors.into_iter().map(party).collect::<Option<_>>()?,
            scope: texts(self.scope),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::told::Recorded;
    use super::*;
    use crate::model::arguments::Json;
    use crate::model::canonical::Node;
    use crate::model::redaction::Redaction;

    fn any_json() -> impl Strategy<Value = Value> {
        let text = prop_oneof!["\\PC{0,6}", "zta:(int|str|float)?:?[0-9]{0,3}"];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            (-9_i32..9).prop_map(|n| Value::from(f64::from(n))),
            text.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 30, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((text.clone(), inner), 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    /// In the order of the record.
    fn sorted(json: &Json) -> Json {
        match json {
            Json::Array(items) => Json::Array(items.iter().map(sorted).collect()),
            Json::Object(fields) => {
                let mut fields: Vec<_> =
                    fields.iter().map(|(k, v)| (k.clone(), sorted(v))).collect();
                fields.sort_by(|a, b| a.0.encode_utf16().cmp(b.0.encode_utf16()));
                Json::Object(fields)
            }
            // The record, like RFC 8785, has one zero.
            Json::Float(zero) if *zero == 0.0 => Json::Float(0.0),
            other => other.clone(),
        }
    }

    proptest! {
        #[test]
        fn a_callers_values_are_read_back_as_they_were(json in any_json()) {
            let text = serde_json::json!({ "a": json }).to_string();
            let arguments = Arguments::parse(text.as_bytes()).expect("parses");
            let written = Node::Fields(arguments.fields()).recorded(&Redaction::default());
            let Recorded(read) = serde_json::from_slice(&written).expect("reads");
            let before = sorted(&Json::Object(arguments.fields().to_vec()));
            prop_assert_eq!(&read, &before);
            let Json::Object(fields) = read else { panic!("an object") };
            prop_assert_eq!(Arguments::of(fields).sha256(), arguments.sha256());
        }
    }
}
