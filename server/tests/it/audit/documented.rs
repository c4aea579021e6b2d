//! `docs/audit/events.md` is what software that is not ours is written from.

use std::collections::BTreeSet;

use serde_json::Value;
use zta_server::model::event::LEAF_VERSION;
use zta_server::model::{Event, EventType};

use crate::support::documented::{EVENTS, TYPES, assert_documented};
use crate::support::rpc::events;
use crate::support::{Database, Setup, eventually, repository};

#[test]
fn each_type_has_its_section_and_each_example_is_an_event() {
    let known: BTreeSet<&str> = EventType::ALL.iter().map(|kind| kind.as_str()).collect();
    let documented: BTreeSet<&str> = TYPES.keys().copied().collect();
    assert_eq!(documented, known);
    assert!(EVENTS.contains(&format!("this is version **{LEAF_VERSION}**")));
    for (kind, documented) in TYPES.iter() {
        assert!(!documented.examples.is_empty(), "{kind}: no example");
        for example in &documented.examples {
            let value: Value = serde_json::from_str(example).expect(kind);
            let canonical = serde_json_canonicalizer::to_vec(&value).expect("canonical");
            let event = Event::from_leaf(&canonical).unwrap_or_else(|e| panic!("{kind}: {e}"));
            assert_eq!(event.kind.as_str(), *kind);
            assert_documented(&value);
        }
    }
}

/// Where no test comes by, too: a key that the source names is in the text.
#[test]
fn each_key_that_the_source_writes_is_documented() {
    let all: BTreeSet<&str> = TYPES
        .values()
        .flat_map(|d| d.keys.iter().copied())
        .collect();
    let mut folders = vec![repository("server/src")];
    let mut found = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("a file");
            let written = text
                .split("with_detail(")
                .chain(text.split("detail.insert("))
                .skip(1);
            for rest in written {
                let Some(rest) = rest.trim_start().strip_prefix('"') else {
                    continue;
                };
                let key = rest.split('"').next().unwrap_or_default();
                assert!(
                    all.contains(key),
                    "{}: `{key}` is not in events.md",
                    path.display()
                );
                found += 1;
            }
        }
    }
    assert!(found > 40, "{found}");
}

#[tokio::test]
async fn a_start_says_what_it_was_configured_with_and_which_keys_it_has() {
    for database in Database::both().await {
        let name = database.name();
        let mut server = Setup::on(database).start().await;
        // From the second start on it listens where the first one did.
        for _ in 0..2 {
            assert!(server.stop().await.success());
            server.start().await;
        }
        assert!(server.stop().await.success());
        server.set("ZTA_TOKEN_LIFETIME_S", 599);
        server.start().await;
        let admin = server.admin();
        let starts = events(&admin, &["server_started"]).await;
        let settings = |at: usize| {
            starts[at].1["detail"]["settings"]
                .as_object()
                .expect("settings")
        };
        let of = |at: usize, key: &str| starts[at].1["detail"][key].clone();
        assert_eq!(
            of(2, "settings_sha256"),
            of(1, "settings_sha256"),
            "{name}: alike"
        );
        assert_ne!(
            of(1, "settings_sha256"),
            of(0, "settings_sha256"),
            "{name}: changed"
        );
        assert_ne!(of(2, "replica"), of(1, "replica"));
        let names: BTreeSet<&String> = settings(0).keys().chain(settings(1).keys()).collect();
        let differ = names
            .into_iter()
            .filter(|name| settings(0).get(*name) != settings(1).get(*name));
        assert_eq!(differ.collect::<Vec<_>>(), ["token_lifetime_s"], "{name}");
        // SHA-256 of `599`.
        let digest = hex::encode(zta_server::model::arguments::sha256(b"599"));
        assert_eq!(settings(0)["token_lifetime_s"], digest);
        let url = settings(0).get("database_url").and_then(Value::as_str);
        assert_eq!(url.is_some(), name == "postgres");
        assert!(url.is_none_or(|url| url.starts_with("hmac:")), "{url:?}");

        let keys = async |kind: &str| {
            let events = events(&admin, &[kind]).await;
            let names = events
                .iter()
                .map(|(_, leaf)| leaf["detail"]["key"].as_str().map(str::to_owned));
            let mut names: Vec<String> = names.map(|name| name.expect("a key")).collect();
            names.sort();
            names
        };
        let own = ["ca", "log", "redaction", "server-tls", "token"];
        assert_eq!(keys("key_made").await, own, "{name}: made once");
        let loaded = keys("key_loaded").await;
        for key in own {
            let times = loaded.iter().filter(|name| *name == key).count();
            assert!(times >= 2, "{name}: `{key}` was loaded {times} times");
        }
        assert_eq!(loaded.contains(&"keyring".to_owned()), name == "postgres");
        admin.authenticate().await.expect("a token");
        eventually("the use of the token's key is on record", async || {
            let used = keys("key_used").await;
            used.contains(&"token".to_owned()).then_some(()).ok_or(used)
        })
        .await;
    }
}
