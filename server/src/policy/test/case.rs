//! From the text of a case to a request with its world, ready to be asked.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;
use serde_saphyr::Spanned;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::datetime;

use super::file::{
    self, CaseText, DecisionText, DelegationText, ExpectText, FactsText, MethodText, TestFile,
};
use super::merge::merge;
use super::world::{Registry, World, uid};
use crate::model::arguments::Arguments;
use crate::model::request::CALL_TOOL;
use crate::model::{AccessRequest, Delegation, Effect, EntityUid, Principal, SourceFile};
use crate::policy::compile::Compiled;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::entities::EntityMap;
use crate::policy::evaluate::{Facts, Parties as _};

/// The time of a case that does not say one: a Thursday at noon.
pub(super) const NOW: OffsetDateTime = datetime!(2026-01-01 12:00 UTC);

/// A case with everything that is asked.
pub(super) struct Case {
    pub(super) at: At,
    pub(super) name: String,
    pub(super) principal: Principal,
    pub(super) request: AccessRequest,
    pub(super) facts: Facts,
    pub(super) registry: Arc<Registry>,
    pub(super) stored: EntityMap,
    pub(super) expect: Expect,
}

/// What must come.
#[derive(Clone, Debug)]
pub(super) enum Expect {
    /// A refusal of the request, by its reason.
    Error(String),
    /// A decision.
    Decision {
        effect: Effect,
        reason: Option<String>,
        /// Exactly these, sorted.
        policies: Option<Vec<String>>,
        errored: Option<Vec<String>>,
        obligations: Option<Vec<String>>,
        /// A part of it.
        message: Option<String>,
        /// What Cedar's own format says of it.
        cedar: Option<CedarExpect>,
    },
}

/// What only Cedar's format can say.
#[derive(Clone, Debug)]
pub(super) struct CedarExpect {
    /// Policies that must be among the determining ones.
    pub(super) among: Vec<String>,
    /// How many policies could not be evaluated.
    pub(super) errors: usize,
}

/// A place in a test file.
#[derive(Clone, Debug)]
pub(super) struct At {
    pub(super) file: Arc<str>,
    pub(super) line: u32,
    pub(super) column: u32,
}

impl At {
    /// The file as a whole.
    pub(super) fn file(file: &SourceFile) -> Self {
        Self {
            file: Arc::from(file.name.as_str()),
            line: 0,
            column: 0,
        }
    }

    /// Where something begins in the same file.
    pub(super) fn of<T>(&self, spanned: &Spanned<T>) -> Self {
        Self {
            file: Arc::clone(&self.file),
            line: file::small(spanned.referenced.line()),
            column: file::small(spanned.referenced.column()),
        }
    }

    /// Something wrong here.
    pub(super) fn wrong(&self, message: String, help: &str) -> Diagnostic {
        Diagnostic {
            file: self.file.to_string(),
            line: self.line,
            column: self.column,
            message,
            help: help.to_owned(),
            ..Diagnostic::default()
        }
    }
}

/// The cases of a test file in our own format.
///
/// # Errors
/// All that is wrong with it, each with its place.
pub(super) fn cases(compiled: &Compiled, file: &SourceFile) -> Result<Vec<Case>, Vec<Diagnostic>> {
    let text = file::read(file)?;
    let at = At::file(file);
    let mut world = World::new(compiled, &text, &at)?;
    let (mut cases, mut errors) = (Vec::new(), Vec::new());
    for (at, listed) in listed(&text, &at) {
        let made = listed.and_then(|(name, text)| case(&mut world, &text, name, at.clone()));
        match made {
            Ok(made) => cases.push(made),
            Err(why) => errors.push(at.wrong(why, "")),
        }
    }
    if errors.is_empty() {
        Ok(cases)
    } else {
        Err(errors)
    }
}

/// A case or a row with its name and all that it takes from above; or what is wrong.
type Listed = (At, Result<(String, CaseText), String>);

/// The cases of a file, each row one of them.
fn listed(file: &TestFile, at: &At) -> Vec<Listed> {
    let nothing = CaseText::default();
    let mut all = Vec::new();
    let defaults = match &file.defaults {
        None => &nothing,
        Some(defaults) => {
            if defaults.value.name.is_some() || defaults.value.rows.is_some() {
                let why = "defaults have no `name` and no `rows`".to_owned();
                all.push((at.of(defaults), Err(why)));
            }
            &defaults.value
        }
    };
    for case in &file.cases {
        let whole = merge(defaults, &case.value);
        let Some(name) = whole.name.clone() else {
            all.push((at.of(case), Err("a test needs a `name`".to_owned())));
            continue;
        };
        let Some(rows) = &case.value.rows else {
            all.push((at.of(case), Ok((name, whole))));
            continue;
        };
        if rows.is_empty() {
            // It would test nothing, and look as if it did.
            all.push((at.of(case), Err("`rows` is empty".to_owned())));
        }
        for (n, row) in rows.iter().enumerate() {
            let of_row = row.value.name.clone();
            let label = of_row.unwrap_or_else(|| format!("row {}", n + 1));
            let listed = match row.value.rows {
                None => Ok((format!("{name}: {label}"), merge(&whole, &row.value))),
                Some(_) => Err("a row has no `rows` of its own".to_owned()),
            };
            all.push((at.of(row), listed));
        }
    }
    all
}

fn case(world: &mut World<'_>, text: &CaseText, name: String, at: At) -> Result<Case, String> {
    let named = |world: &World<'_>, name: &str| -> Result<Principal, String> {
        let found = world.principals.get(name).cloned();
        found.ok_or_else(|| format!("`{name}` is none of the file's `principals`"))
    };
    let who = text.principal.as_deref().ok_or("`principal` is missing")?;
    let principal = named(world, who)?;
    let request = request(world, text)?;
    let brought = text.brings.clone().unwrap_or_default();
    let without = match &text.stored {
        None => brought,
        Some(stored) => {
            for name in stored {
                entity(world, name)?;
            }
            let others = world.entities.keys().filter(|name| !stored.contains(name));
            others.cloned().collect()
        }
    };
    let stored = world.stored_without(sorted(without))?;
    let facts_text = text.facts.clone().unwrap_or_default();
    let delegation = match &facts_text.delegation {
        None => None,
        Some(text) => Some(Arc::new(delegation(world, text, &principal)?)),
    };
    let facts = Facts {
        resource: (world.registry).party(&request.resource.ty, &request.resource.id),
        delegation,
        ..facts(&facts_text)?
    };
    Ok(Case {
        at,
        name,
        principal,
        request,
        facts,
        registry: Arc::clone(&world.registry),
        stored,
        expect: expect(text.expect.as_ref().ok_or("`expect` is missing")?)?,
    })
}

fn entity<'w>(world: &'w World<'_>, name: &str) -> Result<&'w crate::model::GivenEntity, String> {
    let found = world.entities.get(name);
    found.ok_or_else(|| format!("`{name}` is none of the file's `entities`"))
}

fn request(world: &World<'_>, text: &CaseText) -> Result<AccessRequest, String> {
    let (action, resource) = match (&text.tool, &text.action, &text.resource) {
        (Some(tool), None, None) => (
            EntityUid::action(CALL_TOOL),
            EntityUid::new("ZTA::Tool", tool),
        ),
        (None, Some(action), Some(resource)) => (uid(action)?, uid(resource)?),
        _ => return Err("give a `tool`, or an `action` and a `resource`".to_owned()),
    };
    let brought = text.brings.iter().flatten();
    let entities: Result<Vec<_>, String> =
        brought.map(|name| entity(world, name).cloned()).collect();
    Ok(AccessRequest {
        arguments: text.arguments.as_ref().map(arguments),
        pep_context: match &text.context {
            Some(context) => arguments(context),
            None => Ok(Arguments::empty()),
        },
        session_id: text.session.clone(),
        task_id: text.task.clone(),
        user: text.user.clone(),
        entities: entities?,
        supported_obligations: text.supported_obligations.clone().unwrap_or_default(),
        ..AccessRequest::new(action, resource)
    })
}

/// As the door reads them: what does not parse is denied, not an error of the test.
fn arguments(value: &Value) -> Result<Arguments, String> {
    match value {
        Value::String(text) => Arguments::parse(text.as_bytes()),
        other => Arguments::parse(other.to_string().as_bytes()),
    }
}

fn facts(text: &FactsText) -> Result<Facts, String> {
    let now = match &text.now {
        None => NOW,
        Some(text) => OffsetDateTime::parse(text, &Rfc3339).map_err(|_| {
            format!("`{text}` is no time; write it as 2026-01-01T12:00:00Z (RFC 3339)")
        })?,
    };
    let source: Option<IpAddr> = match &text.source {
        None => None,
        Some(text) => Some(
            text.parse()
                .map_err(|_| format!("`{text}` is no IP address"))?,
        ),
    };
    let method = text.authentication.as_ref().map(|a| a.method);
    Ok(Facts {
        now,
        source,
        authentication_method: match method {
            Some(MethodText::Token) => "token",
            Some(MethodText::Mtls) | None => "mtls",
        },
        authentication_age_seconds: (text.authentication.as_ref())
            .map_or(0, |a| i64::from(a.age_seconds)),
        resource: None,
        delegation: None,
    })
}

fn delegation(
    world: &World<'_>,
    text: &DelegationText,
    caller: &Principal,
) -> Result<Delegation, String> {
    let named = |name: &String| {
        let found = world.principals.get(name).cloned();
        found.ok_or_else(|| format!("`{name}` is none of the file's `principals`"))
    };
    let before: Result<Vec<Principal>, String> = text.actors.iter().map(named).collect();
    let mut actors = vec![caller.clone()];
    actors.extend(before?);
    Ok(Delegation {
        token_id: "test".to_owned(),
        subject: named(&text.subject)?,
        actors,
        scope: text.scope.clone(),
    })
}

fn expect(text: &ExpectText) -> Result<Expect, String> {
    let list = |names: &Option<Vec<String>>| names.clone().map(sorted);
    match (text.decision, &text.error) {
        (None, Some(error)) => {
            let more = text.reason.is_some() || text.message.is_some();
            let lists = [&text.policies, &text.errored, &text.obligations];
            if more || lists.iter().any(|list| list.is_some()) {
                return Err("beside `error` nothing else can be expected".to_owned());
            }
            Ok(Expect::Error(error.clone()))
        }
        (Some(DecisionText::Allow), None) if text.reason.is_some() => {
            Err("an allow has no `reason`".to_owned())
        }
        (Some(decision), None) => Ok(Expect::Decision {
            effect: match decision {
                DecisionText::Allow => Effect::Allow,
                DecisionText::Deny => Effect::Deny,
            },
            reason: text.reason.clone(),
            policies: list(&text.policies),
            errored: list(&text.errored),
            obligations: list(&text.obligations),
            message: text.message.clone(),
            cedar: None,
        }),
        _ => Err("expect a `decision` or an `error`".to_owned()),
    }
}

/// Sorted, each once.
pub(super) fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort_unstable();
    names.dedup();
    names
}
