//! Recomputes a whole log from its stored rows: each leaf hash, each column from its
//! leaf, each commitment, the roots, and the signed checkpoints.

use std::collections::HashSet;

use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::checkpoint::{CheckpointError, VerifierKey};
use super::merkle::{Frontier, Hash, leaf_hash};
use super::proof::{self, Plan};
use super::tiles;
use super::verify_pruned;
use super::verify_roots::Roots;
use super::verify_tiles::TileRoots;
use crate::model::{Columns, Event, EventType};
use crate::store::{LogHead, Pruned, SharedStore, StoreError, StoredEvent};

/// Rows read at a time.
const PAGE: u32 = 2000;
/// How long a log may grow without a checkpoint.
const UNSIGNED_MAX: Duration = Duration::minutes(1);

/// What was proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The log.
    pub log_id: Uuid,
    /// How many leaves it has.
    pub size: u64,
    /// How many of them were pruned: proved by their hashes, and recomputed no more.
    pub pruned: u64,
    /// The root over all.
    pub root: Hash,
    /// The size that the newest checkpoint signs, if there is one.
    pub checkpoint_size: Option<u64>,
    /// Inputs that were compared with their commitments.
    pub inputs: u64,
    /// Decisions whose inputs are gone; their events still verify.
    pub inputs_missing: u64,
}

/// Why the log does not verify, with the first bad record.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A row is not what its leaf says, or stands where it does not belong.
    #[error("record {sequence}: {what}")]
    Record {
        /// The first bad record.
        sequence: u64,
        /// What is wrong with it.
        what: String,
    },
    /// The rows are good by themselves but are not the tree that was signed or headed.
    #[error("{0}")]
    Tree(String),
    /// The newest checkpoint does not verify.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The log is smaller than it was.
    #[error(
        "the log was rolled back: it has {size} records that are proved, a checkpoint seen \
         before signs {known}"
    )]
    RolledBack {
        /// Records that there are.
        size: u64,
        /// Records that were signed before.
        known: u64,
    },
    /// The log is another one than was seen before.
    #[error(
        "a split view: the first {known} records are not those that a checkpoint seen before \
         signs; the log was rewritten, or others were shown another one. Keep both checkpoints"
    )]
    SplitView {
        /// Records that were signed before.
        known: u64,
    },
    /// One export of several.
    #[error("the export `{}`: {error}", folder.display())]
    Export {
        /// Its folder.
        folder: std::path::PathBuf,
        /// What is wrong with it.
        error: Box<VerifyError>,
    },
    /// Pruning goes on, or was interrupted; nothing was proved.
    #[error(
        "record {sequence} stands still, and the records below {size} were pruned, as the log's \
         key signed: `zta audit prune` is at work, or was interrupted and goes on when it is run \
         again; nothing proves what stands there"
    )]
    Standing {
        /// The first record that is to go.
        sequence: u64,
        /// Below which place records go.
        size: u64,
    },
    /// An export cannot be read, or is not whole; nothing was proved.
    #[error("{0}")]
    Unreadable(String),
    /// The store could not be read; nothing was proved.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A checkpoint that the verifier brings: the log must begin with what it signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// How many records it signs.
    pub size: u64,
    /// Their root.
    pub root: Hash,
    /// Whether what it signs was verified before, so that only later records are read.
    pub verified: bool,
}

impl Known {
    /// Compares with the root of the log's first records, where it has as many.
    pub(super) fn compare(&self, size: u64, root: Option<Hash>) -> Result<(), VerifyError> {
        let known = self.size;
        match root {
            _ if size < known => Err(VerifyError::RolledBack { size, known }),
            Some(root) if root == self.root => Ok(()),
            _ => Err(VerifyError::SplitView { known }),
        }
    }
}

/// Verifies a stored log up to the head as it stands when called, and that it begins with
/// what `known` signs.
///
/// # Errors
/// The first thing that is wrong.
pub async fn verify(
    store: &SharedStore,
    key: &VerifierKey,
    known: Option<Known>,
) -> Result<Proof, VerifyError> {
    loop {
        let pruned = store.pruned().await?;
        let verified = verify_kept(store, key, known, pruned).await;
        // Records that were pruned meanwhile are not missing.
        if verified.is_ok() || store.pruned().await? == pruned {
            return verified;
        }
    }
}

async fn verify_kept(
    store: &SharedStore,
    key: &VerifierKey,
    known: Option<Known>,
    pruned: Option<Pruned>,
) -> Result<Proof, VerifyError> {
    // The checkpoint first: the log only grows, so its tree is within the head's.
    let checkpoint = store.latest_checkpoint().await?;
    let head = store.head().await?;
    let row_size = checkpoint.as_ref().map(|c| c.size);
    let signed = checkpoint.map(|c| key.open(&c.note)).transpose()?;
    let signed_size = signed.map(|(size, _)| size);
    if row_size != signed_size {
        // An older note in a row of a larger size would hide the notes in between.
        let what = "the newest checkpoint stands at another size than it signs";
        return Err(VerifyError::Tree(what.to_owned()));
    }
    let pruned_size = pruned.map_or(0, |pruned| pruned.size);
    let mut verifier = Verifier::new(head.log_id, signed_size.unwrap_or(0), pruned_size);
    verifier.tree = start(store, known, head.size).await?;
    let begun = verifier.tree.size();
    let mut roots = Roots::new(signed, known, pruned_size);
    let mut tile_roots = TileRoots::new(begun);
    roots.look(&verifier.tree);
    verify_pruned::leaf_hashes(store, begun..pruned_size, signed_size, |sequence, hash| {
        verifier.tree.push(hash);
        tile_roots.push(sequence, hash);
        roots.look(&verifier.tree);
    })
    .await?;
    let mut next = verifier.tree.size();
    while next < head.size {
        let rows = match store.read(next, PAGE).await {
            Err(StoreError::Corrupt(what)) => return Err(first_unreadable(store, next, what).await),
            rows => rows?,
        };
        if rows.is_empty() {
            break;
        }
        for row in rows.iter().take_while(|row| row.sequence < head.size) {
            verifier.feed(row)?;
            tile_roots.push(row.sequence, row.leaf_hash);
            roots.look(&verifier.tree);
        }
        next = verifier.tree.size();
        if rows.len() < PAGE as usize {
            break;
        }
    }
    let proof = verifier
        .finish(&head, signed, roots.at_checkpoint, store)
        .await?;
    if let Some(known) = known {
        known.compare(head.size, roots.at_known)?;
    }
    tile_roots.compare(store, pruned_size).await?;
    if let Some(pruned) = pruned {
        let act = verify_pruned::act(store, head.log_id, key, pruned).await?;
        let known = known.filter(|known| known.size == begun);
        let known = known.map(|known| (known.size, known.root));
        verify_pruned::on_record(store, &act, pruned, roots.at_pruned, known).await?;
    }
    Ok(proof)
}

/// The tree of the records that are not read again: what tiles give must have the root that
/// was signed.
async fn start(
    store: &SharedStore,
    known: Option<Known>,
    size: u64,
) -> Result<Frontier, VerifyError> {
    let Some(known) = known.filter(|known| known.verified && known.size > 0) else {
        return Ok(Frontier::default());
    };
    if known.size > size {
        known.compare(size, None)?;
    }
    let plan = Plan::frontier(known.size);
    let split = || VerifyError::SplitView { known: known.size };
    let tiles = tiles::read(store, &plan.tiles(), known.size).await?;
    let tree = proof::frontier(known.size, &tiles).ok_or_else(split)?;
    known.compare(size, Some(tree.root()))?;
    Ok(tree)
}

/// A leaf's hash and what it says, if it is a leaf of this log in canonical form.
pub(super) fn read_leaf(log_id: Uuid, leaf: &[u8]) -> Result<(Hash, Event), String> {
    let event = Event::from_leaf(leaf).map_err(|e| e.to_string())?;
    if event.log_id != log_id {
        return Err("the leaf belongs to another log".to_owned());
    }
    Ok((leaf_hash(leaf), event))
}

/// A row among the next ones holds what no server writes: which one it is.
async fn first_unreadable(store: &SharedStore, from: u64, what: String) -> VerifyError {
    for sequence in from..from.saturating_add(PAGE.into()) {
        match store.read(sequence, 1).await {
            Ok(_) => {}
            Err(StoreError::Corrupt(what)) => return VerifyError::Record { sequence, what },
            Err(error) => return error.into(),
        }
    }
    StoreError::Corrupt(what).into()
}

/// The state of a verification.
struct Verifier {
    log_id: Uuid,
    /// Below this place no records are kept.
    pruned: u64,
    tree: Frontier,
    ids: HashSet<Uuid>,
    inputs: u64,
    inputs_missing: u64,
    signed_size: u64,
    /// When the first record was made that no checkpoint signs, and the last one.
    unsigned: Option<(OffsetDateTime, OffsetDateTime)>,
}

impl Verifier {
    fn new(log_id: Uuid, signed_size: u64, pruned: u64) -> Self {
        Self {
            log_id,
            pruned,
            signed_size,
            unsigned: None,
            tree: Frontier::default(),
            ids: HashSet::new(),
            inputs: 0,
            inputs_missing: 0,
        }
    }

    fn feed(&mut self, row: &StoredEvent) -> Result<(), VerifyError> {
        let expected = self.tree.size();
        if row.sequence != expected {
            let what = format!("is missing (the next one is {})", row.sequence);
            return Err(VerifyError::Record {
                sequence: expected,
                what,
            });
        }
        let bad = |what: String| VerifyError::Record {
            sequence: row.sequence,
            what,
        };
        let hash = leaf_hash(&row.leaf);
        if hash != row.leaf_hash {
            return Err(bad(
                "the stored leaf hash is not the hash of the leaf".into()
            ));
        }
        let (_, event) = read_leaf(self.log_id, &row.leaf).map_err(bad)?;
        if row.log_id != event.log_id {
            return Err(bad("the column `log_id` is not what the leaf says".into()));
        }
        if !self.ids.insert(event.id) {
            return Err(bad(
                "an event of the same id stands earlier in the log".into()
            ));
        }
        if let Some(column) = differing_column(&event.columns(), &row.columns) {
            return Err(bad(format!(
                "the column `{column}` is not what the leaf says"
            )));
        }
        self.compare_inputs(&event, row).map_err(bad)?;
        self.tree.push(hash);
        // Pruning beside a server that does not run waits for it to be signed.
        if expected >= self.signed_size && event.kind != EventType::LogPruned {
            let first = self.unsigned.map_or(event.time, |(first, _)| first);
            self.unsigned = Some((first, event.time));
        }
        Ok(())
    }

    /// A growing log is signed each second: a long tail that is not means that somebody
    /// took checkpoints away, perhaps to rewrite what they signed.
    fn tail_is_short(&self) -> Result<(), VerifyError> {
        match self.unsigned {
            Some((first, last)) if last - first > UNSIGNED_MAX => Err(VerifyError::Tree(format!(
                "no checkpoint signs the records from {} on, made in more than \
                     {UNSIGNED_MAX}: one is missing, or the server could not sign",
                self.signed_size
            ))),
            _ => Ok(()),
        }
    }

    fn compare_inputs(&mut self, event: &Event, row: &StoredEvent) -> Result<(), String> {
        match (&event.inputs_sha256, &row.inputs) {
            (Some(commitment), Some(inputs)) if *commitment == hex::encode(inputs.commitment()) => {
                self.inputs += 1;
            }
            (Some(_), Some(_)) => return Err("the inputs are not those of the commitment".into()),
            (Some(_), None) => self.inputs_missing += 1,
            (None, Some(_)) => {
                return Err("inputs stand beside it that the leaf does not commit to".into());
            }
            (None, None) => {}
        }
        Ok(())
    }

    async fn finish(
        self,
        head: &LogHead,
        signed: Option<(u64, Hash)>,
        root_at_checkpoint: Option<Hash>,
        store: &SharedStore,
    ) -> Result<Proof, VerifyError> {
        let tree = |what: String| Err(VerifyError::Tree(what));
        if self.tree.size() < head.size {
            let sequence = self.tree.size();
            let what = format!(
                "is missing, and all after it (the head says {} records)",
                head.size
            );
            return Err(VerifyError::Record { sequence, what });
        }
        if self.tree.roots() != head.frontier {
            return tree("the records are not the tree that the head row describes".into());
        }
        if let Some((size, root)) = signed {
            if size > head.size {
                return tree(format!(
                    "a checkpoint signs {size} records, the log has {}",
                    head.size
                ));
            }
            if root_at_checkpoint != Some(root) {
                return tree(format!(
                    "the first {size} records are not those that the checkpoint signs"
                ));
            }
        }
        self.tail_is_short()?;
        self.nothing_beyond(head, store).await?;
        Ok(Proof {
            log_id: head.log_id,
            size: head.size,
            pruned: self.pruned,
            root: self.tree.root(),
            checkpoint_size: signed.map(|(size, _)| size),
            inputs: self.inputs,
            inputs_missing: self.inputs_missing,
        })
    }

    /// Rows beyond the head were not written by the server: it moves the head in the
    /// same transaction. A server at work may have moved it meanwhile.
    async fn nothing_beyond(&self, head: &LogHead, store: &SharedStore) -> Result<(), VerifyError> {
        let beyond = store.read(head.size, 1).await?;
        let now = store.head().await?;
        match beyond.first() {
            Some(row) if row.sequence >= now.size => {
                let what = "stands beyond the head of the log".to_owned();
                Err(VerifyError::Record {
                    sequence: row.sequence,
                    what,
                })
            }
            _ => Ok(()),
        }
    }
}

/// The first column that is not what it should be.
fn differing_column(expected: &Columns, stored: &Columns) -> Option<&'static str> {
    let (e, s) = (expected, stored);
    [
        ("event_id", e.event_id == s.event_id),
        ("time", e.time == s.time),
        ("type", e.kind == s.kind),
        ("actor_type", e.actor_type == s.actor_type),
        ("actor_id", e.actor_id == s.actor_id),
        ("instance_id", e.instance_id == s.instance_id),
        ("source", e.source == s.source),
        ("action_type", e.action_type == s.action_type),
        ("action_id", e.action_id == s.action_id),
        ("resource_type", e.resource_type == s.resource_type),
        ("resource_id", e.resource_id == s.resource_id),
        ("effect", e.effect == s.effect),
        ("reason", e.reason == s.reason),
        ("policies", e.policies == s.policies),
        ("revision", e.revision == s.revision),
        ("session_id", e.session_id == s.session_id),
        ("task_id", e.task_id == s.task_id),
        ("user_id", e.user_id == s.user_id),
        ("correlation_id", e.correlation_id == s.correlation_id),
        ("trace_id", e.trace_id == s.trace_id),
    ]
    .into_iter()
    .find_map(|(name, same)| (!same).then_some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_tail_without_a_checkpoint_is_found() {
        let start = OffsetDateTime::UNIX_EPOCH;
        let record = |sequence: u64, time| {
            let id = Uuid::from_u128(sequence.into());
            let event = Event::new(EventType::Decision, Uuid::nil(), id, time);
            let leaf = event.leaf().expect("a leaf");
            StoredEvent {
                sequence,
                log_id: Uuid::nil(),
                leaf_hash: leaf_hash(&leaf),
                leaf,
                columns: event.columns(),
                inputs: None,
            }
        };
        for (signed_size, tail, short) in [
            (0, UNSIGNED_MAX, true),
            (0, UNSIGNED_MAX + Duration::MICROSECOND, false),
            (1, UNSIGNED_MAX + Duration::MICROSECOND, true),
            (2, Duration::days(1), true),
        ] {
            let mut verifier = Verifier::new(Uuid::nil(), signed_size, 0);
            for (sequence, time) in [(0, start), (1, start + tail)] {
                verifier.feed(&record(sequence, time)).expect("a record");
            }
            assert_eq!(
                verifier.tail_is_short().is_ok(),
                short,
                "{signed_size} {tail}"
            );
        }
    }
}
