use std::sync::Arc;

use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::*;
use crate::audit::{Audit, Record};
use crate::model::{EntityUid, Event, EventType};
use crate::store::sqlite::SqliteStore;

#[test]
fn places_are_split_in_the_direction_and_none_is_lost() {
    for count in [0, 1, 9, 10, 11, u64::MAX] {
        let (near, beyond) = split(&(5..15), count, false);
        assert_eq!((near.start, near.end, beyond.end), (5, beyond.start, 15));
        assert_eq!(near.end - near.start, count.min(10));
        let (near, beyond) = split(&(5..15), count, true);
        assert_eq!((near.end, near.start, beyond.start), (15, beyond.end, 5));
        assert_eq!(near.end - near.start, count.min(10));
    }
    assert_eq!(beside(&(5..15), 7, false), 8..15);
    assert_eq!(beside(&(5..15), 7, true), 5..7);
    assert_eq!(nothing(&(5..15), false), 15..15);
    assert_eq!(nothing(&(5..15), true), 5..5);
}

/// Seconds of an event at a place, by a clock that jumps ahead for a while and back again.
fn second(place: u64) -> i64 {
    let ahead = if (200..230).contains(&place) { 500 } else { 0 };
    place as i64 + ahead
}

/// A log of 600 events: a rare actor at few places, everybody else elsewhere.
async fn log(folder: &std::path::Path) -> SharedStore {
    let store: SharedStore = Arc::new(SqliteStore::with_log(folder).await);
    let (audit, sequencer) = Audit::new(Uuid::nil(), Arc::clone(&store));
    tokio::spawn(sequencer.run());
    for place in 0..600 {
        let time = OffsetDateTime::UNIX_EPOCH + Duration::seconds(second(place));
        let mut event = Event::new(EventType::Decision, Uuid::nil(), Uuid::new_v4(), time);
        let actor = if place % 97 == 5 { "rare" } else { "busy" };
        event.actor = Some(EntityUid::new("ZTA::Agent", actor));
        event.session = (place % 50 == 7).then(|| "s".to_owned());
        audit.append(Record::fact(event)).await.expect("on record");
    }
    store
}

/// All that a query finds, look by look; and how many looks that took.
async fn looks(
    store: &SharedStore,
    filter: &EventFilter,
    places: Range<u64>,
    descending: bool,
    room: Room,
) -> (Vec<u64>, usize) {
    let (mut found, mut rest, mut looks) = (Vec::new(), places, 0);
    loop {
        let before = rest.end - rest.start;
        let scanned = scan(store, filter, rest, descending, room).await;
        let scanned = scanned.expect("looks");
        looks += 1;
        assert!(scanned.events.len() <= room.events as usize);
        found.extend(scanned.events.iter().map(|event| event.sequence));
        rest = scanned.rest;
        if rest.is_empty() {
            return (found, looks);
        }
        assert!(rest.end - rest.start < before, "each look comes on");
    }
}

fn naive(filter: &EventFilter, places: Range<u64>, descending: bool) -> Vec<u64> {
    let at = |time: Option<OffsetDateTime>| time.map(OffsetDateTime::unix_timestamp);
    let takes = |place: &u64| {
        let actor = if place % 97 == 5 { "rare" } else { "busy" };
        filter
            .actor_id
            .as_deref()
            .is_none_or(|asked| asked == actor)
            && filter
                .session_id
                .as_deref()
                .is_none_or(|s| s == "s" && place % 50 == 7)
            && at(filter.start_time).is_none_or(|start| second(*place) >= start)
            && at(filter.end_time).is_none_or(|end| second(*place) < end)
    };
    let mut found: Vec<u64> = places.filter(takes).collect();
    if descending {
        found.reverse();
    }
    found
}

#[tokio::test]
async fn looks_in_pieces_find_the_same_as_one_over_everything() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = log(folder.path()).await;
    let at = |second: i64| Some(OffsetDateTime::UNIX_EPOCH + Duration::seconds(second));
    let mut filters = Vec::new();
    for actor in [None, Some("rare"), Some("busy"), Some("nobody")] {
        for session in [None, Some("s"), Some("none")] {
            for (start, end) in [
                (None, None),
                (at(590), None),
                (None, at(20)),
                (at(300), at(310)),
                (at(715), at(725)),
                (at(10_000), None),
                (at(250), at(250)),
            ] {
                filters.push(EventFilter {
                    actor_id: actor.map(str::to_owned),
                    session_id: session.map(str::to_owned),
                    start_time: start,
                    end_time: end,
                    ..EventFilter::default()
                });
            }
        }
    }
    for filter in &filters {
        for places in [0..600, 0..1, 100..100, 190..240, 599..600] {
            for (pieces, events, bytes) in [(7, 3, 1 << 20), (64, 100, 1), (1000, 1000, 1 << 20)] {
                for descending in [false, true] {
                    let room = Room {
                        places: pieces,
                        events,
                        bytes,
                    };
                    let (found, _) = looks(&store, filter, places.clone(), descending, room).await;
                    let expected = naive(filter, places.clone(), descending);
                    assert_eq!(
                        found, expected,
                        "{filter:?} {places:?} {descending} {room:?}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn what_an_index_rules_out_is_not_looked_through() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = log(folder.path()).await;
    let room = Room {
        places: 10,
        events: 100,
        bytes: 1 << 20,
    };
    let at = |second: i64| Some(OffsetDateTime::UNIX_EPOCH + Duration::seconds(second));
    let rare = EventFilter {
        actor_id: Some("rare".to_owned()),
        ..EventFilter::default()
    };
    let nobody = EventFilter {
        actor_id: Some("nobody".to_owned()),
        ..EventFilter::default()
    };
    let last = EventFilter {
        start_time: at(595),
        ..EventFilter::default()
    };
    for (filter, looks_max) in [(rare, 7), (nobody, 1), (last, 9)] {
        for descending in [false, true] {
            let (_, taken) = looks(&store, &filter, 0..600, descending, room).await;
            assert!(taken <= looks_max, "{filter:?} {descending}: {taken}");
        }
    }
    // Without an index each piece is looked through, and each look says how far it came.
    let session = EventFilter {
        session_id: Some("none".to_owned()),
        ..EventFilter::default()
    };
    let (found, taken) = looks(&store, &session, 0..600, false, room).await;
    assert_eq!((found.len(), taken), (0, 60));
}
