//! Keys: their generations, their states, and what becomes of them with their agent.

use uuid::Uuid;
use zta_server::model::change::{GenerationUse, Renewal};
use zta_server::model::{
    AgentProfile, AgentRecord, AgentState, Change, Conflict, Instance, InstanceState,
};
use zta_server::store::SharedStore;

use super::changes::{
    AGENT, agent, certificate, conflicts, enroll_at, instance, set_state, succeeds, token,
};
use super::support::{Db, NOW, change};

/// Renews key `n` from a certificate of generation `presented`.
pub(super) fn renew(n: u128, presented: u64, generation: u64) -> Change {
    recover(n, presented, generation, None)
}

fn recover(n: u128, presented: u64, generation: u64, recoveries_max: Option<u32>) -> Change {
    let mut certificate = certificate(n, 0);
    certificate.serial = Uuid::new_v4().simple().to_string();
    Change::Renew(Renewal {
        certificate,
        presented,
        generation,
        recoveries_max,
    })
}

pub(super) fn used(n: u128, generation: u64) -> GenerationUse {
    GenerationUse {
        instance_id: Uuid::from_u128(n),
        generation,
    }
}

fn lock(n: u128, presented: u64) -> Change {
    Change::LockInstance {
        instance_id: Uuid::from_u128(n),
        presented,
    }
}

pub(super) fn set_key_state(n: u128, to: InstanceState, from: &[InstanceState]) -> Change {
    Change::SetInstanceState {
        agent_id: AGENT.to_owned(),
        instance_id: Uuid::from_u128(n),
        from: from.to_vec(),
        to,
    }
}

async fn key(store: &SharedStore, n: u128) -> Instance {
    let found = store.instance(Uuid::from_u128(n)).await.expect("a store");
    found.expect("a key")
}

/// Generation, used generation, recoveries.
async fn counts(store: &SharedStore, n: u128) -> (u64, u64, u32) {
    let key = key(store, n).await;
    (key.generation, key.used_generation, key.recoveries)
}

/// An agent with the keys 1 to `n`.
async fn with_keys(db: Db, n: u128) -> Db {
    let db = db.with_log().await;
    succeeds(&db.store, &Change::RegisterAgent(agent(AGENT))).await;
    for n in 1..=n {
        let id = format!("t{n}");
        succeeds(&db.store, &Change::CreateJoinToken(token(&id, AGENT))).await;
        succeeds(&db.store, &enroll_at(&id, instance(n, AGENT), NOW)).await;
    }
    db
}

pub(crate) async fn renewals(db: Db) {
    let db = with_keys(db, 1).await;
    let store = &db.store;
    conflicts(store, &renew(9, 1, 2), Conflict::KeyRevoked).await;
    let before = store.head().await.expect("head").epoch;
    succeeds(store, &renew(1, 1, 2)).await;
    assert_eq!(counts(store, 1).await, (2, 1, 0));
    // The answer was lost: another generation, as long as nobody has used a later one.
    succeeds(store, &renew(1, 1, 3)).await;
    succeeds(store, &renew(1, 1, 4)).await;
    assert_eq!(counts(store, 1).await, (4, 1, 0));
    // Signed for a generation that is not due: none is given twice.
    conflicts(store, &renew(1, 1, 2), Conflict::GenerationMoved).await;
    conflicts(store, &renew(1, 1, 4), Conflict::GenerationMoved).await;
    conflicts(store, &renew(1, 2, 3), Conflict::GenerationMoved).await;
    conflicts(store, &lock(1, 1), Conflict::GenerationMoved).await;
    succeeds(store, &Change::UseGeneration(used(1, 3))).await;
    // Now whoever comes with an older one has a copy, also with one that nobody has used.
    conflicts(store, &renew(1, 1, 5), Conflict::Generation).await;
    conflicts(store, &renew(1, 2, 5), Conflict::Generation).await;
    // A mark never goes back, and one of a key that is not there does nothing.
    succeeds(store, &Change::UseGeneration(used(1, 1))).await;
    succeeds(store, &Change::UseGeneration(used(9, 1))).await;
    assert_eq!(counts(store, 1).await, (4, 3, 0));
    succeeds(store, &renew(1, 3, 5)).await;
    // One that was given and whose answer was lost is not the one that is in use.
    succeeds(store, &renew(1, 4, 6)).await;
    conflicts(store, &renew(1, 3, 7), Conflict::Generation).await;
    // A certificate from before the database was put back goes on from its own.
    succeeds(store, &renew(1, 7, 8)).await;
    assert_eq!(counts(store, 1).await, (8, 7, 0));
    let after = store.head().await.expect("head").epoch;
    assert_eq!(after, before, "an agent's renewal makes no decision stale");
}

pub(crate) async fn recoveries(db: Db) {
    let db = with_keys(db, 1).await;
    let store = &db.store;
    conflicts(
        store,
        &recover(1, 1, 2, Some(0)),
        Conflict::RecoveriesExhausted,
    )
    .await;
    succeeds(store, &recover(1, 1, 2, Some(2))).await;
    succeeds(store, &recover(1, 2, 3, Some(2))).await;
    assert_eq!(counts(store, 1).await, (3, 2, 2));
    conflicts(
        store,
        &recover(1, 3, 4, Some(2)),
        Conflict::RecoveriesExhausted,
    )
    .await;
    succeeds(store, &renew(1, 3, 4)).await;
    succeeds(store, &recover(1, 4, 5, Some(3))).await;
    assert_eq!(counts(store, 1).await, (5, 4, 3));
    conflicts(store, &recover(1, 3, 5, Some(9)), Conflict::Generation).await;
}

pub(crate) async fn locks(db: Db) {
    use InstanceState::{Active, Locked, Revoked};
    let db = with_keys(db, 2).await;
    let store = &db.store;
    conflicts(store, &lock(9, 0), Conflict::KeyNotFound).await;
    succeeds(store, &renew(1, 1, 2)).await;
    succeeds(store, &Change::UseGeneration(used(1, 2))).await;
    let epoch = store.head().await.expect("head").epoch;
    succeeds(store, &lock(1, 1)).await;
    let feed = store.changes_since(epoch, 0).await.expect("feed");
    assert_eq!(feed.epoch, epoch + 1, "every replica has to know");
    assert_eq!(feed.instances.len(), 1);
    assert_eq!(feed.instances[0].state, Locked);
    conflicts(store, &lock(1, 1), Conflict::KeyState(Locked)).await;
    conflicts(store, &renew(1, 2, 3), Conflict::KeyLocked).await;
    conflicts(store, &recover(1, 2, 3, Some(9)), Conflict::KeyLocked).await;
    assert_eq!(
        key(store, 2).await.state,
        Active,
        "the other key is not meant"
    );

    let other = Change::SetInstanceState {
        agent_id: "spiffe://zta.local/agent/other".to_owned(),
        instance_id: Uuid::from_u128(1),
        from: vec![Locked],
        to: Active,
    };
    conflicts(store, &other, Conflict::KeyNotFound).await;
    conflicts(
        store,
        &set_key_state(9, Active, &[Locked]),
        Conflict::KeyNotFound,
    )
    .await;
    conflicts(
        store,
        &set_key_state(1, Active, &[]),
        Conflict::KeyState(Locked),
    )
    .await;
    succeeds(store, &set_key_state(1, Active, &[Locked])).await;
    // Unlocked, the newest goes on, and the old one is a copy's still.
    conflicts(store, &renew(1, 1, 2), Conflict::Generation).await;
    succeeds(store, &renew(1, 2, 3)).await;
    succeeds(store, &set_key_state(1, Revoked, &[Active])).await;
    conflicts(store, &renew(1, 3, 4), Conflict::KeyRevoked).await;
    conflicts(
        store,
        &set_key_state(1, Active, &[Active, Locked]),
        Conflict::KeyState(Revoked),
    )
    .await;
    assert_eq!(key(store, 2).await.state, Active);
}

pub(crate) async fn lock_races(db: Db) {
    let db = with_keys(db, 1).await;
    let stores = [db.store.clone(), db.another().await];
    for generation in [1, 3, 5, 7, 9_u64] {
        // Two holders of one certificate renew at once, on two replicas: one gets the next,
        // the other one has to ask for the one after it.
        let mut tasks = tokio::task::JoinSet::new();
        for store in stores.clone() {
            let wanted = renew(1, generation, generation + 1);
            tasks.spawn(async move { change(&store, &wanted).await });
        }
        let outcomes = tasks.join_all().await;
        assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 1);
        assert!(outcomes.contains(&Err(Conflict::GenerationMoved)));
        assert_eq!(counts(&db.store, 1).await.0, generation + 1);
        // One uses it while the other asks again: whoever comes first, it is exact.
        let mut tasks = tokio::task::JoinSet::new();
        for (n, store) in stores.clone().into_iter().enumerate() {
            tasks.spawn(async move {
                let mark = Change::UseGeneration(used(1, generation + 1));
                let again = renew(1, generation, generation + 2);
                change(&store, if n == 0 { &mark } else { &again }).await
            });
        }
        for outcome in tasks.join_all().await {
            assert!(
                matches!(outcome, Ok(()) | Err(Conflict::Generation)),
                "{outcome:?}"
            );
        }
        assert_eq!(counts(&db.store, 1).await.1, generation + 1);
        // For the next turn, whoever came first.
        let last = change(&db.store, &renew(1, generation + 1, generation + 2)).await;
        let moved = Err(Conflict::GenerationMoved);
        assert!(last == Ok(()) || last == moved, "{last:?}");
        let next = Change::UseGeneration(used(1, generation + 2));
        succeeds(&db.store, &next).await;
    }
}

pub(crate) async fn with_their_agent(db: Db) {
    use AgentState::{Active, Banned, Revoked, Suspended};
    let db = with_keys(db, 2).await;
    let store = &db.store;
    let spare = Change::CreateJoinToken(token("t9", AGENT));
    succeeds(store, &spare).await;
    succeeds(store, &set_state(Suspended, &[Active])).await;
    assert_eq!(key(store, 1).await.state, InstanceState::Active);
    let epoch = store.head().await.expect("head").epoch;
    succeeds(store, &set_state(Revoked, &[Suspended])).await;
    let feed = store.changes_since(epoch, 0).await.expect("feed");
    let states: Vec<_> = feed.instances.iter().map(|i| i.state).collect();
    assert_eq!(
        states,
        [InstanceState::Revoked; 2],
        "each key is void, for every replica"
    );
    let late = enroll_at("t9", instance(3, AGENT), NOW);
    conflicts(store, &late, Conflict::JoinToken).await;
    // Whoever may create a join token has it begin anew, with a new key only.
    succeeds(store, &Change::CreateJoinToken(token("t8", AGENT))).await;
    let same_key = enroll_at("t8", instance(1, AGENT), NOW);
    conflicts(store, &same_key, Conflict::KeyEnrolled).await;
    succeeds(store, &enroll_at("t8", instance(4, AGENT), NOW)).await;
    let feed = store.changes_since(0, 0).await.expect("feed");
    assert_eq!(feed.agents[0].state, Active);
    assert_eq!(key(store, 1).await.state, InstanceState::Revoked);
    assert_eq!(key(store, 4).await.state, InstanceState::Active);
    succeeds(store, &set_state(Banned, &[Active])).await;
    assert_eq!(key(store, 4).await.state, InstanceState::Revoked);
}

pub(crate) async fn lists(db: Db) {
    let db = with_keys(db, 3).await;
    let store = &db.store;
    let ids = async |after: Option<u128>, limit| -> Vec<u128> {
        let after = after.map(Uuid::from_u128);
        let page = store.instances(AGENT, after, limit).await.expect("a page");
        page.iter().map(|i| i.id.as_u128()).collect()
    };
    assert_eq!(ids(None, 10).await, [1, 2, 3]);
    assert_eq!(ids(None, 2).await, [1, 2]);
    assert_eq!(ids(Some(2), 2).await, [3]);
    assert!(ids(Some(3), 2).await.is_empty());
    let nobody = store
        .instances("spiffe://zta.local/agent/researc", None, 9)
        .await;
    assert!(nobody.expect("a page").is_empty());
    assert_eq!(
        store.instance(Uuid::from_u128(9)).await.expect("none"),
        None
    );
}

pub(crate) async fn profiles(db: Db) {
    let db = db.with_log().await;
    let store = &db.store;
    conflicts(
        store,
        &Change::UpdateAgent(agent(AGENT)),
        Conflict::AgentNotFound,
    )
    .await;
    succeeds(store, &Change::RegisterAgent(agent(AGENT))).await;
    succeeds(
        store,
        &set_state(AgentState::Isolated, &[AgentState::Active]),
    )
    .await;
    let epoch = store.head().await.expect("head").epoch;
    let bare = AgentRecord {
        profile: AgentProfile::default(),
        // Neither of these is an update's to change.
        name: "another".to_owned(),
        state: AgentState::Active,
        create_time: NOW + time::Duration::HOUR,
        ..agent(AGENT)
    };
    succeeds(store, &Change::UpdateAgent(bare)).await;
    let feed = store.changes_since(epoch, 0).await.expect("feed");
    let expected = AgentRecord {
        state: AgentState::Isolated,
        profile: AgentProfile::default(),
        ..agent(AGENT)
    };
    assert_eq!(feed.agents, [expected]);
}
