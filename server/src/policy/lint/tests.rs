//! Each lint finds what it is for, and not what is near it.

use crate::model::SourceFile;
use crate::policy::{Diagnostic, LINTS, PolicySource, pass_gates};

const SCHEMA: &str = r#"namespace Shop {
  entity Shelf;
  entity Order in [Shelf] = { total: Long, owner: ZTA::User };
  entity Forgotten = { other: Lost };
  entity Lost;
  action see, buy appliesTo {
    principal: [ZTA::Agent, ZTA::User], resource: [Order],
    context: { zta: ZTA::Facts, request: ZTA::PepContext },
  };
  action retired appliesTo {
    principal: [ZTA::Agent], resource: [Order],
    context: { zta: ZTA::Facts, request: ZTA::PepContext },
  };
}"#;

fn source(policies: &str) -> PolicySource {
    let schemas = vec![SourceFile::new("shop.cedarschema", SCHEMA)];
    PolicySource::new(vec![SourceFile::new("a.cedar", policies)], schemas)
}

/// The warnings of a set but those of its schema, or its errors.
fn lint(policies: &str) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
    let compiled = pass_gates(&source(policies), None, &|| false)?;
    let own = |d: &Diagnostic| !d.lint.starts_with("unused_");
    Ok(compiled.warnings.into_iter().filter(own).collect())
}

fn names(policies: &str) -> Vec<(String, String)> {
    let found = lint(policies).expect("no error");
    found.into_iter().map(|d| (d.policy_id, d.lint)).collect()
}

#[test]
fn each_finds_what_it_is_for_and_is_silent_about_the_rest() {
    for (lint, policy, silent) in [
        (
            "contradiction",
            r#"permit (principal is ZTA::User, action == Shop::Action::"see", resource) when { resource.total == 1 && principal.name == "a" && resource.total == 2 };"#,
            r#"permit (principal is ZTA::User, action == Shop::Action::"see", resource) when { resource.total == 1 && principal.name == "a" && resource.total == 1 };"#,
        ),
        (
            "contradiction",
            r#"permit (principal == ZTA::User::"a", action == Shop::Action::"see", resource) when { ZTA::User::"b" == principal };"#,
            r#"permit (principal == ZTA::User::"a", action == Shop::Action::"see", resource) when { resource.owner == ZTA::User::"b" };"#,
        ),
        (
            "contradiction",
            r#"permit (principal, action == Shop::Action::"see", resource) when { resource.total > 5 } unless { resource.total > 5 };"#,
            r#"permit (principal, action == Shop::Action::"see", resource) when { resource.total > 5 } unless { resource.total > 6 };"#,
        ),
        (
            "impossible",
            r#"permit (principal is ZTA::User, action == Shop::Action::"see", resource) when { false };"#,
            r#"permit (principal is ZTA::User, action == Shop::Action::"see", resource) when { true };"#,
        ),
        (
            "never_applies",
            r#"permit (principal is ZTA::User, action == Shop::Action::"retired", resource);"#,
            r#"permit (principal is ZTA::Agent, action == Shop::Action::"retired", resource);"#,
        ),
        (
            "confusable",
            "permit (principal is ZTA::User, action == Shop::Action::\"see\", resource) when { principal.name == \"\u{440}\u{430}ypal\" };",
            r#"permit (principal is ZTA::User, action == Shop::Action::"see", resource) when { principal.name == "paypal" };"#,
        ),
        (
            "unbounded_permit",
            "permit (principal, action, resource) when { principal has name };",
            "permit (principal, action, resource is Shop::Order);",
        ),
        (
            "forbid_can_error",
            r#"forbid (principal, action == Shop::Action::"see", resource) when { resource.total + 1 > 5 };"#,
            r#"forbid (principal, action == Shop::Action::"see", resource) when { resource.total > 5 };"#,
        ),
        (
            "unknown_lint",
            r#"@allow("subsumed,sumsubed") permit (principal, action == Shop::Action::"see", resource);"#,
            r#"@allow("subsumed, unbounded_permit") permit (principal, action == Shop::Action::"see", resource);"#,
        ),
    ] {
        let own = |policy: &str| names(&format!("@id(\"x\") {policy}"));
        assert_eq!(own(policy), [("x".to_owned(), lint.to_owned())], "{policy}");
        assert_eq!(own(silent), [], "{silent}");
        let allowed = format!("@allow(\"{lint}\") {policy}");
        if lint != "unknown_lint" {
            assert_eq!(own(&allowed), [], "{allowed}");
        }
    }
    for name in LINTS {
        let documented = include_str!("../../../../docs/policy/lint.md");
        assert!(
            documented.contains(&format!("| `{name}` |")),
            "{name} is in docs/policy/lint.md"
        );
    }
}

#[test]
fn a_forbid_that_never_forbids_is_an_error() {
    let policy = |before: &str| {
        format!(
            "\n@id(\"x\") {before}\nforbid (principal, action == Shop::Action::\"see\", resource)\n\
             when {{ resource.total == 1 && resource.total == 2 }};"
        )
    };
    let errors = lint(&policy("")).expect_err("a contradiction");
    let error = &errors[0];
    assert_eq!(
        (error.file.as_str(), error.line, error.policy_id.as_str()),
        ("a.cedar", 2, "x")
    );
    assert_eq!(error.lint, "contradiction");
    assert!(
        error
            .message
            .contains("`resource.total` must equal both `1` and `2`"),
        "{error:?}"
    );
    assert!(
        error.help.contains("@allow(\"contradiction\")"),
        "{error:?}"
    );
    assert_eq!(names(&policy("@allow(\"contradiction\")")), []);
}

#[test]
fn what_another_policy_says_already_is_found() {
    const WIDE: &str = r#"@id("wide") permit (principal in ZTA::Role::"r", action in [Shop::Action::"see", Shop::Action::"buy"], resource is Shop::Order) when { resource.total > 5 };"#;
    let beside = |policy: &str| names(&format!("{WIDE}\n@id(\"x\") {policy}"));
    for superfluous in [
        r#"permit (principal in ZTA::Role::"r", action == Shop::Action::"see", resource is Shop::Order) when { resource.total > 5 };"#,
        r#"permit (principal is ZTA::User in ZTA::Role::"r", action == Shop::Action::"buy", resource == Shop::Order::"1") when { principal.name == "a" } when { resource.total > 5 };"#,
        r#"permit (principal in ZTA::Role::"r", action in [Shop::Action::"buy", Shop::Action::"see"], resource is Shop::Order in Shop::Shelf::"s") when { resource.total > 5 };"#,
        // The same: the one with the greater id is reported.
        r#"permit (principal in ZTA::Role::"r", action in [Shop::Action::"see", Shop::Action::"buy"], resource is Shop::Order) when { resource.total > 5 };"#,
    ] {
        assert_eq!(
            beside(superfluous),
            [("x".to_owned(), "subsumed".to_owned())],
            "{superfluous}"
        );
    }
    for needed in [
        // Another effect, another role, more actions, a condition less, another condition,
        // another type of resource, an obligation of its own.
        r#"forbid (principal in ZTA::Role::"r", action == Shop::Action::"see", resource is Shop::Order) when { resource.total > 5 };"#,
        r#"permit (principal in ZTA::Role::"s", action == Shop::Action::"see", resource is Shop::Order) when { resource.total > 5 };"#,
        r#"permit (principal in ZTA::Role::"r", action, resource is Shop::Order) when { resource.total > 5 };"#,
        r#"permit (principal in ZTA::Role::"r", action == Shop::Action::"see", resource is Shop::Order);"#,
        r#"permit (principal in ZTA::Role::"r", action == Shop::Action::"see", resource is Shop::Order) when { resource.total > 6 };"#,
        r#"permit (principal in ZTA::Role::"r", action == Shop::Action::"see", resource) when { resource.total > 5 };"#,
        r#"@obligation("log") permit (principal in ZTA::Role::"r", action == Shop::Action::"see", resource is Shop::Order) when { resource.total > 5 };"#,
        r#"permit (principal in ZTA::Role::"r", action in [Shop::Action::"see", Shop::Action::"retired"], resource is Shop::Order) when { resource.total > 5 };"#,
    ] {
        let found = beside(needed);
        assert!(
            !found.contains(&("x".to_owned(), "subsumed".to_owned())),
            "{needed}: {found:?}"
        );
    }
    // A group of actions includes what is in it.
    let found = names(
        r#"@id("all") permit (principal in ZTA::Role::"r", action in ZTA::Action::"administer", resource);
           @id("one") permit (principal in ZTA::Role::"r", action == ZTA::Action::"apply_policy", resource);"#,
    );
    assert_eq!(found, [("one".to_owned(), "subsumed".to_owned())]);
}

#[test]
fn only_what_changed_is_looked_at_and_what_is_no_longer_true_goes() {
    const WIDE: &str = "@id(\"wide\") permit (principal in ZTA::Role::\"r\", action == Shop::Action::\"see\", resource);";
    const NARROW: &str = "@id(\"narrow\") permit (principal in ZTA::Role::\"r\", action == Shop::Action::\"see\", resource == Shop::Order::\"1\");";
    let set = |wide: Option<&str>| {
        let files = [
            Some(("narrow.cedar", NARROW)),
            wide.map(|text| ("wide.cedar", text)),
        ];
        let files = files.into_iter().flatten();
        let files = files
            .map(|(name, text)| SourceFile::new(name, text))
            .collect();
        PolicySource::new(files, source("").schemas)
    };
    let lints = |set: &crate::policy::Compiled| -> Vec<String> {
        let warnings = set.warnings.iter().filter(|w| w.lint == "subsumed");
        warnings
            .map(|w| format!("{}:{} {}", w.file, w.line, w.policy_id))
            .collect()
    };
    let both = pass_gates(&set(Some(WIDE)), None, &|| false).expect("passes");
    assert_eq!(lints(&both), ["narrow.cedar:1 narrow"]);
    // The next one knows it still, though nothing of it changed.
    let more = pass_gates(
        &set(Some(&format!("// more\n{WIDE}"))),
        Some(&both),
        &|| false,
    );
    let more = more.expect("passes");
    assert_eq!(lints(&more), ["narrow.cedar:1 narrow"]);
    let alone = pass_gates(&set(None), Some(&more), &|| false).expect("passes");
    assert_eq!(lints(&alone), Vec::<String>::new());
    // What is new and says what is there already is the one that is told.
    let twin = WIDE.replace("wide", "a_twin");
    let again = pass_gates(&set(Some(&format!("{WIDE}\n{twin}"))), Some(&both), &|| {
        false
    });
    let lints = lints(&again.expect("passes"));
    assert!(
        lints.contains(&"wide.cedar:2 a_twin".to_owned()),
        "{lints:?}"
    );
    assert!(!lints.iter().any(|l| l.ends_with(" wide")), "{lints:?}");
}

#[test]
fn what_the_schema_declares_in_vain_is_found() {
    let set = pass_gates(
        &source(
            "@id(\"x\") permit (principal is ZTA::User, action in [Shop::Action::\"see\", Shop::Action::\"buy\"], resource);",
        ),
        None,
        &|| false,
    );
    let found: Vec<_> = (set.expect("passes").warnings.into_iter())
        .map(|w| (w.lint, w.file, w.line, w.message))
        .collect();
    let at = |lint: &str, line: u32, of: &str| {
        found.iter().any(|(l, file, n, message)| {
            l == lint && file == "shop.cedarschema" && *n == line && message.contains(of)
        })
    };
    assert!(at("unused_action", 10, "retired"), "{found:?}");
    assert!(at("unused_type", 4, "Shop::Forgotten"), "{found:?}");
    assert!(at("unused_type", 5, "Shop::Lost"), "{found:?}");
    assert_eq!(found.len(), 3, "{found:?}");
}
