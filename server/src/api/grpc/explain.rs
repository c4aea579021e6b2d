//! The wire of `ListPermitted` and `Explain`.

use tonic::Status;
use zta_proto::v1;

use super::authorization::{parse, wire_annotations, wire_obligations, wire_reason};
use super::{
    bounded, consistency_token, entity, page_size, page_token_invalid, token_of, wire_uid,
};
use crate::api::status::{field, internal, limit};
use crate::keys::cursor::CursorSeal;
use crate::model::request::ACTION_TYPE;
use crate::model::{AccessRequest, Decision, Effect, EntityUid};
use crate::operations::authorization::{Listing, Query};
use crate::policy::{ExplainedEntity, ExplainedPolicy, Explanation, Outcome};

/// Resources that a listing may name.
const RESOURCES_MAX: usize = 1000;

/// A listing's question as ours: what, the request it stands in, where to go on, how many.
pub(super) struct Question {
    pub(super) query: Query,
    pub(super) request: AccessRequest,
    pub(super) after: Option<EntityUid>,
    pub(super) limit: usize,
    pub(super) demanded: Option<v1::ConsistencyToken>,
}

pub(super) fn question(
    request: v1::ListPermittedRequest,
    cursors: &CursorSeal,
) -> Result<Question, Status> {
    use v1::list_permitted_request::Query as Wire;
    let limit = page_size(request.page_size)? as usize;
    let after = cursor(&request.page_token, cursors)?;
    let demanded = request.at_least_as_fresh;
    let (query, action, resource) = match request.query {
        None => return Err(field("query", "is missing: resources or actions")),
        Some(Wire::Actions(wire)) => {
            let resource = entity("actions.resource", wire.resource, None)?;
            (Query::Actions, EntityUid::action("call_tool"), resource)
        }
        Some(Wire::Resources(wire)) => {
            let named = wire.action.unwrap_or_else(|| v1::EntityRef {
                r#type: String::new(),
                id: "call_tool".to_owned(),
            });
            let action = entity("resources.action", Some(named), Some(ACTION_TYPE))?;
            let of_type = v1::EntityRef {
                r#type: wire.resource_type,
                id: "_".to_owned(),
            };
            let any = entity("resources.resource_type", Some(of_type), Some("ZTA::Tool"))?;
            let ids = resource_ids(wire.resource_ids)?;
            let ty = any.ty.clone();
            (Query::Resources { ty, ids }, action, any)
        }
    };
    let request = parse(v1::AuthorizeRequest {
        action: Some(wire_uid(&action)),
        resource: Some(wire_uid(&resource)),
        context_json: request.context_json,
        session_id: request.session_id,
        task_id: request.task_id,
        user: request.user,
        ..v1::AuthorizeRequest::default()
    })?;
    Ok(Question {
        query,
        request,
        after,
        limit,
        demanded,
    })
}

fn resource_ids(mut ids: Vec<String>) -> Result<Option<Vec<String>>, Status> {
    if ids.len() > RESOURCES_MAX {
        return Err(limit("resources.resource_ids", ids.len(), RESOURCES_MAX));
    }
    for id in &ids {
        bounded("resources.resource_ids", id, super::ID_BYTES_MAX)?;
        if id.is_empty() {
            return Err(field("resources.resource_ids", "one is empty"));
        }
    }
    ids.sort_unstable();
    ids.dedup();
    Ok((!ids.is_empty()).then_some(ids))
}

/// A page token holds the last entity that was looked at, permitted or not: type, line
/// break, id; sealed, for it may name what the caller may not know of.
fn cursor(token: &str, cursors: &CursorSeal) -> Result<Option<EntityUid>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let text = cursors.open(token).ok_or_else(page_token_invalid)?;
    let (ty, id) = text.split_once('\n').ok_or_else(page_token_invalid)?;
    Ok(Some(EntityUid::new(ty, id)))
}

pub(super) fn wire_listing(
    listing: Listing,
    log_id: uuid::Uuid,
    cursors: &CursorSeal,
) -> Result<v1::ListPermittedResponse, Status> {
    let token = |at: &EntityUid| cursors.seal(&format!("{}\n{}", at.ty, at.id));
    let next = listing.next.as_ref().map(token).transpose();
    Ok(v1::ListPermittedResponse {
        next_page_token: next.map_err(|e| internal(&e))?.unwrap_or_default(),
        revision: listing.revision,
        consistency_token: token_of(log_id, listing.sequence + 1),
        permitted: listing
            .permitted
            .into_iter()
            .map(|(action, resource, conditional)| v1::Permitted {
                action: Some(wire_uid(&action)),
                resource: Some(wire_uid(&resource)),
                conditional,
            })
            .collect(),
    })
}

pub(super) fn wire_explanation(story: Explanation, act: &Decision) -> v1::ExplainResponse {
    let verdict = story.verdict;
    let determining = |id: &String| verdict.policies.contains(id);
    let policies = story.policies.into_iter().map(|policy| {
        let determining = determining(&policy.id);
        wire_policy(policy, determining)
    });
    v1::ExplainResponse {
        policies: policies.collect(),
        effect: wire_effect(verdict.effect()).into(),
        reason: verdict
            .deny
            .map_or(v1::DenyReason::Unspecified, wire_reason)
            .into(),
        policies_matching: u32::try_from(story.matching).unwrap_or(u32::MAX),
        policies_in_force: u32::try_from(story.in_force).unwrap_or(u32::MAX),
        action: Some(wire_uid(&verdict.action)),
        context_json: story.context.to_string(),
        entities: story.entities.into_iter().map(wire_entity).collect(),
        obligations: wire_obligations(verdict.obligations),
        message: verdict.message,
        revision: act.revision,
        sequence: act.sequence,
        consistency_token: consistency_token(act),
    }
}

fn wire_effect(effect: Effect) -> v1::Effect {
    match effect {
        Effect::Allow => v1::Effect::Allow,
        Effect::Deny => v1::Effect::Deny,
    }
}

fn wire_policy(policy: ExplainedPolicy, determining: bool) -> v1::ExplainedPolicy {
    let (file, line) = policy.place.unwrap_or_default();
    let conditions = policy.conditions.into_iter();
    let annotations = wire_annotations(policy.annotations.as_slice());
    v1::ExplainedPolicy {
        policy_id: policy.id,
        effect: wire_effect(policy.effect).into(),
        outcome: wire_outcome(&policy.outcome).0.into(),
        determining,
        conditions: conditions
            .map(|(text, outcome)| {
                let (outcome, error) = wire_outcome(&outcome);
                v1::ExplainedCondition {
                    text,
                    outcome: outcome.into(),
                    error,
                }
            })
            .collect(),
        annotations: annotations
            .into_iter()
            .next()
            .map(|one| one.annotations)
            .unwrap_or_default(),
        file,
        line,
    }
}

fn wire_outcome(outcome: &Outcome) -> (v1::PolicyOutcome, String) {
    match outcome {
        Outcome::Satisfied => (v1::PolicyOutcome::Satisfied, String::new()),
        Outcome::NotSatisfied => (v1::PolicyOutcome::NotSatisfied, String::new()),
        Outcome::Errored(why) => (v1::PolicyOutcome::Errored, why.clone()),
    }
}

fn wire_entity(entity: ExplainedEntity) -> v1::Entity {
    v1::Entity {
        uid: Some(wire_uid(&entity.uid)),
        attributes_json: entity.attributes.to_string(),
        parents: entity.ancestors.iter().map(wire_uid).collect(),
        tags_json: entity.tags.to_string(),
    }
}
