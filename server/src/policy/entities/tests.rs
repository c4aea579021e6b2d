//! The map and the slice against Cedar's own entities, and each way not to fit.

#![allow(clippy::too_many_lines, reason = "tables of misfits")]

mod brought;
mod measure;
mod property;

use cedar_policy::Entities;
use cedar_policy_core::ast::EntityUID;
use cedar_policy_core::entities::Dereference;
use serde_json::{Value, json};

use super::*;
use crate::model::SourceFile;
use crate::policy::limits::SLICE_ENTITIES_MAX;
use crate::policy::vocabulary::Vocabulary;

const SCHEMA: &str = r#"namespace App {
  entity Team in [Team] { size?: Long };
  entity User in [Team] = { level: Long, boss?: User, home?: Folder };
  entity Folder in [Folder, Team] = {
    owner?: User,
    labels?: Set<String>,
    near?: Set<Folder>,
    limits?: { rate: decimal, from?: ipaddr, until?: datetime, every?: duration, open: Bool },
  } tags Set<String>;
  entity Color enum ["red", "green"];
  @request_suppliable
  entity Draft in [Folder] = { author: User, color?: Color };
}"#;

fn vocabulary(schema: &str) -> Vocabulary {
    let file = SourceFile::new("app.cedarschema", schema);
    Vocabulary::new(&[file]).unwrap_or_else(|e| panic!("{e:?}"))
}

fn uid(text: &str) -> EntityUid {
    let (ty, id) = text.split_once('/').expect("a type and an id");
    let ty = if ty.contains("::") {
        ty.to_owned()
    } else {
        format!("App::{ty}")
    };
    EntityUid::new(ty, id)
}

/// Our reference as Cedar's.
fn cedar_uid(uid: &EntityUid) -> Option<EntityUID> {
    Some(super::packed::uid_of(&uid.ty.parse().ok()?, &uid.id))
}

fn given_of(of: &str, parents: &[&str], attributes: &str, tags: &str) -> GivenEntity {
    let json = |text: &str| Arguments::parse(text.as_bytes()).expect("json");
    GivenEntity {
        uid: uid(of),
        parents: parents.iter().map(|p| uid(p)).collect(),
        attributes: json(attributes),
        tags: json(tags),
    }
}

fn put(map: &EntityMap, types: &EntityTypes, given: &[GivenEntity]) -> EntityMap {
    let changed = map.put(types, given).expect("puts");
    let versions: Vec<_> = changed.into_iter().map(EntityVersion::Put).collect();
    map.with(types, &versions).expect("fits")
}

/// Cedar's own entities of our canonical texts, read by the schema.
fn cedars<'a>(
    schema: &cedar_policy::Schema,
    stored: impl IntoIterator<Item = &'a StoredEntity>,
    own: &[Value],
) -> Result<Entities, String> {
    let text = |text: &str| serde_json::from_str::<Value>(text).expect("json");
    let entities = stored.into_iter().map(|e| {
        json!({
            "uid": e.uid, "parents": e.parents,
            "attrs": text(&e.attributes), "tags": text(&e.tags),
        })
    });
    let all = entities.chain(own.iter().cloned()).collect();
    Entities::from_json_value(Value::Array(all), Some(schema)).map_err(|e| format!("{e:?}"))
}

#[test]
fn contents_are_canonical_and_read_by_the_declared_type() {
    let vocabulary = vocabulary(SCHEMA);
    let types = &vocabulary.entity_types;
    let folder = given_of(
        "Folder/a \"b\"\u{e9} ",
        &["Team/x", "Folder/z", "Team/x"],
        r#"{"near":[{"type":"App::Folder","id":"b"},{"id":"a","type":"App::Folder"},{"id":"b","type":"App::Folder"}],
            "owner":{"id":"u","type":"App::User"}, "labels":["z","a","z"],
            "limits":{"open":true,"rate":-1.50,"from":"10.0.0.0/8","until":null,"every":"1h"}}"#,
        r#"{"k":["2","1"]}"#,
    );
    let changed = EntityMap::default()
        .put(types, std::slice::from_ref(&folder))
        .expect("puts");
    let stored = changed.first().expect("one");
    assert_eq!(
        stored.attributes,
        r#"{"labels":["a","z"],"limits":{"every":"1h","from":"10.0.0.0/8","open":true,"rate":"-1.5"},"near":[{"id":"a","type":"App::Folder"},{"id":"b","type":"App::Folder"}],"owner":{"id":"u","type":"App::User"}}"#
    );
    assert_eq!(stored.tags, r#"{"k":["1","2"]}"#);
    assert_eq!(stored.parents, [uid("Folder/z"), uid("Team/x")]);
    let map = put(&EntityMap::default(), types, std::slice::from_ref(&folder));
    assert_eq!(map.get(&folder.uid).as_ref(), Some(stored));
    assert!(
        map.put(types, &[folder]).expect("puts").is_empty(),
        "nothing changes"
    );
    assert!(
        !map.contains(&uid("Folder/a \"b\"\u{e9}")),
        "a blank counts"
    );
    for (number, text) in [
        ("0", "0.0"),
        ("7", "7.0"),
        ("0.0001", "0.0001"),
        (r#""-0.10""#, "-0.1"),
        (r#""922337203685477.5807""#, "922337203685477.5807"),
    ] {
        let attributes = format!(r#"{{"limits":{{"open":false,"rate":{number}}}}}"#);
        let changed = map
            .put(types, &[given_of("Folder/n", &[], &attributes, "{}")])
            .expect(number);
        assert!(
            changed[0]
                .attributes
                .contains(&format!("\"rate\":\"{text}\"")),
            "{:?}",
            changed[0]
        );
    }
}

#[test]
fn what_does_not_fit_is_named_by_its_place() {
    let vocabulary = vocabulary(SCHEMA);
    let types = &vocabulary.entity_types;
    let map = EntityMap::default();
    for (of, parents, attributes, tags, why) in [
        (
            "User/u",
            &[][..],
            "{}",
            "{}",
            "`attributes.level` is missing",
        ),
        (
            "User/u",
            &[],
            r#"{"level":null}"#,
            "{}",
            "`attributes.level` is missing",
        ),
        (
            "User/u",
            &[],
            r#"{"level":1,"x":1}"#,
            "{}",
            "`attributes.x` is not declared",
        ),
        (
            "User/u",
            &[],
            r#"{"level":"1"}"#,
            "{}",
            "must be an integer, found a string",
        ),
        (
            "User/u",
            &[],
            r#"{"level":1.0}"#,
            "{}",
            "must be an integer",
        ),
        (
            "User/u",
            &[],
            r#"{"level":9223372036854775808}"#,
            "{}",
            "does not fit into 64 bits",
        ),
        (
            "User/u",
            &[],
            r#"{"level":1,"boss":{"__entity":{"type":"App::User","id":"b"}}}"#,
            "{}",
            "`attributes.boss` must be an entity reference",
        ),
        (
            "User/u",
            &[],
            r#"{"level":1,"boss":{"type":"App::User","id":"b","x":1}}"#,
            "{}",
            "must be an entity reference",
        ),
        (
            "User/u",
            &[],
            r#"{"level":1,"boss":{"type":"App::Team","id":"b"}}"#,
            "{}",
            "must refer to an entity of type `App::User`",
        ),
        (
            "User/u",
            &["Folder/f"],
            r#"{"level":1}"#,
            "{}",
            "`App::User` is not declared to be in `App::Folder`",
        ),
        (
            "User/u",
            &["ZTA::Role/admin"],
            r#"{"level":1}"#,
            "{}",
            "is not declared to be in",
        ),
        (
            "User/u",
            &[],
            r#"{"level":1}"#,
            r#"{"k":"v"}"#,
            "`tags`: the type declares none",
        ),
        (
            "Folder/f",
            &[],
            "{}",
            r#"{"k":"v"}"#,
            "`tags.k` must be an array",
        ),
        (
            "Folder/f",
            &[],
            r#"{"near":[{"type":"App::Folder","id":"a"},1]}"#,
            "{}",
            "`attributes.near[1]`",
        ),
        (
            "Folder/f",
            &[],
            r#"{"limits":{"open":true,"rate":0.00001}}"#,
            "{}",
            "does not fit a decimal",
        ),
        (
            "Folder/f",
            &[],
            r#"{"limits":{"open":true,"rate":1,"from":"no"}}"#,
            "{}",
            "is not an IP address",
        ),
        (
            "Folder/f",
            &[],
            r#"{"limits":{"rate":1}}"#,
            "{}",
            "`attributes.limits.open` is missing",
        ),
        (
            "Color/blue",
            &[],
            "{}",
            "{}",
            "an id that `App::Color` does not declare",
        ),
        (
            "Draft/d",
            &[],
            r#"{"author":{"type":"App::User","id":"u"},"color":{"type":"App::Color","id":"blue"}}"#,
            "{}",
            "`attributes.color` has an id that `App::Color` does not declare",
        ),
        (
            "Nothing/n",
            &[],
            "{}",
            "{}",
            "`App::Nothing` is not in the schema in force",
        ),
        ("Team/t", &["Team/t"], "{}", "{}", "is in itself"),
    ] {
        let refused = map.put(types, &[given_of(of, parents, attributes, tags)]);
        let EntityError::Invalid(message) = refused.expect_err(why) else {
            panic!("another error for {why}");
        };
        assert!(message.starts_with("entities[0] App::"), "{message}");
        assert!(message.contains(why), "{message}");
    }
    let twice = [
        given_of("Team/t", &[], "{}", "{}"),
        given_of("Team/t", &[], "{}", "{}"),
    ];
    let refused = map.put(types, &twice).expect_err("twice").to_string();
    assert!(
        refused.contains("entities[1]") && refused.contains("stands twice"),
        "{refused}"
    );
}

#[test]
fn types_of_the_server_are_reserved_and_others_are_open() {
    let vocabulary = vocabulary(SCHEMA);
    let types = &vocabulary.entity_types;
    let map = EntityMap::default();
    for reserved in [
        "ZTA::Agent/a",
        "ZTA::User/a",
        "ZTA::Workload/a",
        "ZTA::Role/a",
        "ZTA::Task/a",
        "ZTA::Zone/a",
        "ZTA::Action/a",
        "App::Action/a",
        "Action/a",
        "ZTA::Group::Action/x",
    ] {
        let refused = map.put(types, &[given_of(reserved, &[], "{}", "{}")]);
        assert!(
            matches!(refused, Err(EntityError::Reserved(_))),
            "{reserved}: {refused:?}"
        );
    }
    let open = [
        given_of("ZTA::Group/g", &["ZTA::Group/all"], "{}", "{}"),
        given_of("ZTA::Tool/t", &["ZTA::Group/g"], "{}", r#"{"risk":"high"}"#),
        given_of("ZTA::Model/m", &["ZTA::Group/g"], "{}", "{}"),
        given_of(
            "ZTA::Resource/r",
            &["ZTA::Group/g", "ZTA::Resource/x"],
            "{}",
            "{}",
        ),
    ];
    assert_eq!(put(&map, types, &open).len(), 4);
}

#[test]
fn a_request_brings_only_what_the_schema_marks() {
    let vocabulary = vocabulary(SCHEMA);
    let types = &vocabulary.entity_types;
    assert_eq!(
        types.suppliable().iter().collect::<Vec<_>>(),
        ["App::Draft"]
    );
    let author = r#"{"author":{"type":"App::User","id":"u"}}"#;
    let draft = types.request_entity(&given_of("Draft/d", &["Folder/f"], author, "{}"));
    let draft = draft.expect("a draft");
    assert_eq!(draft.parents().count(), 1);
    assert!(draft.get("author").is_some());
    for other in ["Folder/f", "ZTA::Tool/t", "ZTA::Agent/a", "App::Action/x"] {
        let refused = types.request_entity(&given_of(other, &[], "{}", "{}"));
        assert!(matches!(refused, Err(EntityError::Reserved(_))), "{other}");
    }
    let misfit = types.request_entity(&given_of("Draft/d", &[], "{}", "{}"));
    assert!(matches!(misfit, Err(EntityError::Invalid(_))));
    let marked = SCHEMA.replace("entity Team", "@request_suppliable entity Action2, Team");
    assert!(!marked.is_empty());
}

#[test]
fn another_schema_is_taken_if_all_that_is_stored_fits() {
    let before = vocabulary(SCHEMA);
    let types = &before.entity_types;
    let folder = given_of(
        "Folder/f",
        &[],
        r#"{"labels":["1.5"],"owner":{"type":"App::User","id":"u"}}"#,
        "{}",
    );
    let users: Vec<_> = (0..30)
        .map(|n| given_of(&format!("User/{n}"), &[], r#"{"level":1}"#, "{}"))
        .collect();
    let map = put(&put(&EntityMap::default(), types, &[folder]), types, &users);
    // What was a string is a decimal, a reference a record: read again by the new type.
    let other = SCHEMA
        .replace("labels?: Set<String>", "labels?: Set<decimal>")
        .replace("owner?: User", "owner?: { \"type\": String, id: String }");
    let after = vocabulary(&other);
    let next = map.under(types, &after.entity_types).expect("fits");
    assert_eq!(next.len(), 31);
    let value = |map: &EntityMap, attribute: &str| {
        let slice = map.slice(
            vec![],
            [],
            &[&cedar_uid(&uid("Folder/f")).expect("uid")],
            0,
            &|_| None,
        );
        let slice = slice.expect("a slice");
        let Dereference::Data(folder) = slice.entity(&cedar_uid(&uid("Folder/f")).expect("uid"))
        else {
            panic!("no folder");
        };
        format!("{:?}", folder.get(attribute))
    };
    assert!(value(&map, "labels").contains("String(\"1.5\")"));
    assert!(value(&next, "labels").contains("decimal"));
    assert!(value(&map, "owner").contains("EntityUID"));
    assert!(value(&next, "owner").contains("Record"));
    let narrower = vocabulary(&SCHEMA.replace("level: Long", "level: String"));
    let misfits = map
        .under(types, &narrower.entity_types)
        .expect_err("does not fit");
    assert_eq!(misfits.len(), 10);
    assert!(
        misfits[0].contains("`attributes.level` must be a string"),
        "{misfits:?}"
    );
    let gone = vocabulary(&SCHEMA.replace("Draft", "Sketch"));
    assert!(
        map.under(types, &gone.entity_types).is_ok(),
        "no draft is stored"
    );
}

#[test]
fn too_much_is_an_error_and_never_less() {
    let vocabulary = vocabulary(SCHEMA);
    let types = &vocabulary.entity_types;
    let near = |count: usize| {
        let near: Vec<_> = (0..count)
            .map(|n| json!({"type": "App::Folder", "id": n.to_string()}))
            .collect();
        json!({ "near": near }).to_string()
    };
    let mut map = EntityMap::default();
    for first in (0..=SLICE_ENTITIES_MAX).step_by(500) {
        let folders: Vec<_> = (first..first + 500)
            .map(|n| given_of(&format!("Folder/{n}"), &[], "{}", "{}"))
            .collect();
        map = put(&map, types, &folders);
    }
    let hub = |n: usize| given_of(&format!("Folder/hub{n}"), &[], &near(600), "{}");
    let root = given_of(
        "Folder/root",
        &["Folder/1"],
        r#"{"near":[{"type":"App::Folder","id":"hub1"},{"type":"App::Folder","id":"hub2"}]}"#,
        "{}",
    );
    map = put(&map, types, &[hub(1), root]);
    let root = cedar_uid(&uid("Folder/root")).expect("uid");
    let size = |map: &EntityMap, levels| {
        map.slice(vec![], [], &[&root], levels, &|_| None)
            .map(|e| e.len())
    };
    assert_eq!(size(&map, 0), Ok(1));
    assert_eq!(size(&map, 1), Ok(2));
    assert_eq!(size(&map, 2), Ok(602));
    let more: Vec<_> = (600..1200)
        .map(|n| json!({"type": "App::Folder", "id": n.to_string()}))
        .collect();
    let hub2 = given_of(
        "Folder/hub2",
        &[],
        &json!({ "near": more }).to_string(),
        "{}",
    );
    map = put(&map, types, &[hub2]);
    assert!(matches!(
        size(&map, 2),
        Err(SliceError::TooLarge {
            name: "slice_entities_max",
            ..
        })
    ));
    // A chain as long as is allowed, and one longer.
    let chain = |from: usize, to: usize| -> Vec<_> {
        (from..to)
            .map(|n| {
                given_of(
                    &format!("Team/{n}"),
                    &[&format!("Team/{}", n + 1)],
                    "{}",
                    "{}",
                )
            })
            .collect()
    };
    map = put(&map, types, &chain(1, ANCESTORS_MAX + 1));
    let refused = map
        .put(types, &chain(0, 1))
        .expect_err("too long")
        .to_string();
    assert!(refused.contains("is in more than"), "{refused}");
}
