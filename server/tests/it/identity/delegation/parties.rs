//! What policies see of the parties, also where a party is what the request is about.

use zta_client::v1;

use super::{acting, serve};
use crate::support::Database;
use crate::support::rpc::{authorize_with_token, call, entity};

/// Looks at nothing but the context.
const RULE: &str = r#"
@id("t.talk") permit (principal, action == ZTA::Action::"send_message", resource);
@id("t.quiet") forbid (principal, action == ZTA::Action::"send_message", resource)
  when { context.zta has delegation && context.zta.delegation has agent &&
         context.zta.delegation.agent in ZTA::Role::"quiet" };
"#;

#[tokio::test]
async fn a_forbid_over_who_is_acted_for_forbids_a_message_to_that_very_one() {
    let server = serve(Database::Sqlite).await;
    let admin = server.admin();
    let patch = v1::PolicyPatch {
        put_policies: vec![v1::SourceFile {
            name: "talk.cedar".to_owned(),
            text: RULE.to_owned(),
        }],
        ..Default::default()
    };
    let apply = v1::ApplyRequest {
        patch: Some(patch),
        expected_revision: 1,
        ..Default::default()
    };
    admin.policies().apply(apply).await.expect("applied");
    let quiet = server.agent("quiet", &["quiet"]).await;
    let helper = server.agent("helper", &[]).await;
    server.register("third", &[]).await;
    let token = acting(&quiet, &helper, "helper").await;
    // All parties are principal or resource of the first request, and none of the others'.
    for to in ["quiet", "third", "helper"] {
        let message = v1::AuthorizeRequest {
            action: entity("ZTA::Action", "send_message"),
            resource: entity("ZTA::Agent", &format!("spiffe://zta.local/agent/{to}")),
            ..call("unused")
        };
        let answer = authorize_with_token(&helper, message, &token).await;
        let answer = answer.expect("a decision");
        assert_eq!(
            answer.reason(),
            v1::DenyReason::Forbidden,
            "{to}: {answer:?}"
        );
    }
}
