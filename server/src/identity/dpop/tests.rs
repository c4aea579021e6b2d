use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use time::macros::datetime;

use super::*;
use crate::identity::public_key::PublicKey;
use crate::identity::token::fixed_signature;
use crate::keys::{KeyAlgorithm, SigningKey, SoftwareKey};

mod jws;

const NOW: OffsetDateTime = datetime!(2026-11-22 12:00:00.75 UTC);
const PATH: &str = "/zta.v1.AuthorizationService/Authorize";
const TOKEN: &str = "header.claims.signature";

const CALL: ProvenCall<'_> = ProvenCall {
    path: PATH,
    authority: Some("pdp.example:7443"),
    token: Some(TOKEN),
};

struct Setup {
    verifier: DpopVerifier,
    key: Arc<dyn SigningKey>,
}

fn verifier(max: usize, per_key_max: u32) -> DpopVerifier {
    let own = |name: &str| [name.to_owned()];
    let verifier = DpopVerifier::with_limits(&own("zta.example"), max, per_key_max);
    let mut verifier = verifier.expect("a verifier");
    verifier.hosts = own("pdp.example").to_vec();
    verifier
}

fn setup() -> Setup {
    Setup {
        verifier: verifier(PROOFS_MAX, PROOFS_PER_KEY_MAX),
        key: new_key(),
    }
}

fn new_key() -> Arc<dyn SigningKey> {
    Arc::new(SoftwareKey::generate(KeyAlgorithm::EcdsaP256).expect("a key"))
}

fn public_key(key: &dyn SigningKey) -> PublicKey {
    PublicKey::from_spki(key.public_key_spki_der()).expect("P-256")
}

fn jwk(key: &dyn SigningKey) -> Value {
    let public = public_key(key);
    let (x, y) = public.point()[1..].split_at(32);
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    json!({"kty": "EC", "crv": "P-256", "x": x, "y": y})
}

fn unsigned(header: &str, claims: &str) -> String {
    let (header, claims) = (
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims),
    );
    format!("{header}.{claims}")
}

fn sign(key: &dyn SigningKey, header: &str, claims: &str) -> String {
    let text = unsigned(header, claims);
    let signature = key.sign(text.as_bytes()).expect("signs");
    let signature = fixed_signature(&signature).expect("DER");
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

impl Setup {
    fn header(&self) -> Value {
        json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk(&*self.key)})
    }

    fn claims(&self) -> Value {
        json!({
            "jti": "proof-1",
            "htm": "POST",
            "htu": format!("https://pdp.example:7443{PATH}"),
            "iat": NOW.unix_timestamp(),
            "ath": URL_SAFE_NO_PAD.encode(sha256(TOKEN.as_bytes())),
            "nonce": self.verifier.nonce(NOW),
        })
    }

    fn proof(&self) -> String {
        self.signed(&self.header(), &self.claims())
    }

    fn signed(&self, header: &Value, claims: &Value) -> String {
        sign(&*self.key, &header.to_string(), &claims.to_string())
    }

    fn verify(&self, proof: &str, call: &ProvenCall<'_>) -> Result<VerifiedProof, DpopError> {
        self.verifier.verify([proof.as_bytes()], call, NOW)
    }

    /// Verified and used up.
    fn admit(&self, proof: &str, now: OffsetDateTime) -> Result<ProvenKey, DpopError> {
        let verified = self.verifier.verify([proof.as_bytes()], &CALL, now)?;
        self.verifier.spend(verified, now)
    }

    fn refusal_of(&self, alter: impl FnOnce(&mut Value)) -> DpopError {
        let mut claims = self.claims();
        alter(&mut claims);
        let proof = self.signed(&self.header(), &claims);
        self.verify(&proof, &CALL).expect_err("refused")
    }

    fn refusal_of_header(&self, alter: impl FnOnce(&mut Value)) -> DpopError {
        let mut header = self.header();
        alter(&mut header);
        let proof = self.signed(&header, &self.claims());
        self.verify(&proof, &CALL).expect_err("refused")
    }
}

#[test]
fn a_proof_proves_its_key_once() {
    let setup = setup();
    let proof = setup.proof();
    let key = setup.admit(&proof, NOW).expect("proves");
    assert_eq!(key.public_key, public_key(&*setup.key));
    assert_eq!(key.thumbprint, key.public_key.thumbprint());
    assert_eq!(key.token_sha256, Some(sha256(TOKEN.as_bytes())));
    assert_eq!(setup.admit(&proof, NOW).err(), Some(DpopError::Replayed));
}

#[test]
fn what_was_looked_at_and_not_spent_is_not_used_up() {
    let setup = setup();
    let proof = setup.proof();
    setup.verify(&proof, &CALL).expect("proves");
    assert!(setup.admit(&proof, NOW).is_ok());
}

#[test]
fn a_call_without_a_token_has_a_proof_without_one() {
    let setup = setup();
    let call = ProvenCall {
        token: None,
        ..CALL
    };
    let mut claims = setup.claims();
    let with_hash = setup.signed(&setup.header(), &claims);
    let error = setup.verify(&with_hash, &call).expect_err("refused");
    assert_eq!(error, DpopError::AccessToken);
    claims.as_object_mut().expect("claims").remove("ath");
    let proof = setup.signed(&setup.header(), &claims);
    let verified = setup.verify(&proof, &call).expect("proves");
    let key = setup.verifier.spend(verified, NOW).expect("first use");
    assert_eq!(key.token_sha256, None);
    let error = setup.verify(&proof, &CALL).expect_err("refused");
    assert_eq!(error, DpopError::Claim("ath"), "cannot serve with a token");
    let again = setup.verify(&proof, &call).expect("proves");
    let again = setup.verifier.spend(again, NOW);
    assert_eq!(again.err(), Some(DpopError::Replayed));
}

#[test]
fn each_claim_is_required() {
    let setup = setup();
    for name in ["jti", "htm", "htu", "iat", "ath"] {
        let missing = setup.refusal_of(|c| {
            c.as_object_mut().expect("claims").remove(name);
        });
        assert_eq!(missing, DpopError::Claim(name));
        let null = setup.refusal_of(|c| c[name] = Value::Null);
        assert_eq!(null, DpopError::Claim(name));
        let other_type = setup.refusal_of(|c| c[name] = json!([]));
        assert_eq!(other_type, DpopError::Malformed);
    }
    let no_nonce = setup.refusal_of(|c| {
        c.as_object_mut().expect("claims").remove("nonce");
    });
    assert_eq!(no_nonce, DpopError::NonceMissing);
    assert!(no_nonce.wants_nonce());
    for id in ["", &"x".repeat(129)] {
        let error = setup.refusal_of(|c| c["jti"] = json!(id));
        assert_eq!(error, DpopError::Claim("jti"));
    }
    let fraction = setup.refusal_of(|c| c["iat"] = json!(1.5));
    assert_eq!(fraction, DpopError::Malformed);
}

#[test]
fn it_is_good_for_this_call_only() {
    let setup = setup();
    for method in ["GET", "post", "POST "] {
        let error = setup.refusal_of(|c| c["htm"] = json!(method));
        assert_eq!(error, DpopError::Method, "{method}");
    }
    let host = "pdp.example:7443";
    for uri in [
        format!("http://{host}{PATH}"),
        format!("HTTPS://{host}{PATH}"),
        format!("https://{host}/zta.v1.AuthorizationService/BatchAuthorize"),
        format!("https://{host}{PATH}/"),
        format!("https://{host}{PATH}?a=b"),
        format!("https://{host}{PATH}#a"),
        format!("https://{host}/{PATH}"),
        format!("https://{host}/x/..{PATH}"),
        format!("https://{host}"),
        format!("https://evil.example{PATH}"),
        format!("https://pdp.example{PATH}"),
        format!("https://pdp.example@evil.example:7443{PATH}"),
        format!("https://{host}@evil.example{PATH}"),
        format!("https://{PATH}"),
        format!("https://evil.example/{host}{PATH}"),
        PATH.to_owned(),
        String::new(),
    ] {
        let error = setup.refusal_of(|c| c["htu"] = json!(uri));
        assert_eq!(error, DpopError::Uri, "{uri}");
    }
    for token in ["another", ""] {
        let hash = URL_SAFE_NO_PAD.encode(sha256(token.as_bytes()));
        let error = setup.refusal_of(|c| c["ath"] = json!(hash));
        assert_eq!(error, DpopError::AccessToken);
    }
    let error = setup.refusal_of(|c| c["ath"] = json!("%"));
    assert_eq!(error, DpopError::Claim("ath"));
}

#[test]
fn the_names_in_front_of_a_proxy_are_good_in_any_case_of_letters() {
    let setup = setup();
    let good = |uri: String, call: &ProvenCall<'_>| {
        let mut claims = setup.claims();
        claims["htu"] = json!(uri);
        let proof = setup.signed(&setup.header(), &claims);
        setup.verify(&proof, call).is_ok()
    };
    assert!(good(format!("https://zta.example{PATH}"), &CALL));
    assert!(good(format!("https://ZTA.example:443{PATH}"), &CALL));
    assert!(!good(format!("https://zta.example:8443{PATH}"), &CALL));
    let unnamed = ProvenCall {
        authority: None,
        ..CALL
    };
    assert!(good(format!("https://zta.example{PATH}"), &unnamed));
    assert!(!good(format!("https://pdp.example:7443{PATH}"), &unnamed));
    // An address that somebody else made up is none of ours, whatever the proof is for.
    let relayed = ProvenCall {
        authority: Some("evil.example:7443"),
        ..CALL
    };
    assert!(!good(format!("https://evil.example:7443{PATH}"), &relayed));
    for (authority, ours) in [
        ("pdp.example", true),
        ("PDP.example:1", true),
        ("pdp.example@evil.example:7443", false),
        ("pdp.example.evil.example", false),
        ("[::1]:7443", false),
    ] {
        let call = ProvenCall {
            authority: Some(authority),
            ..CALL
        };
        let uri = format!("https://{authority}{PATH}");
        assert_eq!(good(uri, &call), ours, "{authority}");
    }
    assert_eq!(host_of("[::1]:7443"), "::1");
    assert_eq!(host_of("[::1]"), "::1");
    let empty = ProvenCall {
        authority: Some(""),
        ..CALL
    };
    assert!(!good(format!("https://{PATH}"), &empty));
}

#[test]
fn it_is_good_for_its_time_only() {
    let setup = setup();
    for (seconds, fits) in [(-300, true), (-302, false), (60, true), (62, false)] {
        let mut claims = setup.claims();
        claims["iat"] = json!(NOW.unix_timestamp() + seconds + i64::from(seconds < 0));
        let proof = setup.signed(&setup.header(), &claims);
        let verified = setup.verify(&proof, &CALL).map(drop);
        let expected = if fits { Ok(()) } else { Err(DpopError::Time) };
        assert_eq!(verified, expected, "{seconds}");
    }
    for moment in [i64::MAX, i64::MIN] {
        let error = setup.refusal_of(|c| c["iat"] = json!(moment));
        assert_eq!(error, DpopError::Claim("iat"));
    }
}

#[test]
fn a_nonce_is_good_for_five_minutes_and_for_this_replica() {
    let setup = setup();
    let with = |nonce: &str, now: OffsetDateTime| {
        let mut claims = setup.claims();
        claims["nonce"] = json!(nonce);
        claims["iat"] = json!(now.unix_timestamp());
        let proof = setup.signed(&setup.header(), &claims);
        setup.verifier.verify([proof.as_bytes()], &CALL, now)
    };
    let nonce = setup.verifier.nonce(NOW);
    let last = NOW + NONCE_LIFETIME - Duration::MILLISECOND;
    assert!(with(&nonce, last).expect("good").nonce_is_old(last));
    assert!(!with(&nonce, NOW).expect("good").nonce_is_old(NOW));
    for late in [
        NOW + NONCE_LIFETIME,
        NOW + Duration::DAY,
        NOW - Duration::HOUR,
    ] {
        assert_eq!(with(&nonce, late).err(), Some(DpopError::NonceExpired));
    }
    let other = DpopVerifier::new(&[], &[]).expect("a verifier").nonce(NOW);
    assert_eq!(with(&other, NOW).err(), Some(DpopError::NonceForeign));
    for forged in ["", "%%%", "AAAA", &nonce[1..], &"A".repeat(1000)] {
        assert_eq!(with(forged, NOW).err(), Some(DpopError::NonceForged));
    }
    let bytes = URL_SAFE_NO_PAD.decode(&nonce).expect("base64url");
    for at in 0..bytes.len() {
        let mut altered = bytes.clone();
        altered[at] ^= 1;
        let error = with(&URL_SAFE_NO_PAD.encode(altered), NOW).expect_err("refused");
        let foreign = (1..9).contains(&at);
        let expected = if foreign {
            DpopError::NonceForeign
        } else {
            DpopError::NonceForged
        };
        assert_eq!(error, expected, "byte {at}");
        assert!(error.wants_nonce());
    }
}

#[test]
fn two_proofs_or_none_are_refused() {
    let setup = setup();
    let proof = setup.proof();
    let both = [proof.as_bytes(), proof.as_bytes()];
    let error = setup.verifier.verify(both, &CALL, NOW).err();
    assert_eq!(error, Some(DpopError::Several));
    let none: [&[u8]; 0] = [];
    let error = setup.verifier.verify(none, &CALL, NOW).err();
    assert_eq!(error, Some(DpopError::Malformed));
}

#[test]
fn no_cut_or_altered_proof_passes() {
    let setup = setup();
    let proof = setup.proof();
    for at in 0..proof.len() {
        assert!(setup.verify(&proof[..at], &CALL).is_err(), "length {at}");
        let mut altered = proof.clone().into_bytes();
        altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
        let verified = setup.verifier.verify([&*altered], &CALL, NOW);
        assert!(verified.is_err(), "byte {at}");
    }
    for text in ["", ".", "..", "...", "a.b.c", &"A".repeat(5000)] {
        assert_eq!(setup.verify(text, &CALL).err(), Some(DpopError::Malformed));
    }
    let error = setup.verifier.verify([&b"\xff.\xff.\xff"[..]], &CALL, NOW);
    assert_eq!(error.err(), Some(DpopError::Malformed));
}

#[test]
fn strangers_cannot_fill_the_memory_of_those_with_a_token() {
    let verifier = verifier(2, 10);
    let setup = Setup {
        verifier,
        key: new_key(),
    };
    let call = ProvenCall {
        token: None,
        ..CALL
    };
    let spend = |number: u8, token: bool| {
        let mut claims = setup.claims();
        claims["jti"] = json!(format!("{number}"));
        if !token {
            claims.as_object_mut().expect("claims").remove("ath");
        }
        let key = new_key();
        let header = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk(&*key)});
        let proof = sign(&*key, &header.to_string(), &claims.to_string());
        let call = if token { &CALL } else { &call };
        let verified = setup.verify(&proof, call).expect("proves");
        setup.verifier.spend(verified, NOW).map(drop)
    };
    assert_eq!((spend(1, false), spend(2, false)), (Ok(()), Ok(())));
    assert_eq!(spend(3, false), Err(DpopError::Full));
    assert_eq!(spend(4, true), Ok(()));
}

proptest! {
    #[test]
    fn no_text_panics_or_passes(text in ".{0,200}", parts in "[A-Za-z0-9_-]{0,60}\\.[A-Za-z0-9_-]{0,60}\\.[A-Za-z0-9_-]{0,60}") {
        let setup = setup();
        prop_assert!(setup.verify(&text, &CALL).is_err());
        prop_assert!(setup.verify(&parts, &CALL).is_err());
    }
}
