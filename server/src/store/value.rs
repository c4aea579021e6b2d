//! What both databases share: which values they can hold, and how stored ones are read.

use uuid::Uuid;

use super::{PreparedEvent, StoreError};
use crate::model::{AgentRecord, Change, Instance, Revision};

/// Refuses events that one of the databases could not hold as they are: Postgres has
/// no NUL in a text and no integer above `i64::MAX`. Doors refuse control characters
/// long before; this keeps the two databases from differing where one did not.
pub(super) fn refuse_events(events: &[PreparedEvent]) -> Result<(), StoreError> {
    for event in events {
        let c = &event.columns;
        let optional = [
            &c.actor_type,
            &c.actor_id,
            &c.source,
            &c.action_type,
            &c.action_id,
            &c.resource_type,
            &c.resource_id,
            &c.reason,
            &c.session_id,
            &c.task_id,
            &c.user_id,
            &c.correlation_id,
            &c.trace_id,
        ];
        refuse_nul(optional.into_iter().flatten().chain(&c.policies))?;
        stored_number(c.revision.unwrap_or(0))?;
    }
    Ok(())
}

/// Refuses a change that one of the databases could not hold.
pub(super) fn refuse_change(change: &Change) -> Result<(), StoreError> {
    match change {
        Change::RegisterAgent(agent) => refuse_agent(agent),
        Change::RegisterUser(user, instance) => {
            refuse_nul([&user.id, &user.spiffe_id].into_iter().chain(&user.roles))?;
            refuse_instance(instance)
        }
        Change::CreateJoinToken(token) => refuse_nul([&token.id, &token.agent_id]),
        Change::Enroll {
            token_id, instance, ..
        } => {
            refuse_nul([token_id])?;
            refuse_instance(instance)
        }
        Change::Renew { .. } => Ok(()),
        Change::SetAgentState { agent_id, .. } => refuse_nul([agent_id]),
        Change::ApplyRevision(revision) => refuse_revision(revision),
    }
}

fn refuse_agent(agent: &AgentRecord) -> Result<(), StoreError> {
    let texts = [&agent.id, &agent.name, &agent.owner];
    refuse_nul(texts.into_iter().chain(&agent.roles))
}

fn refuse_instance(instance: &Instance) -> Result<(), StoreError> {
    stored_number(instance.generation)?;
    refuse_nul([&instance.principal_id])
}

fn refuse_revision(revision: &Revision) -> Result<(), StoreError> {
    let meta = &revision.meta;
    stored_number(meta.number)?;
    refuse_nul([&meta.author.ty, &meta.author.id, &meta.message])?;
    for file in &revision.schema_files {
        refuse_nul([&file.name, &file.text])?;
    }
    for chunk in &revision.chunks {
        refuse_nul(
            [&chunk.file, &chunk.text]
                .into_iter()
                .chain(&chunk.policy_id),
        )?;
    }
    Ok(())
}

/// Refuses texts with a NUL in them.
pub(super) fn refuse_nul<'a>(
    texts: impl IntoIterator<Item = &'a String>,
) -> Result<(), StoreError> {
    if texts.into_iter().any(|text| text.as_bytes().contains(&0)) {
        return Err(StoreError::Refused(
            "a text has a NUL character in it".to_owned(),
        ));
    }
    Ok(())
}

/// A number that is to be read back as it is.
pub(super) fn stored_number(n: u64) -> Result<i64, StoreError> {
    i64::try_from(n)
        .map_err(|_| StoreError::Refused(format!("{n} is beyond a 64-bit signed integer")))
}

/// A number that stored ones are compared with.
pub(super) fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(n: i64) -> Result<u64, StoreError> {
    u64::try_from(n).map_err(|_| corrupt("a negative number"))
}

pub(super) fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt(what.to_owned())
}

pub(super) fn digest(bytes: &[u8]) -> Result<[u8; 32], StoreError> {
    bytes
        .try_into()
        .map_err(|_| corrupt("a hash that does not have 32 bytes"))
}

pub(super) fn salt(bytes: &[u8]) -> Result<[u8; 16], StoreError> {
    bytes
        .try_into()
        .map_err(|_| corrupt("a salt that does not have 16 bytes"))
}

pub(super) fn frontier(bytes: &[u8]) -> Result<Vec<[u8; 32]>, StoreError> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    if rest.is_empty() {
        return Ok(hashes.to_vec());
    }
    Err(corrupt("a frontier that is not a list of hashes"))
}

pub(super) fn parse_uuid(text: &str) -> Result<Uuid, StoreError> {
    Uuid::parse_str(text).map_err(|_| corrupt("an id that is not a UUID"))
}

/// What a store without its head row says.
pub(super) fn no_head() -> StoreError {
    StoreError::Schema("there is no log yet: start the server or run `zta migrate`".to_owned())
}
