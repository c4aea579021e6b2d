//! Policy revisions in Postgres: manifests over content-addressed texts.

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::PostgresStore;
use super::error::translate;
use crate::model::arguments::sha256;
use crate::model::revision::PolicyChunk;
use crate::model::{EntityUid, Revision, RevisionMeta, SourceFile};
use crate::store::value::{corrupt, digest, signed, unsigned};
use crate::store::{PolicyStore, StoreError};

/// Texts per statement: a revision may have 100,000, and a message of Postgres ends at 1 GiB.
const PIECE: usize = 4096;

#[async_trait]
impl PolicyStore for PostgresStore {
    async fn revision(&self, number: u64) -> Result<Option<Revision>, StoreError> {
        // Two reads without a snapshot: rows of a revision never change once they are seen.
        let mut connection = self.readers.acquire().await.map_err(translate)?;
        load(&mut connection, number).await
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
}

/// A revision with its content.
pub(super) async fn load(
    connection: &mut PgConnection,
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
         LEFT JOIN policy_texts ON sha256 = text_sha256 WHERE revision = $1 ORDER BY kind, ordinal",
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
        let file: String = row.try_get("file").map_err(translate)?;
        // A text that is gone is an error here, not a policy less.
        let text: String = row.try_get("text").map_err(translate)?;
        match row.try_get("kind").map_err(translate)? {
            "policy" => revision.chunks.push(PolicyChunk {
                file,
                policy_id: row.try_get("policy_id").map_err(translate)?,
                text,
            }),
            "schema" => revision.schema_files.push(SourceFile { name: file, text }),
            _ => return Err(corrupt("an unknown kind of revision text")),
        }
    }
    Ok(Some(revision))
}

fn meta(row: &PgRow) -> Result<RevisionMeta, StoreError> {
    let policies: i64 = row.try_get("policies").map_err(translate)?;
    Ok(RevisionMeta {
        number: unsigned(row.try_get("number").map_err(translate)?)?,
        author: EntityUid {
            ty: row.try_get("author_type").map_err(translate)?,
            id: row.try_get("author_id").map_err(translate)?,
        },
        message: row.try_get("message").map_err(translate)?,
        apply_time: row.try_get("apply_time").map_err(translate)?,
        content_sha256: digest(row.try_get("content_sha256").map_err(translate)?)?,
        policies: u32::try_from(policies).map_err(|_| corrupt("a number of policies"))?,
    })
}

/// Writes a manifest, and the texts that are new.
pub(super) async fn insert_texts(
    connection: &mut PgConnection,
    log_id: Uuid,
    revision: &Revision,
) -> Result<(), StoreError> {
    let policies = revision.chunks.iter().enumerate().map(|(ordinal, c)| Text {
        kind: "policy",
        ordinal,
        file: &c.file,
        policy_id: c.policy_id.as_deref(),
        text: &c.text,
        hash: sha256(c.text.as_bytes()),
    });
    let schema = revision.schema_files.iter().enumerate();
    let schema = schema.map(|(ordinal, f)| Text {
        kind: "schema",
        ordinal,
        file: &f.name,
        policy_id: None,
        text: &f.text,
        hash: sha256(f.text.as_bytes()),
    });
    let texts: Vec<Text<'_>> = policies.chain(schema).collect();
    for piece in texts.chunks(PIECE) {
        insert_piece(connection, log_id, signed(revision.meta.number), piece).await?;
    }
    Ok(())
}

struct Text<'a> {
    kind: &'static str,
    ordinal: usize,
    file: &'a str,
    policy_id: Option<&'a str>,
    text: &'a str,
    hash: [u8; 32],
}

async fn insert_piece(
    connection: &mut PgConnection,
    log_id: Uuid,
    revision: i64,
    piece: &[Text<'_>],
) -> Result<(), StoreError> {
    let hashes: Vec<&[u8]> = piece.iter().map(|t| &t.hash[..]).collect();
    sqlx::query(
        "INSERT INTO policy_texts (sha256, log_id, text) \
         SELECT sha256, $1, text FROM UNNEST($2::bytea[], $3::text[]) AS t (sha256, text) \
         ON CONFLICT (sha256) DO NOTHING",
    )
    .bind(log_id)
    .bind(&hashes)
    .bind(piece.iter().map(|t| t.text).collect::<Vec<_>>())
    .execute(&mut *connection)
    .await
    .map_err(translate)?;
    sqlx::query(
        "INSERT INTO revision_texts (revision, log_id, kind, ordinal, file, policy_id, text_sha256) \
         SELECT $1, $2, t.* FROM UNNEST($3::text[], $4::bigint[], $5::text[], $6::text[], \
         $7::bytea[]) AS t",
    )
    .bind(revision)
    .bind(log_id)
    .bind(piece.iter().map(|t| t.kind).collect::<Vec<_>>())
    .bind(piece.iter().map(|t| signed(t.ordinal as u64)).collect::<Vec<_>>())
    .bind(piece.iter().map(|t| t.file).collect::<Vec<_>>())
    .bind(piece.iter().map(|t| t.policy_id).collect::<Vec<_>>())
    .bind(&hashes)
    .execute(&mut *connection)
    .await
    .map_err(translate)?;
    Ok(())
}
