//! The values of the record, the tags of [`Node::recorded`] taken off again.
//!
//! [`Node::recorded`]: crate::model::canonical::Node::recorded

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::model::arguments::{Arguments, Json};
use crate::model::redaction::{HASHED, REDACTED, is_redacted};

/// Whether redaction took something out of these inputs: what poses as that is tagged, so a
/// caller can neither hide from a replay nor forge a hash. Keys are never redacted.
///
/// # Errors
/// Not JSON.
pub(super) fn redacted(text: &str) -> serde_json::Result<bool> {
    // Seldom, so the inputs are not read twice for it.
    let may = text.contains(REDACTED) || text.contains(HASHED);
    Ok(may && serde_json::from_str::<Redacted>(text)?.0)
}

/// Whether there is a redacted value somewhere in a value.
struct Redacted(bool);

impl<'de> Deserialize<'de> for Redacted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RedactedVisitor)
    }
}

struct RedactedVisitor;

impl<'de> Visitor<'de> for RedactedVisitor {
    type Value = Redacted;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a recorded value")
    }

    fn visit_unit<E>(self) -> Result<Redacted, E> {
        Ok(Redacted(false))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Redacted, E> {
        Ok(Redacted(false))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Redacted, E> {
        Ok(Redacted(false))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Redacted, E> {
        Ok(Redacted(false))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Redacted, E> {
        Ok(Redacted(false))
    }

    fn visit_str<E>(self, value: &str) -> Result<Redacted, E> {
        Ok(Redacted(is_redacted(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Redacted, A::Error> {
        let mut any = false;
        while let Some(Redacted(item)) = items.next_element()? {
            any |= item;
        }
        Ok(Redacted(any))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Redacted, A::Error> {
        let mut any = false;
        while let Some((IgnoredAny, Redacted(value))) = entries.next_entry()? {
            any |= value;
        }
        Ok(Redacted(any))
    }
}

/// A text that is not ours, or not only.
#[derive(Default)]
pub(super) struct Told(pub(super) String);

impl<'de> Deserialize<'de> for Told {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match untagged(&text) {
            Some(Json::String(text)) => Ok(Self(text)),
            _ => Err(serde::de::Error::custom("an unknown tag")),
        }
    }
}

/// The texts themselves.
pub(super) fn texts(told: Vec<Told>) -> Vec<String> {
    told.into_iter().map(|told| told.0).collect()
}

/// A caller's value as `Node::recorded` wrote it, its tags taken off again.
pub(super) struct Recorded(pub(super) Json);

impl Recorded {
    /// A caller's object; why it was none; or that there was none.
    pub(super) fn object(self) -> Option<Result<Arguments, String>> {
        match self.0 {
            Json::Object(fields) => Some(Ok(Arguments::of(fields))),
            Json::String(why) => Some(Err(why)),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Recorded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RecordedVisitor)
    }
}

struct RecordedVisitor;

impl<'de> Visitor<'de> for RecordedVisitor {
    type Value = Recorded;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a recorded value")
    }

    fn visit_unit<E>(self) -> Result<Recorded, E> {
        Ok(Recorded(Json::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Recorded, E> {
        Ok(Recorded(Json::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Recorded, E> {
        Ok(Recorded(Json::Integer(value.to_string())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Recorded, E> {
        Ok(Recorded(Json::Integer(value.to_string())))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Recorded, E> {
        Ok(Recorded(Json::Float(value)))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Recorded, E> {
        untagged(value)
            .map(Recorded)
            .ok_or_else(|| E::custom("an unknown tag"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Recorded, A::Error> {
        let mut list = Vec::new();
        while let Some(Recorded(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Recorded(Json::Array(list)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Recorded, A::Error> {
        let mut fields: Vec<(String, Json)> = Vec::new();
        while let Some((key, Recorded(value))) = entries.next_entry::<String, Recorded>()? {
            fields.push((key, value));
        }
        let keys: BTreeSet<&str> = fields.iter().map(|(key, _)| key.as_str()).collect();
        match keys.len() == fields.len() {
            true => Ok(Recorded(Json::Object(fields))),
            false => Err(serde::de::Error::custom("a key stands twice")),
        }
    }
}

fn untagged(text: &str) -> Option<Json> {
    let Some(tagged) = text.strip_prefix("zta:") else {
        return Some(Json::String(text.to_owned()));
    };
    let (tag, value) = tagged.split_once(':')?;
    match tag {
        "int" => Some(Json::Integer(value.to_owned())),
        "str" => Some(Json::String(value.to_owned())),
        "float" => value.parse().ok().map(Json::Float),
        _ => None,
    }
}
