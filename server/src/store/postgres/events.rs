//! Rows of the log: one INSERT per batch, and how they are read.

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Row as _};
use uuid::Uuid;

use super::error::translate;
use super::writer::within;
use crate::model::Columns;
use crate::model::event::Inputs;
use crate::store::value::{corrupt, digest, salt, signed, unsigned};
use crate::store::{PreparedEvent, StoreError, StoredEvent};

/// Events and their inputs in one statement, so in one round trip. A list in a list
/// cannot be unnested (arrays are rectangular), so policies come as array literals.
const INSERT: &str = "\
WITH inputs AS ( \
    INSERT INTO audit_inputs (sequence, log_id, salt, inputs) \
    SELECT sequence, $2, salt, inputs \
    FROM UNNEST($24::bigint[], $25::bytea[], $26::bytea[]) AS i (sequence, salt, inputs)) \
INSERT INTO audit_events (log_id, sequence, event_id, time, type, actor_type, actor_id, \
    instance_id, source, action_type, action_id, resource_type, resource_id, effect, reason, \
    policies, revision, session_id, task_id, user_id, correlation_id, trace_id, leaf, leaf_hash) \
SELECT $2, $1 + place - 1, event_id, time, type, actor_type, actor_id, instance_id, \
    source::inet, action_type, action_id, resource_type, resource_id, effect, reason, \
    policies::text[], revision, session_id, task_id, user_id, correlation_id, trace_id, \
    leaf, leaf_hash \
FROM UNNEST($3::uuid[], $4::timestamptz[], $5::text[], $6::text[], $7::text[], $8::uuid[], \
    $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], \
    $16::text[], $17::bigint[], $18::text[], $19::text[], $20::text[], $21::text[], $22::text[], \
    $23::bytea[], $27::bytea[]) WITH ORDINALITY AS e (event_id, time, type, actor_type, actor_id, \
    instance_id, source, action_type, action_id, resource_type, resource_id, effect, reason, \
    policies, revision, session_id, task_id, user_id, correlation_id, trace_id, leaf, leaf_hash, \
    place)";

/// Writes events from sequence `first` on, and returns how many.
pub(super) async fn insert(
    connection: &mut PgConnection,
    log_id: Uuid,
    first: i64,
    events: &[PreparedEvent],
) -> Result<u64, StoreError> {
    fn all<'a, T>(events: &'a [PreparedEvent], get: impl Fn(&'a Columns) -> T) -> Vec<T> {
        events.iter().map(|e| get(&e.columns)).collect()
    }
    let inputs: Vec<(i64, &Inputs)> = (first..)
        .zip(events)
        .filter_map(|(sequence, e)| Some((sequence, e.inputs.as_ref()?)))
        .collect();
    let query = sqlx::query(INSERT)
        .bind(first)
        .bind(log_id)
        .bind(all(events, |c| c.event_id))
        .bind(all(events, |c| c.time))
        .bind(all(events, |c| &*c.kind))
        .bind(all(events, |c| c.actor_type.as_deref()))
        .bind(all(events, |c| c.actor_id.as_deref()))
        .bind(all(events, |c| c.instance_id))
        .bind(all(events, |c| c.source.as_deref()))
        .bind(all(events, |c| c.action_type.as_deref()))
        .bind(all(events, |c| c.action_id.as_deref()))
        .bind(all(events, |c| c.resource_type.as_deref()))
        .bind(all(events, |c| c.resource_id.as_deref()))
        .bind(all(events, |c| c.effect.as_deref()))
        .bind(all(events, |c| c.reason.as_deref()))
        .bind(all(events, |c| array_literal(&c.policies)))
        .bind(all(events, |c| c.revision.map(signed)))
        .bind(all(events, |c| c.session_id.as_deref()))
        .bind(all(events, |c| c.task_id.as_deref()))
        .bind(all(events, |c| c.user_id.as_deref()))
        .bind(all(events, |c| c.correlation_id.as_deref()))
        .bind(all(events, |c| c.trace_id.as_deref()))
        .bind(events.iter().map(|e| &e.leaf[..]).collect::<Vec<_>>())
        .bind(inputs.iter().map(|(s, _)| *s).collect::<Vec<_>>())
        .bind(inputs.iter().map(|(_, i)| &i.salt[..]).collect::<Vec<_>>())
        .bind(inputs.iter().map(|(_, i)| &i.json[..]).collect::<Vec<_>>())
        .bind(events.iter().map(|e| &e.leaf_hash[..]).collect::<Vec<_>>());
    let done = within(query.execute(connection)).await.map_err(translate)?;
    Ok(done.rows_affected())
}

/// A list as Postgres writes arrays: each item quoted, quotes and backslashes escaped.
fn array_literal(items: &[String]) -> String {
    let mut literal = String::from("{");
    for (place, item) in items.iter().enumerate() {
        literal.push_str(if place == 0 { "\"" } else { ",\"" });
        for c in item.chars() {
            if matches!(c, '"' | '\\') {
                literal.push('\\');
            }
            literal.push(c);
        }
        literal.push('"');
    }
    literal + "}"
}

pub(super) const COLUMNS: &str = "sequence, audit_events.log_id, event_id, time, type, actor_type, actor_id, instance_id, \
    host(source) AS source, action_type, action_id, resource_type, resource_id, effect, reason, \
    policies, revision, session_id, task_id, user_id, correlation_id, trace_id, leaf, leaf_hash";

/// Events from `first` on, with inputs.
pub(super) async fn read(
    pool: &PgPool,
    first: u64,
    limit: u32,
) -> Result<Vec<StoredEvent>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS}, salt, inputs FROM audit_events LEFT JOIN audit_inputs USING (sequence) \
         WHERE sequence >= $1 ORDER BY sequence LIMIT $2"
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(signed(first))
        .bind(i64::from(limit))
        .fetch_all(pool)
        .await
        .map_err(translate)?;
    rows.iter().map(event).collect()
}

/// Events of these ids, without inputs.
pub(super) async fn named(pool: &PgPool, ids: &[Uuid]) -> Result<Vec<StoredEvent>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS}, NULL::bytea AS salt, NULL::bytea AS inputs FROM audit_events \
         WHERE event_id = ANY($1)"
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(ids)
        .fetch_all(pool)
        .await
        .map_err(translate)?;
    rows.iter().map(event).collect()
}

/// A row with its inputs, or NULLs in their place.
pub(super) fn event(row: &PgRow) -> Result<StoredEvent, StoreError> {
    let text = |name: &str| row.try_get::<Option<String>, _>(name).map_err(translate);
    let bytes = |name: &str| row.try_get::<Option<&[u8]>, _>(name).map_err(translate);
    let must = || corrupt("a NULL where none may be");
    let inputs = match (bytes("salt")?, bytes("inputs")?) {
        (Some(bytes), Some(json)) => Some(Inputs {
            salt: salt(bytes)?,
            json: json.to_vec(),
        }),
        _ => None,
    };
    let revision: Option<i64> = row.try_get("revision").map_err(translate)?;
    Ok(StoredEvent {
        sequence: unsigned(row.try_get("sequence").map_err(translate)?)?,
        log_id: row.try_get("log_id").map_err(translate)?,
        leaf: bytes("leaf")?.ok_or_else(must)?.to_vec(),
        leaf_hash: digest(bytes("leaf_hash")?.ok_or_else(must)?)?,
        inputs,
        columns: Columns {
            event_id: row.try_get("event_id").map_err(translate)?,
            time: row.try_get("time").map_err(translate)?,
            kind: text("type")?.ok_or_else(must)?.into(),
            actor_type: text("actor_type")?,
            actor_id: text("actor_id")?,
            instance_id: row.try_get("instance_id").map_err(translate)?,
            source: text("source")?.map(address).transpose()?,
            action_type: text("action_type")?,
            action_id: text("action_id")?,
            resource_type: text("resource_type")?,
            resource_id: text("resource_id")?,
            effect: text("effect")?.map(Into::into),
            reason: text("reason")?,
            policies: row.try_get("policies").map_err(translate)?,
            revision: revision.map(unsigned).transpose()?,
            session_id: text("session_id")?,
            task_id: text("task_id")?,
            user_id: text("user_id")?,
            correlation_id: text("correlation_id")?,
            trace_id: text("trace_id")?,
        },
    })
}

/// An address as the leaf writes it: Postgres has its own ways with `::1.2.3.4`.
fn address(text: String) -> Result<String, StoreError> {
    let parsed: Result<std::net::IpAddr, _> = text.parse();
    parsed
        .map(|ip| ip.to_string())
        .map_err(|_| corrupt("an address that is none"))
}
