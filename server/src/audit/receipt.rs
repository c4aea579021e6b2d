//! The receipt of one record (C2SP tlog-proof): its place, its inclusion proof and the signed
//! checkpoint that the proof ends in. With the leaf and the log's public key it proves that
//! the record is in the log, without a server.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::checkpoint::{CheckpointError, VerifierKey};
use super::merkle::{Hash, leaf_hash};
use super::proof::verify_inclusion;

/// The first line.
const HEADER: &str = "c2sp.org/tlog-proof@v1";

/// Writes a receipt.
pub fn write(index: u64, proof: &[Hash], checkpoint: &str) -> String {
    let mut text = format!("{HEADER}\nindex {index}\n");
    for hash in proof {
        text.push_str(&BASE64.encode(hash));
        text.push('\n');
    }
    text.push('\n');
    text.push_str(checkpoint);
    text
}

/// Why a receipt proves nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// Not a receipt.
    #[error("the receipt is malformed: {0}")]
    Malformed(&'static str),
    /// Its checkpoint is no good.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The leaf is not the one that it proves, or it proves nothing.
    #[error("the leaf is not at place {0} of the log that the checkpoint signs")]
    Inclusion(u64),
}

/// Verifies that a leaf is in the log, by its receipt; the leaf's place and the size that the
/// checkpoint signs.
///
/// # Errors
/// Why it does not prove that.
pub fn verify(key: &VerifierKey, leaf: &[u8], receipt: &str) -> Result<(u64, u64), ReceiptError> {
    let malformed = ReceiptError::Malformed;
    let (head, checkpoint) = receipt
        .split_once("\n\n")
        .ok_or(malformed("no checkpoint"))?;
    let mut lines = head.lines().peekable();
    if lines.next() != Some(HEADER) {
        return Err(malformed("the first line"));
    }
    lines.next_if(|line| line.starts_with("extra "));
    let index = lines.next().and_then(|line| line.strip_prefix("index "));
    let index: u64 = index
        .and_then(|text| text.parse().ok().filter(|n: &u64| n.to_string() == text))
        .ok_or(malformed("the index"))?;
    let hash = |line: &str| BASE64.decode(line).ok()?.try_into().ok();
    let proof: Option<Vec<Hash>> = lines.map(hash).collect();
    let proof = proof.ok_or(malformed("a hash"))?;
    let (size, root) = key.open(checkpoint)?;
    if verify_inclusion(index, size, leaf_hash(leaf), &proof, root) {
        Ok((index, size))
    } else {
        Err(ReceiptError::Inclusion(index))
    }
}
