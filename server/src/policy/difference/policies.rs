//! The difference of policies, by `@id`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use cedar_policy::Policy;
use serde_json::{Map, Value};

use super::{DifferenceError, DifferenceKind, Pair, Pairs};
use crate::model::SourceFile;
use crate::model::revision::FileKind;
use crate::policy::compile::whole_file_errors;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::limits::COMPARED_MAX;
use crate::policy::parallel::parallel;
use crate::policy::statements::statements;

/// A policy that is different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyDifference {
    /// Its `@id`.
    pub id: String,
    /// What became of it.
    pub kind: DifferenceKind,
    /// The file that it stood in.
    pub file_before: Option<String>,
    /// The file that it stands in.
    pub file_after: Option<String>,
    /// `permit` or `forbid`, where it existed.
    pub effect_before: Option<String>,
    /// `permit` or `forbid`, where it exists.
    pub effect_after: Option<String>,
    /// Of a changed one: `effect`, `principal`, `action`, `resource`, `conditions`, and
    /// `@<name>` of annotations.
    pub changed: Vec<String>,
}

impl PolicyDifference {
    /// Whether it stood or stands in a file.
    pub(super) fn concerns(&self, file: &str) -> bool {
        let files = [&self.file_before, &self.file_after];
        files.into_iter().flatten().any(|own| own == file)
    }
}

/// A statement of a file that is different.
#[derive(Clone, Copy)]
struct Place<'s> {
    file: &'s SourceFile,
    line: u32,
    text: &'s str,
}

/// A policy as Cedar reads it.
struct Parsed<'s> {
    file: &'s str,
    tree: Map<String, Value>,
}

/// Compares the policies of files that differ. A statement that stands in a file as it did
/// is not looked at.
pub(super) fn compare(pairs: &Pairs<'_>) -> Result<Vec<PolicyDifference>, DifferenceError> {
    let mut sides: [Vec<Place<'_>>; 2] = [Vec::new(), Vec::new()];
    for pair in pairs.values() {
        let (before, after) = changed_statements(pair)?;
        sides[0].extend(before);
        sides[1].extend(after);
    }
    let count = sides[0].len().max(sides[1].len());
    if count > COMPARED_MAX {
        return Err(DifferenceError::TooMany(count));
    }
    let [mut before, mut after] = sides.map(|side| parse(&side));
    if let (Err(errors), _) | (_, Err(errors)) = (&mut before, &mut after) {
        return Err(DifferenceError::Invalid(std::mem::take(errors)));
    }
    let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
    let ids: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let differs = |id: &String| difference(id, before.get(id), after.get(id));
    Ok(ids.into_iter().filter_map(differs).collect())
}

/// The statements of one file that the other one does not have word for word.
fn changed_statements<'s>(
    pair: &Pair<'s>,
) -> Result<(Vec<Place<'s>>, Vec<Place<'s>>), DifferenceError> {
    if pair.kind != FileKind::Policy {
        return Ok((Vec::new(), Vec::new()));
    }
    let before = places(pair.before)?;
    let after = places(pair.after)?;
    let mut same: HashMap<&str, usize> = HashMap::new();
    for place in &before {
        *same.entry(place.text).or_default() += 1;
    }
    let mut kept = same.clone();
    let take = |counts: &mut HashMap<&str, usize>, text: &str| match counts.get_mut(text) {
        Some(count) if *count > 0 => {
            *count -= 1;
            true
        }
        _ => false,
    };
    let after: Vec<_> = after
        .into_iter()
        .filter(|place| !take(&mut same, place.text))
        .collect();
    // What is left of `same` stands before and not after.
    for (text, left) in same {
        kept.entry(text).and_modify(|count| *count -= left);
    }
    let before = before
        .into_iter()
        .filter(|place| !take(&mut kept, place.text))
        .collect();
    Ok((before, after))
}

fn places(file: Option<&SourceFile>) -> Result<Vec<Place<'_>>, DifferenceError> {
    let Some(file) = file else {
        return Ok(Vec::new());
    };
    let (found, rest) = statements(file.text());
    if !rest.is_empty() {
        return Err(DifferenceError::Invalid(whole_file_errors(file)));
    }
    Ok(found
        .into_iter()
        .map(|statement| Place {
            file,
            line: statement.line,
            text: statement.text,
        })
        .collect())
}

/// Policies by their ids.
fn parse<'s>(places: &[Place<'s>]) -> Result<BTreeMap<String, Parsed<'s>>, Vec<Diagnostic>> {
    let mut policies = BTreeMap::new();
    let mut errors = Vec::new();
    for (place, parsed) in places.iter().zip(parallel(places, 64, parse_one)) {
        let bad = |message: String| Diagnostic {
            file: place.file.name.clone(),
            line: place.line,
            message,
            ..Diagnostic::default()
        };
        match parsed {
            Err(message) => errors.push(bad(message)),
            Ok((id, tree)) => {
                let file = place.file.name.as_str();
                let message = format!("two policies have the id `{id}`");
                if policies.insert(id, Parsed { file, tree }).is_some() {
                    errors.push(bad(message));
                }
            }
        }
    }
    match errors.is_empty() {
        true => Ok(policies),
        false => Err(errors),
    }
}

fn parse_one(place: &Place<'_>) -> Result<(String, Map<String, Value>), String> {
    let policy = Policy::parse(None, place.text).map_err(|e| e.to_string())?;
    let id = policy.annotation("id").filter(|id| !id.is_empty());
    let id = id.ok_or("the policy has no `@id`")?.to_owned();
    match policy.to_json() {
        Ok(Value::Object(tree)) => Ok((id, tree)),
        Ok(_) => Err("the policy is no object in Cedar's JSON form".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

fn difference(
    id: &str,
    before: Option<&Parsed<'_>>,
    after: Option<&Parsed<'_>>,
) -> Option<PolicyDifference> {
    let mut changed = Vec::new();
    let kind = match (before, after) {
        (None, _) => DifferenceKind::Added,
        (_, None) => DifferenceKind::Removed,
        (Some(before), Some(after)) => {
            changed = parts(&before.tree, &after.tree);
            match changed.is_empty() {
                false => DifferenceKind::Changed,
                true if before.file != after.file => DifferenceKind::Moved,
                true => return None,
            }
        }
    };
    let file = |side: Option<&Parsed<'_>>| side.map(|p| p.file.to_owned());
    let effect = |side: Option<&Parsed<'_>>| {
        let effect = side?.tree.get("effect")?;
        effect.as_str().map(str::to_owned)
    };
    Some(PolicyDifference {
        id: id.to_owned(),
        kind,
        file_before: file(before),
        file_after: file(after),
        effect_before: effect(before),
        effect_after: effect(after),
        changed,
    })
}

/// The parts of a policy that are not the same.
fn parts(before: &Map<String, Value>, after: &Map<String, Value>) -> Vec<String> {
    let mut changed: Vec<String> = ["effect", "principal", "action", "resource", "conditions"]
        .into_iter()
        .filter(|part| before.get(*part) != after.get(*part))
        .map(str::to_owned)
        .collect();
    let empty = Map::new();
    let annotations = |tree: &'_ Map<String, Value>| {
        let own = tree.get("annotations").and_then(Value::as_object);
        own.unwrap_or(&empty).clone()
    };
    let (before, after) = (annotations(before), annotations(after));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let other = names
        .into_iter()
        .filter(|n| before.get(*n) != after.get(*n));
    changed.extend(other.map(|name| format!("@{name}")));
    changed
}
