//! What is called a difference of meaning, and what is not.

use super::{Difference, DifferenceError, DifferenceKind, PolicyDifference, difference};
use crate::model::SourceFile;
use crate::policy::PolicySource;
use crate::policy::limits::COMPARED_MAX;

fn set(policies: &[(&str, &str)], schemas: &[(&str, &str)]) -> PolicySource {
    let files = |list: &[(&str, &str)]| {
        let file = |(name, text): &(&str, &str)| SourceFile::new(*name, *text);
        list.iter().map(file).collect()
    };
    PolicySource::new(files(policies), files(schemas))
}

fn compare(before: &PolicySource, after: &PolicySource) -> Difference {
    difference(before, after, true).expect("compared")
}

const ONE: &str = "@id(\"one\") permit (principal, action, resource) when { 1 == 1 && 2 == 2 };";
const TWO: &str = "@id(\"two\") @reason(\"r\") forbid (principal, action, resource);";

#[test]
fn the_same_is_no_difference() {
    let source = set(&[("a.cedar", ONE), ("b.cedar", TWO)], &[]);
    assert_eq!(compare(&source, &source), Difference::default());
}

#[test]
fn formatting_comments_and_order_change_no_meaning() {
    let before = set(&[("a.cedar", &format!("{ONE}\n{TWO}\n"))], &[]);
    let spaced = "// why\n@id(\"one\")\npermit(principal,action,\n  resource) // here\n\
                  when { (1 == 1) && (2 == 2) };";
    let after = set(&[("a.cedar", &format!("{TWO}\n{spaced}\n"))], &[]);
    let found = compare(&before, &after);
    assert!(
        found.same_meaning() && found.policies.is_empty(),
        "{found:?}"
    );
    assert_eq!(found.files.len(), 1);
    let file = &found.files[0];
    assert!(file.formatting_only && file.kind == DifferenceKind::Changed);
    let unified = file.unified.as_deref().expect("a text");
    assert!(
        unified.starts_with("--- a/a.cedar\n+++ b/a.cedar\n@@ "),
        "{unified}"
    );
    assert!(unified.contains("\n+// why\n"), "{unified}");
    assert!(
        difference(&before, &after, false).expect("compared").files[0]
            .unified
            .is_none()
    );
}

#[test]
fn each_part_of_a_policy_that_changed_is_named() {
    let policy = |text: &str| set(&[("a.cedar", text)], &[]);
    let base = "@id(\"p\") @reason(\"r\") permit (principal, action, resource) when { true };";
    for (old, new, changed) in [
        ("permit", "forbid", vec!["effect"]),
        (
            "(principal,",
            "(principal is ZTA::Agent,",
            vec!["principal"],
        ),
        (
            " action,",
            " action == ZTA::Action::\"call_tool\",",
            vec!["action"],
        ),
        (
            " resource)",
            " resource in ZTA::Group::\"g\")",
            vec!["resource"],
        ),
        ("when", "unless", vec!["conditions"]),
        ("{ true }", "{ false }", vec!["conditions"]),
        ("@reason(\"r\")", "@reason(\"s\")", vec!["@reason"]),
        (
            "@reason(\"r\")",
            "@obligation(\"r\")",
            vec!["@obligation", "@reason"],
        ),
    ] {
        let found = compare(&policy(base), &policy(&base.replacen(old, new, 1)));
        assert!(!found.same_meaning());
        let [policy] = &found.policies[..] else {
            panic!("{found:?}")
        };
        assert_eq!(policy.kind, DifferenceKind::Changed);
        assert_eq!(policy.changed, changed, "{new}");
        assert!(!found.files[0].formatting_only);
    }
}

#[test]
fn policies_are_added_removed_and_moved_by_their_ids() {
    let before = set(&[("a.cedar", &format!("{ONE}{TWO}")), ("c.cedar", "")], &[]);
    let after = set(
        &[(
            "b.cedar",
            &format!("{ONE}\n{}", TWO.replace("two", "three")),
        )],
        &[],
    );
    let found = compare(&before, &after);
    let told = |p: &PolicyDifference| (p.id.clone(), p.kind, p.effect_before.clone());
    let forbid = || Some("forbid".to_owned());
    let permit = || Some("permit".to_owned());
    assert_eq!(
        found.policies.iter().map(told).collect::<Vec<_>>(),
        [
            ("one".to_owned(), DifferenceKind::Moved, permit()),
            ("three".to_owned(), DifferenceKind::Added, None),
            ("two".to_owned(), DifferenceKind::Removed, forbid()),
        ]
    );
    let moved = &found.policies[0];
    assert_eq!(moved.file_before.as_deref(), Some("a.cedar"));
    assert_eq!(moved.file_after.as_deref(), Some("b.cedar"));
    let files: Vec<_> = found
        .files
        .iter()
        .map(|f| (f.kind, f.formatting_only))
        .collect();
    assert_eq!(
        files,
        [
            (DifferenceKind::Removed, false),
            (DifferenceKind::Added, false),
            (DifferenceKind::Removed, true),
        ]
    );
    assert!(!found.same_meaning());
    let moved = set(&[("z.cedar", &format!("{TWO}{ONE}")), ("c.cedar", "")], &[]);
    let found = compare(&before, &moved);
    assert!(
        found.same_meaning() && found.policies.len() == 2,
        "{found:?}"
    );
}

#[test]
fn declarations_of_the_schema_are_told_by_their_parts() {
    let schema = |text: &str| set(&[("a.cedar", ONE)], &[("s.cedarschema", text)]);
    let base = "namespace A { entity G; entity T in [G] { level: Long }; type C = { a: Long }; \
                action go appliesTo { principal: [T, G], resource: [T], context: { x: Long } }; }";
    for (old, new, told) in [
        (
            "level: Long",
            "level: String",
            "entity type A::T: attribute level",
        ),
        (
            "level: Long",
            "level: Long, more?: Long",
            "entity type A::T: attribute more",
        ),
        (" in [G]", "", "entity type A::T: parents"),
        (
            "principal: [T, G]",
            "principal: [T]",
            "action A::go: principals",
        ),
        (
            "{ x: Long }",
            "{ x: Bool }",
            "action A::go: context attribute x",
        ),
        (
            "{ a: Long }",
            "{ a: Bool }",
            "common type A::C: attribute a",
        ),
    ] {
        let found = compare(&schema(base), &schema(&base.replacen(old, new, 1)));
        let one = &found.schema[..];
        assert_eq!(one.len(), 1, "{new}: {found:?}");
        let said = format!(
            "{} {}: {}",
            one[0].what,
            one[0].name,
            one[0].changed.join(", ")
        );
        assert_eq!(
            (said.as_str(), one[0].kind),
            (told, DifferenceKind::Changed)
        );
        assert!(!found.same_meaning() && !found.files[0].formatting_only);
    }
    let spaced = base.replace("[T, G]", "[G,T]").replace("; ", ";\n// why\n");
    let found = compare(&schema(base), &schema(&spaced));
    assert!(
        found.same_meaning() && found.files[0].formatting_only,
        "{found:?}"
    );
    let none = set(&[("a.cedar", ONE)], &[]);
    let found = compare(&none, &schema(base));
    assert_eq!(found.schema.len(), 4);
    assert!(found.schema.iter().all(|s| s.kind == DifferenceKind::Added));
    // In another file it is the same schema.
    let elsewhere = set(&[("a.cedar", ONE)], &[("t.cedarschema", base)]);
    let found = compare(&schema(base), &elsewhere);
    assert!(found.same_meaning() && found.schema.is_empty(), "{found:?}");
}

#[test]
fn what_is_no_policy_set_is_not_compared() {
    let good = set(&[("a.cedar", ONE)], &[]);
    let deep = format!(
        "@id(\"d\") permit (principal, action, resource) when {{ {} }};",
        "(".repeat(500)
    );
    for bad in [
        "permit (",
        "permit (principal, action, resource);",
        &format!("{TWO}{TWO}"),
        "@id(\"t\") permit (principal == ?principal, action, resource);",
        &deep,
    ] {
        for (before, after) in [
            (&good, &set(&[("a.cedar", bad)], &[])),
            (&set(&[("b.cedar", bad)], &[]), &good),
        ] {
            let found = difference(before, after, true);
            assert!(matches!(found, Err(DifferenceError::Invalid(_))), "{bad}");
        }
    }
    let schema = set(&[("a.cedar", ONE)], &[("s.cedarschema", "entity")]);
    let found = difference(&good, &schema, true);
    assert!(matches!(found, Err(DifferenceError::Invalid(_))));
}

#[test]
fn more_than_can_be_compared_is_refused_by_its_number() {
    let policies: String = (0..=COMPARED_MAX)
        .map(|i| format!("@id(\"p{i}\")permit(principal,action,resource);"))
        .collect();
    let many = set(&[("a.cedar", &policies)], &[]);
    let none = set(&[("b.cedar", ONE)], &[]);
    let found = difference(&none, &many, true);
    assert_eq!(found, Err(DifferenceError::TooMany(COMPARED_MAX + 1)));
    // What stands where it stood is not counted.
    let more = set(&[("a.cedar", &format!("{policies}{ONE}"))], &[]);
    let found = compare(&many, &more);
    assert_eq!(found.policies.len(), 1);
    assert!(found.files[0].unified.is_none() || !policies.contains('\n'));
}
