//! From files to a revision that can decide: parse, strict validation, and the index. What
//! fails here is never active.
//!
//! A revision shares everything with the one before that did not change: the schema where
//! its files are the same, each file with the same text, and in a file that changed each
//! policy with the same text. So the cost of a change is that of the files in it, not of
//! the whole set. What is left is spread over the cores.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::str::FromStr as _;
use std::sync::Arc;

use cedar_policy::PolicySet;
use cedar_policy_core::{ast, parser};

use super::diagnostic::{Diagnostic, located, plain};
use super::entities::EntityTypes;
use super::entry::Entry;
use super::limits::{FILES_MAX, NESTING_MAX, POLICIES_MAX, SOURCE_BYTES_MAX, STATEMENT_BYTES_MAX};
use super::nesting::too_deep_at;
use super::parallel::parallel;
use super::scope_index::ScopeIndex;
use super::sharing::Sharing;
use super::source::{BUILTIN_SCHEMA, PolicySource};
use super::statements::{Statement, statements};
use super::strict::validate;
use super::vocabulary::Vocabulary;
use crate::model::SourceFile;
use crate::model::arguments::sha256;

/// A policy set ready to decide. Immutable; shares what it can with the one before.
#[derive(Debug)]
pub struct Compiled {
    pub(super) vocabulary: Arc<Vocabulary>,
    pub(super) policies: ScopeIndex,
    files: Files,
    source: PolicySource,
    /// What should be looked at but does not stand in the way.
    pub warnings: Vec<Diagnostic>,
}

pub(super) type Files = BTreeMap<String, Arc<CompiledFile>>;

/// A file's policies in the order of its text.
#[derive(Debug)]
pub(super) struct CompiledFile {
    sha256: [u8; 32],
    /// Each with the line it begins in.
    policies: Vec<(u32, Arc<Entry>)>,
}

impl Compiled {
    /// How many policies it holds.
    pub fn policy_count(&self) -> u32 {
        u32::try_from(self.policies.len()).unwrap_or(u32::MAX)
    }

    /// What its schema declares of entities. The same value where the schema is the same.
    pub fn entity_types(&self) -> &Arc<EntityTypes> {
        &self.vocabulary.entity_types
    }

    /// The files that it was made of.
    pub fn source(&self) -> &PolicySource {
        &self.source
    }

    /// Its policies that another set does not hold, or holds under another schema.
    pub(super) fn unproven(&self, before: Option<&Self>) -> Vec<&Arc<Entry>> {
        let known = before.filter(|b| Arc::ptr_eq(&b.vocabulary, &self.vocabulary));
        unproven(&self.files, known)
    }

    /// Whether it holds this very policy.
    fn holds(&self, entry: &Arc<Entry>) -> bool {
        let own = self.policies.get(entry.id());
        own.is_some_and(|own| Arc::ptr_eq(own, entry))
    }

    /// All policies with file and line, in the order of files and lines.
    pub(super) fn placed(&self) -> impl Iterator<Item = (&str, u32, &Arc<Entry>)> {
        self.files.iter().flat_map(|(name, file)| {
            let policies = file.policies.iter();
            policies.map(|(line, entry)| (name.as_str(), *line, entry))
        })
    }

    /// The names of all obligations of its policies, sorted, each once.
    pub(super) fn obligations(&self) -> Vec<String> {
        let names = self.placed().flat_map(|(_, _, entry)| &entry.obligations);
        let names: BTreeSet<&String> = names.collect();
        names.into_iter().cloned().collect()
    }

    /// The file and the line in which a policy begins. Looks through all files.
    pub(super) fn place(&self, entry: &Arc<Entry>) -> Option<(&str, u32)> {
        place(&self.files, entry)
    }
}

/// Whether a set of files has this very one.
fn shares(files: &Files, name: &str, file: &Arc<CompiledFile>) -> bool {
    files.get(name).is_some_and(|own| Arc::ptr_eq(own, file))
}

pub(super) fn place<'f>(files: &'f Files, entry: &Arc<Entry>) -> Option<(&'f str, u32)> {
    files.iter().find_map(|(name, file)| {
        let found = file.policies.iter().find(|(_, e)| Arc::ptr_eq(e, entry))?;
        Some((name.as_str(), found.0))
    })
}

/// What the gates are made of: this server, Cedar, and the built-in schema. A set that has
/// passed them passes them again, so whoever loads it need not ask.
pub fn gates_id() -> String {
    let schema = sha256(BUILTIN_SCHEMA.as_bytes());
    let (server, cedar) = (env!("CARGO_PKG_VERSION"), cedar_policy::get_sdk_version());
    format!("zta {server}, cedar {cedar}, {}", hex::encode(schema))
}

/// Compiles a policy set. What it has in common with `before` is not compiled again.
///
/// # Errors
/// Everything that is wrong with it, each with its place.
pub fn compile(
    source: &PolicySource,
    before: Option<&Compiled>,
) -> Result<Compiled, Vec<Diagnostic>> {
    build(source, before, true)
}

/// As [`compile`], of a set that has passed these very gates ([`gates_id`]) before: its
/// types are not looked at again, which takes most of the time, and it has no warnings.
///
/// # Errors
/// As [`compile`], but for types.
pub fn compile_passed(
    source: &PolicySource,
    before: Option<&Compiled>,
) -> Result<Compiled, Vec<Diagnostic>> {
    build(source, before, false)
}

fn build(
    source: &PolicySource,
    before: Option<&Compiled>,
    types: bool,
) -> Result<Compiled, Vec<Diagnostic>> {
    within_limits(source, before)?;
    let vocabulary = match before {
        Some(before) if before.vocabulary.is_of(&source.schemas) => Arc::clone(&before.vocabulary),
        _ => Arc::new(Vocabulary::new(&source.schemas)?),
    };
    let same_schema = before.is_some_and(|b| Arc::ptr_eq(&b.vocabulary, &vocabulary));
    let files = files(&source.policies, before)?;
    let policies = index(&files, before)?;
    let known = before.filter(|_| same_schema);
    let mut warnings = match types {
        true => validate(&vocabulary, &unproven(&files, known), &files)?,
        false => Vec::new(),
    };
    if let Some(known) = known {
        // Those of the policies that stayed.
        let stayed = |w: &&Diagnostic| policies.get(&w.policy_id).is_some_and(|e| known.holds(e));
        warnings.extend(known.warnings.iter().filter(stayed).cloned());
    }
    Ok(Compiled {
        vocabulary,
        policies,
        files,
        source: source.clone(),
        warnings,
    })
}

/// The policies of files that a set with the same schema does not hold.
fn unproven<'f>(files: &'f Files, known: Option<&Compiled>) -> Vec<&'f Arc<Entry>> {
    files
        .iter()
        .filter(|(name, file)| !known.is_some_and(|k| shares(&k.files, name, file)))
        .flat_map(|(_, file)| &file.policies)
        .map(|(_, entry)| entry)
        .filter(|entry| !known.is_some_and(|k| k.holds(entry)))
        .collect()
}

pub(super) fn within_limits(
    source: &PolicySource,
    before: Option<&Compiled>,
) -> Result<(), Vec<Diagnostic>> {
    let cedar = source.policies.iter().chain(&source.schemas);
    let files: Vec<&SourceFile> = source.files().map(|(_, file)| file).collect();
    let bytes: usize = files.iter().map(|f| f.text().len()).sum();
    let mut errors = Vec::new();
    if bytes > SOURCE_BYTES_MAX {
        let message =
            format!("the files have {bytes} bytes, at most {SOURCE_BYTES_MAX} are allowed");
        errors.push(plain(message, ""));
    }
    if files.len() > FILES_MAX {
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
    for file in cedar {
        if before
            .and_then(|b| b.files.get(&file.name))
            .is_some_and(|f| f.sha256 == *file.sha256())
        {
            continue;
        }
        let line = too_deep_at(file.text());
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

/// Statements in a row of one file that have to be parsed. Parsing one by one costs several
/// times more: the parser begins each time with an empty automaton for its tokens.
struct Piece<'s> {
    file: &'s SourceFile,
    /// From the first statement's beginning to the last one's end.
    statements: Vec<Statement<'s>>,
}

/// Statements of a piece.
const PIECE: usize = 256;

/// A file that changed: its policies in order, those that are known already filled in.
struct Changed<'s> {
    file: &'s SourceFile,
    policies: Vec<(u32, Option<Arc<Entry>>)>,
}

/// Each file with its policies, parsed where its text is new.
fn files(sources: &[SourceFile], before: Option<&Compiled>) -> Result<Files, Vec<Diagnostic>> {
    let mut files = BTreeMap::new();
    let (mut changed, mut pieces, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for file in sources {
        let known = before.and_then(|b| b.files.get(&file.name));
        if let Some(known) = known.filter(|known| known.sha256 == *file.sha256()) {
            files.insert(file.name.clone(), Arc::clone(known));
            continue;
        }
        match cut(file, known, &mut pieces) {
            Some(policies) => changed.push(Changed { file, policies }),
            None => errors.extend(whole_file_errors(file)),
        }
    }
    let kept = files
        .values()
        .map(|file: &Arc<CompiledFile>| file.policies.len());
    let count = kept
        .chain(changed.iter().map(|c| c.policies.len()))
        .sum::<usize>();
    if count > POLICIES_MAX {
        errors.push(plain(
            format!("there are {count} policies, at most {POLICIES_MAX} are allowed"),
            "",
        ));
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let sharing = Sharing::default();
    let mut parsed = Vec::new();
    for piece in parallel(&pieces, 2, |piece| parse(piece, &sharing)) {
        match piece {
            Ok(entries) => parsed.extend(entries),
            Err(list) => errors.extend(list),
        }
    }
    if !errors.is_empty() {
        // Several pieces of a file may have asked for the whole file's errors.
        let mut seen = HashSet::new();
        errors.retain(|e| seen.insert((e.file.clone(), e.line, e.column, e.message.clone())));
        return Err(errors);
    }
    let mut parsed = parsed.into_iter();
    for Changed { file, policies } in changed {
        let fill = |(line, known): (u32, Option<Arc<Entry>>)| {
            Some((line, known.or_else(|| parsed.next())?))
        };
        let policies: Option<Vec<_>> = policies.into_iter().map(fill).collect();
        let Some(policies) = policies else {
            return Err(vec![plain("a policy was not parsed".into(), "")]);
        };
        let compiled = CompiledFile {
            sha256: *file.sha256(),
            policies,
        };
        files.insert(file.name.clone(), Arc::new(compiled));
    }
    Ok(files)
}

/// The policies of a changed file: those whose text is the same as before, and holes for
/// the others, which go into `pieces`. `None` if the file does not end with a statement.
fn cut<'s>(
    file: &'s SourceFile,
    known: Option<&Arc<CompiledFile>>,
    pieces: &mut Vec<Piece<'s>>,
) -> Option<Vec<(u32, Option<Arc<Entry>>)>> {
    let (statements, rest) = statements(file.text());
    if !rest.is_empty() {
        return None;
    }
    let texts: HashMap<&str, &Arc<Entry>> = known
        .into_iter()
        .flat_map(|known| &known.policies)
        .filter_map(|(_, entry)| Some((entry.policy.loc()?.snippet()?, entry)))
        .collect();
    let mut policies = Vec::with_capacity(statements.len());
    let mut row = Vec::new();
    let mut end = |row: &mut Vec<Statement<'s>>| {
        if !row.is_empty() {
            let statements = std::mem::take(row);
            pieces.push(Piece { file, statements });
        }
    };
    for statement in statements {
        let known = texts.get(statement.text).map(|entry| Arc::clone(entry));
        if known.is_some() || row.len() == PIECE {
            end(&mut row);
        }
        if known.is_none() {
            row.push(statement);
        }
        policies.push((statement.line, known));
    }
    end(&mut row);
    Some(policies)
}

/// Parses a piece.
///
/// # Errors
/// What is wrong with it, or with the whole file where Cedar cannot read it.
fn parse(piece: &Piece<'_>, sharing: &Sharing) -> Result<Vec<Arc<Entry>>, Vec<Diagnostic>> {
    let Piece { file, statements } = piece;
    let text: String = statements
        .iter()
        .map(|s| s.text)
        .collect::<Vec<_>>()
        .join("\n");
    let set = parser::parse_policyset(&text).map_err(|_| whole_file_errors(file))?;
    // Cedar names them policy0, policy1, … in the order of the text.
    let nth = |n: usize| set.get(&ast::PolicyID::from_string(format!("policy{n}")));
    let policies: Option<Vec<_>> = (0..statements.len()).map(nth).collect();
    let policies = policies
        .filter(|policies| policies.len() == set.policies().count())
        .ok_or_else(|| whole_file_errors(file))?;
    let mut errors = Vec::new();
    let mut entries = Vec::with_capacity(policies.len());
    for (policy, statement) in policies.into_iter().zip(statements) {
        let id = policy
            .annotations()
            .find(|(key, _)| AsRef::<str>::as_ref(*key) == "id")
            .map(|(_, value)| value.val.clone())
            .filter(|id| valid_policy_id(id));
        match id {
            Some(id) => {
                let compact = sharing.compact(policy, ast::PolicyID::from_smolstr(id));
                entries.push(Arc::new(Entry::of(compact, policy.annotations())));
            }
            None => errors.push(Diagnostic {
                file: file.name.clone(),
                line: statement.line,
                message: "a policy needs an @id of 1 to 128 printable characters".into(),
                help: "write @id(\"…\") before it: ids are how decisions name policies".into(),
                ..Diagnostic::default()
            }),
        }
    }
    if errors.is_empty() {
        Ok(entries)
    } else {
        Err(errors)
    }
}

fn valid_policy_id(id: &str) -> bool {
    (1..=128).contains(&id.len()) && !id.chars().any(|c| c.is_control() || c.is_whitespace())
}

/// Why a file cannot be parsed, with the places in it.
pub(super) fn whole_file_errors(file: &SourceFile) -> Vec<Diagnostic> {
    match PolicySet::from_str(file.text()) {
        Err(errors) => errors.iter().map(|e| located(file, e)).collect(),
        Ok(set) if set.num_of_templates() > 0 => vec![Diagnostic {
            file: file.name.clone(),
            message: "policy templates cannot be applied from files".into(),
            help: "write the policy without `?principal` and `?resource`".into(),
            ..Diagnostic::default()
        }],
        // Cedar reads as space or comment what the cut does not.
        Ok(_) => vec![Diagnostic {
            file: file.name.clone(),
            message: "its policies cannot be told apart".into(),
            help: "use plain spaces and line breaks between policies".into(),
            ..Diagnostic::default()
        }],
    }
}

/// The index of the files' policies: that of `before` with what changed.
fn index(files: &Files, before: Option<&Compiled>) -> Result<ScopeIndex, Vec<Diagnostic>> {
    let mut index = before.map(|b| b.policies.clone()).unwrap_or_default();
    let mut stayed: HashSet<*const Entry> = HashSet::new();
    let changed: Vec<_> = files
        .iter()
        .filter(|(name, file)| !before.is_some_and(|b| shares(&b.files, name, file)))
        .collect();
    for (_, file) in &changed {
        stayed.extend(file.policies.iter().map(|(_, entry)| Arc::as_ptr(entry)));
    }
    let mut kept: HashSet<*const Entry> = HashSet::new();
    for (name, file) in before.into_iter().flat_map(|b| &b.files) {
        if shares(files, name, file) {
            continue;
        }
        for (_, entry) in &file.policies {
            if stayed.contains(&Arc::as_ptr(entry)) {
                kept.insert(Arc::as_ptr(entry));
            } else {
                index.remove(entry.id());
            }
        }
    }
    let mut errors = Vec::new();
    for (name, file) in changed {
        for (line, entry) in &file.policies {
            // The first of each; a second one with the same text is a duplicate like any.
            if kept.remove(&Arc::as_ptr(entry)) {
                continue;
            }
            if let Err(taken) = index.add(entry) {
                let first = place(files, &taken);
                errors.push(duplicate(name, *line, entry.id(), first));
            }
        }
    }
    if errors.is_empty() {
        Ok(index)
    } else {
        Err(errors)
    }
}

fn duplicate(file: &str, line: u32, id: &str, first: Option<(&str, u32)>) -> Diagnostic {
    let (first_file, first_line) = first.unwrap_or((file, line));
    Diagnostic {
        file: file.to_owned(),
        line,
        message: format!("the @id `{id}` is taken by a policy in `{first_file}` line {first_line}"),
        help: "give each policy an @id of its own".into(),
        policy_id: id.to_owned(),
        ..Diagnostic::default()
    }
}
