//! What may be pruned: records that were exported, that the exports prove, and that the log as
//! it stands still begins with. Nothing else, whoever asks.
//!
//! Their leaves go; the hashes of their leaves stay as tiles, so that everything that was
//! signed stays provable: that a record is in the log, and that a later tree begins with an
//! earlier one.

use std::path::PathBuf;

use time::OffsetDateTime;

use super::checkpoint::VerifierKey;
use super::export::{begins_with, durable, unwritten};
use super::export_verify::{self, ExportProof};
use super::merkle::Hash;
use super::proof::{self, Plan, verify_consistency};
use super::tiles::{self, TileBuilder};
use super::verify::VerifyError;
use super::verify_pruned;
use super::verify_tiles::TileRoots;
use crate::store::{EventFilter, SharedStore, StoreError};

/// What to prune.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Folders that `zta audit export` made: together they hold all that is to go.
    pub exports: Vec<PathBuf>,
    /// Only records below this place.
    pub before: Option<u64>,
    /// Only records before the first one that is as young as this.
    pub older_than: Option<OffsetDateTime>,
}

/// What can be pruned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prunable {
    /// Records that are pruned already.
    pub pruned: u64,
    /// The first record that stands although it is pruned, where pruning was interrupted.
    pub standing: Option<u64>,
    /// Below which place records can go now; not below `pruned`.
    pub size: u64,
    /// The root of the tree of `size`, where that is more than `pruned`.
    pub root: Hash,
    /// Records that the exports hold, as the checkpoint of the last one signs them, and their
    /// root.
    pub signed: (u64, Hash),
}

/// Verifies the exports and what is to stay of the records, and says below which place they
/// can go. Changes nothing but tiles that were missing.
///
/// # Errors
/// An export does not verify, is of another log, or does not follow the one before; the log
/// does not begin with what it signs; a tile that is to stay is not what was signed.
pub async fn prunable(
    store: &SharedStore,
    key: &VerifierKey,
    wanted: &Wanted,
) -> Result<Prunable, VerifyError> {
    // Before the checkpoint: what is pruned is below one that was signed before.
    let before = store.pruned().await?;
    let newest = store.latest_checkpoint().await?;
    let newest = newest.map(|c| key.open(&c.note)).transpose()?;
    let size = newest.map_or(0, |(size, _)| size);
    if let Some(before) = before {
        // A row that nobody signed for is no leave to drop anything.
        let log_id = store.head().await?.log_id;
        let act = verify_pruned::act(store, log_id, key, before).await?;
        act.fits(store, before, newest.unwrap_or_default()).await?;
    }
    let pruned = before.map_or(0, |pruned| pruned.size);
    let first = store.read(0, 1).await?.first().map(|row| row.sequence);
    let mut exports = Vec::new();
    for folder in &wanted.exports {
        let named = |error| VerifyError::Export {
            folder: folder.clone(),
            error: Box::new(error),
        };
        let export = export_verify::verify(folder, key, None).map_err(named)?;
        let begins = begins_with(store, size, export.size, export.root).await;
        begins.map_err(named)?;
        // What lies in memory alone would be lost with the machine, and the records are gone.
        durable(folder).map_err(|error| unwritten(folder, &error))?;
        exports.push(export);
    }
    let last = covering(&mut exports, pruned)?;
    let mut limit = last.size;
    if let Some(before) = wanted.before {
        limit = limit.min(before);
    }
    if let Some(time) = wanted.older_than {
        limit = limit.min(first_since(store, time, pruned..limit).await?);
    }
    let cut = store.prunable(limit).await?;
    if cut > limit {
        let what = format!("the database would cut at {cut}, beyond {limit}");
        return Err(StoreError::Corrupt(what).into());
    }
    let mut found = Prunable {
        pruned,
        standing: first.filter(|first| *first < pruned),
        size: cut.max(pruned),
        root: Hash::default(),
        signed: (last.size, last.root),
    };
    if found.size > pruned {
        found.root = stays_provable(store, &found).await?;
    }
    Ok(found)
}

/// The export that reaches furthest, of those that follow each other without a gap.
fn covering(exports: &mut [ExportProof], kept: u64) -> Result<&ExportProof, VerifyError> {
    exports.sort_by_key(|export| (export.from, export.size));
    let mut end = kept;
    let mut last = None;
    for export in &*exports {
        if export.from > end {
            return Err(VerifyError::Unreadable(format!(
                "the exports do not hold the records from {end} to {}; name an export of those, \
                 too",
                export.from - 1
            )));
        }
        if last.is_none() || export.size > end {
            last = Some(export);
        }
        end = end.max(export.size);
    }
    last.ok_or_else(|| VerifyError::Unreadable("no export was named".to_owned()))
}

/// The first of these places whose record is not older than `time`, or the end of them.
/// Clocks of replicas differ, so a later record may be older: it stays, too.
async fn first_since(
    store: &SharedStore,
    time: OffsetDateTime,
    places: std::ops::Range<u64>,
) -> Result<u64, StoreError> {
    let filter = EventFilter {
        start_time: Some(time),
        ..EventFilter::default()
    };
    let (end, mut first) = (places.end, places.start);
    while first < end {
        let piece = first..end.min(first + PIECE);
        first = piece.end;
        let found = store.list(&filter, piece, false, 1).await?;
        if let Some(event) = found.first() {
            return Ok(event.sequence);
        }
    }
    Ok(end)
}

/// Places that one query looks through.
const PIECE: u64 = 100_000;

/// That the tiles of what is to go are there, and are those of the tree that was signed: they
/// are all that will be left. Returns the root of what is to go.
async fn stays_provable(store: &SharedStore, found: &Prunable) -> Result<Hash, VerifyError> {
    let (signed, root) = found.signed;
    TileBuilder::default().extend(store, signed).await?;
    let lost = || {
        VerifyError::Tree(
            "the tiles are not those of the tree that the export's checkpoint signs; see what \
             `zta audit verify` says"
                .to_owned(),
        )
    };
    let before = found.pruned;
    let plan = Plan::frontier(before);
    let tiles = tiles::read(store, &plan.tiles(), before).await?;
    let mut tree = proof::frontier(before, &tiles).ok_or_else(lost)?;
    let mut roots = TileRoots::new(before);
    let going = before..found.size;
    verify_pruned::leaf_hashes(store, going, Some(signed), |sequence, hash| {
        tree.push(hash);
        roots.push(sequence, hash);
    })
    .await?;
    roots.compare(store, found.size).await?;
    let plan = Plan::consistency(found.size, signed).ok_or_else(lost)?;
    let proof = tiles::prove(store, &plan, signed).await?;
    match verify_consistency((found.size, tree.root()), (signed, root), &proof) {
        true => Ok(tree.root()),
        false => Err(lost()),
    }
}
