//! The requests of the generator, and what each answer must be.

use serde_json::json;
use zta_client::Arguments;
use zta_proto::v1;

use crate::Result;

/// The tools, and what the real server must answer. The no-op server allows all.
const TOOLS: [(&str, Expected); 8] = [
    ("web_search", Expected::Allow),
    ("read_mail", Expected::Allow),
    ("summarize", Expected::Allow),
    ("send_money", Expected::Deny(v1::DenyReason::NotPermitted)),
    ("translate", Expected::Allow),
    ("plan_route", Expected::Allow),
    ("web_search", Expected::Allow),
    ("delete_records", Expected::Deny(v1::DenyReason::Forbidden)),
];
const SESSIONS: usize = 61;
const POOL: usize = 488;

/// What a right answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Allowed.
    Allow,
    /// Denied for this reason.
    Deny(v1::DenyReason),
}

/// A request and what the answer must say.
#[derive(Clone, Debug)]
pub struct Case {
    /// The request, without its correlation id.
    pub request: v1::AuthorizeRequest,
    /// What the answer must say.
    pub expected: Expected,
}

/// Requests that differ in tool, session and arguments. Made before the clock runs: the
/// generator shares the machine with what it measures.
///
/// # Errors
/// A defect of the generator.
pub fn pool() -> Result<Vec<Case>> {
    (0..POOL).map(case).collect()
}

fn case(n: usize) -> Result<Case> {
    let (tool, expected) = TOOLS[n % TOOLS.len()];
    let context = json!({"framework": "bench", "tool_name": tool});
    let request = call(tool, &context, n)?;
    Ok(Case { request, expected })
}

/// A tool call, the `n`th: its arguments, session and user vary with that.
///
/// # Errors
/// A defect of the generator.
pub(crate) fn call(
    tool: &str,
    context: &serde_json::Value,
    n: usize,
) -> Result<v1::AuthorizeRequest> {
    let language = ["en", "de", "fr"][n % 3];
    let arguments = Arguments::try_from(json!({
        "query": format!("what is item {n} and why does it matter"),
        "limit": n % 50,
        "options": {"language": language, "exact": n.is_multiple_of(2)},
    }))?;
    Ok(v1::AuthorizeRequest {
        action: Some(entity("ZTA::Action", "call_tool")),
        resource: Some(entity("ZTA::Tool", tool)),
        arguments_json: arguments.json().as_bytes().to_vec(),
        arguments_sha256: arguments.sha256().to_vec(),
        context_json: context.to_string().into_bytes(),
        session_id: format!("session-{}", n % SESSIONS),
        user: format!("user-{}", n % 7),
        ..Default::default()
    })
}

/// A reference to an entity.
pub(crate) fn entity(r#type: &str, id: &str) -> v1::EntityRef {
    v1::EntityRef {
        r#type: r#type.to_owned(),
        id: id.to_owned(),
    }
}

/// Reads an answer as a client that depends on it would.
///
/// # Errors
/// What is wrong with it. `after` is the sequence of this caller's answer before.
pub fn verify(
    case: &Case,
    correlation_id: &str,
    after: Option<u64>,
    answer: &v1::AuthorizeResponse,
) -> Result<()> {
    let tool = case.request.resource.as_ref().map_or("", |r| r.id.as_str());
    let found = match answer.effect() {
        v1::Effect::Allow if answer.reason() == v1::DenyReason::Unspecified => Expected::Allow,
        _ => Expected::Deny(answer.reason()),
    };
    if found != case.expected {
        let expected = case.expected;
        return Err(format!("{tool}: expected {expected:?}, the answer is {found:?}").into());
    }
    if answer.correlation_id != correlation_id || answer.decision_id.is_empty() {
        return Err(format!("{tool}: an answer without decision id, or to another request").into());
    }
    if answer.sequence == 0 || after.is_some_and(|after| answer.sequence <= after) {
        let sequence = answer.sequence;
        return Err(format!("{tool}: audit sequence {sequence} does not follow {after:?}").into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(sequence: u64) -> v1::AuthorizeResponse {
        v1::AuthorizeResponse {
            effect: v1::Effect::Allow.into(),
            decision_id: "id".into(),
            correlation_id: "c".into(),
            sequence,
            ..Default::default()
        }
    }

    #[test]
    fn the_pool_varies_and_holds_both_effects() {
        let pool = pool().expect("pool");
        let distinct = |key: fn(&Case) -> String| {
            let keys: std::collections::BTreeSet<_> = pool.iter().map(key).collect();
            keys.len()
        };
        assert_eq!(
            distinct(|c| format!("{:?}", c.request.arguments_json)),
            POOL
        );
        assert_eq!(distinct(|c| c.request.session_id.clone()), SESSIONS);
        let denied = pool.iter().filter(|c| c.expected != Expected::Allow);
        assert_eq!(denied.count(), POOL / 4);
    }

    #[test]
    fn a_wrong_answer_is_found() {
        let pool = pool().expect("pool");
        let (allowed, denied) = (&pool[0], &pool[3]);
        assert!(verify(allowed, "c", Some(4), &answer(5)).is_ok());
        assert!(verify(denied, "c", Some(4), &answer(5)).is_err());
        for (after, sequence) in [(None, 0), (Some(5), 5), (Some(6), 5)] {
            assert!(verify(allowed, "c", after, &answer(sequence)).is_err());
        }
        assert!(verify(allowed, "another", None, &answer(5)).is_err());
        let mut anonymous = answer(5);
        anonymous.decision_id.clear();
        assert!(verify(allowed, "c", None, &anonymous).is_err());
        let mut denial = answer(5);
        denial.effect = v1::Effect::Deny.into();
        denial.reason = v1::DenyReason::Stale.into();
        assert!(verify(denied, "c", None, &denial).is_err());
    }
}
