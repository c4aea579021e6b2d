//! Tests are a part of the policy set, and a gate: what fails its own tests is never in
//! force. And the command that runs them.

use serde_json::Value;
use zta_client::{Client, v1};

use super::{apply, file, in_force};
use crate::support::rpc::{allowed, call, refused};
use crate::support::server::text;
use crate::support::{Database, Server, Setup, repository};

const TESTS: &str = "principals:
  research: {agent: spiffe://zta.local/agent/research, roles: [researcher]}
cases:
  - name: research searches
    principal: research
    tool: web_search
    expect: {decision: allow, policies: [crew.research_searches]}
";
const FORBID: &str = "@id(\"test.no_search\")\nforbid (principal, action == ZTA::Action::\"call_tool\", resource == ZTA::Tool::\"web_search\");\n";

fn put(policies: Vec<v1::SourceFile>, tests: Vec<v1::SourceFile>) -> v1::PolicyPatch {
    v1::PolicyPatch {
        put_policies: policies,
        put_tests: tests,
        ..Default::default()
    }
}

async fn apply_patch(
    admin: &Client,
    patch: v1::PolicyPatch,
    expected_revision: u64,
) -> Result<u64, tonic::Status> {
    let request = v1::ApplyRequest {
        patch: Some(patch),
        expected_revision,
        ..Default::default()
    };
    let answer = admin.policies().apply(request).await?.into_inner();
    Ok(answer.revision.expect("a revision").number)
}

#[tokio::test]
async fn what_fails_its_own_tests_is_never_in_force() {
    for database in Database::both().await {
        let server = Setup::on(database).start().await;
        let admin = server.admin();
        let research = server.agent("research", &["researcher"]).await;
        let tests = || vec![file("crew.test.yaml", TESTS)];
        assert_eq!(
            apply_patch(&admin, put(vec![], tests()), 1)
                .await
                .expect("applies"),
            2
        );
        let (number, source) = in_force(&admin).await;
        assert_eq!(source.tests, tests(), "they come back with the revision");

        // A change elsewhere fails them: by a patch, as a whole, checked and proposed.
        let bad = put(vec![file("zz.cedar", FORBID)], vec![]);
        let status = apply_patch(&admin, bad.clone(), number)
            .await
            .expect_err("fails");
        assert_eq!(crate::support::rpc::reason(&status), "POLICY_INVALID");
        let violations = tonic_types::StatusExt::get_details_bad_request(&status).expect("where");
        assert_eq!(violations.field_violations[0].field, "crew.test.yaml:4:5");
        let mut whole = source.clone();
        whole.policies.push(file("zz.cedar", FORBID));
        assert_eq!(
            refused(apply(&admin, whole, number).await),
            "POLICY_INVALID"
        );
        let propose = v1::ProposeRequest {
            patch: Some(bad.clone()),
            expected_revision: number,
            ..Default::default()
        };
        assert_eq!(
            refused(admin.policies().propose(propose).await),
            "POLICY_INVALID"
        );
        let validate = v1::ValidateRequest {
            patch: Some(bad.clone()),
            ..Default::default()
        };
        let said = admin
            .policies()
            .validate(validate)
            .await
            .expect("an answer")
            .into_inner();
        let error = &said.errors[0];
        let place = (error.file.as_str(), error.line, error.column);
        assert_eq!(place, ("crew.test.yaml", 4, 5), "{error:?}");
        for part in [
            "`research searches`",
            "expected allow",
            "FORBIDDEN",
            "test.no_search",
        ] {
            assert!(error.message.contains(part), "{part}: {}", error.message);
        }
        assert!(!error.help.is_empty());

        // So does a test that is not understood, in the candidate's own words.
        let odd = vec![file("odd.test.yaml", "cases:\n  - nam: x\n")];
        let status = apply_patch(&admin, put(vec![], odd), number)
            .await
            .expect_err("unknown");
        let violations = tonic_types::StatusExt::get_details_bad_request(&status).expect("where");
        assert_eq!(violations.field_violations[0].field, "odd.test.yaml:2:5");

        assert_eq!(
            in_force(&admin).await,
            (number, source),
            "the running one stays"
        );
        allowed(&research, call("web_search")).await;

        // With the test changed alongside, it passes.
        let changed = TESTS.replace(
            "decision: allow, policies: [crew.research_searches]",
            "decision: deny",
        );
        let patch = put(
            vec![file("zz.cedar", FORBID)],
            vec![file("crew.test.yaml", &changed)],
        );
        assert_eq!(
            apply_patch(&admin, patch, number).await.expect("applies"),
            3
        );
        // A file that goes takes its tests with it.
        let gone = v1::PolicyPatch {
            delete_files: vec!["crew.test.yaml".to_owned(), "zz.cedar".to_owned()],
            ..Default::default()
        };
        assert_eq!(apply_patch(&admin, gone, 3).await.expect("applies"), 4);
        assert!(in_force(&admin).await.1.tests.is_empty());
        server.assert_verifies();
    }
}

#[tokio::test]
async fn the_digest_covers_the_tests() {
    let server = Setup::sqlite().start().await;
    let admin = server.admin();
    let digest = async |number| {
        let request = v1::GetRevisionRequest {
            number,
            digests_only: true,
        };
        let answer = admin.policies().get_revision(request).await.expect("one");
        answer.into_inner().revision.expect("one").content_sha256
    };
    apply_patch(
        &admin,
        put(vec![], vec![file("a.test.yaml", "cases: []\n")]),
        1,
    )
    .await
    .expect("applies");
    apply_patch(
        &admin,
        put(vec![], vec![file("a.test.yaml", "cases: [] #\n")]),
        2,
    )
    .await
    .expect("applies");
    let digests = [digest(1).await, digest(2).await, digest(3).await];
    assert!(
        digests[0] != digests[1] && digests[1] != digests[2],
        "{digests:?}"
    );
}

#[tokio::test]
async fn tests_are_run_on_the_server_without_a_change() {
    let server = Setup::sqlite().start().await;
    let admin = server.admin();
    apply_patch(&admin, put(vec![], vec![file("crew.test.yaml", TESTS)]), 1)
        .await
        .expect("applies");
    let test = async |request: v1::TestRequest| {
        admin
            .policies()
            .test(request)
            .await
            .map(tonic::Response::into_inner)
    };
    let ran = test(v1::TestRequest::default())
        .await
        .expect("the one in force");
    assert_eq!((ran.results.len(), ran.errors.len()), (1, 0));
    let result = &ran.results[0];
    assert_eq!(
        (result.file.as_str(), result.line, result.column),
        ("crew.test.yaml", 4, 5)
    );
    assert!(
        result.mismatches.is_empty() && result.effect() == v1::Effect::Allow,
        "{result:?}"
    );
    assert_eq!(result.policy_ids, ["crew.research_searches"]);
    let coverage = ran.coverage.expect("coverage");
    assert_eq!((coverage.policies_covered, coverage.policies), (1, 12));
    assert_eq!(coverage.missing_total, 11);

    let patch = put(vec![file("zz.cedar", FORBID)], vec![]);
    let candidate = || v1::TestRequest {
        patch: Some(patch.clone()),
        ..Default::default()
    };
    let ran = test(candidate()).await.expect("a candidate");
    let result = &ran.results[0];
    assert_eq!(result.reason(), v1::DenyReason::Forbidden);
    assert_eq!(result.mismatches[0].what, "decision");
    // Other tests in place of its own.
    let other = v1::TestRequest {
        tests: vec![file(
            "x.test.yaml",
            &TESTS.replace(
                "{decision: allow, policies: [crew.research_searches]}",
                "{decision: deny}",
            ),
        )],
        ..candidate()
    };
    let ran = test(other).await.expect("other tests");
    assert!(ran.results[0].mismatches.is_empty() && ran.results[0].file == "x.test.yaml");
    // What does not compile, or a test that cannot be read, is said.
    let broken = v1::TestRequest {
        patch: Some(put(vec![file("zz.cedar", "permit")], vec![])),
        ..Default::default()
    };
    let ran = test(broken).await.expect("an answer");
    assert_eq!(
        (ran.errors[0].file.as_str(), ran.results.len()),
        ("zz.cedar", 0)
    );
    assert_eq!(in_force(&admin).await.0, 2, "nothing changed");
    // It is an act like any other: permitted, and on record.
    let research = server.agent("research", &["researcher"]).await;
    let denied = research.policies().test(v1::TestRequest::default()).await;
    assert_eq!(refused(denied), "NOT_PERMITTED");
    server.assert_verifies();
}

fn run(server: &Server, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = server.zta(arguments);
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[tokio::test]
async fn the_command_line_runs_tests_here_and_on_the_server() {
    let server = Setup::sqlite().start().await;
    let folder = server.folder().join("mine");
    std::fs::create_dir(&folder).expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("a file");
    for name in ["crew.cedar", "schema.cedarschema"] {
        let path = repository("policies/examples/research_crew").join(name);
        std::fs::copy(path, folder.join(name)).expect("a copy");
    }
    for name in ["admin.cedar", "base.cedar"] {
        std::fs::copy(repository("policies").join(name), folder.join(name)).expect("a copy");
    }
    write("crew.test.yaml", TESTS);
    let mine = folder.to_string_lossy().into_owned();
    let junit = server
        .folder()
        .join("junit.xml")
        .to_string_lossy()
        .into_owned();

    let (code, said, error) = run(&server, &["policy", "test", &mine]);
    assert_eq!(code, Some(0), "{said}{error}");
    assert!(
        said.starts_with("1 tests: 1 pass, 0 fail\n1 of 12 policies"),
        "{said}"
    );
    // On the server: the files against the revision in force.
    let (code, said, error) = run(&server, &["policy", "test", "--on-server", &mine, "--json"]);
    assert_eq!(code, Some(0), "{said}{error}");
    let answer: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(
        (&answer["tests"], &answer["failed"]),
        (&1.into(), &0.into())
    );
    assert_eq!(answer["results"][0]["decision"], "allow");

    let (code, said, error) = run(&server, &["policy", "test", &mine, "--coverage-min", "50"]);
    assert_eq!(code, Some(1), "{said}{error}");
    assert!(error.contains("at least 50 are asked for"), "{error}");
    assert!(
        said.contains("crew.no_secrets: its scope held in no test"),
        "{said}"
    );
    assert!(
        said.contains("never asked: context.input.collection == \"secret\""),
        "{said}"
    );

    write("zz.cedar", FORBID);
    let (code, said, error) = run(&server, &["policy", "test", &mine, "--junit", &junit]);
    assert_eq!(code, Some(1), "{said}{error}");
    let expected = "crew.test.yaml:4:5: FAIL research searches
    decision  expected allow
              came     deny (FORBIDDEN)
    policies  expected crew.research_searches
              came     test.no_search
    by      test.no_search
    because `call_tool` on `web_search` is forbidden by `test.no_search`
1 tests: 0 pass, 1 fail\n";
    assert!(said.starts_with(expected), "{said}");
    let xml = std::fs::read_to_string(&junit).expect("JUnit");
    assert!(
        xml.contains("<testsuites tests=\"1\" failures=\"1\">"),
        "{xml}"
    );
    assert!(
        xml.contains("crew.test.yaml:4:5") && xml.contains("<failure"),
        "{xml}"
    );
    let (code, ..) = run(&server, &["policy", "test", &mine, "--on-server"]);
    assert_eq!(code, Some(1));
    // The gates say it, too, and so does apply.
    for command in ["check", "apply"] {
        let (code, said, _) = run(&server, &["policy", command, &mine]);
        assert_eq!(code, Some(1), "{said}");
        assert!(
            said.contains("crew.test.yaml:4:5: error: the test `research searches` fails"),
            "{said}"
        );
    }

    // What cannot be run is neither a pass nor a failure.
    write("crew.test.yaml", "cases:\n  - nam: x\n");
    let (code, said, _) = run(&server, &["policy", "test", &mine]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.starts_with("crew.test.yaml:2:5: error: "), "{said}");
    std::fs::remove_file(folder.join("crew.test.yaml")).expect("gone");
    let (code, _, error) = run(&server, &["policy", "test", &mine]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("there is no test"), "{error}");
    assert_eq!(run(&server, &["policy", "test"]).0, Some(2));
    assert_eq!(run(&server, &["policy", "test", "/nowhere"]).0, Some(2));
}

/// Each folder that we ship, with its tests, through the gates and by the command.
#[test]
fn what_we_ship_passes_its_own_tests() {
    let mut folders = vec![vec![repository("policies")]];
    for entry in std::fs::read_dir(repository("policies/examples")).expect("examples") {
        let example = entry.expect("one").path();
        folders.push(vec![example.clone()]);
        folders.push(vec![repository("policies"), example]);
    }
    assert!(folders.len() > 2);
    for folders in folders {
        let names: Vec<_> = folders.iter().map(|f| f.to_string_lossy()).collect();
        let mut command = vec!["policy", "test", "--coverage", "--coverage-min"];
        command.push(if folders.len() > 1 { "50" } else { "100" });
        command.extend(names.iter().map(|name| &**name));
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_zta"))
            .args(&command)
            .env_clear()
            .output()
            .expect("zta");
        let (said, error) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{names:?}: {said}{error}");
        let check = std::process::Command::new(env!("CARGO_BIN_EXE_zta"))
            .args(["policy", "check"])
            .args(&folders)
            .env_clear()
            .output()
            .expect("zta");
        let (said, error) = (text(&check.stdout), text(&check.stderr));
        assert_eq!(check.status.code(), Some(0), "{names:?}: {said}{error}");
        assert!(!said.contains("warning"), "{names:?}: {said}");
    }
}
