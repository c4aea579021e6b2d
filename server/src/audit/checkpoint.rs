//! Checkpoints: the tree's size and root, signed. The format is C2SP tlog-checkpoint in
//! a C2SP signed note with an Ed25519 signature. When one is signed, and by which replica, is
//! the business of `signer`.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use uuid::Uuid;

use super::merkle::{Frontier, Hash};
use crate::keys::SigningKey;
use crate::model::note::{self, NoteKey};
use crate::store::StoredCheckpoint;

/// How often a growing log gets a checkpoint.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// What stands before the key in an Ed25519 SubjectPublicKeyInfo (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// The log's name in checkpoints; also the name of its key.
pub fn origin(trust_domain: &str, log_id: Uuid) -> String {
    format!("{trust_domain}/log/{log_id}")
}

/// Why a checkpoint does not verify.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Not a signed note with a checkpoint in it.
    #[error("the checkpoint is malformed: {0}")]
    Malformed(&'static str),
    /// It names another log.
    #[error("the checkpoint is of another log, `{0}`")]
    Origin(String),
    /// No signature by this log's key.
    #[error("no signature of the checkpoint is by this log's key")]
    Signature,
    /// The key is not Ed25519.
    #[error("the log's key is not an Ed25519 key")]
    Key,
    /// The key could not sign.
    #[error("the log's key could not sign")]
    Sign,
}

/// The public half of a log's key. Its name is the log's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey(NoteKey);

impl VerifierKey {
    /// From the key's SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// When it is not an Ed25519 key.
    pub fn from_spki(origin: String, spki: &[u8]) -> Result<Self, CheckpointError> {
        let raw = spki
            .strip_prefix(&SPKI_PREFIX)
            .ok_or(CheckpointError::Key)?;
        let public = raw.try_into().map_err(|_| CheckpointError::Key)?;
        Ok(Self(NoteKey::new(origin, public)))
    }

    /// From the note format's text form.
    ///
    /// # Errors
    /// When it is not an Ed25519 key in that form.
    pub fn from_vkey(vkey: &str) -> Result<Self, CheckpointError> {
        let key = NoteKey::from_vkey(vkey);
        key.map(Self).map_err(|_| CheckpointError::Key)
    }

    /// The log's name.
    pub fn origin(&self) -> &str {
        self.0.name()
    }

    /// The key in the note format's text form, `<name>+<id>+<key>`.
    pub fn vkey(&self) -> String {
        self.0.vkey()
    }

    /// Verifies a signed checkpoint; returns the size and root that it signs.
    ///
    /// # Errors
    /// When it is malformed, of another log, or not signed by this key.
    pub fn open(&self, note: &str) -> Result<(u64, Hash), CheckpointError> {
        self.open_as(self.origin(), note)
    }

    /// Verifies a signed statement of what was pruned; returns below which place, and the root
    /// of the tree of that size.
    ///
    /// # Errors
    /// As [`VerifierKey::open`].
    pub fn open_pruned(&self, note: &str) -> Result<(u64, Hash), CheckpointError> {
        self.open_as(&pruned_origin(self.origin()), note)
    }

    fn open_as(&self, expected: &str, note: &str) -> Result<(u64, Hash), CheckpointError> {
        let text = note::text(note).map_err(|_| CheckpointError::Malformed("no signatures"))?;
        let mut lines = text.lines();
        let mut line = || {
            lines
                .next()
                .ok_or(CheckpointError::Malformed("too few lines"))
        };
        let (name, size, root) = (line()?, line()?, line()?);
        if name != expected {
            return Err(CheckpointError::Origin(name.to_owned()));
        }
        let canonical = |n: &u64| n.to_string() == size;
        let size = size
            .parse()
            .ok()
            .filter(canonical)
            .ok_or(CheckpointError::Malformed("size"))?;
        let root = BASE64.decode(root).ok().and_then(|r| r.try_into().ok());
        let root = root.ok_or(CheckpointError::Malformed("root"))?;
        match self.0.open(note) {
            Ok(_) => Ok((size, root)),
            Err(_) => Err(CheckpointError::Signature),
        }
    }
}

/// Signs the checkpoint of a tree.
///
/// # Errors
/// When the key is not Ed25519 or cannot sign.
pub(crate) fn sign(
    key: &dyn SigningKey,
    origin: &str,
    tree: &Frontier,
) -> Result<StoredCheckpoint, CheckpointError> {
    let (size, root) = (tree.size(), tree.root());
    let note = sign_as(key, origin, origin, (size, root))?;
    Ok(StoredCheckpoint { size, note })
}

/// Signs the statement that the records below `size` are pruned, whose tree has this root. In
/// the form of a checkpoint, by the same key, but of another origin: it is not one.
///
/// # Errors
/// As for checkpoints.
pub(crate) fn sign_pruned(
    key: &dyn SigningKey,
    origin: &str,
    pruned: (u64, Hash),
) -> Result<String, CheckpointError> {
    sign_as(key, origin, &pruned_origin(origin), pruned)
}

/// The first line of what is signed of pruned records.
fn pruned_origin(origin: &str) -> String {
    format!("{origin}/pruned")
}

fn sign_as(
    key: &dyn SigningKey,
    log: &str,
    origin: &str,
    (size, root): (u64, Hash),
) -> Result<String, CheckpointError> {
    let verifier = VerifierKey::from_spki(log.to_owned(), key.public_key_spki_der())?;
    let text = format!("{origin}\n{size}\n{}\n", BASE64.encode(root));
    let signature = key
        .sign(text.as_bytes())
        .map_err(|_| CheckpointError::Sign)?;
    Ok(verifier.0.note(&text, &signature))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::merkle::leaf_hash;
    use crate::keys::{KeyAlgorithm, SoftwareKey};

    #[test]
    fn only_this_logs_key_over_these_bytes_verifies() {
        let key = SoftwareKey::generate(KeyAlgorithm::Ed25519).expect("key");
        let mut tree = Frontier::default();
        tree.push(leaf_hash(b"a"));
        let origin = origin("zta.local", Uuid::nil());
        let note = sign(&key, &origin, &tree).expect("sign").note;
        let verifier =
            VerifierKey::from_spki(origin.clone(), key.public_key_spki_der()).expect("spki");
        assert_eq!(verifier.open(&note), Ok((1, tree.root())));
        assert_eq!(
            VerifierKey::from_vkey(&verifier.vkey()),
            Ok(verifier.clone())
        );
        let altered = verifier.vkey().replacen("zta.local", "zta.locaI", 1);
        assert_eq!(VerifierKey::from_vkey(&altered), Err(CheckpointError::Key));
        assert_eq!(
            verifier.open(&note.replacen("\n1\n", "\n2\n", 1)),
            Err(CheckpointError::Signature)
        );
        assert_eq!(
            verifier.open(&note.replacen("\n1\n", "\n01\n", 1)),
            Err(CheckpointError::Malformed("size"))
        );
        // What was pruned is no checkpoint, nor the reverse, and is signed by the same key.
        let pruned = sign_pruned(&key, verifier.origin(), (256, [7; 32])).expect("sign");
        assert_eq!(verifier.open_pruned(&pruned), Ok((256, [7; 32])));
        let of_another = |opened| matches!(opened, Err(CheckpointError::Origin(_)));
        assert!(of_another(verifier.open(&pruned)));
        assert!(of_another(verifier.open_pruned(&note)));
        let larger = pruned.replacen("\n256\n", "\n512\n", 1);
        assert_eq!(
            verifier.open_pruned(&larger),
            Err(CheckpointError::Signature)
        );
        let other = SoftwareKey::generate(KeyAlgorithm::Ed25519).expect("key");
        let other = VerifierKey::from_spki(origin, other.public_key_spki_der()).expect("spki");
        assert_eq!(other.open(&note), Err(CheckpointError::Signature));
    }
}
