//! What a signature of a policy set is over, and whose signatures are taken.
//!
//! A C2SP signed note says: this content, for this trust domain, over this very revision. So
//! a signature is no good for another server of another name, and an old one is no way back:
//! what it changes is not in force any more. A rollback is an act of its own, for content
//! that was signed when it came.

use crate::model::note::{NoteKey, signers};
use crate::model::revision::Digest;

/// The first line: what the note is, so that no key's signature over something else is one.
const TYPE: &str = "zta-policy-bundle/v1";
/// Bytes of a note.
const NOTE_BYTES_MAX: usize = 4096;

/// What is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// The trust domain of the server.
    pub zone: String,
    /// The revision that it changes.
    pub base: u64,
    /// SHA-256 over that one's content.
    pub base_sha256: Digest,
    /// SHA-256 over the content.
    pub sha256: Digest,
}

impl Bundle {
    /// The text that is signed.
    pub fn text(&self) -> String {
        let Self { zone, base, .. } = self;
        let (old, new) = (hex::encode(self.base_sha256), hex::encode(self.sha256));
        format!("{TYPE}\nfor {zone}\nover {base} {old}\ncontent {new}\n")
    }

    /// Whether a text is over the same content for the same zone, over whatever revision.
    fn is_content_of(&self, text: &str) -> bool {
        let (own, mut lines) = (self.text(), text.lines());
        let same = own.lines().all(|own| match lines.next() {
            Some(line) if own.starts_with("over ") => line.starts_with("over "),
            line => line == Some(own),
        });
        same && lines.next().is_none()
    }
}

/// Why a policy set is not taken for its signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is none, and there must be one.
    #[error(
        "this server takes signed policies only; sign them (`zta policy sign`) and give the \
         signature (`zta policy apply --signature`)"
    )]
    Missing,
    /// It is no good.
    #[error("the signature of the policies is no good: {0}")]
    Invalid(&'static str),
}

/// Whose signatures are taken, and whether there must be one.
#[derive(Clone, Debug, Default)]
pub struct Signing {
    /// The keys.
    pub keys: Vec<NoteKey>,
    /// Whether unsigned content is refused.
    pub required: bool,
}

impl Signing {
    /// The signature, verified; `None` where there is none and none is needed. One that
    /// is there is never ignored.
    ///
    /// # Errors
    /// See [`SignatureError`].
    pub fn admit<'n>(
        &self,
        note: Option<&'n str>,
        bundle: &Bundle,
    ) -> Result<Option<&'n str>, SignatureError> {
        let Some(note) = note else {
            return self.none();
        };
        match self.open(note)? {
            text if text == bundle.text() => Ok(Some(note)),
            text if bundle.is_content_of(text) => Err(SignatureError::Invalid(
                "it is over another revision than the expected one; sign again",
            )),
            _ => Err(SignatureError::Invalid(
                "it is over other content, or for another trust domain",
            )),
        }
    }

    /// The signature of content that comes back: over whatever it changed when it came. One
    /// whose key is trusted no more is none.
    ///
    /// # Errors
    /// [`SignatureError::Missing`] where none is left and there must be one.
    pub fn admit_again<'n>(
        &self,
        note: Option<&'n str>,
        bundle: &Bundle,
    ) -> Result<Option<&'n str>, SignatureError> {
        let signed = |note: &&str| self.open(note).is_ok_and(|text| bundle.is_content_of(text));
        match note.filter(signed) {
            Some(note) => Ok(Some(note)),
            None => self.none(),
        }
    }

    fn none(&self) -> Result<Option<&'static str>, SignatureError> {
        match self.required {
            true => Err(SignatureError::Missing),
            false => Ok(None),
        }
    }

    fn open<'n>(&self, note: &'n str) -> Result<&'n str, SignatureError> {
        if note.len() > NOTE_BYTES_MAX {
            return Err(SignatureError::Invalid("it has more than 4096 bytes"));
        }
        let mut opened = self.keys.iter().filter_map(|key| key.open(note).ok());
        opened.next().ok_or(SignatureError::Invalid(
            "it is by none of the keys that this server trusts (`policy.signing_keys`)",
        ))
    }
}

/// The name of the key that signed a note which was verified when it came.
pub fn signed_by(note: &str) -> Option<&str> {
    signers(note).next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::note::NoteSigner;

    fn bundle() -> Bundle {
        Bundle {
            zone: "zta.local".to_owned(),
            base: 7,
            base_sha256: [1; 32],
            sha256: [2; 32],
        }
    }

    #[test]
    fn a_signature_is_good_for_one_content_on_one_base_of_one_zone() {
        let signer = NoteSigner::generate("release").expect("a key");
        let signing = Signing {
            keys: vec![signer.key().clone()],
            required: true,
        };
        let note = signer.sign(&bundle().text());
        assert_eq!(signing.admit(Some(&note), &bundle()), Ok(Some(&*note)));
        assert_eq!(signed_by(&note), Some("release"));
        let others = [
            Bundle {
                zone: "zta.other".to_owned(),
                ..bundle()
            },
            Bundle {
                base: 8,
                ..bundle()
            },
            Bundle {
                base_sha256: [3; 32],
                ..bundle()
            },
            Bundle {
                sha256: [3; 32],
                ..bundle()
            },
        ];
        for other in &others {
            let refused = signing.admit(Some(&note), other);
            assert!(
                matches!(refused, Err(SignatureError::Invalid(_))),
                "{other:?}"
            );
        }
        // Coming back, its base is history; its content and zone are not.
        let again: Vec<bool> = others
            .iter()
            .map(|other| signing.admit_again(Some(&note), other).is_ok())
            .collect();
        assert_eq!(again, [false, true, true, false]);
    }

    #[test]
    fn one_that_must_be_there_is_demanded_and_one_that_is_there_is_never_ignored() {
        let stranger = NoteSigner::generate("release").expect("a key");
        let note = stranger.sign(&bundle().text());
        let (open, closed) = (
            Signing::default(),
            Signing {
                required: true,
                ..Signing::default()
            },
        );
        assert_eq!(open.admit(None, &bundle()), Ok(None));
        assert_eq!(closed.admit(None, &bundle()), Err(SignatureError::Missing));
        for signing in [&open, &closed] {
            let refused = signing.admit(Some(&note), &bundle());
            assert!(matches!(refused, Err(SignatureError::Invalid(_))));
        }
        // A key that is trusted no more does not stand in the way of a rollback by itself.
        assert_eq!(open.admit_again(Some(&note), &bundle()), Ok(None));
        let refused = closed.admit_again(Some(&note), &bundle());
        assert_eq!(refused, Err(SignatureError::Missing));
        let long = "x".repeat(NOTE_BYTES_MAX + 1);
        assert!(open.admit(Some(&long), &bundle()).is_err());
    }
}
