use aws_lc_rs::hmac;
use serde_json::json;

use super::*;
use crate::model::arguments::Arguments;

fn keyed(key: &[u8]) -> KeyedHash {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    Arc::new(move |message| hmac::sign(&key, message).as_ref().try_into().ok())
}

fn recorded(redaction: &Redaction, text: &str) -> Value {
    let arguments = Arguments::parse(text.as_bytes()).expect("parses");
    let written = Node::Fields(arguments.fields()).recorded(redaction);
    serde_json::from_slice(&written).expect("JSON")
}

#[test]
fn paths_stars_and_any_depth() {
    let rules = Redaction::new(&["input.card", "input.rows.*.ssn", "**.password"]);
    let mut value = json!({
        "input": {"card": "4111", "rows": [{"ssn": 1, "x": 2}], "deep": {"Password": {"a": 1}}},
        "password": "p", "card": "kept"
    });
    rules.apply(&mut value);
    assert_eq!(
        value,
        json!({
            "input": {"card": REDACTED, "rows": [{"ssn": REDACTED, "x": 2}], "deep": {"Password": REDACTED}},
            "password": REDACTED, "card": "kept"
        })
    );
}

/// Computed with OpenSSL: `printf 'zta-redaction-v1\\0"4111"' | openssl dgst -sha256 -mac
/// HMAC -macopt key:<the key>`.
#[test]
fn one_value_has_one_hash_wherever_it_stands_and_anybody_with_the_key_can_compute_it() {
    let rules =
        Redaction::new(&["**.password"]).hashing(&["**.card", "who"], keyed(b"a key of the test"));
    let value = recorded(
        &rules,
        r#"{"card":"4111","a":[{"CARD":"4111"}],"who":{"x":1.0,"card":2}}"#,
    );
    let expected = "zta:hmac:09ceb2b6f021a5b2467d613cb2fe0dea4d3e1f83ac75f3745e76d4bb5f92f604";
    assert_eq!(value["card"], expected);
    assert_eq!(value["a"][0]["CARD"], expected);
    let same = recorded(&rules, r#"{"who":{"card":2,"x":1}}"#);
    assert_eq!(value["who"], same["who"], "the canonical form is hashed");
    let mut applied = json!({"card": "4111", "who": {"x": 1, "card": 2}});
    rules.apply(&mut applied);
    assert_eq!(
        (&applied["card"], &applied["who"]),
        (&value["card"], &value["who"])
    );
    let other = Redaction::default().hashing(&["card"], keyed(b"another key"));
    assert_ne!(recorded(&other, r#"{"card":"4111"}"#)["card"], expected);
}

#[test]
fn what_is_to_be_dropped_is_not_hashed_and_without_a_key_nothing_stays() {
    let rules = Redaction::new(&["a.b"]).hashing(&["**.b", "a.*"], keyed(b"k"));
    assert_eq!(recorded(&rules, r#"{"a":{"b":1}}"#)["a"]["b"], REDACTED);
    let rules = Redaction::default().hashing(&["a"], Arc::new(|_| None));
    assert_eq!(recorded(&rules, r#"{"a":{"b":1}}"#)["a"], REDACTED);
}

#[test]
fn a_caller_cannot_forge_what_redaction_writes() {
    let rules = Redaction::default().hashing(&["card"], keyed(b"k"));
    let hash = recorded(&rules, r#"{"card":"4111"}"#)["card"]
        .as_str()
        .expect("a hash")
        .to_owned();
    for forged in [&*hash, REDACTED, "zta:hmac:"] {
        let text = json!({ "other": forged, "card": forged }).to_string();
        let value = recorded(&rules, &text);
        assert_eq!(value["other"], format!("zta:str:{forged}"));
        assert_ne!(
            value["card"],
            hash.as_str(),
            "hashed as the text that it is"
        );
        let mut applied = json!({ "other": forged });
        rules.apply(&mut applied);
        assert_eq!(applied["other"], format!("zta:str:{forged}"));
    }
}
