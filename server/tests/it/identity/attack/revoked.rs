//! What an agent holds is turned into a new token after its tokens were revoked.

use zta_client::{Client, v1};

use crate::identity::delegation::{act, delegate, delegate_by, serve};
use crate::support::Database;
use crate::support::rpc::{authorize_with_token, call, entity, events, refused};

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

/// Makes one token or grant void by its id.
async fn revoke_id(admin: &Client, id: &str) {
    let request = v1::RevokeTokensRequest {
        revoked: Some(v1::revoke_tokens_request::Revoked::TokenId(id.to_owned())),
        note: String::new(),
    };
    let done = admin.authentication().revoke_tokens(request).await;
    done.expect("revokes");
}

/// What the newest event of a type says in a detail.
async fn newest(admin: &Client, kind: &str, detail: &str) -> String {
    let events = events(admin, &[kind]).await;
    let id = events[0].1["detail"][detail].as_str();
    id.expect("an id").to_owned()
}

/// The reason for which a token is no good.
async fn void(client: &Client, token: &str) -> String {
    refused(authorize_with_token(client, call("files"), token).await)
}

#[tokio::test]
async fn what_was_made_from_a_revoked_grant_or_token_is_void_to_the_last_hop() {
    for database in Database::both().await {
        let server = serve(database).await;
        let admin = server.admin();
        let research = server.agent("research", &[]).await;
        let analysis = server.agent("analysis", &[]).await;
        let writing = server.agent("writing", &[]).await;
        for of_the_token in [false, true] {
            let grant = delegate(&admin, "research", &[]).await.expect("a grant");
            let grant_id = newest(&admin, "delegated", "grant_id").await;
            let first = act(&research, &grant, &[]).await.expect("a token");
            let token_id = newest(&admin, "token_exchanged", "token_id").await;
            let onward = delegate_by(&research, "analysis", &[], Some(&first)).await;
            let onward = onward.expect("a grant");
            let second = act(&analysis, &onward, &[]).await.expect("a token");
            let last = delegate_by(&analysis, "writing", &[], Some(&second)).await;
            let last = last.expect("a grant");
            let third = act(&writing, &last, &[]).await.expect("a token");
            let other = delegate(&admin, "research", &[]).await.expect("a grant");
            let other = act(&research, &other, &[]).await.expect("a token");

            let id = if of_the_token { token_id } else { grant_id };
            revoke_id(&admin, &id).await;
            for (holder, token) in [
                (&research, &first),
                (&analysis, &second),
                (&writing, &third),
            ] {
                assert_eq!(void(holder, token).await, "TOKEN_INVALID");
            }
            for (holder, grant) in [(&analysis, &onward), (&writing, &last)] {
                let again = act(holder, grant, &[]).await;
                assert_eq!(refused(again), "DELEGATION_INVALID");
            }
            let again = act(&research, &grant, &[]).await;
            match of_the_token {
                true => drop(again.expect("the grant itself stands")),
                false => assert_eq!(refused(again), "DELEGATION_INVALID"),
            }
            let others = authorize_with_token(&research, call("files"), &other).await;
            others.expect("made from another grant");
        }
    }
}

#[tokio::test]
async fn a_grant_that_was_made_by_a_revoked_login_is_void() {
    let server = serve(Database::Sqlite).await;
    let admin = server.admin();
    let research = server.agent("research", &[]).await;
    let login = admin.authenticate().await.expect("a token").access_token;
    let login_id = newest(&admin, "login", "token_id").await;
    let grant = delegate_by(&admin, "research", &[], Some(&login)).await;
    let grant = grant.expect("a grant");
    let token = act(&research, &grant, &[]).await.expect("a token");
    revoke_id(&admin, &login_id).await;
    assert_eq!(void(&research, &token).await, "TOKEN_INVALID");
    let again = act(&research, &grant, &[]).await;
    assert_eq!(refused(again), "DELEGATION_INVALID");
}

#[tokio::test]
async fn a_token_of_a_later_epoch_than_the_database_is_in_is_refused() {
    let mut server = serve(Database::Sqlite).await;
    let admin = server.admin();
    let before = admin.authenticate().await.expect("a token").access_token;
    server.stop().await;
    let file = server.data().join("zta.db");
    let backup = server.folder().join("backup.db");
    std::fs::copy(&file, &backup).expect("a backup");
    server.start().await;
    let admin = server.admin();
    server.register("research", &[]).await;
    let later = admin.authenticate().await.expect("a token").access_token;
    authorize_with_token(&admin, call("files"), &later)
        .await
        .expect("good");
    // Put back, it does not know what was revoked since; nor will its next revocations be of
    // a later epoch than the token.
    server.stop().await;
    for file in ["zta.db-wal", "zta.db-shm"] {
        let _ = std::fs::remove_file(server.data().join(file));
    }
    std::fs::copy(&backup, &file).expect("put back");
    server.start().await;
    let admin = server.admin();
    assert_eq!(void(&admin, &later).await, "TOKEN_INVALID");
    authorize_with_token(&admin, call("files"), &before)
        .await
        .expect("good");
}
