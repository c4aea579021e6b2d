//! `zta policy explain`: why a request is decided as it is.

use clap::Args;
use serde_json::{Value, json};
use zta_client::v1;

use super::{Failure, Options, line};

/// A request to be explained.
#[derive(Debug, Args)]
pub(crate) struct Request {
    /// The agent, by its name or SPIFFE ID.
    agent: String,
    /// The action: `call_tool`, or with its type, `Crew::Action::read_document`.
    action: String,
    /// The resource: a tool's name, or with its type, `Crew::Document::q3`.
    resource: String,
    /// The tool's arguments, a JSON object.
    #[arg(long, value_name = "JSON", default_value = "")]
    arguments: String,
    /// What the PEP says about the call, a JSON object.
    #[arg(long, value_name = "JSON", default_value = "")]
    context: String,
    /// An obligation that the PEP can carry out; may be given several times.
    #[arg(long = "supports", value_name = "OBLIGATION")]
    supported: Vec<String>,
    /// The user that the guard would name.
    #[arg(long, default_value = "")]
    user: String,
}

/// `Type::id`, where the id is what follows the last `::`, quoted or not.
fn reference(text: &str, default_type: &str) -> v1::EntityRef {
    // What is quoted is an id as a whole, and so is a SPIFFE ID.
    let (ty, id) = match text.split_once("::\"") {
        Some((ty, quoted)) => (ty, quoted.trim_end_matches('"')),
        None => text.rsplit_once("::").unwrap_or((default_type, text)),
    };
    v1::EntityRef {
        r#type: ty.to_owned(),
        id: id.to_owned(),
    }
}

/// Exit code 0 for an allow, 1 for a deny.
pub(super) async fn explain(options: &Options, request: Request) -> Result<(), Failure> {
    let client = options.client()?;
    let principal = if request.agent.contains("://") {
        request.agent.clone()
    } else {
        let get = v1::AgentServiceGetRequest {
            agent: request.agent.clone(),
        };
        let found = client.agents().get(get).await?.into_inner();
        found.agent.unwrap_or_default().spiffe_id
    };
    let asked = v1::ExplainRequest {
        request: Some(v1::AuthorizeRequest {
            action: Some(reference(&request.action, "ZTA::Action")),
            resource: Some(reference(&request.resource, "ZTA::Tool")),
            arguments_json: request.arguments.into_bytes(),
            context_json: request.context.into_bytes(),
            user: request.user,
            supported_obligations: request.supported,
            ..v1::AuthorizeRequest::default()
        }),
        principal: Some(v1::EntityRef {
            r#type: "ZTA::Agent".to_owned(),
            id: principal,
        }),
    };
    let story = client.authorization().explain(asked).await?.into_inner();
    if options.json {
        line(as_json(&story))?;
    } else {
        for text in as_text(&story) {
            line(text)?;
        }
    }
    match story.effect() {
        v1::Effect::Allow => Ok(()),
        _ => Err(Failure::No(story.message)),
    }
}

fn outcome_name(outcome: v1::PolicyOutcome) -> &'static str {
    match outcome {
        v1::PolicyOutcome::Satisfied => "holds",
        v1::PolicyOutcome::NotSatisfied => "is false",
        v1::PolicyOutcome::Errored => "cannot be evaluated",
        v1::PolicyOutcome::Unspecified => "is not known",
    }
}

fn verb(policy: &v1::ExplainedPolicy) -> &'static str {
    match policy.effect() {
        v1::Effect::Allow => "permit",
        _ => "forbid",
    }
}

fn reason_name(story: &v1::ExplainResponse) -> &'static str {
    story
        .reason()
        .as_str_name()
        .trim_start_matches("DENY_REASON_")
}

fn as_text(story: &v1::ExplainResponse) -> Vec<String> {
    let verdict = match story.effect() {
        v1::Effect::Allow => "ALLOW".to_owned(),
        _ => format!("DENY {}", reason_name(story)),
    };
    let mut lines = vec![
        format!("{verdict}: {}", story.message),
        format!(
            "revision {}: the scope of {} of {} policies matches",
            story.revision, story.policies_matching, story.policies_in_force
        ),
    ];
    for policy in &story.policies {
        let mark = if policy.determining { "*" } else { " " };
        let (verb, outcome) = (verb(policy), outcome_name(policy.outcome()));
        let place = match policy.file.as_str() {
            "" => String::new(),
            file => format!("  ({file}:{})", policy.line),
        };
        lines.push(format!(
            "{mark} {verb} {} {outcome}{place}",
            policy.policy_id
        ));
        for condition in &policy.conditions {
            let (text, outcome) = (&condition.text, outcome_name(condition.outcome()));
            let error = match condition.error.as_str() {
                "" => String::new(),
                error => format!(": {error}"),
            };
            lines.push(format!("      {text}   {outcome}{error}"));
        }
    }
    lines.push(format!("context {}", story.context_json));
    for entity in &story.entities {
        let uid = entity.uid.clone().unwrap_or_default();
        let above = entity.parents.iter();
        let above: Vec<String> = above.map(|p| format!("{}::{:?}", p.r#type, p.id)).collect();
        lines.push(format!(
            "entity  {}::{:?} {} in [{}]",
            uid.r#type,
            uid.id,
            entity.attributes_json,
            above.join(", ")
        ));
    }
    lines
}

fn as_json(story: &v1::ExplainResponse) -> Value {
    let raw = |text: &str| serde_json::from_str(text).unwrap_or(Value::Null);
    let uid = |uid: &v1::EntityRef| json!({"type": uid.r#type, "id": uid.id});
    let policies = story.policies.iter().map(|policy| {
        let conditions = policy.conditions.iter().map(
            |c| json!({"text": c.text, "outcome": outcome_name(c.outcome()), "error": c.error}),
        );
        json!({
            "policy_id": policy.policy_id,
            "effect": verb(policy),
            "outcome": outcome_name(policy.outcome()),
            "determining": policy.determining,
            "conditions": conditions.collect::<Vec<_>>(),
            "annotations": policy.annotations,
            "file": policy.file,
            "line": policy.line,
        })
    });
    let entities = story.entities.iter().map(|entity| {
        json!({
            "uid": entity.uid.as_ref().map(uid),
            "attrs": raw(&entity.attributes_json),
            "ancestors": entity.parents.iter().map(uid).collect::<Vec<_>>(),
            "tags": raw(&entity.tags_json),
        })
    });
    json!({
        "effect": if story.effect() == v1::Effect::Allow { "allow" } else { "deny" },
        "reason": reason_name(story),
        "message": story.message,
        "revision": story.revision,
        "sequence": story.sequence,
        "policies_matching": story.policies_matching,
        "policies_in_force": story.policies_in_force,
        "policies": policies.collect::<Vec<_>>(),
        "context": raw(&story.context_json),
        "entities": entities.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_as_people_write_them() {
        for (text, ty, id) in [
            ("web_search", "ZTA::Tool", "web_search"),
            ("Crew::Document::q3", "Crew::Document", "q3"),
            ("Crew::Document::\"a::b\"", "Crew::Document", "a::b"),
            ("server/tool", "ZTA::Tool", "server/tool"),
        ] {
            let found = reference(text, "ZTA::Tool");
            assert_eq!(
                (found.r#type.as_str(), found.id.as_str()),
                (ty, id),
                "{text}"
            );
        }
    }
}
