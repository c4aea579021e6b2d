//! Model-controlled JSON to Cedar values, by the declared shape and never by the value:
//! 5 and 5.5 of one parameter have one type, and `{"__entity": …}` is a record with a
//! field that is not declared.

use std::collections::BTreeMap;

use cedar_policy::{Context, RestrictedExpression};

use super::shape::{Attribute, Shape};
use crate::model::arguments::Json;

/// Why a value does not fit, with its path. Never quotes a value.
pub(super) type Misfit = String;

/// Converts the fields of an object by a record's attributes. `null` is absent; a field
/// that is not declared does not fit.
pub(super) fn record(
    fields: &[(String, Json)],
    attributes: &BTreeMap<String, Attribute>,
    path: &str,
) -> Result<Vec<(String, RestrictedExpression)>, Misfit> {
    let mut out = Vec::with_capacity(fields.len());
    for (name, value) in fields {
        let at = format!("{path}.{name}");
        let Some(attribute) = attributes.get(name) else {
            return Err(format!("`{}` is not declared", clip(&at)));
        };
        if *value != Json::Null {
            out.push((name.clone(), convert(value, &attribute.shape, &at)?));
        }
    }
    for (name, attribute) in attributes {
        if attribute.required && !out.iter().any(|(n, _)| n == name) {
            return Err(format!("`{}` is missing", clip(&format!("{path}.{name}"))));
        }
    }
    Ok(out)
}

/// Names come from a model; a message carries only so much of one, on one line.
fn clip(path: &str) -> String {
    path.chars().filter(|c| !c.is_control()).take(128).collect()
}

fn convert(value: &Json, shape: &Shape, path: &str) -> Result<RestrictedExpression, Misfit> {
    let misfit = |expected: &str| {
        Err(format!(
            "`{}` must be {expected}, found {}",
            clip(path),
            value.type_name()
        ))
    };
    match (shape, value) {
        (Shape::Bool, Json::Bool(b)) => Ok(RestrictedExpression::new_bool(*b)),
        (Shape::Long, Json::Integer(digits)) => match digits.parse::<i64>() {
            Ok(n) => Ok(RestrictedExpression::new_long(n)),
            Err(_) => Err(format!("`{}` does not fit into 64 bits", clip(path))),
        },
        (Shape::String, Json::String(s)) => Ok(RestrictedExpression::new_string(s.clone())),
        (Shape::Decimal, Json::Integer(digits)) => decimal(digits, path),
        (Shape::Decimal, Json::Float(f)) => decimal(&f.to_string(), path),
        (Shape::Datetime, Json::String(s)) => {
            read(RestrictedExpression::new_datetime(s), "a datetime", path)
        }
        (Shape::Duration, Json::String(s)) => {
            read(RestrictedExpression::new_duration(s), "a duration", path)
        }
        (Shape::Ip, Json::String(s)) => {
            read(RestrictedExpression::new_ip(s), "an IP address", path)
        }
        (Shape::Set(element), Json::Array(items)) => items
            .iter()
            .enumerate()
            .map(|(i, item)| convert(item, element, &format!("{path}[{i}]")))
            .collect::<Result<Vec<_>, _>>()
            .map(RestrictedExpression::new_set),
        (Shape::Record(attributes), Json::Object(fields)) => {
            RestrictedExpression::new_record(record(fields, attributes, path)?)
                .map_err(|e| format!("`{}`: {e}", clip(path)))
        }
        (Shape::Bool, _) => misfit("a boolean"),
        (Shape::Long, _) => misfit("an integer"),
        (Shape::String | Shape::Datetime | Shape::Duration | Shape::Ip, _) => misfit("a string"),
        (Shape::Decimal, _) => misfit("a number"),
        (Shape::Set(_), _) => misfit("an array"),
        (Shape::Record(_), _) => misfit("an object"),
    }
}

/// A text that Cedar has to read. Its own error would quote the whole text, and so let a
/// model write into the message that people and other models read.
fn read(
    value: RestrictedExpression,
    what: &str,
    path: &str,
) -> Result<RestrictedExpression, Misfit> {
    match Context::from_pairs([("value".to_owned(), value.clone())]) {
        Ok(_) => Ok(value),
        Err(_) => Err(format!("`{}` is not {what} that Cedar reads", clip(path))),
    }
}

/// Cedar's decimal has four digits after the point and 64 bits in all. What it cannot
/// hold exactly does not fit: rounding could carry an amount over a limit.
fn decimal(text: &str, path: &str) -> Result<RestrictedExpression, Misfit> {
    let misfit = || format!("`{}` does not fit a decimal of four digits", clip(path));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole.strip_prefix('-').unwrap_or(whole)) || !digits(fraction) || fraction.len() > 4
    {
        return Err(misfit());
    }
    let scaled = format!("{whole}{fraction:0<4}");
    scaled.parse::<i64>().map_err(|_| misfit())?;
    Ok(RestrictedExpression::new_decimal(format!(
        "{whole}.{fraction}"
    )))
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
        record(arguments.fields(), &shape(), "input").map(|fields| fields.len())
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
