use rcgen::{CustomExtension, KeyPair};
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, client::WebPkiServerVerifier};
use time::macros::datetime;

use super::*;
use crate::identity::peer::PeerCertificate;
use crate::identity::spiffe::PrincipalName;
use crate::keys::SoftwareKey;

const NOW: OffsetDateTime = datetime!(2026-11-22 12:00:00.75 UTC);

fn signing_key(algorithm: KeyAlgorithm) -> Arc<dyn SigningKey> {
    Arc::new(SoftwareKey::generate(algorithm).expect("a key"))
}

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("zta.local").expect("a trust domain")
}

pub(super) fn ca() -> Ca {
    let key = signing_key(KeyAlgorithm::EcdsaP256);
    let der = Ca::create(&key, &trust_domain(), NOW).expect("a root");
    Ca::load(key, der, &trust_domain()).expect("its CA")
}

fn agent_id(name: &str) -> SpiffeId {
    SpiffeId::agent(
        &trust_domain(),
        &PrincipalName::parse(name).expect("a name"),
    )
}

fn public_key() -> PublicKey {
    let key = signing_key(KeyAlgorithm::EcdsaP256);
    PublicKey::from_spki(key.public_key_spki_der()).expect("P-256")
}

fn roots(ca: &Ca) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from(ca.certificate_der().to_vec());
    roots.add(root).expect("a root that rustls takes");
    Arc::new(roots)
}

fn unix(at: OffsetDateTime) -> UnixTime {
    let seconds = u64::try_from(at.unix_timestamp()).expect("after 1970");
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))
}

fn client_chain_holds(ca: &Ca, leaf: &[u8], at: OffsetDateTime) -> bool {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(ca), provider)
        .build()
        .expect("a verifier");
    let leaf = CertificateDer::from(leaf.to_vec());
    verifier.verify_client_cert(&leaf, &[], unix(at)).is_ok()
}

fn server_chain_holds(ca: &Ca, leaf: &[u8], name: &str, at: OffsetDateTime) -> bool {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(ca), provider)
        .build()
        .expect("a verifier");
    let leaf = CertificateDer::from(leaf.to_vec());
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    use rustls::client::danger::ServerCertVerifier as _;
    verifier
        .verify_server_cert(&leaf, &[], &name, &[], unix(at))
        .is_ok()
}

#[test]
fn the_root_is_a_ca_of_its_trust_domain_only() {
    let ca = ca();
    let (_, root) = X509Certificate::from_der(ca.certificate_der()).expect("X.509");
    assert_eq!(root.subject().to_string(), "CN=ZTA CA zta.local");
    let constraints = root.basic_constraints().expect("one").expect("present");
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(0));
    let usage = root.key_usage().expect("one").expect("present").value;
    assert!(usage.key_cert_sign() && usage.crl_sign() && !usage.digital_signature());
    assert_eq!(ca.not_after(), (NOW + CA_LIFETIME).truncate_to_second());
    assert_eq!(ca.fingerprint(), sha256(ca.certificate_der()));
    let name = PeerCertificate::from_der(ca.certificate_der());
    assert!(name.is_err(), "a root is no principal");
}

#[test]
fn a_stored_root_must_fit_key_and_trust_domain() {
    let key = signing_key(KeyAlgorithm::EcdsaP256);
    let der = Ca::create(&key, &trust_domain(), NOW).expect("a root");
    let load = |key: &Arc<dyn SigningKey>, der: &[u8], domain: &TrustDomain| {
        Ca::load(Arc::clone(key), der.to_vec(), domain).map(|_| ())
    };
    load(&key, &der, &trust_domain()).expect("its own");
    let other = signing_key(KeyAlgorithm::EcdsaP256);
    assert!(matches!(
        load(&other, &der, &trust_domain()),
        Err(CaError::OtherKey)
    ));
    let elsewhere = TrustDomain::parse("zta.example").expect("a trust domain");
    assert!(matches!(
        load(&key, &der, &elsewhere),
        Err(CaError::OtherTrustDomain(_))
    ));
    assert!(matches!(
        load(&key, &der[1..], &trust_domain()),
        Err(CaError::Malformed)
    ));
    let ed25519 = signing_key(KeyAlgorithm::Ed25519);
    assert!(matches!(
        load(&ed25519, &der, &trust_domain()),
        Err(CaError::KeyUnsupported)
    ));

    let ca = Ca::load(Arc::clone(&key), der, &trust_domain()).expect("its own");
    let own = PublicKey::from_spki(key.public_key_spki_der()).expect("P-256");
    let leaf = ca
        .issue_svid(&own, &agent_id("a"), 1, SVID_LIFETIME, NOW)
        .expect("a leaf");
    assert!(matches!(
        load(&key, &leaf.der, &trust_domain()),
        Err(CaError::Malformed)
    ));
}

#[test]
fn an_svid_names_one_principal_for_its_lifetime() {
    let ca = ca();
    let key = public_key();
    let issued = ca
        .issue_svid(&key, &agent_id("research"), 1, SVID_LIFETIME, NOW)
        .expect("a leaf");
    assert_eq!(issued.not_before, datetime!(2026-11-22 11:59 UTC));
    assert_eq!(issued.not_after, datetime!(2026-11-22 13:00 UTC));

    let peer = PeerCertificate::from_der(&issued.der).expect("a principal");
    assert_eq!(peer.spiffe_id(), &agent_id("research"));
    assert_eq!(peer.public_key(), &key);
    assert_eq!(
        (peer.not_before(), peer.not_after()),
        (issued.not_before, issued.not_after)
    );

    let (_, leaf) = X509Certificate::from_der(&issued.der).expect("X.509");
    let constraints = leaf.basic_constraints().expect("one").expect("present");
    assert!(constraints.critical && !constraints.value.ca);
    let usage = leaf
        .extended_key_usage()
        .expect("one")
        .expect("present")
        .value;
    assert!(usage.client_auth && usage.server_auth && !usage.any);
    assert_eq!(hex::encode(leaf.raw_serial()), issued.serial);

    assert!(client_chain_holds(&ca, &issued.der, NOW));
    assert!(!client_chain_holds(
        &ca,
        &issued.der,
        NOW + Duration::HOUR + Duration::SECOND
    ));
    assert!(
        !client_chain_holds(&self::ca(), &issued.der, NOW),
        "another root"
    );
    assert!(
        !server_chain_holds(&ca, &issued.der, "localhost", NOW),
        "no server name"
    );

    assert_eq!(peer.generation(), Some(1));
    let again = ca
        .issue_svid(&key, &agent_id("research"), 2, SVID_LIFETIME, NOW)
        .expect("a leaf");
    assert_ne!(issued.serial, again.serial);
}

#[test]
fn a_request_for_more_gets_neither_ca_nor_another_name() {
    let pair = KeyPair::generate().expect("a key");
    let mut wish = CertificateParams::default();
    wish.subject_alt_names = vec![uri_name("spiffe://zta.local/user/admin").expect("ASCII")];
    wish.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    wish.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let policy = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    wish.custom_extensions = vec![policy];
    let csr = wish.serialize_request(&pair).expect("a request");
    let key = PublicKey::from_csr(csr.der()).expect("its key");

    let ca = ca();
    let issued = ca
        .issue_svid(&key, &agent_id("research"), 1, SVID_LIFETIME, NOW)
        .expect("a leaf");
    let peer = PeerCertificate::from_der(&issued.der).expect("a principal, no CA");
    assert_eq!(peer.spiffe_id(), &agent_id("research"));
    let (_, leaf) = X509Certificate::from_der(&issued.der).expect("X.509");
    assert!(!leaf.is_ca());
    let unknown = leaf.extensions().iter().filter(|extension| {
        matches!(
            extension.parsed_extension(),
            ParsedExtension::UnsupportedExtension { .. }
        )
    });
    let unknown: Vec<String> = unknown.map(|e| e.oid.to_id_string()).collect();
    let own = format!("2.25.{}", crate::identity::generation::GENERATION_OID[2]);
    assert_eq!(unknown, [own], "nothing of the request is copied");
}

#[test]
fn lifetimes_and_trust_domains_have_bounds() {
    let ca = ca();
    let key = public_key();
    let issue = |lifetime, now| ca.issue_svid(&key, &agent_id("a"), 1, lifetime, now);
    for lifetime in [
        Duration::ZERO,
        -Duration::HOUR,
        Duration::DAY + Duration::SECOND,
    ] {
        assert!(
            matches!(issue(lifetime, NOW), Err(CaError::Lifetime { .. })),
            "{lifetime}"
        );
    }
    let early = NOW - Duration::HOUR;
    assert!(matches!(
        issue(SVID_LIFETIME, early),
        Err(CaError::OutsideValidity)
    ));
    assert!(matches!(
        issue(SVID_LIFETIME, ca.not_after()),
        Err(CaError::OutsideValidity)
    ));
    let last = issue(SVID_LIFETIME, ca.not_after() - Duration::MINUTE).expect("a leaf");
    assert_eq!(last.not_after, ca.not_after(), "no leaf outlives its root");

    let foreign = SpiffeId::parse("spiffe://zta.example/agent/a").expect("an ID");
    let error = ca.issue_svid(&key, &foreign, 1, SVID_LIFETIME, NOW);
    assert!(matches!(error, Err(CaError::Foreign(_))));
}

#[test]
fn the_server_certificate_serves_its_names_and_nothing_else() {
    let ca = ca();
    let names = ["localhost", "127.0.0.1", "::1", "zta.example"].map(str::to_owned);
    let issued = ca
        .issue_server(&public_key(), &names, Duration::WEEK, NOW)
        .expect("a certificate");
    for name in &names {
        assert!(server_chain_holds(&ca, &issued.der, name, NOW), "{name}");
    }
    assert!(!server_chain_holds(&ca, &issued.der, "other.example", NOW));
    assert!(!client_chain_holds(&ca, &issued.der, NOW), "no client");
    assert!(
        PeerCertificate::from_der(&issued.der).is_err(),
        "no principal"
    );

    for bad in [
        "",
        "a b",
        "*.example",
        "spiffe://zta.local/agent/a",
        "127.0.0.1:7443",
    ] {
        let error = ca.issue_server(&public_key(), &[bad.to_owned()], Duration::WEEK, NOW);
        assert!(matches!(error, Err(CaError::ServerName(_))), "{bad}");
    }
    let none = ca.issue_server(&public_key(), &[], Duration::WEEK, NOW);
    assert!(matches!(none, Err(CaError::ServerName(_))));
}

#[test]
fn a_long_trust_domain_still_makes_a_root() {
    let domain = TrustDomain::parse(&"d".repeat(255)).expect("a trust domain");
    let key = signing_key(KeyAlgorithm::EcdsaP256);
    let der = Ca::create(&key, &domain, NOW).expect("a root");
    let ca = Ca::load(key, der, &domain).expect("its CA");
    let id = SpiffeId::agent(&domain, &PrincipalName::parse("a").expect("a name"));
    let issued = ca
        .issue_svid(&public_key(), &id, 1, SVID_LIFETIME, NOW)
        .expect("a leaf");
    assert!(client_chain_holds(&ca, &issued.der, NOW));
}
