//! What does not pass the gates never becomes active, and says where it is wrong.

use zta_client::v1;
use zta_server::policy::limits::SOURCE_BYTES_MAX;

use super::{apply, file, in_force, with};
use crate::support::Setup;
use crate::support::rpc::{allowed, call, denied, refused};

/// A candidate file, and what must be said about it: line, column, a fragment, the @id.
struct Bad {
    what: &'static str,
    text: &'static str,
    at: (u32, u32),
    says: &'static str,
    id: &'static str,
}

const BAD: [Bad; 10] = [
    Bad {
        what: "does not parse",
        text: "// a comment\n\n@id(\"x\")\npermit (principal, action resource);",
        at: (4, 27),
        says: "unexpected token",
        id: "",
    },
    Bad {
        what: "ends too early",
        text: "@id(\"x\")\npermit (principal, action, resource) when { true ",
        at: (2, 49),
        says: "unexpected end",
        id: "",
    },
    Bad {
        what: "an attribute that is not declared",
        text: "@id(\"fine\")\nforbid (principal, action, resource) when { false };\n@id(\"x\")\npermit (principal is ZTA::Agent, action == ZTA::Action::\"call_tool\", resource) when { principal.clearance > 3 };",
        at: (3, 0),
        says: "clearance",
        id: "x",
    },
    Bad {
        what: "types that do not compare",
        text: "@id(\"x\")\npermit (principal is ZTA::Agent, action == ZTA::Action::\"call_tool\", resource) when { principal.name < 3 };",
        at: (1, 0),
        says: "expected",
        id: "x",
    },
    Bad {
        what: "an optional attribute without `has`",
        text: "@id(\"x\")\npermit (principal, action == ZTA::Action::\"call_tool\", resource) when { context.request.user == \"alice\" };",
        at: (1, 0),
        says: "user",
        id: "x",
    },
    Bad {
        what: "an action that is not declared",
        text: "@id(\"x\")\npermit (principal, action == ZTA::Action::\"call_tol\", resource);",
        at: (1, 0),
        says: "call_tol",
        id: "x",
    },
    Bad {
        what: "no @id",
        text: "@id(\"fine\")\nforbid (principal, action, resource) when { false };\n\npermit (principal, action, resource);",
        at: (4, 0),
        says: "needs an @id",
        id: "",
    },
    Bad {
        what: "an @id with a line break",
        text: "@id(\"a\\nb\")\nforbid (principal, action, resource);",
        at: (1, 0),
        says: "needs an @id",
        id: "",
    },
    Bad {
        what: "an @id that another file has",
        text: "@id(\"crew.no_secrets\")\nforbid (principal, action, resource) when { false };",
        at: (1, 0),
        says: "is taken by a policy in `crew.cedar` line",
        id: "crew.no_secrets",
    },
    Bad {
        what: "a template",
        text: "@id(\"x\")\npermit (principal == ?principal, action, resource);",
        at: (0, 0),
        says: "templates",
        id: "",
    },
];

#[tokio::test]
async fn a_policy_that_does_not_pass_is_located_and_the_running_revision_stays() {
    let server = Setup::sqlite().start().await;
    let admin = server.admin();
    let research = server.agent("research", &["researcher"]).await;
    let (_, before) = in_force(&admin).await;
    for bad in BAD {
        let source = with(&admin, "zz.cedar", bad.text).await;
        let request = v1::ValidateRequest {
            source: Some(source.clone()),
            ..Default::default()
        };
        let checked = admin
            .policies()
            .validate(request)
            .await
            .expect("an answer")
            .into_inner();
        let first = checked
            .errors
            .first()
            .unwrap_or_else(|| panic!("{} passes", bad.what));
        let what = bad.what;
        assert_eq!(
            (first.file.as_str(), first.line, first.column),
            ("zz.cedar", bad.at.0, bad.at.1),
            "{what}: {first:?}"
        );
        assert!(first.message.contains(bad.says), "{what}: {first:?}");
        assert_eq!(first.policy_id, bad.id, "{what}: {first:?}");

        let status = apply(&admin, source, 1).await.expect_err(what);
        assert_eq!(
            crate::support::rpc::reason(&status),
            "POLICY_INVALID",
            "{what}"
        );
        let violations = tonic_types::StatusExt::get_details_bad_request(&status).expect("where");
        let place = format!("zz.cedar:{}:{}", bad.at.0, bad.at.1);
        assert_eq!(violations.field_violations[0].field, place, "{what}");
        assert_eq!(in_force(&admin).await, (1, before.clone()), "{what}");
    }
    allowed(&research, call("web_search")).await;
    server.assert_verifies();
}

#[tokio::test]
async fn a_schema_that_does_not_pass_is_refused() {
    let server = Setup::sqlite().start().await;
    let admin = server.admin();
    for (what, text, says) in [
        (
            "does not parse",
            "namespace Mine {\n  entity Thing\n}",
            "unexpected token",
        ),
        (
            "the built-in namespace",
            "namespace ZTA { entity Thing; }",
            "`ZTA` is built in",
        ),
        (
            "inside the built-in namespace",
            "namespace ZTA::Mine { entity Thing; }",
            "`ZTA` is built in",
        ),
        (
            "a type that is not there",
            "namespace Mine { entity Thing { owner: Nobody }; }",
            "Nobody",
        ),
        (
            "a tool without typed input",
            "namespace Mine { action sum in [ZTA::Action::\"call_tool\"] appliesTo { principal: [ZTA::Agent], resource: [ZTA::Tool], context: ZTA::CallContext }; }",
            "typed `input`",
        ),
        (
            "a tool declared twice",
            "namespace Mine { action publish_report in [ZTA::Action::\"call_tool\"] appliesTo { principal: [ZTA::Agent], resource: [ZTA::Tool], context: { zta: ZTA::Facts, request: ZTA::PepContext, input: {} } }; }",
            "declared twice",
        ),
        (
            "a context that nobody can give",
            "namespace Mine { action go appliesTo { principal: [ZTA::Agent], resource: [ZTA::Tool], context: { zta: ZTA::Facts, request: ZTA::PepContext, risk: Long } }; }",
            "requires `risk`",
        ),
        (
            "an action without the server's facts",
            "namespace Mine { action go appliesTo { principal: [ZTA::Agent], resource: [ZTA::Tool], context: { request: ZTA::PepContext } }; }",
            "no `zta`",
        ),
    ] {
        let (_, mut source) = in_force(&admin).await;
        source.schemas.push(file("zz.cedarschema", text));
        let request = v1::ValidateRequest {
            source: Some(source.clone()),
            ..Default::default()
        };
        let checked = admin
            .policies()
            .validate(request)
            .await
            .expect("an answer")
            .into_inner();
        let said: Vec<_> = checked.errors.iter().map(|e| e.message.as_str()).collect();
        assert!(said.iter().any(|m| m.contains(says)), "{what}: {said:?}");
        assert_eq!(
            refused(apply(&admin, source, 1).await),
            "POLICY_INVALID",
            "{what}"
        );
    }
    assert_eq!(in_force(&admin).await.0, 1);
}

#[tokio::test]
async fn sets_over_the_limits_are_refused() {
    let server = Setup::sqlite().start().await;
    let admin = server.admin();
    let large = format!("// {}", "x".repeat(SOURCE_BYTES_MAX));
    let source = with(&admin, "large.cedar", &large).await;
    assert_eq!(refused(apply(&admin, source, 1).await), "POLICY_INVALID");
    let (_, mut many) = in_force(&admin).await;
    many.policies
        .extend((0..10_000).map(|i| file(&format!("f{i}.cedar"), "// x")));
    assert_eq!(refused(apply(&admin, many, 1).await), "POLICY_INVALID");
    for name in ["", "a\nb", "base.cedar"] {
        let source = with(&admin, name, "// x").await;
        assert_eq!(
            refused(apply(&admin, source, 1).await),
            "POLICY_INVALID",
            "{name:?}"
        );
    }
    let long = v1::ApplyRequest {
        source: Some(in_force(&admin).await.1),
        expected_revision: 1,
        message: "x".repeat(4097),
        ..Default::default()
    };
    assert_eq!(refused(admin.policies().apply(long).await), "FIELD_INVALID");
    let nothing = v1::ApplyRequest {
        source: None,
        expected_revision: 1,
        message: String::new(),
        ..Default::default()
    };
    assert_eq!(
        refused(admin.policies().apply(nothing).await),
        "FIELD_INVALID"
    );
    assert_eq!(in_force(&admin).await.0, 1);
}

#[tokio::test]
async fn nobody_locks_himself_out() {
    let server = Setup::sqlite().start().await;
    let admin = server.admin();
    let (_, source) = in_force(&admin).await;
    let mut without = source.clone();
    without.policies.retain(|f| f.name != "admin.cedar");
    let mut forbidden = source.clone();
    forbidden.policies.push(file(
        "zz.cedar",
        "@id(\"x\")\nforbid (principal is ZTA::User, action == ZTA::Action::\"apply_policy\", resource);",
    ));
    // An error in a forbid denies: the guard must see that, too.
    let mut erring = source.clone();
    erring.policies.push(file(
        "zz.cedar",
        "@id(\"x\")\nforbid (principal, action == ZTA::Action::\"apply_policy\", resource) when { 9223372036854775807 + 1 > 0 };",
    ));
    // More names than a record can hold: permitted, and yet nothing could be done any more.
    let mut wordy = source.clone();
    let permit = |n| {
        format!(
            "@id(\"{}{n}\") permit (principal is ZTA::User, \
             action in ZTA::Action::\"administer\", resource);\n",
            "x".repeat(100)
        )
    };
    let permits: String = (0..320).map(permit).collect();
    wordy.policies.push(file("zz.cedar", &permits));
    let nothing = v1::PolicySource::default();
    for (what, candidate) in [
        ("no admin.cedar", without),
        ("forbidden", forbidden),
        ("erring", erring),
        ("wordy", wordy),
        ("nothing at all", nothing),
    ] {
        assert_eq!(
            refused(apply(&admin, candidate, 1).await),
            "LOCKOUT",
            "{what}"
        );
    }
    assert_eq!(in_force(&admin).await, (1, source.clone()));
    apply(&admin, source, 1)
        .await
        .expect("the administrator still may");
}

#[tokio::test]
async fn the_first_start_refuses_policies_that_do_not_pass() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(
        folder.path().join("x.cedar"),
        "\npermit (principal, action, resource);",
    )
    .expect("a policy");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_zta"))
        .arg("serve")
        .env_clear()
        .env("ZTA_LISTEN", "127.0.0.1:0")
        .env("ZTA_DATA_DIR", folder.path().join("data"))
        .env("ZTA_POLICY_DIR", folder.path())
        .output()
        .expect("zta");
    let said = crate::support::server::text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("x.cedar:2: a policy needs an @id"), "{said}");
}

#[tokio::test]
async fn a_new_revision_decides_the_next_call() {
    let server = Setup::sqlite().start().await;
    let admin = server.admin();
    let research = server.agent("research", &["researcher"]).await;
    assert_eq!(
        denied(&research, call("new_tool")).await,
        v1::DenyReason::NotPermitted
    );
    let permit = "@id(\"new\")\npermit (principal, action == ZTA::Action::\"call_tool\", resource == ZTA::Tool::\"new_tool\");";
    let source = with(&admin, "new.cedar", permit).await;
    apply(&admin, source, 1).await.expect("applies");
    let answer = allowed(&research, call("new_tool")).await;
    assert_eq!(
        (answer.revision, answer.policy_ids),
        (2, vec!["new".to_owned()])
    );
}
