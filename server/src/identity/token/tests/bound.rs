//! Tokens bound to a key, and tokens of those who act for another.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::identity::possession::ProvenKey;

/// A key whose proof covers this token.
fn proven(token: &str) -> ProvenKey {
    let key = new_key();
    let public_key = PublicKey::from_spki(key.public_key_spki_der()).expect("P-256");
    ProvenKey {
        thumbprint: public_key.thumbprint(),
        public_key,
        token_sha256: Some(sha256(token.as_bytes())),
    }
}

#[test]
fn a_token_bound_to_a_key_needs_the_proof_of_that_key_for_this_token() {
    let setup = setup();
    let mut key = proven("");
    let grant = Grant {
        confirmation: Confirmation::Key(key.thumbprint),
        ..setup.grant()
    };
    let token = setup.authority.issue(&grant, NOW).expect("a token").token;
    let verify = |key: &ProvenKey| setup.authority.verify(&token, &Possession::Key(key), NOW);
    assert_eq!(verify(&key), Err(TokenError::Binding), "of another token");
    key.token_sha256 = None;
    assert_eq!(verify(&key), Err(TokenError::Binding), "of no token");
    key.token_sha256 = Some(sha256(token.as_bytes()));
    assert!(verify(&key).is_ok());
    assert_eq!(
        verify(&proven(&token)),
        Err(TokenError::Binding),
        "another key"
    );
    // Neither kind of binding stands for the other, remembered or not.
    assert_eq!(setup.verify(&token, NOW), Err(TokenError::Binding));
    let bound_to_certificate = setup.issue();
    let key = proven(&bound_to_certificate);
    let verified = setup
        .authority
        .verify(&bound_to_certificate, &Possession::Key(&key), NOW);
    assert_eq!(verified, Err(TokenError::Binding));
}

#[test]
fn a_chain_of_actors_is_read_as_it_was_granted() {
    let setup = setup();
    let party = |name: &str| {
        let id = format!("spiffe://zta.local/agent/{name}");
        TokenParty::registered(PrincipalKind::Agent, &id)
    };
    let grant = Grant {
        subject: TokenParty {
            kind: PrincipalKind::User,
            id: "https://idp.example#alice".to_owned(),
            name: "alice".to_owned(),
            roles: vec!["analyst".to_owned()],
            attributes: Arc::new(BTreeMap::from([("team".to_owned(), "crew".to_owned())])),
        },
        actors: vec![party("research"), party("planner")],
        scope: vec!["call_tool:web_search".to_owned(), "read".to_owned()],
        ..setup.grant()
    };
    let issued = setup.authority.issue(&grant, NOW).expect("a token");
    let token = setup.verify(&issued.token, NOW).expect("valid");
    assert_eq!(token.subject, grant.subject);
    assert_eq!(token.actors, grant.actors);
    assert_eq!(token.scope, grant.scope);
    assert_eq!(token.holder(), &grant.actors[0]);
    let long = Grant {
        actors: vec![party("research"); 17],
        ..grant
    };
    let issued = setup.authority.issue(&long, NOW).expect("a token");
    assert_eq!(
        setup.verify(&issued.token, NOW),
        Err(TokenError::Claim("act"))
    );
    let huge = Grant {
        scope: vec!["x".repeat(TOKEN_LEN_MAX)],
        ..setup.grant()
    };
    let refused = setup.authority.issue(&huge, NOW).expect_err("too large");
    assert_eq!(refused, TokenError::TooLarge);
}

#[test]
fn what_is_bound_to_nothing_is_for_the_development_mode() {
    let mut setup = setup();
    let unbound = Grant {
        confirmation: Confirmation::Nothing,
        ..setup.grant()
    };
    let refused = setup.authority.issue(&unbound, NOW).map(drop);
    assert_eq!(refused, Err(TokenError::Unbound), "not even made");
    setup.authority = setup.authority.taking_unbound(true);
    let token = setup.authority.issue(&unbound, NOW).expect("a token").token;
    let nothing = Possession::Nothing;
    assert!(setup.authority.verify(&token, &nothing, NOW).is_ok());
    assert_eq!(setup.verify(&token, NOW), Err(TokenError::Binding));
    let bound = setup.issue();
    let stolen = setup.authority.verify(&bound, &nothing, NOW);
    assert_eq!(
        stolen,
        Err(TokenError::Binding),
        "nothing proves no certificate"
    );
    // Remembered or not, and whatever is proved.
    setup.authority = setup.authority.taking_unbound(false);
    for _ in 0..2 {
        let refused = setup.authority.verify(&token, &nothing, NOW);
        assert_eq!(refused, Err(TokenError::Unbound));
        assert_eq!(setup.verify(&token, NOW), Err(TokenError::Unbound));
    }
}
