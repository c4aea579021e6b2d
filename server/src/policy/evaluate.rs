//! Evaluation of one request under one compiled revision. Pure: entities, facts and the
//! time come in as values.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use cedar_policy_core::ast::{Context, Entity, EntityUID, EntityUIDEntry, Request, Value};
use cedar_policy_core::entities::Entities;
use time::OffsetDateTime;

use super::actions::ActionInfo;
use super::authorize::authorize;
use super::compile::Compiled;
use super::context::context;
use super::entities::{EntityError, EntityMap, SliceError};
use super::entry::Entry;
use super::party::{Known, PartyRef};
use super::scope_index::Place;
use crate::model::request::{ACTION_TYPE, CALL_TOOL};
use crate::model::{
    AccessRequest, Delegation, DenyReason, EntityUid, Party, Principal, PrincipalKind, Verdict,
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
    /// On whose behalf the caller acts.
    pub delegation: Option<Arc<Delegation>>,
}

impl Facts {
    /// Who the resource is: the registry knows, or a delegation that the resource is a party
    /// of. Its parties are often known by nothing but their provider's token, and a forbid
    /// over their roles must not be blind where one of them is the resource, too.
    fn resource_party(&self, resource: &EntityUid) -> Option<PartyRef<'_>> {
        let of_delegation = || {
            let mut parties = self.delegation.as_deref()?.parties();
            parties
                .find(|party| party.kind.cedar_type() == resource.ty && party.id == resource.id)
                .map(PartyRef::from)
        };
        let registered = self.resource.as_ref().map(PartyRef::from);
        registered.or_else(of_delegation)
    }
}

/// Where attributes come from (PIP).
#[derive(Clone, Copy)]
pub struct Pip<'a> {
    /// Stored entities.
    pub stored: &'a EntityMap,
    /// Agents and users, which a stored entity or a policy may refer to.
    pub parties: &'a dyn Parties,
}

/// Whoever knows agents and users.
pub trait Parties {
    /// An agent or a user by Cedar type and id.
    fn party(&self, ty: &str, id: &str) -> Option<Party>;
}

/// Knows nobody.
impl Parties for () {
    fn party(&self, _: &str, _: &str) -> Option<Party> {
        None
    }
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
    /// An entity that the request brings is no good.
    #[error(transparent)]
    Entity(#[from] EntityError),
    /// A defect: Cedar refused what was built for it.
    #[error("the request could not be built: {0}")]
    Internal(String),
}

/// A request with everything that policies can see of it, and the policies to ask.
pub(super) struct Case<'p> {
    /// The action that is evaluated.
    pub(super) action: &'p EntityUid,
    pub(super) request: Request,
    pub(super) entities: Entities,
    /// Those whose scope holds.
    pub(super) candidates: Vec<&'p Arc<Entry>>,
}

/// What is known beside the request.
struct World<'w> {
    facts: &'w Facts,
    pip: &'w Pip<'w>,
}

/// Why there is no case.
pub(super) enum NoCase<'p> {
    /// No policy can be asked.
    Error(PolicyError),
    /// A deny before any policy is asked: what the caller or its model sent does not fit
    /// the action's types, or reaches too far.
    Deny(DenyReason, &'p EntityUid, String),
}

impl From<PolicyError> for NoCase<'_> {
    fn from(error: PolicyError) -> Self {
        Self::Error(error)
    }
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
        pip: &Pip<'_>,
    ) -> Result<Verdict, PolicyError> {
        match self.case(principal, request, facts, pip) {
            Ok(mut case) => {
                let candidates = std::mem::take(&mut case.candidates);
                let outcome = authorize(candidates, &case.request, &case.entities);
                Ok(super::verdict::verdict(&outcome, &case, request))
            }
            Err(NoCase::Deny(reason, action, why)) => {
                Ok(Verdict::deny(reason, why, action.clone()))
            }
            Err(NoCase::Error(error)) => Err(error),
        }
    }

    /// Puts together what policies are asked about a request.
    pub(super) fn case(
        &self,
        principal: &Principal,
        request: &AccessRequest,
        facts: &Facts,
        pip: &Pip<'_>,
    ) -> Result<Case<'_>, NoCase<'_>> {
        let (action, info) = self.resolve_action(request)?;
        let delegation = match &facts.delegation {
            Some(delegation) => Some(self.delegation(delegation)?),
            None => None,
        };
        let context = context(info, request, facts, delegation)
            .map_err(|why| NoCase::Deny(DenyReason::InvalidArguments, action, why))?;
        let world = World { facts, pip };
        self.case_in((action, info), Some(context), principal, request, &world)
    }

    /// As [`Compiled::case`], of a call whose context is not known yet.
    pub(super) fn open_case(
        &self,
        principal: &Principal,
        request: &AccessRequest,
        facts: &Facts,
        pip: &Pip<'_>,
    ) -> Result<Case<'_>, NoCase<'_>> {
        let (action, info) = self.resolve_action(request)?;
        let world = World { facts, pip };
        self.case_in((action, info), None, principal, request, &world)
    }

    fn case_in<'p>(
        &'p self,
        (action, info): (&'p EntityUid, &'p ActionInfo),
        context: Option<Context>,
        principal: &Principal,
        request: &AccessRequest,
        world: &World<'_>,
    ) -> Result<Case<'p>, NoCase<'p>> {
        let deny = |reason, why: String| NoCase::Deny(reason, action, why);
        let caller = self.known(principal.kind.cedar_type(), &principal.id, principal)?;
        let resource_uid = self.uid(&request.resource.ty, &request.resource.id)?;
        let known = |euid: &Arc<EntityUID>| EntityUIDEntry::Known {
            euid: Arc::clone(euid),
            loc: None,
        };
        let cedar = Request::new_unchecked(
            known(&caller.uid),
            known(&info.uid),
            known(&resource_uid),
            context,
        );
        let schema = self.vocabulary.schema.as_ref();
        info.admits(schema, &caller.uid, &resource_uid)
            .map_err(|why| deny(DenyReason::InvalidArguments, why))?;
        let party = match world.facts.resource_party(&request.resource) {
            Some(party) if resource_uid != caller.uid => {
                Some(self.known(&request.resource.ty, &request.resource.id, party)?)
            }
            _ => None,
        };
        let brought = self.brought(request, world.pip.stored)?;
        let unreachable = |e: SliceError| unreachable(action, e);
        let above = if resource_uid == caller.uid || party.is_some() {
            HashSet::new()
        } else {
            world
                .pip
                .stored
                .ancestors(&resource_uid, &brought)
                .map_err(unreachable)?
        };
        // A role is in nothing, so the roles are all that an agent or a user is in.
        let roles = match &party {
            Some(party) => party.roles.as_slice(),
            None if resource_uid == caller.uid => caller.roles.as_slice(),
            None => &[],
        };
        let candidates = self.policies.candidates(
            &Place {
                uid: &caller.uid,
                ancestors: caller.roles.iter().collect(),
            },
            &Place {
                uid: &info.uid,
                ancestors: info.ancestors.iter().collect(),
            },
            &Place {
                uid: &resource_uid,
                ancestors: roles.iter().chain(&above).collect(),
            },
        );
        let behind = self.behind(world.facts, [&caller.uid, &resource_uid])?;
        let own = || {
            let parties = std::iter::once(&caller).chain(&party).chain(&behind);
            parties.map(Known::entity).chain(brought.clone()).collect()
        };
        let places = [&*caller.uid, &*resource_uid];
        // A condition may look at the parties of a delegation by the context, also at those
        // who are the principal or the resource.
        let looks = world.facts.delegation.is_some();
        let entities = self
            .slice(own, info, &candidates, places, looks, world.pip)
            .map_err(unreachable)?;
        Ok(Case {
            action,
            request: cedar,
            entities,
            candidates,
        })
    }

    fn uid(&self, ty: &str, id: &str) -> Result<Arc<EntityUID>, PolicyError> {
        let uid = self.vocabulary.uid(ty, id);
        uid.map(Arc::new).map_err(PolicyError::Internal)
    }

    /// An agent or a user of the registry. Without the resource's roles, a forbid over
    /// `resource in ZTA::Role::"…"` would be false, not an error, and so never forbid.
    fn known<'w>(
        &self,
        ty: &str,
        id: &str,
        of: impl Into<PartyRef<'w>>,
    ) -> Result<Known<'w>, PolicyError> {
        let of = of.into();
        let role = |role: &String| self.vocabulary.uid("ZTA::Role", role);
        let roles: Result<Vec<EntityUID>, String> = of.roles.iter().map(role).collect();
        Ok(Known {
            uid: self.uid(ty, id)?,
            roles: roles.map_err(PolicyError::Internal)?,
            of,
        })
    }

    /// The parties of a delegation, which policies see in the context, apart from those of
    /// `places`, who are known already. They refer to nothing but their roles.
    fn behind<'w>(
        &self,
        facts: &'w Facts,
        places: [&EntityUID; 2],
    ) -> Result<Vec<Known<'w>>, PolicyError> {
        let Some(delegation) = &facts.delegation else {
            return Ok(Vec::new());
        };
        let mut behind: Vec<Known<'w>> = Vec::new();
        for party in delegation.parties() {
            let known = self.known(party.kind.cedar_type(), &party.id, party)?;
            let twice = behind.iter().any(|other| other.uid == known.uid);
            if !twice && !places.contains(&&*known.uid) {
                behind.push(known);
            }
        }
        Ok(behind)
    }

    /// A delegation as the context has it.
    fn delegation(&self, delegation: &Delegation) -> Result<Value, PolicyError> {
        let uid = |party: &Principal| -> Result<Value, PolicyError> {
            let uid = self.uid(party.kind.cedar_type(), &party.id)?;
            Ok(Value::from((*uid).clone()))
        };
        let subject = match delegation.subject.kind {
            PrincipalKind::User => "user",
            PrincipalKind::Agent => "agent",
            PrincipalKind::Workload => "workload",
        };
        let actors: Result<Vec<Value>, PolicyError> = delegation.actors.iter().map(uid).collect();
        let depth = i64::try_from(delegation.actors.len()).unwrap_or(i64::MAX);
        let scope = delegation.scope.iter().map(|entry| entry.as_str().into());
        let fields: [(&str, Value); 5] = [
            (subject, uid(&delegation.subject)?),
            ("actors", Value::set(actors?, None)),
            ("depth", depth.into()),
            ("scope", Value::set(scope, None)),
            ("token_id", delegation.token_id.as_str().into()),
        ];
        Ok(Value::record(fields, None))
    }

    /// The entities that the request brings.
    fn brought(
        &self,
        request: &AccessRequest,
        stored: &EntityMap,
    ) -> Result<Vec<Entity>, PolicyError> {
        let mut brought: Vec<Entity> = Vec::new();
        for given in &request.entities {
            let entity = self.vocabulary.entity_types.request_entity(given)?;
            // A stored entity is what its administrator says, whoever asks.
            if stored.contains(&given.uid) {
                return Err(EntityError::Stored(given.uid.clone()).into());
            }
            if brought.iter().any(|other| other.uid() == entity.uid()) {
                let why = format!("the request brings {} twice", given.uid);
                return Err(EntityError::Invalid(why).into());
            }
            brought.push(entity);
        }
        Ok(brought)
    }

    /// What the candidates' conditions can look into. Nothing, where they look into nothing.
    fn slice(
        &self,
        own: impl FnOnce() -> Vec<Entity>,
        info: &ActionInfo,
        candidates: &[&Arc<Entry>],
        places: [&EntityUID; 2],
        looks: bool,
        pip: &Pip<'_>,
    ) -> Result<Entities, SliceError> {
        let reaches = || {
            let reaches = candidates.iter().map(|entry| &entry.reach);
            reaches.filter(|reach| reach.looks())
        };
        let levels = match reaches().map(|reach| reach.levels).max() {
            Some(levels) => levels,
            None if looks => 0,
            None => return Ok(Entities::new()),
        };
        let literals = || reaches().flat_map(|reach| reach.literals.iter().map(|uid| &**uid));
        let roots: Vec<&EntityUID> = places.into_iter().chain(literals()).collect();
        // Policies may name other actions than the one that is asked for.
        let known = |uid: &EntityUID| info.entities.iter().any(|e| e.uid() == uid);
        let mut others: Vec<&EntityUID> = literals().filter(|uid| !known(uid)).collect();
        others.sort_unstable();
        others.dedup();
        let others = others
            .into_iter()
            .filter_map(|uid| self.vocabulary.action_entity(uid));
        let actions = info.entities.iter().map(Arc::clone).chain(others);
        pip.stored.slice(own(), actions, &roots, levels, &|uid| {
            let id: &str = uid.eid().as_ref();
            let party = pip.parties.party(&uid.entity_type().to_string(), id)?;
            let known = self
                .known(&uid.entity_type().to_string(), id, &party)
                .ok()?;
            Some(known.entity())
        })
    }

    /// The action that is evaluated: for `call_tool` on a declared tool, the tool's own.
    pub(super) fn resolve_action(
        &self,
        request: &AccessRequest,
    ) -> Result<(&EntityUid, &ActionInfo), PolicyError> {
        let vocabulary = &self.vocabulary;
        let is_call_tool = request.action.id == CALL_TOOL && request.action.ty == ACTION_TYPE;
        let named = match vocabulary.tools.get(&request.resource.id) {
            Some(own) if is_call_tool && request.resource.ty == "ZTA::Tool" => own,
            _ => &request.action,
        };
        let (uid, info) = vocabulary
            .actions
            .get_key_value(named)
            .ok_or_else(|| PolicyError::ActionUnknown(request.action.clone()))?;
        let of_a_tool = vocabulary.tools.get(&uid.id).is_some_and(|own| own == uid);
        if of_a_tool && uid.id != request.resource.id {
            return Err(PolicyError::ToolMismatch {
                action: uid.clone(),
                resource: request.resource.clone(),
            });
        }
        if !info.resource_types.contains(&request.resource.ty) {
            return Err(PolicyError::ResourceType {
                action: uid.clone(),
                resource_type: request.resource.ty.clone(),
            });
        }
        Ok((uid, info))
    }
}

/// Why a request is not decided whose entities cannot be put together.
fn unreachable(action: &EntityUid, error: SliceError) -> NoCase<'_> {
    let deny = |reason| NoCase::Deny(reason, action, error.to_string());
    match &error {
        SliceError::TooLarge { .. } => deny(DenyReason::EvaluationError),
        SliceError::Cycle(_) | SliceError::Brought(_) => deny(DenyReason::InvalidArguments),
        SliceError::Internal(why) => NoCase::Error(PolicyError::Internal(why.clone())),
    }
}
