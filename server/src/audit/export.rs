//! The log as a folder: the files of C2SP tlog-tiles with the log's public key and a text
//! about the format. Whoever has it needs neither the server nor its database to verify it.
//!
//! The checkpoint is written last: a folder without one is no export. What if we crash here:
//! a folder stands there that does not verify; make another one.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::checkpoint::VerifierKey;
use super::proof::{self, Plan};
use super::tile::{TilePath, bundle, bundles_between, tiles_between};
use super::tiles;
use super::verify::{Known, VerifyError};
use crate::store::{SharedStore, StoreError, TILE_WIDTH};

/// The signed note of the exported log.
pub const CHECKPOINT: &str = "checkpoint";
/// The signed note that an export begins after.
pub const FROM_CHECKPOINT: &str = "from-checkpoint";
/// The log's public key.
pub const VKEY: &str = "log.vkey";
const README: &str = include_str!("export.md");

/// What was exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Records that are signed before the first one that is in it.
    pub from: u64,
    /// Records that its checkpoint signs.
    pub size: u64,
}

/// Writes the signed log into a new or empty folder, from the record on that the checkpoint
/// `from` does not sign.
///
/// # Errors
/// [`VerifyError::RolledBack`] and [`VerifyError::SplitView`] where the log does not begin
/// with what `from` signs; else what could not be read or written.
pub async fn write(
    store: &SharedStore,
    key: &VerifierKey,
    folder: &Path,
    from: Option<&str>,
) -> Result<Exported, VerifyError> {
    let checkpoint = store.latest_checkpoint().await?.ok_or_else(|| {
        VerifyError::Unreadable("no checkpoint is signed yet; there is nothing to export".into())
    })?;
    let (size, _) = key.open(&checkpoint.note)?;
    let known = from.map(|note| key.open(note)).transpose()?;
    let first = known.map_or(0, |(size, _)| size);
    require_kept(store, first).await?;
    if let Some((known, root)) = known {
        begins_with(store, size, known, root).await?;
    }
    let unwritten = |error: io::Error| unwritten(folder, &error);
    new_folder(folder).map_err(unwritten)?;
    put(folder, "README.md", README.as_bytes()).map_err(unwritten)?;
    put(folder, VKEY, format!("{}\n", key.vkey()).as_bytes()).map_err(unwritten)?;
    if let Some(note) = from {
        put(folder, FROM_CHECKPOINT, note.as_bytes()).map_err(unwritten)?;
    }
    for path in tiles_between(first, size) {
        let hashes = tiles::read(store, &[path.tile()].into(), size).await?;
        let hashes = hashes.into_values().next().unwrap_or_default();
        put(folder, &tile_file(path), hashes.as_flattened()).map_err(unwritten)?;
    }
    for path in bundles_between(first, size) {
        let leaves = store.leaves(path.number * TILE_WIDTH, path.width.into());
        let leaves = match leaves.await {
            Err(StoreError::Corrupt(what)) => {
                // They may have been pruned meanwhile.
                require_kept(store, first).await?;
                return Err(StoreError::Corrupt(what).into());
            }
            leaves => leaves?,
        };
        let whole = leaves.len() == usize::from(path.width);
        let bytes = bundle(&leaves).filter(|_| whole).ok_or_else(|| {
            StoreError::Corrupt(format!("leaves of the bundle {path} are missing"))
        })?;
        put(folder, &tile_file(path), &bytes).map_err(unwritten)?;
    }
    durable(folder).map_err(unwritten)?;
    put(folder, CHECKPOINT, checkpoint.note.as_bytes()).map_err(unwritten)?;
    durable_one(&folder.join(CHECKPOINT)).map_err(unwritten)?;
    durable_one(folder).map_err(unwritten)?;
    let parent = folder
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    durable_one(parent.unwrap_or(Path::new("."))).map_err(unwritten)?;
    Ok(Exported { from: first, size })
}

/// # Errors
/// The records from `first` on are not kept any more.
async fn require_kept(store: &SharedStore, first: u64) -> Result<(), VerifyError> {
    let pruned = store.pruned().await?.map_or(0, |pruned| pruned.size);
    match first < pruned {
        true => Err(VerifyError::Unreadable(format!(
            "the records below {pruned} were pruned, and an export would begin at {first}: begin \
             it after the last one that was kept, with `--from-checkpoint` and the `checkpoint` \
             of that one"
        ))),
        false => Ok(()),
    }
}

pub(super) async fn begins_with(
    store: &SharedStore,
    size: u64,
    known: u64,
    root: [u8; 32],
) -> Result<(), VerifyError> {
    if known > size {
        return Err(VerifyError::RolledBack { size, known });
    }
    let tiles = tiles::read(store, &Plan::frontier(known).tiles(), known).await?;
    let tree = proof::frontier(known, &tiles);
    let known = Known {
        size: known,
        root,
        verified: true,
    };
    known.compare(size, tree.map(|tree| tree.root()))
}

pub(super) fn unwritten(folder: &Path, error: &io::Error) -> VerifyError {
    VerifyError::Unreadable(format!("`{}`: {error}", folder.display()))
}

/// Waits until everything in a folder is on the disk.
pub(super) fn durable(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let kind = fs::metadata(&path)?;
        if kind.is_dir() {
            durable(&path)?;
        } else if kind.is_file() {
            durable_one(&path)?;
        }
    }
    durable_one(folder)
}

/// Media that are written once have nothing to wait for, and say that it cannot be done.
fn durable_one(path: &Path) -> io::Result<()> {
    use io::ErrorKind::{InvalidInput, ReadOnlyFilesystem, Unsupported};
    match fs::File::open(path)?.sync_all() {
        Err(error) if [InvalidInput, ReadOnlyFilesystem, Unsupported].contains(&error.kind()) => {
            Ok(())
        }
        done => done,
    }
}

/// Where a tile stands in the folder.
pub(super) fn tile_file(path: TilePath) -> String {
    format!("tile/{path}")
}

/// A folder for its owner alone: leaves say who did what.
fn new_folder(folder: &Path) -> io::Result<()> {
    folders().create(folder)?;
    match fs::read_dir(folder)?.next() {
        None => Ok(()),
        Some(_) => Err(io::Error::other("is not empty; name a new folder")),
    }
}

fn folders() -> DirBuilder {
    let mut folders = DirBuilder::new();
    folders.recursive(true).mode(0o700);
    folders
}

fn put(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let path = folder.join(name);
    if let Some(parent) = path.parent() {
        folders().create(parent)?;
    }
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)
}
