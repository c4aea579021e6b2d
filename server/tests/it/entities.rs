//! Entities through the real door, on both databases.

mod replicas;

use serde_json::{Value, json};
use tonic::Status;
use zta_client::{Client, v1};

use crate::support::rpc::{entity, event, events, reason, refused};
use crate::support::server::text;
use crate::support::{Database, Server, Setup};

const SCHEMA: &str = r#"namespace App {
  entity Team in [Team];
  entity Doc in [Team, ZTA::Group] = { title: String, owner?: Doc, price?: decimal } tags String;
}"#;

fn given(ty: &str, id: &str, attributes: &str, parents: &[(&str, &str)]) -> v1::Entity {
    v1::Entity {
        uid: entity(ty, id),
        attributes_json: attributes.to_owned(),
        parents: parents
            .iter()
            .filter_map(|(ty, id)| entity(ty, id))
            .collect(),
        tags_json: String::new(),
    }
}

fn doc(id: &str, title: &str) -> v1::Entity {
    given(
        "App::Doc",
        id,
        &json!({ "title": title }).to_string(),
        &[("App::Team", "t")],
    )
}

async fn put(client: &Client, entities: Vec<v1::Entity>) -> Result<u32, Status> {
    let request = v1::EntityServicePutRequest { entities };
    let answer = client.entities().put(request).await?.into_inner();
    assert!(answer.consistency_token.is_some());
    Ok(answer.changed)
}

async fn get(client: &Client, ty: &str, ids: &[&str]) -> Vec<v1::Entity> {
    let request = v1::EntityServiceGetRequest {
        uids: ids.iter().filter_map(|id| entity(ty, id)).collect(),
        at_least_as_fresh: None,
    };
    let answer = client.entities().get(request).await.expect("gets");
    answer.into_inner().entities
}

async fn delete(client: &Client, ty: &str, ids: &[&str]) -> Result<u32, Status> {
    let request = v1::EntityServiceDeleteRequest {
        uids: ids.iter().filter_map(|id| entity(ty, id)).collect(),
    };
    Ok(client
        .entities()
        .delete(request)
        .await?
        .into_inner()
        .deleted)
}

/// The ids of all pages of a list.
async fn list(client: &Client, ty: &str, page_size: u32) -> Vec<String> {
    let mut ids = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::EntityServiceListRequest {
            r#type: ty.to_owned(),
            page_size,
            page_token,
            at_least_as_fresh: None,
        };
        let page = client
            .entities()
            .list(request)
            .await
            .expect("a page")
            .into_inner();
        assert!(page.entities.len() <= page_size as usize);
        ids.extend(page.entities.into_iter().filter_map(|e| Some(e.uid?.id)));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return ids;
        }
    }
}

/// Applies what is in force with this schema in place of the one of the tests.
async fn apply_schema(admin: &Client, schema: &str) -> Result<(), Status> {
    let request = v1::GetRevisionRequest::default();
    let answer = admin.policies().get_revision(request).await?.into_inner();
    let mut source = answer.source.expect("files");
    source.schemas.retain(|file| file.name != "app.cedarschema");
    source.schemas.push(v1::SourceFile {
        name: "app.cedarschema".to_owned(),
        text: schema.to_owned(),
    });
    let request = v1::ApplyRequest {
        source: Some(source),
        expected_revision: answer.revision.expect("a revision").number,
        ..v1::ApplyRequest::default()
    };
    admin.policies().apply(request).await.map(drop)
}

async fn with_schema(database: Database) -> (Server, Client) {
    let server = Setup::on(database).start().await;
    let admin = server.admin();
    apply_schema(&admin, SCHEMA).await.expect("applies");
    (server, admin)
}

async fn lives(database: Database) {
    let (mut server, admin) = with_schema(database).await;
    let docs: Vec<_> = (0..25).map(|n| doc(&format!("d{n:02}"), "x")).collect();
    assert_eq!(put(&admin, docs.clone()).await.expect("puts"), 25);
    assert_eq!(put(&admin, docs).await.expect("puts"), 0, "nothing changed");
    let price = given(
        "App::Doc",
        "D",
        r#" {"title":"é\u0000","price":2.50} "#,
        &[],
    );
    let changed = put(&admin, vec![doc("d00", "y"), doc("d01", "x"), price]).await;
    assert_eq!(changed.expect("puts"), 2);
    let found = get(&admin, "App::Doc", &["d00", "nobody", "D"]).await;
    let contents: Vec<_> = found.iter().map(|e| e.attributes_json.as_str()).collect();
    assert_eq!(
        contents,
        [r#"{"title":"y"}"#, r#"{"price":"2.5","title":"é\u0000"}"#]
    );
    assert_eq!(
        found[0].parents,
        vec![entity("App::Team", "t").expect("a uid")]
    );
    put(
        &admin,
        vec![
            given("App::Team", "t", "", &[]),
            given("ZTA::Tool", "t", "", &[]),
        ],
    )
    .await
    .expect("puts");
    let ids = list(&admin, "App::Doc", 10).await;
    assert_eq!(
        (ids.len(), ids[0].as_str(), ids[1].as_str()),
        (26, "D", "d00")
    );
    assert!(ids.is_sorted());
    assert_eq!(list(&admin, "", 7).await.len(), 28);
    assert_eq!(list(&admin, "App::Nothing", 7).await.len(), 0);
    let deleted = delete(&admin, "App::Doc", &["d00", "d00", "nobody"]).await;
    assert_eq!(deleted.expect("deletes"), 1);
    assert_eq!(
        delete(&admin, "App::Doc", &["d00"]).await.expect("deletes"),
        0
    );
    assert_eq!(list(&admin, "App::Doc", 26).await.len(), 25);
    // Nothing of it is lost, or comes back.
    server.stop().await;
    server.start().await;
    let admin = server.admin();
    assert_eq!(get(&admin, "App::Doc", &["d00"]).await, []);
    assert_eq!(get(&admin, "App::Doc", &["D"]).await, [found[1].clone()]);
    assert_eq!(put(&admin, vec![doc("d01", "x")]).await.expect("puts"), 0);
    server.assert_verifies();
}

#[tokio::test]
async fn entities_live_in_sqlite() {
    lives(Database::Sqlite).await;
}

#[tokio::test]
async fn entities_live_in_postgres() {
    lives(Database::postgres().await).await;
}

#[tokio::test]
async fn what_is_wrong_with_entities_is_said_and_nothing_is_put() {
    let (server, admin) = with_schema(Database::Sqlite).await;
    let good = doc("good", "x");
    let two = |bad: v1::Entity| vec![good.clone(), bad];
    let doc_with = |attributes: &str| two(given("App::Doc", "bad", attributes, &[]));
    let many = vec![good.clone(); 10_001];
    let deep = format!(r#"{{"title":{}1{}}}"#, "[".repeat(40), "]".repeat(40));
    let long = json!({ "title": "x".repeat(33 * 1024) }).to_string();
    let in_many: Vec<_> = (0..257).map(|n| n.to_string()).collect();
    let in_many: Vec<_> = in_many.iter().map(|n| ("App::Team", n.as_str())).collect();
    for (what, entities, expected) in [
        ("none", vec![], "FIELD_INVALID"),
        ("too many", many, "LIMIT_EXCEEDED"),
        ("no uid", two(v1::Entity::default()), "FIELD_INVALID"),
        (
            "an empty id",
            two(given("App::Doc", "", "{}", &[])),
            "FIELD_INVALID",
        ),
        (
            "no type",
            two(given("App::", "x", "{}", &[])),
            "FIELD_INVALID",
        ),
        ("no JSON", doc_with("{"), "FIELD_INVALID"),
        ("a list", doc_with("[]"), "FIELD_INVALID"),
        (
            "a key twice",
            doc_with(r#"{"title":"a","title":"b"}"#),
            "FIELD_INVALID",
        ),
        ("deep", doc_with(&deep), "FIELD_INVALID"),
        ("long", doc_with(&long), "LIMIT_EXCEEDED"),
        (
            "in many",
            two(given("App::Doc", "bad", r#"{"title":"x"}"#, &in_many)),
            "LIMIT_EXCEEDED",
        ),
        ("missing", doc_with("{}"), "ENTITY_INVALID"),
        (
            "undeclared",
            doc_with(r#"{"title":"x","more":1}"#),
            "ENTITY_INVALID",
        ),
        ("another type", doc_with(r#"{"title":5}"#), "ENTITY_INVALID"),
        (
            "an escape",
            doc_with(r#"{"title":{"__entity":{"type":"App::Doc","id":"x"}}}"#),
            "ENTITY_INVALID",
        ),
        (
            "a type unknown",
            two(given("App::No", "x", "{}", &[])),
            "ENTITY_INVALID",
        ),
        (
            "a parent's type",
            two(given("App::Team", "x", "{}", &[("App::Doc", "d")])),
            "ENTITY_INVALID",
        ),
        ("twice", two(doc("good", "y")), "ENTITY_INVALID"),
        (
            "in itself",
            two(given("App::Team", "x", "{}", &[("App::Team", "x")])),
            "ENTITY_INVALID",
        ),
        (
            "an agent",
            two(given("ZTA::Agent", "x", "{}", &[])),
            "ENTITY_TYPE_RESERVED",
        ),
        (
            "a role",
            two(given("ZTA::Role", "admin", "{}", &[])),
            "ENTITY_TYPE_RESERVED",
        ),
        (
            "an action",
            two(given("App::Action", "x", "{}", &[])),
            "ENTITY_TYPE_RESERVED",
        ),
    ] {
        assert_eq!(refused(put(&admin, entities).await), expected, "{what}");
    }
    let status = put(&admin, doc_with(r#"{"title":5}"#))
        .await
        .expect_err("a misfit");
    assert_eq!(
        status.message(),
        r#"entities[1] App::Doc::"bad": `attributes.title` must be a string, found an integer"#
    );
    let team = |id: &str, of: &str| given("App::Team", id, "", &[("App::Team", of)]);
    let circle = vec![team("a", "b"), team("b", "c"), team("c", "a")];
    assert_eq!(refused(put(&admin, circle).await), "ENTITY_INVALID");
    // Neither in one batch nor by several.
    put(&admin, vec![team("a", "b"), team("b", "c")])
        .await
        .expect("no circle yet");
    assert_eq!(
        refused(put(&admin, vec![team("c", "a")]).await),
        "ENTITY_INVALID"
    );
    assert_eq!(list(&admin, "", 100).await, ["a", "b"], "all or none");
    let token = v1::EntityServiceListRequest {
        page_token: "zz".to_owned(),
        ..v1::EntityServiceListRequest::default()
    };
    assert_eq!(
        refused(admin.entities().list(token).await),
        "PAGE_TOKEN_INVALID"
    );
    server.assert_verifies();
}

#[tokio::test]
async fn each_act_is_decided_and_on_record_without_contents() {
    let (server, admin) = with_schema(Database::Sqlite).await;
    let secret = doc("d", "do-not-tell");
    put(&admin, vec![secret, given("ZTA::Tool", "t", "", &[])])
        .await
        .expect("puts");
    let refused_put = put(&admin, vec![given("App::Doc", "x", "{}", &[])]).await;
    assert_eq!(
        reason(&refused_put.expect_err("a misfit")),
        "ENTITY_INVALID"
    );
    delete(&admin, "App::Doc", &["d", "x"])
        .await
        .expect("deletes");
    let acts = events(&admin, &["admin"]).await;
    let acts: Vec<&Value> = acts.iter().map(|(_, leaf)| leaf).collect();
    let detail = |n: usize| (acts[n]["action"]["id"].clone(), acts[n]["detail"].clone());
    let (action, deleted) = detail(1);
    assert_eq!(action, "delete_entities");
    assert_eq!(
        (&deleted["given"], &deleted["changed"]),
        (&json!(2), &json!(1))
    );
    let (action, failed) = detail(2);
    assert_eq!(action, "put_entities");
    assert!(
        failed["failed"]
            .as_str()
            .is_some_and(|f| f.contains("is missing")),
        "{failed}"
    );
    let (_, done) = detail(3);
    assert_eq!(done["types"], json!({"App::Doc": 1, "ZTA::Tool": 1}));
    let line = concat!(
        r#"{"attributes":{"title":"do-not-tell"},"id":"d","parents":[{"id":"t","type":"App::Team"}],"#,
        r#""tags":{},"type":"App::Doc"}"#,
        "\n",
        r#"{"attributes":{},"id":"t","parents":[],"tags":{},"type":"ZTA::Tool"}"#,
        "\n"
    );
    let digest = zta_server::model::arguments::sha256(line.as_bytes());
    assert_eq!(done["sha256"], hex::encode(digest));
    assert!(
        !serde_json::to_string(&acts)
            .expect("json")
            .contains("do-not-tell")
    );
    assert!(!server.log().contains("do-not-tell"));
    // An agent may not, and that is on record too.
    let agent = server.agent("research", &["researcher"]).await;
    let status = put(&agent, vec![doc("d", "x")]).await.expect_err("denied");
    assert_eq!(reason(&status), "NOT_PERMITTED");
    let get = v1::EntityServiceGetRequest {
        uids: entity("App::Doc", "d").into_iter().collect(),
        at_least_as_fresh: None,
    };
    assert_eq!(refused(agent.entities().get(get).await), "NOT_PERMITTED");
    let (sequence, _) = events(&admin, &["admin"]).await[1].clone();
    let denied = event(&admin, sequence).await;
    assert_eq!(
        (&denied["action"]["id"], &denied["effect"]),
        (&json!("read_entities"), &json!("deny"))
    );
}

#[tokio::test]
async fn a_schema_that_stored_entities_do_not_fit_is_refused() {
    let (server, admin) = with_schema(Database::Sqlite).await;
    let docs: Vec<_> = (0..12).map(|n| doc(&format!("d{n}"), "1.5")).collect();
    put(&admin, docs).await.expect("puts");
    for (what, schema) in [
        ("a type is gone", SCHEMA.replace("Doc", "Page")),
        (
            "another type",
            SCHEMA.replace("title: String", "title: Long"),
        ),
        (
            "one more",
            SCHEMA.replace("title: String", "title: String, size: Long"),
        ),
        (
            "another parent",
            SCHEMA.replace("in [Team, ZTA::Group]", "in [ZTA::Group]"),
        ),
    ] {
        let status = apply_schema(&admin, &schema).await.expect_err(what);
        assert_eq!(reason(&status), "POLICY_INVALID", "{what}");
        assert!(
            status.message().contains("App::Doc::\"d"),
            "{what}: {}",
            status.message()
        );
    }
    // A text can become a decimal, and then reads as one.
    apply_schema(&admin, &SCHEMA.replace("title: String", "title: decimal"))
        .await
        .expect("fits");
    let found = get(&admin, "App::Doc", &["d3"]).await;
    assert_eq!(found[0].attributes_json, r#"{"title":"1.5"}"#);
    assert_eq!(
        refused(put(&admin, vec![doc("d3", "x")]).await),
        "ENTITY_INVALID"
    );
    drop(server);
}

#[tokio::test]
async fn the_command_line_puts_gets_lists_and_deletes() {
    let (server, _) = with_schema(Database::Sqlite).await;
    let file = server.folder().join("docs.jsonl");
    let lines = [
        r#"{"uid":{"type":"App::Doc","id":"a"},"attrs":{"title":"x","price":{"__extn":{"fn":"decimal","arg":"1.50"}}},"parents":[{"type":"App::Team","id":"t"}]}"#,
        r#"{"uid":{"__entity":{"type":"App::Doc","id":"b"}},"attrs":{"title":"y","owner":{"__entity":{"type":"App::Doc","id":"a"}}},"parents":[],"tags":{"k":"v"}}"#,
        "",
        r#"{"type":"ZTA::Tool","id":"t"}"#,
    ];
    std::fs::write(&file, lines.join("\n")).expect("write");
    let run = |arguments: &[&str]| {
        let output = server.zta(arguments);
        (
            output.status.code(),
            text(&output.stdout) + &text(&output.stderr),
        )
    };
    let path = file.to_str().expect("a path");
    let (code, said) = run(&["entity", "put", path, "--json"]);
    assert_eq!((code, said.trim()), (Some(0), r#"{"put":3,"changed":3}"#));
    let (code, said) = run(&["entity", "get", "App::Doc", "b"]);
    assert_eq!(code, Some(0), "{said}");
    let got: Value = serde_json::from_str(&said).expect("json");
    assert_eq!(
        got["attrs"],
        json!({"title": "y", "owner": {"type": "App::Doc", "id": "a"}})
    );
    // What is shown can be put again: as a list, and changes nothing.
    let (_, all) = run(&["entity", "list", "--json"]);
    let all: Vec<&str> = all.lines().collect();
    assert_eq!(all.len(), 3);
    std::fs::write(&file, format!("[{}]", all.join(","))).expect("write");
    let (_, said) = run(&["entity", "put", path]);
    assert_eq!(said.trim(), "put 3, of which 0 are new or changed");
    let (_, said) = run(&["entity", "list", "--type", "App::Doc", "--limit", "1"]);
    assert_eq!(said.lines().count(), 2, "{said}");
    let (_, said) = run(&["entity", "delete", "App::Doc", "a", "b", "c"]);
    assert_eq!(said.trim(), "deleted 2");
    assert_eq!(run(&["entity", "get", "App::Doc", "a"]).0, Some(1));
    std::fs::write(&file, "{\"uid\":1}").expect("write");
    let (code, said) = run(&["entity", "put", path]);
    assert_eq!(code, Some(1));
    assert!(said.contains("line 1"), "{said}");
}
