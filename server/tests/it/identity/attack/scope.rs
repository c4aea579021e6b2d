//! A scope over one resource is stretched to others whose ids begin with its own.

use zta_client::{Client, v1};

use crate::identity::delegation::{act, allowed, decided, delegate, delegate_by, serve};
use crate::support::rpc::{authorize_with_token, entity, refused};
use crate::support::{Database, Setup, repository};

/// Files that somebody reads, and an action whose name reads like one of them.
const FILES: &str = r#"
namespace Files {
  entity File;
  action "read", "read:payroll" appliesTo {
    principal: [ZTA::Agent, ZTA::User],
    resource: [File],
    context: { zta: ZTA::Facts, request: ZTA::PepContext },
  };
}"#;
const READERS: &str = r#"
@id("test.read")
permit (principal, action in [Files::Action::"read", Files::Action::"read:payroll"], resource);
@id("test.delegate")
permit (principal, action == ZTA::Action::"delegate", resource);
"#;

/// Whether something is allowed to one who acts by this token.
async fn reads(client: &Client, token: &str, action: &str, file: &str) -> bool {
    let request = v1::AuthorizeRequest {
        action: entity("Files::Action", action),
        resource: entity("Files::File", file),
        ..Default::default()
    };
    let answer = authorize_with_token(client, request, token).await;
    answer.expect("a decision").effect() == v1::Effect::Allow
}

#[tokio::test]
async fn a_scope_over_a_resource_is_none_over_an_action_that_is_called_alike() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["admin.cedar", "base.cedar"] {
        let from = repository("policies").join(name);
        std::fs::copy(from, folder.path().join(name)).expect("copy");
    }
    std::fs::write(folder.path().join("own.cedar"), READERS).expect("written");
    std::fs::write(folder.path().join("own.cedarschema"), FILES).expect("written");
    let setup = Setup::sqlite().policies(&[]);
    let server = setup.set("ZTA_POLICY_DIR", folder.path().display());
    let server = server.start().await;
    let admin = server.admin();
    let research = server.agent("research", &[]).await;
    let scope = ["Files::Action::read:payroll"];
    let grant = delegate(&admin, "research", &scope).await;
    let grant = grant.expect("a grant");
    let token = act(&research, &grant, &[]).await.expect("a token");
    assert!(reads(&research, &token, "read", "payroll").await);
    assert!(!reads(&research, &token, "read", "secrets").await);
    // Else whoever may read one file could do what is called so to each one.
    assert!(!reads(&research, &token, "read:payroll", "secrets").await);
    for entry in ["", ":a", "read:", "Files::Action::"] {
        let refusal = delegate(&admin, "research", &[entry]).await;
        assert_eq!(refused(refusal), "FIELD_INVALID", "{entry}");
    }
    // Without a scope it may be done, for the policies permit it.
    let grant = delegate(&admin, "research", &[]).await.expect("a grant");
    let token = act(&research, &grant, &[]).await.expect("a token");
    assert!(reads(&research, &token, "read:payroll", "secrets").await);
}

#[tokio::test]
async fn a_scope_over_a_resource_covers_none_whose_id_only_begins_like_it() {
    let server = serve(Database::Sqlite).await;
    let admin = server.admin();
    let shared = |tool: &str| v1::Entity {
        uid: entity("ZTA::Tool", tool),
        parents: entity("ZTA::Group", "shared").into_iter().collect(),
        ..Default::default()
    };
    let entities = ["files", "files:payroll"].map(shared).to_vec();
    let put = v1::EntityServicePutRequest { entities };
    admin.entities().put(put).await.expect("put");
    let research = server.agent("research", &[]).await;
    server.agent("analysis", &[]).await;

    let narrow = delegate(&admin, "research", &["call_tool:files", "delegate"]).await;
    let narrow = narrow.expect("a grant");
    let token = act(&research, &narrow, &[]).await.expect("a token");
    allowed(&research, "files", &token).await;
    let beyond = decided(&research, "files:payroll", &token).await;
    assert_eq!(beyond.reason(), v1::DenyReason::Delegation);

    // Neither when the grant is redeemed, nor when it is handed on.
    let wider = ["call_tool:files:payroll"];
    let redeemed = act(&research, &narrow, &wider).await;
    assert_eq!(refused(redeemed), "DELEGATION_INVALID");
    let handed_on = delegate_by(&research, "analysis", &wider, Some(&token)).await;
    assert_eq!(refused(handed_on), "DELEGATION_INVALID");

    // One over the action covers each resource of it, whatever its id.
    let whole = delegate(&admin, "research", &["call_tool"]).await;
    let token = act(&research, &whole.expect("a grant"), &wider).await;
    allowed(&research, "files:payroll", &token.expect("a token")).await;
}
