//! Generated worlds: the map against a plain one, the slice against all entities.

use std::collections::{BTreeMap, HashSet};

use cedar_policy::{Authorizer, Context, Entities, EntityUid as PublicUid, PolicySet, Request};
use cedar_policy_core::ast;
use cedar_policy_core::entities::Dereference;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::*;
use super::{SCHEMA, cedar_uid, cedars, given_of, uid, vocabulary};

/// What happens to the entities, in a world small enough for everything to meet.
#[derive(Clone, Debug)]
enum Step {
    Put(Vec<GivenEntity>),
    Delete(Vec<EntityUid>),
}

fn names(ty: &'static str, count: u8) -> impl Strategy<Value = String> {
    (0..count).prop_map(move |n| format!("{ty}/{n}"))
}

fn reference(ty: &'static str) -> impl Strategy<Value = Value> {
    (0..4u8).prop_map(move |n| json!({"type": format!("App::{ty}"), "id": n.to_string()}))
}

fn object(pairs: Vec<(&str, Option<Value>)>) -> String {
    let pairs = pairs
        .into_iter()
        .filter_map(|(k, v)| Some((k.to_owned(), v?)));
    Value::Object(pairs.collect()).to_string()
}

fn entity() -> impl Strategy<Value = GivenEntity> {
    let parents = |ty, count| prop::collection::vec(names(ty, count), 0..2);
    let optional = |ty| prop::option::of(reference(ty));
    let team = (names("Team", 4), parents("Team", 5))
        .prop_map(|(of, parents)| (of, parents, "{}".to_owned(), "{}".to_owned()));
    let user = (
        names("User", 4),
        parents("Team", 4),
        0..4i64,
        optional("User"),
        optional("Folder"),
    )
        .prop_map(|(of, parents, level, boss, home)| {
            let attributes = object(vec![
                ("level", Some(json!(level))),
                ("boss", boss),
                ("home", home),
            ]);
            (of, parents, attributes, "{}".to_owned())
        });
    let folder = (
        names("Folder", 4),
        prop_oneof![parents("Folder", 5), parents("Team", 4)],
        optional("User"),
        prop::option::of(prop::collection::vec(reference("Folder"), 0..3).prop_map(Value::from)),
        prop::option::of((0..3u8).prop_map(
            |n| json!({"rate": f64::from(n) / 4.0, "from": format!("10.0.0.{n}"), "open": n == 1}),
        )),
        prop::option::of(prop::collection::vec("[ab]", 0..3).prop_map(Value::from)),
    )
        .prop_map(|(of, parents, owner, near, limits, tag)| {
            let attributes = object(vec![("owner", owner), ("near", near), ("limits", limits)]);
            (of, parents, attributes, object(vec![("k", tag)]))
        });
    prop_oneof![team, user, folder].prop_map(|(of, parents, attributes, tags)| {
        let parents: Vec<&str> = parents.iter().map(String::as_str).collect();
        given_of(&of, &parents, &attributes, &tags)
    })
}

fn step() -> impl Strategy<Value = Step> {
    let any = prop_oneof![names("Team", 4), names("User", 4), names("Folder", 4)];
    prop_oneof![
        4 => prop::collection::vec(entity(), 1..5).prop_map(Step::Put),
        1 => prop::collection::vec(any, 1..3).prop_map(|all| Step::Delete(all.iter().map(|u| uid(u)).collect())),
    ]
}

const POLICIES: &str = r#"
permit (principal in App::Team::"0", action, resource);
permit (principal, action, resource in App::Folder::"3");
permit (principal, action, resource in App::Team::"1") when { principal.level > 1 };
permit (principal, action, resource) when { resource has owner && resource.owner in App::Team::"2" };
permit (principal, action, resource) when { resource has near && resource.near.contains(App::Folder::"2") };
permit (principal, action, resource) when { principal has boss && principal.boss has boss && principal.boss.boss.level > 1 };
permit (principal, action, resource) when { principal.home.owner.level == 2 };
permit (principal, action, resource) when { App::User::"1".boss in App::Team::"0" };
permit (principal, action, resource) when { resource.limits.rate.lessThan(decimal("0.5")) };
forbid (principal, action, resource) when { resource.hasTag("k") && resource.getTag("k").contains("a") };
forbid (principal, action, resource) when { resource.limits.from.isInRange(ip("10.0.0.2/31")) };
forbid (principal in App::Team::"4", action, resource in App::Folder::"4");
"#;

/// How many references the policies follow.
const LEVELS: u32 = 2;

/// The answer of Cedar over some entities: decision, reasons, errors.
fn answer(
    entities: &Entities,
    principal: &str,
    resource: &str,
) -> (String, Vec<String>, Vec<String>) {
    let public = |text: &str| -> PublicUid {
        let uid = uid(text);
        format!("{}::{:?}", uid.ty, uid.id).parse().expect("a uid")
    };
    let action: PublicUid = r#"ZTA::Action::"read""#.parse().expect("a uid");
    let request = Request::new(
        public(principal),
        action,
        public(resource),
        Context::empty(),
        None,
    );
    let policies: PolicySet = POLICIES.parse().expect("policies");
    let response =
        Authorizer::new().is_authorized(&request.expect("a request"), &policies, entities);
    let mut reasons: Vec<_> = response
        .diagnostics()
        .reason()
        .map(ToString::to_string)
        .collect();
    let mut errors: Vec<_> = response
        .diagnostics()
        .errors()
        .map(ToString::to_string)
        .collect();
    reasons.sort();
    errors.sort();
    (format!("{:?}", response.decision()), reasons, errors)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn a_slice_answers_as_all_entities_do(
        steps in prop::collection::vec(step(), 1..12),
        principal in names("User", 4),
        resource in names("Folder", 4),
        draft_in in prop::collection::vec(names("Folder", 5), 0..2),
    ) {
        let vocabulary = vocabulary(SCHEMA);
        let types = &vocabulary.entity_types;
        let mut map = EntityMap::default();
        let mut model: BTreeMap<EntityUid, StoredEntity> = BTreeMap::new();
        let mut versions = Vec::new();
        for step in steps {
            let changes: Vec<EntityVersion> = match step {
                Step::Put(given) => {
                    let mut uids: Vec<_> = given.iter().map(|g| g.uid.clone()).collect();
                    uids.sort();
                    uids.dedup();
                    if uids.len() < given.len() {
                        prop_assert!(map.put(types, &given).is_err());
                        continue;
                    }
                    let changed = map.put(types, &given);
                    // All fit the types, so only a cycle is refused, and Cedar agrees on it.
                    let mut next = model.clone();
                    for given in &given {
                        let unpacked = read_given(types, given).expect("fits");
                        next.insert(given.uid.clone(), stored(given.uid.ty.clone(), unpacked));
                    }
                    prop_assert_eq!(changed.is_ok(), cedars(&vocabulary.schema, next.values(), &[]).is_ok());
                    let Ok(changed) = changed else { continue };
                    let same = changed.iter().all(|e| model.get(&e.uid) != Some(e));
                    prop_assert!(same, "only what changed");
                    changed.into_iter().map(EntityVersion::Put).collect()
                }
                Step::Delete(uids) => map.stored_of(&uids).into_iter().map(EntityVersion::Deleted).collect(),
            };
            versions.push((map.clone(), model.clone()));
            map = map.with(types, &changes).expect("fits");
            for change in changes {
                match change {
                    EntityVersion::Put(entity) => model.insert(entity.uid.clone(), entity),
                    EntityVersion::Deleted(uid) => model.remove(&uid),
                };
            }
        }
        versions.push((map.clone(), model.clone()));
        for (map, model) in versions {
            prop_assert_eq!(map.len(), model.len());
            for (uid, entity) in &model {
                prop_assert_eq!(map.get(uid), Some(entity.clone()));
            }
            let ids = map.ids("App::Folder", Some("0"), 2);
            let expected = model.keys().filter(|u| u.ty == "App::Folder" && u.id.as_str() > "0");
            prop_assert_eq!(ids, expected.take(2).map(|u| u.id.clone()).collect::<Vec<_>>());
        }
        // A draft comes with the request, in folders that are stored or not.
        let draft_in: Vec<&str> = draft_in.iter().map(String::as_str).collect();
        let author = json!({"type": "App::User", "id": "1"});
        let draft = given_of("Draft/d", &draft_in, &json!({ "author": author }).to_string(), "{}");
        let draft_json = json!({"uid": draft.uid, "parents": draft.parents, "attrs": {"author": author}});
        let own = types.request_entity(&draft).expect("a draft");
        let all = cedars(&vocabulary.schema, model.values(), &[draft_json]).expect("no cycle");
        for root in [resource.as_str(), "Draft/d"] {
            let roots = [uid(&principal), uid(root), uid("User/1")].map(|u| cedar_uid(&u).expect("uid"));
            let slice = map.slice(vec![own.clone()], [], &roots.each_ref(), LEVELS, &|_| None).expect("a slice");
            for entity in slice.iter() {
                let Dereference::Data(theirs) = AsRef::<cedar_policy_core::entities::Entities>::as_ref(&all).entity(entity.uid()) else {
                    return Err(TestCaseError::fail("an entity that does not exist"));
                };
                prop_assert!(entity.deep_eq(theirs), "{entity} against {theirs}");
                prop_assert_eq!(
                    map.ancestors(entity.uid(), std::slice::from_ref(&own)).expect("few"),
                    theirs.ancestors().cloned().collect::<HashSet<ast::EntityUID>>()
                );
            }
            prop_assert_eq!(answer(&Entities::from(slice), &principal, root), answer(&all, &principal, root));
        }
    }
}
