//! What `docs/audit/events.md` says of events, compared with each event that a test reads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde_json::Value;

/// The text.
pub(crate) const EVENTS: &str = include_str!("../../../../docs/audit/events.md");

/// What is said of a type.
pub(crate) struct Documented {
    /// The keys of `detail`.
    pub(crate) keys: BTreeSet<&'static str>,
    /// The examples.
    pub(crate) examples: Vec<&'static str>,
}

/// Each type in the text.
pub(crate) static TYPES: LazyLock<BTreeMap<&'static str, Documented>> = LazyLock::new(|| {
    let sections = EVENTS.split("\n### `").skip(1).map(|section| {
        let (name, rest) = section.split_once('`').expect("a type in backticks");
        let rest = rest.split("\n## ").next().unwrap_or_default();
        let examples = rest.split("```json\n").skip(1);
        let examples = examples.map(|e| e.split_once("\n```").expect("an end").0);
        let rows = rest.lines().filter(|line| line.starts_with("| "));
        // In the table of `admin` the keys stand in the second column.
        let column = if name == "admin" { 2 } else { 1 };
        let cells = rows.filter_map(|row| row.split('|').nth(column));
        let keys = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
        let documented = Documented {
            keys: keys.filter(|key| *key != "detail").collect(),
            examples: examples.collect(),
        };
        (name, documented)
    });
    sections.collect()
});

/// Asserts that the text knows this event's type and each key of its `detail`.
pub(crate) fn assert_documented(leaf: &Value) {
    let kind = leaf["type"].as_str().expect("a type");
    let documented = TYPES.get(kind);
    let documented = documented.unwrap_or_else(|| panic!("events.md does not know `{kind}`"));
    for key in leaf["detail"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _)| key)
    {
        assert!(
            documented.keys.contains(key.as_str()),
            "events.md does not know `detail.{key}` of `{kind}`: {leaf}"
        );
    }
}
