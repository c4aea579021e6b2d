//! Events by what they say, from the readers' pool.

use std::ops::Range;

use async_trait::async_trait;
use sqlx::{PgPool, Postgres, QueryBuilder, Row as _};
use time::OffsetDateTime;

use super::PostgresStore;
use super::error::translate;
use super::events::{COLUMNS, event};
use crate::store::query::bounds;
use crate::store::value::{refuse_nul, stored_number, unsigned};
use crate::store::{EventFilter, EventQueries, StoreError, StoredEvent};

/// Only the BRIN index over time answers by the summary of a range of blocks. Left to
/// itself the planner reads the rows: it does not know that time goes with the sequence,
/// and expects a match soon where there is none.
const BY_SUMMARIES: [&str; 3] = [
    "SET LOCAL enable_seqscan = off",
    "SET LOCAL enable_indexscan = off",
    "SET LOCAL enable_indexonlyscan = off",
];

#[async_trait]
impl EventQueries for PostgresStore {
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
            .push_bind(i64::from(limit));
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
        let mut tx = self.readers.begin().await.map_err(translate)?;
        for setting in BY_SUMMARIES {
            let set = sqlx::query(setting).execute(&mut *tx).await;
            set.map_err(translate)?;
        }
        let (first, end_place) = bounds(&places);
        let mut sql: QueryBuilder<Postgres> =
            QueryBuilder::new("SELECT EXISTS (SELECT 1 FROM audit_events WHERE sequence >= ");
        sql.push_bind(first)
            .push(" AND sequence < ")
            .push_bind(end_place);
        push_times(&mut sql, start, end);
        sql.push(")");
        let row = sql.build().fetch_one(&mut *tx).await.map_err(translate)?;
        let any = row.try_get(0).map_err(translate)?;
        tx.rollback().await.map_err(translate)?;
        Ok(any)
    }
}

/// Only conditions that are asked for stand in the text: a parameter that may be NULL
/// would keep the planner from using an index.
fn select(filter: &EventFilter, places: &Range<u64>) -> Result<QueryBuilder<Postgres>, StoreError> {
    let side = match filter.with_inputs {
        true => "salt, inputs FROM audit_events LEFT JOIN audit_inputs USING (sequence)",
        false => "NULL::bytea AS salt, NULL::bytea AS inputs FROM audit_events",
    };
    let mut sql = QueryBuilder::new(format!("SELECT {COLUMNS}, {side} WHERE sequence >= "));
    let (first, end) = bounds(places);
    sql.push_bind(first).push(" AND sequence < ").push_bind(end);
    if filter.types.iter().map(String::as_str).eq(["admin"]) {
        // Said in the statement, so that the index over acts alone can serve it.
        sql.push(" AND type = 'admin'");
    } else if !filter.types.is_empty() {
        sql.push(" AND type = ANY(")
            .push_bind(filter.types.clone())
            .push(")");
    }
    for (column, value) in filter.texts() {
        sql.push(format!(" AND {column} = "))
            .push_bind(value.clone());
    }
    if let Some(effect) = filter.effect {
        sql.push(" AND effect = ").push_bind(effect.as_str());
    }
    if let Some(policy) = &filter.policy_id {
        sql.push(" AND ")
            .push_bind(policy.clone())
            .push(" = ANY (policies)");
    }
    if let Some(revision) = filter.revision {
        sql.push(" AND revision = ")
            .push_bind(stored_number(revision)?);
    }
    push_times(&mut sql, filter.start_time, filter.end_time);
    Ok(sql)
}

fn push_times(
    sql: &mut QueryBuilder<Postgres>,
    start: Option<OffsetDateTime>,
    end: Option<OffsetDateTime>,
) {
    if let Some(start) = start {
        sql.push(" AND time >= ").push_bind(start);
    }
    if let Some(end) = end {
        sql.push(" AND time < ").push_bind(end);
    }
}

/// Rows are compared as a whole, so that only the index over both columns has the order
/// that is asked for: no plan can walk the log in search of a rare actor.
async fn next_of_actor(
    pool: &PgPool,
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
