//! Policy revisions in Postgres: what each one changed, over content-addressed texts.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::PostgresStore;
use super::error::translate;
use crate::model::proposal::{Proposal, ProposalMeta};
use crate::model::revision::{Digest, FileChange, Manifest, Provenance, RevisionNews};
use crate::model::{EntityUid, RevisionMeta, SourceFile};
use crate::store::value::{
    FilesOf, TEXTS_PIECE, corrupt, digest, file_change, files, in_order, optional_uid, signed,
    unsigned,
};
use crate::store::{PolicyStore, StoreError};

#[async_trait]
impl PolicyStore for PostgresStore {
    async fn revision(&self, number: u64) -> Result<Option<Manifest>, StoreError> {
        // Two reads without a snapshot: rows of a revision never change once they are seen.
        let mut connection = self.readers.acquire().await.map_err(translate)?;
        let Some(meta) = find(&mut connection, number).await? else {
            return Ok(None);
        };
        let files = files(changes(&mut connection, 0, number).await?);
        Ok(Some(Manifest { meta, files }))
    }

    async fn texts(&self, digests: &[Digest]) -> Result<Vec<Arc<str>>, StoreError> {
        let mut found = Vec::with_capacity(digests.len());
        for piece in digests.chunks(TEXTS_PIECE) {
            let hashes: Vec<&[u8]> = piece.iter().map(|d| &d[..]).collect();
            let rows = sqlx::query("SELECT sha256, text FROM policy_texts WHERE sha256 = ANY($1)")
                .bind(&hashes)
                .fetch_all(&self.readers)
                .await
                .map_err(translate)?;
            for row in &rows {
                let text: &str = row.try_get("text").map_err(translate)?;
                let sha256 = digest(row.try_get("sha256").map_err(translate)?)?;
                found.push((sha256, Arc::from(text)));
            }
        }
        in_order(digests, found)
    }

    async fn revisions(&self, before: u64, limit: u32) -> Result<Vec<RevisionMeta>, StoreError> {
        let rows =
            sqlx::query("SELECT * FROM revisions WHERE number < $1 ORDER BY number DESC LIMIT $2")
                .bind(signed(before))
                .bind(i64::from(limit))
                .fetch_all(&self.readers)
                .await
                .map_err(translate)?;
        rows.iter().map(meta).collect()
    }

    async fn proposal(&self, number: u64) -> Result<Option<Proposal<Digest>>, StoreError> {
        super::proposals::find(&self.readers, number).await
    }

    async fn proposals(&self, before: u64, limit: u32) -> Result<Vec<ProposalMeta>, StoreError> {
        super::proposals::list(&self.readers, before, limit).await
    }
}

/// What revision `newest` has different from a known one; `None` if it is that one.
pub(super) async fn news(
    connection: &mut PgConnection,
    newest: u64,
    known: u64,
) -> Result<Option<RevisionNews>, StoreError> {
    if newest == known {
        return Ok(None);
    }
    let Some(meta) = find(connection, newest).await? else {
        return Ok(None);
    };
    // Older than what is known: the database was put back, so what is known is no base.
    let since = if known < newest { known } else { 0 };
    Ok(Some(RevisionNews {
        meta,
        since,
        changes: changes(connection, since, newest).await?,
    }))
}

async fn find(
    connection: &mut PgConnection,
    number: u64,
) -> Result<Option<RevisionMeta>, StoreError> {
    let row = sqlx::query("SELECT * FROM revisions WHERE number = $1")
        .bind(signed(number))
        .fetch_optional(connection)
        .await
        .map_err(translate)?;
    row.as_ref().map(meta).transpose()
}

/// What revision `to` has different from revision `since`, by kind and name.
async fn changes(
    connection: &mut PgConnection,
    since: u64,
    to: u64,
) -> Result<Vec<FileChange<Digest>>, StoreError> {
    let rows = sqlx::query(
        "SELECT DISTINCT ON (kind, name) kind, name, text_sha256 FROM revision_files \
         WHERE revision > $1 AND revision <= $2 ORDER BY kind, name, revision DESC",
    )
    .bind(signed(since))
    .bind(signed(to))
    .fetch_all(connection)
    .await
    .map_err(translate)?;
    rows.iter().map(change).collect()
}

pub(super) fn change(row: &PgRow) -> Result<FileChange<Digest>, StoreError> {
    file_change(
        row.try_get("kind").map_err(translate)?,
        row.try_get("name").map_err(translate)?,
        row.try_get("text_sha256").map_err(translate)?,
    )
}

/// Where the content of a revision or a proposal comes from.
pub(super) fn provenance(row: &PgRow) -> Result<Provenance, StoreError> {
    Ok(Provenance {
        commit: row.try_get("commit_id").map_err(translate)?,
        signature: row.try_get("signature").map_err(translate)?,
    })
}

fn meta(row: &PgRow) -> Result<RevisionMeta, StoreError> {
    let restores: Option<i64> = row.try_get("restores").map_err(translate)?;
    let policies: i64 = row.try_get("policies").map_err(translate)?;
    Ok(RevisionMeta {
        number: unsigned(row.try_get("number").map_err(translate)?)?,
        author: EntityUid {
            ty: row.try_get("author_type").map_err(translate)?,
            id: row.try_get("author_id").map_err(translate)?,
        },
        approver: optional_uid(
            row.try_get("approver_type").map_err(translate)?,
            row.try_get("approver_id").map_err(translate)?,
        )?,
        message: row.try_get("message").map_err(translate)?,
        apply_time: row.try_get("apply_time").map_err(translate)?,
        content_sha256: digest(row.try_get("content_sha256").map_err(translate)?)?,
        gates: row.try_get("gates").map_err(translate)?,
        provenance: provenance(row)?,
        base_epoch: unsigned(row.try_get("base_epoch").map_err(translate)?)?,
        restores: restores.map(unsigned).transpose()?,
        policies: u32::try_from(policies).map_err(|_| corrupt("a number of policies"))?,
    })
}

/// Writes what a revision or a proposal changes, and the texts that are new.
pub(super) async fn insert_files(
    connection: &mut PgConnection,
    log_id: Uuid,
    (of, number): (FilesOf, u64),
    changes: &[FileChange<SourceFile>],
) -> Result<(), StoreError> {
    let insert = match of {
        FilesOf::Revision => {
            "INSERT INTO revision_files (revision, log_id, kind, name, text_sha256) \
             SELECT $1, $2, t.* FROM UNNEST($3::text[], $4::text[], $5::bytea[]) AS t"
        }
        FilesOf::Proposal => {
            "INSERT INTO proposal_files (proposal, log_id, kind, name, text_sha256) \
             SELECT $1, $2, t.* FROM UNNEST($3::text[], $4::text[], $5::bytea[]) AS t"
        }
    };
    for piece in changes.chunks(TEXTS_PIECE) {
        let put: Vec<&SourceFile> = piece.iter().filter_map(|c| c.content.as_ref()).collect();
        sqlx::query(
            "INSERT INTO policy_texts (sha256, log_id, text) \
             SELECT sha256, $1, text FROM UNNEST($2::bytea[], $3::text[]) AS t (sha256, text) \
             ON CONFLICT (sha256) DO NOTHING",
        )
        .bind(log_id)
        .bind(put.iter().map(|f| &f.sha256()[..]).collect::<Vec<_>>())
        .bind(put.iter().map(|f| &**f.text()).collect::<Vec<_>>())
        .execute(&mut *connection)
        .await
        .map_err(translate)?;
        let hashes = piece
            .iter()
            .map(|c| c.content.as_ref().map(|f| &f.sha256()[..]));
        sqlx::query(insert)
            .bind(signed(number))
            .bind(log_id)
            .bind(piece.iter().map(|c| c.kind.as_str()).collect::<Vec<_>>())
            .bind(piece.iter().map(|c| c.name.as_str()).collect::<Vec<_>>())
            .bind(hashes.collect::<Vec<_>>())
            .execute(&mut *connection)
            .await
            .map_err(translate)?;
    }
    Ok(())
}
