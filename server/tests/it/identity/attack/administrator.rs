//! The stolen key of an administrator.

use zta_client::{Client, Credential, v1};

use crate::support::rpc::{events, refused};
use crate::support::{Database, Server, Setup};

fn revoke(user: &str, key: &str, force: bool) -> v1::RevokeKeysRequest {
    v1::RevokeKeysRequest {
        user: user.to_owned(),
        instance_id: key.to_owned(),
        note: "its laptop was stolen".to_owned(),
        force,
    }
}

fn invite(user: &str, roles: &[&str]) -> v1::InviteRequest {
    v1::InviteRequest {
        user: user.to_owned(),
        roles: roles.iter().map(|&role| role.to_owned()).collect(),
        note: String::new(),
    }
}

/// A person with a key of their own.
async fn person(server: &Server, by: &Client, user: &str, roles: &[&str]) -> Client {
    let invited = by.users().invite(invite(user, roles)).await;
    let token = invited.expect("an invitation").into_inner().join_token;
    let folder = server
        .folder()
        .join(format!("{user}-{}", uuid::Uuid::new_v4()));
    let credential = zta_client::enroll(server.endpoint(), &token, folder).await;
    server.client(credential.expect("enrols"))
}

fn key(client: &Client) -> String {
    let credential = client.credential().expect("a credential");
    credential.instance_id().to_owned()
}

async fn works(client: &Client) -> bool {
    let request = v1::AgentServiceListRequest::default();
    client.agents().list(request).await.is_ok()
}

async fn keys(client: &Client, user: &str) -> Vec<v1::Instance> {
    let request = v1::ListKeysRequest {
        user: user.to_owned(),
        ..Default::default()
    };
    let answer = client.users().list_keys(request).await.expect("keys");
    answer.into_inner().keys
}

/// One server on SQLite, two replicas on Postgres.
async fn two(database: Database) -> (Server, Option<Server>) {
    let postgres = matches!(database, Database::Postgres(_));
    let first = Setup::on(database).start().await;
    let second = match postgres {
        true => Some(first.replica().await),
        false => None,
    };
    (first, second)
}

#[tokio::test]
async fn a_stolen_key_of_an_administrator_is_revoked_on_every_replica() {
    for database in Database::both().await {
        let (first, second) = two(database).await;
        let second = second.as_ref().unwrap_or(&first);
        let admin = first.admin();
        let anna = person(&first, &admin, "anna", &["administrator"]).await;
        let lost = person(&first, &admin, "admin", &[]).await;
        let thief = second.client((*lost.credential().expect("a credential")).clone());
        assert!(works(&thief).await, "a key of the same person");
        assert_eq!(keys(&anna, "admin").await.len(), 2);

        let request = revoke("admin", &key(&lost), false);
        anna.users().revoke_keys(request).await.expect("revokes");
        let request = v1::AgentServiceListRequest::default();
        let listed = thief.agents().list(request).await;
        assert_eq!(refused(listed), "NOT_PERMITTED", "on an open connection");
        assert!(thief.renew().await.is_err() && thief.authenticate().await.is_err());
        assert!(works(&admin).await, "the other key of the same person");

        // All of a person, with what could become a key.
        let spare = anna
            .users()
            .invite(invite("admin", &[]))
            .await
            .expect("one");
        let all = anna.users().revoke_keys(revoke("admin", "", false)).await;
        let user = all.expect("revokes").into_inner().user.expect("a user");
        assert_eq!((user.keys, &*user.name), (0, "admin"));
        assert!(!works(&admin).await);
        let late = first.folder().join("late");
        let spare = spare.into_inner().join_token;
        let late = zta_client::enroll(first.endpoint(), &spare, late).await;
        let late = late.expect_err("void with the keys");
        assert_eq!(late.reason(), Some("JOIN_TOKEN_INVALID"), "{late}");
        assert!(works(&anna).await);
        let acts = events(&anna, &["admin"]).await;
        let revoked = acts
            .iter()
            .find(|(_, leaf)| leaf["action"]["id"] == "revoke_user_key");
        let (_, leaf) = revoked.expect("on record");
        assert_eq!(leaf["detail"]["note"], "its laptop was stolen");
        assert_eq!(leaf["resource"]["id"], "spiffe://zta.local#admin");
        first.assert_verifies();
    }
}

#[tokio::test]
async fn what_a_stolen_key_has_delegated_ends_with_it() {
    use crate::identity::delegation::{act, delegate, serve};
    for database in Database::both().await {
        let server = serve(database).await;
        let admin = server.admin();
        let anna = person(&server, &admin, "anna", &["administrator"]).await;
        let research = server.agent("research", &[]).await;
        let grant = delegate(&anna, "research", &[]).await.expect("a grant");
        act(&research, &grant, &[]).await.expect("a token");
        let request = revoke("anna", &key(&anna), false);
        admin.users().revoke_keys(request).await.expect("revokes");
        let again = act(&research, &grant, &[]).await;
        assert_eq!(refused(again), "DELEGATION_INVALID");
    }
}

#[tokio::test]
async fn the_last_administrator_is_not_locked_out_by_mistake() {
    for database in Database::both().await {
        let mut server = Setup::on(database).start().await;
        let admin = server.admin();
        person(&server, &admin, "otto", &["operator"]).await;
        for named in [key(&admin), String::new()] {
            let request = revoke("admin", &named, false);
            let last = admin.users().revoke_keys(request).await;
            assert_eq!(refused(last), "LOCKOUT");
        }
        assert!(works(&admin).await, "nothing was done");
        let forced = admin.users().revoke_keys(revoke("admin", "", true)).await;
        forced.expect("forced");
        assert!(!works(&admin).await);

        // A restart alone brings nobody back; whoever can start the server can be let in.
        server.stop().await;
        server.start().await;
        assert!(!works(&server.admin()).await);
        server.stop().await;
        server.start_with(&["--new-administrator"]).await;
        let again = server.admin();
        assert!(works(&again).await);
        let key_before = key(&again);
        server.stop().await;
        server.start_with(&["--new-administrator"]).await;
        assert_eq!(key(&server.admin()), key_before, "one is enough");
        let made = events(&server.admin(), &["enrolled"]).await;
        let made = made
            .iter()
            .filter(|(_, leaf)| leaf["detail"]["new_administrator"] == true);
        assert_eq!(made.count(), 1);
        server.assert_verifies();
    }
}

#[tokio::test]
async fn who_operates_agents_neither_invites_people_nor_locks_them_out() {
    for database in Database::both().await {
        let server = Setup::on(database).start().await;
        let admin = server.admin();
        let otto = person(&server, &admin, "otto", &["operator"]).await;
        assert!(works(&otto).await);
        let own = otto
            .users()
            .invite(invite("otto", &["administrator"]))
            .await;
        assert_eq!(refused(own), "NOT_PERMITTED");
        let new = otto.users().invite(invite("eve", &["administrator"])).await;
        assert_eq!(refused(new), "NOT_PERMITTED");
        let out = otto.users().revoke_keys(revoke("admin", "", true)).await;
        assert_eq!(refused(out), "NOT_PERMITTED");
        // Nor by the acts about agents.
        let by_agent = v1::RevokeRequest {
            agent: "spiffe://zta.local/user/admin".to_owned(),
            ..Default::default()
        };
        assert_eq!(
            refused(otto.agents().revoke(by_agent).await),
            "AGENT_NOT_FOUND"
        );

        // An invitation changes nobody's roles, whoever makes it.
        let more = admin
            .users()
            .invite(invite("otto", &["administrator"]))
            .await;
        assert_eq!(refused(more), "AGENT_EXISTS");
        let request = v1::UserServiceListRequest::default();
        let listed = admin
            .users()
            .list(request)
            .await
            .expect("a list")
            .into_inner();
        let roles = |name: &str| {
            let user = listed.users.iter().find(|user| user.name == name);
            user.expect("listed").roles.clone()
        };
        assert_eq!(
            (listed.users.len(), roles("otto")),
            (2, vec!["operator".to_owned()])
        );
        let nobody = admin.users().revoke_keys(revoke("nobody", "", false)).await;
        assert_eq!(refused(nobody), "USER_NOT_FOUND");
        let of_another = revoke("otto", &key(&admin), false);
        let of_another = admin.users().revoke_keys(of_another).await;
        assert_eq!(refused(of_another), "AGENT_NOT_FOUND", "no key of this one");
        assert!(works(&admin).await);
    }
}

#[tokio::test]
async fn under_four_eyes_nobody_makes_a_second_pair_of_them() {
    for database in Database::both().await {
        let server = Setup::on(database).set("ZTA_FOUR_EYES", true).start().await;
        let admin = server.admin();
        let other = admin.users().invite(invite("anna", &["approver"])).await;
        assert_eq!(refused(other), "APPROVAL_REQUIRED");
        // Another place of one's own is no other person.
        let own = person(&server, &admin, "admin", &[]).await;
        let away = revoke("admin", &key(&admin), false);
        own.users().revoke_keys(away).await.expect("revokes");
        assert!(works(&own).await && !works(&admin).await);
    }
}

#[tokio::test]
async fn the_command_line_lets_a_second_administrator_in() {
    use crate::support::server::text;
    let server = Setup::sqlite().start().await;
    let run = |arguments: &[&str]| {
        let output = server.zta(arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    };
    let token = run(&["user", "invite", "anna", "--role", "administrator"]);
    let folder = server.folder().join("anna");
    let out = folder.to_str().expect("text");
    run(&["agent", "enroll", "--token", &token, "--out", out]);
    let anna = server.client(Credential::load(&folder).expect("a credential"));
    assert!(works(&anna).await);
    assert!(run(&["user", "list"]).contains("spiffe://zta.local#anna"));
    assert!(run(&["user", "keys", "anna"]).contains(&key(&anna)));
    run(&[
        "user",
        "revoke",
        "anna",
        "--key",
        &key(&anna),
        "--note",
        "left",
    ]);
    assert!(!works(&anna).await);
    let last = server.zta(&["user", "revoke", "admin"]);
    assert_eq!(last.status.code(), Some(1), "{}", text(&last.stderr));
}
