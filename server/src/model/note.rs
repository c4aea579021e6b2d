//! C2SP signed notes with Ed25519 signatures (c2sp.org/signed-note): a text with whoever
//! signed it below, in a form that other software reads and writes.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use zeroize::Zeroizing;

use super::arguments::sha256;

/// The format's type byte of Ed25519 keys.
const ED25519_TYPE: u8 = 1;
/// What a private key in the format's text form begins with.
const PRIVATE: &str = "PRIVATE+KEY+";

/// Why a key or a note is no good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Not an Ed25519 key in the note format's text form.
    #[error("not an Ed25519 key in the form `<name>+<id>+<key>` of a C2SP signed note")]
    Key,
    /// Not a signed note.
    #[error("not a C2SP signed note")]
    Malformed,
    /// No signature by this key over this text.
    #[error("no signature is by this key")]
    Signature,
}

/// The public half of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteKey {
    name: String,
    public: [u8; 32],
}

impl NoteKey {
    /// A key of that name.
    pub fn new(name: String, public: [u8; 32]) -> Self {
        Self { name, public }
    }

    /// From the format's text form, `<name>+<id>+<key>`.
    ///
    /// # Errors
    /// When it is not an Ed25519 key in that form.
    pub fn from_vkey(vkey: &str) -> Result<Self, NoteError> {
        let (name, key) = parts(vkey.trim())?;
        let public = key[..].try_into().map_err(|_| NoteError::Key)?;
        let parsed = Self::new(name.to_owned(), public);
        // The id in the middle is a checksum over name and key.
        match parsed.vkey() == vkey.trim() {
            true => Ok(parsed),
            false => Err(NoteError::Key),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key in the format's text form.
    pub fn vkey(&self) -> String {
        let id = hex::encode(self.id());
        format!("{}+{id}+{}", self.name, *encoded(&self.public))
    }

    /// The first four bytes of SHA-256 over name, newline, type and key.
    pub fn id(&self) -> [u8; 4] {
        let mut bytes = self.name.clone().into_bytes();
        bytes.extend_from_slice(&[b'\n', ED25519_TYPE]);
        bytes.extend_from_slice(&self.public);
        let hash = sha256(&bytes);
        [hash[0], hash[1], hash[2], hash[3]]
    }

    /// The note over a text, which ends with a newline, with this key's signature.
    pub fn note(&self, text: &str, signature: &[u8]) -> String {
        let mut bytes = self.id().to_vec();
        bytes.extend_from_slice(signature);
        format!("{text}\n— {} {}\n", self.name, BASE64.encode(bytes))
    }

    /// The text of a note, if this key signed it.
    ///
    /// # Errors
    /// When it is malformed, or not signed by this key.
    pub fn open<'n>(&self, note: &'n str) -> Result<&'n str, NoteError> {
        let (text, signatures) = split(note)?;
        let key = UnparsedPublicKey::new(&ED25519, &self.public);
        let ours = signatures.lines().filter_map(|line| {
            let (name, encoded) = line.strip_prefix("— ")?.split_once(' ')?;
            let bytes = BASE64.decode(encoded).ok()?;
            (name == self.name && bytes.get(..4)? == self.id()).then_some(bytes)
        });
        for bytes in ours {
            if key.verify(text.as_bytes(), &bytes[4..]).is_ok() {
                return Ok(text);
            }
        }
        Err(NoteError::Signature)
    }
}

/// The text of a note, verified or not.
///
/// # Errors
/// When it is no signed note.
pub fn text(note: &str) -> Result<&str, NoteError> {
    split(note).map(|(text, _)| text)
}

/// The names below a note, verified or not.
pub fn signers(note: &str) -> impl Iterator<Item = &str> {
    let signatures = split(note).map_or("", |(_, signatures)| signatures);
    signatures
        .lines()
        .filter_map(|line| Some(line.strip_prefix("— ")?.split_once(' ')?.0))
}

/// The text with its last newline, and the lines of signatures.
fn split(note: &str) -> Result<(&str, &str), NoteError> {
    let at = note.rfind("\n\n").ok_or(NoteError::Malformed)?;
    Ok((&note[..=at], &note[at + 2..]))
}

/// A name and the bytes of a key.
fn parts(text: &str) -> Result<(&str, Zeroizing<Vec<u8>>), NoteError> {
    let mut parts = text.splitn(3, '+');
    let (Some(name), Some(_), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(NoteError::Key);
    };
    let key = Zeroizing::new(BASE64.decode(key).map_err(|_| NoteError::Key)?);
    match (is_name(name), key.split_first()) {
        (true, Some((&ED25519_TYPE, key))) => Ok((name, Zeroizing::new(key.to_vec()))),
        _ => Err(NoteError::Key),
    }
}

fn encoded(key: &[u8]) -> Zeroizing<String> {
    let mut bytes = Zeroizing::new(vec![ED25519_TYPE]);
    bytes.extend_from_slice(key);
    Zeroizing::new(BASE64.encode(&bytes))
}

/// Whether a text can name a key: printable, without spaces and `+`.
pub fn is_name(text: &str) -> bool {
    let fits = |c: char| !c.is_whitespace() && !c.is_control() && c != '+';
    (1..=255).contains(&text.len()) && text.chars().all(fits)
}

/// A key that signs notes. Says nothing of itself but its public half.
pub struct NoteSigner {
    key: NoteKey,
    seed: Zeroizing<Vec<u8>>,
    pair: Ed25519KeyPair,
}

impl std::fmt::Debug for NoteSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("NoteSigner").field(&self.key).finish()
    }
}

impl NoteSigner {
    /// A new key of that name.
    ///
    /// # Errors
    /// When the name is no good, or there is no randomness.
    pub fn generate(name: &str) -> Result<Self, NoteError> {
        let mut seed = Zeroizing::new(vec![0; 32]);
        aws_lc_rs::rand::fill(&mut seed).map_err(|_| NoteError::Key)?;
        match is_name(name) {
            true => Self::of(name, seed),
            false => Err(NoteError::Key),
        }
    }

    /// From the text form of private keys, `PRIVATE+KEY+<name>+<id>+<seed>`.
    ///
    /// # Errors
    /// When it is no such key.
    pub fn from_skey(skey: &str) -> Result<Self, NoteError> {
        let skey = skey.trim();
        let (name, seed) = parts(skey.strip_prefix(PRIVATE).ok_or(NoteError::Key)?)?;
        let parsed = Self::of(name, seed)?;
        match *parsed.skey() == *skey {
            true => Ok(parsed),
            false => Err(NoteError::Key),
        }
    }

    fn of(name: &str, seed: Zeroizing<Vec<u8>>) -> Result<Self, NoteError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| NoteError::Key)?;
        let public = pair.public_key().as_ref().try_into();
        Ok(Self {
            key: NoteKey::new(name.to_owned(), public.map_err(|_| NoteError::Key)?),
            seed,
            pair,
        })
    }

    /// Its public half.
    pub fn key(&self) -> &NoteKey {
        &self.key
    }

    /// The private key in its text form: a secret.
    pub fn skey(&self) -> Zeroizing<String> {
        let (name, id) = (&self.key.name, hex::encode(self.key.id()));
        let seed = encoded(&self.seed);
        Zeroizing::new(format!("{PRIVATE}{name}+{id}+{}", *seed))
    }

    /// The note over a text, which ends with a newline.
    pub fn sign(&self, text: &str) -> String {
        let signature = self.pair.sign(text.as_bytes());
        self.key.note(text, signature.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of golang.org/x/mod/sumdb/note, whose format C2SP took over.
    const GO_SKEY: &str =
        "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
    const GO_VKEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const GO_NOTE: &str = "If you think cryptography is the answer to your problem,\n\
        then you don't know what your problem is.\n\n\
        — PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    #[test]
    fn keys_and_notes_are_those_of_other_software() {
        let signer = NoteSigner::from_skey(GO_SKEY).expect("a private key");
        assert_eq!(signer.key().vkey(), GO_VKEY);
        let key = NoteKey::from_vkey(GO_VKEY).expect("a key");
        let text = key.open(GO_NOTE).expect("signed");
        assert_eq!(signer.sign(text), GO_NOTE);
        assert_eq!(signers(GO_NOTE).collect::<Vec<_>>(), ["PeterNeumann"]);
        assert!(!format!("{signer:?}").contains("AYEKFALV"));
    }

    #[test]
    fn what_is_altered_does_not_open() {
        let key = NoteKey::from_vkey(GO_VKEY).expect("a key");
        let altered = GO_NOTE.replacen("answer", "Answer", 1);
        assert_eq!(key.open(&altered), Err(NoteError::Signature));
        assert_eq!(key.open("no note"), Err(NoteError::Malformed));
        let other = NoteSigner::generate("PeterNeumann").expect("a key");
        assert_eq!(other.key().open(GO_NOTE), Err(NoteError::Signature));
        for bad in [
            &GO_VKEY.replacen("Peter", "Petra", 1),
            GO_SKEY,
            "a+b",
            "",
            "a b+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        ] {
            assert_eq!(NoteKey::from_vkey(bad), Err(NoteError::Key), "{bad}");
        }
        for bad in ["", "a b", "a+b", "a\n"] {
            assert!(NoteSigner::generate(bad).is_err(), "{bad}");
        }
    }
}
