//! Issued certificates in SQLite.

use async_trait::async_trait;
use sqlx::Row as _;
use time::OffsetDateTime;

use super::{SqliteStore, time_text, translate};
use crate::store::value::{no_head, unsigned};
use crate::store::{CertificateStore, RevokedCertificates, StoreError};

#[async_trait]
impl CertificateStore for SqliteStore {
    async fn revoked_certificates(
        &self,
        now: OffsetDateTime,
        limit: u32,
    ) -> Result<RevokedCertificates, StoreError> {
        let mut tx = self.readers.begin().await.map_err(translate)?;
        let head = sqlx::query("SELECT size FROM log_head WHERE one = 1")
            .fetch_optional(&mut *tx)
            .await
            .map_err(translate)?
            .ok_or_else(no_head)?;
        let serials = sqlx::query_scalar(
            "SELECT c.serial FROM certificates c JOIN instances i ON i.id = c.instance_id \
             LEFT JOIN agents a ON a.id = i.principal_id \
             WHERE c.not_after >= $1 AND (i.state <> 'active' OR a.state IN ('revoked', 'banned')) \
             ORDER BY c.serial LIMIT $2",
        )
        .bind(time_text(now))
        .bind(i64::from(limit))
        .fetch_all(&mut *tx)
        .await
        .map_err(translate)?;
        Ok(RevokedCertificates {
            size: unsigned(head.try_get("size").map_err(translate)?)?,
            serials,
        })
    }

    async fn forget_certificates(&self, time: OffsetDateTime) -> Result<u64, StoreError> {
        let done = sqlx::query("DELETE FROM certificates WHERE not_after < $1")
            .bind(time_text(time))
            .execute(&mut *self.writer().await?)
            .await
            .map_err(translate)?;
        Ok(done.rows_affected())
    }
}
