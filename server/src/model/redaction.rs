//! Removes what must not be stored from inputs before they are written.

use serde_json::Value;

/// What stands in place of a removed value.
pub const REDACTED: &str = "[redacted]";

/// Paths whose values are not stored. A path is a dotted list of keys from the root of
/// the inputs, for example `arguments.password`; `*` matches one key or index, `**` any number.
#[derive(Clone, Debug)]
pub struct Redaction {
    paths: Vec<Vec<String>>,
}

impl Redaction {
    /// Rules from dotted paths. Keys compare without regard to ASCII case.
    pub fn new<S: AsRef<str>>(paths: &[S]) -> Self {
        let parse = |p: &S| p.as_ref().split('.').map(str::to_ascii_lowercase).collect();
        Self {
            paths: paths.iter().map(parse).collect(),
        }
    }

    /// Replaces each value whose path matches.
    pub fn apply(&self, value: &mut Value) {
        let rules: Vec<&[String]> = self.paths.iter().map(Vec::as_slice).collect();
        redact(value, &rules);
    }
}

fn redact(value: &mut Value, rules: &[&[String]]) {
    if rules.is_empty() {
        return;
    }
    match value {
        Value::Object(map) => {
            for (key, child) in map.iter_mut() {
                step(child, &key.to_ascii_lowercase(), rules);
            }
        }
        Value::Array(items) => {
            for (index, child) in items.iter_mut().enumerate() {
                step(child, &index.to_string(), rules);
            }
        }
        _ => {}
    }
}

fn step(child: &mut Value, key: &str, rules: &[&[String]]) {
    let mut next: Vec<&[String]> = Vec::new();
    for rule in rules {
        advance(rule, key, &mut next);
    }
    if next.iter().any(|rest| rest.is_empty()) {
        *child = Value::String(REDACTED.to_owned());
    } else {
        redact(child, &next);
    }
}

/// What is left of `rule` after `key`.
fn advance<'a>(rule: &'a [String], key: &str, next: &mut Vec<&'a [String]>) {
    match rule.split_first() {
        Some((first, rest)) if first == "**" => {
            next.push(rule);
            advance(rest, key, next);
        }
        Some((first, rest)) if first == "*" || first == key => next.push(rest),
        _ => {}
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
