//! Rows of the log: one INSERT per batch, and how they are read.

use std::sync::LazyLock;

use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row as _, Sqlite, SqliteConnection, SqlitePool};
use uuid::Uuid;

use super::{list_text, parse_list, parse_time, time_text, translate};
use crate::model::Columns;
use crate::model::event::Inputs;
use crate::store::value::{digest, parse_uuid, salt, signed, stored_number, unsigned};
use crate::store::{PreparedEvent, StoreError, StoredEvent};

pub(super) const EVENT_COLUMNS: &str = "sequence, log_id, event_id, time, type, actor_type, actor_id, \
    instance_id, source, action_type, action_id, resource_type, resource_id, effect, reason, \
    policies, revision, session_id, task_id, user_id, correlation_id, trace_id, leaf, leaf_hash";
/// All but the log's id, which is the same for all rows.
const EVENT_VALUES: usize = 23;
const INPUTS_VALUES: usize = 3;

/// `INSERT` texts for so many events with their inputs: few texts, so that each stays
/// prepared, and one for a whole batch, because each statement is a trip to SQLite's
/// thread and back. Rows that a batch does not fill are NULL and left out, which costs a
/// fiftieth of a row.
static INSERTS: LazyLock<Vec<(usize, String)>> = LazyLock::new(|| {
    let rows = [
        1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, ROWS_MAX,
    ];
    rows.map(|rows| (rows, insert_sql(rows))).to_vec()
});
const ROWS_MAX: usize = 512;

/// Parameters are `?`, without number: SQLite finds those that have one by walking a
/// list, for each in turn, and a batch of 128 took three times as long.
fn insert_sql(rows: usize) -> String {
    let values = |columns: usize| {
        let row = format!("({})", vec!["?"; columns].join(","));
        vec![row.as_str(); rows].join(",")
    };
    let columns = |from: usize, to: usize| {
        let names: Vec<_> = (from..=to).map(|n| format!("column{n}")).collect();
        names.join(",")
    };
    format!(
        "INSERT INTO audit_events ({EVENT_COLUMNS}) SELECT column1,?,{} FROM (VALUES {}) \
         WHERE column1 IS NOT NULL; \
         INSERT INTO audit_inputs (sequence, log_id, salt, inputs) SELECT column1,?,{} \
         FROM (VALUES {}) WHERE column1 IS NOT NULL",
        columns(2, EVENT_VALUES),
        values(EVENT_VALUES),
        columns(2, INPUTS_VALUES),
        values(INPUTS_VALUES),
    )
}

/// Writes events from sequence `first` on.
pub(super) async fn insert(
    connection: &mut SqliteConnection,
    log_id: &str,
    first: i64,
    events: &[PreparedEvent],
) -> Result<(), StoreError> {
    let numbered: Vec<(i64, &PreparedEvent)> = (first..).zip(events).collect();
    for piece in numbered.chunks(ROWS_MAX) {
        let place = INSERTS.partition_point(|(rows, _)| *rows < piece.len());
        let (rows, sql) = &INSERTS[place];
        let mut query = sqlx::query(sql.as_str()).bind(log_id);
        for (sequence, event) in piece {
            query = bind_event(query, *sequence, event);
        }
        for _ in 0..(rows - piece.len()) * EVENT_VALUES {
            query = query.bind(None::<i64>);
        }
        query = query.bind(log_id);
        for (sequence, event) in piece {
            if let Some(inputs) = &event.inputs {
                query = query
                    .bind(*sequence)
                    .bind(&inputs.salt[..])
                    .bind(&inputs.json);
            }
        }
        query.execute(&mut *connection).await.map_err(translate)?;
    }
    Ok(())
}

type Query<'q> = sqlx::query::Query<'q, Sqlite, sqlx::sqlite::SqliteArguments>;

fn bind_event<'q>(query: Query<'q>, sequence: i64, event: &'q PreparedEvent) -> Query<'q> {
    let c = &event.columns;
    query
        .bind(sequence)
        .bind(c.event_id.to_string())
        .bind(time_text(c.time))
        .bind(&c.kind)
        .bind(&c.actor_type)
        .bind(&c.actor_id)
        .bind(c.instance_id.map(|id| id.to_string()))
        .bind(&c.source)
        .bind(&c.action_type)
        .bind(&c.action_id)
        .bind(&c.resource_type)
        .bind(&c.resource_id)
        .bind(&c.effect)
        .bind(&c.reason)
        .bind(list_text(&c.policies))
        .bind(c.revision.map(signed))
        .bind(&c.session_id)
        .bind(&c.task_id)
        .bind(&c.user_id)
        .bind(&c.correlation_id)
        .bind(&c.trace_id)
        .bind(&event.leaf)
        .bind(&event.leaf_hash[..])
}

/// Events from `first` on, with inputs.
pub(super) async fn read(
    pool: &SqlitePool,
    first: u64,
    limit: u32,
) -> Result<Vec<StoredEvent>, StoreError> {
    let sql = format!(
        "SELECT {EVENT_COLUMNS}, salt, inputs FROM audit_events LEFT JOIN audit_inputs \
         USING (sequence, log_id) WHERE sequence >= $1 ORDER BY sequence LIMIT $2"
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(signed(first))
        .bind(limit)
        .fetch_all(pool)
        .await
        .map_err(translate)?;
    rows.iter().map(event).collect()
}

const NAMED: &str = "event_id IN (SELECT value FROM json_each($1))";

/// Events of these ids, without inputs.
pub(super) async fn named(pool: &SqlitePool, ids: &[Uuid]) -> Result<Vec<StoredEvent>, StoreError> {
    let sql = format!(
        "SELECT {EVENT_COLUMNS}, NULL AS salt, NULL AS inputs FROM audit_events WHERE {NAMED}"
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(ids_text(ids))
        .fetch_all(pool)
        .await
        .map_err(translate)?;
    rows.iter().map(event).collect()
}

/// Which of these events stand at the place `since` or after it.
pub(super) async fn present(
    connection: &mut SqliteConnection,
    ids: &[Uuid],
    since: u64,
) -> Result<Vec<Uuid>, StoreError> {
    let sql = format!("SELECT event_id FROM audit_events WHERE {NAMED} AND sequence >= $2");
    let found: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(ids_text(ids))
        .bind(stored_number(since)?)
        .fetch_all(connection)
        .await
        .map_err(translate)?;
    found.iter().map(|id| parse_uuid(id)).collect()
}

fn ids_text(ids: &[Uuid]) -> String {
    let ids: Vec<String> = ids.iter().map(Uuid::to_string).collect();
    list_text(&ids)
}

/// A row with its inputs, or NULLs in their place.
pub(super) fn event(row: &SqliteRow) -> Result<StoredEvent, StoreError> {
    let text = |name: &str| row.try_get::<Option<String>, _>(name).map_err(translate);
    let must = |name: &str| row.try_get::<String, _>(name).map_err(translate);
    let bytes = |name: &str| row.try_get::<Vec<u8>, _>(name).map_err(translate);
    let side = |name: &str| row.try_get::<Option<Vec<u8>>, _>(name).map_err(translate);
    let inputs = match (side("salt")?, side("inputs")?) {
        (Some(bytes), Some(json)) => Some(Inputs {
            salt: salt(&bytes)?,
            json,
        }),
        _ => None,
    };
    Ok(StoredEvent {
        log_id: parse_uuid(&must("log_id")?)?,
        sequence: unsigned(row.try_get("sequence").map_err(translate)?)?,
        leaf: bytes("leaf")?,
        leaf_hash: digest(&bytes("leaf_hash")?)?,
        inputs,
        columns: Columns {
            event_id: parse_uuid(&must("event_id")?)?,
            time: parse_time(&must("time")?)?,
            kind: must("type")?.into(),
            actor_type: text("actor_type")?,
            actor_id: text("actor_id")?,
            instance_id: text("instance_id")?
                .as_deref()
                .map(parse_uuid)
                .transpose()?,
            source: text("source")?,
            action_type: text("action_type")?,
            action_id: text("action_id")?,
            resource_type: text("resource_type")?,
            resource_id: text("resource_id")?,
            effect: text("effect")?.map(Into::into),
            reason: text("reason")?,
            policies: parse_list(&must("policies")?)?,
            revision: row
                .try_get::<Option<i64>, _>("revision")
                .map_err(translate)?
                .map(unsigned)
                .transpose()?,
            session_id: text("session_id")?,
            task_id: text("task_id")?,
            user_id: text("user_id")?,
            correlation_id: text("correlation_id")?,
            trace_id: text("trace_id")?,
        },
    })
}
