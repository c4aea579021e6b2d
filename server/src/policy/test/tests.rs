//! A test file says what it says, or is refused where it is wrong.

mod tables;

use self::tables::{
    CEDAR, CEDAR_ODD, CEDAR_WRONG, GOOD, NOT_UNDERSTOOD, POLICIES, SCHEMA, WORLD, WORLD_WRONG,
    WRONG,
};
use crate::model::SourceFile;
use crate::policy::limits::{TEST_CASES_MAX, TEST_FILE_BYTES_MAX, TEST_FIXTURES_MAX};
use crate::policy::{Compiled, Diagnostic, PolicySource, TestReport, compile};

fn set() -> Compiled {
    let source = PolicySource::new(
        vec![SourceFile::new("shop.cedar", POLICIES)],
        vec![SourceFile::new("shop.cedarschema", SCHEMA)],
    );
    compile(&source, None).expect("the set compiles")
}

fn run_named(name: &str, text: &str) -> Result<TestReport, Vec<Diagnostic>> {
    set().run_tests(&[SourceFile::new(name, text)], true, &|| false)
}

fn run(cases: &str) -> Result<TestReport, Vec<Diagnostic>> {
    run_named("a.test.yaml", &format!("{WORLD}{cases}"))
}

/// What failed, a line each.
fn failures(cases: &str) -> Vec<String> {
    let report = run(cases).expect("a file that can be read");
    report.failures().into_iter().map(|d| d.message).collect()
}

#[test]
fn each_part_of_a_case_is_asked_and_each_expectation_can_fail() {
    let good = GOOD;
    assert_eq!(failures(good), Vec::<String>::new());
    // Every expectation, turned round, fails.
    for &(from, to, says) in WRONG {
        assert!(good.contains(from), "{from}");
        let wrong = failures(&good.replacen(from, to, 1));
        assert!(!wrong.is_empty(), "{to} passes");
        assert!(wrong.iter().all(|w| w.contains(says)), "{to}: {wrong:?}");
    }
}

#[test]
fn what_is_not_understood_is_an_error_with_its_place() {
    let one = "\ncases:\n  - {name: a, principal: kim, tool: t, expect: {decision: deny}}\n";
    assert_eq!(failures(one), Vec::<String>::new());
    for &(from, to, says) in NOT_UNDERSTOOD {
        assert!(one.contains(from), "{from}");
        let errors = run(&one.replacen(from, to, 1)).expect_err(to);
        let (first, lines) = (&errors[0], WORLD.lines().count());
        assert!(first.message.contains(says), "{to}: {first:?}");
        assert_eq!(
            (first.file.as_str(), first.line as usize),
            ("a.test.yaml", lines + 3),
            "{to}: {first:?}"
        );
        assert!(first.column > 0, "{first:?}");
    }
    let twice = format!("{one}{}", one.lines().last().expect("a line"));
    assert!(
        run(&twice).expect_err("twice")[0]
            .message
            .contains("stands before this one")
    );
    for &(from, to, says) in WORLD_WRONG {
        assert!(WORLD.contains(from), "{from}");
        let errors = run_named(
            "a.test.yaml",
            &format!("{}{one}", WORLD.replacen(from, to, 1)),
        );
        let errors = errors.expect_err(to);
        assert!(errors[0].message.contains(says), "{to}: {errors:?}");
        assert!(errors[0].line > 1 && errors[0].column > 1, "{errors:?}");
    }
}

#[test]
fn a_file_cannot_be_a_bomb() {
    let mut bomb = String::from("principals: {}\nx0: &x0 [a, a, a, a, a, a, a, a, a, a]\n");
    for n in 1..12 {
        let ten = vec![format!("*x{}", n - 1); 10].join(", ");
        bomb.push_str(&format!("x{n}: &x{n} [{ten}]\n"));
    }
    // In a place that takes any value, so that it is not refused for its key.
    let nested = format!(
        "cases:\n- name: a\n  arguments:\n    {}\n",
        bomb.lines().skip(1).collect::<Vec<_>>().join("\n    ")
    );
    for (what, text) in [
        ("aliases", nested),
        (
            "depth",
            format!("cases: {}{}", "[".repeat(100_000), "]".repeat(100_000)),
        ),
        ("maps", format!("cases: {}", "{a: ".repeat(100_000))),
        ("bytes", "#".repeat(TEST_FILE_BYTES_MAX + 1)),
        ("documents", "cases: []\n---\ncases: []\n".to_owned()),
        (
            "json",
            format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)),
        ),
    ] {
        for name in ["a.test.yaml", "a.test.json"] {
            let errors = run_named(name, &text).expect_err(what);
            assert_eq!(errors[0].file, name, "{what}");
        }
    }
    let many = |n: usize, of: &str| {
        (0..n)
            .map(|n| of.replace('N', &n.to_string()))
            .collect::<String>()
    };
    let row = "      - {name: rN}\n";
    let cases = "cases:\n  - name: a\n    principal: kim\n    tool: t\n    expect: {decision: deny}\n    rows:\n";
    assert_eq!(failures(&format!("{cases}{}", many(100, row))).len(), 0);
    let errors = run(&format!("{cases}{}", many(TEST_CASES_MAX + 1, row))).expect_err("rows");
    assert!(
        errors[0].message.contains("more than 10000 test cases"),
        "{errors:?}"
    );
    let people = many(TEST_FIXTURES_MAX + 1, "  pN: {user: uN}\n");
    let errors =
        run_named("a.test.yaml", &format!("principals:\n{people}cases: []\n")).expect_err("people");
    assert!(
        errors[0].message.contains("at most 1000 are allowed"),
        "{errors:?}"
    );
    let stopped = set().run_tests(
        &[SourceFile::new(
            "a.test.yaml",
            format!("{WORLD}{cases}{row}"),
        )],
        false,
        &|| true,
    );
    assert!(
        stopped.expect_err("stopped")[0]
            .message
            .contains("took too long")
    );
}

#[test]
fn coverage_tells_what_no_test_has_reached() {
    let report = run(r#"
cases:
  - name: a
    principal: clerk
    tool: refund
    supported_obligations: [log]
    arguments: {amount: 5}
    expect: {decision: allow}
    rows: [{name: one}, {name: over, arguments: {amount: 500}, expect: {decision: deny}}]
"#);
    let coverage = report.expect("runs").coverage.expect("asked for");
    assert_eq!((coverage.policies, coverage.policies_covered), (5, 1));
    let refunds = coverage
        .missing
        .iter()
        .find(|m| m.id == "refunds")
        .expect("not whole");
    assert_eq!((refunds.matched, refunds.determined), (2, 1));
    let texts: Vec<_> = refunds
        .conditions
        .iter()
        .map(|c| (c.text.as_str(), c.held, c.failed))
        .collect();
    assert_eq!(
        texts[0],
        ("context.zta.authentication.age_seconds < 60", 1, 0),
        "the amount was both true and false: {texts:?}"
    );
    assert_eq!(texts.len(), 2, "{texts:?}");
    let never = coverage
        .missing
        .iter()
        .find(|m| m.id == "office")
        .expect("never");
    assert_eq!((never.matched, never.determined), (0, 0));
    assert_eq!(
        never.place.as_ref().map(|(file, _)| file.as_str()),
        Some("shop.cedar")
    );
    assert!(
        coverage.percent() < 50 && coverage.missing_total == 5,
        "{coverage:?}"
    );
}

#[test]
fn tests_of_cedars_command_line_are_read() {
    let text = CEDAR;
    let report = run_named("a.test.json", text).expect("is read");
    assert_eq!(report.failures(), Vec::new());
    let places: Vec<_> = report
        .results
        .iter()
        .map(|r| (r.name.as_str(), r.line, r.column))
        .collect();
    assert_eq!(places, [("in the office", 2, 3), ("test 2", 16, 3)]);
    for &(from, to, says) in CEDAR_WRONG {
        let wrong = run_named("a.test.json", &text.replacen(from, to, 1))
            .expect("is read")
            .failures();
        assert!(
            wrong.len() == 1 && wrong[0].message.contains(says),
            "{to}: {wrong:?}"
        );
    }
    for &(from, to, says) in CEDAR_ODD {
        let errors = run_named("a.test.json", &text.replacen(from, to, 1)).expect_err(to);
        assert!(
            errors[0].message.contains(says) && errors[0].line > 1,
            "{to}: {errors:?}"
        );
    }
}
