//! Tool arguments and PEP context: JSON that a model may control. Parsed strictly,
//! never interpreted: no key has a meaning here, `__entity` and `__extn` included.
//!
//! The digest that binds a decision to one exact call is SHA-256 over the RFC 8785
//! form, with two additions, because that form knows only doubles:
//!
//! - an integer literal beyond ±(2^53-1) becomes the string `zta:int:<digits>`;
//! - a string that begins with `zta:` gets `zta:str:` before it, so that no string
//!   can pose as such an integer.
//!
//! The clients compute the same; `client-py/tests/vectors/argument_digest.json` holds
//! the shared test vectors.

use std::fmt;
use std::sync::OnceLock;

use aws_lc_rs::digest;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::canonical::Node;
use super::redaction::Redaction;

/// The deepest nesting of objects and arrays.
pub const DEPTH_MAX: usize = 32;
/// How many values, nested ones included. Two bytes of JSON can be a value, which takes
/// a hundred in memory while the call waits for its record.
pub const VALUES_MAX: usize = 10_000;

/// The largest integer that RFC 8785 can carry exactly.
pub(super) const SAFE_INTEGER_MAX: u128 = (1 << 53) - 1;

/// A JSON value that lost nothing in parsing: integers keep all their digits.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A literal without fraction and exponent, as its digits.
    Integer(String),
    /// Any other number.
    Float(f64),
    /// A string.
    String(String),
    /// An array.
    Array(Vec<Json>),
    /// An object, in the order of the text; keys are unique.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// The JSON type's name, for messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a number with a fraction or exponent",
            Self::String(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }
}

/// A parsed JSON object.
#[derive(Clone, Debug)]
pub struct Arguments {
    fields: Vec<(String, Json)>,
    /// Of the canonical form, once somebody asked.
    sha256: OnceLock<[u8; 32]>,
}

impl Arguments {
    /// No arguments, `{}`.
    pub fn empty() -> Self {
        Self {
            fields: Vec::new(),
            sha256: OnceLock::new(),
        }
    }

    /// These fields, whose keys are unique.
    pub(crate) fn of(fields: Vec<(String, Json)>) -> Self {
        Self {
            fields,
            sha256: OnceLock::new(),
        }
    }

    /// Parses an object. Empty input is `{}`.
    ///
    /// # Errors
    /// A sentence for the caller: not UTF-8, not JSON, not an object, a key twice,
    /// nested too deeply, or too many values. It never quotes the input.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.is_empty() {
            return Ok(Self::empty());
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|e| format!("not UTF-8 (at byte {})", e.valid_up_to()))?;
        let raw: &RawValue = serde_json::from_str(text).map_err(|e| describe(&e))?;
        match parse_raw(raw, 0, &mut 0)? {
            Json::Object(fields) => Ok(Self::of(fields)),
            other => Err(format!(
                "expected a JSON object, found {}",
                other.type_name()
            )),
        }
    }

    /// The fields in the order of the text.
    pub fn fields(&self) -> &[(String, Json)] {
        &self.fields
    }

    /// The canonical form, tagged (see the module's documentation).
    pub fn canonical(&self) -> Vec<u8> {
        Node::Fields(&self.fields).canonical(&Redaction::default())
    }

    /// SHA-256 over the canonical form.
    pub fn sha256(&self) -> [u8; 32] {
        *self.sha256.get_or_init(|| sha256(&self.canonical()))
    }
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

/// serde_json's message without anything of the input.
fn describe(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Eof => "it ends too early",
        _ if error.to_string().starts_with(DUPLICATE) => "a key stands twice in an object",
        _ => "it is not JSON",
    };
    format!("{what} (line {} column {})", error.line(), error.column())
}

const DUPLICATE: &str = "duplicate key";

fn parse_raw(raw: &RawValue, depth: usize, values: &mut usize) -> Result<Json, String> {
    let text = raw.get().trim_ascii();
    *values += 1;
    if *values > VALUES_MAX {
        return Err(format!("more than {VALUES_MAX} values"));
    }
    let parsed = match text.as_bytes().first() {
        Some(b'{' | b'[') if depth >= DEPTH_MAX => {
            return Err(format!("nested more than {DEPTH_MAX} levels deep"));
        }
        Some(b'{') => {
            let Fields(fields) = serde_json::from_str(text).map_err(|e| describe(&e))?;
            let fields = fields
                .into_iter()
                .map(|(key, value)| Ok((key, parse_raw(value, depth + 1, values)?)))
                .collect::<Result<_, String>>()?;
            return Ok(Json::Object(fields));
        }
        Some(b'[') => {
            let Items(items) = serde_json::from_str(text).map_err(|e| describe(&e))?;
            let items = items
                .into_iter()
                .map(|value| parse_raw(value, depth + 1, values))
                .collect::<Result<_, String>>()?;
            return Ok(Json::Array(items));
        }
        Some(b'"') => serde_json::from_str(text).map(Json::String),
        Some(b't' | b'f') => serde_json::from_str(text).map(Json::Bool),
        Some(b'n') => serde_json::from_str::<()>(text).map(|()| Json::Null),
        _ if text.bytes().all(|b| b == b'-' || b.is_ascii_digit()) => {
            let digits = if text == "-0" { "0" } else { text };
            return Ok(Json::Integer(digits.to_owned()));
        }
        _ => serde_json::from_str(text).map(Json::Float),
    };
    parsed.map_err(|e| describe(&e))
}

/// Fields of an object up to which each key is compared with all before it.
const FIELDS_COMPARED_MAX: usize = 16;

/// The fields of an object, still raw, refusing a key that stands twice.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for FieldsVisitor<'a> {
            type Value = Fields<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut fields: Vec<(String, &'de RawValue)> = Vec::new();
                // Few keys are compared, many are hashed.
                let mut seen = std::collections::HashSet::new();
                while let Some((key, value)) = map.next_entry::<String, &'de RawValue>()? {
                    if fields.len() == FIELDS_COMPARED_MAX {
                        seen.extend(fields.iter().map(|(key, _)| key.clone()));
                    }
                    let twice = match fields.len() < FIELDS_COMPARED_MAX {
                        true => fields.iter().any(|(other, _)| *other == key),
                        false => !seen.insert(key.clone()),
                    };
                    if twice {
                        return Err(M::Error::custom(DUPLICATE));
                    }
                    fields.push((key, value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(FieldsVisitor(std::marker::PhantomData))
    }
}

/// The items of an array, still raw.
struct Items<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Items<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ItemsVisitor<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for ItemsVisitor<'a> {
            type Value = Items<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }
            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Self::Value, S::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element::<&'de RawValue>()? {
                    items.push(item);
                }
                Ok(Items(items))
            }
        }
        deserializer.deserialize_seq(ItemsVisitor(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> Result<String, String> {
        Arguments::parse(text.as_bytes()).map(|a| String::from_utf8(a.canonical()).expect("utf-8"))
    }

    #[test]
    fn what_rfc_8785_cannot_carry_is_tagged() {
        assert_eq!(
            canonical(r#"{"b":9007199254740991,"a":1.0}"#).as_deref(),
            Ok(r#"{"a":1,"b":9007199254740991}"#)
        );
        assert_eq!(
            canonical(r#"{"n":-9223372036854775809}"#).as_deref(),
            Ok(r#"{"n":"zta:int:-9223372036854775809"}"#)
        );
        assert_eq!(
            canonical(r#"{"s":"zta:int:1"}"#).as_deref(),
            Ok(r#"{"s":"zta:str:zta:int:1"}"#)
        );
        assert_eq!(canonical(r#"{"n":-0}"#).as_deref(), Ok(r#"{"n":0}"#));
        // The one number whose absolute value is not of its own type.
        let least = i128::MIN;
        assert_eq!(
            canonical(&format!(r#"{{"n":{least}}}"#)),
            Ok(format!(r#"{{"n":"zta:int:{least}"}}"#))
        );
    }

    #[test]
    fn what_is_not_one_clean_object_is_refused() {
        let object = |last: &str| {
            let fields: Vec<_> = (0..40).map(|n| format!(r#""k{n}":{n}"#)).collect();
            format!(r#"{{{},"{last}":0}}"#, fields.join(","))
        };
        assert!(canonical(&object("k40")).is_ok());
        for (text, why) in [
            (r#"{"a":1,"a":2}"#, "twice"),
            (r#"{"o":{"a":1,"\u0061":2}}"#, "twice"),
            (&object("k3"), "twice"),
            (&object("k30"), "twice"),
            ("[1]", "expected a JSON object"),
            (r#"{"a":NaN}"#, "not JSON"),
            (r#"{"a":1"#, "ends too early"),
            (r#"{"a":1} x"#, "not JSON"),
            (r#"{"a":"\ud800"}"#, "not JSON"),
            (r#"{"a":1e999}"#, "not JSON"),
        ] {
            let error = canonical(text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(
            Arguments::parse(b"{\"a\":\"\xff\"}")
                .expect_err("utf-8")
                .contains("not UTF-8")
        );
        let deep = format!(
            "{{\"a\":{}1{}}}",
            "[".repeat(DEPTH_MAX),
            "]".repeat(DEPTH_MAX)
        );
        assert!(canonical(&deep).expect_err("deep").contains("levels deep"));
        let list = |items: usize| format!("{{\"a\":[0{}]}}", ",0".repeat(items - 1));
        assert!(canonical(&list(VALUES_MAX - 2)).is_ok());
        let error = canonical(&list(VALUES_MAX - 1)).expect_err("many");
        assert!(error.contains("more than 10000 values"), "{error}");
    }
}
