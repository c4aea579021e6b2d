//! Each filter, alone and in pairs, against one that only compares; and what an index says.

use zta_server::model::{Columns, Effect, EntityUid, Event, EventType};
use zta_server::store::EventFilter;

use super::support::{Db, NOW, append, decision, prepared};

/// Pseudo-random numbers, the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % n
    }

    fn name(&mut self, of: &str) -> Option<String> {
        let n = self.below(4);
        (n > 0).then(|| format!("{of}{n}"))
    }
}

/// Events of few values each, so that conditions meet; times jump back and forth.
fn events(count: u64) -> Vec<Event> {
    let mut dice = Dice(7);
    let one = |place: u64| {
        let jump = dice.below(20) as i64;
        let mut event = decision("", place as i64 + jump);
        let kinds = [EventType::Decision, EventType::Admin, EventType::Login];
        event.kind = kinds[dice.below(3) as usize];
        event.actor = dice
            .name("actor")
            .map(|id| EntityUid::new("ZTA::Agent", id));
        event.action = dice
            .name("action")
            .map(|id| EntityUid::new("ZTA::Action", id));
        event.resource = dice
            .name("resource")
            .map(|id| EntityUid::new("ZTA::Tool", id));
        event.effect = [None, Some(Effect::Allow), Some(Effect::Deny)][dice.below(3) as usize];
        event.reason = dice.name("REASON");
        event.policies = (0..dice.below(3))
            .filter_map(|_| dice.name("p\"'{},"))
            .collect();
        event.revision = (dice.below(3) > 0).then(|| dice.below(3));
        event.session = dice.name("session");
        event.task = dice.name("task");
        event.user = dice.name("user");
        event.correlation_id = dice.name("correlation");
        event.trace_id = dice.name("trace");
        event
    };
    (0..count).map(one).collect()
}

/// One condition each, of values that occur.
fn conditions() -> Vec<EventFilter> {
    let any = EventFilter::default;
    let id = |of: &str| Some(format!("{of}2"));
    let at = |seconds: i64| Some(NOW + time::Duration::seconds(seconds));
    let types = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    vec![
        EventFilter {
            types: types(&["admin"]),
            ..any()
        },
        EventFilter {
            types: types(&["login", "decision"]),
            ..any()
        },
        EventFilter {
            actor_id: id("actor"),
            ..any()
        },
        EventFilter {
            resource_id: id("resource"),
            ..any()
        },
        EventFilter {
            action_id: id("action"),
            ..any()
        },
        EventFilter {
            effect: Some(Effect::Deny),
            ..any()
        },
        EventFilter {
            reason: id("REASON"),
            ..any()
        },
        EventFilter {
            policy_id: id("p\"'{},"),
            ..any()
        },
        EventFilter {
            revision: Some(0),
            ..any()
        },
        EventFilter {
            session_id: id("session"),
            ..any()
        },
        EventFilter {
            task_id: id("task"),
            ..any()
        },
        EventFilter {
            user_id: id("user"),
            ..any()
        },
        EventFilter {
            correlation_id: id("correlation"),
            ..any()
        },
        EventFilter {
            trace_id: id("trace"),
            ..any()
        },
        EventFilter {
            start_time: at(60),
            ..any()
        },
        EventFilter {
            end_time: at(90),
            ..any()
        },
    ]
}

/// Both together; what the second one says counts where both say something.
fn both(a: &EventFilter, b: &EventFilter) -> EventFilter {
    let text = |b: &Option<String>, a: &Option<String>| b.clone().or_else(|| a.clone());
    EventFilter {
        types: if b.types.is_empty() {
            a.types.clone()
        } else {
            b.types.clone()
        },
        actor_id: text(&b.actor_id, &a.actor_id),
        resource_id: text(&b.resource_id, &a.resource_id),
        action_id: text(&b.action_id, &a.action_id),
        effect: b.effect.or(a.effect),
        reason: text(&b.reason, &a.reason),
        policy_id: text(&b.policy_id, &a.policy_id),
        revision: b.revision.or(a.revision),
        session_id: text(&b.session_id, &a.session_id),
        task_id: text(&b.task_id, &a.task_id),
        user_id: text(&b.user_id, &a.user_id),
        correlation_id: text(&b.correlation_id, &a.correlation_id),
        trace_id: text(&b.trace_id, &a.trace_id),
        start_time: b.start_time.or(a.start_time),
        end_time: b.end_time.or(a.end_time),
        with_inputs: false,
    }
}

/// Whether an event is asked for, said once more and without a database.
fn takes(filter: &EventFilter, c: &Columns) -> bool {
    let given = |asked: &Option<String>, found: &Option<String>| asked.is_none() || asked == found;
    let effect = filter.effect.map(Effect::as_str);
    (filter.types.is_empty() || filter.types.iter().any(|kind| *kind == c.kind))
        && given(&filter.actor_id, &c.actor_id)
        && given(&filter.resource_id, &c.resource_id)
        && given(&filter.action_id, &c.action_id)
        && (effect.is_none() || effect == c.effect.as_deref())
        && given(&filter.reason, &c.reason)
        && filter
            .policy_id
            .iter()
            .all(|policy| c.policies.contains(policy))
        && (filter.revision.is_none() || filter.revision == c.revision)
        && given(&filter.session_id, &c.session_id)
        && given(&filter.task_id, &c.task_id)
        && given(&filter.user_id, &c.user_id)
        && given(&filter.correlation_id, &c.correlation_id)
        && given(&filter.trace_id, &c.trace_id)
        && filter.start_time.is_none_or(|start| c.time >= start)
        && filter.end_time.is_none_or(|end| c.time < end)
}

pub(crate) async fn alone_and_in_pairs(db: Db) {
    let db = db.with_log().await;
    let events = events(150);
    append(&db.store, &events.iter().map(prepared).collect::<Vec<_>>()).await;
    let columns: Vec<Columns> = events.iter().map(Event::columns).collect();
    let conditions = conditions();
    let mut met = 0;
    for (place, a) in conditions.iter().enumerate() {
        for b in &conditions[place..] {
            let filter = both(a, b);
            let descending = met % 2 == 1;
            for places in [0..u64::MAX, 20..120] {
                let found = db
                    .store
                    .list(&filter, places.clone(), descending, 1000)
                    .await;
                let found = found.expect("list").into_iter().map(|event| event.sequence);
                let all = (0..).zip(&columns);
                let mut expected: Vec<u64> = all
                    .filter(|(at, c)| places.contains(at) && takes(&filter, c))
                    .map(|(at, _)| at)
                    .collect();
                if descending {
                    expected.reverse();
                }
                assert_eq!(found.collect::<Vec<_>>(), expected, "{filter:?} {places:?}");
                met += usize::from(!expected.is_empty());
            }
        }
    }
    assert!(
        met > 150,
        "conditions that nothing meets prove little: {met}"
    );
}

/// What the indices say, against what is there.
pub(crate) async fn by_index(db: Db) {
    let db = db.with_log().await;
    let events = events(150);
    append(&db.store, &events.iter().map(prepared).collect::<Vec<_>>()).await;
    let columns: Vec<Columns> = events.iter().map(Event::columns).collect();
    let mut dice = Dice(11);
    for _ in 0..60 {
        let start = dice.below(150);
        let places = start..start + dice.below(160);
        let descending = dice.below(2) == 1;
        let actor = format!("actor{}", dice.below(5));
        let within = || (0..150).filter(|place| places.contains(place));
        let his = |place: &u64| columns[*place as usize].actor_id.as_ref() == Some(&actor);
        let expected = match descending {
            true => within().rev().find(his),
            false => within().find(his),
        };
        let found = db
            .store
            .next_of_actor(&actor, places.clone(), descending)
            .await;
        assert_eq!(
            found.expect("asked"),
            expected,
            "{actor} {places:?} {descending}"
        );

        let at = |seconds: u64| NOW + time::Duration::seconds(seconds as i64);
        let first = dice.below(200);
        let (from, until) = (at(first), at(first + dice.below(30)));
        for (start, end) in [
            (Some(from), None),
            (None, Some(until)),
            (Some(from), Some(until)),
        ] {
            let fits = |place: u64| {
                let time = columns[place as usize].time;
                start.is_none_or(|start| time >= start) && end.is_none_or(|end| time < end)
            };
            let found = db.store.any_in_time(start, end, places.clone()).await;
            let expected = within().any(fits);
            assert_eq!(
                found.expect("asked"),
                expected,
                "{start:?} {end:?} {places:?}"
            );
        }
    }
}
