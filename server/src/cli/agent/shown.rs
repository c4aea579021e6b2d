//! An agent, its keys and its history, for people and for scripts.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tonic::Code;
use zta_client::{Client, v1};

use crate::cli::{Failure, Options, line, table, time_text};

/// Events of a history, the newest ones.
const HISTORY_MAX: u32 = 10;
/// What happens to an agent beside what is done about it.
const OWN_EVENTS: [&str; 3] = ["enrolled", "recovered", "clone_detected"];

pub(super) fn agent_json(agent: &v1::Agent) -> Value {
    let attributes: BTreeMap<_, _> = agent.attributes.iter().collect();
    json!({
        "name": agent.name,
        "spiffe_id": agent.spiffe_id,
        "state": state(agent),
        "roles": agent.roles,
        "owner": agent.owner,
        "zone": agent.zone,
        "attributes": attributes,
        "audiences": agent.audiences,
        "certificate_lifetime_max_s": agent.certificate_lifetime_max_s,
        "token_lifetime_max_s": agent.token_lifetime_max_s,
        "delegation_depth_max": agent.delegation_depth_max,
        "instances": agent.instances,
        "create_time": time_text(agent.create_time),
    })
}

pub(super) fn state(agent: &v1::Agent) -> String {
    plain(agent.state().as_str_name(), "AGENT_STATE_")
}

fn plain(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).to_ascii_lowercase()
}

fn key_state(key: &v1::Instance) -> String {
    plain(key.state().as_str_name(), "INSTANCE_STATE_")
}

pub(in crate::cli) fn key_json(key: &v1::Instance) -> Value {
    json!({
        "instance_id": key.instance_id,
        "state": key_state(key),
        "generation": key.generation,
        "used_generation": key.used_generation,
        "recoveries": key.recoveries,
        "key_sha256": hex::encode(&key.key_sha256),
        "create_time": time_text(key.create_time),
    })
}

/// `zta agent keys`
pub(super) async fn keys(options: &Options, agent: &str) -> Result<(), Failure> {
    let keys = all_keys(&options.client()?, agent).await?;
    if options.json {
        return keys.iter().try_for_each(|key| line(key_json(key)));
    }
    keys_table(&keys)
}

pub(in crate::cli) fn keys_table(keys: &[v1::Instance]) -> Result<(), Failure> {
    let rows: Vec<Vec<String>> = keys
        .iter()
        .map(|key| {
            vec![
                key.instance_id.clone(),
                key_state(key),
                key.generation.to_string(),
                key.used_generation.to_string(),
                key.recoveries.to_string(),
                time_text(key.create_time),
            ]
        })
        .collect();
    let headings = [
        "KEY",
        "STATE",
        "GENERATION",
        "USED",
        "RECOVERIES",
        "ENROLLED",
    ];
    table(&headings, &rows)
}

async fn all_keys(client: &Client, agent: &str) -> Result<Vec<v1::Instance>, Failure> {
    let mut keys = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListInstancesRequest {
            agent: agent.to_owned(),
            page_size: 1000,
            page_token,
        };
        let page = client.agents().list_instances(request).await?.into_inner();
        keys.extend(page.instances);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(keys);
        }
    }
}

/// `zta agent show`
pub(super) async fn show(options: &Options, agent: String) -> Result<(), Failure> {
    let client = options.client()?;
    let request = v1::AgentServiceGetRequest {
        agent: agent.clone(),
    };
    let answer = client.agents().get(request).await?.into_inner();
    let found = answer.agent.unwrap_or_default();
    let keys = all_keys(&client, &agent).await?;
    let history = history(&client, &found.spiffe_id).await?;
    if options.json {
        let mut shown = agent_json(&found);
        shown["keys"] = keys.iter().map(key_json).collect();
        shown["history"] = json!(history);
        return line(shown);
    }
    for (name, value) in facts(&found) {
        line(format!("{name:<12}{value}").trim_end())?;
    }
    line("")?;
    keys_table(&keys)?;
    line("")?;
    match history {
        None => line("history: you may not read the audit log"),
        Some(events) => {
            let rows: Vec<Vec<String>> = events.iter().map(event_row).collect();
            table(&["SEQUENCE", "TIME", "WHAT", "BY", "NOTE"], &rows)
        }
    }
}

fn facts(agent: &v1::Agent) -> Vec<(&'static str, String)> {
    let attributes: BTreeMap<_, _> = agent.attributes.iter().collect();
    let attributes: Vec<String> = attributes.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let limit = |value: Option<u32>| value.map_or_else(|| "-".to_owned(), |v| v.to_string());
    vec![
        ("name", agent.name.clone()),
        ("id", agent.spiffe_id.clone()),
        ("state", state(agent)),
        ("roles", agent.roles.join(", ")),
        ("owner", agent.owner.clone()),
        ("zone", agent.zone.clone()),
        ("attributes", attributes.join(", ")),
        ("audiences", agent.audiences.join(", ")),
        (
            "limits",
            format!(
                "certificates {} s, tokens {} s, delegation {}",
                limit(agent.certificate_lifetime_max_s),
                limit(agent.token_lifetime_max_s),
                limit(agent.delegation_depth_max),
            ),
        ),
        ("registered", time_text(agent.create_time)),
    ]
}

/// What was done about an agent and what happened to its keys, the newest first; `None`
/// for one who may not read it.
async fn history(client: &Client, id: &str) -> Result<Option<Vec<Value>>, Failure> {
    let acts = v1::ListEventsRequest {
        page_size: HISTORY_MAX,
        types: vec!["admin".to_owned()],
        resource_id: id.to_owned(),
        descending: true,
        ..Default::default()
    };
    let own = v1::ListEventsRequest {
        page_size: HISTORY_MAX,
        types: OWN_EVENTS.map(str::to_owned).to_vec(),
        actor_id: id.to_owned(),
        descending: true,
        ..Default::default()
    };
    let mut events = BTreeMap::new();
    for request in [acts, own] {
        let page = match client.audit().list_events(request).await {
            Ok(page) => page.into_inner(),
            Err(status) if status.code() == Code::PermissionDenied => return Ok(None),
            Err(status) => return Err(status.into()),
        };
        for event in page.events {
            let leaf: Value = serde_json::from_slice(&event.leaf)
                .map_err(|e| Failure::CouldNotRun(format!("event {}: {e}", event.sequence)))?;
            let told = json!({
                "sequence": event.sequence,
                "time": time_text(event.time),
                "event": leaf,
            });
            events.insert(std::cmp::Reverse(event.sequence), told);
        }
    }
    Ok(Some(
        events.into_values().take(HISTORY_MAX as usize).collect(),
    ))
}

fn event_row(told: &Value) -> Vec<String> {
    let leaf = &told["event"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut what = match leaf["action"]["id"].as_str() {
        Some(action) => action.to_owned(),
        None => text(&leaf["type"]),
    };
    if leaf["effect"] == "deny" {
        what.push_str(" (denied)");
    } else if leaf["detail"]["failed"].is_string() {
        what.push_str(" (failed)");
    }
    let by = text(&leaf["actor"]["id"]);
    vec![
        told["sequence"].to_string(),
        text(&told["time"]),
        what,
        by.rsplit(['/', '#']).next().unwrap_or_default().to_owned(),
        text(&leaf["detail"]["note"]),
    ]
}
