//! Policies at the edge of what the gates let through, asked in every way.

use std::fmt::Write as _;

use zta_client::v1;
use zta_client::v1::batch_authorize_item::Result as Item;

use super::{of_clerk, refund, shop, tools};
use crate::support::rpc::{authorize, call, refused};

fn patch(name: &str, text: String, expected_revision: u64) -> v1::ApplyRequest {
    let put = v1::SourceFile {
        name: name.to_owned(),
        text,
    };
    v1::ApplyRequest {
        patch: Some(v1::PolicyPatch {
            put_policies: vec![put],
            ..Default::default()
        }),
        expected_revision,
        ..Default::default()
    }
}

/// As deep as a statement may be: whoever recurses over it must not end the process, and
/// a forbid that is too deep to evaluate denies.
#[tokio::test]
async fn the_deepest_policy_ends_no_thread() {
    let (mut server, admin, clerk) = shop().await;
    let deep = format!("1{}", "+1".repeat(15_900));
    let text = format!(
        "@id(\"deep\") forbid (principal, action == Shop::Action::\"refund\", resource)\n\
         when {{ {deep} > 0 && context.input.amount > 0 }};"
    );
    let applied = admin.policies().apply(patch("deep.cedar", text, 2)).await;
    applied.expect("applied");
    let asked = async || {
        let answer = authorize(&clerk, refund(1)).await.expect("a decision");
        assert_eq!(
            answer.reason(),
            v1::DenyReason::EvaluationError,
            "{answer:?}"
        );
        let listed = clerk
            .authorization()
            .list_permitted(tools(&["refund"]))
            .await;
        let listed = listed.expect("a page").into_inner();
        assert!(listed.permitted.iter().all(|p| p.conditional), "{listed:?}");
        let story = admin.authorization().explain(of_clerk(refund(1))).await;
        let story = story.expect("a story").into_inner();
        assert_eq!(story.reason(), v1::DenyReason::EvaluationError);
    };
    asked().await;
    // Loaded again, and then dropped.
    assert!(server.stop().await.success());
    server.start().await;
    asked().await;
    let gone = patch("deep.cedar", "// nothing left".to_owned(), 3);
    admin.policies().apply(gone).await.expect("applied");
    let answer = authorize(&clerk, refund(1)).await.expect("a decision");
    assert_eq!(answer.effect(), v1::Effect::Allow);
}

/// A decision whose leaf would be too large is none, and takes nothing else with it.
#[tokio::test]
async fn a_leaf_too_large_does_not_poison_its_batch() {
    let (server, admin, clerk) = shop().await;
    let mut text = String::new();
    for n in 0..300 {
        let id = format!("many.{n:0>120}");
        writeln!(
            text,
            "@id(\"{id}\") permit (principal, action, resource == ZTA::Tool::\"many\");"
        )
        .expect("a text");
    }
    let applied = admin.policies().apply(patch("many.cedar", text, 2)).await;
    applied.expect("applied");
    assert_eq!(
        refused(authorize(&clerk, call("many")).await),
        "LIMIT_EXCEEDED"
    );
    let requests = ["search", "many", "search"].map(call).to_vec();
    let batch = v1::BatchAuthorizeRequest { requests };
    let answer = clerk.authorization().batch_authorize(batch).await;
    let items = answer.expect("a batch").into_inner().items;
    let sequence = |n: usize| match &items[n].result {
        Some(Item::Decision(decision)) => {
            assert_eq!(decision.effect(), v1::Effect::Allow);
            decision.sequence
        }
        other => panic!("item {n}: {other:?}"),
    };
    assert_eq!(sequence(2), sequence(0) + 1);
    let Some(Item::Error(error)) = &items[1].result else {
        panic!("{:?}", items[1]);
    };
    assert_eq!(error.reason, "LIMIT_EXCEEDED");
    server.assert_verifies();
}
