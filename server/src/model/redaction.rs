//! Removes what must not be stored from inputs before they are written.

use std::ops::Range;

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
    use crate::model::arguments::Arguments;
    use crate::model::canonical::Node;

    #[test]
    fn paths_stars_and_any_depth() {
        let rules = Redaction::new(&["input.card", "input.rows.*.ssn", "**.password"]);
        let arguments = br#"{
            "input": {"card": "4111", "rows": [{"ssn": 1, "x": 2}], "deep": {"Password": {"a": 1}}},
            "password": "p", "card": "kept"
        }"#;
        let arguments = Arguments::parse(arguments).expect("arguments");
        let stored = Node::Fields(arguments.fields()).canonical(&rules);
        assert_eq!(
            String::from_utf8(stored).expect("utf-8"),
            concat!(
                r#"{"card":"kept","input":{"card":"[redacted]","#,
                r#""deep":{"Password":"[redacted]"},"rows":[{"ssn":"[redacted]","x":2}]},"#,
                r#""password":"[redacted]"}"#
            )
        );
    }
}
