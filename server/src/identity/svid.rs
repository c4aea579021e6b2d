//! An X509-SVID that comes in a message instead of a handshake: judged by the same rules.

use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use time::OffsetDateTime;

use super::ca::CaChain;
use super::peer::PeerCertificate;
use super::registry::AuthenticationError;
use super::spiffe::TrustDomain;

/// A principal's certificate has some 600 bytes; a longer one is none of ours.
const CERTIFICATE_LEN_MAX: usize = 8 * 1024;

/// The certificate in `der`, if one of the CAs in `issuers` (DER) gave it to a principal of
/// this trust domain and it holds now. Whose key it is, and whether that is enrolled, says
/// the registry.
///
/// # Errors
/// When it is not.
pub(crate) fn verify(
    der: &[u8],
    issuers: &[Vec<u8>],
    trust_domain: &TrustDomain,
    now: OffsetDateTime,
) -> Result<PeerCertificate, AuthenticationError> {
    let untrusted = AuthenticationError::CertificateUntrusted;
    if der.len() > CERTIFICATE_LEN_MAX {
        return Err(untrusted);
    }
    let mut refused = untrusted.clone();
    // One by one: which of them it was is looked at again on each call.
    for issuer in issuers {
        match require_issuer(der, issuer, now) {
            Ok(()) => {
                let certificate = PeerCertificate::from_der(der).map_err(|_| untrusted.clone())?;
                if !certificate.spiffe_id().is_in(trust_domain) {
                    return Err(untrusted);
                }
                return Ok(certificate.issued_by(CaChain::root(issuer.clone()).id_hex()));
            }
            Err(AuthenticationError::CertificateExpired) => {
                refused = AuthenticationError::CertificateExpired;
            }
            Err(_) => {}
        }
    }
    Err(refused)
}

/// As the handshake does it, with one CA.
fn require_issuer(
    der: &[u8],
    issuer: &[u8],
    now: OffsetDateTime,
) -> Result<(), AuthenticationError> {
    let untrusted = || AuthenticationError::CertificateUntrusted;
    let mut store = RootCertStore::empty();
    let added = store.add(CertificateDer::from(issuer));
    added.map_err(|_| untrusted())?;
    for root in &mut store.roots {
        // The trust domain is looked at below; the library would refuse every SPIFFE ID
        // below a CA that has a constraint on URIs.
        root.name_constraints = None;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider);
    let verifier = verifier.build().map_err(|_| untrusted())?;
    let seconds = u64::try_from(now.unix_timestamp()).map_err(|_| untrusted())?;
    let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let verified = verifier.verify_client_cert(&CertificateDer::from(der), &[], time);
    verified.map(drop).map_err(|error| match error {
        rustls::Error::InvalidCertificate(
            rustls::CertificateError::Expired
            | rustls::CertificateError::ExpiredContext { .. }
            | rustls::CertificateError::NotValidYet
            | rustls::CertificateError::NotValidYetContext { .. },
        ) => AuthenticationError::CertificateExpired,
        _ => untrusted(),
    })
}

#[cfg(test)]
mod tests {
    use time::Duration;
    use time::macros::datetime;

    use super::*;
    use crate::identity::ca::{Ca, SVID_LIFETIME};
    use crate::identity::public_key::PublicKey;
    use crate::identity::spiffe::{PrincipalName, SpiffeId};
    use crate::keys::{KeyAlgorithm, SigningKey, SoftwareKey};

    const NOW: OffsetDateTime = datetime!(2026-11-22 12:00:00 UTC);

    fn trust_domain(name: &str) -> TrustDomain {
        TrustDomain::parse(name).expect("a trust domain")
    }

    fn ca(domain: &TrustDomain) -> Ca {
        let key: Arc<dyn SigningKey> =
            Arc::new(SoftwareKey::generate(KeyAlgorithm::EcdsaP256).expect("a key"));
        let root = Ca::create(&key, domain, NOW).expect("a root");
        Ca::load(key, root, domain).expect("its CA")
    }

    fn key() -> PublicKey {
        let key = SoftwareKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
        PublicKey::from_spki(key.public_key_spki_der()).expect("P-256")
    }

    fn svid(ca: &Ca, domain: &TrustDomain) -> Vec<u8> {
        let id = SpiffeId::agent(domain, &PrincipalName::parse("research").expect("a name"));
        let issued = ca.issue_svid(&key(), &id, 1, SVID_LIFETIME, NOW);
        issued.expect("a certificate").der
    }

    #[test]
    fn a_certificate_of_our_ca_is_taken_in_its_time() {
        let domain = trust_domain("zta.local");
        let ca = ca(&domain);
        let der = svid(&ca, &domain);
        let at = |now| verify(&der, &[ca.certificate_der().to_vec()], &domain, now);
        let taken = at(NOW).expect("ours");
        assert_eq!(taken.spiffe_id().last_segment(), "research");
        for outside in [NOW + SVID_LIFETIME + Duration::MINUTE, NOW - Duration::HOUR] {
            let error = at(outside).expect_err("refused");
            assert_eq!(error, AuthenticationError::CertificateExpired);
        }
    }

    #[test]
    fn what_our_ca_did_not_give_to_a_principal_is_refused() {
        let domain = trust_domain("zta.local");
        let (ours, stranger) = (ca(&domain), ca(&domain));
        let server = ours.issue_server(&key(), &["localhost".to_owned()], SVID_LIFETIME, NOW);
        let mut altered = svid(&ours, &domain);
        *altered.last_mut().expect("bytes") ^= 1;
        for der in [
            svid(&stranger, &domain),
            server.expect("a certificate").der,
            ours.certificate_der().to_vec(),
            altered,
            Vec::new(),
            vec![0x30; 100_000],
        ] {
            let refused = verify(&der, &[ours.certificate_der().to_vec()], &domain, NOW);
            assert_eq!(refused, Err(AuthenticationError::CertificateUntrusted));
        }
        let der = svid(&ours, &domain);
        let elsewhere = verify(
            &der,
            &[ours.certificate_der().to_vec()],
            &trust_domain("td"),
            NOW,
        );
        assert_eq!(elsewhere, Err(AuthenticationError::CertificateUntrusted));
        let rootless = verify(&der, &[], &domain, NOW);
        assert_eq!(rootless, Err(AuthenticationError::CertificateUntrusted));
    }
}
