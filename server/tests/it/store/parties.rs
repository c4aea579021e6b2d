//! What was said of agents and users, in its versions.

use std::sync::Arc;

use zta_server::model::{AgentRecord, Change, Conflict, Party, UserRecord};

use super::changes::{AGENT, agent, certificate, instance};
use super::support::{Db, NOW, change};

/// What was said of agents and users stays, in the order in which it was said.
pub(crate) async fn versions(db: Db) {
    let db = db.with_log().await;
    let first = agent(AGENT);
    change(&db.store, &Change::RegisterAgent(first.clone()))
        .await
        .expect("registered");
    let user = UserRecord {
        id: "spiffe://zta.local#ann".to_owned(),
        spiffe_id: "spiffe://zta.local/user/ann".to_owned(),
        roles: vec!["auditor".to_owned()],
        create_time: NOW,
    };
    let added = Change::RegisterUser(user.clone(), instance(1, &user.id), certificate(1, 1));
    change(&db.store, &added).await.expect("registered");
    let mut second = first.clone();
    second.profile.roles = vec!["writer".to_owned()];
    second.profile.attributes = Arc::default();
    change(&db.store, &Change::UpdateAgent(second.clone()))
        .await
        .expect("updated");
    let again = change(&db.store, &Change::RegisterAgent(first.clone())).await;
    assert_eq!(again, Err(Conflict::AgentExists));
    let all = db.store.party_versions(0, u64::MAX >> 1, 10).await;
    let all = all.expect("versions");
    let of_agent = |record: &AgentRecord| Party {
        name: record.name.clone(),
        owner: Some(record.profile.owner.clone()),
        zone: Some(record.profile.zone.clone()),
        attributes: Arc::clone(&record.profile.attributes),
        roles: record.profile.roles.clone(),
    };
    let parties: Vec<_> = all.iter().map(|v| (&*v.uid.id, v.party.clone())).collect();
    let ann = Party {
        name: "ann".to_owned(),
        owner: None,
        zone: None,
        attributes: Arc::default(),
        roles: user.roles.clone(),
    };
    assert_eq!(
        parties,
        [
            (AGENT, of_agent(&first)),
            (&*user.id, ann),
            (AGENT, of_agent(&second)),
        ]
    );
    assert!(all.is_sorted_by(|a, b| a.epoch < b.epoch));
    let between = db
        .store
        .party_versions(all[0].epoch, all[1].epoch, 10)
        .await;
    assert_eq!(between.expect("versions"), all[1..2]);
    let page = db.store.party_versions(0, all[2].epoch, 2).await;
    assert_eq!(page.expect("versions"), all[..2]);
}
