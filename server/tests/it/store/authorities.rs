//! The CAs on record.

use time::Duration;
use zta_server::model::{AuthorityRecord, AuthorityState, Change, Conflict};

use super::changes::{conflicts, succeeds};
use super::support::{Db, NOW};

fn authority(id: &str, state: AuthorityState) -> AuthorityRecord {
    AuthorityRecord {
        id: id.to_owned(),
        key: format!("key of {id}"),
        chain_pem: "-----BEGIN CERTIFICATE-----\n".to_owned(),
        state,
        prepare_time: NOW,
        activate_time: (state == AuthorityState::Active).then_some(NOW),
        supersede_time: None,
        retire_time: None,
    }
}

pub(crate) async fn steps(db: Db) {
    use AuthorityState::{Active, Prepared, Retired, Superseded};
    let db = db.with_log().await;
    let states = async || -> Vec<(String, AuthorityState)> {
        let all = db.store.authorities().await.expect("authorities");
        all.into_iter().map(|a| (a.id, a.state)).collect()
    };
    assert!(states().await.is_empty());
    let prepare = |next: &str, later| Change::PrepareAuthority {
        signing: Box::new(authority("a", Active)),
        next: Box::new(AuthorityRecord {
            prepare_time: NOW + Duration::seconds(later),
            ..authority(next, Prepared)
        }),
    };
    let activate = |id: &str| Change::ActivateAuthority {
        id: id.to_owned(),
        time: NOW + Duration::HOUR,
    };
    let retire = |id: &str| Change::RetireAuthority {
        id: id.to_owned(),
        time: NOW + Duration::DAY,
    };
    let refused = async |change: &Change, why: &str| {
        let why = Conflict::Authority(why.to_owned());
        conflicts(&db.store, change, why).await;
    };
    let named = |states: &[(&str, AuthorityState)]| -> Vec<(String, AuthorityState)> {
        states
            .iter()
            .map(|(id, s)| ((*id).to_owned(), *s))
            .collect()
    };
    refused(&activate("b"), "the CA is not prepared").await;

    succeeds(&db.store, &prepare("b", 1)).await;
    assert_eq!(states().await, named(&[("a", Active), ("b", Prepared)]));
    let feed = db.store.changes_since(0, 0).await.expect("feed");
    assert_eq!(feed.authorities.len(), 2);
    assert_eq!(
        feed.authorities[0],
        authority("a", Active),
        "as it was written"
    );
    let since = feed.epoch;
    refused(&prepare("b", 1), "the CA is on record already").await;
    refused(&prepare("a", 1), "the CA is on record already").await;
    let not_its_turn = "the CA signs, or is not trusted any more";
    refused(&retire("a"), not_its_turn).await;
    refused(&activate("a"), "the CA is not prepared").await;
    assert_eq!(states().await, named(&[("a", Active), ("b", Prepared)]));

    succeeds(&db.store, &activate("b")).await;
    assert_eq!(states().await, named(&[("a", Superseded), ("b", Active)]));
    let feed = db.store.changes_since(since, 0).await.expect("feed");
    assert_eq!(
        feed.authorities[0].supersede_time,
        Some(NOW + Duration::HOUR)
    );
    assert_eq!(
        feed.authorities[1].activate_time,
        Some(NOW + Duration::HOUR)
    );
    let since = feed.epoch;
    refused(&activate("b"), "the CA is not prepared").await;

    succeeds(&db.store, &retire("a")).await;
    let feed = db.store.changes_since(since, 0).await.expect("feed");
    assert_eq!(feed.authorities.len(), 1, "only what changed");
    assert_eq!(feed.authorities[0].retire_time, Some(NOW + Duration::DAY));
    refused(&retire("a"), not_its_turn).await;
    refused(&activate("a"), "the CA is not prepared").await;

    succeeds(&db.store, &prepare("c", 2)).await;
    succeeds(&db.store, &retire("c")).await;
    let all = [("a", Retired), ("b", Active), ("c", Retired)];
    assert_eq!(states().await, named(&all));
}
