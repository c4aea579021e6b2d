//! Tiles, checkpoints and the turn to sign, in Postgres.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::PostgresStore;
use super::error::translate;
use super::writer::within;
use crate::store::value::{
    consecutive, corrupt, digest, full_tile, level_of, lifetime_ms, refuse_nul, signed,
    stored_number, unsigned,
};
use crate::store::{
    ProofStore, SigningTurn, StoreError, StoredCheckpoint, StoredTile, TileId, TileLevel,
};

/// The clock that moves within a statement, too: one may have waited for the row's lock.
const CLAIM: &str = "INSERT INTO log_signer AS s (one, log_id, holder, term, expire_time_ms) \
    SELECT 1, log_id, $1, 1, (extract(epoch FROM clock_timestamp()) * 1000)::bigint + $2 \
    FROM log_head ON CONFLICT (one) DO UPDATE SET \
    term = s.term + (s.holder <> excluded.holder)::int, holder = excluded.holder, \
    expire_time_ms = excluded.expire_time_ms WHERE s.holder = excluded.holder \
    OR s.expire_time_ms < (extract(epoch FROM clock_timestamp()) * 1000)::bigint RETURNING term";

/// The turn's row is locked: whoever would take it waits until the checkpoint stands, and
/// whoever lost it finds no row. No larger one can come in between, for it needs the turn.
const PUT: &str = "WITH turn AS MATERIALIZED (SELECT log_id FROM log_signer \
    WHERE holder = $3 AND term = $4 FOR UPDATE) \
    INSERT INTO checkpoints (size, log_id, note) SELECT $1, log_id, $2 FROM turn \
    WHERE NOT EXISTS (SELECT 1 FROM checkpoints WHERE size >= $1) ON CONFLICT DO NOTHING";

#[async_trait]
impl ProofStore for PostgresStore {
    async fn claim_signing(
        &self,
        holder: Uuid,
        lifetime: Duration,
    ) -> Result<Option<SigningTurn>, StoreError> {
        let mut lease = self.writer.lease().await?;
        let claim = sqlx::query_scalar(CLAIM)
            .bind(holder)
            .bind(lifetime_ms(lifetime)?)
            .fetch_optional(lease.start()?);
        let term: Option<i64> = within(claim).await.map_err(translate)?;
        lease.done();
        let term = term.map(unsigned).transpose()?;
        Ok(term.map(|term| SigningTurn { holder, term }))
    }

    async fn release_signing(&self, turn: SigningTurn) -> Result<(), StoreError> {
        let mut lease = self.writer.lease().await?;
        let sql = "UPDATE log_signer SET expire_time_ms = 0 WHERE holder = $1 AND term = $2";
        let release = sqlx::query(sql)
            .bind(turn.holder)
            .bind(stored_number(turn.term)?)
            .execute(lease.start()?);
        within(release).await.map_err(translate)?;
        lease.done();
        Ok(())
    }

    async fn put_checkpoint(
        &self,
        checkpoint: &StoredCheckpoint,
        turn: SigningTurn,
    ) -> Result<bool, StoreError> {
        refuse_nul([&checkpoint.note])?;
        let mut lease = self.writer.lease().await?;
        let insert = sqlx::query(PUT)
            .bind(stored_number(checkpoint.size)?)
            .bind(&checkpoint.note)
            .bind(turn.holder)
            .bind(stored_number(turn.term)?)
            .execute(lease.start()?);
        let done = within(insert).await.map_err(translate)?;
        lease.done();
        drop(lease);
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
            .bind(event_id)
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
        let level = |row: &PgRow| {
            Ok(TileLevel {
                level: level_of(row.try_get(0).map_err(translate)?)?,
                count: unsigned(row.try_get(1).map_err(translate)?)?,
                end: unsigned(row.try_get(2).map_err(translate)?)?,
            })
        };
        rows.iter().map(level).collect()
    }

    async fn tiles(&self, ids: &[TileId]) -> Result<Vec<StoredTile>, StoreError> {
        let levels: Vec<i64> = ids.iter().map(|id| i64::from(id.level)).collect();
        let numbers: Vec<i64> = ids.iter().map(|id| signed(id.number)).collect();
        let sql = "SELECT t.level, t.number, t.root, t.hashes FROM log_tiles t \
                   JOIN unnest($1::bigint[], $2::bigint[]) AS asked (level, number) \
                   ON t.level = asked.level AND t.number = asked.number";
        let rows = sqlx::query(sql)
            .bind(levels)
            .bind(numbers)
            .fetch_all(&self.readers)
            .await
            .map_err(translate)?;
        let tile = |row: &PgRow| {
            full_tile(
                row.try_get(0).map_err(translate)?,
                row.try_get(1).map_err(translate)?,
                row.try_get(2).map_err(translate)?,
                row.try_get(3).map_err(translate)?,
            )
        };
        rows.iter().map(tile).collect()
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
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await
            .map_err(translate)?;
        consecutive(first, rows.iter().map(numbered), |root| digest(&root))
    }

    async fn put_tiles(&self, tiles: &[StoredTile]) -> Result<(), StoreError> {
        let levels: Vec<i64> = tiles.iter().map(|t| i64::from(t.id.level)).collect();
        let numbers: Vec<i64> = tiles.iter().map(|t| signed(t.id.number)).collect();
        let roots: Vec<&[u8]> = tiles.iter().map(|t| &t.root[..]).collect();
        let hashes: Vec<&[u8]> = tiles.iter().map(|t| t.hashes.as_flattened()).collect();
        let mut lease = self.writer.lease().await?;
        let sql = "INSERT INTO log_tiles (log_id, level, number, root, hashes) \
                   SELECT log_head.log_id, t.* FROM log_head, \
                   unnest($1::bigint[], $2::bigint[], $3::bytea[], $4::bytea[]) AS t \
                   ON CONFLICT (level, number) DO NOTHING";
        let insert = sqlx::query(sql)
            .bind(levels)
            .bind(numbers)
            .bind(roots)
            .bind(hashes)
            .execute(lease.start()?);
        within(insert).await.map_err(translate)?;
        lease.done();
        Ok(())
    }

    async fn leaf_hashes(&self, first: u64, limit: u32) -> Result<Vec<[u8; 32]>, StoreError> {
        let sql = "SELECT sequence, leaf_hash FROM audit_events WHERE sequence >= $1 \
                   ORDER BY sequence LIMIT $2";
        let rows = sqlx::query(sql)
            .bind(signed(first))
            .bind(i64::from(limit))
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
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await
            .map_err(translate)?;
        consecutive(first, rows.iter().map(numbered), Ok)
    }
}

fn numbered(row: &PgRow) -> Result<(i64, Vec<u8>), StoreError> {
    let number = row.try_get(0).map_err(translate)?;
    Ok((number, row.try_get(1).map_err(translate)?))
}
