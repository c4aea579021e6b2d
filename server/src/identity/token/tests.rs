use time::macros::datetime;

use super::claims::CLAIMS;
use super::*;
use crate::identity::ca::{Ca, SVID_LIFETIME};
use crate::identity::peer::PeerCertificate;
use crate::identity::spiffe::{PrincipalName, SpiffeId};
use crate::keys::SoftwareKey;
use crate::model::PrincipalKind;

mod bound;

const NOW: OffsetDateTime = datetime!(2026-11-22 12:00:00.75 UTC);

struct Setup {
    authority: TokenAuthority,
    certificate: PeerCertificate,
    ca: Ca,
}

fn new_key() -> Arc<dyn SigningKey> {
    Arc::new(SoftwareKey::generate(KeyAlgorithm::EcdsaP256).expect("a key"))
}

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("zta.local").expect("a trust domain")
}

fn certify(ca: &Ca, name: &str, key: &dyn SigningKey) -> PeerCertificate {
    let name = PrincipalName::parse(name).expect("a name");
    let id = SpiffeId::agent(&trust_domain(), &name);
    let key = PublicKey::from_spki(key.public_key_spki_der()).expect("P-256");
    let issued = ca
        .issue_svid(&key, &id, 1, SVID_LIFETIME, NOW)
        .expect("a certificate");
    PeerCertificate::from_der(&issued.der).expect("a principal")
}

fn setup() -> Setup {
    let key = new_key();
    let root = Ca::create(&key, &trust_domain(), NOW).expect("a root");
    let ca = Ca::load(key, root, &trust_domain()).expect("its CA");
    Setup {
        authority: TokenAuthority::new(new_key(), &trust_domain(), None).expect("an authority"),
        certificate: certify(&ca, "research", &*new_key()),
        ca,
    }
}

/// What a login over this certificate is granted.
fn grant(certificate: &PeerCertificate) -> Grant {
    Grant {
        subject: TokenParty::registered(PrincipalKind::Agent, certificate.spiffe_id().as_str()),
        actors: Vec::new(),
        scope: Vec::new(),
        lineage: Vec::new(),
        epoch: 7,
        confirmation: Confirmation::Certificate(*certificate.certificate_sha256()),
        auth_time: NOW,
        lifetime: TOKEN_LIFETIME_MAX,
        not_after: Some(certificate.not_after()),
    }
}

type Verified = Result<Arc<AccessToken>, TokenError>;

fn verify_as(
    authority: &TokenAuthority,
    token: &str,
    certificate: &PeerCertificate,
    now: OffsetDateTime,
) -> Verified {
    authority.verify(token, &Possession::Certificate(certificate), now)
}

impl Setup {
    fn grant(&self) -> Grant {
        grant(&self.certificate)
    }

    fn issue(&self) -> String {
        let issued = self.authority.issue(&self.grant(), NOW);
        issued.expect("a token").token
    }

    fn verify(&self, token: &str, now: OffsetDateTime) -> Verified {
        verify_as(&self.authority, token, &self.certificate, now)
    }

    fn header(&self) -> Value {
        json!({"alg": "ES256", "typ": "at+jwt", "kid": self.authority.key_id})
    }

    fn claims(&self) -> Value {
        let token = self.issue();
        let payload = token.split('.').nth(1).expect("a payload");
        let payload = URL_SAFE_NO_PAD.decode(payload).expect("base64url");
        serde_json::from_slice(&payload).expect("JSON")
    }

    /// The refusal of a token that our own key signed over these claims.
    fn refusal_of(&self, alter: impl FnOnce(&mut Map<String, Value>)) -> TokenError {
        let mut claims = self.claims();
        alter(claims.as_object_mut().expect("an object"));
        let token = self
            .authority
            .sign(&self.header(), &claims)
            .expect("signed");
        self.verify(&token, NOW).expect_err("refused")
    }

    fn refusal_of_header(&self, name: &str, value: Value) -> TokenError {
        let mut header = self.header();
        header[name] = value;
        let token = self
            .authority
            .sign(&header, &self.claims())
            .expect("signed");
        self.verify(&token, NOW).expect_err("refused")
    }
}

#[test]
fn a_token_proves_its_holder_until_it_expires() {
    let setup = setup();
    let auth_time = NOW - Duration::SECOND;
    let grant = Grant {
        auth_time,
        ..setup.grant()
    };
    let issued = setup.authority.issue(&grant, NOW).expect("a token");
    assert_eq!(issued.expire_time, datetime!(2026-11-22 12:10 UTC));
    let token = setup.verify(&issued.token, NOW).expect("valid");
    assert_eq!(token.subject, setup.grant().subject);
    assert_eq!(token.holder(), &token.subject);
    assert_eq!(token.id, issued.id);
    assert_eq!(token.auth_time, auth_time.truncate_to_second());
    assert_eq!(token.expire_time, issued.expire_time);
    let last = issued.expire_time - Duration::NANOSECOND;
    assert!(setup.verify(&issued.token, last).is_ok());
    let late = setup.verify(&issued.token, issued.expire_time);
    assert_eq!(late, Err(TokenError::Expired));
    assert!(!format!("{issued:?}").contains(&issued.token));
}

#[test]
fn a_token_has_the_shape_of_rfc_9068_and_8705() {
    let setup = setup();
    let claims = setup.claims();
    let hash = URL_SAFE_NO_PAD.encode(setup.certificate.certificate_sha256());
    assert_eq!(claims["iss"], "spiffe://zta.local");
    assert_eq!(claims["aud"], "spiffe://zta.local");
    assert_eq!(claims["sub"], "spiffe://zta.local/agent/research");
    assert_eq!(claims["cnf"], json!({"x5t#S256": hash}));
    assert_eq!(claims["iat"], NOW.unix_timestamp());
    let names = claims.as_object().expect("an object").keys().len();
    assert_eq!(names, CLAIMS.len());
}

#[test]
fn a_token_does_not_outlive_its_certificate_or_ten_minutes() {
    let setup = setup();
    let issue = |lifetime, now| {
        let grant = Grant {
            auth_time: now,
            lifetime,
            ..setup.grant()
        };
        setup.authority.issue(&grant, now)
    };
    for lifetime in [
        Duration::ZERO,
        -Duration::SECOND,
        TOKEN_LIFETIME_MAX + Duration::SECOND,
    ] {
        assert_eq!(
            issue(lifetime, NOW).expect_err("refused"),
            TokenError::Lifetime
        );
    }
    let end = setup.certificate.not_after();
    let last = issue(TOKEN_LIFETIME_MAX, end - Duration::MINUTE).expect("a token");
    assert_eq!(last.expire_time, end);
    assert_eq!(
        issue(TOKEN_LIFETIME_MAX, end).expect_err("refused"),
        TokenError::Expired
    );
}

#[test]
fn every_claim_is_required_and_typed() {
    let setup = setup();
    for name in CLAIMS {
        let missing = setup.refusal_of(|claims| drop(claims.remove(name)));
        assert_eq!(missing, TokenError::Claim(name));
        for wrong in [Value::Null, json!(""), json!(1.5), json!(true)] {
            let refusal = setup.refusal_of(|claims| claims[name] = wrong.clone());
            assert_eq!(refusal, TokenError::Claim(name), "{wrong}");
        }
        for wrong in [json!([]), json!({})] {
            // The JWT library stumbles over some of these before we look.
            let refusal = setup.refusal_of(|claims| claims[name] = wrong.clone());
            let named = [TokenError::Claim(name), TokenError::Malformed].contains(&refusal);
            assert!(named, "{name} {wrong}: {refusal}");
        }
    }
    let more = setup.refusal_of(|claims| drop(claims.insert("may_act".to_owned(), json!({}))));
    assert_eq!(more, TokenError::ClaimUnknown);
    for (name, wrong) in [
        ("act", json!({})),
        ("act", json!({"sub": "spiffe://zta.local/agent/b"})),
        ("act", json!({"sub": "x", "sub_type": "agent", "cnf": {}})),
        ("act", json!("spiffe://zta.local/agent/b")),
        ("scope", json!("")),
        ("scope", json!(["read"])),
        ("name", json!(1)),
        ("roles", json!("administrator")),
        ("roles", json!([1])),
    ] {
        let refusal = setup.refusal_of(|claims| {
            claims.insert(name.to_owned(), wrong.clone());
        });
        assert_eq!(refusal, TokenError::Claim(name), "{wrong}");
    }
}

#[test]
fn every_wrong_claim_is_named() {
    let setup = setup();
    let at = |offset: i64| json!(NOW.unix_timestamp() + offset);
    let refusal = |name: &str, value: Value| setup.refusal_of(|claims| claims[name] = value);
    assert_eq!(
        refusal("iss", json!("spiffe://zta.example")),
        TokenError::Issuer
    );
    assert_eq!(
        refusal("aud", json!("spiffe://zta.example")),
        TokenError::Audience
    );
    assert_eq!(
        refusal("aud", json!(["spiffe://zta.local"])),
        TokenError::Claim("aud")
    );
    assert_eq!(
        refusal("sub", json!("spiffe://zta.local/agent/b")),
        TokenError::Subject
    );
    assert_eq!(refusal("exp", at(601)), TokenError::Lifetime);
    assert_eq!(refusal("exp", at(0)), TokenError::Lifetime);
    assert_eq!(refusal("exp", json!(i64::MAX)), TokenError::Claim("exp"));
    assert_eq!(refusal("iat", at(20)), TokenError::NotYetValid);
    assert_eq!(refusal("auth_time", at(1)), TokenError::NotYetValid);
    let expired = setup.refusal_of(|claims| {
        claims["iat"] = at(-600);
        claims["exp"] = at(-1);
    });
    assert_eq!(expired, TokenError::Expired);
    let hash = URL_SAFE_NO_PAD.encode([0; 32]);
    assert_eq!(
        refusal("cnf", json!({"x5t#S256": hash})),
        TokenError::Binding
    );
    assert_eq!(
        refusal("cnf", json!({"x5t#S256": "AA"})),
        TokenError::Claim("cnf")
    );
    let also = json!({"x5t#S256": hash, "jkt": hash});
    assert_eq!(refusal("cnf", also), TokenError::Claim("cnf"));
    assert_eq!(refusal("cnf", json!({"jkt": hash})), TokenError::Binding);
}

#[test]
fn a_token_is_worth_nothing_with_another_certificate() {
    let setup = setup();
    let token = setup.issue();
    let key = new_key();
    for name in ["analysis", "research"] {
        let other = certify(&setup.ca, name, &*key);
        let refused = verify_as(&setup.authority, &token, &other, NOW);
        assert_eq!(refused, Err(TokenError::Binding), "{name}");
    }
}

#[test]
fn a_remembered_token_is_looked_at_each_time() {
    let setup = setup();
    let token = setup.issue();
    let first = setup.verify(&token, NOW).expect("valid");
    assert_eq!(setup.authority.memory.len(), 1);
    assert_eq!(setup.verify(&token, NOW), Ok(first.clone()));
    // Remembered or not, it is bound to its certificate and to its times.
    let others = certify(&setup.ca, "writing", &*new_key());
    let stolen = verify_as(&setup.authority, &token, &others, NOW);
    assert_eq!(stolen, Err(TokenError::Binding));
    let early = setup.verify(&token, NOW - Duration::MINUTE);
    assert_eq!(early, Err(TokenError::NotYetValid));
    let late = setup.verify(&token, first.expire_time);
    assert_eq!(late, Err(TokenError::Expired));
    assert_eq!(setup.authority.memory.len(), 0, "it is not kept any longer");
    // What was never verified is not remembered.
    let (head, signature) = token.rsplit_once('.').expect("a signature");
    let forged = format!("{head}.{}", signature.chars().rev().collect::<String>());
    assert!(setup.verify(&forged, NOW).is_err());
    assert!(verify_as(&setup.authority, &token, &others, NOW).is_err());
    assert_eq!(setup.authority.memory.len(), 0);
}

#[test]
fn the_memory_is_bounded() {
    let setup = setup();
    let token = setup.issue();
    let claims = Arc::new(setup.authority.signed(&token).expect("ours"));
    let memory = memory::Memory::default();
    for n in 0..=memory::REMEMBERED_MAX {
        memory.remember(sha256(&n.to_be_bytes()), Arc::clone(&claims), NOW);
        assert!(memory.len() <= memory::REMEMBERED_MAX);
    }
}

#[test]
fn another_type_algorithm_or_key_is_named() {
    let setup = setup();
    for typ in ["JWT", "AT+JWT", "id+jwt", ""] {
        assert_eq!(setup.refusal_of_header("typ", json!(typ)), TokenError::Type);
    }
    assert_eq!(
        setup.refusal_of_header("typ", Value::Null),
        TokenError::Type
    );
    for algorithm in ["none", "None", "HS256", "ES384", "RS256", ""] {
        let refusal = setup.refusal_of_header("alg", json!(algorithm));
        assert_eq!(refusal, TokenError::Algorithm, "{algorithm}");
    }
    assert_eq!(
        setup.refusal_of_header("kid", json!("other")),
        TokenError::KeyUnknown
    );
    assert_eq!(
        setup.refusal_of_header("kid", Value::Null),
        TokenError::KeyUnknown
    );
    assert_eq!(
        setup.refusal_of_header("crit", json!(["b64"])),
        TokenError::Malformed
    );
    assert_eq!(
        setup.refusal_of_header("jwk", json!({})),
        TokenError::Malformed
    );
}

#[test]
fn unsigned_and_hmac_forgeries_are_refused() {
    let setup = setup();
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = part(&setup.claims());
    let none = part(&json!({"alg": "none", "typ": "at+jwt", "kid": setup.authority.key_id}));
    let unsigned = setup.verify(&format!("{none}.{claims}."), NOW);
    assert_eq!(unsigned, Err(TokenError::Algorithm));

    let public = setup.authority.key.public_key_spki_der();
    for secret in [
        public,
        crate::keys::pem::encode("PUBLIC KEY", public).as_bytes(),
    ] {
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
        // Whichever algorithm the header then claims.
        for (algorithm, error) in [
            ("HS256", TokenError::Algorithm),
            ("ES256", TokenError::Signature),
        ] {
            let mut header = setup.header();
            header["alg"] = json!(algorithm);
            let text = format!("{}.{claims}", part(&header));
            let tag = aws_lc_rs::hmac::sign(&key, text.as_bytes());
            let token = format!("{text}.{}", URL_SAFE_NO_PAD.encode(tag));
            assert_eq!(setup.verify(&token, NOW), Err(error));
        }
    }
}

#[test]
fn another_servers_key_under_our_key_id_does_not_verify() {
    let setup = setup();
    let other = TokenAuthority::new(new_key(), &trust_domain(), None).expect("an authority");
    let honest = other.issue(&setup.grant(), NOW).expect("a token");
    assert_eq!(
        setup.verify(&honest.token, NOW),
        Err(TokenError::KeyUnknown)
    );
    let forged = other
        .sign(&setup.header(), &setup.claims())
        .expect("signed");
    assert_eq!(setup.verify(&forged, NOW), Err(TokenError::Signature));
}

#[test]
fn no_altered_cut_or_extended_token_passes() {
    let setup = setup();
    let token = setup.issue();
    for at in 0..token.len() {
        let mut altered = token.clone().into_bytes();
        altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
        let altered = String::from_utf8(altered).expect("ASCII");
        assert!(setup.verify(&altered, NOW).is_err(), "byte {at}");
        assert!(setup.verify(&token[..at], NOW).is_err(), "length {at}");
    }
    let parts: Vec<&str> = token.split('.').collect();
    for bad in [
        format!("{token}."),
        format!("{token}.x"),
        format!("{token}="),
        format!(" {token}"),
        format!("{token}\n"),
        format!("{}..{}", parts[0], parts[2]),
        "..".to_owned(),
        "x".repeat(TOKEN_LEN_MAX + 1),
    ] {
        assert!(setup.verify(&bad, NOW).is_err(), "{bad}");
    }
}

#[test]
fn a_configured_audience_replaces_the_issuer() {
    let setup = setup();
    let audience = Some("https://pdp.example".to_owned());
    let key = Arc::clone(&setup.authority.key);
    let other = TokenAuthority::new(key, &trust_domain(), audience).expect("an authority");
    let issued = other.issue(&setup.grant(), NOW).expect("a token");
    assert!(verify_as(&other, &issued.token, &setup.certificate, NOW).is_ok());
    assert_eq!(setup.verify(&issued.token, NOW), Err(TokenError::Audience));
}

#[test]
fn an_ed25519_key_makes_no_authority() {
    let key = Arc::new(SoftwareKey::generate(KeyAlgorithm::Ed25519).expect("a key"));
    let error = TokenAuthority::new(key, &trust_domain(), None).expect_err("refused");
    assert_eq!(error, TokenError::Key);
}

#[test]
fn signatures_of_every_length_convert() {
    let short = [0x30, 0x07, 0x02, 0x01, 0x05, 0x02, 0x02, 0x00, 0x81];
    let mut expected = [0; 64];
    (expected[31], expected[63]) = (0x05, 0x81);
    assert_eq!(fixed_signature(&short), Some(expected));
    let setup = setup();
    for _ in 0..300 {
        let token = setup.issue();
        assert!(setup.verify(&token, NOW).is_ok(), "{token}");
    }
    let long = [&[0x30, 0x26, 0x02, 0x21][..], &[1; 33], &[0x02, 0x01, 0x01]].concat();
    for bad in [
        &[][..],
        &[0x30],
        &short[..8],
        &[0x31, 0],
        &[0x30, 1, 2],
        &long,
    ] {
        assert_eq!(fixed_signature(bad), None);
    }
}
