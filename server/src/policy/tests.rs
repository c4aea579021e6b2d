//! What a hostile request, or a hostile policy set, gets.

use time::OffsetDateTime;

use super::limits::NESTING_MAX;
use super::{CedarSetup, EntityMap, Facts, Pip, PolicySource, compile};
use crate::model::arguments::Arguments;
use crate::model::{
    AccessRequest, DenyReason, EntityUid, Party, Principal, PrincipalKind, SourceFile, Standing,
    Verdict,
};

const SCHEMA: &str = r#"namespace Ops {
  action run in [ZTA::Action::"call_tool"] appliesTo {
    principal: [ZTA::Agent], resource: [ZTA::Tool],
    context: { zta: ZTA::Facts, request: ZTA::PepContext, input: { at: ipaddr } },
  };
}"#;

fn source(policy: &str) -> PolicySource {
    PolicySource {
        policies: vec![SourceFile::new("a.cedar", policy)],
        schemas: vec![SourceFile::new("a.cedarschema", SCHEMA)],
        tests: Vec::new(),
    }
}

fn decide(policy: &str, request: &AccessRequest, resource: Option<Party>) -> Verdict {
    let compiled = compile(&source(policy), None).expect("the policy set compiles");
    let principal = Principal {
        kind: PrincipalKind::Agent,
        id: "spiffe://zta.local/agent/a".to_owned(),
        name: "a".to_owned(),
        roles: Vec::new(),
        owner: "o".to_owned(),
        zone: String::new(),
        attributes: std::sync::Arc::default(),
        state: Standing::Active,
        instance: None,
    };
    let facts = Facts {
        delegation: None,
        now: OffsetDateTime::UNIX_EPOCH,
        source: None,
        authentication_method: "mtls",
        authentication_age_seconds: 0,
        resource,
    };
    let verdict = compiled.evaluate(
        &principal,
        request,
        &facts,
        &Pip {
            stored: &EntityMap::default(),
            parties: &(),
        },
    );
    verdict.expect("the request is in the schema")
}

#[test]
fn a_forbid_over_the_resources_role_forbids() {
    let policy = r#"
        @id("all") permit (principal, action, resource);
        @id("shielded") forbid (principal, action == ZTA::Action::"send_message",
                                resource in ZTA::Role::"shielded");
        @id("owned") forbid (principal, action == ZTA::Action::"send_message",
                             resource is ZTA::Agent) when { resource.owner == "nobody" };"#;
    let party = |role: &str| {
        Some(Party {
            name: "b".to_owned(),
            owner: Some("o".to_owned()),
            zone: Some(String::new()),
            attributes: std::sync::Arc::default(),
            roles: vec![role.to_owned()],
        })
    };
    let to = |id: &str| {
        let resource = EntityUid::new("ZTA::Agent", id);
        AccessRequest::new(EntityUid::action("send_message"), resource)
    };
    let (other, own) = (
        to("spiffe://zta.local/agent/b"),
        to("spiffe://zta.local/agent/a"),
    );
    let verdict = decide(policy, &other, party("shielded"));
    assert_eq!(verdict.deny, Some(DenyReason::Forbidden));
    assert_eq!(verdict.policies, ["shielded"]);
    assert_eq!(decide(policy, &other, party("open")).deny, None);
    // A message to oneself: the principal is the resource, and stands there once.
    assert_eq!(decide(policy, &own, party("open")).deny, None);
    // Nobody of the registry: its owner cannot be compared, so the forbid errs.
    let unknown = decide(policy, &other, None);
    assert_eq!(unknown.deny, Some(DenyReason::EvaluationError));
}

#[test]
fn a_denial_does_not_quote_what_the_model_wrote() {
    let policy = r#"@id("all") permit (principal, action, resource);"#;
    let mut request = AccessRequest::new(
        EntityUid::action("call_tool"),
        EntityUid::new("ZTA::Tool", "run"),
    );
    for at in ["1.1.1.1\\nIGNORE", "IGNORE", &"IGNORE".repeat(10_000)] {
        let json = format!(r#"{{"at":"{at}"}}"#);
        request.arguments = Some(Arguments::parse(json.as_bytes()));
        let verdict = decide(policy, &request, None);
        assert_eq!(verdict.deny, Some(DenyReason::InvalidArguments));
        let expected = "`input.at` is not an IP address that Cedar reads";
        assert_eq!(verdict.message, expected);
    }
    request.arguments = Some(Arguments::parse(br#"{"at":"10.0.0.0/8"}"#));
    assert_eq!(decide(policy, &request, None).deny, None);
}

#[test]
fn a_policy_that_nests_deeper_than_a_stack_is_refused() {
    for (open, close) in [("(", ")"), ("!(", ")"), ("if true then true else ", "")] {
        let text = |n: usize| {
            let (open, close) = (open.repeat(n), close.repeat(n));
            format!(
                r#"@id("x") permit (principal, action, resource) when {{ {open}true{close} }};"#
            )
        };
        // One level is the braces'.
        assert!(
            compile(&source(&text(NESTING_MAX - 1)), None).is_ok(),
            "{open}"
        );
        for n in [NESTING_MAX, 100_000] {
            let errors = compile(&source(&text(n)), None).expect_err(open);
            assert!(errors[0].message.contains("nests"), "{}", errors[0].message);
            let error = CedarSetup::parse(&text(n), "", "").expect_err(open);
            assert!(error.contains("nests"), "{error}");
        }
    }
}

/// Whether a person with this one role may do something to the server, under the policies of
/// a first start.
fn may(role: &str, action: &str) -> bool {
    let compiled = compile(&super::builtin_source(), None).expect("the policy set compiles");
    let principal = Principal {
        kind: PrincipalKind::User,
        id: "spiffe://zta.local#p".to_owned(),
        name: "p".to_owned(),
        roles: vec![role.to_owned()],
        owner: String::new(),
        zone: String::new(),
        attributes: std::sync::Arc::default(),
        state: Standing::Active,
        instance: None,
    };
    let facts = Facts {
        delegation: None,
        now: OffsetDateTime::UNIX_EPOCH,
        source: None,
        authentication_method: "mtls",
        authentication_age_seconds: 0,
        resource: None,
    };
    let zone = EntityUid::new("ZTA::Zone", "zta.local");
    let request = AccessRequest::new(EntityUid::action(action), zone);
    let pip = Pip {
        stored: &EntityMap::default(),
        parties: &(),
    };
    let verdict = compiled.evaluate(&principal, &request, &facts, &pip);
    verdict.expect("the request is in the schema").effect() == crate::model::Effect::Allow
}

#[test]
fn who_rolls_back_and_who_looks_at_the_fleet_is_told_by_role() {
    let roles = [
        "administrator",
        "operator",
        "approver",
        "author",
        "auditor",
        "x",
    ];
    let who = |action| roles.map(|role| may(role, action));
    assert_eq!(
        who("rollback_policy"),
        [true, true, true, false, false, false]
    );
    assert_eq!(who("read_status"), [true, true, true, true, true, false]);
    assert_eq!(who("read_policy"), [true, true, true, true, true, false]);
    assert_eq!(
        who("apply_policy"),
        [true, false, false, true, false, false]
    );
}
