//! The text of a proof: its algorithm, its key, its signature.

use aws_lc_rs::hmac;

use super::*;

#[test]
fn other_algorithms_and_types_are_refused() {
    let setup = setup();
    for algorithm in [
        "none", "None", "HS256", "RS256", "ES384", "EdDSA", "es256", "",
    ] {
        let error = setup.refusal_of_header(|h| h["alg"] = json!(algorithm));
        assert_eq!(error, DpopError::Algorithm, "{algorithm}");
    }
    for kind in ["JWT", "at+jwt", "DPOP+JWT", "application/dpop+jwt", ""] {
        let error = setup.refusal_of_header(|h| h["typ"] = json!(kind));
        assert_eq!(error, DpopError::Type, "{kind}");
    }
    for (name, error) in [
        ("typ", DpopError::Type),
        ("alg", DpopError::Algorithm),
        ("jwk", DpopError::Key),
    ] {
        let missing = setup.refusal_of_header(|h| {
            h.as_object_mut().expect("a header").remove(name);
        });
        assert_eq!(missing, error);
    }
    for name in ["crit", "b64", "kid", "x5c", "jku"] {
        let error = setup.refusal_of_header(|h| h[name] = json!(["b64"]));
        assert_eq!(error, DpopError::Malformed, "{name}");
    }
    // The public key as a secret, and no signature at all.
    let mut header = setup.header();
    header["alg"] = json!("HS256");
    let text = unsigned(&header.to_string(), &setup.claims().to_string());
    let key = hmac::Key::new(hmac::HMAC_SHA256, public_key(&*setup.key).point());
    let tag = URL_SAFE_NO_PAD.encode(hmac::sign(&key, text.as_bytes()));
    let error = setup.verify(&format!("{text}.{tag}"), &CALL).err();
    assert_eq!(error, Some(DpopError::Algorithm));
    let text = unsigned(&setup.header().to_string(), &setup.claims().to_string());
    let tag = URL_SAFE_NO_PAD.encode(hmac::sign(&key, text.as_bytes()));
    for signature in ["", &tag, &"A".repeat(86)] {
        let error = setup.verify(&format!("{text}.{signature}"), &CALL).err();
        assert_eq!(error, Some(DpopError::Signature));
    }
}

#[test]
fn only_a_p256_public_key_is_taken() {
    let setup = setup();
    let with = |name: &str, value: Value| setup.refusal_of_header(|h| h["jwk"][name] = value);
    for name in ["d", "p", "q", "dp", "dq", "qi", "oth", "k"] {
        assert_eq!(with(name, json!("AA")), DpopError::PrivateKey, "{name}");
    }
    for (name, value) in [
        ("kty", json!("RSA")),
        ("kty", json!("oct")),
        ("crv", json!("P-384")),
        ("crv", json!("secp256k1")),
        ("alg", json!("ES384")),
        ("n", json!("AQAB")),
        ("x", json!("AA")),
        ("x", json!("%")),
        ("y", json!("")),
        ("y", URL_SAFE_NO_PAD.encode([7; 32]).into()),
    ] {
        assert_eq!(with(name, value.clone()), DpopError::Key, "{name} {value}");
    }
    for name in ["kty", "crv", "x", "y"] {
        assert_eq!(with(name, Value::Null), DpopError::Key, "{name}");
    }
    assert_eq!(with("x5u", json!("https://e")), DpopError::Malformed);
    let rsa = json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"});
    let error = setup.refusal_of_header(|h| h["jwk"] = rsa);
    assert_eq!(error, DpopError::Key);
    let mut header = setup.header();
    header["jwk"]["key_ops"] = json!(["verify"]);
    header["jwk"]["ext"] = json!(true);
    header["jwk"]["kid"] = json!("mine");
    header["jwk"]["alg"] = json!("ES256");
    let proof = setup.signed(&header, &setup.claims());
    assert!(setup.verify(&proof, &CALL).is_ok(), "what WebCrypto adds");
}

#[test]
fn the_key_of_another_proves_nothing() {
    let setup = setup();
    let other = new_key();
    let (header, claims) = (setup.header().to_string(), setup.claims().to_string());
    let borrowed = sign(&*other, &header, &claims);
    let error = setup.verify(&borrowed, &CALL).err();
    assert_eq!(error, Some(DpopError::Signature));
}

#[test]
fn a_member_twice_is_malformed() {
    let setup = setup();
    let (header, claims) = (setup.header().to_string(), setup.claims().to_string());
    for (name, value) in [("typ", "dpop+jwt"), ("alg", "ES256")] {
        let twice = header.replacen('{', &format!(r#"{{"{name}":"{value}","#), 1);
        let proof = sign(&*setup.key, &twice, &claims);
        assert_eq!(
            setup.verify(&proof, &CALL).err(),
            Some(DpopError::Malformed)
        );
    }
    for name in ["jti", "htm", "htu", "ath", "nonce"] {
        let twice = claims.replacen('{', &format!(r#"{{"{name}":"x","#), 1);
        let proof = sign(&*setup.key, &header, &twice);
        let error = setup.verify(&proof, &CALL).err();
        assert_eq!(error, Some(DpopError::Malformed), "{name}");
    }
}

/// (r, n - s) verifies, too: another text, and the same proof.
#[test]
fn a_signature_in_its_other_form_is_no_other_proof() {
    const N: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc,
        0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let setup = setup();
    let proof = setup.proof();
    let (text, signature) = proof.rsplit_once('.').expect("a signature");
    let mut bytes = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
    let mut borrow = 0;
    for at in (0..32).rev() {
        let difference = i32::from(N[at]) - i32::from(bytes[32 + at]) - borrow;
        borrow = i32::from(difference < 0);
        bytes[32 + at] = u8::try_from(difference.rem_euclid(256)).expect("a byte");
    }
    let other = format!("{text}.{}", URL_SAFE_NO_PAD.encode(bytes));
    assert_ne!(other, proof);
    assert!(setup.admit(&other, NOW).is_ok());
    assert_eq!(setup.admit(&proof, NOW).err(), Some(DpopError::Replayed));
}
