//! What replicas tell of themselves.

use time::Duration;
use uuid::Uuid;
use zta_server::model::Change;
use zta_server::model::replica::{Fleet, ReplicaRecord};
use zta_server::store::StoreError;

use super::changes::succeeds;
use super::revisions::{policy, revision};
use super::support::{Db, NOW};

pub(crate) fn replica(n: u128) -> ReplicaRecord {
    ReplicaRecord {
        id: Uuid::from_u128(n),
        name: format!("replica {n} é"),
        version: "0.1.0".to_owned(),
        revision: 0,
        revision_time: NOW,
        start_time: NOW + Duration::seconds(-(n as i64)),
        seen_time: NOW + Duration::microseconds(n as i64),
        stopped: false,
    }
}

pub(crate) async fn told_and_forgotten(db: Db) {
    let db = db.with_log().await;
    let fleet = async |limit| db.store.fleet(limit).await.expect("the fleet");
    let nobody = Fleet {
        revision: 0,
        replicas: Vec::new(),
    };
    assert_eq!(fleet(10).await, nobody);
    let change = revision(1, vec![policy("a.cedar", "// a")]);
    succeeds(&db.store, &Change::ApplyRevision(Box::new(change))).await;
    let mut all = [replica(1), replica(2), replica(3)];
    for replica in &all {
        db.store.put_replica(replica).await.expect("told");
    }
    // By their starts; each once, however often it tells.
    all[0] = ReplicaRecord {
        revision: 1,
        revision_time: NOW + Duration::SECOND,
        seen_time: NOW + Duration::SECOND,
        stopped: true,
        ..all[0].clone()
    };
    db.store.put_replica(&all[0]).await.expect("told");
    let told = fleet(10).await;
    assert_eq!(told.revision, 1);
    assert_eq!(
        told.replicas,
        [all[2].clone(), all[1].clone(), all[0].clone()]
    );
    let seen_last = fleet(1).await.replicas;
    assert_eq!(seen_last, [all[0].clone()]);
    let before = NOW + Duration::microseconds(3);
    assert_eq!(
        db.store.forget_replicas(before).await.expect("forgotten"),
        1
    );
    assert_eq!(fleet(10).await.replicas.len(), 2);
    let nul = ReplicaRecord {
        name: "a\0".to_owned(),
        ..replica(9)
    };
    let refused = db.store.put_replica(&nul).await;
    assert!(
        matches!(refused, Err(StoreError::Refused(_))),
        "{refused:?}"
    );
}
