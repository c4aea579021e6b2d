//! The context that policies see: `zta` is the server's, `request` the PEP's, `input` the
//! tool's arguments.

use std::collections::BTreeMap;
use std::sync::Arc;

use cedar_policy_core::ast::{Context, Value};
use time::OffsetDateTime;

use super::actions::ActionInfo;
use super::convert::{self, DATETIME, IP, Path, construct};
use super::evaluate::Facts;
use crate::model::AccessRequest;
use crate::model::arguments::Arguments;

/// The context of a request, its values converted by the action's declared types.
///
/// # Errors
/// What does not fit, without its value.
pub(super) fn context(
    info: &ActionInfo,
    request: &AccessRequest,
    facts: &Facts,
    delegation: Option<Value>,
) -> Result<Context, String> {
    let server = server_facts(request, facts, delegation)?;
    let mut pairs = BTreeMap::from([("zta".into(), server)]);
    let pep = request
        .pep_context
        .as_ref()
        .map_err(|e| format!("the context: {e}"))?;
    let path = Path::Root("context.request");
    let mut fields = convert::record(pep.fields(), &info.request, &path)?;
    if let Some(user) = &request.user {
        fields.retain(|(name, _)| name != "user");
        fields.push(("user".to_owned(), user.as_str().into()));
    }
    pairs.insert("request".into(), Value::record(fields, None));
    if let Some(attributes) = &info.input {
        let fields = match &request.arguments {
            Some(parsed) => parsed.as_ref().map(Arguments::fields),
            None => Ok([].as_slice()),
        };
        let fields = fields.map_err(|e| format!("the arguments: {e}"))?;
        let input = convert::record(fields, attributes, &Path::Root("input"))?;
        pairs.insert("input".into(), Value::record(input, None));
    } else if let Some(Err(e)) = &request.arguments {
        return Err(format!("the arguments: {e}"));
    }
    Ok(Context::Value(Arc::new(pairs)))
}

fn server_facts(
    request: &AccessRequest,
    facts: &Facts,
    delegation: Option<Value>,
) -> Result<Value, String> {
    let defect = |what: &str| format!("the server's own {what} is none that Cedar reads");
    let authentication = Value::record(
        [
            ("method", facts.authentication_method.into()),
            ("age_seconds", Value::from(facts.authentication_age_seconds)),
        ],
        None,
    );
    let now = construct(&DATETIME, &cedar_time(facts.now)).ok_or_else(|| defect("time"))?;
    let mut fields = vec![("now", now), ("authentication", authentication)];
    if let Some(ip) = facts.source {
        let ip = construct(&IP, &ip.to_string()).ok_or_else(|| defect("source"))?;
        fields.push(("source", ip));
    }
    fields.extend(delegation.map(|delegation| ("delegation", delegation)));
    if let Some(session) = &request.session_id {
        fields.push(("session", session.as_str().into()));
    }
    if let Some(task) = &request.task_id {
        fields.push(("task", task.as_str().into()));
    }
    Ok(Value::record(fields, None))
}

/// The form that Cedar's `datetime` reads.
fn cedar_time(now: OffsetDateTime) -> String {
    let t = now.to_offset(time::UtcOffset::UTC);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        t.year(),
        u8::from(t.month()),
        t.day(),
        t.hour(),
        t.minute(),
        t.second(),
        t.millisecond()
    )
}
