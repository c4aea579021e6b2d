//! Decisions through each door: the golden tables of `policies/cases`, hostile input,
//! and batches.

mod gate;
mod golden;

use zta_client::v1::batch_authorize_item::Result as Item;
use zta_client::{Client, v1};
use zta_server::store::AuditStore as _;
use zta_server::store::sqlite::SqliteStore;

use crate::support::rpc::{
    allowed, authorize, call, call_with, denied, entity, event, reason, refused,
};
use crate::support::{Server, Setup};

async fn research() -> (Server, Client) {
    let server = Setup::sqlite().start().await;
    let research = server.agent("research", &["researcher"]).await;
    (server, research)
}

/// Arguments of a given size whose one field is a text.
fn arguments_of(bytes: usize) -> Vec<u8> {
    let mut json = br#"{"q":""#.to_vec();
    json.resize(bytes - 2, b'a');
    json.extend_from_slice(br#""}"#);
    json
}

fn nested(levels: usize) -> String {
    // The object itself is one level.
    format!(
        r#"{{"q":{}1{}}}"#,
        "[".repeat(levels - 1),
        "]".repeat(levels - 1)
    )
}

#[tokio::test]
async fn hostile_arguments_are_decided_or_refused_and_the_server_goes_on() {
    let (server, research) = research().await;
    let invalid = v1::DenyReason::InvalidArguments;
    let deep = "[".repeat(100_000);
    for (what, arguments) in [
        ("invalid UTF-8", b"{\"q\":\"\xff\xfe\"}".to_vec()),
        ("a lone surrogate", br#"{"q":"\ud800"}"#.to_vec()),
        ("an overlong NUL", b"{\"q\":\"\xc0\x80\"}".to_vec()),
        ("33 levels", nested(33).into_bytes()),
        ("100,000 levels", format!(r#"{{"q":{deep}"#).into_bytes()),
        ("over 256 KiB", arguments_of(256 * 1024 + 1)),
        ("nearly 8 MiB", arguments_of(8_000_000)),
        ("two objects", b"{} {}".to_vec()),
        ("a number beyond doubles", br#"{"q":1e400}"#.to_vec()),
    ] {
        let got = denied(&research, call_with("web_search", arguments)).await;
        assert_eq!(got, invalid, "{what}");
    }
    for (what, arguments) in [
        ("32 levels", nested(32).into_bytes()),
        ("256 KiB", arguments_of(256 * 1024)),
        ("line breaks", br#"{"q":"a\nb\r\u2028\u0000"}"#.to_vec()),
        ("right-to-left", "{\"q\":\"\u{202e}gnp\"}".into()),
        (
            "2^63 and beyond",
            br#"{"q":[9223372036854775808,1e308,-0.0]}"#.to_vec(),
        ),
        ("nothing", Vec::new()),
    ] {
        let answer = authorize(&research, call_with("web_search", arguments)).await;
        assert_eq!(answer.expect(what).effect(), v1::Effect::Allow, "{what}");
    }
    server.assert_verifies();
}

#[tokio::test]
async fn what_is_over_a_limit_is_refused_by_the_limits_name() {
    let (server, research) = research().await;
    let refused_for = async |request| {
        let status = authorize(&research, request)
            .await
            .expect_err("over the limit");
        assert_eq!(reason(&status), "LIMIT_EXCEEDED", "{status:?}");
        tonic_types::StatusExt::get_details_error_info(&status)
            .expect("info")
            .metadata["limit"]
            .clone()
    };
    let ten_megabytes = call_with("web_search", arguments_of(10_000_000));
    assert_eq!(refused_for(ten_megabytes).await, "message_bytes_max");
    let long_id = call(&"x".repeat(1025));
    assert_eq!(refused_for(long_id).await, "resource");
    let long_context = v1::AuthorizeRequest {
        context_json: arguments_of(64 * 1024 + 1),
        ..call("web_search")
    };
    assert_eq!(refused_for(long_context).await, "context_json");
    let long_name = v1::AuthorizeRequest {
        correlation_id: "x".repeat(257),
        ..call("web_search")
    };
    assert_eq!(refused_for(long_name).await, "correlation_id");
    let many_obligations = v1::AuthorizeRequest {
        supported_obligations: vec!["x".to_owned(); 65],
        ..call("web_search")
    };
    assert_eq!(refused_for(many_obligations).await, "supported_obligations");
    allowed(&research, call("web_search")).await;
    drop(server);
}

#[tokio::test]
async fn a_field_that_is_missing_or_malformed_is_named() {
    let (_server, research) = research().await;
    let request = call("web_search");
    for (field, broken) in [
        (
            "action",
            v1::AuthorizeRequest {
                action: None,
                ..request.clone()
            },
        ),
        (
            "resource",
            v1::AuthorizeRequest {
                resource: None,
                ..request.clone()
            },
        ),
        (
            "resource",
            v1::AuthorizeRequest {
                resource: entity("ZTA::Tool", ""),
                ..request.clone()
            },
        ),
        (
            "resource",
            v1::AuthorizeRequest {
                resource: entity("", "x"),
                ..request.clone()
            },
        ),
        (
            "arguments_sha256",
            v1::AuthorizeRequest {
                arguments_sha256: vec![0; 31],
                ..request.clone()
            },
        ),
        (
            "traceparent",
            v1::AuthorizeRequest {
                traceparent: "00-x".into(),
                ..request.clone()
            },
        ),
        (
            "session_id",
            v1::AuthorizeRequest {
                session_id: "a\nb".into(),
                ..request.clone()
            },
        ),
        (
            "user",
            v1::AuthorizeRequest {
                user: "a\u{0}b".into(),
                ..request.clone()
            },
        ),
    ] {
        let status = authorize(&research, broken).await.expect_err(field);
        assert_eq!(reason(&status), "FIELD_INVALID", "{status:?}");
        let bad = tonic_types::StatusExt::get_details_bad_request(&status).expect("BadRequest");
        assert_eq!(bad.field_violations[0].field, field, "{status:?}");
    }
}

#[tokio::test]
async fn the_digest_binds_a_decision_to_these_arguments() {
    let (server, research) = research().await;
    let arguments = br#"{"b": 1.0, "a": "x"}"#;
    let canonical = zta_server::model::arguments::sha256(br#"{"a":"x","b":1}"#);
    let right = v1::AuthorizeRequest {
        arguments_sha256: canonical.to_vec(),
        ..call_with("web_search", arguments)
    };
    let answer = allowed(&research, right.clone()).await;
    // Beside the log and under its salted commitment, not in the leaf: unsalted, a digest
    // lets short arguments be guessed.
    let leaf = event(&server.admin(), answer.sequence).await;
    assert!(
        !leaf.to_string().contains(&hex::encode(canonical)),
        "{leaf}"
    );
    let store = SqliteStore::open(&server.data().join("zta.db"))
        .await
        .expect("store");
    let stored = store
        .read(answer.sequence, 1)
        .await
        .expect("read")
        .remove(0);
    let inputs = stored.inputs.expect("inputs").json;
    let inputs: serde_json::Value = serde_json::from_slice(&inputs).expect("json");
    assert_eq!(inputs["arguments_sha256"], hex::encode(canonical));

    let of_others = v1::AuthorizeRequest {
        arguments_sha256: vec![7; 32],
        ..right.clone()
    };
    assert_eq!(
        denied(&research, of_others).await,
        v1::DenyReason::InvalidArguments
    );
    // A digest without arguments is the digest of no arguments, or wrong.
    let without = v1::AuthorizeRequest {
        arguments_json: Vec::new(),
        ..right
    };
    assert_eq!(
        denied(&research, without).await,
        v1::DenyReason::InvalidArguments
    );
}

/// Sends a batch.
async fn batch(
    client: &Client,
    requests: Vec<v1::AuthorizeRequest>,
) -> Result<Vec<v1::BatchAuthorizeItem>, tonic::Status> {
    let request = v1::BatchAuthorizeRequest { requests };
    let answer = client.authorization().batch_authorize(request).await;
    answer.map(|answer| answer.into_inner().items)
}

#[tokio::test]
async fn a_batch_keeps_its_order_and_one_bad_item_does_not_poison_the_rest() {
    let (server, research) = research().await;
    let requests: Vec<_> = (0..256)
        .map(|i| {
            let mut request = match i % 4 {
                0 => call("web_search"),
                1 => call("publish_report"),
                2 => v1::AuthorizeRequest {
                    resource: None,
                    ..call("")
                },
                _ => call_with("web_search", "not JSON"),
            };
            request.correlation_id = format!("item-{i}");
            request
        })
        .collect();
    let items = batch(&research, requests).await.expect("a batch of 256");
    assert_eq!(items.len(), 256);
    let admin = server.admin();
    let mut sequences = std::collections::BTreeSet::new();
    for (i, item) in items.into_iter().enumerate() {
        assert_eq!(item.correlation_id, format!("item-{i}"));
        let result = item.result.expect("a result");
        match (i % 4, result) {
            (2, Item::Error(error)) => {
                assert_eq!((error.code, error.reason.as_str()), (3, "FIELD_INVALID"));
            }
            (kind, Item::Decision(decision)) => {
                let expected = match kind {
                    0 => v1::DenyReason::Unspecified,
                    // A declared tool: that its arguments are missing is seen first.
                    _ => v1::DenyReason::InvalidArguments,
                };
                assert_eq!(decision.reason(), expected, "{decision:?}");
                let effect = if kind == 0 {
                    v1::Effect::Allow
                } else {
                    v1::Effect::Deny
                };
                assert_eq!(decision.effect(), effect);
                assert_eq!(decision.correlation_id, format!("item-{i}"));
                assert!(sequences.insert(decision.sequence), "a place of its own");
                if i < 32 {
                    let leaf = event(&admin, decision.sequence).await;
                    assert_eq!(leaf["correlation_id"], decision.correlation_id);
                }
            }
            (kind, other) => panic!("item {i} of kind {kind}: {other:?}"),
        }
    }
    assert_eq!(sequences.len(), 192);
    let first = sequences.first().expect("one");
    let places = *first..first + 192;
    assert!(sequences.into_iter().eq(places), "one after the other");
}

#[tokio::test]
async fn a_batch_is_neither_empty_nor_over_its_limit() {
    let (_server, research) = research().await;
    assert_eq!(refused(batch(&research, Vec::new()).await), "FIELD_INVALID");
    let status = batch(&research, vec![call("web_search"); 257])
        .await
        .expect_err("257");
    assert_eq!(reason(&status), "LIMIT_EXCEEDED");
    assert!(status.message().contains("requests: 257"), "{status:?}");
}
