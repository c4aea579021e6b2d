//! The log in SQLite.

use std::sync::LazyLock;

use async_trait::async_trait;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, QueryBuilder, Row as _, Sqlite, SqliteConnection};
use uuid::Uuid;

use super::{SqliteStore, list_text, parse_list, parse_time, time_text, translate};
use crate::model::event::Inputs;
use crate::model::{Change, Columns, Conflict};
use crate::store::value::{
    corrupt, digest, frontier, no_head, parse_uuid, refuse_change, refuse_events, refuse_nul, salt,
    signed, stored_number, unsigned,
};
use crate::store::{
    AuditStore, AuditTx, EventFilter, LogHead, PreparedEvent, StoreError, StoredCheckpoint,
    StoredEvent,
};

const EVENT_COLUMNS: &str = "sequence, log_id, event_id, time, type, actor_type, actor_id, \
    instance_id, source, action_type, action_id, resource_type, resource_id, effect, reason, \
    policies, revision, session_id, task_id, user_id, correlation_id, trace_id, leaf, leaf_hash";
const EVENT_COLUMN_COUNT: usize = 24;

/// `INSERT` texts for 1, 2, 4 … 256 rows: few texts, so that each stays prepared.
static INSERT_EVENTS: LazyLock<Vec<String>> = LazyLock::new(|| {
    inserts(
        &format!("INSERT INTO audit_events ({EVENT_COLUMNS}) VALUES "),
        EVENT_COLUMN_COUNT,
    )
});
static INSERT_INPUTS: LazyLock<Vec<String>> = LazyLock::new(|| {
    inserts(
        "INSERT INTO audit_inputs (sequence, log_id, salt, inputs) VALUES ",
        4,
    )
});
const POWERS: u32 = 8;

/// Parameters are `?`, without number: SQLite finds those that have one by walking a
/// list, for each in turn, and a batch of 128 took three times as long.
fn inserts(head: &str, columns: usize) -> Vec<String> {
    let row = format!("({})", vec!["?"; columns].join(","));
    (0..=POWERS)
        .map(|power| format!("{head}{}", vec![row.as_str(); 1 << power].join(",")))
        .collect()
}

/// Cuts a slice into pieces whose lengths are powers of two, with the power.
fn powers_of_two<T>(mut items: &[T]) -> impl Iterator<Item = (usize, &[T])> {
    std::iter::from_fn(move || {
        let power = items.len().checked_ilog2()?.min(POWERS) as usize;
        let (piece, rest) = items.split_at(1 << power);
        items = rest;
        Some((power, piece))
    })
}

/// A transaction, by hand: sqlx's own counts its depth, and where SQLite itself ended
/// one (a full disk, an I/O error), the count stays wrong and nothing begins any more
/// on that connection. So whatever is not committed ends with its connection, which
/// SQLite rolls back; the next one is opened in about a millisecond.
struct SqliteTx {
    connection: PoolConnection<Sqlite>,
    head: LogHead,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// A statement is under way, or failed.
    Broken,
    Committed,
}

impl Drop for SqliteTx {
    fn drop(&mut self) {
        if self.state != State::Committed {
            self.connection.close_on_drop();
        }
    }
}

#[async_trait]
impl AuditTx for SqliteTx {
    fn head(&self) -> &LogHead {
        &self.head
    }

    async fn apply(
        &mut self,
        change: &Change,
        epoch: u64,
    ) -> Result<Result<(), Conflict>, StoreError> {
        refuse_change(change)?;
        let log_id = self.head.log_id;
        let connection = self.start()?;
        execute(connection, "SAVEPOINT change").await?;
        let applied = super::changes::apply(connection, log_id, change, epoch).await?;
        if applied.is_err() {
            execute(connection, "ROLLBACK TO change").await?;
        }
        execute(connection, "RELEASE change").await?;
        self.state = State::Open;
        Ok(applied)
    }

    async fn insert(
        &mut self,
        first_sequence: u64,
        events: &[PreparedEvent],
    ) -> Result<(), StoreError> {
        refuse_events(events)?;
        let first = stored_number(first_sequence)?;
        let log_id = self.head.log_id.to_string();
        let connection = self.start()?;
        insert(connection, &log_id, first, events).await?;
        self.state = State::Open;
        Ok(())
    }

    async fn commit(mut self: Box<Self>, head: &LogHead) -> Result<(), StoreError> {
        let (size, epoch) = (stored_number(head.size)?, stored_number(head.epoch)?);
        let connection = self.start()?;
        sqlx::query("UPDATE log_head SET size = $1, frontier = $2, epoch = $3 WHERE one = 1")
            .bind(size)
            .bind(head.frontier.as_flattened())
            .bind(epoch)
            .execute(&mut *connection)
            .await
            .map_err(translate)?;
        execute(connection, "COMMIT")
            .await
            .map_err(|e| StoreError::CommitUnknown(e.to_string()))?;
        self.state = State::Committed;
        Ok(())
    }
}

impl SqliteTx {
    /// The connection for some statements. Until the state is set again, by one who
    /// saw them all end well, the transaction cannot go on.
    fn start(&mut self) -> Result<&mut SqliteConnection, StoreError> {
        if self.state != State::Open {
            return Err(StoreError::Unavailable(
                "the transaction failed before".to_owned(),
            ));
        }
        self.state = State::Broken;
        Ok(&mut self.connection)
    }
}

async fn execute(connection: &mut SqliteConnection, sql: &'static str) -> Result<(), StoreError> {
    sqlx::query(sql)
        .execute(connection)
        .await
        .map(drop)
        .map_err(translate)
}

async fn insert(
    connection: &mut SqliteConnection,
    log_id: &str,
    first: i64,
    events: &[PreparedEvent],
) -> Result<(), StoreError> {
    let numbered: Vec<(i64, &PreparedEvent)> = (first..).zip(events).collect();
    for (power, piece) in powers_of_two(&numbered) {
        let mut query = sqlx::query(INSERT_EVENTS[power].as_str());
        for (sequence, event) in piece {
            query = bind_event(query, *sequence, log_id, event);
        }
        query.execute(&mut *connection).await.map_err(translate)?;
    }
    let inputs: Vec<(i64, &Inputs)> = numbered
        .iter()
        .filter_map(|(s, e)| Some((*s, e.inputs.as_ref()?)))
        .collect();
    for (power, piece) in powers_of_two(&inputs) {
        let mut query = sqlx::query(INSERT_INPUTS[power].as_str());
        for (sequence, inputs) in piece {
            query = query
                .bind(*sequence)
                .bind(log_id)
                .bind(&inputs.salt[..])
                .bind(&inputs.json);
        }
        query.execute(&mut *connection).await.map_err(translate)?;
    }
    Ok(())
}

type Query<'q> = sqlx::query::Query<'q, Sqlite, sqlx::sqlite::SqliteArguments>;

fn bind_event<'q>(
    query: Query<'q>,
    sequence: i64,
    log_id: &'q str,
    event: &'q PreparedEvent,
) -> Query<'q> {
    let c = &event.columns;
    query
        .bind(sequence)
        .bind(log_id)
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

async fn read_head(connection: &mut SqliteConnection) -> Result<LogHead, StoreError> {
    let row = sqlx::query("SELECT log_id, size, frontier, epoch FROM log_head WHERE one = 1")
        .fetch_optional(connection)
        .await
        .map_err(translate)?
        .ok_or_else(no_head)?;
    let bytes: Vec<u8> = row.try_get(2).map_err(translate)?;
    Ok(LogHead {
        log_id: parse_uuid(row.try_get(0).map_err(translate)?)?,
        size: unsigned(row.try_get(1).map_err(translate)?)?,
        frontier: frontier(&bytes)?,
        epoch: unsigned(row.try_get(3).map_err(translate)?)?,
    })
}

#[async_trait]
impl AuditStore for SqliteStore {
    async fn ensure_log(&self, log_id: Uuid) -> Result<LogHead, StoreError> {
        sqlx::query(
            "INSERT INTO log_head (one, log_id, size, frontier, epoch) VALUES (1, $1, 0, x'', 0) \
             ON CONFLICT (one) DO NOTHING",
        )
        .bind(log_id.to_string())
        .execute(&self.writer)
        .await
        .map_err(translate)?;
        self.head().await
    }

    async fn head(&self) -> Result<LogHead, StoreError> {
        let mut connection = self.readers.acquire().await.map_err(translate)?;
        read_head(&mut connection).await
    }

    async fn begin(&self) -> Result<Box<dyn AuditTx>, StoreError> {
        let connection = self.writer.acquire().await.map_err(translate)?;
        // Before BEGIN, so that a call that is dropped here leaves no transaction.
        let mut tx = Box::new(SqliteTx {
            connection,
            head: LogHead {
                log_id: Uuid::nil(),
                size: 0,
                frontier: Vec::new(),
                epoch: 0,
            },
            state: State::Open,
        });
        let connection = tx.start()?;
        execute(connection, "BEGIN IMMEDIATE").await?;
        tx.head = read_head(&mut tx.connection).await?;
        tx.state = State::Open;
        Ok(tx)
    }

    async fn find(&self, event_id: Uuid) -> Result<Option<u64>, StoreError> {
        // On the writer connection: whatever it was doing has ended when we get it.
        let row = sqlx::query("SELECT sequence FROM audit_events WHERE event_id = $1")
            .bind(event_id.to_string())
            .fetch_optional(&self.writer)
            .await
            .map_err(translate)?;
        row.map(|r| unsigned(r.try_get(0).map_err(translate)?))
            .transpose()
    }

    async fn read(&self, first: u64, limit: u32) -> Result<Vec<StoredEvent>, StoreError> {
        let sql = format!(
            "SELECT {EVENT_COLUMNS}, salt, inputs FROM audit_events LEFT JOIN audit_inputs \
             USING (sequence, log_id) WHERE sequence >= $1 ORDER BY sequence LIMIT $2"
        );
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(signed(first))
            .bind(limit)
            .fetch_all(&self.readers)
            .await
            .map_err(translate)?;
        rows.iter().map(event).collect()
    }

    async fn list(
        &self,
        filter: &EventFilter,
        after: Option<u64>,
        descending: bool,
        limit: u32,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        refuse_nul(filter.types.iter().chain(&filter.actor_id))?;
        // Only conditions that are asked for stand in the text: with a parameter that
        // may be NULL, SQLite walks the whole table instead of an index.
        let mut sql: QueryBuilder<Sqlite> = QueryBuilder::new(format!(
            "SELECT {EVENT_COLUMNS}, NULL AS salt, NULL AS inputs FROM audit_events WHERE true"
        ));
        if let Some(after) = after {
            let compare = if descending { "<" } else { ">" };
            sql.push(format!(" AND sequence {compare} "))
                .push_bind(signed(after));
        }
        if !filter.types.is_empty() {
            sql.push(" AND type IN (SELECT value FROM json_each(")
                .push_bind(list_text(&filter.types))
                .push("))");
        }
        if let Some(actor_id) = &filter.actor_id {
            sql.push(" AND actor_id = ").push_bind(actor_id);
        }
        if let Some(effect) = filter.effect {
            sql.push(" AND effect = ").push_bind(effect.as_str());
        }
        if let Some(start) = filter.start_time {
            sql.push(" AND time >= ").push_bind(time_text(start));
        }
        if let Some(end) = filter.end_time {
            sql.push(" AND time < ").push_bind(time_text(end));
        }
        sql.push(" ORDER BY sequence")
            .push(if descending { " DESC" } else { "" })
            .push(" LIMIT ")
            .push_bind(limit);
        let rows = sql
            .build()
            .fetch_all(&self.readers)
            .await
            .map_err(translate)?;
        rows.iter().map(event).collect()
    }

    async fn latest_checkpoint(&self) -> Result<Option<StoredCheckpoint>, StoreError> {
        let row = sqlx::query("SELECT size, note FROM checkpoints ORDER BY size DESC LIMIT 1")
            .fetch_optional(&self.readers)
            .await
            .map_err(translate)?;
        row.map(|r| {
            Ok(StoredCheckpoint {
                size: unsigned(r.try_get(0).map_err(translate)?)?,
                note: r.try_get(1).map_err(translate)?,
            })
        })
        .transpose()
    }

    async fn put_checkpoint(&self, checkpoint: &StoredCheckpoint) -> Result<(), StoreError> {
        refuse_nul([&checkpoint.note])?;
        sqlx::query(
            "INSERT INTO checkpoints (size, log_id, note) SELECT $1, log_id, $2 FROM log_head \
             WHERE true ON CONFLICT (size) DO NOTHING",
        )
        .bind(stored_number(checkpoint.size)?)
        .bind(&checkpoint.note)
        .execute(&self.writer)
        .await
        .map_err(translate)?;
        let stored: Option<String> =
            sqlx::query_scalar("SELECT note FROM checkpoints WHERE size = $1")
                .bind(signed(checkpoint.size))
                .fetch_optional(&self.readers)
                .await
                .map_err(translate)?;
        if stored.ok_or_else(no_head)? == checkpoint.note {
            return Ok(());
        }
        Err(corrupt("two different checkpoints of one size"))
    }
}

fn event(row: &SqliteRow) -> Result<StoredEvent, StoreError> {
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
            kind: must("type")?,
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
            effect: text("effect")?,
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
