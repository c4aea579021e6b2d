//! What the tests of test files say: a set, its world, and what can be wrong with them.

/// A text, what stands in its place, and what is then said.
pub(super) type Turned = (&'static str, &'static str, &'static str);

pub(super) const SCHEMA: &str = r#"namespace Shop {
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

pub(super) const POLICIES: &str = r#"
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

pub(super) const WORLD: &str = r#"
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

pub(super) const GOOD: &str = r#"
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
      - {name: the peps user, context: {user: eve}, expect: {decision: deny}}
      - {name: a tool that is not declared, tool: other, expect: {decision: deny, reason: NOT_PERMITTED}}
  - name: orders
    action: Shop::Action::"see"
    resource: Shop::Order::"1"
    facts: {source: 10.1.2.3, now: "2026-02-03T04:05:06Z"}
    rows:
      - {name: in the office, expect: {decision: allow, policies: [office]}}
      - {name: elsewhere, facts: {source: 192.0.2.1}, expect: {decision: deny}}
      - {name: kims own, principal: kim, expect: {decision: allow, policies: [own_orders]}}
      - {name: not eves, principal: eve, expect: {decision: deny}}
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
"#;

pub(super) const WRONG: &[Turned] = &[
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
];

pub(super) const NOT_UNDERSTOOD: &[Turned] = &[
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
];

pub(super) const WORLD_WRONG: &[Turned] = &[
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
];

pub(super) const CEDAR: &str = r#"[
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

pub(super) const CEDAR_WRONG: &[Turned] = &[
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
];

pub(super) const CEDAR_ODD: &[Turned] = &[
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
];
