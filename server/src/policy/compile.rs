//! From files to a revision that can decide: parse, strict validation, and the index of
//! what each action takes. What fails here is never active.

use std::collections::{HashMap, HashSet};
use std::str::FromStr as _;
use std::sync::Arc;

use cedar_policy::{PolicyId, PolicySet, Schema, SchemaFragment, ValidationMode, Validator};
use miette::Diagnostic as _;

use super::actions::{ActionInfo, actions, tools};
use super::entities::EntityTypes;
use super::limits::{FILES_MAX, NESTING_MAX, SOURCE_BYTES_MAX, STATEMENT_BYTES_MAX};
use super::nesting::too_deep_at;
use super::scope_index::ScopeIndex;
use super::shape::SchemaJson;
use super::source::{BUILTIN_SCHEMA, PolicySource};
use crate::model::request::NAMESPACE;
use crate::model::revision::PolicyChunk;
use crate::model::{EntityUid, SourceFile};

/// Something wrong with a policy set, at a place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file, empty where there is no single place.
    pub file: String,
    /// 1-based; 0 where unknown.
    pub line: u32,
    /// 1-based; 0 where unknown.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// What to do about it; may be empty.
    pub help: String,
    /// The policy's `@id`, if it concerns one.
    pub policy_id: String,
}

/// A policy set ready to decide. Immutable.
#[derive(Debug)]
pub struct Compiled {
    pub(super) schema: Schema,
    pub(super) policies: ScopeIndex,
    /// Per policy: the obligations it asks for and the reason it gives.
    pub(super) notes: HashMap<PolicyId, Note>,
    pub(super) actions: HashMap<EntityUid, ActionInfo>,
    /// A declared tool's id to its own action.
    pub(super) tools: HashMap<String, EntityUid>,
    /// What the schema declares of entities.
    pub(super) entity_types: Arc<EntityTypes>,
    /// The policy files cut after each policy.
    pub chunks: Vec<PolicyChunk>,
    /// What should be looked at but does not stand in the way.
    pub warnings: Vec<Diagnostic>,
}

impl Compiled {
    /// What its schema declares of entities.
    pub fn entity_types(&self) -> &Arc<EntityTypes> {
        &self.entity_types
    }

    /// How many policies it holds.
    pub fn policy_count(&self) -> u32 {
        u32::try_from(self.policies.len()).unwrap_or(u32::MAX)
    }
}

#[derive(Debug, Default)]
pub(super) struct Note {
    pub(super) forbid: bool,
    pub(super) obligations: Vec<String>,
    pub(super) reason: Option<String>,
}

/// Compiles a policy set.
///
/// # Errors
/// Everything that is wrong with it, each with its place.
pub fn compile(source: &PolicySource) -> Result<Compiled, Vec<Diagnostic>> {
    within_limits(source)?;
    let (schema, json) = parse_schemas(&source.schemas)?;
    let (policies, notes, chunks, starts) = parse_policies(&source.policies)?;
    let warnings = validate(&schema, &policies, &starts)?;
    let actions = actions(&schema, &json)?;
    let tools = tools(&actions)?;
    Ok(Compiled {
        entity_types: Arc::new(EntityTypes::new(&schema, json.namespaces())),
        schema,
        policies: ScopeIndex::new(policies.policies()),
        notes,
        actions,
        tools,
        chunks,
        warnings,
    })
}

pub(super) fn plain(message: String, help: &str) -> Diagnostic {
    Diagnostic {
        message,
        help: help.to_owned(),
        ..Diagnostic::default()
    }
}

fn within_limits(source: &PolicySource) -> Result<(), Vec<Diagnostic>> {
    let files = source.policies.iter().chain(&source.schemas);
    let bytes: usize = files.clone().map(|f| f.text.len()).sum();
    let mut errors = Vec::new();
    if bytes > SOURCE_BYTES_MAX {
        let message =
            format!("the files have {bytes} bytes, at most {SOURCE_BYTES_MAX} are allowed");
        errors.push(plain(message, ""));
    }
    if files.clone().count() > FILES_MAX {
        errors.push(plain(format!("there are more than {FILES_MAX} files"), ""));
    }
    let mut names = HashSet::new();
    for file in files {
        if file.name.is_empty() || file.name.len() > 255 || file.name.chars().any(char::is_control)
        {
            errors.push(plain(
                "a file's name must have 1 to 255 printable characters".into(),
                "",
            ));
        } else if !names.insert(&file.name) {
            let message = format!("two files are named `{}`", file.name);
            errors.push(plain(message, "give each file its own name"));
        }
    }
    for file in source.policies.iter().chain(&source.schemas) {
        let line = too_deep_at(&file.text);
        if line > 0 {
            errors.push(Diagnostic {
                file: file.name.clone(),
                line,
                message: format!("nests more than {NESTING_MAX} levels deep, or one statement is longer than {STATEMENT_BYTES_MAX} bytes"),
                help: "split it into several policies or types".into(),
                ..Diagnostic::default()
            });
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors)
    }
}

/// 1-based line and column of a byte offset.
fn place(text: &str, offset: usize) -> (u32, u32) {
    let before = text.get(..offset.min(text.len())).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    (line as u32, column as u32)
}

/// Cedar's own diagnostic with its place in the file.
fn located(file: &SourceFile, error: &dyn miette::Diagnostic) -> Diagnostic {
    let offset = error
        .labels()
        .and_then(|mut l| l.next())
        .map(|l| l.offset());
    let (line, column) = offset.map_or((0, 0), |o| place(&file.text, o));
    Diagnostic {
        file: file.name.clone(),
        line,
        column,
        message: error.to_string(),
        help: error.help().map(|h| h.to_string()).unwrap_or_default(),
        policy_id: String::new(),
    }
}

fn parse_schemas(files: &[SourceFile]) -> Result<(Schema, SchemaJson), Vec<Diagnostic>> {
    let builtin = SourceFile {
        name: "(built in)".into(),
        text: BUILTIN_SCHEMA.into(),
    };
    let mut fragments = Vec::new();
    let mut json = Vec::new();
    let mut errors = Vec::new();
    for (i, file) in std::iter::once(&builtin).chain(files).enumerate() {
        match SchemaFragment::from_cedarschema_str(&file.text) {
            Ok((fragment, _)) => {
                let reserved = fragment.namespaces().flatten().any(|n| {
                    let name = n.to_string();
                    name == NAMESPACE || name.starts_with("ZTA::")
                });
                if i > 0 && reserved {
                    errors.push(Diagnostic {
                        file: file.name.clone(),
                        message: "the namespace `ZTA` is built in and cannot be declared".into(),
                        help: "declare your types in a namespace of your own".into(),
                        ..Diagnostic::default()
                    });
                }
                match fragment.clone().to_json_value() {
                    Ok(value) => json.push(value),
                    Err(e) => errors.push(located(file, &e)),
                }
                fragments.push(fragment);
            }
            Err(e) => errors.push(located(file, &e)),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let schema = Schema::from_schema_fragments(fragments).map_err(|e| {
        vec![plain(
            e.to_string(),
            &e.help().map(|h| h.to_string()).unwrap_or_default(),
        )]
    })?;
    Ok((schema, SchemaJson::new(json)))
}

/// Where a policy begins, for messages.
struct Start {
    file: String,
    line: u32,
}

type Parsed = (
    PolicySet,
    HashMap<PolicyId, Note>,
    Vec<PolicyChunk>,
    HashMap<PolicyId, Start>,
);

fn parse_policies(files: &[SourceFile]) -> Result<Parsed, Vec<Diagnostic>> {
    let mut set = PolicySet::new();
    let (mut notes, mut starts) = (HashMap::new(), HashMap::new());
    let (mut chunks, mut errors) = (Vec::new(), Vec::new());
    for file in files {
        let parsed = match PolicySet::from_str(&file.text) {
            Ok(parsed) => parsed,
            Err(list) => {
                errors.extend(list.iter().map(|e| located(file, e)));
                continue;
            }
        };
        if parsed.num_of_templates() > 0 {
            errors.push(Diagnostic {
                file: file.name.clone(),
                message: "policy templates cannot be applied from files".into(),
                help: "write the policy without `?principal` and `?resource`".into(),
                ..Diagnostic::default()
            });
            continue;
        }
        for cut in cut_file(file, &parsed) {
            match cut {
                Ok((chunk, line, Some(policy))) => {
                    let id = policy.id().clone();
                    let duplicate = starts
                        .get(&id)
                        .map(|s: &Start| format!("`{}` line {}", s.file, s.line));
                    if let Some(first) = duplicate {
                        errors.push(Diagnostic {
                            file: file.name.clone(),
                            line,
                            message: format!("the @id `{id}` is taken by a policy in {first}"),
                            help: "give each policy an @id of its own".into(),
                            policy_id: id.to_string(),
                            ..Diagnostic::default()
                        });
                        continue;
                    }
                    notes.insert(id.clone(), note(&policy));
                    starts.insert(
                        id,
                        Start {
                            file: file.name.clone(),
                            line,
                        },
                    );
                    chunks.push(chunk);
                    if let Err(e) = set.add(policy) {
                        errors.push(located(file, &e));
                    }
                }
                Ok((chunk, _, None)) => chunks.push(chunk),
                Err(error) => errors.push(error),
            }
        }
    }
    if errors.is_empty() {
        Ok((set, notes, chunks, starts))
    } else {
        Err(errors)
    }
}

/// A piece of a file, the line its policy begins in, and the policy under its `@id`.
type Cut = Result<(PolicyChunk, u32, Option<cedar_policy::Policy>), Diagnostic>;

/// Cuts a file after each policy, so that the pieces joined are the file again.
fn cut_file(file: &SourceFile, parsed: &PolicySet) -> Vec<Cut> {
    // Cedar names them policy0, policy1, … in the order of the text.
    let mut policies: Vec<_> = parsed.policies().collect();
    policies.sort_by_key(|p| {
        p.id()
            .to_string()
            .trim_start_matches("policy")
            .parse::<usize>()
            .ok()
    });
    let mut cuts = Vec::with_capacity(policies.len() + 1);
    let mut cursor = 0;
    for policy in policies {
        let text = policy.to_cedar().unwrap_or_default();
        let Some(found) = file.text[cursor..].find(&text) else {
            let message = "a policy could not be found again in its file".to_owned();
            cuts.push(Err(Diagnostic {
                file: file.name.clone(),
                message,
                ..Diagnostic::default()
            }));
            continue;
        };
        let (start, end) = (cursor + found, cursor + found + text.len());
        let line = place(&file.text, start).0;
        let text = file.text[cursor..end].to_owned();
        cursor = end;
        cuts.push(
            match policy.annotation("id").filter(|id| valid_policy_id(id)) {
                None => Err(Diagnostic {
                    file: file.name.clone(),
                    line,
                    message: "a policy needs an @id of 1 to 128 printable characters".into(),
                    help: "write @id(\"…\") before it: ids are how decisions name policies".into(),
                    ..Diagnostic::default()
                }),
                Some(id) => {
                    let chunk = PolicyChunk {
                        file: file.name.clone(),
                        policy_id: Some(id.into()),
                        text,
                    };
                    Ok((chunk, line, Some(policy.new_id(PolicyId::new(id)))))
                }
            },
        );
    }
    if cursor < file.text.len() || file.text.is_empty() {
        let text = file.text[cursor..].to_owned();
        cuts.push(Ok((
            PolicyChunk {
                file: file.name.clone(),
                policy_id: None,
                text,
            },
            0,
            None,
        )));
    }
    cuts
}

fn valid_policy_id(id: &str) -> bool {
    (1..=128).contains(&id.len()) && !id.chars().any(|c| c.is_control() || c.is_whitespace())
}

fn note(policy: &cedar_policy::Policy) -> Note {
    let obligations = policy.annotation("obligation").unwrap_or_default();
    Note {
        forbid: policy.effect() == cedar_policy::Effect::Forbid,
        obligations: obligations
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
        reason: policy.annotation("reason").map(str::to_owned),
    }
}

fn validate(
    schema: &Schema,
    policies: &PolicySet,
    starts: &HashMap<PolicyId, Start>,
) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
    let at = |id: &PolicyId, message: String, help: String| {
        let start = starts.get(id);
        Diagnostic {
            file: start.map(|s| s.file.clone()).unwrap_or_default(),
            line: start.map_or(0, |s| s.line),
            column: 0,
            message,
            help,
            policy_id: id.to_string(),
        }
    };
    let help = |d: &dyn miette::Diagnostic| d.help().map(|h| h.to_string()).unwrap_or_default();
    let result = Validator::new(schema.clone()).validate(policies, ValidationMode::Strict);
    let errors: Vec<_> = result
        .validation_errors()
        .map(|e| at(e.policy_id(), e.to_string(), help(e)))
        .collect();
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(result
        .validation_warnings()
        .map(|w| at(w.policy_id(), w.to_string(), help(w)))
        .collect())
}
