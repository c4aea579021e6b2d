//! Policy revisions in SQLite: what each one changed, over content-addressed texts.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::{SqliteStore, parse_time, translate};
use crate::model::proposal::{Proposal, ProposalMeta};
use crate::model::revision::{Digest, FileChange, Manifest, Provenance, RevisionNews};
use crate::model::{EntityUid, RevisionMeta, SourceFile};
use crate::store::value::{
    FilesOf, TEXTS_PIECE, digest, file_change, files, in_order, optional_uid, signed, unsigned,
};
use crate::store::{PolicyStore, StoreError};

#[async_trait]
impl PolicyStore for SqliteStore {
    async fn revision(&self, number: u64) -> Result<Option<Manifest>, StoreError> {
        let mut tx = self.readers.begin().await.map_err(translate)?;
        let Some(meta) = find(&mut tx, number).await? else {
            return Ok(None);
        };
        let files = files(changes(&mut tx, 0, number).await?);
        Ok(Some(Manifest { meta, files }))
    }

    async fn texts(&self, digests: &[Digest]) -> Result<Vec<Arc<str>>, StoreError> {
        let mut found = Vec::with_capacity(digests.len());
        for piece in digests.chunks(TEXTS_PIECE) {
            let hex: Vec<String> = piece.iter().map(hex::encode).collect();
            let rows = sqlx::query(
                "SELECT sha256, text FROM policy_texts \
                 WHERE sha256 IN (SELECT unhex(value) FROM json_each($1))",
            )
            .bind(serde_json::Value::from(hex).to_string())
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
                .bind(limit)
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

/// What the revision in force has different from a known one; `None` if it is that one.
pub(super) async fn news(
    connection: &mut SqliteConnection,
    known: u64,
) -> Result<Option<RevisionNews>, StoreError> {
    let newest: Option<i64> = sqlx::query_scalar("SELECT max(number) FROM revisions")
        .fetch_one(&mut *connection)
        .await
        .map_err(translate)?;
    let newest = unsigned(newest.unwrap_or(0))?;
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
    connection: &mut SqliteConnection,
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
    connection: &mut SqliteConnection,
    since: u64,
    to: u64,
) -> Result<Vec<FileChange<Digest>>, StoreError> {
    // Beside max(), a bare column is that of the row with the maximum (SQLite's lang_select).
    let rows = sqlx::query(
        "SELECT kind, name, text_sha256, max(revision) FROM revision_files \
         WHERE revision > $1 AND revision <= $2 GROUP BY kind, name ORDER BY kind, name",
    )
    .bind(signed(since))
    .bind(signed(to))
    .fetch_all(connection)
    .await
    .map_err(translate)?;
    rows.iter().map(change).collect()
}

pub(super) fn change(row: &SqliteRow) -> Result<FileChange<Digest>, StoreError> {
    file_change(
        row.try_get("kind").map_err(translate)?,
        row.try_get("name").map_err(translate)?,
        row.try_get("text_sha256").map_err(translate)?,
    )
}

/// Where the content of a revision or a proposal comes from.
pub(super) fn provenance(row: &SqliteRow) -> Result<Provenance, StoreError> {
    Ok(Provenance {
        commit: row.try_get("commit_id").map_err(translate)?,
        signature: row.try_get("signature").map_err(translate)?,
    })
}

fn meta(row: &SqliteRow) -> Result<RevisionMeta, StoreError> {
    let restores: Option<i64> = row.try_get("restores").map_err(translate)?;
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
        apply_time: parse_time(row.try_get("apply_time").map_err(translate)?)?,
        content_sha256: digest(row.try_get("content_sha256").map_err(translate)?)?,
        gates: row.try_get("gates").map_err(translate)?,
        provenance: provenance(row)?,
        base_epoch: unsigned(row.try_get("base_epoch").map_err(translate)?)?,
        restores: restores.map(unsigned).transpose()?,
        policies: row.try_get("policies").map_err(translate)?,
    })
}

/// Rows of the manifest per statement.
const PIECE: usize = 4096;

/// Writes what a revision or a proposal changes, and the texts that are new.
pub(super) async fn insert_files(
    connection: &mut SqliteConnection,
    log_id: &str,
    (of, number): (FilesOf, u64),
    changes: &[FileChange<SourceFile>],
) -> Result<(), StoreError> {
    let put = changes.iter().filter_map(|c| c.content.as_ref());
    for file in put {
        sqlx::query(
            "INSERT INTO policy_texts (sha256, log_id, text) VALUES ($1, $2, $3) \
             ON CONFLICT (sha256) DO NOTHING",
        )
        .bind(&file.sha256()[..])
        .bind(log_id)
        .bind(&**file.text())
        .execute(&mut *connection)
        .await
        .map_err(translate)?;
    }
    let insert = match of {
        FilesOf::Revision => {
            "INSERT INTO revision_files (revision, log_id, kind, name, text_sha256) \
             SELECT $1, $2, value ->> 0, value ->> 1, unhex(value ->> 2) FROM json_each($3)"
        }
        FilesOf::Proposal => {
            "INSERT INTO proposal_files (proposal, log_id, kind, name, text_sha256) \
             SELECT $1, $2, value ->> 0, value ->> 1, unhex(value ->> 2) FROM json_each($3)"
        }
    };
    for piece in changes.chunks(PIECE) {
        let row = |change: &FileChange<_>| {
            let sha256 = change.content.as_ref().map(sha256_hex);
            serde_json::json!([change.kind.as_str(), change.name, sha256])
        };
        let rows: Vec<serde_json::Value> = piece.iter().map(row).collect();
        sqlx::query(insert)
            .bind(signed(number))
            .bind(log_id)
            .bind(serde_json::Value::from(rows).to_string())
            .execute(&mut *connection)
            .await
            .map_err(translate)?;
    }
    Ok(())
}

fn sha256_hex(file: &crate::model::SourceFile) -> String {
    hex::encode(file.sha256())
}
