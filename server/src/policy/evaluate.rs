//! Evaluation of one request under one compiled revision. Pure: entities, facts and the
//! time come in as values.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::str::FromStr as _;

use cedar_policy::{
    Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid as CedarUid, PolicyId,
    Request, RequestValidationError, Response, RestrictedExpression,
};
use time::OffsetDateTime;

use super::actions::ActionInfo;
use super::cedar::errored_id;
use super::compile::Compiled;
use super::convert;
use crate::model::arguments::Arguments;
use crate::model::request::CALL_TOOL;
use crate::model::{
    AccessRequest, DenyReason, EntityUid, Obligation, Principal, PrincipalKind, Verdict,
};

/// What the server knows about a call. A request cannot set any of it.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The time of the decision.
    pub now: OffsetDateTime,
    /// The caller's address.
    pub source: Option<IpAddr>,
    /// `mtls` or `token`.
    pub authentication_method: &'static str,
    /// Seconds since the proof of possession.
    pub authentication_age_seconds: i64,
    /// Who the resource is, where it is an agent or a user of the registry.
    pub resource: Option<Party>,
}

/// An agent or a user as policies see it: attributes and roles.
#[derive(Clone, Debug)]
pub struct Party {
    /// The last part of its SPIFFE ID.
    pub name: String,
    /// A name for people; agents only.
    pub owner: Option<String>,
    /// Role names, parents in Cedar.
    pub roles: Vec<String>,
}

/// A request that no policy can be asked about.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Not in the schema in force.
    #[error("the action {0} is not in the schema in force")]
    ActionUnknown(EntityUid),
    /// Not a type the action applies to.
    #[error("the action {action} does not apply to resources of type `{resource_type}`")]
    ResourceType {
        /// The action.
        action: EntityUid,
        /// The resource's type.
        resource_type: String,
    },
    /// A declared tool's action was asked for with another tool.
    #[error("the action {action} belongs to the tool `{}`, not to {resource}", action.id)]
    ToolMismatch {
        /// The action.
        action: EntityUid,
        /// The resource.
        resource: EntityUid,
    },
    /// A defect: Cedar refused what was built for it.
    #[error("the request could not be built: {0}")]
    Internal(String),
}

impl Compiled {
    /// What policy says about a request.
    ///
    /// # Errors
    /// When the request names an action or a resource type that the schema does not have.
    pub fn evaluate(
        &self,
        principal: &Principal,
        request: &AccessRequest,
        facts: &Facts,
    ) -> Result<Verdict, PolicyError> {
        let (uid, info) = self.resolve_action(request)?;
        if !info.resource_types.contains(&request.resource.ty) {
            return Err(PolicyError::ResourceType {
                action: uid.clone(),
                resource_type: request.resource.ty.clone(),
            });
        }
        let context = match context(info, request, facts) {
            Ok(context) => context,
            Err(why) => {
                return Ok(Verdict::deny(
                    DenyReason::InvalidArguments,
                    why,
                    uid.clone(),
                ));
            }
        };
        let cedar = Request::new(
            cedar_uid(&principal.uid())?,
            info.uid.clone(),
            cedar_uid(&request.resource)?,
            context,
            Some(&self.schema),
        );
        let cedar = match cedar {
            Ok(cedar) => cedar,
            // Values fit their types by now; what is left is a principal of another type.
            Err(e) => {
                let why = match e {
                    // It would quote the context.
                    RequestValidationError::InvalidContext(_) => {
                        "the context does not fit the action".to_owned()
                    }
                    other => other.to_string(),
                };
                let verdict = Verdict::deny(DenyReason::InvalidArguments, why, uid.clone());
                return Ok(verdict);
            }
        };
        let entities = slice(principal, &cedar, info, facts)?;
        let response = self
            .policies
            .is_authorized(&cedar, &entities)
            .map_err(|e| PolicyError::Internal(e.to_string()))?;
        Ok(self.verdict(&response, uid.clone(), request))
    }

    /// The action that is evaluated: for `call_tool` on a declared tool, the tool's own.
    fn resolve_action(
        &self,
        request: &AccessRequest,
    ) -> Result<(&EntityUid, &ActionInfo), PolicyError> {
        let is_call_tool = request.action == EntityUid::action(CALL_TOOL);
        let named = match self.tools.get(&request.resource.id) {
            Some(own) if is_call_tool && request.resource.ty == "ZTA::Tool" => own,
            _ => &request.action,
        };
        let (uid, info) = self
            .actions
            .get_key_value(named)
            .ok_or_else(|| PolicyError::ActionUnknown(request.action.clone()))?;
        let of_a_tool = self.tools.get(&uid.id).is_some_and(|own| own == uid);
        if of_a_tool && uid.id != request.resource.id {
            return Err(PolicyError::ToolMismatch {
                action: uid.clone(),
                resource: request.resource.clone(),
            });
        }
        Ok((uid, info))
    }

    fn verdict(&self, response: &Response, action: EntityUid, request: &AccessRequest) -> Verdict {
        let diagnostics = response.diagnostics();
        let ids = |ids: Vec<&PolicyId>| {
            let mut ids: Vec<String> = ids.into_iter().map(ToString::to_string).collect();
            ids.sort_unstable();
            ids
        };
        let errored_ids: Vec<&PolicyId> = diagnostics.errors().map(errored_id).collect();
        let forbid_errored = errored_ids
            .iter()
            .any(|id| self.notes.get(id).is_none_or(|note| note.forbid));
        let policies = ids(diagnostics.reason().collect());
        let mut verdict = Verdict {
            deny: None,
            message: String::new(),
            obligations: self.obligations(&policies),
            policies,
            errored: ids(errored_ids),
            action,
        };
        // Cedar skips a policy that errors. For a permit that is safe, for a forbid not.
        verdict.deny = match response.decision() {
            Decision::Deny if !verdict.policies.is_empty() => Some(DenyReason::Forbidden),
            _ if forbid_errored => Some(DenyReason::EvaluationError),
            Decision::Deny => Some(DenyReason::NotPermitted),
            Decision::Allow => verdict
                .obligations
                .iter()
                .any(|o| !request.supported_obligations.contains(&o.name))
                .then_some(DenyReason::ObligationUnsupported),
        };
        if verdict.deny == Some(DenyReason::EvaluationError) {
            // What permitted it did not determine the deny.
            verdict.policies.clear();
            verdict.obligations.clear();
        }
        verdict.message = self.message(&verdict, request);
        verdict
    }

    fn obligations(&self, policies: &[String]) -> Vec<Obligation> {
        let mut out: Vec<Obligation> = policies
            .iter()
            .filter_map(|id| Some((id, self.notes.get(&PolicyId::new(id))?)))
            .flat_map(|(id, note)| {
                let policy = id.clone();
                note.obligations.iter().map(move |name| Obligation {
                    name: name.clone(),
                    policy: policy.clone(),
                })
            })
            .collect();
        out.sort();
        out
    }

    /// One sentence for a person or a model.
    fn message(&self, verdict: &Verdict, request: &AccessRequest) -> String {
        // A declared tool's action has the tool's own name.
        let (action, resource) = (&verdict.action.id, &request.resource.id);
        let what = if action == resource {
            format!("`{resource}`")
        } else {
            format!("`{action}` on `{resource}`")
        };
        let by = verdict.policies.join("`, `");
        match verdict.deny {
            None => format!("{what} is permitted by `{by}`"),
            Some(DenyReason::Forbidden) => {
                let reason = verdict
                    .policies
                    .iter()
                    .find_map(|id| self.notes.get(&PolicyId::new(id))?.reason.as_deref());
                match reason {
                    Some(reason) => format!("{what} is forbidden by `{by}`: {reason}"),
                    None => format!("{what} is forbidden by `{by}`"),
                }
            }
            Some(DenyReason::EvaluationError) => {
                format!(
                    "{what} is denied: the forbid policy `{}` could not be evaluated",
                    verdict.errored.join("`, `")
                )
            }
            Some(DenyReason::ObligationUnsupported) => {
                format!(
                    "{what} is denied: `{by}` asks for an obligation that the PEP does not support"
                )
            }
            _ => format!("{what} is not permitted: no policy permits it"),
        }
    }
}

/// The entities that this request can reach: principal, and a resource that is an agent or
/// a user, each with its roles; action and ancestors. Without the resource's roles, a forbid
/// over `resource in ZTA::Role::"…"` would be false, not an error, and so never forbid.
/// Other resources have no attributes or parents until entities are stored.
fn slice(
    principal: &Principal,
    request: &Request,
    info: &ActionInfo,
    facts: &Facts,
) -> Result<Entities, PolicyError> {
    let internal = |e: &dyn std::fmt::Display| PolicyError::Internal(e.to_string());
    let caller = Party {
        name: principal.name.clone(),
        owner: (principal.kind == PrincipalKind::Agent).then(|| principal.owner.clone()),
        roles: principal.roles.clone(),
    };
    let mut entities = info.entities.clone();
    if let Some(uid) = request.principal() {
        entities.push(entity(uid, &caller)?);
    }
    if let (Some(uid), Some(resource)) = (request.resource(), &facts.resource)
        && request.principal() != Some(uid)
    {
        entities.push(entity(uid, resource)?);
    }
    Entities::from_entities(entities, None).map_err(|e| internal(&e))
}

fn entity(uid: &CedarUid, party: &Party) -> Result<Entity, PolicyError> {
    let text = |s: &str| RestrictedExpression::new_string(s.to_owned());
    let mut attributes = HashMap::from([("name".to_owned(), text(&party.name))]);
    if let Some(owner) = &party.owner {
        attributes.insert("owner".to_owned(), text(owner));
    }
    let mut parents = HashSet::new();
    for role in &party.roles {
        parents.insert(cedar_uid(&EntityUid::new("ZTA::Role", role))?);
    }
    Entity::new(uid.clone(), attributes, parents).map_err(|e| PolicyError::Internal(e.to_string()))
}

fn context(info: &ActionInfo, request: &AccessRequest, facts: &Facts) -> Result<Context, String> {
    let record = |fields: Vec<(String, RestrictedExpression)>| {
        RestrictedExpression::new_record(fields).map_err(|e| e.to_string())
    };
    let mut pairs = vec![("zta".to_owned(), record(server_facts(request, facts)?)?)];
    let pep = request
        .pep_context
        .as_ref()
        .map_err(|e| format!("the context: {e}"))?;
    let mut fields = convert::record(pep.fields(), &info.request, "context.request")?;
    if let Some(user) = &request.user {
        fields.retain(|(name, _)| name != "user");
        fields.push((
            "user".to_owned(),
            RestrictedExpression::new_string(user.clone()),
        ));
    }
    pairs.push(("request".to_owned(), record(fields)?));
    let empty = Arguments::empty();
    let arguments = match &request.arguments {
        Some(parsed) => parsed.as_ref().map_err(|e| format!("the arguments: {e}"))?,
        None => &empty,
    };
    if let Some(attributes) = &info.input {
        let input = convert::record(arguments.fields(), attributes, "input")?;
        pairs.push(("input".to_owned(), record(input)?));
    }
    Context::from_pairs(pairs).map_err(|e| e.to_string())
}

fn server_facts(
    request: &AccessRequest,
    facts: &Facts,
) -> Result<Vec<(String, RestrictedExpression)>, String> {
    let text = |s: &str| RestrictedExpression::new_string(s.to_owned());
    let authentication = RestrictedExpression::new_record([
        ("method".to_owned(), text(facts.authentication_method)),
        (
            "age_seconds".to_owned(),
            RestrictedExpression::new_long(facts.authentication_age_seconds),
        ),
    ])
    .map_err(|e| e.to_string())?;
    let mut fields = vec![
        (
            "now".to_owned(),
            RestrictedExpression::new_datetime(cedar_time(facts.now)),
        ),
        ("authentication".to_owned(), authentication),
    ];
    if let Some(ip) = facts.source {
        fields.push((
            "source".to_owned(),
            RestrictedExpression::new_ip(ip.to_string()),
        ));
    }
    if let Some(session) = &request.session_id {
        fields.push(("session".to_owned(), text(session)));
    }
    if let Some(task) = &request.task_id {
        fields.push(("task".to_owned(), text(task)));
    }
    Ok(fields)
}

/// The form that Cedar's `datetime` reads.
fn cedar_time(now: OffsetDateTime) -> String {
    let t = now.to_offset(time::UtcOffset::UTC);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        t.year(),
        u8::from(t.month()),
        t.day(),
        t.hour(),
        t.minute(),
        t.second(),
        t.millisecond()
    )
}

fn cedar_uid(uid: &EntityUid) -> Result<CedarUid, PolicyError> {
    let ty = EntityTypeName::from_str(&uid.ty)
        .map_err(|e| PolicyError::Internal(format!("`{}` is no entity type: {e}", uid.ty)))?;
    Ok(CedarUid::from_type_name_and_id(ty, EntityId::new(&uid.id)))
}
