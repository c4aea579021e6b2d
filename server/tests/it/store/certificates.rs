//! What is known of issued certificates.

use time::Duration;
use zta_server::model::change::{CertificateRecord, Renewal};
use zta_server::model::{AgentState, Change};

use super::changes::{agent, certificate, enroll_at, instance, succeeds, token};
use super::support::{Db, NOW};

pub(crate) async fn revoked(db: Db) {
    let db = db.with_log().await;
    let serials = async |now, limit| {
        let revoked = db.store.revoked_certificates(now, limit).await;
        revoked.expect("serials").serials
    };
    let names = ["spiffe://zta.local/agent/a", "spiffe://zta.local/agent/b"];
    for (n, name) in (1..).zip(names) {
        let token_id = format!("t{n}");
        succeeds(&db.store, &Change::RegisterAgent(agent(name))).await;
        succeeds(&db.store, &Change::CreateJoinToken(token(&token_id, name))).await;
        succeeds(&db.store, &enroll_at(&token_id, instance(n, name), NOW)).await;
        let renew = async |generation, certificate| {
            let renewal = Renewal {
                certificate,
                presented: generation - 1,
                generation,
                recoveries_max: None,
            };
            succeeds(&db.store, &Change::Renew(renewal)).await;
        };
        renew(2, certificate(n, 9)).await;
        let long = CertificateRecord {
            not_after: NOW + Duration::DAY,
            ..certificate(n, 10)
        };
        renew(3, long).await;
    }
    assert!(serials(NOW, 100).await.is_empty(), "nobody is revoked");
    let revoke = Change::SetAgentState {
        agent_id: names[1].to_owned(),
        from: vec![AgentState::Active],
        to: AgentState::Revoked,
    };
    succeeds(&db.store, &revoke).await;
    let all = serials(NOW, 100).await;
    assert_eq!(all.len(), 3, "each of its certificates: {all:?}");
    assert!(
        all.is_sorted()
            && all
                .iter()
                .all(|s| s.trim_start_matches('t').starts_with("2-"))
    );
    assert_eq!(serials(NOW, 2).await, all[..2]);
    let late = NOW + Duration::hours(2);
    assert_eq!(serials(late, 100).await, ["2-10"], "the others have ended");

    // A locked key's certificates must not be believed elsewhere, either, until it is unlocked.
    let lock = Change::LockInstance {
        instance_id: uuid::Uuid::from_u128(1),
        presented: 1,
    };
    succeeds(&db.store, &lock).await;
    assert_eq!(serials(NOW, 100).await.len(), 6);
    let head = db.store.head().await.expect("head");
    let found = db.store.revoked_certificates(NOW, 1).await;
    assert_eq!(found.expect("serials").size, head.size);

    let forgotten = db.store.forget_certificates(late).await.expect("forgets");
    assert_eq!(forgotten, 4);
    assert_eq!(serials(NOW, 100).await, ["1-10", "2-10"]);
    assert_eq!(db.store.forget_certificates(late).await.expect("done"), 0);
}
