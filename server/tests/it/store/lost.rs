//! A Postgres connection that dies between COMMIT and its answer.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use uuid::Uuid;
use zta_server::audit::{AppendError, Audit, Record};
use zta_server::store::postgres::PostgresStore;
use zta_server::store::{SharedStore, StoreError, StoredCheckpoint};

use super::support::{Db, NOW, advanced, all, append, decision, finish, prepared};

/// What the proxy does when it sees COMMIT.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Cut {
    Never,
    /// Forwards it, then cuts.
    After,
    /// Cuts without forwarding it.
    Before,
    /// Cuts towards the client at once, and forwards it half a second later.
    Late,
}

const LATE: Duration = Duration::from_millis(500);

/// Our own proxy in front of the server's socket.
struct Proxy {
    folder: tempfile::TempDir,
    cut: Arc<AtomicU8>,
}

impl Proxy {
    fn start(db: &Db) -> Self {
        let (server, _) = db.postgres();
        let name = format!(".s.PGSQL.{}", server.port());
        let upstream = format!("{}/{name}", server.folder());
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join(name)).expect("listen");
        let cut = Arc::new(AtomicU8::new(Cut::Never as u8));
        let armed = Arc::clone(&cut);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = UnixStream::connect(&upstream).await.expect("upstream");
                tokio::spawn(forward(client, server, Arc::clone(&armed)));
            }
        });
        Self { folder, cut }
    }

    async fn store(&self, db: &Db) -> SharedStore {
        let (server, name) = db.postgres();
        let folder = self.folder.path().display().to_string();
        let store = PostgresStore::connect(&server.url(&folder, name)).await;
        Arc::new(store.expect("connect through the proxy"))
    }

    /// Cuts at the next COMMIT, once.
    fn arm(&self, cut: Cut) {
        self.cut.store(cut as u8, Ordering::SeqCst);
    }
}

async fn forward(client: UnixStream, server: UnixStream, armed: Arc<AtomicU8>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let back = tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
        (from_server, to_client)
    });
    let mut buffer = vec![0; 1 << 20];
    while let Ok(n @ 1..) = from_client.read(&mut buffer).await {
        let message = &buffer[..n];
        // That of the writer, not the `READ COMMITTED` of a BEGIN.
        if message.windows(11).any(|w| w == b"= 0; COMMIT") {
            let cut = armed.swap(Cut::Never as u8, Ordering::SeqCst);
            if cut != Cut::Never as u8 {
                back.abort();
                drop(from_client);
                // Both halves of the client's side are gone once the task has ended.
                let _ = back.await;
                if cut == Cut::Late as u8 {
                    tokio::time::sleep(LATE).await;
                }
                if cut != Cut::Before as u8 {
                    let _ = to_server.write_all(message).await;
                }
                return;
            }
        }
        if to_server.write_all(message).await.is_err() {
            return;
        }
    }
    back.abort();
}

/// Appends through a proxy that cuts. Whether the event is there must be what `find`
/// says, at once and for ever.
async fn cut_once(db: &Db, proxy: &Proxy, store: &SharedStore, cut: Cut) -> Option<u64> {
    let event = prepared(&decision("a", 0));
    let id = event.columns.event_id;
    let tx = store.begin().await.expect("begin");
    let size = tx.head().size;
    proxy.arm(cut);
    let outcome = finish(tx, &[event], true).await;
    assert!(
        matches!(outcome, Err(StoreError::CommitUnknown(_))),
        "{outcome:?}"
    );
    let found = store.find(id).await.expect("find");
    assert!(found.is_none_or(|place| place == size));
    let stays = |what: &'static str, now: Option<u64>| assert_eq!(now, found, "{what}");
    stays("through the proxy", store.find(id).await.expect("find"));
    tokio::time::sleep(Duration::from_millis(50)).await;
    stays("on another store", db.store.find(id).await.expect("find"));
    let head = db.store.head().await.expect("head");
    assert_eq!(head.size, size + found.iter().count() as u64);
    // The next batch goes on as if nothing had been.
    assert_eq!(
        append(store, &[prepared(&decision("b", 0))]).await,
        head.size
    );
    found
}

pub(crate) async fn after_commit(db: Db) {
    let db = db.with_log().await;
    let proxy = Proxy::start(&db);
    let store = proxy.store(&db).await;
    for _ in 0..10 {
        let found = cut_once(&db, &proxy, &store, Cut::After).await;
        assert!(found.is_some(), "the server had the COMMIT");
    }
}

pub(crate) async fn before_commit(db: Db) {
    let db = db.with_log().await;
    let proxy = Proxy::start(&db);
    let store = proxy.store(&db).await;
    for _ in 0..10 {
        let found = cut_once(&db, &proxy, &store, Cut::Before).await;
        assert_eq!(found, None, "the server never had the COMMIT");
    }
}

/// `find` must not answer while the COMMIT is still under way.
pub(crate) async fn late_commit(db: Db) {
    let db = db.with_log().await;
    let proxy = Proxy::start(&db);
    let store = proxy.store(&db).await;
    let started = Instant::now();
    let found = cut_once(&db, &proxy, &store, Cut::Late).await;
    assert!(found.is_some(), "the COMMIT arrived late, and arrived");
    assert!(started.elapsed() >= LATE);
}

/// A batch of a decision and reports whose COMMIT got no answer: the decision's record tells
/// what became of all. Reports alone have no such witness, so their callers hear that nobody
/// knows, and the same again finds out.
pub(crate) async fn with_reports(db: Db) {
    let db = db.with_log().await;
    let proxy = Proxy::start(&db);
    let store = proxy.store(&db).await;
    let log_id = db.store.head().await.expect("head").log_id;
    let report_of = |n: u128| {
        let mut event = decision("reporter", 0);
        event.id = Uuid::from_u128(n);
        event
    };
    let mut size = 0;
    for (round, cut) in [(0, Cut::After), (100, Cut::Before), (200, Cut::Late)] {
        // Both wait before the writer begins, so that they are one batch.
        let (audit, writer) = Audit::new(log_id, Arc::clone(&store));
        let mut begin = tokio::task::JoinSet::new();
        let reports: Vec<_> = (round..round + 3).map(report_of).collect();
        proxy.arm(cut);
        let (decided, told, ()) = tokio::join!(
            audit.append(Record {
                epoch: Some(0),
                ..Record::fact(decision("decider", 0))
            }),
            audit.report(reports.clone(), 0, None),
            async {
                begin.spawn(writer.run());
            }
        );
        let arrived = !matches!(cut, Cut::Before);
        let places: Vec<_> = told.iter().map(|t| t.as_ref().ok()).collect();
        if arrived {
            assert_eq!(decided.expect("a decision").sequence, size);
            let places: Vec<_> = places.iter().map(|p| p.map(|a| a.sequence)).collect();
            assert_eq!(places, (size + 1..=size + 3).map(Some).collect::<Vec<_>>());
            size += 4;
        } else {
            assert!(matches!(decided, Err(AppendError::Store(_))), "{decided:?}");
            assert!(places.iter().all(Option::is_none), "{told:?}");
        }
        let again = audit.report(reports, 0, None).await;
        let repeated = |t: &Result<_, _>| matches!(t, Err(AppendError::OnRecord));
        assert_eq!(again.iter().all(repeated), arrived, "{again:?}");
        size += again.iter().flatten().count() as u64;
        assert_eq!(db.store.head().await.expect("head").size, size);

        let alone = vec![report_of(round + 50)];
        proxy.arm(cut);
        let told = audit.report(alone.clone(), 0, None).await;
        assert!(matches!(told[..], [Err(AppendError::Store(_))]), "{told:?}");
        let again = audit.report(alone, 0, None).await;
        assert_eq!(again.iter().all(repeated), arrived, "{again:?}");
        size += 1;
        assert_eq!(db.store.head().await.expect("head").size, size);
        drop(audit);
        begin.join_next().await.expect("a writer").expect("ends");
    }
    let ids: HashSet<_> = all(&db.store)
        .await
        .iter()
        .map(|e| e.columns.event_id)
        .collect();
    assert_eq!(ids.len() as u64, size, "nothing is there twice");
}

/// A COMMIT that the server refuses is no unknown outcome.
pub(crate) async fn refused(db: Db) {
    let db = db.with_log().await;
    let inject = "CREATE FUNCTION boom() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN RAISE EXCEPTION 'boom'; END $$; \
         CREATE CONSTRAINT TRIGGER boom AFTER INSERT ON audit_events DEFERRABLE \
         INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.actor_id = 'boom') EXECUTE FUNCTION boom()";
    db.raw.execute(inject).await.expect("inject");
    let event = prepared(&decision("boom", 0));
    let id = event.columns.event_id;
    let tx = db.store.begin().await.expect("begin");
    let outcome = finish(tx, &[event], false).await;
    assert!(
        matches!(outcome, Err(StoreError::Refused(_))),
        "{outcome:?}"
    );
    assert_eq!(db.store.find(id).await.expect("find"), None);
    assert_eq!(append(&db.store, &[prepared(&decision("a", 0))]).await, 0);
}

/// The server ends the session at each stage; what was not answered is not there.
pub(crate) async fn terminated(db: Db) {
    let db = db.with_log().await;
    for stage in 0..3 {
        let event = prepared(&decision("a", 0));
        let id = event.columns.event_id;
        let mut tx = db.store.begin().await.expect("begin");
        let head = tx.head().clone();
        if stage == 0 {
            terminate(&db).await;
        }
        let inserted = tx.insert(head.size, &[event]).await;
        assert_eq!(inserted.is_err(), stage == 0, "{inserted:?}");
        if stage == 1 {
            terminate(&db).await;
        }
        let outcome = tx.commit(&advanced(&head, 1, false)).await;
        let found = db.store.find(id).await.expect("find");
        match stage {
            0 => assert!(outcome.is_err() && found.is_none(), "{outcome:?}"),
            1 => {
                let unknown = matches!(outcome, Err(StoreError::CommitUnknown(_)));
                assert!(unknown && found.is_none(), "{outcome:?} {found:?}");
            }
            _ => assert!(outcome.is_ok() && found == Some(head.size), "{outcome:?}"),
        }
    }
}

/// A connection that died while nobody used it fails nobody's call.
pub(crate) async fn while_idle(db: Db) {
    let db = db.with_log().await;
    for place in 0..3 {
        terminate(&db).await;
        assert_eq!(
            append(&db.store, &[prepared(&decision("a", 0))]).await,
            place
        );
        terminate(&db).await;
        assert_eq!(db.store.find(Uuid::nil()).await.expect("find"), None);
        assert_eq!(db.store.head().await.expect("head").size, place + 1);
    }
}

async fn terminate(db: &Db) {
    let sql = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity \
               WHERE application_name = 'zta' AND datname = current_database()";
    db.raw.rows(sql).await.expect("terminate");
}

/// Commits wait for the disk even where the server's default says otherwise, and a
/// reader cannot write.
pub(crate) async fn durability(db: Db) {
    let db = db.with_log().await;
    let (_, name) = db.postgres();
    let sql = format!("ALTER DATABASE {name} SET synchronous_commit = off");
    db.raw.execute(&sql).await.expect("alter");
    let inject = "CREATE TABLE seen (setting text); \
         CREATE FUNCTION seen() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         INSERT INTO seen SELECT current_setting('synchronous_commit') || ' ' || \
         current_setting('transaction_isolation'); RETURN NEW; END $$; \
         CREATE TRIGGER seen AFTER INSERT ON audit_events FOR EACH ROW EXECUTE FUNCTION seen(); \
         CREATE TRIGGER seen AFTER INSERT ON blobs FOR EACH ROW EXECUTE FUNCTION seen()";
    db.raw.execute(inject).await.expect("inject");
    let store = db.another().await;
    append(&store, &[prepared(&decision("a", 0))]).await;
    store.put_blob_if_absent("a", b"b").await.expect("blob");
    let on = "SELECT 1 FROM seen WHERE setting = 'on read committed'";
    assert_eq!(db.raw.rows(on).await.expect("seen"), 2);
    assert_eq!(db.raw.rows("SELECT 1 FROM seen").await.expect("seen"), 2);
}

/// A commit that moves the epoch wakes the other replica long before its tick, also
/// after its connections were lost.
pub(crate) async fn notification(db: Db) {
    let db = db.with_log().await;
    let other = db.another().await;
    for round in 0..3 {
        // The first call connects; what is left of wake-ups is used up.
        for _ in 0..3 {
            other.wait_for_change().await;
        }
        let waiting = tokio::spawn({
            let other = other.clone();
            async move {
                let started = Instant::now();
                other.wait_for_change().await;
                started.elapsed()
            }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        let bump = round != 1;
        let tx = db.store.begin().await.expect("begin");
        finish(tx, &[prepared(&decision("a", 0))], bump)
            .await
            .expect("commit");
        let waited = waiting.await.expect("wait");
        assert_eq!(
            waited < Duration::from_millis(700),
            bump,
            "{round}: {waited:?}"
        );
        terminate(&db).await;
    }
}

/// Under the role that owns nothing (migration 0002) the whole store works, and of the
/// audit it can only add.
pub(crate) async fn service_role(db: Db) {
    let db = db.with_log().await;
    let (server, name) = db.postgres();
    let url = server.url(&server.folder(), name) + "&options[role]=zta_service";
    let store: SharedStore = Arc::new(PostgresStore::connect(&url).await.expect("connect"));
    for round in 0..3 {
        let event = super::support::with_inputs(&decision("a", 0), "{}");
        assert_eq!(append(&store, &[event]).await, round);
    }
    store.migrate().await.expect("nothing to migrate");
    store.ensure_log(Uuid::nil()).await.expect("a log");
    store.put_blob_if_absent("a", b"b").await.expect("blob");
    let note = StoredCheckpoint {
        size: 1,
        note: "n".to_owned(),
    };
    let turn = store
        .claim_signing(Uuid::nil(), Duration::from_secs(60))
        .await;
    let turn = turn.expect("claims").expect("nobody else's");
    let put = store.put_checkpoint(&note, turn).await;
    assert!(put.expect("checkpoint"));
    store.release_signing(turn).await.expect("releases");
    super::proofs::put_tiles(&store).await;
    super::changes::each_change(&store).await;
    let replica = super::replicas::replica(1);
    store.put_replica(&replica).await.expect("told");
    store.put_replica(&replica).await.expect("told again");
    store.forget_replicas(NOW).await.expect("forgotten");
    assert_eq!(store.find(Uuid::nil()).await.expect("find"), None);
    store.wait_for_change().await;
    for sql in [
        "DELETE FROM audit_inputs",
        "ALTER TABLE audit_events DISABLE TRIGGER ALL",
        "DROP TRIGGER audit_events_append_only ON audit_events",
        "UPDATE blobs SET value = ''",
        "DELETE FROM revisions",
        "DELETE FROM checkpoints",
        "DELETE FROM log_tiles",
        "UPDATE log_tiles SET root = ''",
        "DELETE FROM entities",
        "UPDATE entities SET attributes = '{}'",
        "TRUNCATE audit_events",
    ] {
        let as_service = format!("SET ROLE zta_service; {sql}");
        let refused = db.raw.execute(&as_service).await.expect_err(sql);
        let refused = refused.to_string();
        let denied = ["permission denied", "must be owner"]
            .iter()
            .any(|w| refused.contains(w));
        assert!(denied, "{sql}: {refused}");
    }
}
