//! Proposals in SQLite. The changes are called inside the audit writer's transaction, like
//! those of `changes.rs`.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection, SqlitePool};

use super::policy::{change, insert_files, provenance};
use super::{parse_time, time_text, translate};
use crate::model::proposal::{NewProposal, OPEN_MAX, Proposal, ProposalMeta, ProposalState};
use crate::model::revision::Digest;
use crate::model::{Conflict, EntityUid};
use crate::store::StoreError;
use crate::store::value::{
    FilesOf, corrupt, digest, open, optional_uid, proposal_state, signed, unsigned,
};

type Applied = Result<Result<(), Conflict>, StoreError>;

pub(super) async fn propose(
    tx: &mut SqliteConnection,
    log_id: &str,
    proposal: &NewProposal,
) -> Applied {
    let row = sqlx::query(
        "SELECT (SELECT max(number) FROM proposals), (SELECT max(number) FROM revisions), \
         (SELECT count(*) FROM proposals WHERE state = 'open')",
    )
    .fetch_one(&mut *tx)
    .await
    .map_err(translate)?;
    let number = |column: usize| -> Result<u64, StoreError> {
        let number: Option<i64> = row.try_get(column).map_err(translate)?;
        unsigned(number.unwrap_or(0))
    };
    let meta = &proposal.meta;
    let in_force = number(1)?;
    if in_force != meta.base_revision {
        return Ok(Err(Conflict::Revision { in_force }));
    }
    if number(2)? >= u64::from(OPEN_MAX) {
        return Ok(Err(Conflict::ProposalsOpen));
    }
    if number(0)? + 1 != meta.number {
        return Ok(Err(Conflict::ProposalMoved));
    }
    let authors = serde_json::to_string(&meta.authors)
        .map_err(|e| StoreError::Refused(format!("authors that are no JSON: {e}")))?;
    sqlx::query(
        "INSERT INTO proposals (number, log_id, state, base_revision, authors, message, \
         create_time, content_sha256, policies, commit_id, signature) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(signed(meta.number))
    .bind(log_id)
    .bind(ProposalState::Open.as_str())
    .bind(signed(meta.base_revision))
    .bind(authors)
    .bind(&meta.message)
    .bind(time_text(meta.create_time))
    .bind(&meta.content_sha256[..])
    .bind(meta.policies)
    .bind(&meta.provenance.commit)
    .bind(&meta.provenance.signature)
    .execute(&mut *tx)
    .await
    .map_err(translate)?;
    let of = (FilesOf::Proposal, meta.number);
    insert_files(tx, log_id, of, &proposal.changes).await?;
    Ok(Ok(()))
}

/// Sets what became of an open proposal.
pub(super) async fn decide(
    tx: &mut SqliteConnection,
    number: u64,
    state: ProposalState,
    by: &EntityUid,
) -> Applied {
    let stored: Option<String> =
        sqlx::query_scalar("SELECT state FROM proposals WHERE number = $1")
            .bind(signed(number))
            .fetch_optional(&mut *tx)
            .await
            .map_err(translate)?;
    if let Err(conflict) = open(stored.as_deref())? {
        return Ok(Err(conflict));
    }
    sqlx::query(
        "UPDATE proposals SET state = $1, decided_by_type = $2, decided_by_id = $3 \
         WHERE number = $4",
    )
    .bind(state.as_str())
    .bind(&by.ty)
    .bind(&by.id)
    .bind(signed(number))
    .execute(tx)
    .await
    .map_err(translate)?;
    Ok(Ok(()))
}

pub(super) async fn find(
    readers: &SqlitePool,
    number: u64,
) -> Result<Option<Proposal<Digest>>, StoreError> {
    let row = sqlx::query("SELECT * FROM proposals WHERE number = $1")
        .bind(signed(number))
        .fetch_optional(readers)
        .await
        .map_err(translate)?;
    let Some(row) = row else {
        return Ok(None);
    };
    // Read apart: the files of a proposal never change once it is seen.
    let files = sqlx::query(
        "SELECT kind, name, text_sha256 FROM proposal_files WHERE proposal = $1 \
         ORDER BY kind, name",
    )
    .bind(signed(number))
    .fetch_all(readers)
    .await
    .map_err(translate)?;
    Ok(Some(Proposal {
        meta: meta(&row)?,
        changes: files.iter().map(change).collect::<Result<_, _>>()?,
    }))
}

pub(super) async fn list(
    readers: &SqlitePool,
    before: u64,
    limit: u32,
) -> Result<Vec<ProposalMeta>, StoreError> {
    let rows =
        sqlx::query("SELECT * FROM proposals WHERE number < $1 ORDER BY number DESC LIMIT $2")
            .bind(signed(before))
            .bind(limit)
            .fetch_all(readers)
            .await
            .map_err(translate)?;
    rows.iter().map(meta).collect()
}

fn meta(row: &SqliteRow) -> Result<ProposalMeta, StoreError> {
    let state: &str = row.try_get("state").map_err(translate)?;
    let authors: &str = row.try_get("authors").map_err(translate)?;
    Ok(ProposalMeta {
        number: unsigned(row.try_get("number").map_err(translate)?)?,
        state: proposal_state(state)?,
        base_revision: unsigned(row.try_get("base_revision").map_err(translate)?)?,
        authors: serde_json::from_str(authors).map_err(|_| corrupt("authors that are no list"))?,
        message: row.try_get("message").map_err(translate)?,
        create_time: parse_time(row.try_get("create_time").map_err(translate)?)?,
        content_sha256: digest(row.try_get("content_sha256").map_err(translate)?)?,
        policies: row.try_get("policies").map_err(translate)?,
        decided_by: optional_uid(
            row.try_get("decided_by_type").map_err(translate)?,
            row.try_get("decided_by_id").map_err(translate)?,
        )?,
        provenance: provenance(row)?,
    })
}
