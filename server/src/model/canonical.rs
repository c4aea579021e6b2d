//! RFC 8785 JSON, written in one pass for shapes that are known beforehand. The general
//! canonicalizer buffers, parses and sorts each key of each object, which cost more than
//! the decision itself; property tests here and in [`super::event`] hold the two to the
//! same bytes.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;

use super::arguments::{Json, SAFE_INTEGER_MAX};
use super::redaction::{Key, NONE, Redaction, Rule, poses};

/// A text in quotes, escaped as RFC 8785 wants it.
pub(super) fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    escape(out, text);
    out.push(b'"');
}

fn escape(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bytes = text.as_bytes();
    let mut written = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[written..at]);
        written = at + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0x08 => out.extend_from_slice(b"\\b"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            0x0c => out.extend_from_slice(b"\\f"),
            b'\r' => out.extend_from_slice(b"\\r"),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
        }
    }
    out.extend_from_slice(&bytes[written..]);
}

/// A list of texts as a text.
pub fn list_text(items: &[String]) -> String {
    let mut out = Vec::with_capacity(64);
    texts(&mut out, items);
    String::from_utf8(out).unwrap_or_default()
}

/// A list of texts.
pub(super) fn texts(out: &mut Vec<u8>, items: &[String]) {
    out.push(b'[');
    for (place, item) in items.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        text(out, item);
    }
    out.push(b']');
}

/// Something that prints as ASCII without quotes or backslashes: numbers, UUIDs, addresses.
pub(super) fn plain(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    struct Bytes<'a>(&'a mut Vec<u8>);
    impl std::fmt::Write for Bytes<'_> {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0.extend_from_slice(text.as_bytes());
            Ok(())
        }
    }
    // Memory does not refuse to be written.
    let _ = write!(Bytes(out), "{value}");
}

/// An object whose keys come in canonical order. They are ours, so plain ASCII.
pub(super) struct Object<'a> {
    out: &'a mut Vec<u8>,
    last: Option<&'static str>,
}

impl<'a> Object<'a> {
    pub(super) fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, last: None }
    }

    /// Writes a key; its value goes where this returns.
    pub(super) fn key(&mut self, key: &'static str) -> &mut Vec<u8> {
        debug_assert!(
            self.last.is_none_or(|last| last < key),
            "{key} out of order"
        );
        if self.last.replace(key).is_some() {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    /// A key with a text.
    pub(super) fn text(&mut self, key: &'static str, value: &str) {
        text(self.key(key), value);
    }

    /// A key with what prints as plain ASCII, in quotes.
    pub(super) fn quoted(&mut self, key: &'static str, value: impl std::fmt::Display) {
        let out = self.key(key);
        out.push(b'"');
        plain(out, value);
        out.push(b'"');
    }

    pub(super) fn end(self) {
        self.out.push(b'}');
    }
}

/// A value of ours around values of a caller.
#[derive(Debug)]
pub enum Node<'a> {
    /// `null`.
    Null,
    /// A text.
    Text(&'a str),
    /// A text that no redaction removes.
    Kept(&'a str),
    /// A digest of what stands before it, which would let what was redacted there be guessed:
    /// `null` if something was.
    Digest(&'a str),
    /// A number within ±(2^53-1).
    Integer(i64),
    /// A list of texts.
    Texts(&'a [String]),
    /// A list of ours.
    List(Vec<Node<'a>>),
    /// Texts of ours by their names, which are plain ASCII.
    Tags(&'a BTreeMap<String, String>),
    /// A caller's value.
    Json(&'a Json),
    /// The fields of a caller's object, in any order.
    Fields(&'a [(String, Json)]),
    /// An object of ours, its keys plain ASCII in ascending order.
    Object(Vec<(&'static str, Node<'a>)>),
}

impl Node<'_> {
    /// The canonical form, numbers and look-alike texts of the caller tagged (see
    /// [`super::arguments`]), without what the redaction removes.
    pub fn canonical(&self, redaction: &Redaction) -> Vec<u8> {
        self.written(redaction, false)
    }

    /// As [`Node::canonical`], from which the caller's values can be read back as they were:
    /// a number without fraction that was no integer literal is `zta:float:<number>`. For the
    /// record; a digest does not tell `1` from `1.0`. Any text that could be taken for what
    /// redaction writes is tagged, too; [`Node::Kept`] is not.
    pub fn recorded(&self, redaction: &Redaction) -> Vec<u8> {
        self.written(redaction, true)
    }

    fn written(&self, redaction: &Redaction, exact: bool) -> Vec<u8> {
        let mut writer = Writer {
            out: Vec::with_capacity(512),
            redaction,
            rules: redaction.start(),
            exact,
            replaced: false,
        };
        let all = 0..writer.rules.len();
        writer.node(self, all);
        writer.out
    }
}

struct Writer<'a> {
    out: Vec<u8>,
    redaction: &'a Redaction,
    /// The rules that are under way at each level, one level after the other.
    rules: Vec<Rule>,
    /// Whether numbers that look like integers and are none are tagged.
    exact: bool,
    /// Whether something was redacted so far.
    replaced: bool,
}

impl Writer<'_> {
    /// The value under a key or an index, unless a rule ends there.
    fn child(
        &mut self,
        key: Key<'_>,
        level: &Range<usize>,
        write: impl FnOnce(&mut Self, Range<usize>),
    ) {
        let begin = self.rules.len();
        match self.redaction.advance(&mut self.rules, level.clone(), key) {
            Some(treatment) => {
                self.replaced = true;
                let instead = self.redaction.instead(treatment, || alone(write));
                text(&mut self.out, &instead);
            }
            None => {
                let end = self.rules.len();
                write(self, begin..end);
            }
        }
        self.rules.truncate(begin);
    }

    /// A text that need not be ours.
    fn told(&mut self, value: &str) {
        self.out.push(b'"');
        if self.exact && poses(value) {
            self.out.extend_from_slice(b"zta:str:");
        }
        escape(&mut self.out, value);
        self.out.push(b'"');
    }

    fn node(&mut self, node: &Node<'_>, level: Range<usize>) {
        match node {
            Node::Null => self.out.extend_from_slice(b"null"),
            Node::Text(value) => self.told(value),
            Node::Kept(value) => text(&mut self.out, value),
            Node::Digest(_) if self.replaced => self.out.extend_from_slice(b"null"),
            Node::Digest(value) => text(&mut self.out, value),
            Node::Integer(n) => plain(&mut self.out, n),
            Node::Texts(items) => {
                self.list(items, &level, |writer, item, _| writer.told(item));
            }
            Node::List(items) => {
                self.list(items, &level, |writer, item, level| {
                    writer.node(item, level)
                });
            }
            Node::Tags(tags) => {
                self.out.push(b'{');
                for (place, (key, value)) in tags.iter().enumerate() {
                    self.separate(place, key);
                    self.child(Key::Name(key), &level, |w, _| w.told(value));
                }
                self.out.push(b'}');
            }
            Node::Json(json) => self.json(json, &level),
            Node::Fields(fields) => self.fields(fields, &level),
            Node::Object(fields) => {
                debug_assert!(fields.is_sorted_by(|a, b| a.0 < b.0));
                self.out.push(b'{');
                for (place, (key, node)) in fields.iter().enumerate() {
                    self.separate(place, key);
                    match node {
                        Node::Kept(_) | Node::Digest(_) => self.node(node, 0..0),
                        _ => self.child(Key::Name(key), &level, |w, level| w.node(node, level)),
                    }
                }
                self.out.push(b'}');
            }
        }
    }

    fn separate(&mut self, place: usize, key: &str) {
        if place > 0 {
            self.out.push(b',');
        }
        text(&mut self.out, key);
        self.out.push(b':');
    }

    fn list<T>(
        &mut self,
        items: &[T],
        level: &Range<usize>,
        mut write: impl FnMut(&mut Self, &T, Range<usize>),
    ) {
        self.out.push(b'[');
        for (place, item) in items.iter().enumerate() {
            if place > 0 {
                self.out.push(b',');
            }
            self.child(Key::Index(place), level, |w, level| write(w, item, level));
        }
        self.out.push(b']');
    }

    fn fields(&mut self, fields: &[(String, Json)], level: &Range<usize>) {
        self.out.push(b'{');
        let mut write = |place, (key, json): &(String, Json)| {
            self.separate(place, key);
            self.child(Key::Name(key), level, |w, level| w.json(json, &level));
        };
        // Our clients send the canonical form, so there is often nothing to sort.
        if fields.is_sorted_by(|a, b| order(&a.0, &b.0).is_le()) {
            fields.iter().enumerate().for_each(|(n, f)| write(n, f));
        } else {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_unstable_by(|a, b| order(&a.0, &b.0));
            sorted.iter().enumerate().for_each(|(n, f)| write(n, f));
        }
        self.out.push(b'}');
    }

    fn json(&mut self, json: &Json, level: &Range<usize>) {
        match json {
            Json::Null => self.out.extend_from_slice(b"null"),
            Json::Bool(b) => plain(&mut self.out, b),
            Json::Integer(digits) => match digits.parse::<i128>() {
                Ok(n) if n.unsigned_abs() <= SAFE_INTEGER_MAX => plain(&mut self.out, n),
                _ => {
                    self.out.extend_from_slice(b"\"zta:int:");
                    self.out.extend_from_slice(digits.as_bytes());
                    self.out.push(b'"');
                }
            },
            // Finite, as every number in JSON; were it not, it would not be one.
            Json::Float(f) => match serde_json_canonicalizer::to_vec(f) {
                Ok(number) if self.exact && number.iter().all(is_digit) => {
                    self.out.extend_from_slice(b"\"zta:float:");
                    self.out.extend_from_slice(&number);
                    self.out.push(b'"');
                }
                Ok(number) => self.out.extend_from_slice(&number),
                Err(_) => self.out.extend_from_slice(b"null"),
            },
            Json::String(s) => {
                self.out.push(b'"');
                if s.starts_with("zta:") || (self.exact && poses(s)) {
                    self.out.extend_from_slice(b"zta:str:");
                }
                escape(&mut self.out, s);
                self.out.push(b'"');
            }
            Json::Array(items) => self.list(items, level, |w, item, level| w.json(item, &level)),
            Json::Object(fields) => self.fields(fields, level),
        }
    }
}

/// The canonical form of a value by itself: no rule reaches into it.
fn alone<'a>(write: impl FnOnce(&mut Writer<'a>, Range<usize>)) -> Vec<u8> {
    let mut writer = Writer {
        out: Vec::new(),
        redaction: &NONE,
        rules: Vec::new(),
        exact: false,
        replaced: false,
    };
    write(&mut writer, 0..0);
    writer.out
}

fn is_digit(byte: &u8) -> bool {
    byte.is_ascii_digit() || *byte == b'-'
}

/// The order of keys in RFC 8785: by UTF-16 code units.
fn order(a: &str, b: &str) -> Ordering {
    a.encode_utf16().cmp(b.encode_utf16())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::model::arguments::Arguments;
    use crate::model::redaction::REDACTED;

    /// Any JSON, keys that UTF-8 and UTF-16 order differently among them.
    fn any_json() -> impl Strategy<Value = Value> {
        let text = prop_oneof![
            "\\PC{0,6}",
            "[\u{0}-\u{24}\\\\\u{7f}\u{e000}\u{1f600}]{0,6}",
            "zta:(int|str)?:?[0-9]{0,3}"
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-1000_i64..1000).prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            (-1e3..1e3).prop_map(Value::from),
            text.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec((text.clone(), inner), 0..5)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    fn canonicalizer(value: &Value) -> String {
        serde_json_canonicalizer::to_string(value).expect("canonical")
    }

    proptest! {
        #[test]
        fn the_bytes_are_those_of_the_general_canonicalizer(json in any_json()) {
            let text = serde_json::json!({ "a": json }).to_string();
            let arguments = Arguments::parse(text.as_bytes()).expect("parses");
            let ours = Node::Fields(arguments.fields()).canonical(&Redaction::default());
            let tagged = tagged_fields(arguments.fields());
            prop_assert_eq!(String::from_utf8(ours).expect("utf-8"), canonicalizer(&tagged));
        }

        #[test]
        fn redacting_on_the_way_removes_what_the_rules_name(
            json in any_json(),
            rules in prop::collection::vec("(\\*\\*\\.|a\\.|\\*\\.){0,3}[a0]", 0..4),
        ) {
            let text = serde_json::json!({ "a": json, "A": { "a": [json, { "a": 1 }] } }).to_string();
            let arguments = Arguments::parse(text.as_bytes()).expect("parses");
            let redaction = Redaction::new(&rules);
            let ours = Node::Fields(arguments.fields()).canonical(&redaction);
            let mut tagged = tagged_fields(arguments.fields());
            let mut applied = tagged.clone();
            redaction.apply(&mut applied);
            redact(&mut tagged, &rules.iter().map(|r| r.split('.').collect()).collect::<Vec<_>>());
            prop_assert_eq!(String::from_utf8(ours).expect("utf-8"), canonicalizer(&tagged));
            prop_assert_eq!(applied, tagged);
        }
    }

    fn tagged(json: &Json) -> Value {
        match json {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(*b),
            Json::Integer(digits) => match digits.parse::<i128>() {
                Ok(n) if n.unsigned_abs() <= SAFE_INTEGER_MAX => Value::from(n as i64),
                _ => Value::String(format!("zta:int:{digits}")),
            },
            Json::Float(f) => Value::from(*f),
            Json::String(s) if s.starts_with("zta:") => Value::String(format!("zta:str:{s}")),
            Json::String(s) => Value::String(s.clone()),
            Json::Array(items) => Value::Array(items.iter().map(tagged).collect()),
            Json::Object(fields) => tagged_fields(fields),
        }
    }

    fn tagged_fields(fields: &[(String, Json)]) -> Value {
        let fields = fields.iter().map(|(k, v)| (k.clone(), tagged(v)));
        Value::Object(fields.collect())
    }

    /// The rules as a person would carry them out: value by value, nothing remembered.
    fn redact(value: &mut Value, rules: &[Vec<&str>]) {
        fn rest<'a>(rule: &[&'a str], key: &str, into: &mut Vec<Vec<&'a str>>) {
            match rule {
                ["**", tail @ ..] => {
                    into.push(rule.to_vec());
                    rest(tail, key, into);
                }
                [first, tail @ ..] if *first == "*" || first.eq_ignore_ascii_case(key) => {
                    into.push(tail.to_vec());
                }
                _ => {}
            }
        }
        let children: Vec<(String, &mut Value)> = match value {
            Value::Object(map) => map.iter_mut().map(|(k, v)| (k.clone(), v)).collect(),
            Value::Array(items) => {
                let items = items.iter_mut().enumerate();
                items.map(|(n, v)| (n.to_string(), v)).collect()
            }
            _ => return,
        };
        for (key, child) in children {
            let mut next = Vec::new();
            for rule in rules {
                rest(rule, &key, &mut next);
            }
            if next.iter().any(Vec::is_empty) {
                *child = Value::from(REDACTED);
            } else {
                redact(child, &next);
            }
        }
    }
}
