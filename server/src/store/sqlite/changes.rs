//! Changes of the registry and of the policies in SQLite. Called inside a savepoint of
//! the audit writer's transaction, so a conflict leaves nothing behind.

use sqlx::{Row as _, SqliteConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{instances, list_text, parse_time, parties, time_text, translate, users};
use crate::model::change::{CertificateRecord, JoinTokenRecord, Renewal};
use crate::model::proposal::ProposalState;
use crate::model::revision::NewRevision;
use crate::model::{AgentRecord, AgentState, Change, Conflict, Instance};
use crate::store::StoreError;
use crate::store::value::{FilesOf, corrupt, signed, tags_text, unsigned};

pub(super) type Applied = Result<Result<(), Conflict>, StoreError>;

pub(super) async fn apply(
    tx: &mut SqliteConnection,
    log_id: Uuid,
    change: &Change,
    epoch: u64,
) -> Applied {
    let at = At {
        log_id: log_id.to_string(),
        epoch: signed(epoch),
    };
    dispatch(tx, &at, change).await
}

async fn dispatch(tx: &mut SqliteConnection, at: &At, change: &Change) -> Applied {
    match change {
        Change::RegisterAgent(agent) => register_agent(tx, at, agent).await,
        Change::RegisterUser(user, instance, certificate) => {
            let done = users::register(tx, at, user, Some(instance)).await?;
            certified(tx, at, done, certificate).await
        }
        Change::InviteUser { user, token } => users::invite(tx, at, user.as_ref(), token).await,
        Change::AddUserKey(instance, certificate) => {
            let done = users::add_key(tx, at, instance).await?;
            certified(tx, at, done, certificate).await
        }
        Change::RevokeUserKeys {
            user_id,
            instance_id,
            tokens,
        } => users::revoke_keys(tx, at, user_id, *instance_id, tokens).await,
        Change::CreateJoinToken(token) => create_join_token(tx, at, token).await,
        Change::Enroll {
            token_id,
            instance,
            certificate,
            now,
        } => {
            let done = enroll(tx, at, token_id, instance, *now).await?;
            certified(tx, at, done, certificate).await
        }
        Change::UpdateAgent(agent) => update_agent(tx, at, agent).await,
        Change::Renew(renewal) => renew(tx, at, renewal).await,
        Change::UseGeneration(used) => instances::mark_used(tx, *used).await,
        Change::LockInstance {
            instance_id,
            presented,
        } => instances::lock(tx, at, *instance_id, *presented).await,
        Change::SetInstanceState {
            agent_id,
            instance_id,
            from,
            to,
        } => instances::set_state(tx, at, (agent_id, *instance_id), from, *to).await,
        Change::SetAgentState { agent_id, from, to } => {
            set_agent_state(tx, at, agent_id, from, *to).await
        }
        Change::ApplyRevision(revision) => apply_revision(tx, at, revision).await,
        Change::Propose(proposal) => super::proposals::propose(tx, &at.log_id, proposal).await,
        Change::Approve { proposal, revision } => approve(tx, at, *proposal, revision).await,
        Change::Reject { proposal, by } => {
            super::proposals::decide(tx, *proposal, ProposalState::Rejected, by).await
        }
        Change::Prune { size, event_id } => super::retention::note(tx, at, *size, *event_id).await,
        Change::RevokeTokens(revocation) => super::revocations::revoke(tx, at, revocation).await,
        Change::PutEntities(entities) => {
            super::entities::put(tx, &at.log_id, at.epoch, entities).await?;
            Ok(Ok(()))
        }
        Change::DeleteEntities(uids) => {
            super::entities::delete(tx, &at.log_id, at.epoch, uids).await?;
            Ok(Ok(()))
        }
        Change::PrepareAuthority { signing, next } => {
            super::authorities::prepare(tx, at, signing, next).await
        }
        Change::ActivateAuthority { id, time } => {
            super::authorities::activate(tx, at, id, *time).await
        }
        Change::RetireAuthority { id, time } => super::authorities::retire(tx, at, id, *time).await,
    }
}

/// Which log, and the epoch that changed rows get.
pub(super) struct At {
    pub(super) log_id: String,
    pub(super) epoch: i64,
}

async fn register_agent(tx: &mut SqliteConnection, at: &At, agent: &AgentRecord) -> Applied {
    let profile = &agent.profile;
    let done = sqlx::query(
        "INSERT INTO agents (id, log_id, name, owner, roles, state, create_time, epoch, zone, \
         attributes, audiences, certificate_lifetime_max_s, token_lifetime_max_s, \
         delegation_depth_max) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) \
         ON CONFLICT DO NOTHING",
    )
    .bind(&agent.id)
    .bind(&at.log_id)
    .bind(&agent.name)
    .bind(&profile.owner)
    .bind(list_text(&profile.roles))
    .bind(agent.state.as_str())
    .bind(time_text(agent.create_time))
    .bind(at.epoch)
    .bind(&profile.zone)
    .bind(tags_text(&profile.attributes)?)
    .bind(list_text(&profile.audiences))
    .bind(profile.certificate_lifetime_max_s)
    .bind(profile.token_lifetime_max_s)
    .bind(profile.delegation_depth_max)
    .execute(&mut *tx)
    .await
    .map_err(translate)?;
    match one_row(done.rows_affected(), Conflict::AgentExists) {
        Ok(()) => parties::of_agent(tx, at, agent).await.map(Ok),
        Err(conflict) => Ok(Err(conflict)),
    }
}

async fn update_agent(tx: &mut SqliteConnection, at: &At, agent: &AgentRecord) -> Applied {
    match agent_state(tx, &agent.id).await? {
        None => return Ok(Err(Conflict::AgentNotFound)),
        Some(AgentState::Banned) => return Ok(Err(Conflict::AgentState(AgentState::Banned))),
        Some(_) => {}
    }
    let profile = &agent.profile;
    sqlx::query(
        "UPDATE agents SET epoch = $2, owner = $3, roles = $4, zone = $5, attributes = $6, \
         audiences = $7, certificate_lifetime_max_s = $8, token_lifetime_max_s = $9, \
         delegation_depth_max = $10 WHERE id = $1",
    )
    .bind(&agent.id)
    .bind(at.epoch)
    .bind(&profile.owner)
    .bind(list_text(&profile.roles))
    .bind(&profile.zone)
    .bind(tags_text(&profile.attributes)?)
    .bind(list_text(&profile.audiences))
    .bind(profile.certificate_lifetime_max_s)
    .bind(profile.token_lifetime_max_s)
    .bind(profile.delegation_depth_max)
    .execute(&mut *tx)
    .await
    .map_err(translate)?;
    parties::of_agent(tx, at, agent).await.map(Ok)
}

async fn create_join_token(tx: &mut SqliteConnection, at: &At, token: &JoinTokenRecord) -> Applied {
    match agent_state(tx, &token.principal_id).await? {
        None => return Ok(Err(Conflict::AgentNotFound)),
        Some(AgentState::Banned) => return Ok(Err(Conflict::AgentState(AgentState::Banned))),
        Some(_) => {}
    }
    insert_join_token(tx, at, token).await
}

/// A join token of somebody who is on record.
pub(super) async fn insert_join_token(
    tx: &mut SqliteConnection,
    at: &At,
    token: &JoinTokenRecord,
) -> Applied {
    sqlx::query(
        "INSERT INTO join_tokens (id, log_id, secret_sha256, principal_id, expire_time, used) \
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(&token.id)
    .bind(&at.log_id)
    .bind(&token.secret_sha256[..])
    .bind(&token.principal_id)
    .bind(time_text(token.expire_time))
    .bind(token.used)
    .execute(tx)
    .await
    .map_err(translate)?;
    Ok(Ok(()))
}

async fn enroll(
    tx: &mut SqliteConnection,
    at: &At,
    token_id: &str,
    instance: &Instance,
    now: OffsetDateTime,
) -> Applied {
    let row = sqlx::query(
        "UPDATE join_tokens SET used = 1 WHERE id = $1 AND used = 0 RETURNING principal_id, \
         expire_time",
    )
    .bind(token_id)
    .fetch_optional(&mut *tx)
    .await
    .map_err(translate)?;
    let Some(row) = row else {
        return Ok(Err(Conflict::JoinToken));
    };
    let principal_id: String = row.try_get(0).map_err(translate)?;
    let expire_time = parse_time(row.try_get(1).map_err(translate)?)?;
    if now >= expire_time || principal_id != instance.principal_id {
        return Ok(Err(Conflict::JoinToken));
    }
    if users::exists(tx, &principal_id).await? {
        return instances::insert(tx, at, instance).await;
    }
    match agent_state(tx, &principal_id).await? {
        None => return Ok(Err(Conflict::AgentNotFound)),
        Some(AgentState::Banned) => return Ok(Err(Conflict::AgentState(AgentState::Banned))),
        // Whoever may create a join token has it begin anew.
        Some(AgentState::Revoked) => {
            write_agent_state(tx, at, &principal_id, AgentState::Active).await?;
        }
        Some(AgentState::Active | AgentState::Suspended | AgentState::Isolated) => {}
    }
    instances::insert(tx, at, instance).await
}

async fn renew(tx: &mut SqliteConnection, at: &At, renewal: &Renewal) -> Applied {
    let done = instances::renew(tx, renewal).await?;
    certified(tx, at, done, &renewal.certificate).await
}

/// What was done and, if it was, the certificate that was given with it.
async fn certified(
    tx: &mut SqliteConnection,
    at: &At,
    done: Result<(), Conflict>,
    certificate: &CertificateRecord,
) -> Applied {
    match done {
        Ok(()) => insert_certificate(tx, at, certificate).await,
        Err(conflict) => Ok(Err(conflict)),
    }
}

/// Each certificate that was given, for as long as a revocation list has to name it.
async fn insert_certificate(
    tx: &mut SqliteConnection,
    at: &At,
    certificate: &CertificateRecord,
) -> Applied {
    sqlx::query(
        "INSERT INTO certificates (serial, log_id, instance_id, not_after) \
         VALUES ($1, $2, $3, $4)",
    )
    .bind(&certificate.serial)
    .bind(&at.log_id)
    .bind(certificate.instance_id.to_string())
    .bind(time_text(certificate.not_after))
    .execute(tx)
    .await
    .map_err(translate)?;
    Ok(Ok(()))
}

async fn set_agent_state(
    tx: &mut SqliteConnection,
    at: &At,
    agent_id: &str,
    from: &[AgentState],
    to: AgentState,
) -> Applied {
    match agent_state(tx, agent_id).await? {
        None => return Ok(Err(Conflict::AgentNotFound)),
        Some(state) if !from.contains(&state) => return Ok(Err(Conflict::AgentState(state))),
        Some(_) => {}
    }
    if matches!(to, AgentState::Revoked | AgentState::Banned) {
        instances::revoke_all(tx, at, agent_id).await?;
        // One that is on its way would bring back whoever has it.
        end_join_tokens(tx, agent_id).await?;
    }
    write_agent_state(tx, at, agent_id, to).await?;
    Ok(Ok(()))
}

/// Ends the join tokens of a principal that nobody has used yet.
pub(super) async fn end_join_tokens(
    tx: &mut SqliteConnection,
    principal_id: &str,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE join_tokens SET used = 1 WHERE principal_id = $1 AND used = 0")
        .bind(principal_id)
        .execute(tx)
        .await
        .map(drop)
        .map_err(translate)
}

async fn write_agent_state(
    tx: &mut SqliteConnection,
    at: &At,
    agent_id: &str,
    state: AgentState,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE agents SET state = $1, epoch = $2 WHERE id = $3")
        .bind(state.as_str())
        .bind(at.epoch)
        .bind(agent_id)
        .execute(tx)
        .await
        .map(drop)
        .map_err(translate)
}

async fn agent_state(
    tx: &mut SqliteConnection,
    id: &str,
) -> Result<Option<AgentState>, StoreError> {
    let state: Option<String> = sqlx::query_scalar("SELECT state FROM agents WHERE id = $1")
        .bind(id)
        .fetch_optional(tx)
        .await
        .map_err(translate)?;
    state
        .map(|s| AgentState::parse(&s).ok_or_else(|| corrupt("an unknown agent state")))
        .transpose()
}

async fn approve(
    tx: &mut SqliteConnection,
    at: &At,
    proposal: u64,
    revision: &NewRevision,
) -> Applied {
    // A revision that somebody approved names who.
    let by = revision.meta.approver.as_ref();
    let by = by.unwrap_or(&revision.meta.author);
    let state = ProposalState::Approved;
    match super::proposals::decide(tx, proposal, state, by).await? {
        Ok(()) => apply_revision(tx, at, revision).await,
        Err(conflict) => Ok(Err(conflict)),
    }
}

async fn apply_revision(tx: &mut SqliteConnection, at: &At, revision: &NewRevision) -> Applied {
    let newest: Option<i64> = sqlx::query_scalar("SELECT max(number) FROM revisions")
        .fetch_one(&mut *tx)
        .await
        .map_err(translate)?;
    let in_force = unsigned(newest.unwrap_or(0))?;
    let meta = &revision.meta;
    if in_force + 1 != meta.number {
        return Ok(Err(Conflict::Revision { in_force }));
    }
    sqlx::query(
        "INSERT INTO revisions (number, log_id, author_type, author_id, message, apply_time, \
         content_sha256, policies, gates, epoch, approver_type, approver_id, base_epoch, \
         restores, commit_id, signature) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
    )
    .bind(signed(meta.number))
    .bind(&at.log_id)
    .bind(&meta.author.ty)
    .bind(&meta.author.id)
    .bind(&meta.message)
    .bind(time_text(meta.apply_time))
    .bind(&meta.content_sha256[..])
    .bind(meta.policies)
    .bind(&meta.gates)
    .bind(at.epoch)
    .bind(meta.approver.as_ref().map(|uid| &uid.ty))
    .bind(meta.approver.as_ref().map(|uid| &uid.id))
    .bind(signed(meta.base_epoch))
    .bind(meta.restores.map(signed))
    .bind(&meta.provenance.commit)
    .bind(&meta.provenance.signature)
    .execute(&mut *tx)
    .await
    .map_err(translate)?;
    let of = (FilesOf::Revision, meta.number);
    super::policy::insert_files(tx, &at.log_id, of, &revision.changes).await?;
    Ok(Ok(()))
}

pub(super) fn one_row(rows: u64, otherwise: Conflict) -> Result<(), Conflict> {
    if rows == 1 { Ok(()) } else { Err(otherwise) }
}
