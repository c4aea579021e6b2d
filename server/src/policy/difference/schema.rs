//! The difference of schemas, by the names of what they declare.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::SchemaFragment;
use serde_json::{Map, Value};

use super::{DifferenceKind, Pair, Pairs};
use crate::model::SourceFile;
use crate::model::revision::FileKind;
use crate::policy::diagnostic::{Diagnostic, located};

/// A declaration that is different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaDifference {
    /// `entity type`, `action` or `common type`.
    pub what: &'static str,
    /// With its namespace.
    pub name: String,
    /// Never moved: a schema is one, whatever its files.
    pub kind: DifferenceKind,
    /// Of a changed one: which parts of it.
    pub changed: Vec<String>,
}

/// What a namespace of Cedar's JSON form declares, with our words for it.
const SECTIONS: [(&str, &str); 3] = [
    ("actions", "action"),
    ("commonTypes", "common type"),
    ("entityTypes", "entity type"),
];

/// Declarations by name and section.
type Declared = BTreeMap<(String, &'static str), Value>;

/// Compares what the files that differ declare.
///
/// # Errors
/// Where a file is no schema.
pub(super) fn compare(pairs: &Pairs<'_>) -> Result<Vec<SchemaDifference>, Vec<Diagnostic>> {
    let (mut before, mut after) = (Declared::new(), Declared::new());
    for pair in pairs.values().filter(|p| p.kind == FileKind::Schema) {
        before.extend(declared(pair.before)?);
        after.extend(declared(pair.after)?);
    }
    let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let differs = |key: &(String, &'static str)| {
        let mut changed = Vec::new();
        let kind = match (before.get(key), after.get(key)) {
            (None, _) => DifferenceKind::Added,
            (_, None) => DifferenceKind::Removed,
            (Some(old), Some(new)) if old == new => return None,
            (Some(old), Some(new)) => {
                changed = parts(old, new);
                DifferenceKind::Changed
            }
        };
        Some(SchemaDifference {
            what: key.1,
            name: key.0.clone(),
            kind,
            changed,
        })
    };
    Ok(keys.into_iter().filter_map(differs).collect())
}

/// Whether both sides of a file declare the same.
pub(super) fn same(pair: &Pair<'_>) -> bool {
    declared(pair.before).ok() == declared(pair.after).ok()
}

fn declared(file: Option<&SourceFile>) -> Result<Declared, Vec<Diagnostic>> {
    let mut found = Declared::new();
    let Some(file) = file else { return Ok(found) };
    let bad = |e: &dyn miette::Diagnostic| vec![located(file, e)];
    let (fragment, _) = SchemaFragment::from_cedarschema_str(file.text()).map_err(|e| bad(&e))?;
    let json = fragment.to_json_value().map_err(|e| bad(&e))?;
    for (namespace, body) in json.as_object().into_iter().flatten() {
        for (section, what) in SECTIONS {
            let members = body.get(section).and_then(Value::as_object);
            for (name, declaration) in members.into_iter().flatten() {
                let name = match namespace.as_str() {
                    "" => name.clone(),
                    namespace => format!("{namespace}::{name}"),
                };
                let mut declaration = declaration.clone();
                normalize(&mut declaration);
                found.insert((name, what), declaration);
            }
        }
    }
    Ok(found)
}

/// Every list in a schema is a set.
fn normalize(value: &mut Value) {
    match value {
        Value::Array(list) => {
            list.iter_mut().for_each(normalize);
            list.sort_by_cached_key(Value::to_string);
        }
        Value::Object(map) => map.values_mut().for_each(normalize),
        _ => {}
    }
}

/// Our words for the parts of a declaration.
fn parts(before: &Value, after: &Value) -> Vec<String> {
    let mut changed = BTreeSet::new();
    let empty = Map::new();
    let object = |value: &Value| value.as_object().unwrap_or(&empty).clone();
    let (old, new) = (object(before), object(after));
    for key in old.keys().chain(new.keys()) {
        let (old, new) = (old.get(key), new.get(key));
        if old == new {
            continue;
        }
        match key.as_str() {
            "appliesTo" => changed.extend(applies(old, new)),
            "memberOf" | "memberOfTypes" => drop(changed.insert("parents".to_owned())),
            "shape" => changed.extend(attributes("attribute", old, new)),
            "attributes" => changed.extend(fields("attribute", old, new)),
            key => drop(changed.insert(key.to_owned())),
        }
    }
    changed.into_iter().collect()
}

/// What an action applies to.
fn applies(before: Option<&Value>, after: Option<&Value>) -> Vec<String> {
    let mut changed = Vec::new();
    let part = |side: Option<&'_ Value>, key: &str| side.and_then(|v| v.get(key)).cloned();
    for (key, word) in [
        ("principalTypes", "principals"),
        ("resourceTypes", "resources"),
    ] {
        if part(before, key) != part(after, key) {
            changed.push(word.to_owned());
        }
    }
    let (old, new) = (part(before, "context"), part(after, "context"));
    if old != new {
        changed.extend(attributes("context attribute", old.as_ref(), new.as_ref()));
    }
    changed
}

/// The attributes of a record that differ; the whole where it is none on both sides.
fn attributes(word: &str, before: Option<&Value>, after: Option<&Value>) -> Vec<String> {
    let record = |side: Option<&Value>| side.is_none_or(|v| v.get("attributes").is_some());
    if !record(before) || !record(after) {
        return vec![word.trim_end_matches(" attribute").to_owned()];
    }
    let inner = |side: Option<&'_ Value>| side.and_then(|v| v.get("attributes")).cloned();
    let (old, new) = (inner(before), inner(after));
    fields(word, old.as_ref(), new.as_ref())
}

fn fields(word: &str, before: Option<&Value>, after: Option<&Value>) -> Vec<String> {
    let empty = Map::new();
    let object = |side: Option<&Value>| side.and_then(Value::as_object).unwrap_or(&empty).clone();
    let (old, new) = (object(before), object(after));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let other = names.into_iter().filter(|n| old.get(*n) != new.get(*n));
    other.map(|name| format!("{word} {name}")).collect()
}
