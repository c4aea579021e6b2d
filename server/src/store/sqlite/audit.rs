//! The log in SQLite.

use std::fmt::Write as _;
use std::sync::LazyLock;

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row as _, Sqlite, SqliteConnection, Transaction};
use uuid::Uuid;

use super::{
    SqliteStore, corrupt, digest, list_text, parse_list, parse_time, parse_uuid, signed, time_text,
    translate, unsigned,
};
use crate::model::event::Inputs;
use crate::model::{Change, Columns, Conflict};
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

fn inserts(head: &str, columns: usize) -> Vec<String> {
    let row = |first: usize| {
        let mut text = String::from("(");
        for i in 0..columns {
            let comma = if i == 0 { "" } else { "," };
            let _ = write!(text, "{comma}${}", first + i + 1);
        }
        text + ")"
    };
    (0..=POWERS)
        .map(|power| {
            let rows: Vec<String> = (0..1usize << power).map(|r| row(r * columns)).collect();
            format!("{head}{}", rows.join(","))
        })
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

pub(super) struct SqliteTx {
    pub(super) tx: Transaction<'static, Sqlite>,
    pub(super) head: LogHead,
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
        self.savepoint("SAVEPOINT change").await?;
        match super::changes::apply(&mut self.tx, self.head.log_id, change, epoch).await {
            Ok(Ok(())) => {
                self.savepoint("RELEASE change").await?;
                Ok(Ok(()))
            }
            Ok(Err(conflict)) => {
                self.savepoint("ROLLBACK TO change").await?;
                self.savepoint("RELEASE change").await?;
                Ok(Err(conflict))
            }
            Err(error) => Err(error),
        }
    }

    async fn insert(
        &mut self,
        first_sequence: u64,
        events: &[PreparedEvent],
    ) -> Result<(), StoreError> {
        let log_id = self.head.log_id.to_string();
        let numbered: Vec<(i64, &PreparedEvent)> =
            (signed(first_sequence)..).zip(events.iter()).collect();
        for (power, piece) in powers_of_two(&numbered) {
            let mut query = sqlx::query(INSERT_EVENTS[power].as_str());
            for (sequence, event) in piece {
                query = bind_event(query, *sequence, &log_id, event);
            }
            query.execute(&mut *self.tx).await.map_err(translate)?;
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
                    .bind(&log_id)
                    .bind(&inputs.salt[..])
                    .bind(&inputs.json);
            }
            query.execute(&mut *self.tx).await.map_err(translate)?;
        }
        Ok(())
    }

    async fn commit(mut self: Box<Self>, head: &LogHead) -> Result<(), StoreError> {
        sqlx::query("UPDATE log_head SET size = $1, frontier = $2, epoch = $3 WHERE one = 1")
            .bind(signed(head.size))
            .bind(head.frontier.concat())
            .bind(signed(head.epoch))
            .execute(&mut *self.tx)
            .await
            .map_err(translate)?;
        self.tx
            .commit()
            .await
            .map_err(|e| StoreError::CommitUnknown(e.to_string()))
    }
}

impl SqliteTx {
    async fn savepoint(&mut self, sql: &'static str) -> Result<(), StoreError> {
        sqlx::query(sql)
            .execute(&mut *self.tx)
            .await
            .map(drop)
            .map_err(translate)
    }
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
        .ok_or_else(|| corrupt("no head row: run `zta migrate`"))?;
    let frontier: Vec<u8> = row.try_get(2).map_err(translate)?;
    if frontier.len() % 32 != 0 {
        return Err(corrupt("a frontier that is not a list of hashes"));
    }
    Ok(LogHead {
        log_id: parse_uuid(row.try_get(0).map_err(translate)?)?,
        size: unsigned(row.try_get(1).map_err(translate)?)?,
        frontier: frontier
            .chunks_exact(32)
            .map(digest)
            .collect::<Result<_, _>>()?,
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
        let mut tx = self
            .writer
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(translate)?;
        let head = read_head(&mut tx).await?;
        Ok(Box::new(SqliteTx { tx, head }))
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
        let (compare, order) = if descending {
            ("<", "DESC")
        } else {
            (">", "ASC")
        };
        let sql = format!(
            "SELECT {EVENT_COLUMNS}, NULL AS salt, NULL AS inputs FROM audit_events \
             WHERE ($1 IS NULL OR sequence {compare} $1) \
             AND ($2 IS NULL OR type IN (SELECT value FROM json_each($2))) \
             AND ($3 IS NULL OR actor_id = $3) AND ($4 IS NULL OR effect = $4) \
             AND ($5 IS NULL OR time >= $5) AND ($6 IS NULL OR time < $6) \
             ORDER BY sequence {order} LIMIT $7"
        );
        let types = (!filter.types.is_empty()).then(|| list_text(&filter.types));
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(after.map(signed))
            .bind(types)
            .bind(&filter.actor_id)
            .bind(filter.effect.map(crate::model::Effect::as_str))
            .bind(filter.start_time.map(time_text))
            .bind(filter.end_time.map(time_text))
            .bind(limit)
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
        let row = sqlx::query(
            "INSERT INTO checkpoints (size, log_id, note) SELECT $1, log_id, $2 FROM log_head \
             WHERE true ON CONFLICT (size) DO UPDATE SET note = note RETURNING note",
        )
        .bind(signed(checkpoint.size))
        .bind(&checkpoint.note)
        .fetch_one(&self.writer)
        .await
        .map_err(translate)?;
        let stored: String = row.try_get(0).map_err(translate)?;
        if stored == checkpoint.note {
            return Ok(());
        }
        Err(corrupt("two different checkpoints of one size"))
    }
}

fn event(row: &SqliteRow) -> Result<StoredEvent, StoreError> {
    let text = |name: &str| row.try_get::<Option<String>, _>(name).map_err(translate);
    let must = |name: &str| row.try_get::<String, _>(name).map_err(translate);
    let bytes = |name: &str| row.try_get::<Vec<u8>, _>(name).map_err(translate);
    let salt: Option<Vec<u8>> = row.try_get("salt").map_err(translate)?;
    let inputs: Option<Vec<u8>> = row.try_get("inputs").map_err(translate)?;
    let inputs = match (salt, inputs) {
        (Some(salt), Some(json)) => {
            let salt = salt
                .as_slice()
                .try_into()
                .map_err(|_| corrupt("a salt of another length"))?;
            Some(Inputs { salt, json })
        }
        _ => None,
    };
    Ok(StoredEvent {
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
