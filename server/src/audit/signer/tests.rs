use std::sync::Mutex;

use time::OffsetDateTime;

use super::*;
use crate::audit::{Audit, Record};
use crate::keys::{KeyAlgorithm, KeyError, SoftwareKey};
use crate::model::{Event, EventType};
use crate::store::sqlite::SqliteStore;

const ORIGIN: &str = "zta.local/log/test";

/// A log in a file, with its writer.
struct Log {
    folder: tempfile::TempDir,
    store: SharedStore,
    audit: Audit,
    key: Arc<SoftwareKey>,
}

impl Log {
    async fn new(events: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store: SharedStore = Arc::new(SqliteStore::with_log(folder.path()).await);
        let (audit, sequencer) = Audit::new(Uuid::nil(), Arc::clone(&store));
        tokio::spawn(sequencer.run());
        let key = SoftwareKey::generate(KeyAlgorithm::Ed25519).expect("a key");
        let log = Self {
            folder,
            store,
            audit,
            key: Arc::new(key),
        };
        log.append(events).await;
        log
    }

    async fn append(&self, events: u64) {
        for _ in 0..events {
            let (kind, id) = (EventType::Decision, Uuid::new_v4());
            let event = Event::new(kind, Uuid::nil(), id, OffsetDateTime::UNIX_EPOCH);
            let appended = self.audit.append(Record::fact(event)).await;
            appended.expect("on record");
        }
    }

    /// A replica of its own connections.
    async fn signer(&self) -> Signer {
        let key: Arc<dyn SigningKey> = Arc::clone(&self.key) as _;
        Signer::new(open(&self.folder).await, key, ORIGIN).expect("an Ed25519 key")
    }

    /// Plain SQL, by somebody whom no trigger stops.
    async fn sql(&self, sql: &'static str) {
        let store = SqliteStore::open(&self.folder.path().join("zta.db")).await;
        store.expect("opens").intrude(sql).await;
    }
}

async fn open(folder: &tempfile::TempDir) -> SharedStore {
    let store = SqliteStore::open(&folder.path().join("zta.db")).await;
    Arc::new(store.expect("opens"))
}

/// The turn ends, as it does while its holder sleeps.
const EXPIRE: &str = "UPDATE log_signer SET expire_time_ms = 0";

fn size(signed: Result<Signed, SignError>) -> Option<u64> {
    match signed.expect("a pass") {
        Signed::Stored(checkpoint) => Some(checkpoint.size),
        Signed::Nothing | Signed::NotOurTurn => None,
    }
}

#[tokio::test]
async fn one_replica_signs_and_another_takes_over() {
    let log = Log::new(3).await;
    let (mut one, mut two) = (log.signer().await, log.signer().await);
    assert_eq!(size(one.advance().await), Some(3));
    assert_eq!(one.advance().await.expect("idle"), Signed::Nothing);
    log.append(600).await;
    assert_eq!(two.advance().await.expect("waits"), Signed::NotOurTurn);
    assert_eq!(size(one.advance().await), Some(603));
    log.append(1).await;
    one.release().await.expect("releases");
    assert_eq!(size(two.advance().await), Some(604));
    log.append(1).await;
    assert_eq!(one.advance().await.expect("waits"), Signed::NotOurTurn);
    log.sql(EXPIRE).await;
    assert_eq!(size(one.advance().await), Some(605));
}

/// A key that lets somebody in just before it signs.
#[derive(Debug)]
struct Slow {
    key: Arc<SoftwareKey>,
    meanwhile: Mutex<Option<std::sync::mpsc::Sender<std::sync::mpsc::Sender<()>>>>,
}

impl SigningKey for Slow {
    fn algorithm(&self) -> KeyAlgorithm {
        self.key.algorithm()
    }

    fn public_key_spki_der(&self) -> &[u8] {
        self.key.public_key_spki_der()
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        if let Some(wake) = self.meanwhile.lock().expect("not poisoned").take() {
            let (done, wait) = std::sync::mpsc::channel();
            wake.send(done).expect("somebody waits");
            wait.recv().expect("somebody came");
        }
        self.key.sign(message)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_lost_in_the_middle_of_signing_stores_nothing() {
    let log = Log::new(5).await;
    let (wake, woken) = std::sync::mpsc::channel();
    let slow: Arc<dyn SigningKey> = Arc::new(Slow {
        key: Arc::clone(&log.key),
        meanwhile: Mutex::new(Some(wake)),
    });
    let mut slow = Signer::new(open(&log.folder).await, slow, ORIGIN).expect("a key");
    let slept = tokio::spawn(async move { (slow.advance().await, slow) });
    let done = tokio::task::spawn_blocking(move || woken.recv());
    let done = done.await.expect("joins").expect("it signs");
    // It has proved and is about to sign 5 records when its turn ends.
    log.append(2).await;
    log.sql(EXPIRE).await;
    let mut other = log.signer().await;
    assert_eq!(size(other.advance().await), Some(7));
    done.send(()).expect("it waits");
    let (late, mut slow) = slept.await.expect("joins");
    assert_eq!(late.expect("a pass"), Signed::NotOurTurn);
    assert_eq!(log.store.checkpoint(5).await.expect("a look"), None);
    log.append(1).await;
    assert_eq!(slow.advance().await.expect("waits"), Signed::NotOurTurn);
    assert_eq!(size(other.advance().await), Some(8));
}

#[tokio::test]
async fn a_log_that_does_not_extend_what_was_signed_is_not_signed() {
    let head = "UPDATE log_head SET size = 4, frontier = (SELECT leaf_hash FROM audit_events \
                WHERE sequence = 0)";
    let rewritten = "DROP TRIGGER audit_events_no_update; UPDATE audit_events SET leaf_hash = \
                     (SELECT leaf_hash FROM audit_events WHERE sequence = 1) WHERE sequence = 0";
    for (what, manipulation) in [("rolled back", head), ("rewritten", rewritten)] {
        let log = Log::new(6).await;
        let mut signer = log.signer().await;
        assert_eq!(size(signer.advance().await), Some(6));
        log.sql(manipulation).await;
        if what == "rewritten" {
            log.append(1).await;
        }
        for mut signer in [signer, log.signer().await] {
            log.sql(EXPIRE).await;
            let refused = signer.advance().await;
            assert!(
                matches!(refused, Err(SignError::Altered { signed: 6, .. })),
                "{what}: {refused:?}"
            );
        }
        let newest = log.store.latest_checkpoint().await.expect("a look");
        assert_eq!(newest.map(|c| c.size), Some(6), "{what}");
    }
}

#[tokio::test]
async fn who_saw_a_checkpoint_misses_it() {
    let log = Log::new(6).await;
    let mut signer = log.signer().await;
    assert_eq!(size(signer.advance().await), Some(6));
    log.sql(
        "DROP TRIGGER checkpoints_no_delete; DELETE FROM checkpoints; \
         DROP TRIGGER audit_events_no_delete; DELETE FROM audit_events WHERE sequence = 5; \
         UPDATE log_head SET size = 4, frontier = substr(frontier, 1, 32)",
    )
    .await;
    let refused = signer.advance().await;
    assert!(
        matches!(refused, Err(SignError::Altered { size: 4, signed: 6 })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn tiles_are_made_again_from_the_leaves() {
    let log = Log::new(700).await;
    let mut signer = log.signer().await;
    assert_eq!(size(signer.advance().await), Some(700));
    let first = log.store.tile_levels().await.expect("levels");
    assert_eq!(first.len(), 1);
    assert_eq!((first[0].count, first[0].end), (2, 2));
    log.sql("DELETE FROM log_tiles WHERE number = 0").await;
    log.append(100).await;
    // One that has counted them goes on; one that starts looks again.
    let mut restarted = log.signer().await;
    log.sql(EXPIRE).await;
    assert_eq!(size(restarted.advance().await), Some(800));
    let again = log.store.tile_levels().await.expect("levels");
    assert_eq!((again[0].count, again[0].end), (3, 3));
}
