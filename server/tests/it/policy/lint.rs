//! Lints through the doors, what the documents say, and a measurement.

use std::time::Instant;

use zta_bench::policies;
use zta_client::v1;
use zta_server::model::SourceFile;
use zta_server::policy::{PolicySource, compile, pass_gates};

use super::{apply, in_force, with};
use crate::support::rpc::{reason, refused};
use crate::support::server::text;
use crate::support::{Setup, repository};

const TWICE: &str = "@id(\"lint.all\")
permit (principal is ZTA::Agent in ZTA::Role::\"r\", action == ZTA::Action::\"call_tool\", resource);
@id(\"lint.one\")
permit (principal is ZTA::Agent in ZTA::Role::\"r\", action == ZTA::Action::\"call_tool\", resource == ZTA::Tool::\"x\");
";
const NEVER: &str = "@id(\"lint.never\")
forbid (principal, action == ZTA::Action::\"call_tool\", resource == ZTA::Tool::\"x\")
when { resource == ZTA::Tool::\"y\" };
";

#[tokio::test]
async fn a_warning_is_told_and_an_error_keeps_the_set_out() {
    let server = Setup::sqlite().start().await;
    let admin = server.admin();
    let request = v1::ApplyRequest {
        source: Some(with(&admin, "zz.cedar", TWICE).await),
        expected_revision: 1,
        ..Default::default()
    };
    let answer = admin
        .policies()
        .apply(request)
        .await
        .expect("applies")
        .into_inner();
    let told: Vec<_> = answer
        .warnings
        .iter()
        .map(|w| (w.lint.as_str(), w.policy_id.as_str()))
        .collect();
    assert_eq!(told, [("subsumed", "lint.one")]);
    let warning = &answer.warnings[0];
    assert_eq!(
        (warning.file.as_str(), warning.line),
        ("zz.cedar", 3),
        "{warning:?}"
    );
    assert!(!warning.help.is_empty());

    let source = with(&admin, "zy.cedar", NEVER).await;
    let status = apply(&admin, source, 2).await.expect_err("a contradiction");
    assert_eq!(reason(&status), "POLICY_INVALID");
    let where_ = tonic_types::StatusExt::get_details_bad_request(&status).expect("where");
    assert!(
        where_.field_violations[0].field.starts_with("zy.cedar:1"),
        "{where_:?}"
    );
    assert_eq!(in_force(&admin).await.0, 2);
    let kept = NEVER.replace("forbid", "@allow(\"contradiction\") forbid");
    let kept = with(&admin, "zy.cedar", &kept).await;
    assert_eq!(apply(&admin, kept, 2).await.expect("knowingly"), 3);
    assert_eq!(
        refused(apply(&admin, v1::PolicySource::default(), 3).await),
        "LOCKOUT"
    );

    let folder = server.folder().join("lint");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("zz.cedar"), TWICE).expect("a file");
    let output = server.zta(&["policy", "check", &folder.to_string_lossy()]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let expected = "zz.cedar:3: warning[subsumed]: `lint.one` says nothing that `lint.all` does not say already\n    help: ";
    assert!(said.starts_with(expected), "{said}");
}

/// The code blocks of a document that begin with a language.
fn blocks(document: &str, language: &str) -> Vec<String> {
    let text = std::fs::read_to_string(repository(document)).expect("a document");
    let parts = text.split("```").skip(1).step_by(2);
    let own = parts.filter_map(|part| part.strip_prefix(&format!("{language}\n")));
    own.map(str::to_owned).collect()
}

#[test]
fn what_the_documents_show_is_so() {
    const SHOP: &str = r#"
@id("shop.refunds") @obligation("log")
permit (principal is ZTA::Agent in ZTA::Role::"clerk", action == Shop::Action::"refund", resource)
when { context.input.amount.lessThanOrEqual(decimal("100.0")) };
@id("shop.owners_see")
permit (principal is ZTA::User, action == Shop::Action::"see", resource)
when { resource.owner == principal };
@id("shop.audit")
permit (principal is ZTA::User in ZTA::Role::"auditor", action == Shop::Action::"see", resource)
when { resource.total.lessThan(decimal("1000.0")) };
"#;
    const SCHEMA: &str = r#"namespace Shop {
  entity Order = { owner: ZTA::User, total: decimal };
  action refund in [ZTA::Action::"call_tool"] appliesTo {
    principal: [ZTA::Agent], resource: [ZTA::Tool],
    context: { zta: ZTA::Facts, request: ZTA::PepContext, input: { amount: decimal } },
  };
  action see appliesTo { principal: [ZTA::Agent, ZTA::User], resource: [Order], context: ZTA::CallContext };
}"#;
    let folder = tempfile::tempdir().expect("a folder");
    let write =
        |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
    write("shop.cedar", SHOP);
    write("shop.cedarschema", SCHEMA);
    let tests = blocks("docs/policy/testing.md", "yaml");
    write("shop.test.yaml", &tests[0]);
    let zta = |command: &str| {
        let mut zta = std::process::Command::new(env!("CARGO_BIN_EXE_zta"));
        let output = zta
            .env_clear()
            .args(["policy", command])
            .arg(folder.path())
            .output();
        let output = output.expect("zta");
        (output.status.code(), text(&output.stdout))
    };
    let (code, said) = zta("test");
    assert_eq!(code, Some(0), "{said}");
    let shown = &blocks("docs/policy/testing.md", "console")[0];
    assert!(shown.ends_with(&said), "{shown}\nbut\n{said}");

    let sample = blocks("docs/policy/lint.md", "cedar");
    let set = |policies: &str| {
        let policies = vec![SourceFile::new("a.cedar", policies)];
        pass_gates(&PolicySource::new(policies, Vec::new()), None, &|| false).expect("passes")
    };
    assert!(sample[0].contains("@allow") && set(&sample[0]).warnings.is_empty());
    let without = sample[0].replace("@allow(\"unbounded_permit\")", "");
    assert_eq!(set(&without).warnings[0].lint, "unbounded_permit");
}

/// What the lints add to a compile of 100,000 policies, and to a change of one file.
#[test]
#[ignore = "a measurement, not a test"]
fn lints_of_100_000_policies() {
    let files = |files: Vec<v1::SourceFile>| -> Vec<SourceFile> {
        files
            .into_iter()
            .map(|f| SourceFile::new(f.name, f.text))
            .collect()
    };
    for (what, generated) in [
        ("scoped", policies::scoped(100_000)),
        ("unscoped", policies::unscoped(100_000)),
    ] {
        let source = PolicySource::new(files(generated.policies), files(generated.schemas));
        let start = Instant::now();
        let plain = compile(&source, None).expect("compiles");
        let compiled = start.elapsed();
        let start = Instant::now();
        let linted = pass_gates(&source, None, &|| false).expect("passes");
        let gates = start.elapsed();
        let mut next = source.clone();
        let changed = next.policies[0].text().replace("planner", "planer");
        next.policies[0] = SourceFile::new(next.policies[0].name.clone(), changed);
        let start = Instant::now();
        compile(&next, Some(&linted)).expect("compiles");
        let change = start.elapsed();
        let start = Instant::now();
        pass_gates(&next, Some(&linted), &|| false).expect("passes");
        let change_gates = start.elapsed();
        println!(
            "{what}: compile {compiled:?}, with lints {gates:?}; one file of 1000: {change:?}, \
             with lints {change_gates:?}; {} warnings, {} without",
            linted.warnings.len(),
            plain.warnings.len()
        );
    }
}

#[test]
fn the_generator_is_linted_without_a_finding_that_is_none() {
    let generated = policies::scoped(1000);
    let files = |files: Vec<v1::SourceFile>| -> Vec<SourceFile> {
        files
            .into_iter()
            .map(|f| SourceFile::new(f.name, f.text))
            .collect()
    };
    let source = PolicySource::new(files(generated.policies), files(generated.schemas));
    let set = pass_gates(&source, None, &|| false).expect("passes");
    // Cells differ in what they are about: nothing in them says what another one does.
    let subsumed = set.warnings.iter().filter(|w| w.lint == "subsumed");
    for warning in subsumed {
        let ids: Vec<&str> = warning.message.split('`').skip(1).step_by(2).collect();
        let cell = |id: &str| id.rsplit_once('.').map(|(cell, _)| cell.to_owned());
        assert_eq!(cell(ids[0]), cell(ids[1]), "{warning:?}");
    }
}
