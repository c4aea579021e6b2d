//! `zta policy evaluate`: Cedar's own semantics, offline.

use std::path::Path;

use serde_json::{Value, json};
use zta_server::model::EntityUid;
use zta_server::policy::{CedarItem, CedarSetup, evaluate_cedar};

use crate::cli::{Failure, line};

pub(super) fn evaluate(
    policies: &Path,
    schema: Option<&Path>,
    entities: Option<&Path>,
    requests: &Path,
) -> Result<(), Failure> {
    let read = |path: &Path| {
        std::fs::read_to_string(path)
            .map_err(|e| Failure::CouldNotRun(format!("cannot read `{}`: {e}", path.display())))
    };
    let optional = |path: Option<&Path>| path.map(read).transpose().map(Option::unwrap_or_default);
    let setup = CedarSetup::parse(&read(policies)?, &optional(schema)?, &optional(entities)?)
        .map_err(Failure::CouldNotRun)?;
    let file: Value = serde_json::from_str(&read(requests)?)
        .map_err(|e| Failure::CouldNotRun(format!("`{}`: {e}", requests.display())))?;
    let list = file
        .get("requests")
        .unwrap_or(&file)
        .as_array()
        .ok_or_else(|| {
            Failure::CouldNotRun(format!("`{}` holds no list `requests`", requests.display()))
        })?;
    let mut failed = 0;
    for (i, request) in list.iter().enumerate() {
        let item = cedar_item(request)
            .map_err(|why| Failure::CouldNotRun(format!("request {i}: {why}")))?;
        line(match evaluate_cedar(&setup, &item) {
            Ok(result) => json!({
                "decision": result.effect.as_str(),
                "reason": result.policies,
                "errors": result.errored,
            }),
            Err(why) => {
                failed += 1;
                json!({ "error": why })
            }
        })?;
    }
    if failed == 0 {
        Ok(())
    } else {
        Err(Failure::No(format!(
            "{failed} requests could not be evaluated"
        )))
    }
}

fn cedar_item(request: &Value) -> Result<CedarItem, String> {
    let uid = |name: &str| {
        let value = request
            .get(name)
            .ok_or_else(|| format!("`{name}` is missing"))?;
        let value = value.get("__entity").unwrap_or(value);
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        match (text("type"), text("id")) {
            (Some(ty), Some(id)) => Ok(EntityUid::new(ty, id)),
            _ => Err(format!("`{name}` is no object of type and id")),
        }
    };
    Ok(CedarItem {
        principal: uid("principal")?,
        action: uid("action")?,
        resource: uid("resource")?,
        context_json: request
            .get("context")
            .map(Value::to_string)
            .unwrap_or_default(),
        validate_request: request
            .get("validateRequest")
            .and_then(Value::as_bool)
            .unwrap_or(true),
    })
}
