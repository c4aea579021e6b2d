//! Model-controlled JSON to Cedar values, by the declared shape and never by the value:
//! 5 and 5.5 of one parameter have one type, and `{"__entity": …}` is a record with a
//! field that is not declared.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr as _;
use std::sync::LazyLock;

use cedar_policy_core::ast::{ExtensionFunction, Name, PartialValue, Value};
use cedar_policy_core::extensions::Extensions;

use super::shape::{Attribute, Shape};
use crate::model::arguments::Json;

/// Why a value does not fit, with its path. Never quotes a value.
pub(super) type Misfit = String;

/// Where a value stands. Written out only in an error.
#[derive(Clone, Copy)]
pub(super) enum Path<'p> {
    /// The whole, by its name.
    Root(&'p str),
    /// A field of an object.
    Field(&'p Path<'p>, &'p str),
    /// An element of an array.
    Element(&'p Path<'p>, usize),
}

impl fmt::Display for Path<'_> {
    /// Names come from a model; a message carries only so much of one, on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn write(path: &Path<'_>, out: &mut String) {
            match path {
                Path::Root(name) => out.push_str(name),
                Path::Field(parent, name) => {
                    write(parent, out);
                    out.push('.');
                    out.push_str(name);
                }
                Path::Element(parent, at) => {
                    write(parent, out);
                    out.push_str(&format!("[{at}]"));
                }
            }
        }
        let mut out = String::new();
        write(self, &mut out);
        let clipped: String = out.chars().filter(|c| !c.is_control()).take(128).collect();
        f.write_str(&clipped)
    }
}

/// Converts the fields of an object by a record's attributes. `null` is absent; a field
/// that is not declared does not fit.
pub(super) fn record(
    fields: &[(String, Json)],
    attributes: &BTreeMap<String, Attribute>,
    path: &Path<'_>,
) -> Result<Vec<(String, Value)>, Misfit> {
    let mut out = Vec::with_capacity(fields.len());
    for (name, value) in fields {
        let at = Path::Field(path, name);
        let Some(attribute) = attributes.get(name) else {
            return Err(format!("`{at}` is not declared"));
        };
        if *value != Json::Null {
            out.push((name.clone(), convert(value, &attribute.shape, &at)?));
        }
    }
    for (name, attribute) in attributes {
        if attribute.required && !out.iter().any(|(n, _)| n == name) {
            return Err(format!("`{}` is missing", Path::Field(path, name)));
        }
    }
    Ok(out)
}

fn convert(value: &Json, shape: &Shape, path: &Path<'_>) -> Result<Value, Misfit> {
    let misfit = |expected: &str| {
        Err(format!(
            "`{path}` must be {expected}, found {}",
            value.type_name()
        ))
    };
    match (shape, value) {
        (Shape::Bool, Json::Bool(b)) => Ok((*b).into()),
        (Shape::Long, Json::Integer(digits)) => match digits.parse::<i64>() {
            Ok(n) => Ok(n.into()),
            Err(_) => Err(format!("`{path}` does not fit into 64 bits")),
        },
        (Shape::String, Json::String(s)) => Ok(s.as_str().into()),
        (Shape::Decimal, Json::Integer(digits)) => decimal(digits, path),
        (Shape::Decimal, Json::Float(f)) => decimal(&f.to_string(), path),
        (Shape::Datetime, Json::String(s)) => read(&DATETIME, s, "a datetime", path),
        (Shape::Duration, Json::String(s)) => read(&DURATION, s, "a duration", path),
        (Shape::Ip, Json::String(s)) => read(&IP, s, "an IP address", path),
        (Shape::Set(element), Json::Array(items)) => {
            let items = items.iter().enumerate();
            let values: Result<Vec<Value>, Misfit> = items
                .map(|(i, item)| convert(item, element, &Path::Element(path, i)))
                .collect();
            Ok(Value::set(values?, None))
        }
        (Shape::Record(attributes), Json::Object(fields)) => {
            Ok(Value::record(record(fields, attributes, path)?, None))
        }
        (Shape::Bool, _) => misfit("a boolean"),
        (Shape::Long, _) => misfit("an integer"),
        (Shape::String | Shape::Datetime | Shape::Duration | Shape::Ip, _) => misfit("a string"),
        (Shape::Decimal, _) => misfit("a number"),
        (Shape::Set(_), _) => misfit("an array"),
        (Shape::Record(_), _) => misfit("an object"),
    }
}

/// A constructor of one of Cedar's extension types.
pub(super) type Constructor = LazyLock<Option<&'static ExtensionFunction>>;

pub(super) static DATETIME: Constructor = LazyLock::new(|| constructor("datetime"));
pub(super) static IP: Constructor = LazyLock::new(|| constructor("ip"));
static DURATION: Constructor = LazyLock::new(|| constructor("duration"));
static DECIMAL: Constructor = LazyLock::new(|| constructor("decimal"));

fn constructor(name: &str) -> Option<&'static ExtensionFunction> {
    let name = Name::from_str(name).ok()?;
    Extensions::all_available().func(&name).ok()
}

/// A value of an extension type from its text; `None` if Cedar does not read it.
pub(super) fn construct(constructor: &Constructor, text: &str) -> Option<Value> {
    match (**constructor)?.call(&[text.into()]) {
        Ok(PartialValue::Value(value)) => Some(value),
        _ => None,
    }
}

/// A text that Cedar has to read. Its own error would quote the whole text, and so let a
/// model write into the message that people and other models read.
fn read(
    constructor: &Constructor,
    text: &str,
    what: &str,
    path: &Path<'_>,
) -> Result<Value, Misfit> {
    construct(constructor, text).ok_or_else(|| format!("`{path}` is not {what} that Cedar reads"))
}

/// Cedar's decimal has four digits after the point and 64 bits in all. What it cannot
/// hold exactly does not fit: rounding could carry an amount over a limit.
fn decimal(text: &str, path: &Path<'_>) -> Result<Value, Misfit> {
    let misfit = || format!("`{path}` does not fit a decimal of four digits");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole.strip_prefix('-').unwrap_or(whole)) || !digits(fraction) || fraction.len() > 4
    {
        return Err(misfit());
    }
    construct(&DECIMAL, &format!("{whole}.{fraction}")).ok_or_else(misfit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::arguments::Arguments;

    fn shape() -> BTreeMap<String, Attribute> {
        let required = |shape| Attribute {
            shape,
            required: true,
        };
        BTreeMap::from([
            ("amount".to_owned(), required(Shape::Decimal)),
            (
                "note".to_owned(),
                Attribute {
                    shape: Shape::String,
                    required: false,
                },
            ),
        ])
    }

    fn convert_text(text: &str) -> Result<usize, Misfit> {
        let arguments = Arguments::parse(text.as_bytes()).expect("json");
        record(arguments.fields(), &shape(), &Path::Root("input")).map(|fields| fields.len())
    }

    #[test]
    fn by_the_declared_type_never_by_the_value() {
        assert_eq!(convert_text(r#"{"amount":5}"#), Ok(1));
        assert_eq!(convert_text(r#"{"amount":5.5,"note":null}"#), Ok(1));
        assert_eq!(convert_text(r#"{"amount":-92233720368547.5}"#), Ok(1));
        for (text, why) in [
            (r#"{"amount":0.00001}"#, "does not fit a decimal"),
            (r#"{"amount":1e300}"#, "does not fit a decimal"),
            (
                r#"{"amount":9223372036854775808}"#,
                "does not fit a decimal",
            ),
            (r#"{"amount":"5"}"#, "must be a number"),
            (r#"{"amount":null}"#, "`input.amount` is missing"),
            (
                r#"{"amount":{"__extn":{"fn":"decimal","arg":"1.0"}}}"#,
                "must be a number",
            ),
            (
                r#"{"amount":1,"__entity":{"type":"ZTA::Role","id":"x"}}"#,
                "is not declared",
            ),
        ] {
            let error = convert_text(text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
