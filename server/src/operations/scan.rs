//! Looking through the log, a bounded piece at a time. What an index rules out is skipped;
//! the rest is read in pieces, so that a query that finds little answers all the same and
//! says how far it came.

use std::ops::Range;

use crate::store::{EventFilter, SharedStore, StoreError, StoredEvent};

/// Places of the log that one look reads: some tenths of a second on a busy database.
pub(crate) const SCAN_MAX: u64 = 100_000;

/// How much one look may read and bring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Places of the log that it reads.
    pub(crate) places: u64,
    /// Events.
    pub(crate) events: u32,
    /// Bytes of leaves; one event always has room.
    pub(crate) bytes: usize,
}

/// What one look found.
pub(crate) struct Scanned {
    pub(crate) events: Vec<StoredEvent>,
    /// What was not looked through yet. Empty: nothing else matches.
    pub(crate) rest: Range<u64>,
}

/// Events that match, from the near end of `places` in the direction asked for.
pub(crate) async fn scan(
    store: &SharedStore,
    filter: &EventFilter,
    places: Range<u64>,
    descending: bool,
    room: Room,
) -> Result<Scanned, StoreError> {
    let places = skip_to_actor(store, filter, places, descending).await?;
    let (piece, beyond) = split(&places, room.places, descending);
    let mut events = store
        .list(filter, piece.clone(), descending, room.events)
        .await?;
    let full = events.len() == room.events as usize;
    let cut = cut(&mut events, room.bytes);
    let rest = match events.last() {
        Some(last) if full || cut => beside(&places, last.sequence, descending),
        _ => {
            let rest = skip_to_actor(store, filter, beyond, descending).await?;
            skip_to_time(store, filter, rest, descending, room.places).await?
        }
    };
    Ok(Scanned { events, rest })
}

/// The places that come first in the direction, and those after them.
fn split(places: &Range<u64>, count: u64, descending: bool) -> (Range<u64>, Range<u64>) {
    let Range { start, end } = *places;
    let count = count.min(end.saturating_sub(start));
    match descending {
        false => (start..start + count, start + count..end),
        true => (end - count..end, start..end - count),
    }
}

/// What is left after an event in the direction.
fn beside(places: &Range<u64>, sequence: u64, descending: bool) -> Range<u64> {
    match descending {
        false => sequence + 1..places.end,
        true => places.start..sequence,
    }
}

/// Nothing, at the far end of these places.
fn nothing(places: &Range<u64>, descending: bool) -> Range<u64> {
    let far = if descending { places.start } else { places.end };
    far..far
}

/// Drops events that have no room; whether there were any.
fn cut(events: &mut Vec<StoredEvent>, bytes_max: usize) -> bool {
    let mut bytes = 0;
    let fitting = events.iter().take_while(|event| {
        bytes += event.leaf.len();
        bytes <= bytes_max
    });
    let kept = fitting.count().max(1);
    let cut = kept < events.len();
    events.truncate(kept);
    cut
}

async fn skip_to_actor(
    store: &SharedStore,
    filter: &EventFilter,
    places: Range<u64>,
    descending: bool,
) -> Result<Range<u64>, StoreError> {
    let Some(actor) = &filter.actor_id else {
        return Ok(places);
    };
    if places.is_empty() {
        return Ok(places);
    }
    let found = store
        .next_of_actor(actor, places.clone(), descending)
        .await?;
    Ok(match found {
        None => nothing(&places, descending),
        Some(place) if descending => places.start..place + 1,
        Some(place) => place..places.end,
    })
}

/// Leaves out what comes before the first event with such a time, to a piece. Clocks of
/// replicas differ and jump, so the time of one event says nothing of its neighbours: that
/// none is in a range of places is what the index over time is asked. With the range the
/// answer can only turn to yes, so its end is found by doubling and halving.
async fn skip_to_time(
    store: &SharedStore,
    filter: &EventFilter,
    places: Range<u64>,
    descending: bool,
    piece: u64,
) -> Result<Range<u64>, StoreError> {
    let (start, end) = (filter.start_time, filter.end_time);
    if places.is_empty() || (start.is_none() && end.is_none()) {
        return Ok(places);
    }
    let times = EventFilter {
        start_time: start,
        end_time: end,
        ..EventFilter::default()
    };
    let (next, _) = split(&places, 1, descending);
    if !store.list(&times, next, false, 1).await?.is_empty() {
        return Ok(places);
    }
    let any = async |count: u64| {
        let (near, _) = split(&places, count, descending);
        store.any_in_time(start, end, near).await
    };
    let all = places.end - places.start;
    if !any(all).await? {
        return Ok(nothing(&places, descending));
    }
    // None among the first `without`, one among the first `with`.
    let (mut without, mut with) = (0, piece.min(all));
    while with < all && !any(with).await? {
        (without, with) = (with, with.saturating_mul(2).min(all));
    }
    while with - without > piece {
        let middle = without + (with - without) / 2;
        match any(middle).await? {
            true => with = middle,
            false => without = middle,
        }
    }
    Ok(split(&places, without, descending).1)
}

#[cfg(test)]
mod tests;
