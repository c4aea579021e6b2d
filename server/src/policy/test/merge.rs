//! A row takes from its case what it leaves out, and a case from the defaults.

use serde_json::Value;

use super::file::{CaseText, FactsText};

/// `over` laid over `under`. Objects of `arguments` and `context`, and `facts`, are merged
/// key by key; everything else is replaced whole. Names and rows are not passed on.
pub(super) fn merge(under: &CaseText, over: &CaseText) -> CaseText {
    // A tool stands for an action and a resource: whichever is nearer holds.
    let by_tool = over.tool.is_some();
    let by_pair = over.action.is_some() || over.resource.is_some();
    let below = |there: bool, value: &Option<String>| match there {
        true => None,
        false => value.clone(),
    };
    CaseText {
        name: over.name.clone(),
        principal: over.principal.clone().or_else(|| under.principal.clone()),
        tool: over.tool.clone().or_else(|| below(by_pair, &under.tool)),
        action: over
            .action
            .clone()
            .or_else(|| below(by_tool, &under.action)),
        resource: (over.resource.clone()).or_else(|| below(by_tool, &under.resource)),
        arguments: object(&under.arguments, &over.arguments),
        context: object(&under.context, &over.context),
        user: over.user.clone().or_else(|| under.user.clone()),
        session: over.session.clone().or_else(|| under.session.clone()),
        task: over.task.clone().or_else(|| under.task.clone()),
        supported_obligations: (over.supported_obligations.clone())
            .or_else(|| under.supported_obligations.clone()),
        stored: over.stored.clone().or_else(|| under.stored.clone()),
        brings: over.brings.clone().or_else(|| under.brings.clone()),
        facts: facts(&under.facts, &over.facts),
        expect: over.expect.clone().or_else(|| under.expect.clone()),
        rows: None,
    }
}

fn object(under: &Option<Value>, over: &Option<Value>) -> Option<Value> {
    match (under, over) {
        (Some(Value::Object(under)), Some(Value::Object(over))) => {
            let mut merged = under.clone();
            merged.extend(over.clone());
            Some(Value::Object(merged))
        }
        (under, over) => over.clone().or_else(|| under.clone()),
    }
}

fn facts(under: &Option<FactsText>, over: &Option<FactsText>) -> Option<FactsText> {
    let (Some(under), Some(over)) = (under, over) else {
        return over.clone().or_else(|| under.clone());
    };
    Some(FactsText {
        now: over.now.clone().or_else(|| under.now.clone()),
        source: over.source.clone().or_else(|| under.source.clone()),
        authentication: (over.authentication.clone()).or_else(|| under.authentication.clone()),
        delegation: over.delegation.clone().or_else(|| under.delegation.clone()),
    })
}
