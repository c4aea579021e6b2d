//! Policy revisions in SQLite: manifests over content-addressed texts.

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::{SqliteStore, parse_time, translate};
use crate::model::revision::PolicyChunk;
use crate::model::{EntityUid, Revision, RevisionMeta, SourceFile};
use crate::store::value::{corrupt, digest, signed, unsigned};
use crate::store::{PolicyStore, StoreError};

#[async_trait]
impl PolicyStore for SqliteStore {
    async fn revision(&self, number: u64) -> Result<Option<Revision>, StoreError> {
        let mut tx = self.readers.begin().await.map_err(translate)?;
        load(&mut tx, number).await
    }

    async fn revisions(&self, before: u64, limit: u32) -> Result<Vec<RevisionMeta>, StoreError> {
        let rows =
            sqlx::query("SELECT * FROM revisions WHERE number < $1 ORDER BY number DESC LIMIT $2")
                .bind(signed(before))
                .bind(limit)
                .fetch_all(&self.readers)
                .await
                .map_err(translate)?;
        rows.iter().map(meta).collect()
    }
}

/// A revision with its content.
pub(super) async fn load(
    connection: &mut SqliteConnection,
    number: u64,
) -> Result<Option<Revision>, StoreError> {
    let Some(row) = sqlx::query("SELECT * FROM revisions WHERE number = $1")
        .bind(signed(number))
        .fetch_optional(&mut *connection)
        .await
        .map_err(translate)?
    else {
        return Ok(None);
    };
    let texts = sqlx::query(
        "SELECT kind, file, policy_id, text FROM revision_texts \
         JOIN policy_texts ON sha256 = text_sha256 WHERE revision = $1 ORDER BY kind, ordinal",
    )
    .bind(signed(number))
    .fetch_all(&mut *connection)
    .await
    .map_err(translate)?;
    let mut revision = Revision {
        meta: meta(&row)?,
        schema_files: Vec::new(),
        chunks: Vec::new(),
    };
    for row in &texts {
        let (file, text) = (
            row.try_get("file").map_err(translate)?,
            row.try_get("text").map_err(translate)?,
        );
        match row.try_get("kind").map_err(translate)? {
            "policy" => {
                let policy_id = row.try_get("policy_id").map_err(translate)?;
                revision.chunks.push(PolicyChunk {
                    file,
                    policy_id,
                    text,
                });
            }
            "schema" => revision.schema_files.push(SourceFile { name: file, text }),
            _ => return Err(corrupt("an unknown kind of revision text")),
        }
    }
    Ok(Some(revision))
}

fn meta(row: &SqliteRow) -> Result<RevisionMeta, StoreError> {
    Ok(RevisionMeta {
        number: unsigned(row.try_get("number").map_err(translate)?)?,
        author: EntityUid {
            ty: row.try_get("author_type").map_err(translate)?,
            id: row.try_get("author_id").map_err(translate)?,
        },
        message: row.try_get("message").map_err(translate)?,
        apply_time: parse_time(row.try_get("apply_time").map_err(translate)?)?,
        content_sha256: digest(row.try_get("content_sha256").map_err(translate)?)?,
        policies: row.try_get("policies").map_err(translate)?,
    })
}
