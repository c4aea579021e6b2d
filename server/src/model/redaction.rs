//! Removes what must not be stored from inputs before they are written.

use std::ops::Range;

use serde_json::Value;

/// What stands in place of a removed value.
pub const REDACTED: &str = "[redacted]";

/// Paths whose values are not stored. A path is a dotted list of keys from the root of
/// the inputs, for example `arguments.password`; `*` matches one key or index, `**` any number.
#[derive(Clone, Debug, Default)]
pub struct Redaction {
    paths: Vec<Vec<Step>>,
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
    /// Rules from dotted paths. Keys compare without regard to ASCII case.
    pub fn new<S: AsRef<str>>(paths: &[S]) -> Self {
        let step = |step: &str| match step {
            "**" => Step::AnyDepth,
            "*" => Step::Any,
            key => Step::Key(key.to_ascii_lowercase()),
        };
        let parse = |p: &S| p.as_ref().split('.').map(step).collect();
        Self {
            paths: paths.iter().map(parse).collect(),
        }
    }

    /// Replaces each value whose path matches.
    pub fn apply(&self, value: &mut Value) {
        let mut rules = self.start();
        let all = 0..rules.len();
        self.redact(value, &mut rules, &all);
    }

    fn redact(&self, value: &mut Value, rules: &mut Vec<Rule>, level: &Range<usize>) {
        let mut step = |key: Key<'_>, child: &mut Value| {
            let begin = rules.len();
            if self.advance(rules, level.clone(), key) {
                *child = Value::String(REDACTED.to_owned());
            } else {
                let next = begin..rules.len();
                self.redact(child, rules, &next);
            }
            rules.truncate(begin);
        };
        match value {
            Value::Object(map) => map.iter_mut().for_each(|(k, v)| step(Key::Name(k), v)),
            Value::Array(items) => {
                let items = items.iter_mut().enumerate();
                items.for_each(|(n, v)| step(Key::Index(n), v));
            }
            _ => {}
        }
    }

    /// All rules, at the root.
    pub(super) fn start(&self) -> Vec<Rule> {
        let rules = u32::try_from(self.paths.len()).unwrap_or(u32::MAX);
        let mut all = Vec::with_capacity(self.paths.len() * 4);
        all.extend((0..rules).map(|rule| (rule, 0)));
        all
    }

    /// Appends to `rules` what is left of those in `level` after `key`; whether one of
    /// them ends there, so that the value is to be removed.
    pub(super) fn advance(&self, rules: &mut Vec<Rule>, level: Range<usize>, key: Key<'_>) -> bool {
        for at in level {
            let (rule, mut done) = rules[at];
            let steps = &self.paths[rule as usize];
            while let Some(Step::AnyDepth) = steps.get(done as usize) {
                rules.push((rule, done));
                done += 1;
            }
            if steps.get(done as usize).is_some_and(|step| step.takes(key)) {
                if steps.len() == done as usize + 1 {
                    return true;
                }
                rules.push((rule, done + 1));
            }
        }
        false
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
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_stars_and_any_depth() {
        let rules = Redaction::new(&["input.card", "input.rows.*.ssn", "**.password"]);
        let mut value = json!({
            "input": {"card": "4111", "rows": [{"ssn": 1, "x": 2}], "deep": {"Password": {"a": 1}}},
            "password": "p", "card": "kept"
        });
        rules.apply(&mut value);
        assert_eq!(
            value,
            json!({
                "input": {"card": REDACTED, "rows": [{"ssn": REDACTED, "x": 2}], "deep": {"Password": REDACTED}},
                "password": REDACTED, "card": "kept"
            })
        );
    }
}
