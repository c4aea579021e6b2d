//! What each action of a schema takes, looked up once when a policy set is compiled.

use std::collections::{BTreeMap, HashMap, HashSet};

use cedar_policy::{Entities, Entity, EntityUid as CedarUid, Schema};

use super::compile::{Diagnostic, plain};
use super::shape::{Attribute, SchemaJson, Shape};
use crate::model::EntityUid;
use crate::model::request::CALL_TOOL;

/// What is known of an action before any request comes.
#[derive(Debug)]
pub(super) struct ActionInfo {
    pub(super) uid: CedarUid,
    /// The action and all its ancestors, ready to be put beside a request's entities.
    pub(super) entities: Vec<Entity>,
    pub(super) resource_types: HashSet<String>,
    pub(super) request: BTreeMap<String, Attribute>,
    /// `Some` for a declared tool.
    pub(super) input: Option<BTreeMap<String, Attribute>>,
}

/// Cedar's entity reference as ours.
fn plain_uid(uid: &CedarUid) -> EntityUid {
    EntityUid::new(uid.type_name().to_string(), uid.id().unescaped())
}

/// Each action of a schema that applies to something.
pub(super) fn actions(
    schema: &Schema,
    json: &SchemaJson,
) -> Result<HashMap<EntityUid, ActionInfo>, Vec<Diagnostic>> {
    let entities = schema
        .action_entities()
        .map_err(|e| vec![plain(e.to_string(), "")])?;
    let mut actions = HashMap::new();
    let mut errors = Vec::new();
    for uid in schema.actions() {
        let resource_types: HashSet<String> = schema
            .resources_for_action(uid)
            .map(|types| types.map(ToString::to_string).collect())
            .unwrap_or_default();
        // An action that applies to nothing only groups others.
        if resource_types.is_empty() {
            continue;
        }
        match action(uid, resource_types, &entities, json) {
            Ok(info) => {
                actions.insert(plain_uid(uid), info);
            }
            Err(why) => errors.push(plain(
                format!("action {uid}: {why}"),
                "a context has `zta: ZTA::Facts`, `request: ZTA::PepContext` and, for a tool, `input`",
            )),
        }
    }
    if errors.is_empty() {
        Ok(actions)
    } else {
        Err(errors)
    }
}

fn action(
    uid: &CedarUid,
    resource_types: HashSet<String>,
    entities: &Entities,
    json: &SchemaJson,
) -> Result<ActionInfo, String> {
    let namespace = uid.type_name().namespace();
    let context = json
        .action_context(&namespace, uid.id().unescaped())
        .ok_or("it declares no context")?;
    let Shape::Record(mut context) = json.shape(&namespace, context)? else {
        return Err("its context is not a record".to_owned());
    };
    let input = context
        .remove("input")
        .map(|attribute| match attribute.shape {
            Shape::Record(attributes) => Ok(attributes),
            _ => Err("`input` is not a record".to_owned()),
        });
    let Some(Shape::Record(request)) = context.remove("request").map(|a| a.shape) else {
        return Err("its context has no record `request`".to_owned());
    };
    if context.remove("zta").is_none() {
        return Err("its context has no `zta`".to_owned());
    }
    if let Some((name, _)) = context.iter().find(|(_, attribute)| attribute.required) {
        return Err(format!(
            "its context requires `{name}`, which no request can give"
        ));
    }
    Ok(ActionInfo {
        uid: uid.clone(),
        entities: with_ancestors(uid, entities),
        resource_types,
        request,
        input: input.transpose()?,
    })
}

/// The action and its ancestors as entities: all that `action in …` can reach.
fn with_ancestors(uid: &CedarUid, entities: &Entities) -> Vec<Entity> {
    let mut out: Vec<Entity> = entities.get(uid).cloned().into_iter().collect();
    if let Some(ancestors) = entities.ancestors(uid) {
        out.extend(ancestors.filter_map(|a| entities.get(a)).cloned());
    }
    out
}

/// Declared tools: actions below `call_tool`, found by their id alone, so that a PEP
/// need not know which tools are declared.
pub(super) fn tools(
    actions: &HashMap<EntityUid, ActionInfo>,
) -> Result<HashMap<String, EntityUid>, Vec<Diagnostic>> {
    let parent = EntityUid::action(CALL_TOOL);
    let mut tools: HashMap<String, EntityUid> = HashMap::new();
    let mut errors = Vec::new();
    for (uid, info) in actions {
        let below = info.entities.iter().any(|e| plain_uid(&e.uid()) == parent) && *uid != parent;
        if !below {
            continue;
        }
        if info.input.is_none() {
            errors.push(plain(
                format!("action {uid}: a declared tool has a typed `input` in its context"),
                "declare its arguments, or leave the tool undeclared",
            ));
        }
        if let Some(other) = tools.insert(uid.id.clone(), uid.clone()) {
            errors.push(plain(
                format!("the tool `{}` is declared twice: {other} and {uid}", uid.id),
                "a tool's id is declared once in all namespaces",
            ));
        }
    }
    if errors.is_empty() {
        Ok(tools)
    } else {
        Err(errors)
    }
}
