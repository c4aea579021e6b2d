//! The identity of an agent or a person: a folder with a key and its certificate.
//!
//! `key.pem` never leaves the folder and never changes. Renewal replaces `cert.pem` and
//! `ca.pem`, each by a rename: a crash leaves the old or the new file, never half of one.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509Certificate};
use zta_proto::v1;

use crate::{
    error::Error,
    folder::{self, CA, CERTIFICATE, FACTS, KEY},
    key::Key,
};

/// A key with its current certificate, and where its server is. Cheap to clone.
#[derive(Clone)]
pub struct Credential {
    folder: Option<PathBuf>,
    facts: Facts,
    key: Arc<Key>,
    certificates: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    validity: Validity,
}

/// The content of `zta.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Facts {
    endpoint: String,
    spiffe_id: String,
    instance_id: String,
}

/// From when until when a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Good from here on.
    pub not_before: SystemTime,
    /// Good until here.
    pub not_after: SystemTime,
}

impl Credential {
    /// Reads a credential folder.
    ///
    /// # Errors
    /// A file is missing or malformed, the key is readable by others, or key, certificate
    /// and `zta.json` do not belong together.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let key = Key::from_pem(&folder::read_private(&path.join(KEY))?)
            .map_err(|problem| Error::credential(path.join(KEY), problem))?;
        let facts = serde_json::from_slice(&folder::read(&path.join(FACTS))?)
            .map_err(|e| Error::credential(path.join(FACTS), e.to_string()))?;
        let parts = Parts {
            certificate_pem: folder::read(&path.join(CERTIFICATE))?,
            ca_pem: Some(folder::read(&path.join(CA))?),
        };
        Self::assemble(Some(path.to_owned()), facts, Arc::new(key), &parts)
    }

    /// A credential that lives in memory only, from the content of the folder's files.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_pem(
        endpoint: &str,
        key_pem: &[u8],
        certificate_pem: &[u8],
        ca_pem: &[u8],
    ) -> Result<Self, Error> {
        let place = PathBuf::from("(in memory)");
        let key = Key::from_pem(key_pem).map_err(|problem| Error::credential(&place, problem))?;
        let leaf = leaf_of(certificate_pem).map_err(|p| Error::credential(&place, p))?;
        let facts = Facts {
            endpoint: endpoint.to_owned(),
            spiffe_id: leaf.spiffe_id,
            instance_id: String::new(),
        };
        let parts = Parts {
            certificate_pem: certificate_pem.to_vec(),
            ca_pem: Some(ca_pem.to_vec()),
        };
        Self::assemble(None, facts, Arc::new(key), &parts)
    }

    /// Completes a folder that [`folder::create`] made with the certificate for its key.
    pub(crate) fn write(
        path: &Path,
        endpoint: &str,
        issued: &v1::Certificate,
    ) -> Result<Self, Error> {
        let facts = Facts {
            endpoint: endpoint.to_owned(),
            spiffe_id: issued.spiffe_id.clone(),
            instance_id: issued.instance_id.clone(),
        };
        let json = serde_json::to_vec_pretty(&facts)
            .map_err(|e| Error::credential(path.join(FACTS), e.to_string()))?;
        folder::replace(&path.join(CA), issued.ca_bundle_pem.as_bytes())?;
        folder::replace(&path.join(CERTIFICATE), issued.certificate_pem.as_bytes())?;
        folder::replace(&path.join(FACTS), &json)?;
        Self::load(path)
    }

    /// The same key under a renewed certificate, not yet stored. The CAs that come with it
    /// are believed `by_our_ca` only: over a connection that ends at somebody whom one of
    /// those that are trusted already has certified. Else a proxy could put its own CA in
    /// their place, and be the server for good.
    pub(crate) fn renewed(
        &self,
        issued: &v1::Certificate,
        by_our_ca: bool,
    ) -> Result<(Self, Parts), Error> {
        let bundle = || issued.ca_bundle_pem.clone().into_bytes();
        let parts = Parts {
            certificate_pem: issued.certificate_pem.clone().into_bytes(),
            ca_pem: by_our_ca.then(bundle),
        };
        let mut renewed = Self::assemble(
            self.folder.clone(),
            self.facts.clone(),
            Arc::clone(&self.key),
            &parts,
        )?;
        if parts.ca_pem.is_none() {
            renewed.roots.clone_from(&self.roots);
        }
        Ok((renewed, parts))
    }

    /// Puts renewed certificates into the folder, if the credential has one. The bundle
    /// goes first: a new leaf beside an old bundle might not reach a server whose
    /// certificate comes from a new CA.
    pub(crate) fn store(&self, parts: &Parts) -> Result<(), Error> {
        let Some(path) = &self.folder else {
            return Ok(());
        };
        if let Some(ca_pem) = &parts.ca_pem {
            folder::replace(&path.join(CA), ca_pem)?;
        }
        folder::replace(&path.join(CERTIFICATE), &parts.certificate_pem)
    }

    /// What the folder holds now, with this credential's endpoint. Another process that
    /// shares the folder may have renewed it.
    pub(crate) fn reload(&self) -> Result<Option<Self>, Error> {
        let Some(path) = &self.folder else {
            return Ok(None);
        };
        let mut stored = Self::load(path)?;
        stored.facts.endpoint.clone_from(&self.facts.endpoint);
        Ok(Some(stored))
    }

    /// Held by the one process that renews the folder; the others then take what it wrote.
    pub(crate) fn lock(&self) -> Result<Option<fs::File>, Error> {
        self.folder.as_deref().map(folder::lock).transpose()
    }

    fn assemble(
        path: Option<PathBuf>,
        facts: Facts,
        key: Arc<Key>,
        parts: &Parts,
    ) -> Result<Self, Error> {
        let place = path.clone().unwrap_or_else(|| "(in memory)".into());
        let refuse = |problem: String| Error::credential(&place, problem);
        let leaf = leaf_of(&parts.certificate_pem)
            .map_err(|problem| refuse(format!("{CERTIFICATE} {problem}")))?;
        if leaf.public_key != key.public_key() {
            return Err(refuse(format!("{CERTIFICATE} does not belong to {KEY}")));
        }
        if leaf.spiffe_id != facts.spiffe_id {
            return Err(refuse(format!(
                "{CERTIFICATE} does not name {}",
                facts.spiffe_id
            )));
        }
        Ok(Self {
            folder: path,
            facts,
            key,
            certificates: certificates(&parts.certificate_pem)
                .map_err(|problem| refuse(format!("{CERTIFICATE} {problem}")))?,
            roots: (parts.ca_pem.as_deref().map(certificates).transpose())
                .map_err(|problem| refuse(format!("{CA} {problem}")))?
                .unwrap_or_default(),
            validity: leaf.validity,
        })
    }

    /// The folder it was read from.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// `host:port` of the server that issued it.
    pub fn endpoint(&self) -> &str {
        &self.facts.endpoint
    }

    pub(crate) fn set_endpoint(&mut self, endpoint: &str) {
        endpoint.clone_into(&mut self.facts.endpoint);
    }

    /// Whose it is.
    pub fn spiffe_id(&self) -> &str {
        &self.facts.spiffe_id
    }

    /// The enrolled key's id.
    pub fn instance_id(&self) -> &str {
        &self.facts.instance_id
    }

    /// From when until when the certificate is good.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Signs a server's challenge with the enrolled key.
    ///
    /// # Errors
    /// The operating system gives no randomness.
    pub fn sign_challenge(&self, challenge: &[u8]) -> Result<Vec<u8>, Error> {
        self.key
            .sign_challenge(challenge)
            .map_err(|problem| Error::credential(self.place(), problem))
    }

    fn place(&self) -> PathBuf {
        self.folder.clone().unwrap_or_else(|| "(in memory)".into())
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.certificates.clone()
    }

    pub(crate) fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.pkcs8().to_vec()).into()
    }
}

/// Without the key.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("folder", &self.folder)
            .field("facts", &self.facts)
            .field("validity", &self.validity)
            .finish_non_exhaustive()
    }
}

/// What renewal replaces.
pub(crate) struct Parts {
    certificate_pem: Vec<u8>,
    /// `None`: as it is.
    ca_pem: Option<Vec<u8>>,
}

/// What is read from a leaf certificate.
struct Leaf {
    spiffe_id: String,
    public_key: Vec<u8>,
    validity: Validity,
}

pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, &'static str> {
    let found = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| "is not PEM")?;
    if found.is_empty() {
        return Err("holds no certificate in PEM");
    }
    Ok(found)
}

fn leaf_of(pem: &[u8]) -> Result<Leaf, &'static str> {
    let der = certificates(pem)?.swap_remove(0);
    let (_, certificate) =
        X509Certificate::from_der(&der).map_err(|_| "holds a malformed certificate")?;
    let mut names = certificate
        .extensions()
        .iter()
        .filter_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
            _ => None,
        })
        .flatten()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        });
    let (Some(spiffe_id), None) = (names.next(), names.next()) else {
        return Err("does not hold exactly one URI name");
    };
    let validity = certificate.validity();
    Ok(Leaf {
        spiffe_id,
        public_key: certificate.public_key().subject_public_key.data.to_vec(),
        validity: Validity {
            not_before: time_of(validity.not_before.timestamp()),
            not_after: time_of(validity.not_after.timestamp()),
        },
    })
}

fn time_of(unix_s: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(unix_s.max(0).unsigned_abs())
}
