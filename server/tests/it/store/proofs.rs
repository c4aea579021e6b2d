//! Tiles, checkpoints, and whose turn it is to sign.

use std::time::Duration;

use uuid::Uuid;
use zta_server::audit::tiles::{self, TileBuilder};
use zta_server::store::{
    SharedStore, SigningTurn, StoreError, StoredCheckpoint, StoredTile, TileId,
};

use super::support::{Db, append, decision, prepared};

const LONG: Duration = Duration::from_secs(600);

/// The turn for a replica, if it gets it.
pub(crate) async fn turn(store: &SharedStore, holder: u128) -> Option<SigningTurn> {
    let claimed = store.claim_signing(Uuid::from_u128(holder), LONG).await;
    claimed.expect("claims")
}

fn note(size: u64, text: &str) -> StoredCheckpoint {
    StoredCheckpoint {
        size,
        note: text.to_owned(),
    }
}

pub(crate) async fn checkpoints(db: Db) {
    let db = db.with_log().await;
    assert_eq!(db.store.latest_checkpoint().await.expect("none"), None);
    let turn = turn(&db.store, 1).await.expect("a turn");
    let text = |size| format!("log\n{size}\n\n— key é\n");
    for size in [3, 7, 10] {
        let note = note(size, &text(size));
        for time in ["first", "again"] {
            let put = db.store.put_checkpoint(&note, turn).await;
            assert!(put.expect("stored"), "{time}");
        }
        assert_eq!(db.store.checkpoint(size).await.expect("there"), Some(note));
    }
    let newest = db.store.latest_checkpoint().await.expect("newest");
    assert_eq!(newest, Some(note(10, &text(10))));
    assert_eq!(db.store.checkpoint(9).await.expect("none"), None);
    let refused = db.store.put_checkpoint(&note(10, "another"), turn).await;
    assert!(
        matches!(refused, Err(StoreError::Corrupt(_))),
        "{refused:?}"
    );
    let smaller = db.store.put_checkpoint(&note(9, "smaller"), turn).await;
    assert!(!smaller.expect("an answer"), "beneath what is signed");
    assert_eq!(db.store.checkpoint(9).await.expect("none"), None);
}

pub(crate) async fn turns(db: Db) {
    let claim = db.store.claim_signing(Uuid::nil(), LONG).await;
    assert_eq!(claim.expect("no log"), None, "without a log, no turn");
    let db = db.with_log().await;
    let another = db.another().await;
    let first = turn(&db.store, 1).await.expect("free");
    assert_eq!(turn(&db.store, 1).await, Some(first), "kept");
    assert_eq!(turn(&another, 2).await, None, "taken");
    // It sleeps, and its turn ends by the database's clock.
    db.raw
        .execute("UPDATE log_signer SET expire_time_ms = expire_time_ms - 700000")
        .await
        .expect("time passes");
    let second = turn(&another, 2).await.expect("free again");
    assert!(second.term > first.term);
    assert_eq!(turn(&db.store, 1).await, None, "taken over");
    // What it was about to sign is refused, whatever it believes.
    let late = db.store.put_checkpoint(&note(5, "late"), first).await;
    assert!(!late.expect("an answer"));
    assert_eq!(db.store.checkpoint(5).await.expect("none"), None);
    let put = another.put_checkpoint(&note(5, "in time"), second).await;
    assert!(put.expect("stored"));
    let late = db.store.put_checkpoint(&note(6, "late"), first).await;
    assert!(!late.expect("an answer"));
    // Who lost it cannot give it away either.
    db.store.release_signing(first).await.expect("nothing");
    assert_eq!(turn(&db.store, 3).await, None);
    another.release_signing(second).await.expect("releases");
    let third = turn(&db.store, 3).await.expect("free");
    assert!(third.term > second.term);
    // A turn that was ended by nobody else is good until somebody takes it.
    db.store.release_signing(third).await.expect("releases");
    let put = db.store.put_checkpoint(&note(7, "own"), third).await;
    assert!(put.expect("stored"));
}

/// However two replicas come between each other, one has the turn, and no size has two
/// checkpoints.
pub(crate) async fn turns_at_once(db: Db) {
    let db = db.with_log().await;
    let stores = [db.store.clone(), db.another().await, db.another().await];
    let mut tasks = tokio::task::JoinSet::new();
    for (replica, store) in stores.into_iter().enumerate() {
        tasks.spawn(async move {
            let mut stored = Vec::new();
            for size in 1..40 {
                let holder = Uuid::from_u128(replica as u128 + 1);
                let claimed = store.claim_signing(holder, LONG).await.expect("claims");
                let Some(turn) = claimed else { continue };
                let note = note(size, &format!("{replica} {size}"));
                match store.put_checkpoint(&note, turn).await {
                    Ok(true) => stored.push(note),
                    Ok(false) | Err(StoreError::Corrupt(_)) => {}
                    Err(error) => panic!("{error}"),
                }
                store.release_signing(turn).await.expect("releases");
            }
            stored
        });
    }
    let stored: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    assert!(!stored.is_empty());
    for note in stored {
        let size = note.size;
        assert_eq!(db.store.checkpoint(size).await.expect("there"), Some(note));
    }
}

fn tile(level: u8, number: u64) -> StoredTile {
    let first = u8::try_from(number).expect("a small number");
    StoredTile {
        id: TileId { level, number },
        root: [first; 32],
        hashes: (0..=255).map(|n| [n ^ first; 32]).collect(),
    }
}

/// Tiles of nothing, for what may be done with the table.
pub(crate) async fn put_tiles(store: &SharedStore) {
    let tiles = [tile(0, 0), tile(0, 1), tile(1, 0)];
    store.put_tiles(&tiles).await.expect("tiles");
}

pub(crate) async fn tiles(db: Db) {
    let db = db.with_log().await;
    assert!(db.store.tile_levels().await.expect("none").is_empty());
    assert!(db.store.tiles(&[]).await.expect("none").is_empty());
    db.store.put_tiles(&[]).await.expect("nothing");
    put_tiles(&db.store).await;
    let mut other = tile(0, 1);
    other.root = [9; 32];
    db.store
        .put_tiles(&[other, tile(0, 2)])
        .await
        .expect("stays");
    let ids = |tiles: &[StoredTile]| tiles.iter().map(|t| t.id).collect::<Vec<_>>();
    let asked = ids(&[tile(0, 1), tile(1, 0), tile(2, 0), tile(0, 200)]);
    let mut found = db.store.tiles(&asked).await.expect("tiles");
    found.sort_by_key(|tile| tile.id);
    assert_eq!(found, [tile(0, 1), tile(1, 0)]);
    let roots = db.store.tile_roots(0, 1, 256).await.expect("roots");
    assert_eq!(roots, [[1; 32], [2; 32]]);
    let levels = db.store.tile_levels().await.expect("levels");
    let counts: Vec<_> = levels.iter().map(|l| (l.level, l.count, l.end)).collect();
    assert_eq!(counts, [(0, 3, 3), (1, 1, 1)]);
    let sql = "DELETE FROM log_tiles WHERE level = 0 AND number = 1";
    db.raw.execute(sql).await.expect("rebuildable");
    let gap = db.store.tile_roots(0, 0, 256).await;
    assert!(matches!(gap, Err(StoreError::Corrupt(_))), "{gap:?}");
    let levels = db.store.tile_levels().await.expect("levels");
    assert_eq!((levels[0].count, levels[0].end), (2, 3));
}

pub(crate) async fn leaves(db: Db) {
    let db = db.with_log().await;
    let events: Vec<_> = (0..600).map(|i| prepared(&decision("a", i))).collect();
    append(&db.store, &events).await;
    let id = events[7].columns.event_id;
    assert_eq!(db.store.place(id).await.expect("a look"), Some(7));
    assert_eq!(db.store.place(Uuid::nil()).await.expect("a look"), None);
    let hashes = db.store.leaf_hashes(250, 256).await.expect("hashes");
    let expected = events[250..506].iter().map(|e| e.leaf_hash);
    assert!(hashes.into_iter().eq(expected));
    let leaves = db.store.leaves(595, 256).await.expect("leaves");
    assert!(leaves.iter().eq(events[595..].iter().map(|e| &e.leaf)));

    let mut builder = TileBuilder::default();
    assert_eq!(builder.extend(&db.store, 600).await.expect("builds"), 2);
    assert_eq!(builder.extend(&db.store, 600).await.expect("builds"), 0);
    let at = |level, number| TileId { level, number };
    let ids = [at(0, 1), at(0, 2), at(1, 0)].into();
    let read = tiles::read(&db.store, &ids, 600).await.expect("tiles");
    let widths: Vec<usize> = read.values().map(Vec::len).collect();
    assert_eq!(widths, [256, 88, 2]);
    let second = events[256..512].iter().map(|e| e.leaf_hash);
    assert!(read[&at(0, 1)].iter().copied().eq(second));
    let beyond = tiles::read(&db.store, &[at(0, 3)].into(), 600).await;
    assert!(matches!(beyond, Err(StoreError::Corrupt(_))), "{beyond:?}");
}
