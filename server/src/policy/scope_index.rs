//! Policies by their scope, so that a request evaluates only those that can match it.
//!
//! A policy's scope constrains principal, action and resource, each by one of: nothing,
//! `is T`, `== e`, `in e`, `is T in e`, and for actions also `in [e, …]`. Each distinct
//! constraint of a dimension gets a number; a policy lies in the bucket of its three
//! numbers (an action list puts it into one bucket an element). A request satisfies in
//! each dimension only few of the constraints that exist: `any`, those on its type,
//! those on itself, those on its ancestors. Their combinations are the buckets to look
//! at.
//!
//! Sound, because Cedar evaluates the scope first and a policy whose scope is false is
//! neither satisfied nor in error: what the index leaves out could not have contributed
//! to the decision, its reasons or its errors. Cost: independent of the number of
//! policies that cannot match.

use std::collections::{HashMap, HashSet};

use cedar_policy::{
    ActionConstraint, Authorizer, Entities, EntityTypeName, EntityUid, Policy, PolicyId, PolicySet,
    PolicySetError, PrincipalConstraint, Request, ResourceConstraint, Response,
};

/// A constraint of one dimension of a scope.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Constraint {
    Any,
    Is(EntityTypeName),
    Eq(EntityUid),
    In(EntityUid),
    IsIn(EntityTypeName, EntityUid),
}

/// The numbers of one dimension's constraints.
#[derive(Debug, Default)]
struct Dimension(HashMap<Constraint, u32>);

impl Dimension {
    fn number(&mut self, constraint: Constraint) -> u32 {
        let next = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        *self.0.entry(constraint).or_insert(next)
    }

    /// The numbers of the constraints that an entity satisfies.
    fn satisfied(&self, uid: &EntityUid, entities: &Entities) -> Vec<u32> {
        let mut numbers = Vec::with_capacity(8);
        let mut look = |constraint: &Constraint| numbers.extend(self.0.get(constraint));
        look(&Constraint::Any);
        look(&Constraint::Is(uid.type_name().clone()));
        look(&Constraint::Eq(uid.clone()));
        // `in` is reflexive.
        let ancestors = entities.ancestors(uid).into_iter().flatten();
        for above in std::iter::once(uid).chain(ancestors) {
            look(&Constraint::In(above.clone()));
            look(&Constraint::IsIn(uid.type_name().clone(), above.clone()));
        }
        numbers
    }
}

/// Policies by their scope. Immutable once built.
#[derive(Debug, Default)]
pub(super) struct ScopeIndex {
    principals: Dimension,
    actions: Dimension,
    resources: Dimension,
    buckets: HashMap<(u32, u32, u32), Vec<PolicyId>>,
    policies: HashMap<PolicyId, Policy>,
}

impl ScopeIndex {
    /// Indexes static and template-linked policies.
    pub(super) fn new<'a>(policies: impl IntoIterator<Item = &'a Policy>) -> Self {
        let mut index = Self::default();
        for policy in policies {
            index.add(policy);
        }
        index
    }

    fn add(&mut self, policy: &Policy) {
        let principal = self.principals.number(match policy.principal_constraint() {
            PrincipalConstraint::Any => Constraint::Any,
            PrincipalConstraint::Is(ty) => Constraint::Is(ty),
            PrincipalConstraint::Eq(uid) => Constraint::Eq(uid),
            PrincipalConstraint::In(uid) => Constraint::In(uid),
            PrincipalConstraint::IsIn(ty, uid) => Constraint::IsIn(ty, uid),
        });
        let resource = self.resources.number(match policy.resource_constraint() {
            ResourceConstraint::Any => Constraint::Any,
            ResourceConstraint::Is(ty) => Constraint::Is(ty),
            ResourceConstraint::Eq(uid) => Constraint::Eq(uid),
            ResourceConstraint::In(uid) => Constraint::In(uid),
            ResourceConstraint::IsIn(ty, uid) => Constraint::IsIn(ty, uid),
        });
        let actions = match policy.action_constraint() {
            ActionConstraint::Any => vec![Constraint::Any],
            ActionConstraint::Eq(uid) => vec![Constraint::Eq(uid)],
            ActionConstraint::In(uids) => uids.into_iter().map(Constraint::In).collect(),
        };
        for action in actions {
            let action = self.actions.number(action);
            self.buckets
                .entry((principal, action, resource))
                .or_default()
                .push(policy.id().clone());
        }
        self.policies.insert(policy.id().clone(), policy.clone());
    }

    /// How many policies it holds.
    pub(super) fn len(&self) -> usize {
        self.policies.len()
    }

    /// The policies whose scope a request can satisfy. A request without one of the
    /// three (an unknown of partial evaluation) gets all.
    fn candidates(&self, request: &Request, entities: &Entities) -> HashSet<&PolicyId> {
        let (Some(principal), Some(action), Some(resource)) =
            (request.principal(), request.action(), request.resource())
        else {
            return self.policies.keys().collect();
        };
        let principals = self.principals.satisfied(principal, entities);
        let actions = self.actions.satisfied(action, entities);
        let resources = self.resources.satisfied(resource, entities);
        let mut candidates = HashSet::new();
        for &p in &principals {
            for &a in &actions {
                for &r in &resources {
                    candidates.extend(self.buckets.get(&(p, a, r)).into_iter().flatten());
                }
            }
        }
        candidates
    }

    /// As `Authorizer::is_authorized` over all the policies.
    ///
    /// # Errors
    /// Never for policies with distinct ids, as the index holds them.
    pub(super) fn is_authorized(
        &self,
        request: &Request,
        entities: &Entities,
    ) -> Result<Response, Box<PolicySetError>> {
        let candidates = self.candidates(request, entities);
        let policies = candidates
            .into_iter()
            .filter_map(|id| self.policies.get(id))
            .cloned();
        let set = PolicySet::from_policies(policies)?;
        Ok(Authorizer::new().is_authorized(request, &set, entities))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::str::FromStr as _;

    use cedar_policy::{Context, Decision, Entity};
    use proptest::prelude::*;

    use super::*;

    const TYPES: [&str; 3] = ["A", "B", "N::C"];

    fn uid() -> impl Strategy<Value = String> {
        (0..TYPES.len(), 0..3).prop_map(|(t, i)| format!("{}::\"{i}\"", TYPES[t]))
    }

    fn action() -> impl Strategy<Value = String> {
        (0..4).prop_map(|i| format!("Action::\"{i}\""))
    }

    fn constraint(variable: &'static str) -> impl Strategy<Value = String> {
        let ty = (0..TYPES.len()).prop_map(|t| TYPES[t]);
        prop_oneof![
            Just(variable.to_owned()),
            uid().prop_map(move |u| format!("{variable} == {u}")),
            uid().prop_map(move |u| format!("{variable} in {u}")),
            ty.clone().prop_map(move |t| format!("{variable} is {t}")),
            (ty, uid()).prop_map(move |(t, u)| format!("{variable} is {t} in {u}")),
        ]
    }

    fn action_constraint() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("action".to_owned()),
            action().prop_map(|a| format!("action == {a}")),
            action().prop_map(|a| format!("action in {a}")),
            prop::collection::vec(action(), 0..3)
                .prop_map(|list| format!("action in [{}]", list.join(","))),
        ]
    }

    /// A policy whose condition holds, fails, or errors.
    fn policy() -> impl Strategy<Value = String> {
        let condition = prop_oneof![
            Just(""),
            Just("when { false }"),
            Just("when { principal.missing }"),
            Just("when { 1 + 9223372036854775807 > 0 }"),
            Just("unless { resource has x }"),
        ];
        (
            any::<bool>(),
            constraint("principal"),
            action_constraint(),
            constraint("resource"),
            condition,
        )
            .prop_map(|(permit, p, a, r, condition)| {
                let effect = if permit { "permit" } else { "forbid" };
                format!("{effect} ({p}, {a}, {r}) {condition};")
            })
    }

    /// Parents go from a smaller number to a larger one, so there are no cycles.
    fn entities() -> impl Strategy<Value = Entities> {
        let edges = prop::collection::vec((uid(), uid()), 0..12);
        let action_edges = prop::collection::vec((action(), action()), 0..4);
        (edges, action_edges).prop_map(|(edges, action_edges)| {
            let mut parents: HashMap<String, HashSet<EntityUid>> = HashMap::new();
            for (child, parent) in edges.into_iter().chain(action_edges) {
                if child < parent {
                    let parent = EntityUid::from_str(&parent).expect("uid");
                    parents.entry(child).or_default().insert(parent);
                }
            }
            let entities = parents.into_iter().map(|(child, parents)| {
                Entity::new_no_attrs(EntityUid::from_str(&child).expect("uid"), parents)
            });
            Entities::from_entities(entities, None).expect("entities")
        })
    }

    fn outcome(response: &Response) -> (Decision, BTreeSet<String>, BTreeSet<String>) {
        let errors = response.diagnostics().errors();
        (
            response.decision(),
            response
                .diagnostics()
                .reason()
                .map(ToString::to_string)
                .collect(),
            errors
                .map(|e| super::super::cedar::errored_id(e).to_string())
                .collect(),
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn says_what_cedar_says_over_all_policies(
            policies in prop::collection::vec(policy(), 0..24),
            entities in entities(),
            requests in prop::collection::vec((uid(), action(), uid()), 1..6),
        ) {
            let set = PolicySet::from_str(&policies.join("\n")).expect("policies");
            let index = ScopeIndex::new(set.policies());
            for (p, a, r) in requests {
                let uid = |s: &str| EntityUid::from_str(s).expect("uid");
                let request = Request::new(uid(&p), uid(&a), uid(&r), Context::empty(), None).expect("request");
                let all = Authorizer::new().is_authorized(&request, &set, &entities);
                let indexed = index.is_authorized(&request, &entities).expect("distinct ids");
                prop_assert_eq!(outcome(&indexed), outcome(&all), "{} {} {}", p, a, r);
            }
        }
    }

    #[test]
    fn only_what_can_match_is_evaluated() {
        let text: String = (0..1000)
            .map(|i| format!("permit (principal == A::\"{i}\", action, resource is B);"))
            .chain(["permit (principal is A, action in [Action::\"x\"], resource);".to_owned()])
            .collect();
        let set = PolicySet::from_str(&text).expect("policies");
        let index = ScopeIndex::new(set.policies());
        let uid = |s: &str| EntityUid::from_str(s).expect("uid");
        let request = Request::new(
            uid("A::\"7\""),
            uid("Action::\"x\""),
            uid("B::\"1\""),
            Context::empty(),
            None,
        )
        .expect("request");
        assert_eq!(index.candidates(&request, &Entities::empty()).len(), 2);
    }
}
