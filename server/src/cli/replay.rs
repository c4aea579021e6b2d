//! `zta policy replay`: what a change of policy would have decided otherwise.

use std::io::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zta_client::v1;
use zta_client::v1::replay_response::Step;

use super::{Failure, Options, line, policy, time_text};

/// What to replay, and under what.
#[derive(Debug, Args)]
pub(crate) struct Request {
    /// Folders with `*.cedar` and `*.cedarschema` files: the candidate.
    #[arg(required_unless_present = "revision", conflicts_with = "revision")]
    folders: Vec<PathBuf>,
    /// A revision of the server, instead of folders.
    #[arg(long, value_name = "NUMBER")]
    revision: Option<u64>,
    /// Only decisions since then: an age such as `90m`, `24h` or `7d`, or a time (RFC 3339).
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Only decisions before then, likewise.
    #[arg(long, value_name = "WHEN")]
    until: Option<String>,
    /// Only decisions of this actor: a SPIFFE ID, or `<issuer>#<id>`.
    #[arg(long, value_name = "ID")]
    actor: Option<String>,
    /// Only decisions about this action, by its id, such as `call_tool`.
    #[arg(long, value_name = "ID")]
    action: Option<String>,
    /// Of all these a part, such as `0.1`: the same ones each time.
    #[arg(long, value_name = "PART", default_value_t = 0.0)]
    sample: f64,
    /// At most so many, the oldest first.
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    limit: u64,
}

pub(super) async fn replay(options: &Options, request: Request) -> Result<(), Failure> {
    let client = options.client()?;
    let now = client_time();
    let mut wire = v1::ReplayRequest {
        revision: request.revision.unwrap_or_default(),
        start_time: moment("--since", request.since.as_deref(), now)?,
        end_time: moment("--until", request.until.as_deref(), now)?,
        actor_id: request.actor.unwrap_or_default(),
        action_id: request.action.unwrap_or_default(),
        sample: request.sample,
        decisions_max: request.limit,
        ..v1::ReplayRequest::default()
    };
    if request.revision.is_none() {
        let offer = policy::offer(options, &client, &request.folders, None).await?;
        wire.patch = Some(offer.patch);
    }
    let mut answers = client.policies().replay(wire).await?.into_inner();
    let mut report = None;
    while let Some(answer) = answers.message().await? {
        match answer.step {
            Some(Step::Progress(progress)) => tell(options, &progress),
            Some(Step::Report(found)) => report = Some(found),
            None => {}
        }
    }
    let report = report.ok_or_else(|| {
        Failure::CouldNotRun("the replay ended without a report; try again".to_owned())
    })?;
    match options.json {
        true => line(report_json(&report))?,
        false => show(&report)?,
    }
    match report.flipped {
        0 => Ok(()),
        n => Err(Failure::No(format!("{n} decisions would flip"))),
    }
}

/// How far it is, for a person who watches: on the standard error, so that the report can
/// go elsewhere.
fn tell(options: &Options, progress: &v1::ReplayProgress) {
    if options.json || !std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        return;
    }
    let (at, end) = (progress.sequence, progress.end_sequence.max(1));
    let percent = (u128::from(at) * 100 / u128::from(end)).min(100);
    let replayed = progress.replayed;
    let _ = write!(std::io::stderr(), "\r{percent:>3} %  {replayed} decisions");
    if at + 1 >= end {
        let _ = writeln!(std::io::stderr());
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "an age is told from the user's clock"
)]
pub(super) fn client_time() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

/// An age or a time.
pub(super) fn moment(
    option: &str,
    text: Option<&str>,
    now: OffsetDateTime,
) -> Result<Option<prost_types::Timestamp>, Failure> {
    let time = text.map(|text| past(option, text, now)).transpose()?;
    Ok(time.map(|time| prost_types::Timestamp {
        seconds: time.unix_timestamp(),
        nanos: i32::try_from(time.nanosecond()).unwrap_or(0),
    }))
}

/// What an age or a time says.
pub(super) fn past(
    option: &str,
    text: &str,
    now: OffsetDateTime,
) -> Result<OffsetDateTime, Failure> {
    let bad = || {
        let what =
            "is an age such as `90m`, `24h` or `7d`, or a time such as `2026-11-20T00:00:00Z`";
        Failure::CouldNotRun(format!("{option} {what}, not `{text}`"))
    };
    match OffsetDateTime::parse(text, &Rfc3339) {
        Ok(time) => Ok(time),
        Err(_) => {
            let unit = text.chars().last().ok_or_else(bad)?;
            let count = text.strip_suffix(unit).and_then(|n| n.parse::<u32>().ok());
            let seconds = match unit {
                's' => 1,
                'm' => 60,
                'h' => 3_600,
                'd' => 86_400,
                'w' => 604_800,
                _ => return Err(bad()),
            };
            let age = i64::from(count.ok_or_else(bad)?) * seconds;
            now.checked_sub(time::Duration::seconds(age))
                .ok_or_else(bad)
        }
    }
}

fn id(entity: Option<&v1::EntityRef>) -> &str {
    entity.map_or("", |entity| entity.id.as_str())
}

fn outcome_text(outcome: Option<&v1::ReplayOutcome>) -> String {
    let Some(outcome) = outcome else {
        return String::new();
    };
    let effect = effect(outcome.effect());
    let mut text = match outcome.reason.as_str() {
        "" => effect.to_owned(),
        reason => format!("{effect} ({reason})"),
    };
    if !outcome.policy_ids.is_empty() {
        text += &format!(" by {}", outcome.policy_ids.join(", "));
    }
    let obligations: Vec<&str> = outcome.obligations.iter().map(|o| &*o.name).collect();
    if !obligations.is_empty() {
        text += &format!(", must {}", obligations.join(", "));
    }
    text
}

fn effect(effect: v1::Effect) -> &'static str {
    match effect {
        v1::Effect::Allow => "allow",
        v1::Effect::Deny | v1::Effect::Unspecified => "deny",
    }
}

fn show(report: &v1::ReplayReport) -> Result<(), Failure> {
    for group in &report.groups {
        let flips = effect(
            group
                .before
                .as_ref()
                .map_or(v1::Effect::Deny, |o| o.effect()),
        ) != effect(
            group
                .after
                .as_ref()
                .map_or(v1::Effect::Deny, |o| o.effect()),
        );
        let mark = if flips { "FLIP" } else { "    " };
        line(format!(
            "{mark} {:>8} x  {}  {}",
            group.count,
            id(group.actor.as_ref()),
            id(group.action.as_ref())
        ))?;
        line(format!(
            "       was      {}",
            outcome_text(group.before.as_ref())
        ))?;
        line(format!(
            "       would be {}",
            outcome_text(group.after.as_ref())
        ))?;
        for example in &group.examples {
            line(format!(
                "       e.g.     {}  #{}  {}",
                time_text(example.decide_time),
                example.sequence,
                id(example.resource.as_ref())
            ))?;
        }
    }
    if report.ungrouped > 0 {
        line(format!("and {} more in further groups", report.ungrouped))?;
    }
    line(format!(
        "{} decisions replayed: {} would flip, {} would change in reason, policies or obligations",
        report.replayed, report.flipped, report.changed
    ))?;
    let mut skipped: Vec<_> = report.skipped.iter().collect();
    skipped.sort_unstable();
    for (why, count) in skipped {
        line(format!("{count} not replayed: {}", meaning(why)))?;
    }
    if report.truncated {
        line("there are more decisions than --limit")?;
    }
    Ok(())
}

fn meaning(why: &str) -> &str {
    match why {
        "DESTROYED" => "their inputs were destroyed",
        "REDACTED" => "a part of their inputs was redacted",
        "ALTERED" => "their inputs are not those that they were made from: run `zta audit verify`",
        "CONTAINED" => "no policy was asked, because a party was suspended, isolated or revoked",
        "MISFIT" => "the entities of that time do not fit the candidate's schema",
        other => other,
    }
}

fn report_json(report: &v1::ReplayReport) -> Value {
    let entity = |entity: Option<&v1::EntityRef>| {
        entity.map(|entity| json!({ "type": entity.r#type, "id": entity.id }))
    };
    let outcome = |outcome: Option<&v1::ReplayOutcome>| {
        outcome.map(|outcome| {
            let obligations: Vec<Value> = outcome
                .obligations
                .iter()
                .map(|o| json!({ "name": o.name, "policy": o.policy_id }))
                .collect();
            json!({
                "effect": effect(outcome.effect()),
                "reason": outcome.reason,
                "policies": outcome.policy_ids,
                "obligations": obligations,
            })
        })
    };
    let example = |example: &v1::ReplayExample| {
        json!({
            "sequence": example.sequence,
            "decision_id": example.decision_id,
            "time": time_text(example.decide_time),
            "resource": entity(example.resource.as_ref()),
            "revision": example.revision,
        })
    };
    let group = |group: &v1::ReplayGroup| {
        let examples: Vec<Value> = group.examples.iter().map(example).collect();
        json!({
            "actor": entity(group.actor.as_ref()),
            "action": entity(group.action.as_ref()),
            "before": outcome(group.before.as_ref()),
            "after": outcome(group.after.as_ref()),
            "count": group.count,
            "examples": examples,
        })
    };
    let groups: Vec<Value> = report.groups.iter().map(group).collect();
    let skipped: std::collections::BTreeMap<_, _> = report.skipped.iter().collect();
    json!({
        "replayed": report.replayed,
        "flipped": report.flipped,
        "changed": report.changed,
        "skipped": skipped,
        "groups": groups,
        "ungrouped": report.ungrouped,
        "truncated": report.truncated,
    })
}
