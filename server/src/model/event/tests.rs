use super::*;
use proptest::prelude::*;
use time::macros::datetime;

prop_compose! {
    fn any_event()(
        numbers in any::<(u128, u128, Option<u128>, Option<u64>, u32)>(),
        time in 0_i64..253_402_300_799,
        nanosecond in 0_u32..1_000_000_000,
        kind in prop::sample::select(&EventType::ALL[..]),
        uids in prop::collection::vec(prop::option::of(("\\PC{0,9}", "[\u{0}-\u{ff}\u{1f600}]{0,9}")), 3),
        texts in prop::collection::vec(prop::option::of("[\u{0}-\u{7f}\u{2028}é]{0,9}"), 7),
        lists in prop::collection::vec(prop::collection::vec("\\PC{0,5}", 0..3), 4),
        source in any::<Option<IpAddr>>(),
        effect in any::<Option<bool>>(),
    ) -> Event {
        let time = OffsetDateTime::from_unix_timestamp(time).expect("a time");
        let time = time.replace_nanosecond(nanosecond).expect("a time");
        let mut event = Event::new(kind, Uuid::from_u128(numbers.0), Uuid::from_u128(numbers.1), time);
        event.instance = numbers.2.map(Uuid::from_u128);
        event.revision = numbers.3;
        event.v = numbers.4;
        let uid = |n: usize| uids[n].as_ref().map(|(ty, id): &(String, String)| EntityUid::new(ty, id));
        (event.actor, event.action, event.resource) = (uid(0), uid(1), uid(2));
        let text = |n: usize| -> Option<String> { texts[n].clone() };
        (event.reason, event.session, event.task, event.user) = (text(0), text(1), text(2), text(3));
        (event.correlation_id, event.trace_id, event.inputs_sha256) = (text(4), text(5), text(6));
        let list = |n: usize| -> Vec<String> { lists[n].clone() };
        (event.policies, event.errored) = (list(0), list(1));
        let pairs = list(2).into_iter().zip(list(3));
        event.obligations = pairs.map(|(name, policy)| Obligation { name, policy }).collect();
        for text in list(3) {
            event = event.with_detail(&text.clone(), text);
        }
        event.source = source;
        event.effect = effect.map(|allow| if allow { Effect::Allow } else { Effect::Deny });
        event
    }
}

proptest! {
    #[test]
    fn a_leaf_is_what_the_general_canonicalizer_writes(event in any_event()) {
        let leaf = String::from_utf8(event.leaf().expect("leaf")).expect("utf-8");
        let general = serde_json_canonicalizer::to_string(&event).expect("canonical");
        prop_assert_eq!(leaf, general);
    }
}

#[test]
fn a_leaf_reads_back_and_another_form_of_it_does_not() {
    let mut event = Event::new(
        EventType::Decision,
        Uuid::from_u128(1),
        Uuid::from_u128(2),
        datetime!(2026-11-22 10:00:00.123456789 UTC),
    );
    event.revision = Some(u64::MAX);
    event.actor = Some(EntityUid::new("ZTA::Agent", "a\nb\"é"));
    let leaf = event.leaf().expect("leaf");
    let text = String::from_utf8(leaf.clone()).expect("utf-8");
    assert!(
        text.contains(r#""revision":"18446744073709551615""#),
        "{text}"
    );
    assert!(text.contains("10:00:00.123456Z"), "{text}");
    assert!(!text.contains('\n'));
    assert_eq!(Event::from_leaf(&leaf).expect("read"), event);
    let spaced = text.replacen(':', ": ", 1);
    assert!(Event::from_leaf(spaced.as_bytes()).is_err());
}

#[test]
fn a_leaf_beyond_the_limit_is_refused() {
    let mut event = Event::new(
        EventType::Decision,
        Uuid::nil(),
        Uuid::nil(),
        OffsetDateTime::UNIX_EPOCH,
    );
    event.user = Some("x".repeat(LEAF_BYTES_MAX));
    assert!(matches!(event.leaf(), Err(LeafError::TooLarge { .. })));
}
