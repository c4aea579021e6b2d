//! Tests in the format of Cedar's command line (`cedar run-tests`), in `*.test.json`: a
//! list of `{name, request, entities, decision, reason, num_errors}`.
//!
//! The format has one context and one list of entities; a request to ZTA has its facts,
//! its registry and its store. So `context.zta` is read as the facts, `context.request` as
//! what the PEP says and `context.input` as the arguments; entities of agents, users and
//! workloads are the registry, the others are stored. As there, `reason` must be among the
//! determining policies, and obligations are no matter: all are supported.

use std::str::FromStr as _;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::case::{At, Case, CedarExpect, Expect, NOW, sorted};
use super::file::DecisionText;
use super::world::{Registry, active, object, stored, uid};
use crate::model::{
    AccessRequest, Effect, EntityUid, GivenEntity, Principal, PrincipalKind, SourceFile,
};
use crate::policy::compile::Compiled;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::evaluate::{Facts, Parties as _};
use crate::policy::limits::TEST_FIXTURES_MAX;

/// One test, as Cedar's command line reads it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TestText {
    name: Option<String>,
    request: RequestText,
    entities: Value,
    decision: DecisionText,
    reason: Vec<String>,
    num_errors: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestText {
    principal: String,
    action: String,
    resource: String,
    #[serde(default)]
    context: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EntityText {
    uid: Value,
    #[serde(default)]
    attrs: Map<String, Value>,
    #[serde(default)]
    parents: Vec<Value>,
    #[serde(default)]
    tags: Map<String, Value>,
}

/// The cases of a file.
///
/// # Errors
/// All that is wrong with it, each with its place.
pub(super) fn cases(compiled: &Compiled, file: &SourceFile) -> Result<Vec<Case>, Vec<Diagnostic>> {
    let whole = At::file(file);
    let text: &str = file.text();
    let located = |error: &serde_json::Error, first: u32| At {
        line: first + u32::try_from(error.line()).unwrap_or(0).saturating_sub(1),
        column: u32::try_from(error.column()).unwrap_or(0),
        ..whole.clone()
    };
    let list: Vec<&RawValue> = serde_json::from_str(text).map_err(|e| {
        let why = format!("the test file is no list of tests: {e}");
        vec![located(&e, 1).wrong(why, HELP)]
    })?;
    let (mut cases, mut errors) = (Vec::new(), Vec::new());
    let (mut line, mut from) = (1, 0);
    for (n, raw) in list.into_iter().enumerate() {
        // The slice lies in the text, so its place is a difference.
        let start = (raw.get().as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
        let before = text.get(from..start).unwrap_or_default();
        line += u32::try_from(before.matches('\n').count()).unwrap_or(0);
        from = start;
        let line_start = text
            .get(..start)
            .and_then(|t| t.rfind('\n'))
            .map_or(0, |at| at + 1);
        let at = At {
            line,
            column: u32::try_from(start - line_start + 1).unwrap_or(0),
            ..whole.clone()
        };
        let test: TestText = match serde_json::from_str(raw.get()) {
            Ok(test) => test,
            Err(e) => {
                errors.push(located(&e, line).wrong(format!("the test cannot be read: {e}"), HELP));
                continue;
            }
        };
        match case(compiled, &test, n, at.clone()) {
            Ok(case) => cases.push(case),
            Err(why) => errors.push(at.wrong(why, HELP)),
        }
    }
    if errors.is_empty() {
        Ok(cases)
    } else {
        Err(errors)
    }
}

const HELP: &str = "docs/policy/testing.md says what is read of Cedar's format";

fn case(compiled: &Compiled, test: &TestText, n: usize, at: At) -> Result<Case, String> {
    let (people, things) = entities(&test.entities)?;
    let registry = Arc::new(Registry::of(people.iter()));
    let named = uid(&test.request.principal)?;
    let kind = kind(&named.ty).ok_or_else(|| {
        format!("`{named}` cannot ask: a principal is a ZTA::Agent, ZTA::User or ZTA::Workload")
    })?;
    let known = people.iter().find(|p| p.kind == kind && p.id == named.id);
    let resource = uid(&test.request.resource)?;
    let context = &test.request.context;
    if let Some(name) = context
        .keys()
        .find(|k| !["zta", "request", "input"].contains(&k.as_str()))
    {
        return Err(format!(
            "`context.{name}` is none of `zta`, `request` and `input`"
        ));
    }
    let facts_text = part(context, "zta")?;
    let text = |name: &str| {
        facts_text
            .get(name)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let input = context
        .get("input")
        .map(|_| part(context, "input"))
        .transpose()?;
    let request = AccessRequest {
        arguments: input.as_ref().map(object),
        pep_context: object(&part(context, "request")?),
        session_id: text("session"),
        task_id: text("task"),
        supported_obligations: compiled.obligations(),
        ..AccessRequest::new(uid(&test.request.action)?, resource.clone())
    };
    let facts = Facts {
        resource: registry.party(&resource.ty, &resource.id),
        ..facts(&facts_text)?
    };
    Ok(Case {
        at,
        name: test
            .name
            .clone()
            .unwrap_or_else(|| format!("test {}", n + 1)),
        principal: known
            .cloned()
            .unwrap_or_else(|| active(kind, &named.id, None)),
        request,
        facts,
        registry,
        stored: stored(compiled, &things)?,
        expect: Expect::Decision {
            effect: match test.decision {
                DecisionText::Allow => Effect::Allow,
                DecisionText::Deny => Effect::Deny,
            },
            reason: None,
            policies: None,
            errored: None,
            obligations: None,
            message: None,
            cedar: Some(CedarExpect {
                among: sorted(test.reason.clone()),
                errors: test.num_errors,
            }),
        },
    })
}

fn kind(ty: &str) -> Option<PrincipalKind> {
    let kinds = [
        PrincipalKind::Agent,
        PrincipalKind::User,
        PrincipalKind::Workload,
    ];
    kinds.into_iter().find(|kind| kind.cedar_type() == ty)
}

/// A part of the context, its values as a caller sends them.
fn part(context: &Map<String, Value>, name: &str) -> Result<Map<String, Value>, String> {
    match context.get(name) {
        None => Ok(Map::new()),
        Some(Value::Object(fields)) => Ok(plain_fields(fields)),
        Some(_) => Err(format!("`context.{name}` is no object")),
    }
}

/// Cedar's escapes (`__entity`, `__extn`) as plain JSON, which is read by declared type.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(fields) if fields.len() == 1 => {
            if let Some(entity) = fields.get("__entity") {
                return entity.clone();
            }
            let Some(call) = fields.get("__extn").and_then(Value::as_object) else {
                return Value::Object(plain_fields(fields));
            };
            let argument = call.get("arg").cloned().unwrap_or_default();
            let decimal = call.get("fn").and_then(Value::as_str) == Some("decimal");
            let number = argument.as_str().filter(|_| decimal);
            let number = number.and_then(|text| serde_json::Number::from_str(text).ok());
            number.map_or(argument, Value::Number)
        }
        Value::Object(fields) => Value::Object(plain_fields(fields)),
        Value::Array(items) => items.iter().map(plain).collect(),
        other => other.clone(),
    }
}

fn plain_fields(fields: &Map<String, Value>) -> Map<String, Value> {
    let plain = fields
        .iter()
        .map(|(name, value)| (name.clone(), plain(value)));
    plain.collect()
}

/// The people and the things of a list of entities. Roles and actions are known without it.
fn entities(list: &Value) -> Result<(Vec<Principal>, Vec<GivenEntity>), String> {
    let Value::Array(list) = list else {
        return Err("`entities` is no list; put the entities of a file into the test".to_owned());
    };
    if list.len() > TEST_FIXTURES_MAX {
        let count = list.len();
        return Err(format!(
            "{count} entities, at most {TEST_FIXTURES_MAX} are allowed"
        ));
    }
    let (mut people, mut things) = (Vec::new(), Vec::new());
    for value in list {
        let text = EntityText::deserialize(value).map_err(|e| format!("an entity: {e}"))?;
        let uid = json_uid(&text.uid)?;
        let parents: Result<Vec<EntityUid>, String> = text.parents.iter().map(json_uid).collect();
        let parents = parents?;
        match kind(&uid.ty) {
            Some(kind) => people.push(person(kind, &uid, &text, &parents)?),
            None if uid.ty == "ZTA::Role" || uid.ty.ends_with("Action") => {}
            None => things.push(GivenEntity {
                uid,
                parents,
                attributes: object(&plain_fields(&text.attrs))?,
                tags: object(&plain_fields(&text.tags))?,
            }),
        }
    }
    Ok((people, things))
}

fn person(
    kind: PrincipalKind,
    uid: &EntityUid,
    text: &EntityText,
    parents: &[EntityUid],
) -> Result<Principal, String> {
    let field = |name: &str| text.attrs.get(name).and_then(Value::as_str);
    let known = ["name", "owner", "zone"];
    if let Some(name) = text
        .attrs
        .keys()
        .find(|name| !known.contains(&name.as_str()))
    {
        return Err(format!("`{uid}`: the registry knows no attribute `{name}`"));
    }
    if let Some(other) = parents.iter().find(|parent| parent.ty != "ZTA::Role") {
        return Err(format!(
            "`{uid}` can be in a ZTA::Role only, not in `{other}`"
        ));
    }
    let tag = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    let tags: Option<_> = text.tags.iter().map(tag).collect();
    Ok(Principal {
        roles: parents.iter().map(|role| role.id.clone()).collect(),
        owner: field("owner").unwrap_or_default().to_owned(),
        zone: field("zone").unwrap_or_default().to_owned(),
        attributes: Arc::new(tags.ok_or_else(|| format!("`{uid}` has a tag that is no text"))?),
        ..active(kind, &uid.id, field("name"))
    })
}

fn json_uid(value: &Value) -> Result<EntityUid, String> {
    let plain = value.get("__entity").unwrap_or(value);
    let text = |key: &str| plain.get(key).and_then(Value::as_str);
    match (text("type"), text("id")) {
        (Some(ty), Some(id)) => Ok(EntityUid::new(ty, id)),
        _ => match value.as_str() {
            Some(text) => uid(text),
            None => Err("an entity is an object of `type` and `id`".to_owned()),
        },
    }
}

fn facts(zta: &Map<String, Value>) -> Result<Facts, String> {
    let known = ["now", "source", "authentication", "session", "task"];
    if let Some(name) = zta.keys().find(|name| !known.contains(&name.as_str())) {
        return Err(format!(
            "`context.zta.{name}` cannot be given here; write a `*.test.yaml`"
        ));
    }
    let text = |name: &str| zta.get(name).and_then(Value::as_str);
    let bad = |name: &str| format!("`context.zta.{name}` cannot be read");
    let now = match text("now") {
        None => NOW,
        // Cedar also writes a date alone.
        Some(date) if date.len() == 10 => {
            time(&format!("{date}T00:00:00Z")).ok_or_else(|| bad("now"))?
        }
        Some(text) => time(text).ok_or_else(|| bad("now"))?,
    };
    let authentication = zta.get("authentication");
    let method = authentication
        .and_then(|a| a.get("method"))
        .and_then(Value::as_str);
    let age = authentication
        .and_then(|a| a.get("age_seconds"))
        .and_then(Value::as_i64);
    Ok(Facts {
        now,
        source: match text("source") {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| bad("source"))?),
        },
        authentication_method: match method {
            None | Some("mtls") => "mtls",
            Some("token") => "token",
            Some(_) => return Err(bad("authentication.method")),
        },
        authentication_age_seconds: age.unwrap_or(0),
        resource: None,
        delegation: None,
    })
}

fn time(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}
