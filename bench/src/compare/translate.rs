//! The same workload in the words of Cerbos: each generated policy becomes one rule.

use std::{collections::BTreeMap, fs, path::Path};

use prost_types::{Value, value::Kind};
use serde_json::json;

use super::wire::{CheckRequest, Entry, Principal, Resource};
use crate::{
    Result,
    policies::{self, AGENT, CELL, ROLES},
    requests::{Case, Expected},
};

const API: &str = "api.cerbos.dev/v1";
const ACTION: &str = "call";
/// Files of one folder.
const FOLDER: usize = 1000;

/// A request to Cerbos and whether it must be allowed.
#[derive(Clone, Debug)]
pub(super) struct Check {
    pub(super) request: CheckRequest,
    pub(super) allowed: bool,
}

impl Check {
    /// Whether this answer is right.
    pub(super) fn verify(&self, answer: &super::wire::CheckResponse) -> Result<()> {
        let effects = answer.results.iter().flat_map(|r| r.actions.values());
        let effects: Vec<i32> = effects.copied().collect();
        let right = effects.len() == 1 && (effects[0] == super::wire::ALLOW) == self.allowed;
        if !right || answer.request_id != self.request.request_id {
            let kind = self
                .request
                .resources
                .first()
                .and_then(|e| e.resource.as_ref());
            let kind = kind.map_or("", |resource| resource.kind.as_str());
            return Err(
                format!("{kind}: expected allow {}, found {effects:?}", self.allowed).into(),
            );
        }
        Ok(())
    }
}

/// Writes the policies of [`policies::scoped`] for so many of them. Returns how many files
/// they are.
pub(super) fn write(dir: &Path, policies: usize) -> Result<usize> {
    let cells = policies / CELL;
    for nth in 0..cells {
        let folder = dir.join(format!("{:04}", nth / FOLDER));
        fs::create_dir_all(&folder)?;
        for (name, policy) in cell(nth) {
            fs::write(
                folder.join(format!("{name}-{nth}.json")),
                policy.to_string(),
            )?;
        }
    }
    Ok(cells * 3)
}

/// One cell: the six rules about its tool, the one about its crew, the three about its
/// folder.
fn cell(nth: usize) -> [(&'static str, serde_json::Value); 3] {
    let (tool, team) = (policies::tool(nth), policies::team(nth));
    let rule = |effect: &str, role: &str, condition: &str| {
        let mut rule = json!({
            "actions": [ACTION],
            "effect": format!("EFFECT_{effect}"),
            "roles": [role],
        });
        if !condition.is_empty() {
            rule["condition"] = json!({"match": {"expr": condition}});
        }
        rule
    };
    let has = |field: &str, rest: &str| format!("has(R.attr.{field}){rest}");
    let of_tool = json!([
        rule(
            "ALLOW",
            "bench",
            &has("tool_name", &format!(" && R.attr.tool_name == \"{tool}\""))
        ),
        rule(
            "DENY",
            "*",
            &has("origin", " && R.attr.origin.startsWith(\"mcp:untrusted-\")")
        ),
        rule("ALLOW", "*", &format!("P.id == \"crew-{nth}\"")),
        rule(
            "ALLOW",
            "*",
            &format!(
                "P.id == \"{AGENT}\" && has(R.attr.framework) && R.attr.framework == \"bench\" && \
                 has(R.attr.session)"
            ),
        ),
        rule("DENY", "agent", "!(P.attr.age_seconds < 86400)"),
        rule("ALLOW", &team, &has("task", "")),
    ]);
    let mut of_folder = json!([
        rule("ALLOW", &team, "R.attr.sensitivity <= 2"),
        rule("ALLOW", "bench", "R.attr.owner == P.id"),
        rule("DENY", "*", &has("sealed", " && R.attr.sealed")),
    ]);
    for (rule, actions) in [
        (0, json!(["read"])),
        (1, json!(["edit"])),
        (2, json!(["read", "edit"])),
    ] {
        of_folder[rule]["actions"] = actions;
    }
    let resource = |name: &str, rules: serde_json::Value| {
        json!({
            "apiVersion": API,
            "resourcePolicy": {"resource": name, "version": "default", "rules": rules},
        })
    };
    let folder = policies::folder(nth).replace('-', "_");
    [
        ("tool", resource(&tool, of_tool)),
        ("folder", resource(&folder, of_folder)),
        ("crew", of_crew(nth)),
    ]
}

/// The rule that is about every tool.
fn of_crew(nth: usize) -> serde_json::Value {
    let planner = format!("has(R.attr.agent_name) && R.attr.agent_name == \"planner-{nth}\"");
    json!({
        "apiVersion": API,
        "principalPolicy": {
            "principal": format!("crew-{nth}"),
            "version": "default",
            "rules": [{
                "resource": "*",
                "actions": [{
                    "action": ACTION,
                    "effect": "EFFECT_ALLOW",
                    "condition": {"match": {"expr": planner}},
                }],
            }],
        },
    })
}

/// The same request for Cerbos: what ours says in its context stands in attributes of the
/// resource, with the arguments.
pub(super) fn check(case: &Case) -> Result<Check> {
    let request = &case.request;
    let mut attr = BTreeMap::new();
    let context: serde_json::Value = serde_json::from_slice(&request.context_json)?;
    for (name, value) in context.as_object().into_iter().flatten() {
        attr.insert(name.clone(), text(value.as_str().unwrap_or_default()));
    }
    attr.insert("session".to_owned(), text(&request.session_id));
    attr.insert("user".to_owned(), text(&request.user));
    let arguments = String::from_utf8(request.arguments_json.clone())?;
    attr.insert("arguments".to_owned(), text(&arguments));
    let roles = ROLES.iter().copied().chain(["agent"]);
    let age = Value {
        kind: Some(Kind::NumberValue(60.0)),
    };
    let tool = request.resource.as_ref().map(|r| r.id.clone());
    let request = CheckRequest {
        request_id: String::new(),
        principal: Some(Principal {
            id: AGENT.to_owned(),
            roles: roles.map(str::to_owned).collect(),
            attr: BTreeMap::from([("age_seconds".to_owned(), age)]),
        }),
        resources: vec![Entry {
            actions: vec![ACTION.to_owned()],
            resource: Some(Resource {
                kind: tool.unwrap_or_default(),
                id: "1".to_owned(),
                attr,
            }),
        }],
    };
    Ok(Check {
        request,
        allowed: case.expected == Expected::Allow,
    })
}

fn text(value: &str) -> Value {
    Value {
        kind: Some(Kind::StringValue(value.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload;

    #[test]
    fn each_policy_is_one_rule_and_each_request_has_its_tool() {
        let rules: usize = cell(7)
            .iter()
            .map(|(_, policy)| {
                let one = policy
                    .get("resourcePolicy")
                    .or(policy.get("principalPolicy"));
                one.and_then(|p| p["rules"].as_array())
                    .expect("rules")
                    .len()
            })
            .sum();
        assert_eq!(rules, CELL);
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(write(dir.path(), 20).expect("written"), 6);
        for case in workload::pool(20, 16).expect("pool") {
            let check = check(&case).expect("a check");
            let resource = check.request.resources[0].resource.clone().expect("one");
            let tool = case.request.resource.expect("a tool").id;
            assert_eq!(resource.kind, tool);
            assert!(resource.attr.contains_key("session"));
        }
    }
}
