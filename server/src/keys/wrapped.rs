//! Keys of a fleet: sealed in the shared database, opened with a secret file.
//!
//! The database alone gives nobody a key, and replicas need no data folder.
//! A sealed key is bound to its name and its log, so that a row that is moved
//! to another name or copied from another deployment does not open.
//!
//! Sealed form: one version byte, 12 bytes of nonce, AES-256-GCM ciphertext
//! with its tag.

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf;
use zeroize::Zeroizing;

use super::{KeyError, KeyName, KeyService, SigningKey, SoftwareKey, is_placeholder};

const VERSION: u8 = 1;
const WRAPPING_KEY_LEN: usize = 32;
const HKDF_SALT: &[u8] = b"zta-keyring-v1";
const HKDF_INFO: &[u8] = b"zta wrapped signing key, AES-256-GCM";
const SECRET_LEN_MIN: usize = 32;

/// Where sealed keys lie: a table shared by all replicas.
#[async_trait]
pub(crate) trait WrappedKeyStore: Send + Sync {
    /// Why the store failed.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The sealed key under `name`.
    async fn get(&self, name: &str) -> Result<Option<Vec<u8>>, Self::Error>;

    /// Stores `sealed` under `name` unless there is one; answers what is stored now.
    async fn put_if_absent(&self, name: &str, sealed: Vec<u8>) -> Result<Vec<u8>, Self::Error>;
}

/// The secret that all replicas share, from `keyring_file`.
pub(crate) struct KeyringSecret(Zeroizing<Vec<u8>>);

impl KeyringSecret {
    /// Reads the secret from a file, without the white space around it. Its
    /// mode is left to whoever mounts it: orchestrators set their own.
    pub(crate) fn from_file(path: &Path) -> Result<Self, KeyError> {
        let bytes = fs::read(path).map_err(|source| KeyError::Io {
            act: "read",
            path: path.to_owned(),
            source,
        })?;
        Self::new(Zeroizing::new(bytes))
    }

    /// Takes a secret of at least 32 bytes that is not an obvious placeholder.
    pub(crate) fn new(bytes: Zeroizing<Vec<u8>>) -> Result<Self, KeyError> {
        let trimmed = bytes.trim_ascii();
        if trimmed.len() < SECRET_LEN_MIN {
            return Err(KeyError::WeakSecret("is shorter than 32 bytes"));
        }
        let mut distinct = [false; 256];
        trimmed
            .iter()
            .for_each(|byte| distinct[usize::from(*byte)] = true);
        if distinct.iter().filter(|seen| **seen).count() < 10 {
            return Err(KeyError::WeakSecret("repeats a few characters"));
        }
        if is_placeholder(trimmed) {
            return Err(KeyError::WeakSecret("is a placeholder"));
        }
        Ok(Self(Zeroizing::new(trimmed.to_vec())))
    }
}

impl fmt::Debug for KeyringSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyringSecret(..)")
    }
}

/// Keys sealed in a shared store.
pub(crate) struct WrappedKeys<S> {
    store: S,
    wrapping_key: RandomizedNonceKey,
    log_id: String,
}

impl<S: WrappedKeyStore> WrappedKeys<S> {
    /// Keys of the deployment whose log is `log_id`.
    pub(crate) fn new(store: S, secret: &KeyringSecret, log_id: &str) -> Result<Self, KeyError> {
        let mut bytes = Zeroizing::new([0_u8; WRAPPING_KEY_LEN]);
        hkdf::Salt::new(hkdf::HKDF_SHA256, HKDF_SALT)
            .extract(&secret.0)
            .expand(&[HKDF_INFO], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(bytes.as_mut_slice()))
            .map_err(|_| KeyError::Seal)?;
        let wrapping_key =
            RandomizedNonceKey::new(&AES_256_GCM, bytes.as_slice()).map_err(|_| KeyError::Seal)?;
        Ok(Self {
            store,
            wrapping_key,
            log_id: log_id.to_owned(),
        })
    }

    /// What a sealed key is bound to. No name holds a NUL, so the parts cannot shift.
    fn binding(&self, name: KeyName) -> Aad<Vec<u8>> {
        let mut bytes = b"zta-sealed-key\0".to_vec();
        bytes.extend_from_slice(name.text().as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(self.log_id.as_bytes());
        Aad::from(bytes)
    }

    fn seal(&self, name: KeyName, key: &SoftwareKey) -> Result<Vec<u8>, KeyError> {
        let mut text = key.pkcs8_der()?;
        let (nonce, tag) = self
            .wrapping_key
            .seal_in_place_separate_tag(self.binding(name), &mut text)
            .map_err(|_| KeyError::Seal)?;
        let mut sealed = vec![VERSION];
        sealed.extend_from_slice(nonce.as_ref());
        sealed.extend_from_slice(&text);
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    fn open(&self, name: KeyName, sealed: &[u8]) -> Result<SoftwareKey, KeyError> {
        let Some((&VERSION, rest)) = sealed.split_first() else {
            return Err(KeyError::Unseal(name));
        };
        let Some((nonce, text)) = rest.split_first_chunk::<NONCE_LEN>() else {
            return Err(KeyError::Unseal(name));
        };
        let mut text = Zeroizing::new(text.to_vec());
        let opened = self
            .wrapping_key
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                self.binding(name),
                &mut text,
            )
            .map_err(|_| KeyError::Unseal(name))?;
        SoftwareKey::from_pkcs8(name.algorithm(), opened).ok_or(KeyError::Malformed(name))
    }
}

#[async_trait]
impl<S: WrappedKeyStore> KeyService for WrappedKeys<S> {
    async fn load_or_create(&self, name: KeyName) -> Result<Arc<dyn SigningKey>, KeyError> {
        let stored = self.store.get(&name.text()).await.map_err(store_error)?;
        let sealed = match stored {
            Some(sealed) => sealed,
            None => {
                let ours = self.seal(name, &SoftwareKey::generate(name.algorithm())?)?;
                // A replica that starts at the same time may win; its key is then ours too.
                self.store
                    .put_if_absent(&name.text(), ours)
                    .await
                    .map_err(store_error)?
            }
        };
        Ok(Arc::new(self.open(name, &sealed)?))
    }

    async fn existing(&self, name: KeyName) -> Result<Option<Arc<dyn SigningKey>>, KeyError> {
        let stored = self.store.get(&name.text()).await.map_err(store_error)?;
        let open = |sealed: Vec<u8>| Ok(Arc::new(self.open(name, &sealed)?) as Arc<dyn SigningKey>);
        stored.map(open).transpose()
    }
}

impl<S> fmt::Debug for WrappedKeys<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WrappedKeys")
            .field("log_id", &self.log_id)
            .finish_non_exhaustive()
    }
}

fn store_error(error: impl std::error::Error + Send + Sync + 'static) -> KeyError {
    KeyError::Store(Box::new(error))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;
    use std::sync::Mutex;

    use super::*;

    /// The table that replicas share.
    #[derive(Clone, Default)]
    struct Table(Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

    impl Table {
        fn rows(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
            self.0.lock().expect("no test panics while holding it")
        }
    }

    #[async_trait]
    impl WrappedKeyStore for Table {
        type Error = Infallible;

        async fn get(&self, name: &str) -> Result<Option<Vec<u8>>, Infallible> {
            Ok(self.rows().get(name).cloned())
        }

        async fn put_if_absent(&self, name: &str, sealed: Vec<u8>) -> Result<Vec<u8>, Infallible> {
            Ok(self.rows().entry(name.to_owned()).or_insert(sealed).clone())
        }
    }

    fn secret(seed: &str) -> KeyringSecret {
        let text = format!("{seed} 0123456789 abcdefghijklmnopqrstuvwxyz\n");
        KeyringSecret::new(Zeroizing::new(text.into_bytes())).expect("long enough")
    }

    fn keys(table: &Table, seed: &str, log_id: &str) -> WrappedKeys<Table> {
        WrappedKeys::new(table.clone(), &secret(seed), log_id).expect("keys")
    }

    #[tokio::test]
    async fn replicas_share_keys_and_the_table_holds_no_key() {
        let table = Table::default();
        for name in KeyName::ALL {
            let (a, b) = (keys(&table, "s", "log"), keys(&table, "s", "log"));
            let (first, second) = tokio::join!(a.load_or_create(name), b.load_or_create(name));
            let (first, second) = (first.expect("a key"), second.expect("the key"));
            assert_eq!(first.public_key_spki_der(), second.public_key_spki_der());
            let row = table.rows()[&*name.text()].clone();
            assert!(SoftwareKey::from_pkcs8(name.algorithm(), &row[1 + NONCE_LEN..]).is_none());
        }
    }

    #[tokio::test]
    async fn the_loser_of_a_race_takes_the_winners_key() {
        let table = Table::default();
        let winner = keys(&table, "s", "log");
        let loser = keys(&table, "s", "log");
        let late = loser
            .seal(
                KeyName::Ca,
                &SoftwareKey::generate(KeyName::Ca.algorithm()).expect("a key"),
            )
            .expect("sealed");
        let won = winner.load_or_create(KeyName::Ca).await.expect("a key");
        let stored = table.put_if_absent("ca", late).await.expect("infallible");
        let taken = loser.open(KeyName::Ca, &stored).expect("opens");
        assert_eq!(won.public_key_spki_der(), taken.public_key_spki_der());
    }

    #[tokio::test]
    async fn another_secret_log_or_name_or_a_flipped_bit_opens_nothing() {
        let table = Table::default();
        keys(&table, "s", "log")
            .load_or_create(KeyName::Ca)
            .await
            .expect("a key");
        let sealed = table.rows()["ca"].clone();

        for other in [keys(&table, "t", "log"), keys(&table, "s", "gol")] {
            let error = other
                .load_or_create(KeyName::Ca)
                .await
                .expect_err("refused");
            assert!(matches!(error, KeyError::Unseal(KeyName::Ca)), "{error}");
        }
        table.rows().insert("token".to_owned(), sealed.clone());
        let same = keys(&table, "s", "log");
        let moved = same
            .load_or_create(KeyName::Token)
            .await
            .expect_err("refused");
        assert!(matches!(moved, KeyError::Unseal(KeyName::Token)), "{moved}");

        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert!(same.open(KeyName::Ca, &altered).is_err(), "byte {at}");
        }
        for len in 0..sealed.len() {
            assert!(
                same.open(KeyName::Ca, &sealed[..len]).is_err(),
                "length {len}"
            );
        }
        assert_eq!(table.rows()["ca"], sealed, "a refused key is kept");
    }

    #[test]
    fn weak_secrets_are_refused() {
        for (text, reason) in [
            ("short", "shorter"),
            ("                                  x  ", "shorter"),
            ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "repeats"),
            ("please CHANGE-ME to something of 32 bytes", "placeholder"),
        ] {
            let bytes = Zeroizing::new(text.as_bytes().to_vec());
            let error = KeyringSecret::new(bytes).expect_err(text);
            assert!(error.to_string().contains(reason), "{error}");
        }
        assert_eq!(format!("{:?}", secret("s")), "KeyringSecret(..)");
    }
}
