//! Tool arguments as JSON and their digest, which binds a decision to one exact call.
//!
//! The digest is SHA-256 over the RFC 8785 form of the object, with two additions, because
//! that form knows only doubles:
//!
//! - an integer literal beyond ±(2^53-1) becomes the string `zta:int:<digits>`;
//! - a string value that begins with `zta:` gets `zta:str:` before it, so that no string
//!   can pose as such an integer.
//!
//! There is one way in, the JSON text: a [`serde_json::Value`] is written out and read
//! back. So integers of any size keep their digits, and a key that stands twice is
//! refused here as it is by the server.

use std::fmt;

use aws_lc_rs::digest;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Value, value::RawValue};

use crate::error::ArgumentsError;

/// The deepest nesting of objects and arrays; the arguments object itself is level 1.
pub const DEPTH_MAX: usize = 32;
/// The longest arguments that the server takes, in bytes of JSON.
pub const BYTES_MAX: usize = 256 * 1024;

const SAFE_INTEGER_MAX: i128 = (1 << 53) - 1;
const DUPLICATE: &str = "duplicate key";

/// A tool's arguments: a JSON object, with the digest that names exactly it.
///
/// ```
/// use zta_client::Arguments;
///
/// let value = Arguments::try_from(serde_json::json!({"query": "rust", "limit": 5}))?;
/// let text = Arguments::try_from(r#"{ "limit": 5, "query": "rust" }"#)?;
/// assert_eq!(value.sha256(), text.sha256());
/// # Ok::<(), zta_client::ArgumentsError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Arguments {
    json: String,
    sha256: [u8; 32],
}

impl Arguments {
    /// No arguments, `{}`.
    pub fn empty() -> Self {
        Self {
            json: "{}".to_owned(),
            sha256: sha256(b"{}"),
        }
    }

    /// Reads an object from JSON text.
    ///
    /// # Errors
    /// What is not one JSON object with unique keys, is nested deeper than [`DEPTH_MAX`],
    /// or is longer than [`BYTES_MAX`]. The error never quotes the input.
    pub fn parse(bytes: &[u8]) -> Result<Self, ArgumentsError> {
        if bytes.len() > BYTES_MAX {
            return Err(ArgumentsError::TooLong);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| ArgumentsError::NotUtf8)?;
        let raw: &RawValue = serde_json::from_str(text).map_err(|e| describe(&e))?;
        let tagged = tagged(raw, 0)?;
        if !tagged.is_object() {
            return Err(ArgumentsError::NotAnObject);
        }
        let canonical =
            serde_json_canonicalizer::to_vec(&tagged).map_err(|_| ArgumentsError::NotJson)?;
        Ok(Self {
            json: text.to_owned(),
            sha256: sha256(&canonical),
        })
    }

    /// The JSON text, as it is sent to the server.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// SHA-256 over the canonical form (see the text above).
    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }
}

/// Without the arguments themselves: they may hold secrets, and this ends up in logs.
impl fmt::Debug for Arguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Arguments({} bytes)", self.json.len())
    }
}

impl TryFrom<&Value> for Arguments {
    type Error = ArgumentsError;

    fn try_from(value: &Value) -> Result<Self, ArgumentsError> {
        Self::parse(value.to_string().as_bytes())
    }
}

impl TryFrom<Value> for Arguments {
    type Error = ArgumentsError;

    fn try_from(value: Value) -> Result<Self, ArgumentsError> {
        Self::try_from(&value)
    }
}

impl TryFrom<&str> for Arguments {
    type Error = ArgumentsError;

    fn try_from(text: &str) -> Result<Self, ArgumentsError> {
        Self::parse(text.as_bytes())
    }
}

impl TryFrom<&[u8]> for Arguments {
    type Error = ArgumentsError;

    fn try_from(bytes: &[u8]) -> Result<Self, ArgumentsError> {
        Self::parse(bytes)
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

fn describe(error: &serde_json::Error) -> ArgumentsError {
    if error.to_string().starts_with(DUPLICATE) {
        ArgumentsError::DuplicateKey
    } else {
        ArgumentsError::NotJson
    }
}

/// The value with big integers and look-alike strings tagged: what is digested.
fn tagged(raw: &RawValue, depth: usize) -> Result<Value, ArgumentsError> {
    let text = raw.get().trim_ascii();
    let parsed = match text.as_bytes().first() {
        Some(b'{' | b'[') if depth >= DEPTH_MAX => return Err(ArgumentsError::TooDeep),
        Some(b'{') => {
            let Fields(fields) = serde_json::from_str(text).map_err(|e| describe(&e))?;
            return fields
                .into_iter()
                .map(|(key, value)| Ok((key, tagged(value, depth + 1)?)))
                .collect::<Result<_, _>>()
                .map(Value::Object);
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|e| describe(&e))?;
            return items
                .into_iter()
                .map(|item| tagged(item, depth + 1))
                .collect::<Result<_, _>>()
                .map(Value::Array);
        }
        Some(b'"') => serde_json::from_str(text).map(|string: String| {
            Value::String(match string.starts_with("zta:") {
                true => format!("zta:str:{string}"),
                false => string,
            })
        }),
        _ if text.bytes().all(|b| b == b'-' || b.is_ascii_digit()) => return Ok(integer(text)),
        _ => serde_json::from_str(text),
    };
    parsed.map_err(|e| describe(&e))
}

fn integer(digits: &str) -> Value {
    match digits.parse::<i64>() {
        Ok(n) if i128::from(n).abs() <= SAFE_INTEGER_MAX => Value::from(n),
        _ => Value::String(format!("zta:int:{digits}")),
    }
}

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
                let mut seen = std::collections::HashSet::new();
                let mut fields = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, &'de RawValue>()? {
                    if !seen.insert(key.clone()) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        let raw: &RawValue = serde_json::from_str(text).expect("JSON");
        serde_json_canonicalizer::to_string(&tagged(raw, 0).expect("in form")).expect("canonical")
    }

    #[test]
    fn the_digest_is_of_the_canonical_form() {
        for (text, form) in [
            ("", ""),
            (" { } ", "{}"),
            (
                r#"{"b":9007199254740991,"a":1.0}"#,
                r#"{"a":1,"b":9007199254740991}"#,
            ),
            (
                r#"{"n":9007199254740992}"#,
                r#"{"n":"zta:int:9007199254740992"}"#,
            ),
            (
                r#"{"n":[-99999999999999999999]}"#,
                r#"{"n":["zta:int:-99999999999999999999"]}"#,
            ),
            (r#"{"n":1e400,"x":1}"#, ""),
            (
                r#"{"s":"zta:int:1","zta:k":"zt"}"#,
                r#"{"s":"zta:str:zta:int:1","zta:k":"zt"}"#,
            ),
            (
                r#"{"n":-0,"f":9007199254740993.0}"#,
                r#"{"f":9007199254740992,"n":0}"#,
            ),
            (
                r#"{"e":"\u20ac\n","t":[true,null]}"#,
                "{\"e\":\"€\\n\",\"t\":[true,null]}",
            ),
        ] {
            match Arguments::parse(text.as_bytes()) {
                Ok(arguments) => assert_eq!(arguments.sha256, sha256(form.as_bytes()), "{text}"),
                Err(error) => assert_eq!((error, form), (ArgumentsError::NotJson, ""), "{text}"),
            }
        }
        assert_eq!(
            canonical(r#"{"\ufb33":1,"\ud83d\ude00":2}"#),
            "{\"😀\":2,\"\u{fb33}\":1}"
        );
    }

    /// The vectors of all clients and the server.
    #[test]
    fn the_shared_vectors_hold() {
        #[derive(serde::Deserialize)]
        struct Vector {
            name: String,
            json: String,
            canonical: Option<String>,
            sha256: Option<String>,
        }
        let path = "../client-py/tests/vectors/argument_digest.json";
        let text = std::fs::read(path).expect("the vectors");
        let vectors: Vec<Vector> = serde_json::from_slice(&text).expect("vectors");
        assert!(vectors.len() >= 20);
        for vector in vectors {
            let hex = Arguments::try_from(vector.json.as_str())
                .ok()
                .map(|arguments| {
                    let bytes = arguments.sha256.iter();
                    bytes.map(|b| format!("{b:02x}")).collect::<String>()
                });
            assert_eq!(hex, vector.sha256, "{}", vector.name);
            if let Some(form) = vector.canonical {
                assert_eq!(canonical(&vector.json), form, "{}", vector.name);
            }
        }
    }

    #[test]
    fn a_value_and_its_text_have_one_digest() {
        let value = serde_json::json!({"big": u64::MAX, "f": 1e20, "s": "zta:x", "a": [1.5, -1]});
        let text = r#"{"a":[1.5,-1],"s":"zta:x","f":1e20,"big":18446744073709551615}"#;
        let (value, text) = (Arguments::try_from(value), Arguments::try_from(text));
        assert_eq!(value.expect("value").sha256(), text.expect("text").sha256());
    }

    #[test]
    fn what_is_not_one_clean_object_is_refused() {
        for (text, error) in [
            (r#"{"a":1,"a":2}"#, ArgumentsError::DuplicateKey),
            (r#"{"o":{"a":1,"\u0061":2}}"#, ArgumentsError::DuplicateKey),
            ("[1]", ArgumentsError::NotAnObject),
            ("7", ArgumentsError::NotAnObject),
            (r#"{"a":NaN}"#, ArgumentsError::NotJson),
            (r#"{"a":1"#, ArgumentsError::NotJson),
            (r#"{"a":1} x"#, ArgumentsError::NotJson),
            (r#"{"a":"\ud800"}"#, ArgumentsError::NotJson),
        ] {
            assert_eq!(Arguments::try_from(text), Err(error), "{text}");
        }
        assert_eq!(
            Arguments::parse(b"{\"a\":\"\xff\"}"),
            Err(ArgumentsError::NotUtf8)
        );
        let nested =
            |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        assert!(Arguments::try_from(nested(DEPTH_MAX - 1).as_str()).is_ok());
        assert_eq!(
            Arguments::try_from(nested(DEPTH_MAX).as_str()),
            Err(ArgumentsError::TooDeep)
        );
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(BYTES_MAX));
        assert_eq!(
            Arguments::try_from(long.as_str()),
            Err(ArgumentsError::TooLong)
        );
    }

    #[test]
    fn debug_shows_no_argument() {
        let arguments = Arguments::try_from(r#"{"password":"hunter2"}"#).expect("arguments");
        assert!(!format!("{arguments:?}").contains("hunter2"));
    }
}
