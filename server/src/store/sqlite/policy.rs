//! Policy revisions in SQLite: manifests over content-addressed texts.

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::{SqliteStore, parse_time, translate};
use crate::model::arguments::sha256;
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
        let file = row.try_get("file").map_err(translate)?;
        // A text that is gone is an error here, not a policy less. Asked for as a String,
        // NULL would read as the empty text.
        let text: Option<String> = row.try_get("text").map_err(translate)?;
        let text = text.ok_or_else(|| corrupt("a revision without one of its texts"))?;
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

/// Texts per statement. One statement each would take seconds for 100,000 policies,
/// during which nothing else can be put on record.
const PIECE: usize = 4096;

/// Writes a manifest, and the texts that are new.
pub(super) async fn insert_texts(
    connection: &mut SqliteConnection,
    log_id: &str,
    revision: &Revision,
) -> Result<(), StoreError> {
    let row = |kind: &str, ordinal: usize, file: &str, policy_id: Option<&str>, text: &str| {
        let hash = hex::encode(sha256(text.as_bytes()));
        serde_json::json!([kind, ordinal, file, policy_id, hash, text])
    };
    let policies = revision.chunks.iter().enumerate();
    let policies =
        policies.map(|(n, c)| row("policy", n, &c.file, c.policy_id.as_deref(), &c.text));
    let schema = revision.schema_files.iter().enumerate();
    let schema = schema.map(|(n, f)| row("schema", n, &f.name, None, &f.text));
    let rows: Vec<serde_json::Value> = policies.chain(schema).collect();
    for piece in rows.chunks(PIECE) {
        let json = serde_json::Value::from(piece).to_string();
        sqlx::query(
            "INSERT INTO policy_texts (sha256, log_id, text) \
             SELECT unhex(value ->> 4), $1, value ->> 5 FROM json_each($2) WHERE true \
             ON CONFLICT (sha256) DO NOTHING",
        )
        .bind(log_id)
        .bind(&json)
        .execute(&mut *connection)
        .await
        .map_err(translate)?;
        sqlx::query(
            "INSERT INTO revision_texts (revision, log_id, kind, ordinal, file, policy_id, \
             text_sha256) SELECT $1, $2, value ->> 0, value ->> 1, value ->> 2, value ->> 3, \
             unhex(value ->> 4) FROM json_each($3)",
        )
        .bind(signed(revision.meta.number))
        .bind(log_id)
        .bind(&json)
        .execute(&mut *connection)
        .await
        .map_err(translate)?;
    }
    Ok(())
}
