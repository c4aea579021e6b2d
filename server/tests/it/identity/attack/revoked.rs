//! What an agent holds is turned into a new token after its tokens were revoked.

use zta_client::v1;

use crate::identity::delegation::{act, delegate, serve};
use crate::support::Database;
use crate::support::rpc::{entity, refused};

#[tokio::test]
async fn revoking_an_agents_tokens_ends_the_grants_that_name_it() {
    for database in Database::both().await {
        let server = serve(database).await;
        let admin = server.admin();
        let research = server.agent("research", &[]).await;
        let held = delegate(&admin, "research", &[]).await.expect("a grant");
        act(&research, &held, &[]).await.expect("a token");
        let id = "spiffe://zta.local/agent/research";
        let revoked = v1::revoke_tokens_request::Revoked::Principal(
            entity("ZTA::Agent", id).expect("an entity"),
        );
        let request = v1::RevokeTokensRequest {
            revoked: Some(revoked),
            note: "its machine was seen elsewhere".to_owned(),
        };
        let done = admin.authentication().revoke_tokens(request).await;
        done.expect("revokes");
        let again = act(&research, &held, &[]).await;
        assert_eq!(refused(again), "DELEGATION_INVALID");
    }
}
