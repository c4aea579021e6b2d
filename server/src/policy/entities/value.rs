//! Contents of stored entities: read from JSON by the declared shape and never by the
//! value, and written back as canonical JSON. Reading what was written gives the same.
//!
//! Stricter than it has to be nowhere and laxer nowhere: `null` is absent, an entity
//! reference is `{"type": "T", "id": "x"}` and nothing else, a decimal is a number or a
//! string of at most four digits after the point, other extension values are strings.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use cedar_policy_core::ast::{Literal, Name, RestrictedExpr, Value};
use cedar_policy_core::evaluator::RestrictedEvaluator;
use cedar_policy_core::extensions::Extensions;

use super::types::{Extension, Field, Shape, Target};
use crate::model::arguments::Json;

/// Bytes of an entity's id.
pub(super) const ID_BYTES_MAX: usize = 1024;

/// A value by its declared type. The order is that of canonical sets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Content {
    Bool(bool),
    Long(i64),
    String(String),
    Extension(Extension, String),
    Entity(Arc<str>, String),
    /// Sorted, without doubles.
    Set(Vec<Content>),
    Record(BTreeMap<String, Content>),
}

/// Why a value does not fit, with its path. Never quotes a value.
pub(super) type Misfit = String;

/// Names come from a caller; a message carries only so much of one, on one line.
pub(super) fn clip(path: &str) -> String {
    path.chars().filter(|c| !c.is_control()).take(128).collect()
}

/// Reads the fields of an object by the attributes of a record.
///
/// # Errors
/// The first thing that does not fit.
pub(super) fn record(
    fields: Vec<(String, Json)>,
    attributes: &BTreeMap<String, Field>,
    path: &str,
) -> Result<BTreeMap<String, Content>, Misfit> {
    let mut out = BTreeMap::new();
    for (name, value) in fields {
        let Some(field) = attributes.get(&name) else {
            let at = clip(&format!("{path}.{name}"));
            return Err(format!("`{at}` is not declared"));
        };
        if value != Json::Null {
            let content = read(value, &field.shape, &|| format!("{path}.{name}"))?;
            out.insert(name, content);
        }
    }
    let missing = |(name, field): &(&String, &Field)| field.required && !out.contains_key(*name);
    match attributes.iter().find(missing) {
        Some((name, _)) => Err(format!("`{}` is missing", clip(&format!("{path}.{name}")))),
        None => Ok(out),
    }
}

/// Reads tags, all by one shape.
///
/// # Errors
/// The first thing that does not fit.
pub(super) fn tags(
    fields: Vec<(String, Json)>,
    shape: Option<&Shape>,
) -> Result<BTreeMap<String, Content>, Misfit> {
    let mut out = BTreeMap::new();
    for (name, value) in fields {
        let Some(shape) = shape else {
            return Err("`tags`: the type declares none".to_owned());
        };
        let content = read(value, shape, &|| format!("tags.{name}"))?;
        out.insert(name, content);
    }
    Ok(out)
}

/// Reads a value. `path` is made only where it is needed, for a message.
fn read(value: Json, shape: &Shape, path: &dyn Fn() -> String) -> Result<Content, Misfit> {
    let misfit = |expected: &str, found: &Json| {
        let (at, found) = (clip(&path()), found.type_name());
        Err(format!("`{at}` must be {expected}, found {found}"))
    };
    match (shape, value) {
        (Shape::Bool, Json::Bool(b)) => Ok(Content::Bool(b)),
        (Shape::Long, Json::Integer(digits)) => match digits.parse() {
            Ok(n) => Ok(Content::Long(n)),
            Err(_) => Err(format!("`{}` does not fit into 64 bits", clip(&path()))),
        },
        (Shape::String, Json::String(s)) => Ok(Content::String(s)),
        (Shape::Extension(Extension::Decimal), Json::Integer(text) | Json::String(text)) => {
            decimal(&text, path)
        }
        (Shape::Extension(Extension::Decimal), Json::Float(f)) => decimal(&f.to_string(), path),
        (Shape::Extension(extension), Json::String(text)) => {
            match extension_value(*extension, &text) {
                Some(_) => Ok(Content::Extension(*extension, text)),
                None => {
                    let (at, what) = (clip(&path()), extension.described());
                    Err(format!("`{at}` is not {what} that Cedar reads"))
                }
            }
        }
        (Shape::Entity(target), Json::Object(fields)) => reference(fields, target, path),
        (Shape::Set(element), Json::Array(items)) => {
            let mut set = Vec::with_capacity(items.len());
            for (n, item) in items.into_iter().enumerate() {
                set.push(read(item, element, &|| format!("{}[{n}]", path()))?);
            }
            set.sort_unstable();
            set.dedup();
            Ok(Content::Set(set))
        }
        (Shape::Record(attributes), Json::Object(fields)) => {
            record(fields, attributes, &path()).map(Content::Record)
        }
        (Shape::Bool, other) => misfit("a boolean", &other),
        (Shape::Long, other) => misfit("an integer", &other),
        (Shape::Extension(Extension::Decimal), other) => misfit("a number", &other),
        (Shape::String | Shape::Extension(_), other) => misfit("a string", &other),
        (Shape::Entity(_), other) => misfit("an entity reference", &other),
        (Shape::Set(_), other) => misfit("an array", &other),
        (Shape::Record(_), other) => misfit("an object", &other),
    }
}

fn reference(
    fields: Vec<(String, Json)>,
    target: &Target,
    path: &dyn Fn() -> String,
) -> Result<Content, Misfit> {
    let (mut ty, mut id) = (None, None);
    let two = fields.len() == 2;
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("type", Json::String(text)) => ty = Some(text),
            ("id", Json::String(text)) => id = Some(text),
            _ => {}
        }
    }
    let (Some(ty), Some(id), true) = (ty, id, two) else {
        return Err(format!(
            "`{}` must be an entity reference, {{\"type\": …, \"id\": …}}",
            clip(&path())
        ));
    };
    if *ty != *target.name {
        let (at, expected) = (clip(&path()), &target.name);
        return Err(format!(
            "`{at}` must refer to an entity of type `{expected}`"
        ));
    }
    target
        .admit(&id)
        .map_err(|why| format!("`{}` {why}", clip(&path())))?;
    Ok(Content::Entity(Arc::clone(&target.name), id))
}

impl Target {
    /// Refuses what cannot be the id of such an entity.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn admit(&self, id: &str) -> Result<(), String> {
        if id.len() > ID_BYTES_MAX {
            return Err(format!("has an id of more than {ID_BYTES_MAX} bytes"));
        }
        match &self.ids {
            Some(ids) if !ids.contains(id) => {
                Err(format!("has an id that `{}` does not declare", self.name))
            }
            _ => Ok(()),
        }
    }
}

/// Cedar's decimal has four digits after the point and 64 bits in all. What it cannot
/// hold exactly does not fit.
fn decimal(text: &str, path: &dyn Fn() -> String) -> Result<Content, Misfit> {
    let misfit = || format!("`{}` does not fit a decimal of four digits", clip(&path()));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let (sign, whole) = match whole.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", whole),
    };
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 4 {
        return Err(misfit());
    }
    let scaled: i64 = format!("{sign}{whole}{fraction:0<4}")
        .parse()
        .map_err(|_| misfit())?;
    let (whole, part) = (
        scaled.unsigned_abs() / 10_000,
        scaled.unsigned_abs() % 10_000,
    );
    let sign = if scaled < 0 { "-" } else { "" };
    let part = format!("{part:04}");
    let part = part.trim_end_matches('0');
    let part = if part.is_empty() { "0" } else { part };
    Ok(Content::Extension(
        Extension::Decimal,
        format!("{sign}{whole}.{part}"),
    ))
}

impl Extension {
    fn described(self) -> &'static str {
        match self {
            Self::Decimal => "a decimal",
            Self::Ip => "an IP address",
            Self::Datetime => "a datetime",
            Self::Duration => "a duration",
        }
    }

    /// A number that stands for it in packed entities.
    pub(super) fn number(self) -> u8 {
        self as u8
    }

    /// The extension of a number.
    pub(super) fn of(number: u8) -> Option<Self> {
        [Self::Decimal, Self::Ip, Self::Datetime, Self::Duration]
            .get(usize::from(number))
            .copied()
    }
}

/// The functions that make extension values, in the order of [`Extension`].
static FUNCTIONS: LazyLock<Option<[Name; 4]>> = LazyLock::new(|| {
    let name = |text: &str| text.parse::<Name>().ok();
    Some([
        name("decimal")?,
        name("ip")?,
        name("datetime")?,
        name("duration")?,
    ])
});

/// An extension value, if Cedar can read it.
pub(super) fn extension_value(extension: Extension, text: &str) -> Option<Value> {
    let function = FUNCTIONS.as_ref()?.get(usize::from(extension.number()))?;
    let argument = RestrictedExpr::val(Literal::String(text.into()));
    let call = RestrictedExpr::call_extension_fn(function.clone(), [argument]);
    RestrictedEvaluator::new(Extensions::all_available())
        .interpret(call.as_borrowed())
        .ok()
}

/// A record as canonical JSON.
pub(super) fn json(fields: &BTreeMap<String, Content>) -> String {
    let mut out = String::with_capacity(64);
    write_record(&mut out, fields);
    out
}

/// A string as JSON.
fn write_string(out: &mut String, text: &str) {
    // Writing a string to a string cannot fail; were it to, it would not read back.
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
}

fn write_record(out: &mut String, fields: &BTreeMap<String, Content>) {
    out.push('{');
    for (n, (name, content)) in fields.iter().enumerate() {
        if n > 0 {
            out.push(',');
        }
        write_string(out, name);
        out.push(':');
        write_content(out, content);
    }
    out.push('}');
}

fn write_content(out: &mut String, content: &Content) {
    match content {
        Content::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Content::Long(n) => {
            let _ = write!(out, "{n}");
        }
        Content::String(text) | Content::Extension(_, text) => write_string(out, text),
        Content::Entity(ty, id) => {
            out.push_str("{\"id\":");
            write_string(out, id);
            out.push_str(",\"type\":");
            write_string(out, ty);
            out.push('}');
        }
        Content::Set(items) => {
            out.push('[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                write_content(out, item);
            }
            out.push(']');
        }
        Content::Record(fields) => write_record(out, fields),
    }
}

/// Canonical JSON of the store, read without the checks that a caller's text needs.
///
/// # Errors
/// When it is not the JSON of an object.
pub(super) fn parse_stored(text: &str) -> Result<Vec<(String, Json)>, Misfit> {
    match serde_json::from_str(text) {
        Ok(serde_json::Value::Object(map)) => {
            Ok(map.into_iter().map(|(k, v)| (k, plain(v))).collect())
        }
        _ => Err("the stored text is no JSON object".to_owned()),
    }
}

fn plain(value: serde_json::Value) -> Json {
    use serde_json::Value;
    match value {
        Value::Null => Json::Null,
        Value::Bool(b) => Json::Bool(b),
        Value::Number(n) => match n.as_f64() {
            Some(f) if n.is_f64() => Json::Float(f),
            _ => Json::Integer(n.to_string()),
        },
        Value::String(s) => Json::String(s),
        Value::Array(items) => Json::Array(items.into_iter().map(plain).collect()),
        Value::Object(map) => Json::Object(map.into_iter().map(|(k, v)| (k, plain(v))).collect()),
    }
}
