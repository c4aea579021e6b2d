//! Cedar's own integration tests: `evaluate` agrees with every recorded answer. The data
//! is not in the repository; where it is missing the test says so and skips.

use std::path::{Path, PathBuf};

use serde_json::Value;
use zta_client::v1;
use zta_server::model::{Effect, EntityUid};
use zta_server::policy::{CedarItem, CedarSetup, evaluate_cedar};

use crate::support::rpc::entity;
use crate::support::server::text;
use crate::support::{Setup, repository};

/// Where the corpus is looked for: `ZTA_CEDAR_CORPUS`, or beside the repository.
#[allow(clippy::print_stderr, reason = "a skipped test says so")]
fn corpus() -> Option<PathBuf> {
    let named = std::env::var_os("ZTA_CEDAR_CORPUS").map(PathBuf::from);
    let beside = [
        "../shared/data/cedar-corpus",
        "../../shared/data/cedar-corpus",
    ]
    .map(repository);
    let found = named
        .into_iter()
        .chain(beside)
        .find(|p| p.join("corpus.tar.gz").exists());
    if found.is_none() {
        eprintln!(
            "SKIPPED: no Cedar corpus found; set ZTA_CEDAR_CORPUS to a folder with corpus.tar.gz \
             of Cedar's integration tests"
        );
    }
    found
}

/// One test file with the texts that it names.
struct Test {
    name: String,
    policies: PathBuf,
    schema: PathBuf,
    entities: PathBuf,
    file: PathBuf,
    requests: Vec<Value>,
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn tests_below(root: &Path, folder: &Path, found: &mut Vec<Test>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            tests_below(root, &path, found);
            continue;
        }
        let name = path
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default()
            .to_owned();
        if !name.ends_with(".json") || name.ends_with(".entities.json") {
            continue;
        }
        let json: Value = serde_json::from_str(&read(&path)).expect("JSON");
        let Some(requests) = json["requests"].as_array().cloned() else {
            continue;
        };
        let named = |key: &str| root.join(json[key].as_str().expect("a path"));
        found.push(Test {
            name: path.display().to_string(),
            policies: named("policies"),
            schema: named("schema"),
            entities: named("entities"),
            file: path,
            requests,
        });
    }
}

/// The handwritten tests and the fuzzer's, the latter unpacked into `target`.
fn tests(corpus: &Path, target: &Path) -> Vec<Test> {
    let unpacked = std::process::Command::new("tar")
        .arg("xzf")
        .arg(corpus.join("corpus.tar.gz"))
        .arg("-C")
        .arg(target)
        .status();
    assert!(unpacked.expect("tar").success(), "corpus.tar.gz");
    let mut found = Vec::new();
    tests_below(corpus, &corpus.join("tests"), &mut found);
    let handwritten = found.len();
    tests_below(target, target, &mut found);
    assert!(
        handwritten > 5 && found.len() > 1000,
        "{handwritten} of {} tests",
        found.len()
    );
    found
}

fn uid(value: &Value) -> EntityUid {
    let text = |key: &str| value[key].as_str().expect("a text").to_owned();
    EntityUid::new(text("type"), text("id"))
}

fn item(request: &Value) -> CedarItem {
    CedarItem {
        principal: uid(&request["principal"]),
        action: uid(&request["action"]),
        resource: uid(&request["resource"]),
        context_json: request["context"].to_string(),
        validate_request: request["validateRequest"].as_bool().unwrap_or(true),
    }
}

/// What is on record for a request: decision, reasons and errors, each sorted.
fn expected(request: &Value) -> (String, Vec<String>, Vec<String>) {
    let list = |key: &str| {
        let mut list: Vec<String> = request[key]
            .as_array()
            .expect("a list")
            .iter()
            .map(|id| id.as_str().expect("an id").to_owned())
            .collect();
        list.sort_unstable();
        list
    };
    let decision = request["decision"]
        .as_str()
        .expect("a decision")
        .to_lowercase();
    (decision, list("reason"), list("errors"))
}

#[test]
fn every_request_of_the_corpus_in_process() {
    let Some(corpus) = corpus() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let (mut requests, mut errored) = (0, 0);
    for test in tests(&corpus, folder.path()) {
        let setup = CedarSetup::parse(
            &read(&test.policies),
            &read(&test.schema),
            &read(&test.entities),
        )
        .unwrap_or_else(|e| panic!("{}: {e}", test.name));
        for (i, request) in test.requests.iter().enumerate() {
            let result = evaluate_cedar(&setup, &item(request))
                .unwrap_or_else(|e| panic!("{} request {i}: {e}", test.name));
            errored += usize::from(!result.errored.is_empty());
            let effect = match result.effect {
                Effect::Allow => "allow".to_owned(),
                Effect::Deny => "deny".to_owned(),
            };
            let got = (effect, result.policies, result.errored);
            assert_eq!(got, expected(request), "{} request {i}", test.name);
            requests += 1;
        }
    }
    assert!(
        requests > 5000 && errored > 100,
        "{requests} requests, {errored} with errors"
    );
}

/// Sorted, so that a sample is the same each time.
fn sample(mut tests: Vec<Test>, count: usize) -> Vec<Test> {
    tests.sort_by(|a, b| a.name.cmp(&b.name));
    let step = (tests.len() / count).max(1);
    tests.into_iter().step_by(step).take(count).collect()
}

#[test]
fn a_sample_of_the_corpus_by_the_command_line() {
    let Some(corpus) = corpus() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    for test in sample(tests(&corpus, folder.path()), 60) {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_zta"))
            .env_clear()
            .args(["policy", "evaluate"])
            .arg("--policies")
            .arg(&test.policies)
            .arg("--schema")
            .arg(&test.schema)
            .arg("--entities")
            .arg(&test.entities)
            .arg("--requests")
            .arg(&test.file)
            .output()
            .expect("zta");
        assert!(
            output.status.success(),
            "{}: {}",
            test.name,
            text(&output.stderr)
        );
        let said = text(&output.stdout);
        let lines: Vec<Value> = said
            .lines()
            .map(|l| serde_json::from_str(l).expect("JSON"))
            .collect();
        assert_eq!(lines.len(), test.requests.len(), "{}", test.name);
        for (line, request) in lines.iter().zip(&test.requests) {
            assert_eq!(expected(line), expected(request), "{}", test.name);
        }
    }
}

#[tokio::test]
async fn a_sample_of_the_corpus_by_the_service() {
    let Some(corpus) = corpus() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let server = Setup::sqlite().start().await;
    let admin = server.admin();
    for test in sample(tests(&corpus, folder.path()), 300) {
        let wire = |request: &Value| {
            let uid = |key: &str| {
                let uid = uid(&request[key]);
                entity(&uid.ty, &uid.id)
            };
            v1::EvaluateItem {
                principal: uid("principal"),
                action: uid("action"),
                resource: uid("resource"),
                context_json: request["context"].to_string(),
                validate_request: request["validateRequest"].as_bool().unwrap_or(true),
            }
        };
        let request = v1::EvaluateRequest {
            policies: read(&test.policies),
            schema: read(&test.schema),
            entities_json: read(&test.entities),
            requests: test.requests.iter().map(wire).collect(),
        };
        let answer = admin.policies().evaluate(request).await;
        let results = answer
            .unwrap_or_else(|e| panic!("{}: {e}", test.name))
            .into_inner()
            .results;
        assert_eq!(results.len(), test.requests.len(), "{}", test.name);
        for (result, request) in results.into_iter().zip(&test.requests) {
            assert_eq!(result.error, "", "{}", test.name);
            let effect = match result.effect() {
                v1::Effect::Allow => "allow",
                v1::Effect::Deny => "deny",
                v1::Effect::Unspecified => "nothing",
            };
            let got = (
                effect.to_owned(),
                result.policy_ids,
                result.errored_policy_ids,
            );
            assert_eq!(got, expected(request), "{}", test.name);
        }
    }
}
