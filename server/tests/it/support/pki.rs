//! Certificates that a test forges: by another CA, or with the server's own stolen key.

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};
use zta_client::Credential;

use super::Server;

/// A CA that signs what a test wants.
pub(crate) struct Forger {
    issuer: Issuer<'static, KeyPair>,
}

impl Forger {
    /// A CA that the server knows nothing of, but that calls itself the same.
    pub(crate) fn stranger() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self {
            issuer: Issuer::new(params, key),
        }
    }

    /// The server's own CA: what a thief of its data folder could do.
    pub(crate) fn thief(server: &Server) -> Self {
        let read = |path: &str| std::fs::read_to_string(server.data().join(path)).expect("PEM");
        let (ca_pem, key) = (read("ca.pem"), read("keys/ca.pem"));
        let key = KeyPair::from_pem(&key).expect("the CA's key");
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, key).expect("the CA");
        Self { issuer }
    }

    /// A certificate for a key (PKCS#8 PEM) that begins an hour ago and ends after `lifetime`.
    pub(crate) fn certificate(&self, key_pem: &str, spiffe_id: &str, lifetime: Duration) -> String {
        let key = KeyPair::from_pem(key_pem).expect("a key");
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("params");
        let id = spiffe_id.try_into().expect("an IA5 string");
        params.subject_alt_names = vec![SanType::URI(id)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let now = now();
        params.not_before = now - Duration::HOUR;
        params.not_after = now + lifetime;
        params
            .signed_by(&key, &self.issuer)
            .expect("a certificate")
            .pem()
    }

    /// A credential in memory, which trusts the server's real CA.
    pub(crate) fn credential(
        &self,
        server: &Server,
        key_pem: &str,
        spiffe_id: &str,
        lifetime: Duration,
    ) -> Credential {
        let certificate = self.certificate(key_pem, spiffe_id, lifetime);
        let ca = std::fs::read(server.data().join("ca.pem")).expect("CA");
        Credential::from_pem(
            server.endpoint(),
            key_pem.as_bytes(),
            certificate.as_bytes(),
            &ca,
        )
        .expect("a credential")
    }
}

/// A new private key, PKCS#8 PEM.
pub(crate) fn new_key() -> String {
    KeyPair::generate().expect("a key").serialize_pem()
}

/// The wall clock.
#[allow(
    clippy::disallowed_methods,
    reason = "a test compares with the real server's clock"
)]
pub(crate) fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}
