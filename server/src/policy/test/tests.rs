//! A test file says what it says, or is refused where it is wrong.

use crate::model::SourceFile;
use crate::policy::limits::{TEST_CASES_MAX, TEST_FILE_BYTES_MAX, TEST_FIXTURES_MAX};
use crate::policy::{Compiled, Diagnostic, PolicySource, TestReport, compile};

const SCHEMA: &str = r#"namespace Shop {
  @request_suppliable entity Cart = { total: decimal };
  entity Order = { owner: ZTA::User, total: decimal } tags String;
  action refund in [ZTA::Action::"call_tool"] appliesTo {
    principal: [ZTA::Agent], resource: [ZTA::Tool],
    context: { zta: ZTA::Facts, request: ZTA::PepContext, input: { amount: decimal, note?: String } },
  };
  action see appliesTo {
    principal: [ZTA::Agent, ZTA::User], resource: [Order, Cart],
    context: { zta: ZTA::Facts, request: ZTA::PepContext },
  };
}"#;

const POLICIES: &str = r#"
@id("refunds") @obligation("log")
permit (principal is ZTA::Agent in ZTA::Role::"clerk", action == Shop::Action::"refund", resource)
when { context.input.amount.lessThanOrEqual(decimal("100.0")) && context.zta.authentication.age_seconds < 60 }
unless { context.request has user && context.request.user == "eve" };
@id("own_orders")
permit (principal is ZTA::User, action == Shop::Action::"see", resource is Shop::Order)
when { resource.owner == principal };
@id("office")
permit (principal is ZTA::Agent, action == Shop::Action::"see", resource)
when { context.zta has source && context.zta.source.isInRange(ip("10.0.0.0/8")) };
@id("fragile")
forbid (principal is ZTA::Agent, action == Shop::Action::"see", resource is Shop::Order)
when { (resource.hasTag("hold") || 9223372036854775807 + 1 > 0) &&
       resource.hasTag("hold") && resource.getTag("hold") == "yes" };
@id("for_whom")
permit (principal is ZTA::User, action == Shop::Action::"see", resource is Shop::Cart)
when { resource.total.lessThan(decimal("5.0")) };
"#;

const WORLD: &str = r#"
principals:
  clerk: {agent: spiffe://zta.local/agent/clerk, roles: [clerk], attributes: {team: red}}
  stranger: {agent: spiffe://zta.local/agent/stranger}
  kim: {user: "https://idp.example#kim"}
  eve: {user: "https://idp.example#eve"}
entities:
  order: {uid: 'Shop::Order::"1"', attributes: {owner: {type: "ZTA::User", id: "https://idp.example#kim"}, total: 5}, tags: {hold: "no"}}
  held: {uid: 'Shop::Order::"2"', attributes: {owner: {type: "ZTA::User", id: "https://idp.example#kim"}, total: 5}, tags: {hold: "yes"}}
  cart: {uid: 'Shop::Cart::"c"', attributes: {total: 2.5}}
"#;

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
    let good = r#"
defaults: {principal: clerk, tool: refund, supported_obligations: [log]}
cases:
  - name: amounts
    arguments: {amount: 100}
    expect: {decision: allow, policies: [refunds], obligations: [log]}
    rows:
      - {name: at the limit}
      - {name: below, arguments: {amount: 99.9999, note: x}}
      - {name: over, arguments: {amount: 100.0001}, expect: {decision: deny, reason: NOT_PERMITTED}}
      - {name: as text, arguments: '{"amount": 5, "amount": 6}', expect: {decision: deny, reason: INVALID_ARGUMENTS}}
      - {name: a stranger, principal: stranger, expect: {decision: deny}}
      - {name: no obligation, supported_obligations: [], expect: {decision: deny, reason: OBLIGATION_UNSUPPORTED, obligations: [log]}}
      - {name: an old proof, facts: {authentication: {method: token, age_seconds: 60}}, expect: {decision: deny}}
      - {name: a user, user: eve, expect: {decision: deny}}
      - {name: the pep's user, context: {user: eve}, expect: {decision: deny}}
      - {name: a tool that is not declared, tool: other, expect: {decision: deny, reason: NOT_PERMITTED}}
  - name: orders
    action: Shop::Action::"see"
    resource: Shop::Order::"1"
    facts: {source: 10.1.2.3, now: "2026-02-03T04:05:06Z"}
    rows:
      - {name: in the office, expect: {decision: allow, policies: [office]}}
      - {name: elsewhere, facts: {source: 192.0.2.1}, expect: {decision: deny}}
      - {name: kim's own, principal: kim, expect: {decision: allow, policies: [own_orders]}}
      - {name: not eve's, principal: eve, expect: {decision: deny}}
      - {name: held, resource: 'Shop::Order::"2"', expect: {decision: deny, reason: FORBIDDEN, policies: [fragile]}}
      - {name: not stored, stored: [held], expect: {decision: deny, reason: EVALUATION_ERROR, errored: [fragile]}}
      - {name: for kim, facts: {delegation: {subject: kim}}, expect: {decision: allow, policies: [office, own_orders]}}
      - {name: for eve, facts: {delegation: {subject: eve}}, expect: {decision: deny, reason: DELEGATION}}
      - {name: out of scope, facts: {delegation: {subject: kim, scope: [call_tool]}}, expect: {decision: deny, reason: DELEGATION}}
  - name: what a request brings
    principal: kim
    action: Shop::Action::"see"
    resource: Shop::Cart::"c"
    rows:
      - {name: a cart, brings: [cart], expect: {decision: allow, policies: [for_whom]}}
      - {name: a stored one, expect: {decision: allow}}
      - {name: none, stored: [], expect: {decision: deny, errored: [for_whom]}}
      - {name: an order, brings: [order], expect: {error: ENTITY_TYPE_RESERVED}}
  - {name: no such action, action: 'Shop::Action::"buy"', resource: 'Shop::Order::"1"', expect: {error: ACTION_UNKNOWN}}
"#
    .replace("the pep's", "the peps").replace("kim's", "kims").replace("eve's", "eves");
    assert_eq!(failures(&good), Vec::<String>::new());
    // Every expectation, turned round, fails.
    for (from, to, says) in [
        (
            "decision: allow, policies: [refunds]",
            "decision: deny, policies: [refunds]",
            "decision: expected deny, got allow",
        ),
        (
            "policies: [refunds]",
            "policies: []",
            "policies: expected none, got refunds",
        ),
        (
            "obligations: [log]}\n    rows",
            "obligations: []}\n    rows",
            "obligations: expected none, got log",
        ),
        (
            "reason: FORBIDDEN",
            "reason: NOT_PERMITTED",
            "reason: expected NOT_PERMITTED, got FORBIDDEN",
        ),
        (
            "errored: [fragile]",
            "errored: []",
            "errored: expected none, got fragile",
        ),
        ("reason: DELEGATION", "reason: FORBIDDEN", "got DELEGATION"),
        (
            "error: ACTION_UNKNOWN",
            "error: ENTITY_STORED",
            "error: expected ENTITY_STORED, got ACTION_UNKNOWN",
        ),
        (
            "error: ACTION_UNKNOWN",
            "decision: deny",
            "request: expected deny, got the error ACTION_UNKNOWN",
        ),
        (
            "{decision: deny, reason: INVALID_ARGUMENTS}",
            "{error: FIELD_INVALID}",
            "got deny (INVALID_ARGUMENTS)",
        ),
        (
            "{decision: deny, reason: EVALUATION_ERROR",
            "{decision: deny, message: nothing of it, reason: EVALUATION_ERROR",
            "message: expected nothing of it",
        ),
    ] {
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
    for (from, to, says) in [
        ("name: a", "nam: a", "unknown field"),
        ("decision: deny", "decision: perhaps", "perhaps"),
        ("decision: deny", "decison: deny", "unknown field"),
        (
            "decision: deny",
            "decision: deny, decision: allow",
            "duplicate",
        ),
        (
            "decision: deny",
            "reason: FORBIDDEN",
            "expect a `decision` or an `error`",
        ),
        (
            "decision: deny",
            "decision: allow, reason: FORBIDDEN",
            "an allow has no `reason`",
        ),
        ("decision: deny", "error: X, policies: []", "beside `error`"),
        ("expect: {decision: deny}", "rows: []", "`rows` is empty"),
        (", expect: {decision: deny}", "", "`expect` is missing"),
        (
            "principal: kim",
            "principal: kin",
            "`kin` is none of the file's `principals`",
        ),
        (", principal: kim", "", "`principal` is missing"),
        ("tool: t", "action: a", "give a `tool`"),
        (
            "tool: t",
            "tool: t, action: 'A::\"b\"', resource: 'C::\"d\"'",
            "give a `tool`",
        ),
        ("tool: t", "action: a, resource: b", "`a` is no entity"),
        (
            "tool: t",
            "tool: t, stored: [nothing]",
            "`nothing` is none of the file's `entities`",
        ),
        (
            "tool: t",
            "tool: t, brings: [nothing]",
            "`nothing` is none of the file's `entities`",
        ),
        (
            "tool: t",
            "tool: t, facts: {now: yesterday}",
            "`yesterday` is no time",
        ),
        (
            "tool: t",
            "tool: t, facts: {source: here}",
            "`here` is no IP address",
        ),
        ("tool: t", "tool: t, facts: {risk: 3}", "unknown field"),
        (
            "tool: t",
            "tool: t, facts: {delegation: {subject: who}}",
            "`who` is none",
        ),
        ("{name: a", "{<<: {tool: x}, name: a", "merge"),
        ("name: a, ", "", "a test needs a `name`"),
        (
            "expect: {decision: deny}",
            "expect: {decision: deny}, rows: [{rows: [{name: x}]}]",
            "a row has no `rows`",
        ),
    ] {
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
    for (from, to, says) in [
        (
            "{agent: spiffe://zta.local/agent/stranger}",
            "{agent: a, user: b}",
            "exactly one of",
        ),
        (
            "{agent: spiffe://zta.local/agent/stranger}",
            "{user: b, zone: c}",
            "only an agent",
        ),
        ("total: 2.5", "total: 2.55555", "decimal"),
        ("total: 2.5", "sum: 2.5", "sum"),
        ("Shop::Cart::\"c\"", "Shop::Basket::\"c\"", "Basket"),
        ("Shop::Cart::\"c\"", "ZTA::Agent::\"c\"", "ZTA::Agent"),
    ] {
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
    let text = r#"[
  {
    "name": "in the office",
    "request": {
      "principal": "ZTA::Agent::\"spiffe://zta.local/agent/a\"",
      "action": "Shop::Action::\"see\"",
      "resource": "Shop::Order::\"1\"",
      "context": {"zta": {"now": {"__extn": {"fn": "datetime", "arg": "2026-01-01"}}, "source": {"__extn": {"fn": "ip", "arg": "10.0.0.1"}}}}
    },
    "entities": [
      {"uid": {"type": "ZTA::Agent", "id": "spiffe://zta.local/agent/a"}, "attrs": {"name": "a", "owner": "o", "zone": ""}, "parents": [{"type": "ZTA::Role", "id": "clerk"}]},
      {"uid": {"__entity": {"type": "Shop::Order", "id": "1"}}, "attrs": {"owner": {"__entity": {"type": "ZTA::User", "id": "u"}}, "total": {"__extn": {"fn": "decimal", "arg": "5.0"}}}, "parents": [], "tags": {"hold": "no"}}
    ],
    "decision": "allow", "reason": ["office"], "num_errors": 0
  },
  {
    "request": {
      "principal": "ZTA::Agent::\"spiffe://zta.local/agent/a\"",
      "action": "Shop::Action::\"refund\"",
      "resource": "ZTA::Tool::\"refund\"",
      "context": {"input": {"amount": {"__extn": {"fn": "decimal", "arg": "99.5"}}}}
    },
    "entities": [{"uid": {"type": "ZTA::Agent", "id": "spiffe://zta.local/agent/a"}, "parents": [{"type": "ZTA::Role", "id": "clerk"}]}],
    "decision": "allow", "reason": ["refunds"], "num_errors": 0
  }
]"#;
    let report = run_named("a.test.json", text).expect("is read");
    assert_eq!(report.failures(), Vec::new());
    let places: Vec<_> = report
        .results
        .iter()
        .map(|r| (r.name.as_str(), r.line, r.column))
        .collect();
    assert_eq!(places, [("in the office", 2, 3), ("test 2", 16, 3)]);
    for (from, to, says) in [
        (
            "\"allow\", \"reason\": [\"office\"]",
            "\"deny\", \"reason\": []",
            "expected deny, got allow",
        ),
        (
            "[\"office\"]",
            "[\"refunds\"]",
            "among them refunds, got office",
        ),
        (
            "\"num_errors\": 0",
            "\"num_errors\": 1",
            "errored: expected 1 policies",
        ),
        (
            "10.0.0.1",
            "11.0.0.1",
            "expected allow, got deny (NOT_PERMITTED)",
        ),
        ("99.5", "100.5", "expected allow, got deny"),
    ] {
        let wrong = run_named("a.test.json", &text.replacen(from, to, 1))
            .expect("is read")
            .failures();
        assert!(
            wrong.len() == 1 && wrong[0].message.contains(says),
            "{to}: {wrong:?}"
        );
    }
    for (from, to, says) in [
        ("\"num_errors\": 0", "\"has_error\": false", "unknown field"),
        (
            "\"entities\": [{",
            "\"entities\": \"e.json\", \"x\": [{",
            "unknown field",
        ),
        (
            "ZTA::Agent::\\\"spiffe",
            "Shop::Order::\\\"spiffe",
            "a principal is a",
        ),
        ("\"input\"", "\"inputs\"", "`context.inputs` is none"),
        (
            "\"source\"",
            "\"risk\"",
            "`context.zta.risk` cannot be given",
        ),
        ("\"zone\"", "\"level\"", "no attribute `level`"),
    ] {
        let errors = run_named("a.test.json", &text.replacen(from, to, 1)).expect_err(to);
        assert!(
            errors[0].message.contains(says) && errors[0].line > 1,
            "{to}: {errors:?}"
        );
    }
}
