//! A scope over one resource is stretched to others whose ids begin with its own.

use zta_client::v1;

use crate::identity::delegation::{act, allowed, decided, delegate, delegate_by, serve};
use crate::support::Database;
use crate::support::rpc::{entity, refused};

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
