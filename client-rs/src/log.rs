//! Verifies the server's log by its public key alone: what is on record, and that the log
//! only ever grows.
//!
//! [`LogKey::verify_receipt`] needs no server. [`LogView`] keeps the last checkpoint that this
//! client saw in a file; a server that puts an older state of its log back, or shows different
//! logs to different clients, is found by whoever kept one. The formats are C2SP's
//! (signed-note, tlog-checkpoint, tlog-proof) over an RFC 6962 tree. `docs/audit/proofs.md`.

mod view;

pub use view::LogView;

use aws_lc_rs::{
    digest::{Context, SHA256, digest},
    signature::{ED25519, UnparsedPublicKey},
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use zta_proto::v1;

const ED25519_TYPE: u8 = 1;
const RECEIPT: &str = "c2sp.org/tlog-proof@v1";

type Hash = [u8; 32];

/// Why the log, or something said of it, is not to be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The text is not a log's key, `<name>+<id>+<key>`.
    #[error("not the public key of a log: `<name>+<id>+<key>` is expected")]
    Key,
    /// A note, receipt or proof that cannot be read.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// It is of another log.
    #[error("it is of another log, `{0}`")]
    OtherLog(String),
    /// The log's key did not sign it.
    #[error("no signature of the checkpoint is by the log's key")]
    Signature,
    /// The leaf is not where the receipt says, or not in the log.
    #[error("the leaf is not at place {sequence} of the log that the checkpoint signs")]
    NotIncluded {
        /// The place that the receipt names.
        sequence: u64,
    },
    /// The log is smaller than it was.
    #[error("the log was rolled back: {size} records are signed, {known} were before")]
    RolledBack {
        /// The size that is signed now.
        size: u64,
        /// The size that was seen.
        known: u64,
    },
    /// The log is not the one that was seen: it was rewritten, or others see another one.
    /// Both checkpoints together prove it; keep them.
    #[error(
        "a split view: the log of {size} records does not begin with the {known} that were seen; \
         keep both checkpoints as evidence"
    )]
    SplitView {
        /// The size that is signed now.
        size: u64,
        /// The size that was seen.
        known: u64,
        /// The signed note of now.
        note: String,
    },
    /// The file of a view cannot be used.
    #[error("`{path}`: {problem}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// A signed state of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    size: u64,
    root: Hash,
    note: String,
}

impl Checkpoint {
    /// How many records it signs.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root of their tree.
    pub fn root(&self) -> [u8; 32] {
        self.root
    }

    /// The C2SP signed note.
    pub fn note(&self) -> &str {
        &self.note
    }
}

/// What a receipt proves: this leaf stands at this place of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The place, from 0.
    pub sequence: u64,
    /// What the proof ends in.
    pub checkpoint: Checkpoint,
}

/// The public key of a log. Get it from a place that the log's keeper cannot write:
/// `zta audit verify` prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogKey {
    origin: String,
    public: Hash,
}

impl LogKey {
    /// The key from its text form, `<name>+<id>+<key>`.
    ///
    /// # Errors
    /// [`LogError::Key`].
    pub fn parse(text: &str) -> Result<Self, LogError> {
        let mut parts = text.trim().splitn(3, '+');
        let (Some(origin), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(LogError::Key);
        };
        let key = BASE64.decode(key).map_err(|_| LogError::Key)?;
        let Some((&ED25519_TYPE, public)) = key.split_first() else {
            return Err(LogError::Key);
        };
        let key = Self {
            origin: origin.to_owned(),
            public: public.try_into().map_err(|_| LogError::Key)?,
        };
        let expected = u32::from_be_bytes(key.id());
        if !origin.is_empty() && format!("{expected:08x}") == id {
            Ok(key)
        } else {
            Err(LogError::Key)
        }
    }

    /// The log's name.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The first four bytes of SHA-256 over name, newline, type and key.
    fn id(&self) -> [u8; 4] {
        let parts = [self.origin.as_bytes(), b"\n", &[ED25519_TYPE], &self.public];
        let hash = digest(&SHA256, &parts.concat());
        let mut id = [0; 4];
        id.copy_from_slice(&hash.as_ref()[..4]);
        id
    }

    /// Reads a checkpoint that this key signed.
    ///
    /// # Errors
    /// It is malformed, of another log, or not signed by this key.
    pub fn open(&self, note: &str) -> Result<Checkpoint, LogError> {
        let split = note.rfind("\n\n").ok_or(LogError::Malformed("note"))?;
        let (text, signatures) = (&note[..=split], &note[split + 2..]);
        let mut lines = text.lines();
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next())
        else {
            return Err(LogError::Malformed("checkpoint"));
        };
        if origin != self.origin {
            return Err(LogError::OtherLog(origin.to_owned()));
        }
        let size = number(size).ok_or(LogError::Malformed("size"))?;
        let root = hash(root).ok_or(LogError::Malformed("root"))?;
        let key = UnparsedPublicKey::new(&ED25519, &self.public);
        let is_ours = signatures.lines().any(|line| {
            let signature = line.strip_prefix("— ").and_then(|l| l.split_once(' '));
            let Some((name, Ok(bytes))) = signature.map(|(n, s)| (n, BASE64.decode(s))) else {
                return false;
            };
            name == self.origin
                && bytes
                    .strip_prefix(&self.id())
                    .is_some_and(|signature| key.verify(text.as_bytes(), signature).is_ok())
        });
        if !is_ours {
            return Err(LogError::Signature);
        }
        Ok(Checkpoint {
            size,
            root,
            note: note.to_owned(),
        })
    }

    /// Verifies, without a server, that a leaf is on record.
    ///
    /// # Errors
    /// The receipt does not prove that.
    pub fn verify_receipt(&self, receipt: &v1::Receipt) -> Result<Recorded, LogError> {
        let parts = receipt.proof.split_once("\n\n");
        let (head, note) = parts.ok_or(LogError::Malformed("receipt"))?;
        let mut lines = head.lines().peekable();
        if lines.next() != Some(RECEIPT) {
            return Err(LogError::Malformed("receipt"));
        }
        lines.next_if(|line| line.starts_with("extra "));
        let index = lines.next().and_then(|line| line.strip_prefix("index "));
        let sequence = index.and_then(number).ok_or(LogError::Malformed("index"))?;
        let proof: Option<Vec<Hash>> = lines.map(hash).collect();
        let proof = proof.ok_or(LogError::Malformed("hash"))?;
        let checkpoint = self.open(note)?;
        let leaf = node(&[&[0], &receipt.leaf]);
        if root_of(sequence, checkpoint.size, leaf, &proof) != Some(checkpoint.root) {
            return Err(LogError::NotIncluded { sequence });
        }
        Ok(Recorded {
            sequence,
            checkpoint,
        })
    }
}

/// A decimal number in its one form.
fn number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|n: &u64| n.to_string() == text)
}

fn hash(line: &str) -> Option<Hash> {
    BASE64.decode(line).ok()?.try_into().ok()
}

fn node(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

fn join(left: &Hash, right: &Hash) -> Hash {
    node(&[&[1], left, right])
}

/// The root that an inclusion proof leads to (RFC 9162, 2.1.3.2).
fn root_of(index: u64, size: u64, leaf: Hash, proof: &[Hash]) -> Option<Hash> {
    let (mut place, mut last) = (index, size.checked_sub(1)?);
    if index > last {
        return None;
    }
    let mut hash = leaf;
    for sibling in proof {
        if last == 0 {
            return None;
        }
        if place & 1 == 1 || place == last {
            hash = join(sibling, &hash);
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            hash = join(&hash, sibling);
        }
        place >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(hash)
}

/// Whether the tree of `new` begins with that of `old` (RFC 9162, 2.1.4.2).
fn is_extension(old: (u64, Hash), new: (u64, Hash), proof: &[Hash]) -> bool {
    if old.0 == new.0 {
        return old.1 == new.1;
    }
    if old.0 == 0 || old.0 > new.0 {
        return false;
    }
    let mut hashes = proof.iter();
    let seed = match old.0.is_power_of_two() {
        true => Some(old.1),
        false => hashes.next().copied(),
    };
    let Some(seed) = seed else { return false };
    let (mut place, mut last) = (old.0 - 1, new.0 - 1);
    while place & 1 == 1 {
        place >>= 1;
        last >>= 1;
    }
    let (mut first, mut second) = (seed, seed);
    for hash in hashes {
        if last == 0 {
            return false;
        }
        if place & 1 == 1 || place == last {
            first = join(hash, &first);
            second = join(hash, &second);
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            second = join(&second, hash);
        }
        place >>= 1;
        last >>= 1;
    }
    last == 0 && (first, second) == (old.1, new.1)
}

#[cfg(test)]
mod tests;
