//! The policies of the benchmark: seeded, the same on every machine.
//!
//! They come in cells of ten, each about one tool, one folder and the agents around them:
//!
//! | | scope | condition |
//! |---|---|---|
//! | 0 | permit, `principal in Role`, `resource == Tool` | on `context.request` |
//! | 1 | forbid, any principal, `resource == Tool` | on `context.request` |
//! | 2 | permit, `principal == Agent`, `resource == Tool` | none |
//! | 3 | permit, `principal == Agent`, `resource == Tool` | on both parts of the context |
//! | 4 | forbid, `principal is Agent`, `resource == Tool` | on `context.zta` |
//! | 5 | permit, `principal in Role`, `resource == Tool` | on `context.zta` |
//! | 6 | permit, `principal in Role` or `principal == Agent`, `resource is Tool` | on `context.request` |
//! | 7 | permit, `principal in Role`, `resource in Folder` | on attributes of the resource |
//! | 8 | permit, `principal is Agent in Role`, `resource is Document in Folder` | on attributes of both |
//! | 9 | forbid, any principal, two actions, `resource in Folder` | on an optional attribute |
//!
//! The generator's own agent is named by policies of every cell, so that its requests
//! spread over the whole set; at most [`CANDIDATES_MAX`] can match any of them.

use std::fmt::Write as _;

use zta_proto::v1;

use crate::random::Random;

/// How many policies a cell has.
pub const CELL: usize = 10;
/// How many policies a file has.
pub const FILE: usize = 1000;
/// At most so many policies have a scope that one request satisfies.
pub const CANDIDATES_MAX: usize = 8;
/// The name of the generator's agent.
pub const AGENT: &str = "bench";
/// The roles of the generator's agent.
pub const ROLES: [&str; 4] = ["bench", "duty-0", "team-0", "team-1"];

const SEED: u64 = 0x5a54_4131;
const TEAMS: usize = 16;
const VERBS: [&str; 8] = [
    "search", "list", "read", "create", "update", "send", "export", "approve",
];
const NOUNS: [&str; 12] = [
    "invoices",
    "tickets",
    "mails",
    "contracts",
    "orders",
    "payments",
    "incidents",
    "reports",
    "customers",
    "builds",
    "leads",
    "shipments",
];

/// What a policy says of the principal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Nothing.
    Any,
    /// It is an agent.
    AnyAgent,
    /// It is this agent, by name.
    Agent(String),
    /// It has this role.
    Role(String),
    /// It is an agent with this role.
    AgentInRole(String),
}

/// What a policy says of the action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Nothing.
    Any,
    /// Calling a tool.
    Call,
    /// Reading a document.
    Read,
    /// Changing a document.
    Edit,
    /// Either of both.
    ReadOrEdit,
}

/// What a policy says of the resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum On {
    /// Nothing.
    Any,
    /// It is a tool.
    AnyTool,
    /// It is this tool.
    Tool(String),
    /// It is in this folder.
    Folder(String),
    /// It is a document in this folder.
    DocumentIn(String),
}

/// One policy, before it is text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its `@id`.
    pub id: String,
    /// Whether it forbids.
    pub forbid: bool,
    /// The scope of its principal.
    pub who: Who,
    /// The scope of its action.
    pub what: What,
    /// The scope of its resource.
    pub on: On,
    /// `when { … }`, `unless { … }` or nothing.
    pub condition: String,
}

/// The tool that a cell is about.
#[must_use]
pub fn tool(cell: usize) -> String {
    let mut random = Random::new(SEED ^ cell as u64);
    let verb = VERBS[random.below(VERBS.len())];
    let noun = NOUNS[random.below(NOUNS.len())];
    format!("{verb}_{noun}_{cell}")
}

/// The folder that a cell is about.
#[must_use]
pub fn folder(cell: usize) -> String {
    format!("folder-{cell}")
}

/// The role whose members a cell serves beside the generator's agent.
#[must_use]
pub fn team(cell: usize) -> String {
    let mut random = Random::new(!SEED ^ cell as u64);
    format!("team-{}", random.below(TEAMS))
}

/// The ten policies of a cell. With `lockdown` its second one, which forbids what comes
/// from an untrusted place, forbids everybody and everything.
#[must_use]
pub fn cell(nth: usize, lockdown: bool) -> Vec<Policy> {
    let (tool, folder, team) = (tool(nth), folder(nth), team(nth));
    let crew = || Who::Agent(format!("crew-{nth}"));
    let policy = |name: &str, who, what, on: &On, condition: &str| Policy {
        id: format!("bench.{nth}.{name}"),
        forbid: name.starts_with("no_"),
        who,
        what,
        on: on.clone(),
        condition: condition.to_owned(),
    };
    let this = On::Tool(tool.clone());
    let named = format!(
        "when {{ context.request has tool_name && context.request.tool_name == \"{tool}\" }}"
    );
    let untrusted = match lockdown {
        true => "when { context.zta.authentication.age_seconds >= 0 }",
        false => {
            "when { context.request has origin && context.request.origin like \"mcp:untrusted-*\" }"
        }
    };
    let duty = match nth.is_multiple_of(2) {
        true => Who::Role(format!("duty-{nth}")),
        false => crew(),
    };
    let planner = format!(
        "when {{ context.request has agent_name && context.request.agent_name == \"planner-{nth}\" }}"
    );
    let from_bench = "when { context.request has framework && \
                      context.request.framework == \"bench\" && context.zta has session }";
    let fresh = "unless { context.zta.authentication.age_seconds < 86400 }";
    let task = "when { context.zta has task }";
    let low = "when { resource.sensitivity <= 2 }";
    let own = "when { resource.owner == principal.name }";
    let sealed = "when { resource has sealed && resource.sealed }";
    let inside = On::Folder(folder.clone());
    let bench = || "bench".to_owned();
    vec![
        policy("role", Who::Role(bench()), What::Call, &this, &named),
        policy("no_untrusted", Who::Any, What::Call, &this, untrusted),
        policy("crew", crew(), What::Call, &this, ""),
        policy(
            "agent",
            Who::Agent(AGENT.to_owned()),
            What::Call,
            &this,
            from_bench,
        ),
        policy("no_stale_proof", Who::AnyAgent, What::Call, &this, fresh),
        policy("team", Who::Role(team.clone()), What::Call, &this, task),
        policy("duty", duty, What::Call, &On::AnyTool, &planner),
        policy("readers", Who::Role(team), What::Read, &inside, low),
        policy(
            "owners",
            Who::AgentInRole(bench()),
            What::Edit,
            &On::DocumentIn(folder),
            own,
        ),
        policy("no_sealed", Who::Any, What::ReadOrEdit, &inside, sealed),
    ]
}

impl Policy {
    /// As Cedar text.
    #[must_use]
    pub fn text(&self) -> String {
        let agent = |name: &String| format!("ZTA::Agent::\"spiffe://zta.local/agent/{name}\"");
        let principal = match &self.who {
            Who::Any => "principal".to_owned(),
            Who::AnyAgent => "principal is ZTA::Agent".to_owned(),
            Who::Agent(name) => format!("principal == {}", agent(name)),
            Who::Role(role) => format!("principal in ZTA::Role::\"{role}\""),
            Who::AgentInRole(role) => format!("principal is ZTA::Agent in ZTA::Role::\"{role}\""),
        };
        let action = match self.what {
            What::Any => "action",
            What::Call => "action == ZTA::Action::\"call_tool\"",
            What::Read => "action == Bench::Action::\"read_document\"",
            What::Edit => "action == Bench::Action::\"edit_document\"",
            What::ReadOrEdit => {
                "action in [Bench::Action::\"read_document\", Bench::Action::\"edit_document\"]"
            }
        };
        let resource = match &self.on {
            On::Any => "resource".to_owned(),
            On::AnyTool => "resource is ZTA::Tool".to_owned(),
            On::Tool(tool) => format!("resource == ZTA::Tool::\"{tool}\""),
            On::Folder(folder) => format!("resource in Bench::Folder::\"{folder}\""),
            On::DocumentIn(folder) => {
                format!("resource is Bench::Document in Bench::Folder::\"{folder}\"")
            }
        };
        let mut text = format!("@id(\"{}\")\n", self.id);
        if self.forbid {
            text.push_str("@reason(\"a rule of the benchmark\")\n");
        }
        let effect = if self.forbid { "forbid" } else { "permit" };
        let condition = &self.condition;
        let _ = writeln!(
            text,
            "{effect} (\n  {principal},\n  {action},\n  {resource}\n) {condition};\n"
        );
        text
    }
}

/// The file that holds a cell, and its text with or without that cell's lockdown, in a
/// set of `policies`.
#[must_use]
pub fn file_of(nth: usize, policies: usize, lockdown: bool) -> v1::SourceFile {
    let locked_down = lockdown.then_some(nth);
    file(nth * CELL / FILE, policies, locked_down)
}

fn file(nth: usize, policies: usize, locked_down: Option<usize>) -> v1::SourceFile {
    let (from, to) = (nth * FILE, policies.min((nth + 1) * FILE));
    let cells = from / CELL..to.div_ceil(CELL);
    let all = cells.flat_map(|nth| cell(nth, locked_down == Some(nth)));
    source_file(nth, all.take(to - from))
}

fn source_file(nth: usize, policies: impl Iterator<Item = Policy>) -> v1::SourceFile {
    v1::SourceFile {
        name: format!("bench-{nth:04}.cedar"),
        text: policies.map(|policy| policy.text()).collect(),
    }
}

/// So many policies, with the schema that they need.
#[must_use]
pub fn scoped(policies: usize) -> v1::PolicySource {
    let files = 0..policies.div_ceil(FILE);
    with_schema(files.map(|nth| file(nth, policies, None)).collect())
}

/// So many policies that every request must look at: nothing is scoped.
#[must_use]
pub fn unscoped(policies: usize) -> v1::PolicySource {
    let policy = |nth| Policy {
        id: format!("bench.{nth}.unscoped"),
        forbid: false,
        who: Who::Any,
        what: What::Any,
        on: On::Any,
        condition: format!(
            "when {{ context.request has agent_name && context.request.agent_name == \"planner-{nth}\" }}"
        ),
    };
    let files = (0..policies).step_by(FILE).map(|from| {
        let to = policies.min(from + FILE);
        source_file(from / FILE, (from..to).map(policy))
    });
    with_schema(files.collect())
}

fn with_schema(policies: Vec<v1::SourceFile>) -> v1::PolicySource {
    v1::PolicySource {
        policies,
        schemas: vec![v1::SourceFile {
            name: "bench.cedarschema".to_owned(),
            text: include_str!("workload.cedarschema").to_owned(),
        }],
        tests: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the generator's agent satisfies a scope, asking for one tool or for one
    /// document, which is in one folder.
    fn satisfies(policy: &Policy, what: What, thing: &str) -> bool {
        let who = match &policy.who {
            Who::Any | Who::AnyAgent => true,
            Who::Agent(name) => name == AGENT,
            Who::Role(role) | Who::AgentInRole(role) => ROLES.contains(&role.as_str()),
        };
        let action = match policy.what {
            What::Any => true,
            What::ReadOrEdit => matches!(what, What::Read | What::Edit),
            one => one == what,
        };
        let on = match &policy.on {
            On::Any => true,
            On::AnyTool => what == What::Call,
            On::Tool(tool) => what == What::Call && tool == thing,
            On::Folder(folder) | On::DocumentIn(folder) => what != What::Call && folder == thing,
        };
        who && action && on
    }

    #[test]
    fn few_policies_can_match_and_never_none() {
        for cells in [1, 10, 1000] {
            let all: Vec<Policy> = (0..cells).flat_map(|nth| cell(nth, false)).collect();
            let count =
                |what, thing: &str| all.iter().filter(|p| satisfies(p, what, thing)).count();
            for nth in (0..cells).step_by(cells.div_ceil(50)) {
                for (what, thing) in [
                    (What::Call, tool(nth)),
                    (What::Read, folder(nth)),
                    (What::Edit, folder(nth)),
                ] {
                    let candidates = count(what, &thing);
                    assert!(
                        (1..=CANDIDATES_MAX).contains(&candidates),
                        "{thing}: {candidates}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_set_has_the_size_that_was_asked_for_and_unique_ids() {
        for policies in [10, 25, 1000, 2345] {
            for source in [scoped(policies), unscoped(policies)] {
                let text: String = source.policies.iter().map(|f| f.text.as_str()).collect();
                let ids: std::collections::BTreeSet<&str> =
                    text.lines().filter(|l| l.starts_with("@id(")).collect();
                assert_eq!(ids.len(), policies);
                assert_eq!(source.policies.len(), policies.div_ceil(FILE));
            }
        }
    }

    #[test]
    fn it_is_the_same_each_time_and_only_a_lockdown_changes_it() {
        assert_eq!(scoped(2000), scoped(2000));
        let (open, closed) = (file_of(150, 2000, false), file_of(150, 2000, true));
        assert_eq!(open, scoped(2000).policies[1]);
        let lines = open.text.lines().zip(closed.text.lines());
        assert_eq!(lines.filter(|(a, b)| a != b).count(), 1);
        assert_ne!(tool(0), tool(1));
    }
}
