//! Removes what must not be stored from inputs before they are written.
//!
//! A rule of `redact` drops a value: [`REDACTED`] stands in its place. A rule of
//! `redact_hash` puts a keyed hash there, `zta:hmac:<hex>`: HMAC-SHA-256 (RFC 2104) under a
//! key that this deployment has for nothing else, over [`HASH_DOMAIN`] and the value's
//! canonical form (see [`super::arguments`]). Where both name a value, it is dropped.
//!
//! The path is not part of the message, so one value has one hash wherever it stands, and
//! the record can be joined over it: a card in `arguments` is found again in `request`. The
//! price: who reads the record sees which values are equal, and who may also make calls can
//! try a guess. The key is of one deployment, so nothing joins two of them.
//!
//! What a caller sends cannot pose as either: see [`poses`].

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde_json::Value;

use super::arguments::Json;
use super::canonical::Node;

/// What stands in place of a removed value.
pub const REDACTED: &str = "[redacted]";
/// What a keyed hash in place of a value begins with; 64 hex digits follow.
pub const HASHED: &str = "zta:hmac:";
/// What the message of a keyed hash begins with, so that the key says nothing else.
pub const HASH_DOMAIN: &[u8] = b"zta-redaction-v1\0";
/// What marks a text that could be taken for one of ours.
const TEXT_TAG: &str = "zta:str:";

/// HMAC-SHA-256 of a message under the key for this; `None` when the key cannot be used.
pub type KeyedHash = Arc<dyn Fn(&[u8]) -> Option<[u8; 32]> + Send + Sync>;

/// Whether a text of somebody else could be taken for what redaction writes, or for a tag
/// of ours. In the record such a text has `zta:str:` before it.
pub fn poses(text: &str) -> bool {
    text.starts_with("zta:") || text == REDACTED
}

/// Whether a value of the record stands for one that redaction took out.
pub fn is_redacted(text: &str) -> bool {
    text == REDACTED || text.starts_with(HASHED)
}

/// Paths whose values are not stored. A path is a dotted list of keys from the root of
/// the inputs, for example `arguments.password`; `*` matches one key or index, `**` any number.
#[derive(Clone, Default)]
pub struct Redaction {
    paths: Vec<(Vec<Step>, Treatment)>,
    hash: Option<KeyedHash>,
}

/// No rule.
pub(super) static NONE: Redaction = Redaction {
    paths: Vec::new(),
    hash: None,
};

/// What becomes of a value that a rule names. Of two, the greater one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Treatment {
    /// A keyed hash stands in its place.
    Hash,
    /// Nothing of it is left.
    Drop,
}

#[derive(Clone, Debug)]
enum Step {
    AnyDepth,
    Any,
    /// A key in lower case.
    Key(String),
}

/// Where a value stands in what is around it.
#[derive(Clone, Copy)]
pub(super) enum Key<'a> {
    Name(&'a str),
    Index(usize),
}

/// A rule under way: which, and how many of its steps are done.
pub(super) type Rule = (u32, u32);

impl Redaction {
    /// Rules that drop, from dotted paths. Keys compare without regard to ASCII case.
    pub fn new<S: AsRef<str>>(paths: &[S]) -> Self {
        Self {
            paths: paths.iter().map(|p| rule(p, Treatment::Drop)).collect(),
            hash: None,
        }
    }

    /// And rules that put a keyed hash in place of a value. When the key cannot be used,
    /// the value is dropped.
    #[must_use]
    pub fn hashing<S: AsRef<str>>(mut self, paths: &[S], hash: KeyedHash) -> Self {
        let rules = paths.iter().map(|p| rule(p, Treatment::Hash));
        self.paths.extend(rules);
        self.hash = Some(hash);
        self
    }

    /// Replaces each value whose path matches, and marks texts that pose as replaced.
    pub fn apply(&self, value: &mut Value) {
        let mut rules = self.start();
        let all = 0..rules.len();
        self.redact(value, &mut rules, &all);
    }

    fn redact(&self, value: &mut Value, rules: &mut Vec<Rule>, level: &Range<usize>) {
        let mut step = |key: Key<'_>, child: &mut Value| {
            let begin = rules.len();
            match self.advance(rules, level.clone(), key) {
                Some(treatment) => {
                    let canonical = || Node::Json(&json(child)).canonical(&NONE);
                    *child = Value::String(self.instead(treatment, canonical));
                }
                None => {
                    let next = begin..rules.len();
                    self.redact(child, rules, &next);
                }
            }
            rules.truncate(begin);
        };
        match value {
            Value::Object(map) => map.iter_mut().for_each(|(k, v)| step(Key::Name(k), v)),
            Value::Array(items) => {
                let items = items.iter_mut().enumerate();
                items.for_each(|(n, v)| step(Key::Index(n), v));
            }
            Value::String(text) if is_redacted(text) => text.insert_str(0, TEXT_TAG),
            _ => {}
        }
    }

    /// What stands in place of a value with this canonical form.
    pub(super) fn instead(
        &self,
        treatment: Treatment,
        canonical: impl FnOnce() -> Vec<u8>,
    ) -> String {
        let hash = match (treatment, &self.hash) {
            (Treatment::Hash, Some(hash)) => {
                let mut message = HASH_DOMAIN.to_vec();
                message.extend(canonical());
                hash(&message)
            }
            _ => None,
        };
        match hash {
            Some(hash) => format!("{HASHED}{}", hex::encode(hash)),
            None => REDACTED.to_owned(),
        }
    }

    /// All rules, at the root.
    pub(super) fn start(&self) -> Vec<Rule> {
        let rules = u32::try_from(self.paths.len()).unwrap_or(u32::MAX);
        let mut all = Vec::with_capacity(self.paths.len() * 4);
        all.extend((0..rules).map(|rule| (rule, 0)));
        all
    }

    /// Appends to `rules` what is left of those in `level` after `key`; what becomes of the
    /// value if one of them ends there.
    pub(super) fn advance(
        &self,
        rules: &mut Vec<Rule>,
        level: Range<usize>,
        key: Key<'_>,
    ) -> Option<Treatment> {
        let mut ends = None;
        for at in level {
            let (rule, mut done) = rules[at];
            let (steps, treatment) = &self.paths[rule as usize];
            while let Some(Step::AnyDepth) = steps.get(done as usize) {
                rules.push((rule, done));
                done += 1;
            }
            if steps.get(done as usize).is_some_and(|step| step.takes(key)) {
                if steps.len() == done as usize + 1 {
                    if *treatment == Treatment::Drop {
                        return Some(Treatment::Drop);
                    }
                    ends = Some(Treatment::Hash);
                    continue;
                }
                rules.push((rule, done + 1));
            }
        }
        ends
    }
}

impl fmt::Debug for Redaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redaction")
            .field("paths", &self.paths)
            .finish_non_exhaustive()
    }
}

fn rule(path: &impl AsRef<str>, treatment: Treatment) -> (Vec<Step>, Treatment) {
    let step = |step: &str| match step {
        "**" => Step::AnyDepth,
        "*" => Step::Any,
        key => Step::Key(key.to_ascii_lowercase()),
    };
    (path.as_ref().split('.').map(step).collect(), treatment)
}

/// A value as a caller would have sent it.
fn json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(b) => Json::Bool(*b),
        Value::Number(n) => match n.as_f64() {
            Some(f) if n.is_f64() => Json::Float(f),
            _ => Json::Integer(n.to_string()),
        },
        Value::String(s) => Json::String(s.clone()),
        Value::Array(items) => Json::Array(items.iter().map(json).collect()),
        Value::Object(map) => Json::Object(map.iter().map(|(k, v)| (k.clone(), json(v))).collect()),
    }
}

impl Step {
    fn takes(&self, key: Key<'_>) -> bool {
        match (self, key) {
            (Self::Key(own), Key::Name(name)) => own.eq_ignore_ascii_case(name),
            (Self::Key(own), Key::Index(index)) => {
                own.bytes().all(|b| b.is_ascii_digit()) && *own == index.to_string()
            }
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests;
