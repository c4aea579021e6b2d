//! Each change, each conflict, and the feed of changes.

use std::sync::Arc;

use time::Duration;
use uuid::Uuid;
use zta_server::model::arguments::sha256;
use zta_server::model::change::{CertificateRecord, JoinTokenRecord};
use zta_server::model::{
    AgentProfile, AgentRecord, AgentState, Change, Conflict, Instance, InstanceState,
    TokenRevocation, UserRecord,
};
use zta_server::store::{Changes, SharedStore};

use super::queries::LOOK_ALIKES;
use super::revisions::{policy, revision};
use super::support::{Db, NOW, change, decision, finish, prepared};

pub(super) const AGENT: &str = "spiffe://zta.local/agent/research";

pub(super) fn agent(id: &str) -> AgentRecord {
    AgentRecord {
        id: id.to_owned(),
        name: format!("name of {id}"),
        state: AgentState::Active,
        create_time: NOW,
        profile: AgentProfile {
            owner: "owner é".to_owned(),
            roles: vec!["researcher".to_owned(), "a\"b,{c}\\".to_owned()],
            zone: "lab".to_owned(),
            attributes: Arc::new([("k\"é".to_owned(), "v,{\\}".to_owned())].into()),
            audiences: vec!["https://api.example/a,b".to_owned()],
            certificate_lifetime_max_s: Some(u32::MAX),
            token_lifetime_max_s: None,
            delegation_depth_max: Some(0),
        },
    }
}

pub(super) fn instance(n: u128, principal: &str) -> Instance {
    let key = sha256(&n.to_be_bytes());
    Instance::new(Uuid::from_u128(n), principal.to_owned(), key, NOW)
}

/// The `m`th certificate of key `n`.
pub(super) fn certificate(n: u128, m: u32) -> CertificateRecord {
    CertificateRecord {
        serial: format!("{n:x}-{m}"),
        instance_id: Uuid::from_u128(n),
        not_after: NOW + Duration::HOUR,
    }
}

pub(super) fn token(id: &str, agent_id: &str) -> JoinTokenRecord {
    JoinTokenRecord {
        id: id.to_owned(),
        secret_sha256: sha256(id.as_bytes()),
        agent_id: agent_id.to_owned(),
        expire_time: NOW + Duration::minutes(5),
        used: false,
    }
}

pub(super) fn enroll_at(token_id: &str, instance: Instance, now: time::OffsetDateTime) -> Change {
    Change::Enroll {
        token_id: token_id.to_owned(),
        certificate: CertificateRecord {
            serial: format!("{token_id}-{}", instance.id),
            ..certificate(instance.id.as_u128(), 0)
        },
        instance,
        now,
    }
}

pub(super) fn set_state(to: AgentState, from: &[AgentState]) -> Change {
    Change::SetAgentState {
        agent_id: AGENT.to_owned(),
        from: from.to_vec(),
        to,
    }
}

/// The whole state, for "nothing was left behind".
async fn state(store: &SharedStore) -> String {
    let feed = store.changes_since(0, 0).await.expect("feed");
    let mut tokens = Vec::new();
    for id in ["t1", "t2", "t3"] {
        tokens.push(store.join_token(id).await.expect("token"));
    }
    let mut agents = feed.agents;
    agents.sort_by(|a, b| a.id.cmp(&b.id));
    let mut instances = feed.instances;
    instances.sort_by_key(|i| i.id);
    format!(
        "{:?}",
        (
            feed.epoch,
            agents,
            feed.users,
            instances,
            feed.revision,
            tokens
        )
    )
}

/// The change conflicts, and changes nothing.
pub(crate) async fn conflicts(store: &SharedStore, wanted: &Change, expected: Conflict) {
    let before = state(store).await;
    assert_eq!(change(store, wanted).await, Err(expected), "{wanted:?}");
    assert_eq!(state(store).await, before, "{wanted:?}");
}

pub(crate) async fn succeeds(store: &SharedStore, wanted: &Change) {
    assert_eq!(change(store, wanted).await, Ok(()), "{wanted:?}");
}

pub(crate) async fn agents(db: Db) {
    let db = db.with_log().await;
    succeeds(&db.store, &Change::RegisterAgent(agent(AGENT))).await;
    conflicts(
        &db.store,
        &Change::RegisterAgent(agent(AGENT)),
        Conflict::AgentExists,
    )
    .await;
    succeeds(
        &db.store,
        &set_state(AgentState::Revoked, &[AgentState::Active]),
    )
    .await;
    conflicts(
        &db.store,
        &Change::RegisterAgent(agent(AGENT)),
        Conflict::AgentExists,
    )
    .await;
    let same_name = AgentRecord {
        id: "spiffe://zta.local/agent/other".to_owned(),
        ..agent(AGENT)
    };
    conflicts(
        &db.store,
        &Change::RegisterAgent(same_name),
        Conflict::AgentExists,
    )
    .await;
    let feed = db.store.changes_since(0, 0).await.expect("feed");
    let revoked = AgentRecord {
        state: AgentState::Revoked,
        ..agent(AGENT)
    };
    assert_eq!(feed.agents, [revoked]);
}

pub(crate) async fn users(db: Db) {
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

pub(crate) async fn enroll(db: Db) {
    let db = db.with_log().await;
    let missing = Change::CreateJoinToken(token("t1", AGENT));
    conflicts(&db.store, &missing, Conflict::AgentNotFound).await;
    succeeds(&db.store, &Change::RegisterAgent(agent(AGENT))).await;
    for id in ["t1", "t2", "t3"] {
        succeeds(&db.store, &Change::CreateJoinToken(token(id, AGENT))).await;
        let stored = db.store.join_token(id).await.expect("token");
        assert_eq!(stored, Some(token(id, AGENT)));
    }
    assert_eq!(db.store.join_token("T1").await.expect("token"), None);
    let end = NOW + Duration::minutes(5);
    let key = |n| instance(n, AGENT);
    for (wrong, expected) in [
        (enroll_at("t9", key(1), NOW), Conflict::JoinToken),
        (enroll_at("t1", key(1), end), Conflict::JoinToken),
        (
            enroll_at("t1", instance(1, "another"), NOW),
            Conflict::JoinToken,
        ),
    ] {
        conflicts(&db.store, &wrong, expected).await;
    }
    succeeds(
        &db.store,
        &enroll_at("t1", key(1), end - Duration::microseconds(1)),
    )
    .await;
    conflicts(
        &db.store,
        &enroll_at("t1", key(2), NOW),
        Conflict::JoinToken,
    )
    .await;
    // The token was marked as used before the key was refused: it must be usable still.
    conflicts(
        &db.store,
        &enroll_at("t2", key(1), NOW),
        Conflict::KeyEnrolled,
    )
    .await;
    succeeds(&db.store, &enroll_at("t2", key(2), NOW)).await;
    succeeds(
        &db.store,
        &set_state(AgentState::Banned, &[AgentState::Active]),
    )
    .await;
    let banned = Conflict::AgentState(AgentState::Banned);
    // Banning ended the token, too.
    conflicts(
        &db.store,
        &enroll_at("t3", key(3), NOW),
        Conflict::JoinToken,
    )
    .await;
    conflicts(
        &db.store,
        &Change::CreateJoinToken(token("t4", AGENT)),
        banned.clone(),
    )
    .await;
    conflicts(&db.store, &Change::UpdateAgent(agent(AGENT)), banned).await;
}

pub(crate) async fn enroll_races(db: Db) {
    let db = db.with_log().await;
    succeeds(&db.store, &Change::RegisterAgent(agent(AGENT))).await;
    let stores = [db.store.clone(), db.another().await];
    for round in 0..5_u128 {
        let id = format!("t{round}");
        succeeds(&db.store, &Change::CreateJoinToken(token(&id, AGENT))).await;
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..4_usize {
            let store = stores[n % 2].clone();
            let wanted = enroll_at(&id, instance(round * 10 + n as u128, AGENT), NOW);
            tasks.spawn(async move { change(&store, &wanted).await });
        }
        let outcomes = tasks.join_all().await;
        let won = outcomes.iter().filter(|o| o.is_ok()).count();
        assert_eq!(won, 1, "{outcomes:?}");
        assert!(
            outcomes
                .iter()
                .flat_map(|o| o.as_ref().err())
                .all(|c| *c == Conflict::JoinToken)
        );
    }
    let feed = db.store.changes_since(0, 0).await.expect("feed");
    assert_eq!(feed.instances.len(), 5);
}

pub(crate) async fn states(db: Db) {
    use AgentState::{Active, Banned, Isolated, Revoked, Suspended};
    let db = db.with_log().await;
    conflicts(
        &db.store,
        &set_state(Suspended, &[Active]),
        Conflict::AgentNotFound,
    )
    .await;
    succeeds(&db.store, &Change::RegisterAgent(agent(AGENT))).await;
    for (from, to) in [
        (Active, Suspended),
        (Suspended, Isolated),
        (Isolated, Active),
        (Active, Revoked),
        (Revoked, Banned),
    ] {
        let others: Vec<_> = [Active, Suspended, Isolated, Revoked, Banned]
            .into_iter()
            .filter(|s| *s != from)
            .collect();
        conflicts(
            &db.store,
            &set_state(to, &others),
            Conflict::AgentState(from),
        )
        .await;
        conflicts(&db.store, &set_state(to, &[]), Conflict::AgentState(from)).await;
        succeeds(&db.store, &set_state(to, &[from])).await;
        let feed = db.store.changes_since(0, 0).await.expect("feed");
        assert_eq!(feed.agents[0].state, to);
    }
}

pub(crate) async fn the_feed(db: Db) {
    let db = db.with_log().await;
    let feed = async |epoch, known| -> Changes {
        db.store.changes_since(epoch, known).await.expect("feed")
    };
    succeeds(&db.store, &Change::RegisterAgent(agent(AGENT))).await;
    succeeds(&db.store, &Change::RegisterAgent(agent("b"))).await;
    succeeds(&db.store, &Change::CreateJoinToken(token("t1", AGENT))).await;
    assert_eq!(feed(0, 0).await.epoch, 2, "a join token moves no epoch");
    succeeds(&db.store, &enroll_at("t1", instance(1, AGENT), NOW)).await;
    let one = revision(1, vec![policy("a", "x")]);
    succeeds(&db.store, &Change::ApplyRevision(Box::new(one.clone()))).await;
    succeeds(
        &db.store,
        &set_state(AgentState::Isolated, &[AgentState::Active]),
    )
    .await;
    let expected = [
        (0, vec![AGENT, "b"], 1),
        (1, vec![AGENT, "b"], 1),
        (2, vec![AGENT], 1),
        (3, vec![AGENT], 0),
        (4, vec![AGENT], 0),
        (5, vec![], 0),
        (u64::MAX, vec![], 0),
    ];
    for (epoch, agents, instances) in expected {
        let changes = feed(epoch, 0).await;
        let mut ids: Vec<_> = changes.agents.iter().map(|a| a.id.as_str()).collect();
        ids.sort_unstable_by(|a, b| b.cmp(a));
        assert_eq!((changes.epoch, ids), (5, agents), "since {epoch}");
        assert_eq!(changes.instances.len(), instances, "since {epoch}");
        let news = changes.revision.expect("revision 0 is known");
        assert_eq!(news.meta, one.meta);
    }
    assert_eq!(feed(0, 1).await.revision, None);
    // The epoch of an event that is not committed is nobody's business.
    let mut tx = db.store.begin().await.expect("begin");
    let event = prepared(&decision("a", 0));
    let change = set_state(AgentState::Active, &[AgentState::Isolated]);
    tx.apply(&change, 6)
        .await
        .expect("apply")
        .expect("no conflict");
    assert_eq!(feed(0, 1).await.epoch, 5);
    assert!(feed(5, 1).await.agents.is_empty());
    finish(tx, &[event], true).await.expect("commit");
    assert_eq!(feed(5, 1).await.agents.len(), 1);
}

pub(crate) async fn look_alike_agents(db: Db) {
    let db = db.with_log().await;
    for id in LOOK_ALIKES {
        succeeds(&db.store, &Change::RegisterAgent(agent(id))).await;
        succeeds(&db.store, &Change::CreateJoinToken(token(id, id))).await;
        db.store
            .put_blob_if_absent(id, id.as_bytes())
            .await
            .expect("blob");
    }
    let feed = db.store.changes_since(0, 0).await.expect("feed");
    assert_eq!(feed.agents.len(), LOOK_ALIKES.len());
    for id in LOOK_ALIKES {
        let record = feed.agents.iter().find(|a| a.id == id).expect(id);
        assert_eq!(*record, agent(id));
        assert_eq!(
            db.store.join_token(id).await.expect("token"),
            Some(token(id, id))
        );
        let blob = db.store.get_blob(id).await.expect("blob");
        assert_eq!(blob.as_deref(), Some(id.as_bytes()));
    }
}

pub(crate) async fn blobs(db: Db) {
    let db = db.with_log().await;
    assert_eq!(db.store.get_blob("ca").await.expect("none"), None);
    let stores = [db.store.clone(), db.another().await];
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8_u8 {
        let store = stores[usize::from(n % 2)].clone();
        tasks.spawn(async move { store.put_blob_if_absent("ca", &[n; 40]).await.expect("put") });
    }
    let seen = tasks.join_all().await;
    let one_won = seen.iter().all(|value| *value == seen[0]);
    assert!(one_won, "all see the one that won");
    let stored = db.store.get_blob("ca").await.expect("get");
    assert_eq!(stored.as_ref(), Some(&seen[0]));
    let empty = db
        .store
        .put_blob_if_absent("empty", b"")
        .await
        .expect("put");
    assert!(empty.is_empty());
}

/// Each kind of change once, for those who want to see that it can be made at all.
pub(crate) async fn each_change(store: &SharedStore) {
    let user = UserRecord {
        id: "u".to_owned(),
        spiffe_id: "spiffe://zta.local/user/u".to_owned(),
        roles: Vec::new(),
        create_time: NOW,
    };
    let one = revision(1, vec![policy("a", "x")]);
    for wanted in [
        Change::RegisterAgent(agent(AGENT)),
        Change::RegisterUser(user, instance(8, "u"), certificate(8, 1)),
        Change::CreateJoinToken(token("t1", AGENT)),
        enroll_at("t1", instance(1, AGENT), NOW),
        super::keys::renew(1, 1, 2),
        Change::UseGeneration(super::keys::used(1, 2)),
        Change::LockInstance {
            instance_id: Uuid::from_u128(1),
            presented: 1,
        },
        super::keys::set_key_state(1, InstanceState::Active, &[InstanceState::Locked]),
        Change::UpdateAgent(agent(AGENT)),
        set_state(AgentState::Isolated, &[AgentState::Active]),
        Change::ApplyRevision(Box::new(one)),
        super::proposals::propose(&super::proposals::proposal(1, 1)),
        super::proposals::reject(1),
        super::proposals::propose(&super::proposals::proposal(2, 1)),
        super::proposals::approve(2, 2),
        Change::RevokeTokens(TokenRevocation::of_token("t", NOW)),
        Change::PutEntities([super::entities::entity("A", "1", "{}")].into()),
        Change::DeleteEntities([zta_server::model::EntityUid::new("A", "1")].into()),
    ] {
        succeeds(store, &wanted).await;
    }
    let feed = store.changes_since(0, 0).await.expect("feed");
    assert_eq!(
        (feed.agents.len(), feed.users.len(), feed.instances.len()),
        (1, 1, 2)
    );
    assert!(feed.revision.is_some());
}

pub(crate) async fn void_tokens(db: Db) {
    let db = db.with_log().await;
    let user = zta_server::model::EntityUid::new("ZTA::User", "https://i.example#é");
    let first = TokenRevocation::of_principal(&user, NOW);
    let one = TokenRevocation::of_token("t-1", NOW);
    assert!(one.is_of_token() && !first.is_of_token());
    for revocation in [&first, &one] {
        succeeds(&db.store, &Change::RevokeTokens(revocation.clone())).await;
    }
    let feed = async |epoch| {
        let changes = db.store.changes_since(epoch, 0).await.expect("feed");
        changes.revocations
    };
    assert_eq!(feed(0).await, [first, one.clone()]);
    assert_eq!(
        feed(1).await,
        std::slice::from_ref(&one),
        "the second moved the epoch"
    );
    // Again: the later moment counts, and what nothing lives by any more is forgotten.
    let later = NOW + Duration::HOUR;
    let again = TokenRevocation::of_principal(&user, later);
    succeeds(&db.store, &Change::RevokeTokens(again.clone())).await;
    assert_eq!(feed(0).await, [again.clone(), one.clone()]);
    // By a replica whose clock is behind: nothing comes back to life.
    let behind = TokenRevocation::of_principal(&user, NOW);
    succeeds(&db.store, &Change::RevokeTokens(behind)).await;
    assert_eq!(feed(0).await, [again.clone(), one]);
    let last = TokenRevocation::of_token("t-2", NOW + Duration::minutes(80));
    succeeds(&db.store, &Change::RevokeTokens(last.clone())).await;
    assert_eq!(feed(0).await, [again, last]);
}
