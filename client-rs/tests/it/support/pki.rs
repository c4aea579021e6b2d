//! A certificate authority for tests.

use std::sync::Arc;

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use time::{Duration, OffsetDateTime};
use zta_client::Credential;

pub(crate) const SPIFFE_ID: &str = "spiffe://zta.local/agent/research";

pub(crate) struct Pki {
    ca: Issuer<'static, KeyPair>,
    ca_pem: String,
    ca_der: CertificateDer<'static>,
}

#[expect(
    clippy::disallowed_methods,
    reason = "certificates of tests are good now"
)]
pub(crate) fn seconds_from_now(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::now_utc() + Duration::seconds(seconds)
}

impl Pki {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).expect("CA");
        Self {
            ca_pem: certificate.pem(),
            ca_der: certificate.der().clone(),
            ca: Issuer::new(params, key),
        }
    }

    pub(crate) fn ca_pem(&self) -> String {
        self.ca_pem.clone()
    }

    pub(crate) fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca_der.clone()).expect("root");
        Arc::new(roots)
    }

    pub(crate) fn join_token(&self) -> String {
        let fingerprint = digest::digest(&digest::SHA256, &self.ca_der);
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        format!(
            "zta-join-1.{}.{}.{}",
            encode(b"token-id"),
            encode(b"token-secret"),
            encode(fingerprint.as_ref())
        )
    }

    pub(crate) fn server_certificate(
        &self,
    ) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(["localhost".to_owned()]).expect("name");
        params
            .subject_alt_names
            .push(SanType::IpAddress([127, 0, 0, 1].into()));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.ca).expect("certificate");
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        (vec![certificate.der().clone()], key.into())
    }

    /// A client certificate for a key, in PEM.
    pub(crate) fn certify(
        &self,
        key: &impl PublicKeyData,
        not_before: OffsetDateTime,
        not_after: OffsetDateTime,
    ) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(SPIFFE_ID.try_into().expect("URI"))];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = (not_before, not_after);
        params.signed_by(key, &self.ca).expect("certificate").pem()
    }

    pub(crate) fn certify_request(&self, csr_der: &[u8]) -> Option<String> {
        let request = CertificateSigningRequestParams::from_der(&csr_der.into()).ok()?;
        let (from, to) = (seconds_from_now(-60), seconds_from_now(3_600));
        Some(self.certify(&request.public_key, from, to))
    }

    pub(crate) fn credential(&self, endpoint: &str) -> Credential {
        let key = KeyPair::generate().expect("key");
        let certificate = self.certify(&key, seconds_from_now(-60), seconds_from_now(3_600));
        let (key, ca) = (key.serialize_pem(), self.ca_pem());
        Credential::from_pem(
            endpoint,
            key.as_bytes(),
            certificate.as_bytes(),
            ca.as_bytes(),
        )
        .expect("credential")
    }
}
