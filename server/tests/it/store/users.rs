//! People with keys of their own: the first one, and whom somebody invites.

use uuid::Uuid;
use zta_server::model::{Change, Conflict, EntityUid, InstanceState, TokenRevocation, UserRecord};

use super::changes::{AGENT, certificate, conflicts, enroll_at, instance, succeeds, token};
use super::support::{Db, NOW};

pub(crate) async fn registered(db: Db) {
    let db = db.with_log().await;
    let user = UserRecord {
        id: "spiffe://zta.local#admin".to_owned(),
        spiffe_id: "spiffe://zta.local/user/admin".to_owned(),
        roles: vec!["admin".to_owned()],
        create_time: NOW,
    };
    let key = instance(1, &user.id);
    succeeds(
        &db.store,
        &Change::RegisterUser(user.clone(), key.clone(), certificate(1, 1)),
    )
    .await;
    let again = Change::RegisterUser(user.clone(), instance(2, &user.id), certificate(2, 1));
    conflicts(&db.store, &again, Conflict::UserExists).await;
    let other = UserRecord {
        id: "other".to_owned(),
        spiffe_id: "spiffe://zta.local/user/other".to_owned(),
        ..user.clone()
    };
    // The user's row was written before its key was refused: it must go as well.
    let same_key = Change::RegisterUser(other, key.clone(), certificate(3, 1));
    conflicts(&db.store, &same_key, Conflict::KeyEnrolled).await;
    let feed = db.store.changes_since(0, 0).await.expect("feed");
    assert_eq!((feed.users, feed.instances), (vec![user], vec![key]));
}

pub(crate) async fn invitations(db: Db) {
    let db = db.with_log().await;
    let user = UserRecord {
        id: "spiffe://zta.local#anna".to_owned(),
        spiffe_id: "spiffe://zta.local/user/anna".to_owned(),
        roles: vec!["administrator".to_owned()],
        create_time: NOW,
    };
    let invite = |user: Option<&UserRecord>, id: &str| Change::InviteUser {
        user: user.cloned(),
        token: token(id, "spiffe://zta.local#anna"),
    };
    let uid = EntityUid::new("ZTA::User", &user.id);
    let revoke = |n: Option<u128>| Change::RevokeUserKeys {
        user_id: "spiffe://zta.local#anna".to_owned(),
        instance_id: n.map(Uuid::from_u128),
        tokens: TokenRevocation::of_principal(&uid, NOW),
    };
    for change in [
        invite(None, "t0"),
        revoke(None),
        Change::AddUserKey(instance(9, &user.id), certificate(9, 1)),
    ] {
        conflicts(&db.store, &change, Conflict::UserNotFound).await;
    }
    succeeds(&db.store, &invite(Some(&user), "t1")).await;
    conflicts(&db.store, &invite(Some(&user), "t2"), Conflict::UserExists).await;
    succeeds(&db.store, &invite(None, "t2")).await;
    succeeds(&db.store, &invite(None, "t3")).await;
    let agents = enroll_at("t1", instance(1, AGENT), NOW);
    conflicts(&db.store, &agents, Conflict::JoinToken).await;
    succeeds(&db.store, &enroll_at("t1", instance(1, &user.id), NOW)).await;
    conflicts(
        &db.store,
        &enroll_at("t1", instance(2, &user.id), NOW),
        Conflict::JoinToken,
    )
    .await;
    succeeds(&db.store, &enroll_at("t2", instance(2, &user.id), NOW)).await;
    let added = Change::AddUserKey(instance(3, &user.id), certificate(3, 1));
    succeeds(&db.store, &added).await;
    let states = async || {
        let found = db.store.instances(&user.id, None, 10).await.expect("keys");
        found.iter().map(|key| key.state).collect::<Vec<_>>()
    };
    use InstanceState::{Active, Revoked};
    succeeds(&db.store, &revoke(Some(2))).await;
    assert_eq!(states().await, [Active, Revoked, Active]);
    conflicts(&db.store, &revoke(Some(7)), Conflict::KeyNotFound).await;
    let feed = db.store.changes_since(0, 0).await.expect("feed");
    assert_eq!(
        (feed.users, feed.revocations.len()),
        (vec![user.clone()], 1)
    );
    succeeds(&db.store, &revoke(None)).await;
    assert_eq!(states().await, [Revoked; 3]);
    let late = enroll_at("t3", instance(4, &user.id), NOW);
    conflicts(&db.store, &late, Conflict::JoinToken).await;
}
