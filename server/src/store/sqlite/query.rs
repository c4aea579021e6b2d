//! Events by what they say, from the readers' pool.

use std::ops::Range;

use async_trait::async_trait;
use sqlx::{QueryBuilder, Row as _, Sqlite, SqlitePool};
use time::OffsetDateTime;

use super::events::{EVENT_COLUMNS, event};
use super::{SqliteStore, list_text, time_text, translate};
use crate::store::query::bounds;
use crate::store::value::{refuse_nul, stored_number, unsigned};
use crate::store::{EventFilter, EventQueries, StoreError, StoredEvent};

#[async_trait]
impl EventQueries for SqliteStore {
    async fn list(
        &self,
        filter: &EventFilter,
        places: Range<u64>,
        descending: bool,
        limit: u32,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        filter.refuse_nul()?;
        let mut sql = select(filter, &places)?;
        sql.push(" ORDER BY sequence")
            .push(if descending { " DESC" } else { "" })
            .push(" LIMIT ")
            .push_bind(limit);
        let rows = sql.build().fetch_all(&self.readers).await;
        rows.map_err(translate)?.iter().map(event).collect()
    }

    async fn next_of_actor(
        &self,
        actor_id: &str,
        places: Range<u64>,
        descending: bool,
    ) -> Result<Option<u64>, StoreError> {
        refuse_nul([&actor_id.to_owned()])?;
        next_of_actor(&self.readers, actor_id, &places, descending).await
    }

    async fn any_in_time(
        &self,
        start: Option<OffsetDateTime>,
        end: Option<OffsetDateTime>,
        places: Range<u64>,
    ) -> Result<bool, StoreError> {
        // The plus keeps the primary key out of it: the index over time holds both.
        let mut sql: QueryBuilder<Sqlite> = QueryBuilder::new(
            "SELECT EXISTS (SELECT 1 FROM audit_events INDEXED BY audit_events_time WHERE +sequence >= ",
        );
        let (first, end_place) = bounds(&places);
        sql.push_bind(first)
            .push(" AND +sequence < ")
            .push_bind(end_place);
        if let Some(start) = start {
            sql.push(" AND time >= ").push_bind(time_text(start));
        }
        if let Some(end) = end {
            sql.push(" AND time < ").push_bind(time_text(end));
        }
        sql.push(")");
        let row = sql.build().fetch_one(&self.readers).await;
        row.map_err(translate)?.try_get(0).map_err(translate)
    }
}

/// Only conditions that are asked for stand in the text: with a parameter that may be
/// NULL, SQLite walks the whole table instead of an index.
fn select(filter: &EventFilter, places: &Range<u64>) -> Result<QueryBuilder<Sqlite>, StoreError> {
    let side = match filter.with_inputs {
        true => "salt, inputs FROM audit_events LEFT JOIN audit_inputs USING (sequence, log_id)",
        false => "NULL AS salt, NULL AS inputs FROM audit_events",
    };
    let mut sql = QueryBuilder::new(format!("SELECT {EVENT_COLUMNS}, {side} WHERE sequence >= "));
    let (first, end) = bounds(places);
    sql.push_bind(first).push(" AND sequence < ").push_bind(end);
    if filter.types.iter().map(String::as_str).eq(["admin"]) {
        // Said in the statement, so that the index over acts alone can serve it.
        sql.push(" AND type = 'admin'");
    } else if !filter.types.is_empty() {
        sql.push(" AND type IN (SELECT value FROM json_each(")
            .push_bind(list_text(&filter.types))
            .push("))");
    }
    for (column, value) in filter.texts() {
        sql.push(format!(" AND {column} = "))
            .push_bind(value.clone());
    }
    if let Some(effect) = filter.effect {
        sql.push(" AND effect = ").push_bind(effect.as_str());
    }
    if let Some(policy) = &filter.policy_id {
        sql.push(" AND EXISTS (SELECT 1 FROM json_each(policies) WHERE value = ")
            .push_bind(policy.clone())
            .push(")");
    }
    if let Some(revision) = filter.revision {
        sql.push(" AND revision = ")
            .push_bind(stored_number(revision)?);
    }
    // The plus keeps to the order of the log: by the index over time, all that matches
    // would be sorted for each page.
    if let Some(start) = filter.start_time {
        sql.push(" AND +time >= ").push_bind(time_text(start));
    }
    if let Some(end) = filter.end_time {
        sql.push(" AND +time < ").push_bind(time_text(end));
    }
    Ok(sql)
}

async fn next_of_actor(
    pool: &SqlitePool,
    actor_id: &str,
    places: &Range<u64>,
    descending: bool,
) -> Result<Option<u64>, StoreError> {
    let (first, end) = bounds(places);
    let (sql, from) = match descending {
        false => (
            "SELECT actor_id, sequence FROM audit_events WHERE (actor_id, sequence) >= ($1, $2) \
             ORDER BY actor_id, sequence LIMIT 1",
            first,
        ),
        true => (
            "SELECT actor_id, sequence FROM audit_events WHERE (actor_id, sequence) < ($1, $2) \
             ORDER BY actor_id DESC, sequence DESC LIMIT 1",
            end,
        ),
    };
    let row = sqlx::query(sql)
        .bind(actor_id)
        .bind(from)
        .fetch_optional(pool)
        .await
        .map_err(translate)?;
    let Some(row) = row else { return Ok(None) };
    let found: String = row.try_get("actor_id").map_err(translate)?;
    let sequence = unsigned(row.try_get("sequence").map_err(translate)?)?;
    Ok((found == actor_id && places.contains(&sequence)).then_some(sequence))
}
