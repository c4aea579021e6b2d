//! Exactly Cedar's own semantics over given policies, entities and requests, in the
//! format of Cedar's integration tests. For testing; never a decision.

use std::str::FromStr as _;

use std::sync::Arc;

use cedar_policy::{
    Context, Entities, EntityId, EntityTypeName, EntityUid as CedarUid, PolicySet, Request, Schema,
    SchemaFragment,
};
use cedar_policy_core::ast;

use super::authorize::{Outcome, authorize};
use super::declarations::within_limits;
use super::entry::Entry;
use super::limits::{NESTING_MAX, STATEMENT_BYTES_MAX};
use super::nesting::too_deep_at;
use super::scope_index::{Place, ScopeIndex};
use crate::model::{Effect, EntityUid};

/// The policies, schema and entities of a test.
#[derive(Debug)]
pub struct CedarSetup {
    policies: ScopeIndex,
    schema: Option<Schema>,
    entities: Entities,
}

/// One request of a test.
#[derive(Clone, Debug)]
pub struct CedarItem {
    /// The principal.
    pub principal: EntityUid,
    /// The action.
    pub action: EntityUid,
    /// The resource.
    pub resource: EntityUid,
    /// The context in Cedar's JSON form; empty for none.
    pub context_json: String,
    /// Whether the request is checked against the schema.
    pub validate_request: bool,
}

/// What Cedar says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CedarResult {
    /// Allow or deny.
    pub effect: Effect,
    /// The determining policies, sorted.
    pub policies: Vec<String>,
    /// The policies that errored, sorted.
    pub errored: Vec<String>,
}

impl CedarSetup {
    /// Parses a test's policies, schema and entities. Policies keep Cedar's own ids
    /// (`policy0`, `policy1`, …).
    ///
    /// # Errors
    /// Which of the three does not parse, and why.
    pub fn parse(policies: &str, schema: &str, entities_json: &str) -> Result<Self, String> {
        for (what, text) in [("policies", policies), ("schema", schema)] {
            let line = too_deep_at(text);
            if line > 0 {
                return Err(format!(
                    "{what}: line {line} nests more than {NESTING_MAX} levels deep, or its statement is longer than {STATEMENT_BYTES_MAX} bytes"
                ));
            }
        }
        let policies = PolicySet::from_str(policies).map_err(|e| format!("policies: {e}"))?;
        let schema = if schema.trim().is_empty() {
            None
        } else {
            let (fragment, _) =
                SchemaFragment::from_cedarschema_str(schema).map_err(|e| format!("schema: {e}"))?;
            let json = fragment.clone().to_json_value();
            let json = json.map_err(|e| format!("schema: {e}"))?;
            within_limits(&[json]).map_err(|why| format!("schema: {why}"))?;
            let schema = Schema::from_schema_fragments([fragment]);
            Some(schema.map_err(|e| format!("schema: {e}"))?)
        };
        let entities = if entities_json.trim().is_empty() {
            Entities::empty()
        } else {
            Entities::from_json_str(entities_json, schema.as_ref())
                .map_err(|e| format!("entities: {}", chain(&e)))?
        };
        let mut index = ScopeIndex::default();
        for policy in policies.policies() {
            let policy: &ast::Policy = policy.as_ref();
            // A set holds each id once.
            let _ = index.add(&Arc::new(Entry::new(policy.clone())));
        }
        Ok(Self {
            policies: index,
            schema,
            entities,
        })
    }
}

/// Evaluates one request.
///
/// # Errors
/// Why the request cannot be evaluated at all.
pub fn evaluate_cedar(setup: &CedarSetup, item: &CedarItem) -> Result<CedarResult, String> {
    let action = uid(&item.action)?;
    let schema = setup.schema.as_ref();
    let context = if item.context_json.trim().is_empty() {
        Context::empty()
    } else {
        Context::from_json_str(&item.context_json, schema.map(|s| (s, &action)))
            .map_err(|e| format!("context: {}", chain(&e)))?
    };
    let request = Request::new(
        uid(&item.principal)?,
        action,
        uid(&item.resource)?,
        context,
        schema.filter(|_| item.validate_request),
    )
    .map_err(|e| format!("request: {}", chain(&e)))?;
    let outcome = over_all(&setup.policies, request.as_ref(), setup.entities.as_ref());
    let ids = |entries: &mut dyn Iterator<Item = &Arc<Entry>>| {
        let mut ids: Vec<String> = entries.map(|entry| entry.id().to_owned()).collect();
        ids.sort_unstable();
        ids
    };
    Ok(CedarResult {
        effect: match outcome.allows() {
            true => Effect::Allow,
            false => Effect::Deny,
        },
        policies: ids(&mut outcome.determining().iter().copied()),
        errored: ids(&mut outcome.errored.iter().map(|(entry, _)| *entry)),
    })
}

/// As `Authorizer::is_authorized`, through the index.
pub(super) fn over_all<'p>(
    policies: &'p ScopeIndex,
    request: &ast::Request,
    entities: &cedar_policy_core::entities::Entities,
) -> Outcome<'p> {
    let (Some(principal), Some(action), Some(resource)) = (
        request.principal().uid(),
        request.action().uid(),
        request.resource().uid(),
    ) else {
        // `Request::new` takes no unknowns; asked about everything, nothing is left out.
        return authorize(policies.iter().collect(), request, entities);
    };
    let place = |uid| Place::among(uid, entities);
    let found = policies.candidates(&place(principal), &place(action), &place(resource));
    authorize(found, request, entities)
}

fn uid(uid: &EntityUid) -> Result<CedarUid, String> {
    let ty = EntityTypeName::from_str(&uid.ty).map_err(|e| format!("`{}`: {e}", uid.ty))?;
    Ok(CedarUid::from_type_name_and_id(ty, EntityId::new(&uid.id)))
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
