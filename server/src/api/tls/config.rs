//! The TLS configuration: what the server shows, and whom it believes.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, Signer, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{RootCertStore, ServerConfig, SignatureAlgorithm, SignatureScheme};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use crate::identity::ca::CaChain;
use crate::identity::peer::is_signed_by;
use crate::identity::public_key::PublicKey;
use crate::keys::{KeyAlgorithm, SigningKey};

/// Why a TLS configuration cannot be built.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsConfigError {
    /// The server's key is not ECDSA P-256.
    #[error("the server's TLS key is not ECDSA P-256")]
    KeyUnsupported,
    /// A CA that clients are believed by has another key.
    #[error("a CA's certificate cannot be read, or its key is not ECDSA P-256")]
    IssuerUnsupported,
    /// The certificate is not the key's, or a certificate cannot be read.
    #[error("the TLS material does not fit together: {0}")]
    Material(#[from] rustls::Error),
    /// There is no CA to believe clients by.
    #[error("no CA to verify client certificates with: {0}")]
    Roots(#[from] rustls::server::VerifierBuilderError),
}

/// Everything a TLS configuration is made of.
pub(crate) struct TlsMaterial {
    /// The server's certificate (DER), followed by intermediates, if any.
    pub(crate) chain: Vec<Vec<u8>>,
    /// The key of that certificate.
    pub(crate) key: Arc<dyn SigningKey>,
    /// The CAs (DER) that client certificates must come from.
    pub(crate) client_roots: Vec<Vec<u8>>,
    /// The clock by which client certificates are judged at the handshake.
    pub(crate) time: Arc<dyn TimeProvider>,
}

/// The configuration in force; clones share it.
///
/// It is replaced as a whole, never in parts: with only the verifier replaced, a
/// client that the new one refuses came back by session resumption.
#[derive(Clone, Debug)]
pub(crate) struct TlsReload(Arc<ArcSwap<Current>>);

impl TlsReload {
    /// Starts with `material`.
    pub(crate) fn new(material: TlsMaterial) -> Result<Self, TlsConfigError> {
        Ok(Self(Arc::new(ArcSwap::from_pointee(Current::new(
            material,
        )?))))
    }

    /// Uses `material` from the next handshake on; on an error the old stays in force.
    pub(crate) fn replace(&self, material: TlsMaterial) -> Result<(), TlsConfigError> {
        self.0.store(Arc::new(Current::new(material)?));
        Ok(())
    }

    pub(super) fn current(&self) -> Arc<Current> {
        self.0.load_full()
    }
}

/// One configuration, with the CAs that it believes clients by.
#[derive(Debug)]
pub(super) struct Current {
    pub(super) config: Arc<ServerConfig>,
    issuers: Vec<Issuer>,
}

#[derive(Debug)]
struct Issuer {
    id: String,
    key: PublicKey,
}

impl Current {
    fn new(material: TlsMaterial) -> Result<Self, TlsConfigError> {
        let issuers = material.client_roots.iter().map(|der| issuer(der));
        let issuers = issuers.collect::<Result<_, _>>()?;
        let config = Arc::new(server_config(material)?);
        Ok(Self { config, issuers })
    }

    /// The CA that signed this client certificate. The library says only that one did;
    /// which one it was is looked at again on each call.
    pub(super) fn issuer_of(&self, der: &[u8]) -> Option<&str> {
        let mut issuers = self.issuers.iter();
        let found = issuers.find(|issuer| is_signed_by(der, &issuer.key));
        found.map(|issuer| issuer.id.as_str())
    }
}

fn issuer(der: &[u8]) -> Result<Issuer, TlsConfigError> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|_| TlsConfigError::IssuerUnsupported)?;
    let key = PublicKey::from_spki(certificate.public_key().raw);
    Ok(Issuer {
        id: CaChain::root(der.to_vec()).id_hex(),
        key: key.map_err(|_| TlsConfigError::IssuerUnsupported)?,
    })
}

fn server_config(material: TlsMaterial) -> Result<ServerConfig, TlsConfigError> {
    if material.key.algorithm() != KeyAlgorithm::EcdsaP256 {
        return Err(TlsConfigError::KeyUnsupported);
    }
    // Passed explicitly: a process default could be changed by any other crate.
    let provider: Arc<CryptoProvider> = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for der in material.client_roots {
        roots.add(CertificateDer::from(der))?;
    }
    for root in &mut roots.roots {
        // The chain was refused at the start if its constraints leave no room for the trust
        // domain, and the acceptor holds every client to that. The library would refuse
        // every SPIFFE ID below a CA that has a constraint on URIs.
        root.name_constraints = None;
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()?;
    let chain = material
        .chain
        .into_iter()
        .map(CertificateDer::from)
        .collect();
    let certified = CertifiedKey::new(chain, Arc::new(TlsKey(material.key)));
    certified.keys_match()?;

    let mut config = ServerConfig::builder_with_details(provider, material.time)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // No resumption at all: every connection proves its certificate anew.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Our signing key, as rustls wants to see it.
#[derive(Clone)]
struct TlsKey(Arc<dyn SigningKey>);

impl rustls::sign::SigningKey for TlsKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered
            .contains(&SignatureScheme::ECDSA_NISTP256_SHA256)
            .then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(self.0.public_key_spki_der()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for TlsKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.0
            .sign(message)
            .map_err(|error| rustls::Error::General(error.to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

impl fmt::Debug for TlsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsKey(..)")
    }
}
