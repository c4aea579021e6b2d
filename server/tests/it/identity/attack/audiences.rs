//! One provider knows this server by two audiences: one for people, one for services.

use serde_json::{Value, json};

use crate::identity::oidc::{AUDIENCE, issuers, login, server_with, stranger};
use crate::support::pki::now;
use crate::support::provider::Provider;
use crate::support::proxy::Proxy;
use crate::support::rpc::{refusals, refused};

const PEOPLE: &str = "https://people.example";

#[tokio::test]
async fn an_issuer_with_two_audiences_tells_people_from_services() {
    let mut provider = Provider::start();
    let people = format!(
        r#"
[[issuers]]
issuer = "{}"
audiences = ["{PEOPLE}"]
principal = "user"
algorithms = ["RS256", "ES256"]
ca_file = "{}"
"#,
        provider.issuer,
        provider.ca().display()
    );
    let server = server_with(&(issuers(&provider, "") + &people)).await;
    let proxy = Proxy::before(&server).await;
    let time = now().unix_timestamp();
    let mut token = |audience: Value| {
        let claims = json!({"aud": audience, "sub": "x", "iat": time, "exp": time + 300});
        provider.sign(json!({"typ": "at+jwt"}), claims)
    };
    let id = |answer: zta_client::v1::AuthenticateResponse| {
        let principal = answer.principal.expect("a principal");
        (principal.r#type, principal.id)
    };
    let (service, person) = (token(json!(AUDIENCE)), token(json!([PEOPLE])));
    let both = token(json!([PEOPLE, AUDIENCE]));
    let neither = token(json!("https://other.example"));
    let service = login(&mut stranger(&proxy), &service).await.expect("in");
    let person = login(&mut stranger(&proxy), &person).await.expect("in");
    let subject = format!("{}#x", provider.issuer);
    assert_eq!(id(service), ("ZTA::Workload".to_owned(), subject.clone()));
    assert_eq!(id(person), ("ZTA::User".to_owned(), subject));
    // It would be whatever its bearer likes better.
    let refusal = login(&mut stranger(&proxy), &both).await;
    assert_eq!(refused(refusal), "IDENTITY_TOKEN_INVALID");
    let refusal = login(&mut stranger(&proxy), &neither).await;
    assert_eq!(refused(refusal), "IDENTITY_TOKEN_INVALID");
    let admin = server.admin();
    assert_eq!(refusals(&admin, "more than one table").await, 1);
    assert_eq!(refusals(&admin, "another audience").await, 1);
    assert_eq!(provider.keys_asked(), 1, "keys are fetched once for both");
}
