//! How decisions get on record: the event, the inputs beside it, and the commit.

use serde_json::{Map, json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Act, Made, Pdp, PdpError, Scene};
use crate::audit::{AppendError, Appended, Record};
use crate::model::arguments::Arguments;
use crate::model::canonical::Node;
use crate::model::event::Inputs;
use crate::model::{
    AccessRequest, Decision, Delegation, EntityUid, Event, EventType, GivenEntity, Principal,
};
use crate::policy::{Denier, Facts};

impl Pdp {
    /// One decision, with the change that it permits.
    pub(super) async fn append(
        &self,
        scene: &Scene<'_>,
        made: &Made<'_>,
        act: Act,
    ) -> Result<Appended, AppendError> {
        let record = self.record(scene, made, act, Some(scene.state.epoch))?;
        self.audit.append(record).await
    }

    /// Decisions in one commit. One that makes no record becomes an error in its place.
    pub(super) async fn append_all(
        &self,
        scene: &Scene<'_>,
        all: &mut [Result<Made<'_>, PdpError>],
    ) -> Result<Appended, AppendError> {
        let mut events = Vec::with_capacity(all.len());
        for one in all {
            let Ok(made) = one else { continue };
            let record = self.record(scene, made, Act::default(), None);
            match record.and_then(|r| Record::prepare(r.event, r.inputs)) {
                Ok(event) => events.push(event),
                Err(error) => *one = Err(PdpError::Append(error)),
            }
        }
        let epoch = scene.state.epoch;
        if events.is_empty() {
            return Ok(Appended { sequence: 0, epoch });
        }
        self.audit
            .append_all(events, epoch, scene.caller.rider())
            .await
    }

    /// Puts on record that a part of the log did not verify. Whoever asked hears of that
    /// whether or not the log takes this event.
    pub(crate) async fn record_unverified(&self, what: &str, why: &str) {
        let event = self
            .event(EventType::VerificationFailed, (self.clock)())
            .with_detail("what", what)
            .with_detail("why", why);
        if let Err(error) = self.audit.append(Record::fact(event)).await {
            tracing::error!(%error, what, "that it did not verify could not be put on record");
        }
    }

    /// Puts an act on record that was permitted and could not be done; returns why.
    ///
    /// # Errors
    /// When it could not be put on record.
    pub(super) async fn record_failed(
        &self,
        scene: &Scene<'_>,
        made: &Made<'_>,
        error: PdpError,
    ) -> Result<PdpError, PdpError> {
        let act = Act {
            change: None,
            detail: Map::from_iter([("failed".to_owned(), json!(error.to_string()))]),
        };
        let record = self
            .record(scene, made, act, None)
            .map_err(PdpError::Append)?;
        self.audit.append(record).await.map_err(PdpError::Append)?;
        Ok(error)
    }

    /// # Errors
    /// When the inputs cannot be committed to.
    fn record(
        &self,
        scene: &Scene<'_>,
        made: &Made<'_>,
        act: Act,
        epoch: Option<u64>,
    ) -> Result<Record, AppendError> {
        let Scene { caller, kind, .. } = *scene;
        let Made {
            decision,
            facts,
            request,
            denier,
        } = made;
        let verdict = &decision.verdict;
        let mut event = Event::new(kind, decision.log_id, decision.id, decision.time);
        event.actor = Some(caller.principal.uid());
        event.instance = caller.principal.instance;
        event.source = facts.source;
        event.action = Some(verdict.action.clone());
        event.resource = Some(request.resource.clone());
        event.effect = Some(verdict.effect());
        event.reason = verdict.deny.map(|reason| reason.as_str().to_owned());
        event.policies.clone_from(&verdict.policies);
        event.errored.clone_from(&verdict.errored);
        event.obligations.clone_from(&verdict.obligations);
        event.revision = Some(decision.revision);
        event.session.clone_from(&request.session_id);
        event.task.clone_from(&request.task_id);
        event.user.clone_from(&request.user);
        event.correlation_id.clone_from(&request.correlation_id);
        event.trace_id.clone_from(&request.trace_id);
        event.detail = act.detail;
        if let Some(delegation) = &caller.delegation {
            let told = chain_detail(delegation, denier.as_deref());
            event.detail.insert("delegation".to_owned(), told);
        }
        let inputs = match kind {
            EventType::Decision => Some(self.inputs(scene, request, facts)?),
            _ => None,
        };
        event.inputs_sha256 = inputs
            .as_ref()
            .map(|inputs| hex::encode(inputs.commitment()));
        Ok(Record {
            event,
            inputs,
            epoch,
            change: act.change,
            rider: caller.rider(),
        })
    }

    /// What replay needs beside the event: redacted, under a salted commitment. The
    /// digest of the arguments is among it, not in the leaf: unsalted, it would let
    /// short arguments be guessed for ever. Where something of them was redacted, it is not
    /// kept at all.
    fn inputs(
        &self,
        scene: &Scene<'_>,
        request: &AccessRequest,
        facts: &Facts,
    ) -> Result<Inputs, AppendError> {
        let caller = scene.caller;
        let epoch = scene.state.epoch.to_string();
        let text = |text| Node::Text(text);
        let Principal {
            name,
            owner,
            roles,
            zone,
            attributes,
            ..
        } = &caller.principal;
        let mut principal = Vec::with_capacity(5);
        if !attributes.is_empty() {
            principal.push(("attributes", Node::Tags(attributes)));
        }
        principal.extend([
            ("name", text(&**name)),
            ("owner", text(owner)),
            ("roles", Node::Texts(roles)),
        ]);
        if !zone.is_empty() {
            principal.push(("zone", text(zone)));
        }
        let authentication = vec![
            (
                "age_seconds",
                Node::Integer(facts.authentication_age_seconds),
            ),
            ("method", text(facts.authentication_method)),
        ];
        let action = vec![
            ("id", text(&*request.action.id)),
            ("type", text(&request.action.ty)),
        ];
        let digest = match &request.arguments {
            Some(Ok(arguments)) => Some(hex::encode(arguments.sha256())),
            _ => None,
        };
        let mut inputs = vec![
            ("action", Node::Object(action)),
            ("arguments", given(request.arguments.as_ref())),
        ];
        inputs.extend(digest.iter().map(|d| ("arguments_sha256", Node::Digest(d))));
        inputs.push(("authentication", Node::Object(authentication)));
        if let Some(delegation) = &caller.delegation {
            inputs.push(("delegation", chain_inputs(delegation)));
        }
        if !request.entities.is_empty() {
            let entities = request.entities.iter().map(brought);
            inputs.push(("entities", Node::List(entities.collect())));
        }
        inputs.extend([
            ("epoch", Node::Kept(&epoch)),
            ("principal", Node::Object(principal)),
            ("request", given(Some(&request.pep_context))),
            (
                "supported_obligations",
                Node::Texts(&request.supported_obligations),
            ),
        ]);
        let mut salt = [0; 16];
        aws_lc_rs::rand::fill(&mut salt)
            .inspect_err(|_| tracing::error!("no randomness for a salt"))
            .map_err(|_| AppendError::Store("no randomness for a salt".to_owned()))?;
        Ok(Inputs {
            salt,
            json: Node::Object(inputs).recorded(&self.redaction),
        })
    }
}

/// On whose behalf, for the event: who of them, not what is known of them.
fn chain_detail(delegation: &Delegation, denier: Option<&Denier>) -> serde_json::Value {
    let actors: Vec<EntityUid> = delegation.actors.iter().map(Principal::uid).collect();
    let mut told = json!({
        "token_id": delegation.token_id,
        "subject": delegation.subject.uid(),
        "actors": actors,
    });
    if let Some(denier) = denier {
        told["denied_by"] = json!({
            "party": denier.party,
            "reason": denier.reason,
            "policies": denier.policies,
        });
    }
    told
}

/// On whose behalf, with what policies saw of them: what replay needs.
fn chain_inputs(delegation: &Delegation) -> Node<'_> {
    fn party(party: &Principal) -> Node<'_> {
        let mut known = Vec::with_capacity(7);
        if !party.attributes.is_empty() {
            known.push(("attributes", Node::Tags(&party.attributes)));
        }
        known.extend([
            ("id", Node::Text(&party.id)),
            ("name", Node::Text(&party.name)),
            ("owner", Node::Text(&party.owner)),
            ("roles", Node::Texts(&party.roles)),
            ("type", Node::Text(party.kind.cedar_type())),
        ]);
        if !party.zone.is_empty() {
            known.push(("zone", Node::Text(&party.zone)));
        }
        Node::Object(known)
    }
    Node::Object(vec![
        (
            "actors",
            Node::List(delegation.actors.iter().map(party).collect()),
        ),
        ("scope", Node::Texts(&delegation.scope)),
        ("subject", party(&delegation.subject)),
        ("token_id", Node::Text(&delegation.token_id)),
    ])
}

/// An entity that the request brought: without it the decision could not be replayed.
fn brought(entity: &GivenEntity) -> Node<'_> {
    Node::Object(vec![
        ("attributes", Node::Fields(entity.attributes.fields())),
        (
            "parents",
            Node::List(entity.parents.iter().map(reference).collect()),
        ),
        ("tags", Node::Fields(entity.tags.fields())),
        ("uid", reference(&entity.uid)),
    ])
}

fn reference(uid: &EntityUid) -> Node<'_> {
    Node::Object(vec![
        ("id", Node::Text(&uid.id)),
        ("type", Node::Text(&uid.ty)),
    ])
}

/// A caller's object, or why it is none: a text, which no object of a caller is.
fn given(parsed: Option<&Result<Arguments, String>>) -> Node<'_> {
    match parsed {
        Some(Ok(arguments)) => Node::Fields(arguments.fields()),
        Some(Err(why)) => Node::Text(why),
        None => Node::Null,
    }
}

/// The decisions at their places: they follow each other from the first one's on.
pub(super) fn placed(
    made: Vec<Result<Made<'_>, PdpError>>,
    first: u64,
) -> Vec<Result<Decision, PdpError>> {
    let mut sequences = first..;
    let place = |made: Made<'_>| Decision {
        sequence: sequences.next().unwrap_or(u64::MAX),
        ..made.decision
    };
    let mut place = place;
    made.into_iter().map(|made| made.map(&mut place)).collect()
}

/// A UUID version 7, from the given time.
pub(super) fn new_id(now: OffsetDateTime) -> Uuid {
    let millis = u64::try_from(now.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
    let mut random = [0; 10];
    // The generator of the process, where the crate's own would ask the kernel each time.
    match aws_lc_rs::rand::fill(&mut random) {
        Ok(()) => uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid(),
        Err(_) => Uuid::new_v4(),
    }
}
