//! What both databases share: which values they can hold, and how stored ones are read.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::{PreparedEvent, StoreError, StoredTile, TILE_WIDTH, TileId};
use crate::model::proposal::{NewProposal, ProposalState};
use crate::model::revision::{Digest, FileChange, FileDigest, FileKind, NewRevision, Provenance};
use crate::model::{
    AgentRecord, Change, Conflict, EntityCursor, EntityPage, EntityUid, EntityVersion, Instance,
    SourceFile, StoredEntity,
};

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
        Change::RegisterAgent(agent) | Change::UpdateAgent(agent) => refuse_agent(agent),
        Change::RegisterUser(user, instance, certificate) => {
            refuse_nul([&user.id, &user.spiffe_id].into_iter().chain(&user.roles))?;
            refuse_nul([&certificate.serial])?;
            refuse_instance(instance)
        }
        Change::InviteUser { user, token } => {
            if let Some(user) = user {
                refuse_nul([&user.id, &user.spiffe_id].into_iter().chain(&user.roles))?;
            }
            refuse_nul([&token.id, &token.principal_id])
        }
        Change::AddUserKey(instance, certificate) => {
            refuse_nul([&certificate.serial])?;
            refuse_instance(instance)
        }
        Change::RevokeUserKeys {
            user_id, tokens, ..
        } => refuse_nul([user_id, &tokens.ty, &tokens.id]),
        Change::CreateJoinToken(token) => refuse_nul([&token.id, &token.principal_id]),
        Change::Enroll {
            token_id,
            instance,
            certificate,
            ..
        } => {
            refuse_nul([token_id, &certificate.serial])?;
            refuse_instance(instance)
        }
        Change::Renew(renewal) => {
            stored_number(renewal.presented)?;
            stored_number(renewal.generation)?;
            refuse_nul([&renewal.certificate.serial])
        }
        Change::UseGeneration(used) => stored_number(used.generation).map(drop),
        Change::LockInstance { presented, .. } => stored_number(*presented).map(drop),
        Change::SetAgentState { agent_id, .. } | Change::SetInstanceState { agent_id, .. } => {
            refuse_nul([agent_id])
        }
        Change::ApplyRevision(revision) | Change::Approve { revision, .. } => {
            refuse_revision(revision)
        }
        Change::Propose(proposal) => refuse_proposal(proposal),
        Change::Reject { by, .. } => refuse_uid(by),
        Change::RevokeTokens(revocation) => refuse_nul([&revocation.ty, &revocation.id]),
        Change::PutEntities(entities) => entities.iter().try_for_each(|entity| {
            refuse_nul([&entity.attributes, &entity.tags])?;
            entity.parents.iter().try_for_each(refuse_uid)?;
            refuse_uid(&entity.uid)
        }),
        Change::DeleteEntities(uids) => uids.iter().try_for_each(refuse_uid),
        Change::PrepareAuthority { signing, next } => [signing, next]
            .into_iter()
            .try_for_each(|ca| refuse_nul([&ca.id, &ca.key, &ca.chain_pem])),
        Change::ActivateAuthority { id, .. } | Change::RetireAuthority { id, .. } => {
            refuse_nul([id])
        }
        Change::Prune { size, .. } => stored_number(*size).map(drop),
    }
}

fn refuse_uid(uid: &EntityUid) -> Result<(), StoreError> {
    refuse_nul([&uid.ty, &uid.id])
}

/// An agent's attributes as they are stored: a JSON object.
pub(super) fn tags_text(tags: &BTreeMap<String, String>) -> Result<String, StoreError> {
    serde_json::to_string(tags)
        .map_err(|e| StoreError::Refused(format!("attributes that are no JSON: {e}")))
}

/// An agent's attributes as they were stored.
pub(super) fn parse_tags(text: &str) -> Result<Arc<BTreeMap<String, String>>, StoreError> {
    serde_json::from_str(text)
        .map(Arc::new)
        .map_err(|_| corrupt("attributes that are no object of texts"))
}

/// Parents as they are stored: a JSON list.
pub(super) fn parents_text(entity: &StoredEntity) -> Result<String, StoreError> {
    serde_json::to_string(&entity.parents)
        .map_err(|e| StoreError::Refused(format!("parents that are no JSON: {e}")))
}

/// A row of `entities`; without content it is a deletion.
pub(super) fn entity_version(
    uid: EntityUid,
    content: (Option<String>, Option<String>, Option<String>),
) -> Result<EntityVersion, StoreError> {
    match content {
        (Some(parents), Some(attributes), Some(tags)) => Ok(EntityVersion::Put(StoredEntity {
            uid,
            parents: serde_json::from_str(&parents)
                .map_err(|_| corrupt("parents that are no list"))?,
            attributes,
            tags,
        })),
        (None, None, None) => Ok(EntityVersion::Deleted(uid)),
        _ => Err(corrupt("an entity of which a part is missing")),
    }
}

/// A page of the feed of what was read, at most one row more than the limit.
pub(super) fn entity_page(mut rows: Vec<(u64, EntityVersion)>, limit: u32) -> EntityPage {
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let last = rows.last().filter(|_| more);
    EntityPage {
        next: last.map(|(epoch, version)| EntityCursor {
            epoch: *epoch,
            uid: version.uid().clone(),
        }),
        versions: rows.into_iter().map(|(_, version)| version).collect(),
    }
}

fn refuse_agent(agent: &AgentRecord) -> Result<(), StoreError> {
    let profile = &agent.profile;
    let texts = [&agent.id, &agent.name, &profile.owner, &profile.zone];
    refuse_nul(texts.into_iter().chain(&profile.roles))?;
    refuse_nul(&profile.audiences)?;
    let attributes = profile.attributes.iter();
    refuse_nul(attributes.flat_map(|(key, value)| [key, value]))
}

fn refuse_instance(instance: &Instance) -> Result<(), StoreError> {
    stored_number(instance.generation)?;
    stored_number(instance.used_generation)?;
    refuse_nul([&instance.principal_id])
}

fn refuse_revision(revision: &NewRevision) -> Result<(), StoreError> {
    let meta = &revision.meta;
    stored_number(meta.number)?;
    stored_number(meta.base_epoch)?;
    stored_number(meta.restores.unwrap_or(0))?;
    refuse_nul([&meta.message])?;
    refuse_provenance(&meta.provenance)?;
    [Some(&meta.author), meta.approver.as_ref()]
        .into_iter()
        .flatten()
        .try_for_each(refuse_uid)?;
    refuse_changes(&revision.changes)
}

fn refuse_proposal(proposal: &NewProposal) -> Result<(), StoreError> {
    let meta = &proposal.meta;
    stored_number(meta.number)?;
    stored_number(meta.base_revision)?;
    refuse_nul([&meta.message])?;
    refuse_provenance(&meta.provenance)?;
    meta.authors.iter().try_for_each(refuse_uid)?;
    refuse_changes(&proposal.changes)
}

fn refuse_provenance(provenance: &Provenance) -> Result<(), StoreError> {
    refuse_nul(
        [&provenance.commit, &provenance.signature]
            .into_iter()
            .flatten(),
    )
}

fn refuse_changes(changes: &[FileChange<SourceFile>]) -> Result<(), StoreError> {
    for change in changes {
        refuse_nul([&change.name])?;
        if let Some(file) = &change.content {
            refuse_nul_in(file.text())?;
        }
    }
    Ok(())
}

/// Refuses texts with a NUL in them.
pub(super) fn refuse_nul<'a>(
    texts: impl IntoIterator<Item = &'a String>,
) -> Result<(), StoreError> {
    texts.into_iter().try_for_each(|text| refuse_nul_in(text))
}

fn refuse_nul_in(text: &str) -> Result<(), StoreError> {
    if text.as_bytes().contains(&0) {
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

/// The hashes of a full tile's row.
pub(super) fn full_tile(
    level: i64,
    number: i64,
    root: Vec<u8>,
    hashes: Vec<u8>,
) -> Result<StoredTile, StoreError> {
    let id = TileId {
        level: level_of(level)?,
        number: unsigned(number)?,
    };
    if hashes.len() as u64 != TILE_WIDTH * 32 {
        return Err(corrupt("a tile that is not full"));
    }
    Ok(StoredTile {
        id,
        root: digest(&root)?,
        hashes: frontier(&hashes)?,
    })
}

pub(super) fn level_of(level: i64) -> Result<u8, StoreError> {
    u8::try_from(level).map_err(|_| corrupt("a tile of a level that cannot be"))
}

pub(super) fn lifetime_ms(lifetime: Duration) -> Result<i64, StoreError> {
    i64::try_from(lifetime.as_millis()).map_err(|_| StoreError::Refused("a lifetime".to_owned()))
}

/// Rows by their numbers, which must follow each other from `first` on.
pub(super) fn consecutive<T>(
    first: u64,
    rows: impl Iterator<Item = Result<(i64, Vec<u8>), StoreError>>,
    read: impl Fn(Vec<u8>) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let mut out = Vec::new();
    for (expected, row) in (first..).zip(rows) {
        let (number, bytes) = row?;
        if unsigned(number)? != expected {
            return Err(StoreError::Corrupt(format!("number {expected} is missing")));
        }
        out.push(read(bytes)?);
    }
    Ok(out)
}

pub(super) fn parse_uuid(text: &str) -> Result<Uuid, StoreError> {
    Uuid::parse_str(text).map_err(|_| corrupt("an id that is not a UUID"))
}

/// What a store without its head row says.
pub(super) fn no_head() -> StoreError {
    StoreError::Schema("there is no log yet: start the server or run `zta migrate`".to_owned())
}

/// Whose files are written.
#[derive(Clone, Copy, Debug)]
pub(super) enum FilesOf {
    /// Those that a revision changed.
    Revision,
    /// Those that a proposal would change.
    Proposal,
}

/// A principal that may be missing.
pub(super) fn optional_uid(
    ty: Option<String>,
    id: Option<String>,
) -> Result<Option<EntityUid>, StoreError> {
    match (ty, id) {
        (Some(ty), Some(id)) => Ok(Some(EntityUid { ty, id })),
        (None, None) => Ok(None),
        _ => Err(corrupt("a principal of which a part is missing")),
    }
}

/// A proposal can be decided on once.
pub(super) fn open(state: Option<&str>) -> Result<Result<(), Conflict>, StoreError> {
    let Some(state) = state else {
        return Ok(Err(Conflict::ProposalNotFound));
    };
    match proposal_state(state)? {
        ProposalState::Open => Ok(Ok(())),
        state => Ok(Err(Conflict::ProposalDecided(state))),
    }
}

/// A proposal's state as it stands in the table.
pub(super) fn proposal_state(name: &str) -> Result<ProposalState, StoreError> {
    ProposalState::parse(name).ok_or_else(|| corrupt("an unknown state of a proposal"))
}

/// A file of a manifest as it stands in the table.
pub(super) fn file_change(
    kind: &str,
    name: String,
    sha256: Option<&[u8]>,
) -> Result<FileChange<Digest>, StoreError> {
    Ok(FileChange {
        kind: FileKind::parse(kind).ok_or_else(|| corrupt("an unknown kind of policy file"))?,
        name,
        content: sha256.map(digest).transpose()?,
    })
}

/// The files of a whole revision: all changes since the empty set.
pub(super) fn files(changes: Vec<FileChange<Digest>>) -> Vec<FileDigest> {
    let file = |change: FileChange<Digest>| {
        Some(FileDigest {
            kind: change.kind,
            name: change.name,
            sha256: change.content?,
        })
    };
    changes.into_iter().filter_map(file).collect()
}

/// How many texts are read or written at once: a bound on one statement, not on a set.
pub(super) const TEXTS_PIECE: usize = 256;

/// The texts in the order of the digests that were asked for.
pub(super) fn in_order(
    digests: &[Digest],
    found: impl IntoIterator<Item = (Digest, Arc<str>)>,
) -> Result<Vec<Arc<str>>, StoreError> {
    let found: HashMap<Digest, Arc<str>> = found.into_iter().collect();
    let text = |digest| found.get(digest).cloned();
    let texts: Option<Vec<_>> = digests.iter().map(text).collect();
    // A text that is gone is an error here, not a policy less.
    texts.ok_or_else(|| corrupt("a revision without one of its texts"))
}
