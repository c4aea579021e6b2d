use std::collections::BTreeSet;
use std::str::FromStr as _;

use std::collections::HashMap;

use cedar_policy::{
    AuthorizationError, Authorizer, Context, Decision, Entities, Entity, EntityUid, PolicyId,
    PolicySet, Request, Response, SlotId,
};
use cedar_policy_core::ast;
use proptest::prelude::*;

use super::*;
use crate::policy::authorize::Outcome;
use crate::policy::cedar::over_all;

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

type Said = (Decision, BTreeSet<String>, BTreeSet<String>);

fn cedar_says(response: &Response) -> Said {
    let diagnostics = response.diagnostics();
    let id = |error: &AuthorizationError| match error {
        AuthorizationError::PolicyEvaluationError(e) => e.policy_id().to_string(),
    };
    (
        response.decision(),
        diagnostics.reason().map(ToString::to_string).collect(),
        diagnostics.errors().map(id).collect(),
    )
}

fn we_say(outcome: &Outcome<'_>) -> Said {
    let ids = |entries: &mut dyn Iterator<Item = &Arc<Entry>>| {
        entries.map(|entry| entry.id().to_owned()).collect()
    };
    let decision = if outcome.allows() {
        Decision::Allow
    } else {
        Decision::Deny
    };
    (
        decision,
        ids(&mut outcome.determining().iter().copied()),
        ids(&mut outcome.errored.iter().map(|(entry, _)| *entry)),
    )
}

fn entries(set: &PolicySet) -> Vec<Arc<Entry>> {
    let policy = |policy: &cedar_policy::Policy| {
        let policy: &ast::Policy = policy.as_ref();
        Arc::new(Entry::new(policy.clone()))
    };
    set.policies().map(policy).collect()
}

fn index(set: &PolicySet) -> ScopeIndex {
    let mut index = ScopeIndex::default();
    for entry in entries(set) {
        index.add(&entry).expect("distinct ids");
    }
    index
}

/// The set with templates linked to these principals and resources.
fn set(policies: &[String], links: &[(String, String)]) -> PolicySet {
    let text = policies.join("\n")
        + "\n@id(\"t\") permit (principal == ?principal, action, resource in ?resource) when { principal has x || true };"
        + "forbid (principal in ?principal, action in [Action::\"0\", Action::\"1\"], resource == ?resource) when { principal.missing };";
    let mut set = PolicySet::from_str(&text).expect("policies");
    let templates: Vec<_> = set.templates().map(|t| t.id().clone()).collect();
    for (nth, (principal, resource)) in links.iter().enumerate() {
        let values = HashMap::from([
            (
                SlotId::principal(),
                EntityUid::from_str(principal).expect("uid"),
            ),
            (
                SlotId::resource(),
                EntityUid::from_str(resource).expect("uid"),
            ),
        ]);
        let id = PolicyId::new(format!("link{nth}"));
        set.link(templates[nth % templates.len()].clone(), id, values)
            .expect("a link");
    }
    set
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn says_what_cedar_says_over_all_policies(
        policies in prop::collection::vec(policy(), 0..120),
        links in prop::collection::vec((uid(), uid()), 0..6),
        gone in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        entities in entities(),
        requests in prop::collection::vec((uid(), action(), uid()), 1..6),
    ) {
        let mut set = set(&policies, &links);
        let mut index = index(&set);
        let before = index.clone();
        let all = set.clone();
        // What is taken out, and put back in part, leaves no trace.
        let ids: Vec<PolicyId> = set.policies().map(|p| p.id().clone()).collect();
        for (nth, at) in gone.iter().filter(|_| !ids.is_empty()).enumerate() {
            let id = at.get(&ids);
            if let Some(entry) = index.remove(id.as_ref()) {
                if nth % 3 == 0 {
                    index.add(&entry).expect("it was taken out");
                } else if set.policy(id).is_some_and(|p| p.is_static()) {
                    set.remove_static(id.clone()).expect("it is there");
                } else {
                    set.unlink(id.clone()).expect("it is there");
                }
            }
        }
        for (p, a, r) in requests {
            let uid = |s: &str| EntityUid::from_str(s).expect("uid");
            let request = Request::new(uid(&p), uid(&a), uid(&r), Context::empty(), None).expect("request");
            for (index, set) in [(&index, &set), (&before, &all)] {
                let said = Authorizer::new().is_authorized(&request, set, &entities);
                let found = over_all(index, request.as_ref(), entities.as_ref());
                prop_assert_eq!(we_say(&found), cedar_says(&said), "{} {} {}", p, a, r);
            }
        }
        for entry in entries(&set) {
            prop_assert!(index.remove(entry.id()).is_some());
        }
        prop_assert!(index.is_empty());
    }
}

#[test]
fn only_what_can_match_is_evaluated() {
    let text: String = (0..1000)
        .map(|i| format!("permit (principal == A::\"{i}\", action, resource is B);"))
        .chain([
            "permit (principal is A, action in [Action::\"x\", Action::\"x\"], resource);"
                .to_owned(),
        ])
        .collect();
    let index = index(&PolicySet::from_str(&text).expect("policies"));
    let uid = |s: &str| -> ast::EntityUID { s.parse().expect("uid") };
    let (principal, action, resource) = (uid("A::\"7\""), uid("Action::\"x\""), uid("B::\"1\""));
    let place = |uid| Place {
        uid,
        ancestors: Vec::new(),
    };
    let found = index.candidates(&place(&principal), &place(&action), &place(&resource));
    assert_eq!(found.len(), 2);
    let mut more = index.clone();
    let taken = more.add(found[0]).expect_err("the id is taken");
    assert!(Arc::ptr_eq(&taken, found[0]));
    assert_eq!(more.len(), 1001);
}
