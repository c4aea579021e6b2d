//! What a request brings among what is stored.

use super::*;

#[test]
fn what_a_request_brings_cannot_close_a_circle() {
    let schema = SCHEMA.replace(
        "entity Team in [Team]",
        "@request_suppliable entity Team in [Team]",
    );
    let vocabulary = vocabulary(&schema);
    let types = &vocabulary.entity_types;
    let below = [given_of("Team/a", &["Team/b"], "{}", "{}")];
    let map = put(&EntityMap::default(), types, &below);
    let b = types
        .request_entity(&given_of("Team/b", &["Team/a"], "{}", "{}"))
        .expect("a team");
    let a = cedar_uid(&uid("Team/a")).expect("uid");
    let sliced = map.slice(vec![b], [], &[&a], 1, &|_| None);
    assert!(matches!(sliced, Err(SliceError::Brought(_))), "{sliced:?}");
}
