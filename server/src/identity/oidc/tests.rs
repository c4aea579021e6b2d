use std::sync::Arc;

use aws_lc_rs::hmac;
use serde_json::json;
use time::macros::datetime;

use super::*;
use crate::identity::public_key::PublicKey;
use crate::identity::token::fixed_signature;
use crate::keys::{KeyAlgorithm, SigningKey, SoftwareKey};

const NOW: OffsetDateTime = datetime!(2026-11-22 12:00:00.75 UTC);
const ISSUER: &str = "https://login.example/tenant";

struct Setup {
    key: Arc<dyn SigningKey>,
    rules: IssuerRules,
    keys: KeySet,
}

fn new_key() -> Arc<dyn SigningKey> {
    Arc::new(SoftwareKey::generate(KeyAlgorithm::EcdsaP256).expect("a key"))
}

fn public_key(key: &dyn SigningKey) -> PublicKey {
    PublicKey::from_spki(key.public_key_spki_der()).expect("P-256")
}

fn jwk(key: &dyn SigningKey, id: &str) -> Value {
    let public = public_key(key);
    let (x, y) = public.point()[1..].split_at(32);
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    json!({"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": id, "use": "sig", "alg": "ES256"})
}

fn key_set(jwks: &[Value]) -> KeySet {
    KeySet::read(json!({"keys": jwks}).to_string().as_bytes()).expect("keys")
}

fn names<const N: usize>(names: [&str; N]) -> Vec<String> {
    names.map(str::to_owned).to_vec()
}

fn setup() -> Setup {
    let key = new_key();
    let role = |group: &str, role: &str| (group.to_owned(), names([role]));
    Setup {
        keys: key_set(&[jwk(&*key, "one")]),
        key,
        rules: IssuerRules {
            issuer: ISSUER.to_owned(),
            audiences: names(["zta", "https://zta.example"]),
            algorithms: names(["RS256", "ES256"]),
            token_types: Vec::new(),
            kind: PrincipalKind::User,
            id_claim: "sub".to_owned(),
            name_claim: Some("name".to_owned()),
            groups_claim: Some("groups".to_owned()),
            roles: BTreeMap::from([role("g-1", "researcher"), role("g-2", "admin")]),
            attributes: BTreeMap::from([
                ("department".to_owned(), "dept".to_owned()),
                ("cleared".to_owned(), "/extra/cleared".to_owned()),
            ]),
            required_claims: BTreeMap::from([("tid".to_owned(), "tenant".to_owned())]),
            age_max: Duration::HOUR,
        },
    }
}

fn header() -> Value {
    json!({"alg": "ES256", "typ": "JWT", "kid": "one"})
}

fn claims() -> Value {
    let now = NOW.unix_timestamp();
    json!({
        "iss": ISSUER, "aud": "zta", "sub": "anna", "iat": now - 10, "exp": now + 300,
        "tid": "tenant", "name": "Anna", "groups": ["g-1", "unlisted"],
    })
}

fn unsigned(header: &Value, claims: &Value) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", encode(header), encode(claims))
}

fn sign(key: &dyn SigningKey, header: &Value, claims: &Value) -> String {
    let text = unsigned(header, claims);
    let signature = key.sign(text.as_bytes()).expect("signs");
    let signature = fixed_signature(&signature).expect("DER");
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

impl Setup {
    fn verify(&self, token: &str) -> Result<VouchedIdentity, OidcError> {
        verify(token, &self.rules, &self.keys, NOW)
    }

    fn with(&self, alter: impl FnOnce(&mut Value)) -> Result<VouchedIdentity, OidcError> {
        let mut claims = claims();
        alter(&mut claims);
        self.verify(&sign(&*self.key, &header(), &claims))
    }

    fn with_header(&self, alter: impl FnOnce(&mut Value)) -> Result<VouchedIdentity, OidcError> {
        let mut header = header();
        alter(&mut header);
        self.verify(&sign(&*self.key, &header, &claims()))
    }
}

fn remove(value: &mut Value, name: &str) {
    value.as_object_mut().expect("an object").remove(name);
}

fn named(name: &str) -> OidcError {
    OidcError::Claim(name.to_owned())
}

#[test]
fn a_token_of_a_configured_issuer_proves_its_subject() {
    let setup = setup();
    let found = setup.with(|_| {}).expect("proves");
    assert_eq!(found.id, "https://login.example/tenant#anna");
    assert_eq!((found.kind, &*found.name), (PrincipalKind::User, "Anna"));
    assert_eq!(found.roles, ["researcher"], "the unlisted group gives none");
    assert_eq!(
        found.expire_time.unix_timestamp(),
        NOW.unix_timestamp() + 300
    );
    let several = setup.with(|c| c["aud"] = json!(["other", "https://zta.example"]));
    assert!(several.is_ok());
    let fraction = setup.with(|c| c["exp"] = json!(NOW.unix_timestamp() as f64 + 9.5));
    let expire_time = fraction.expect("proves").expire_time;
    assert_eq!(expire_time.unix_timestamp(), NOW.unix_timestamp() + 9);
    let nameless = setup.with(|c| remove(c, "name")).expect("proves");
    assert_eq!(nameless.name, "anna");
}

#[test]
fn another_issuer_or_audience_is_refused() {
    let setup = setup();
    for issuer in ["https://login.example/tenant/", "https://evil.example", "x"] {
        assert_eq!(
            setup.with(|c| c["iss"] = json!(issuer)),
            Err(OidcError::Issuer)
        );
    }
    for audience in [json!("other"), json!(["a", "b"]), json!([]), json!("ZTA")] {
        assert_eq!(
            setup.with(|c| c["aud"] = audience),
            Err(OidcError::Audience)
        );
    }
    for audience in [json!(7), json!({}), json!(["zta", 7]), Value::Null] {
        assert_eq!(setup.with(|c| c["aud"] = audience), Err(named("aud")));
    }
    let token = sign(&*setup.key, &header(), &claims());
    assert_eq!(claimed_issuer(&token), Ok(ISSUER.to_owned()));
    for no_token in ["", "a.b", "a.b.c", "..", "a.b.c.d", &"A".repeat(40_000)] {
        assert_eq!(claimed_issuer(no_token), Err(OidcError::Malformed));
        assert_eq!(setup.verify(no_token).err(), Some(OidcError::Malformed));
    }
}

#[test]
fn each_claim_is_required() {
    let setup = setup();
    for name in ["iss", "aud", "sub", "exp", "iat", "tid"] {
        assert_eq!(setup.with(|c| remove(c, name)), Err(named(name)));
        if name != "tid" {
            assert_eq!(setup.with(|c| c[name] = Value::Null), Err(named(name)));
        }
    }
    for bad in [json!(""), json!(7), json!("a\nb"), json!("x".repeat(257))] {
        assert_eq!(setup.with(|c| c["sub"] = bad), Err(named("sub")));
    }
    for bad in [json!("soon"), json!(1e300), json!(i64::MAX), json!([])] {
        assert_eq!(setup.with(|c| c["exp"] = bad), Err(named("exp")));
    }
    assert_eq!(setup.with(|c| c["nbf"] = json!("now")), Err(named("nbf")));
    let value = OidcError::ClaimValue("tid".to_owned());
    for other in [json!("other"), json!(7), json!(["tenant"]), Value::Null] {
        assert_eq!(setup.with(|c| c["tid"] = other), Err(value.clone()));
    }
    let mut by_oid = setup;
    by_oid.rules.id_claim = "oid".to_owned();
    assert_eq!(by_oid.with(|_| {}), Err(named("oid")));
    let found = by_oid.with(|c| c["oid"] = json!("o-1")).expect("proves");
    assert_eq!(found.id, format!("{ISSUER}#o-1"));
    let without_subject = by_oid.with(|c| {
        c["oid"] = json!("o-1");
        remove(c, "sub");
    });
    assert_eq!(without_subject, Err(named("sub")));
}

#[test]
fn it_is_good_for_its_time_only() {
    let setup = setup();
    let now = NOW.unix_timestamp();
    let at = |name: &str, time: i64| setup.with(|c| c[name] = json!(time)).map(drop);
    assert_eq!(at("exp", now), Err(OidcError::Expired));
    assert_eq!(at("exp", now + 1), Ok(()));
    assert_eq!(at("nbf", now + 30), Ok(()));
    assert_eq!(at("nbf", now + 32), Err(OidcError::NotYetValid));
    assert_eq!(at("iat", now + 32), Err(OidcError::NotYetValid));
    assert_eq!(at("iat", now - 3_599), Ok(()));
    assert_eq!(at("iat", now - 3_601), Err(OidcError::TooOld));
    // Expired is said of what is good otherwise, and of nothing else.
    let both = setup.with(|c| {
        c["exp"] = json!(now - 1);
        c["aud"] = json!("other");
    });
    assert_eq!(both, Err(OidcError::Audience));
}

#[test]
fn other_algorithms_types_and_keys_are_refused() {
    let setup = setup();
    for algorithm in ["none", "HS256", "PS256", "EdDSA", "es256", ""] {
        let refused = setup.with_header(|h| h["alg"] = json!(algorithm));
        assert_eq!(refused, Err(OidcError::Algorithm), "{algorithm}");
    }
    // Configured for the issuer, and not of this key.
    let refused = setup.with_header(|h| h["alg"] = json!("RS256"));
    assert_eq!(refused, Err(OidcError::KeyUnknown));
    assert_eq!(
        setup.with_header(|h| remove(h, "kid")),
        Err(OidcError::KeyMissing)
    );
    let refused = setup.with_header(|h| h["kid"] = json!("two"));
    assert_eq!(refused, Err(OidcError::KeyUnknown));
    assert!(refused.expect_err("refused").wants_keys());
    let refused = setup.with_header(|h| h["crit"] = json!(["exp"]));
    assert_eq!(refused, Err(OidcError::Malformed));

    let mut header = header();
    header["alg"] = json!("HS256");
    let text = unsigned(&header, &claims());
    let public = public_key(&*setup.key);
    let key = hmac::Key::new(hmac::HMAC_SHA256, public.point());
    let tag = URL_SAFE_NO_PAD.encode(hmac::sign(&key, text.as_bytes()));
    assert_eq!(
        setup.verify(&format!("{text}.{tag}")),
        Err(OidcError::Algorithm)
    );
    // Even where somebody configures it.
    let mut open = setup;
    open.rules.algorithms = names(["HS256", "none"]);
    assert_eq!(
        open.verify(&format!("{text}.{tag}")),
        Err(OidcError::Algorithm)
    );
    let none = open.with_header(|h| h["alg"] = json!("none"));
    assert_eq!(none, Err(OidcError::Algorithm));
}

#[test]
fn the_signature_of_another_key_is_none() {
    let setup = setup();
    let other = sign(&*new_key(), &header(), &claims());
    assert_eq!(setup.verify(&other), Err(OidcError::Signature));
    let token = sign(&*setup.key, &header(), &claims());
    let (text, signature) = token.rsplit_once('.').expect("a signature");
    assert_eq!(setup.verify(&format!("{text}.")), Err(OidcError::Signature));
    for at in 0..text.len() {
        let mut altered = text.to_owned().into_bytes();
        altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
        let altered = String::from_utf8(altered).expect("ASCII");
        assert!(
            setup.verify(&format!("{altered}.{signature}")).is_err(),
            "byte {at}"
        );
    }
}

#[test]
fn an_id_token_is_no_access_token_where_types_are_configured() {
    let mut setup = setup();
    setup.rules.token_types = names(["at+jwt"]);
    for kind in [json!("JWT"), json!(""), Value::Null] {
        assert_eq!(setup.with_header(|h| h["typ"] = kind), Err(OidcError::Type));
    }
    assert_eq!(
        setup.with_header(|h| remove(h, "typ")),
        Err(OidcError::Type)
    );
    for kind in ["at+jwt", "AT+JWT", "application/at+jwt"] {
        assert!(setup.with_header(|h| h["typ"] = json!(kind)).is_ok());
    }
}

#[test]
fn groups_give_the_roles_that_are_listed_or_the_login_is_refused() {
    let mut setup = setup();
    let roles =
        |setup: &Setup, groups: Value| setup.with(|c| c["groups"] = groups).map(|i| i.roles);
    let both = json!(["g-2", "g-1", "g-2", "admin", "researcher"]);
    assert_eq!(roles(&setup, both), Ok(names(["admin", "researcher"])));
    assert_eq!(roles(&setup, json!("g-2")), Ok(names(["admin"])));
    assert_eq!(roles(&setup, json!([])), Ok(Vec::new()));
    assert_eq!(
        setup.with(|c| remove(c, "groups")).map(|i| i.roles),
        Ok(Vec::new())
    );
    for bad in [json!(7), json!([7]), json!({"a": "g-2"}), Value::Null] {
        assert_eq!(roles(&setup, bad), Err(named("groups")));
    }
    let many = roles(&setup, json!(vec!["x"; GROUPS_MAX + 1]));
    assert_eq!(many, Err(OidcError::Groups));
    // What Entra ID says of a user with more groups than fit.
    let elsewhere = setup.with(|c| {
        remove(c, "groups");
        c["_claim_names"] = json!({"groups": "src1"});
    });
    assert_eq!(elsewhere, Err(OidcError::Groups));
    assert_eq!(
        setup.with(|c| c["hasgroups"] = json!(true)),
        Err(OidcError::Groups)
    );
    setup.rules.groups_claim = Some("/realm_access/roles".to_owned());
    let nested = setup.with(|c| c["realm_access"] = json!({"roles": ["g-1"]}));
    assert_eq!(nested.map(|i| i.roles), Ok(names(["researcher"])));
    // A claim that says roles outright gives none.
    let assigned = setup.with(|c| c["roles"] = json!(["admin"]));
    assert_eq!(assigned.map(|i| i.roles), Ok(Vec::new()));
}

#[test]
fn a_rotated_key_is_found_among_the_new_ones() {
    let mut setup = setup();
    let fresh = new_key();
    let mut header = header();
    header["kid"] = json!("two");
    let token = sign(&*fresh, &header, &claims());
    assert_eq!(setup.verify(&token), Err(OidcError::KeyUnknown));
    setup.keys = key_set(&[jwk(&*setup.key, "one"), jwk(&*fresh, "two")]);
    assert!(setup.verify(&token).is_ok());
    assert!(setup.with(|_| {}).is_ok(), "the old one still serves");
}

#[test]
fn listed_claims_become_attributes_and_no_others() {
    let setup = setup();
    let found = setup.with(|c| {
        c["dept"] = json!("finance");
        c["cleared"] = json!(true);
        c["extra"] = json!({"cleared": false});
    });
    let pairs = |found: &VouchedIdentity| -> Vec<(String, String)> {
        found.attributes.clone().into_iter().collect()
    };
    let text = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let found = found.expect("proves");
    let expected = [("cleared", "false"), ("department", "finance")].map(text);
    assert_eq!(pairs(&found), expected);
    let number = setup.with(|c| c["dept"] = json!(7)).expect("proves");
    assert_eq!(pairs(&number), [("department", "7")].map(text));
    let absent = setup.with(|c| c["dept"] = json!(null)).expect("proves");
    assert!(absent.attributes.is_empty());
    for bad in [
        json!(["finance"]),
        json!({}),
        json!(""),
        json!("a\nb"),
        json!("x".repeat(257)),
    ] {
        assert_eq!(
            setup.with(|c| c["dept"] = bad.clone()),
            Err(named("dept")),
            "{bad}"
        );
    }
}
