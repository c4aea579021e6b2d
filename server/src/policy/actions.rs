//! What each action of a schema takes, looked up once when a policy set is compiled.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use cedar_policy::Schema;
use cedar_policy_core::ast::{Entity, EntityUID};
use cedar_policy_core::entities::{Dereference, Entities};
use cedar_policy_core::validator::ValidatorSchema;

use super::diagnostic::{Diagnostic, plain};
use super::shape::{Attribute, SchemaJson, Shape};
use crate::model::EntityUid;
use crate::model::request::CALL_TOOL;

/// What is known of an action before any request comes.
#[derive(Debug)]
pub(super) struct ActionInfo {
    pub(super) uid: Arc<EntityUID>,
    /// Everything above it.
    pub(super) ancestors: Vec<EntityUID>,
    /// The action and all its ancestors, ready to be put beside a request's entities.
    pub(super) entities: Vec<Arc<Entity>>,
    pub(super) resource_types: HashSet<String>,
    pub(super) request: BTreeMap<String, Attribute>,
    /// `Some` for a declared tool.
    pub(super) input: Option<BTreeMap<String, Attribute>>,
}

impl ActionInfo {
    /// Whether the action applies to this principal and this resource. The context needs
    /// no look: it was built by the action's own types.
    ///
    /// # Errors
    /// Says what does not fit.
    pub(super) fn admits(
        &self,
        schema: &ValidatorSchema,
        principal: &EntityUID,
        resource: &EntityUID,
    ) -> Result<(), String> {
        use cedar_policy_core::ast::RequestSchema as _;
        schema
            .validate_scope_variables(Some(principal), Some(&self.uid), Some(resource))
            .map_err(|e| e.to_string())
    }
}

/// Cedar's entity reference as ours.
fn plain_uid(uid: &EntityUID) -> EntityUid {
    let id: &str = uid.eid().as_ref();
    EntityUid::new(uid.entity_type().to_string(), id)
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
        match action(uid.as_ref(), resource_types, entities.as_ref(), json) {
            Ok(info) => {
                actions.insert(plain_uid(uid.as_ref()), info);
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
    uid: &EntityUID,
    resource_types: HashSet<String>,
    entities: &Entities,
    json: &SchemaJson,
) -> Result<ActionInfo, String> {
    let plain = plain_uid(uid);
    let namespace = plain
        .ty
        .rsplit_once("::")
        .map_or("", |(namespace, _)| namespace);
    let context = json
        .action_context(namespace, &plain.id)
        .ok_or("it declares no context")?;
    let Shape::Record(mut context) = json.context_shape(namespace, context)? else {
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
    let entities = with_ancestors(uid, entities);
    Ok(ActionInfo {
        uid: Arc::new(uid.clone()),
        ancestors: entities
            .first()
            .map(|own| own.ancestors().cloned().collect())
            .unwrap_or_default(),
        entities,
        resource_types,
        request,
        input: input.transpose()?,
    })
}

/// The action and its ancestors as entities, itself first: all that `action in …` can
/// reach.
fn with_ancestors(uid: &EntityUID, entities: &Entities) -> Vec<Arc<Entity>> {
    let Dereference::Data(own) = entities.entity(uid) else {
        return Vec::new();
    };
    let above = own
        .ancestors()
        .filter_map(|above| match entities.entity(above) {
            Dereference::Data(entity) => Some(entity),
            _ => None,
        });
    std::iter::once(own)
        .chain(above)
        .cloned()
        .map(Arc::new)
        .collect()
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
        let below = info
            .ancestors
            .iter()
            .any(|above| plain_uid(above) == parent)
            && *uid != parent;
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
