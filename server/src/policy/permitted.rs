//! What a principal may do now. No decision: a help for offering an agent only tools that
//! it may call. Candidates come from the index; where a call brings more than is known
//! here, its arguments, Cedar's type-aware partial evaluation says what holds whatever
//! they are.

use std::collections::BTreeSet;

use cedar_policy_core::ast::PolicySet;
use cedar_policy_core::tpe::entities::PartialEntities;
use cedar_policy_core::tpe::request::{PartialEntityUID, PartialRequest};
use cedar_policy_core::tpe::{self};

use super::authorize::authorize;
use super::compile::Compiled;
use super::entities::EntityMap;
use super::evaluate::{Case, Facts, NoCase, Pip, PolicyError};
use crate::model::request::CALL_TOOL;
use crate::model::{AccessRequest, EntityUid, Principal};

/// Whether something may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Whatever the call brings.
    Yes,
    /// It depends on what the call brings.
    Conditional,
    /// Not, whatever the call brings.
    No,
}

impl Compiled {
    /// Whether a principal may do what a request asks for, whatever the arguments that
    /// are not known yet. Obligations are the PEP's affair and not looked at.
    ///
    /// # Errors
    /// As [`Compiled::evaluate`].
    pub fn permission(
        &self,
        principal: &Principal,
        request: &AccessRequest,
        facts: &Facts,
        pip: &Pip<'_>,
    ) -> Result<Permission, PolicyError> {
        let (_, info) = self.resolve_action(request)?;
        let open = info.input.is_some();
        let case = if open {
            self.open_case(principal, request, facts, pip)
        } else {
            self.case(principal, request, facts, pip)
        };
        let mut case = match case {
            Ok(case) => case,
            Err(NoCase::Error(error)) => return Err(error),
            Err(NoCase::Deny(..)) => return Ok(Permission::No),
        };
        // Without conditions there is nothing that arguments could change.
        let conditions = |case: &Case<'_>| {
            let mut policies = case.candidates.iter().map(|entry| &entry.policy);
            policies.any(|policy| policy.non_scope_constraints().is_some())
        };
        if open && conditions(&case) {
            return Ok(self.partially(&case).unwrap_or(Permission::Conditional));
        }
        let candidates = std::mem::take(&mut case.candidates);
        let outcome = authorize(candidates, &case.request, &case.entities);
        let forbid_errored = outcome.errored.iter().any(|(entry, _)| entry.forbids());
        Ok(match outcome.allows() && !forbid_errored {
            true => Permission::Yes,
            false => Permission::No,
        })
    }

    /// By partial evaluation with an unknown context; `None` where Cedar cannot.
    fn partially(&self, case: &Case<'_>) -> Option<Permission> {
        let schema = self.vocabulary.schema.as_ref();
        let mut set = PolicySet::new();
        for entry in &case.candidates {
            set.add(entry.policy.clone()).ok()?;
        }
        let known = |entry: &cedar_policy_core::ast::EntityUIDEntry| {
            Some(PartialEntityUID::from(entry.uid()?.clone()))
        };
        let request = PartialRequest::new(
            known(case.request.principal())?,
            case.request.action().uid()?.clone(),
            known(case.request.resource())?,
            None,
            schema,
        )
        .ok()?;
        let entities = PartialEntities::from_concrete(case.entities.clone(), schema).ok()?;
        let response = tpe::is_authorized(&set, &request, &entities, schema).ok()?;
        // An erring forbid denies, here as in a decision.
        if response
            .true_forbids()
            .chain(response.error_forbids())
            .next()
            .is_some()
        {
            return Some(Permission::No);
        }
        let certain = response.true_permits().next().is_some();
        let open = response.residual_permits().next().is_some();
        let threatened = response.residual_forbids().next().is_some();
        Some(match (certain, open, threatened) {
            (true, _, false) => Permission::Yes,
            (true, _, true) | (false, true, _) => Permission::Conditional,
            (false, false, _) => Permission::No,
        })
    }

    /// The ids of resources of a type that the schema declares as tools, that are stored,
    /// or that a policy's scope names: the first `limit` after `after`, in byte order.
    pub fn resources_named(
        &self,
        ty: &str,
        stored: &EntityMap,
        after: Option<&str>,
        limit: usize,
    ) -> Vec<String> {
        let later = |id: &&str| after.is_none_or(|after| *id > after);
        let mut named: BTreeSet<String> = self.policies.resources_named(ty);
        if ty == "ZTA::Tool" {
            named.extend(self.vocabulary.tools.keys().cloned());
        }
        named.extend(stored.ids(ty, after, limit));
        let named = named.into_iter().filter(|id| later(&id.as_str()));
        named.take(limit).collect()
    }

    /// The actions that may be asked for on a resource, sorted. For a declared tool that is
    /// `call_tool`, which stands for the tool's own.
    pub fn actions_on(&self, resource: &EntityUid) -> Vec<EntityUid> {
        let vocabulary = &self.vocabulary;
        let of_a_tool = |action: &EntityUid| {
            let own = vocabulary.tools.get(&action.id);
            own == Some(action) && action.id != CALL_TOOL
        };
        let mut actions: Vec<EntityUid> = vocabulary
            .actions
            .iter()
            .filter(|(action, info)| {
                info.resource_types.contains(&resource.ty) && !of_a_tool(action)
            })
            .map(|(action, _)| action.clone())
            .collect();
        actions.sort_unstable();
        actions
    }
}
