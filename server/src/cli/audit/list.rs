//! `zta audit list`: events by what they say, the newest first; or as they come.

use clap::Args;
use serde_json::{Value, json};
use zta_client::{Client, EventStream, v1};

use super::super::replay::{client_time, moment};
use super::super::{Failure, Options, line, printable, table};

/// Events that one call asks for.
const PAGE_MAX: u32 = 1000;
const HEADINGS: [&str; 9] = [
    "SEQ", "TIME", "TYPE", "EFFECT", "ACTOR", "ACTION", "RESOURCE", "REASON", "POLICIES",
];
/// A line of what comes one by one: columns as wide as most need.
const WIDTHS: [usize; 9] = [8, 27, 10, 6, 40, 20, 20, 18, 0];

/// Which events, all conditions together.
#[derive(Debug, Args)]
pub(crate) struct Listed {
    /// How many, at most.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
    /// Only this type, for example `decision`; may be given several times.
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Only since then: an age such as `90m`, `24h` or `7d`, or a time (RFC 3339).
    #[arg(long, value_name = "AGE|TIME")]
    since: Option<String>,
    /// Only before then.
    #[arg(long, value_name = "AGE|TIME")]
    until: Option<String>,
    /// Only what this agent did, by its name or SPIFFE ID.
    #[arg(long, value_name = "AGENT", conflicts_with = "actor")]
    agent: Option<String>,
    /// Only this actor's, by its Cedar id.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ID")]
    actor: String,
    /// Only of this session.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ID")]
    session: String,
    /// Only of this task.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ID")]
    task: String,
    /// Only of this action, by its id, for example `call_tool` or a declared tool's name.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ID")]
    action: String,
    /// Only about this resource, by its id, for example a tool's name.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ID")]
    resource: String,
    /// Only what was denied.
    #[arg(long, conflicts_with = "allowed")]
    denied: bool,
    /// Only what was allowed.
    #[arg(long)]
    allowed: bool,
    /// Only with this reason, for example `FORBIDDEN`.
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "REASON"
    )]
    reason: String,
    /// Only what this policy determined, by its `@id`.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ID")]
    policy: String,
    /// Only what this policy revision decided.
    #[arg(long, value_name = "NUMBER")]
    revision: Option<u64>,
    /// Only of this W3C trace, 32 hex digits.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ID")]
    trace: String,
    /// Only with this user, as the PEP named it.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ID")]
    user: String,
    /// Only with this correlation id of the PEP.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ID")]
    correlation_id: String,
    /// The oldest first.
    #[arg(long, conflicts_with = "follow")]
    oldest_first: bool,
    /// The newest `--limit` events, then each one as it comes, until it is stopped. A server
    /// that restarts is no end.
    #[arg(long)]
    follow: bool,
}

pub(crate) async fn run(options: &Options, listed: &Listed) -> Result<(), Failure> {
    let client = options.client()?;
    let request = request(options, listed)?;
    if !listed.follow {
        let events = pages(&client, request, listed.limit, u64::MAX).await?;
        return show(options, &events);
    }
    // The stream is opened first, so that nothing falls between it and the list.
    let mut stream = client.watch_events(watched(&request)).await?;
    let begin = place(stream.cursor());
    let mut before = pages(&client, request, listed.limit, begin).await?;
    before.reverse();
    follow(options, &before, &mut stream).await
}

fn request(options: &Options, listed: &Listed) -> Result<v1::ListEventsRequest, Failure> {
    let now = client_time();
    let effect = match (listed.denied, listed.allowed) {
        (true, _) => v1::Effect::Deny,
        (_, true) => v1::Effect::Allow,
        _ => v1::Effect::Unspecified,
    };
    let actor_id = match &listed.agent {
        Some(id) if id.starts_with("spiffe://") => id.clone(),
        Some(name) => format!("spiffe://{}/agent/{name}", options.trust_domain()?),
        None => listed.actor.clone(),
    };
    Ok(v1::ListEventsRequest {
        types: listed.types.clone(),
        actor_id,
        effect: effect.into(),
        start_time: moment("--since", listed.since.as_deref(), now)?,
        end_time: moment("--until", listed.until.as_deref(), now)?,
        descending: !listed.oldest_first,
        resource_id: listed.resource.clone(),
        action_id: listed.action.clone(),
        session_id: listed.session.clone(),
        task_id: listed.task.clone(),
        reason: listed.reason.clone(),
        policy_id: listed.policy.clone(),
        revision: listed.revision,
        trace_id: listed.trace.clone(),
        user_id: listed.user.clone(),
        correlation_id: listed.correlation_id.clone(),
        ..Default::default()
    })
}

/// The same conditions for a stream.
fn watched(request: &v1::ListEventsRequest) -> v1::WatchEventsRequest {
    let request = request.clone();
    v1::WatchEventsRequest {
        start: None,
        types: request.types,
        actor_id: request.actor_id,
        effect: request.effect,
        start_time: request.start_time,
        end_time: request.end_time,
        resource_id: request.resource_id,
        action_id: request.action_id,
        session_id: request.session_id,
        task_id: request.task_id,
        reason: request.reason,
        policy_id: request.policy_id,
        revision: request.revision,
        trace_id: request.trace_id,
        user_id: request.user_id,
        correlation_id: request.correlation_id,
    }
}

/// Events below a place, page by page: one that is empty says only that it goes on.
async fn pages(
    client: &Client,
    mut request: v1::ListEventsRequest,
    limit: u32,
    below: u64,
) -> Result<Vec<v1::AuditEvent>, Failure> {
    let mut events = Vec::new();
    request.page_size = limit.min(PAGE_MAX);
    loop {
        let answer = client.audit().list_events(request.clone()).await?;
        let answer = answer.into_inner();
        let page = answer.events.into_iter();
        events.extend(page.filter(|event| event.sequence < below));
        let enough = events.len() >= limit as usize;
        if enough || answer.next_page_token.is_empty() {
            events.truncate(limit as usize);
            return Ok(events);
        }
        request.page_token = answer.next_page_token;
    }
}

async fn follow(
    options: &Options,
    before: &[v1::AuditEvent],
    stream: &mut EventStream,
) -> Result<(), Failure> {
    if !options.json {
        line(wide(&HEADINGS.map(str::to_owned)))?;
    }
    for event in before {
        one(options, event)?;
    }
    loop {
        one(options, &stream.next().await?)?;
    }
}

fn one(options: &Options, event: &v1::AuditEvent) -> Result<(), Failure> {
    let leaf = leaf(event)?;
    line(match options.json {
        true => json_line(event, &leaf),
        false => wide(&row(event, &leaf)),
    })
}

fn show(options: &Options, events: &[v1::AuditEvent]) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for event in events {
        let leaf = leaf(event)?;
        match options.json {
            true => line(json_line(event, &leaf))?,
            false => rows.push(row(event, &leaf).to_vec()),
        }
    }
    match options.json {
        true => Ok(()),
        false => table(&HEADINGS, &rows),
    }
}

fn leaf(event: &v1::AuditEvent) -> Result<Value, Failure> {
    serde_json::from_slice(&event.leaf)
        .map_err(|e| Failure::CouldNotRun(format!("event {} is no JSON: {e}", event.sequence)))
}

fn json_line(event: &v1::AuditEvent, leaf: &Value) -> String {
    json!({ "sequence": event.sequence, "event": leaf }).to_string()
}

fn row(event: &v1::AuditEvent, leaf: &Value) -> [String; 9] {
    let text = |pointer: &str| {
        let found = leaf.pointer(pointer).and_then(Value::as_str);
        printable(found.unwrap_or_default())
    };
    let policies = leaf["policies"].as_array().into_iter().flatten();
    let policies: Vec<&str> = policies.filter_map(Value::as_str).collect();
    [
        event.sequence.to_string(),
        text("/time"),
        text("/type"),
        text("/effect"),
        text("/actor/id"),
        text("/action/id"),
        text("/resource/id"),
        text("/reason"),
        printable(&policies.join(",")),
    ]
}

fn wide(cells: &[String; 9]) -> String {
    let padded = cells.iter().zip(WIDTHS);
    let padded: Vec<String> = padded
        .map(|(cell, width)| format!("{cell:<width$}"))
        .collect();
    padded.join("  ").trim_end().to_owned()
}

/// The place that a cursor names.
fn place(cursor: &str) -> u64 {
    let place = cursor.rsplit_once(':').map_or("", |(_, place)| place);
    place.parse().unwrap_or(u64::MAX)
}
