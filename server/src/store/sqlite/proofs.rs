//! Tiles, checkpoints and the turn to sign, in SQLite.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row as _, Sqlite};
use uuid::Uuid;

use super::{SqliteStore, translate};
use crate::store::value::{
    consecutive, corrupt, digest, full_tile, level_of, lifetime_ms, refuse_nul, signed,
    stored_number, unsigned,
};
use crate::store::{
    ProofStore, SigningTurn, StoreError, StoredCheckpoint, StoredTile, TileId, TileLevel,
};

/// The database's clock in milliseconds.
const CLAIM: &str = "INSERT INTO log_signer (one, log_id, holder, term, expire_time_ms) \
    SELECT 1, log_id, $1, 1, CAST(unixepoch('subsec') * 1000 AS INTEGER) + $2 FROM log_head \
    WHERE true ON CONFLICT (one) DO UPDATE SET \
    term = term + (holder <> excluded.holder), holder = excluded.holder, \
    expire_time_ms = excluded.expire_time_ms \
    WHERE holder = excluded.holder \
    OR expire_time_ms < CAST(unixepoch('subsec') * 1000 AS INTEGER) RETURNING term";

#[async_trait]
impl ProofStore for SqliteStore {
    async fn claim_signing(
        &self,
        holder: Uuid,
        lifetime: Duration,
    ) -> Result<Option<SigningTurn>, StoreError> {
        let term: Option<i64> = sqlx::query_scalar(CLAIM)
            .bind(holder.to_string())
            .bind(lifetime_ms(lifetime)?)
            .fetch_optional(&mut *self.writer().await?)
            .await
            .map_err(translate)?;
        let term = term.map(unsigned).transpose()?;
        Ok(term.map(|term| SigningTurn { holder, term }))
    }

    async fn release_signing(&self, turn: SigningTurn) -> Result<(), StoreError> {
        sqlx::query("UPDATE log_signer SET expire_time_ms = 0 WHERE holder = $1 AND term = $2")
            .bind(turn.holder.to_string())
            .bind(stored_number(turn.term)?)
            .execute(&mut *self.writer().await?)
            .await
            .map(drop)
            .map_err(translate)
    }

    async fn put_checkpoint(
        &self,
        checkpoint: &StoredCheckpoint,
        turn: SigningTurn,
    ) -> Result<bool, StoreError> {
        refuse_nul([&checkpoint.note])?;
        // One statement, and the one writer: nothing comes between the look and the row.
        let done = sqlx::query(
            "INSERT INTO checkpoints (size, log_id, note) SELECT $1, log_id, $2 FROM log_signer \
             WHERE holder = $3 AND term = $4 \
             AND NOT EXISTS (SELECT 1 FROM checkpoints WHERE size >= $1)",
        )
        .bind(stored_number(checkpoint.size)?)
        .bind(&checkpoint.note)
        .bind(turn.holder.to_string())
        .bind(stored_number(turn.term)?)
        .execute(&mut *self.writer().await?)
        .await
        .map_err(translate)?;
        // What is published must not be gone after a crash.
        self.files.require()?;
        if done.rows_affected() == 1 {
            return Ok(true);
        }
        match self.checkpoint(checkpoint.size).await? {
            None => Ok(false),
            Some(stored) if stored == *checkpoint => Ok(true),
            Some(_) => Err(corrupt("two different checkpoints of one size")),
        }
    }

    async fn checkpoint(&self, size: u64) -> Result<Option<StoredCheckpoint>, StoreError> {
        let note = sqlx::query_scalar("SELECT note FROM checkpoints WHERE size = $1")
            .bind(signed(size))
            .fetch_optional(&self.readers)
            .await
            .map_err(translate)?;
        Ok(note.map(|note| StoredCheckpoint { size, note }))
    }

    async fn place(&self, event_id: Uuid) -> Result<Option<u64>, StoreError> {
        let place = sqlx::query_scalar("SELECT sequence FROM audit_events WHERE event_id = $1")
            .bind(event_id.to_string())
            .fetch_optional(&self.readers)
            .await
            .map_err(translate)?;
        place.map(unsigned).transpose()
    }

    async fn tile_levels(&self) -> Result<Vec<TileLevel>, StoreError> {
        let sql = "SELECT level, count(*), max(number) + 1 FROM log_tiles GROUP BY level \
                   ORDER BY level";
        let rows = sqlx::query(sql)
            .fetch_all(&self.readers)
            .await
            .map_err(translate)?;
        let level = |row: &SqliteRow| {
            Ok(TileLevel {
                level: level_of(row.try_get(0).map_err(translate)?)?,
                count: unsigned(row.try_get(1).map_err(translate)?)?,
                end: unsigned(row.try_get(2).map_err(translate)?)?,
            })
        };
        rows.iter().map(level).collect()
    }

    async fn tiles(&self, ids: &[TileId]) -> Result<Vec<StoredTile>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        // Joined from the names on: of `(level, number) IN (…)` SQLite makes a walk through all.
        let mut sql: QueryBuilder<Sqlite> =
            QueryBuilder::new("SELECT t.level, t.number, t.root, t.hashes FROM (VALUES ");
        let mut rows = sql.separated(", ");
        for id in ids {
            rows.push("(")
                .push_bind_unseparated(i64::from(id.level))
                .push_unseparated(", ")
                .push_bind_unseparated(signed(id.number))
                .push_unseparated(")");
        }
        sql.push(
            ") AS asked CROSS JOIN log_tiles t \
             ON t.level = asked.column1 AND t.number = asked.column2",
        );
        let rows = sql.build().fetch_all(&self.readers).await;
        let tile = |row: &SqliteRow| {
            full_tile(
                row.try_get(0).map_err(translate)?,
                row.try_get(1).map_err(translate)?,
                row.try_get(2).map_err(translate)?,
                row.try_get(3).map_err(translate)?,
            )
        };
        rows.map_err(translate)?.iter().map(tile).collect()
    }

    async fn tile_roots(
        &self,
        level: u8,
        first: u64,
        limit: u32,
    ) -> Result<Vec<[u8; 32]>, StoreError> {
        let sql = "SELECT number, root FROM log_tiles WHERE level = $1 AND number >= $2 \
                   ORDER BY number LIMIT $3";
        let rows = sqlx::query(sql)
            .bind(i64::from(level))
            .bind(signed(first))
            .bind(limit)
            .fetch_all(&self.readers)
            .await
            .map_err(translate)?;
        consecutive(first, rows.iter().map(numbered), |root| digest(&root))
    }

    async fn put_tiles(&self, tiles: &[StoredTile]) -> Result<(), StoreError> {
        if tiles.is_empty() {
            return Ok(());
        }
        let mut sql: QueryBuilder<Sqlite> = QueryBuilder::new(
            "INSERT INTO log_tiles (log_id, level, number, root, hashes) \
             SELECT log_id, column1, column2, column3, column4 FROM log_head, (",
        );
        sql.push_values(tiles, |mut row, tile| {
            row.push_bind(i64::from(tile.id.level))
                .push_bind(signed(tile.id.number))
                .push_bind(tile.root.to_vec())
                .push_bind(tile.hashes.as_flattened().to_vec());
        });
        sql.push(") WHERE true ON CONFLICT (level, number) DO NOTHING");
        let done = sql.build().execute(&mut *self.writer().await?).await;
        done.map(drop).map_err(translate)
    }

    async fn leaf_hashes(&self, first: u64, limit: u32) -> Result<Vec<[u8; 32]>, StoreError> {
        let sql = "SELECT sequence, leaf_hash FROM audit_events WHERE sequence >= $1 \
                   ORDER BY sequence LIMIT $2";
        let rows = sqlx::query(sql)
            .bind(signed(first))
            .bind(limit)
            .fetch_all(&self.readers)
            .await
            .map_err(translate)?;
        consecutive(first, rows.iter().map(numbered), |hash| digest(&hash))
    }

    async fn leaves(&self, first: u64, limit: u32) -> Result<Vec<Vec<u8>>, StoreError> {
        let sql = "SELECT sequence, leaf FROM audit_events WHERE sequence >= $1 \
                   ORDER BY sequence LIMIT $2";
        let rows = sqlx::query(sql)
            .bind(signed(first))
            .bind(limit)
            .fetch_all(&self.readers)
            .await
            .map_err(translate)?;
        consecutive(first, rows.iter().map(numbered), Ok)
    }
}

fn numbered(row: &SqliteRow) -> Result<(i64, Vec<u8>), StoreError> {
    let number = row.try_get(0).map_err(translate)?;
    Ok((number, row.try_get(1).map_err(translate)?))
}
