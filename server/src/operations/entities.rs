//! Entities (PIP): put, get, list and delete.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Map, Value, json};

use super::{OperationError, Operations, allowed, detail};
use crate::identity::registry::Credential;
use crate::model::arguments::sha256;
use crate::model::{AccessRequest, Change, Decision, EntityUid, GivenEntity, StoredEntity};
use crate::pdp::{Act, PdpError};
use crate::policy::Diagnostic;

/// Types that the record of one act names; a schema may declare more.
const TYPES_RECORDED_MAX: usize = 32;

impl Operations {
    /// Stores entities, each in place of the one of its uid; all or none. Says how many
    /// are new or changed. What changes nothing is decided and recorded, no more.
    pub(crate) async fn put_entities(
        &self,
        credential: &Credential,
        given: &[GivenEntity],
    ) -> Result<(usize, Decision), OperationError> {
        let request = AccessRequest::new(EntityUid::action("put_entities"), self.zone());
        let count = AtomicUsize::new(0);
        let decision = self
            .pdp
            .operate(credential, &request, &|state, _, _| {
                let revision = state.revision.as_ref().ok_or(PdpError::NotReady)?;
                let types = revision.compiled.entity_types();
                // Reading thousands by the schema takes longer than a task may.
                let changed = beside(|| state.entities.put(types, given))?;
                count.store(changed.len(), Ordering::Relaxed);
                let lines: String = changed.iter().map(StoredEntity::digest_line).collect();
                Ok(act(
                    given.len(),
                    changed.iter().map(|entity| &entity.uid),
                    &lines,
                    (!changed.is_empty()).then(|| Change::PutEntities(changed.clone().into())),
                ))
            })
            .await?;
        Ok((count.into_inner(), allowed(decision)?))
    }

    /// Deletes entities; all or none. Says how many there were.
    pub(crate) async fn delete_entities(
        &self,
        credential: &Credential,
        uids: &[EntityUid],
    ) -> Result<(usize, Decision), OperationError> {
        let request = AccessRequest::new(EntityUid::action("delete_entities"), self.zone());
        let count = AtomicUsize::new(0);
        let decision = self
            .pdp
            .operate(credential, &request, &|state, _, _| {
                let found = state.entities.stored_of(uids);
                count.store(found.len(), Ordering::Relaxed);
                let line = |uid: &EntityUid| format!("{}\n", json!({"id": uid.id, "type": uid.ty}));
                let lines: String = found.iter().map(line).collect();
                Ok(act(
                    uids.len(),
                    found.iter(),
                    &lines,
                    (!found.is_empty()).then(|| Change::DeleteEntities(found.clone().into())),
                ))
            })
            .await?;
        Ok((count.into_inner(), allowed(decision)?))
    }

    /// Those of these that are stored, in the order asked for.
    pub(crate) async fn get_entities(
        &self,
        credential: &Credential,
        uids: &[EntityUid],
    ) -> Result<Vec<StoredEntity>, OperationError> {
        self.read(credential, "read_entities").await?;
        // The decision's commit compared epochs: this state is none older.
        let state = self.pdp.replica.current();
        Ok(uids
            .iter()
            .filter_map(|uid| state.entities.get(uid))
            .collect())
    }

    /// Entities of one type or of all, in the order of type and id, after `after`.
    pub(crate) async fn list_entities(
        &self,
        credential: &Credential,
        ty: Option<&str>,
        after: Option<&EntityUid>,
        limit: u32,
    ) -> Result<Vec<StoredEntity>, OperationError> {
        self.read(credential, "read_entities").await?;
        Ok(self.store.entities(ty, after, limit).await?)
    }
}

/// Misfits as what is wrong with the candidate.
pub(super) fn do_not_fit(misfits: Vec<String>) -> OperationError {
    let diagnostic = |message| Diagnostic {
        message,
        help: "change or delete the entity first, or keep its type as it was".to_owned(),
        ..Diagnostic::default()
    };
    OperationError::PolicyInvalid(misfits.into_iter().map(diagnostic).collect())
}

/// Runs work of milliseconds on this thread while others take over its tasks.
pub(super) fn beside<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}

/// An act with its record: how many were given and how many of each type changed, and a
/// digest over what changed. No contents: the log is read by more people than they are.
fn act<'a>(
    given: usize,
    changed: impl Iterator<Item = &'a EntityUid>,
    lines: &str,
    change: Option<Change>,
) -> Act {
    let mut types: BTreeMap<&str, usize> = BTreeMap::new();
    let mut count = 0;
    for uid in changed {
        count += 1;
        *types.entry(&uid.ty).or_default() += 1;
    }
    let named = types.iter().take(TYPES_RECORDED_MAX);
    let named: Map<String, Value> = named.map(|(ty, n)| ((*ty).to_owned(), json!(n))).collect();
    let mut detail = detail([
        ("given", json!(given)),
        ("changed", json!(count)),
        ("types", Value::Object(named)),
        ("sha256", json!(hex::encode(sha256(lines.as_bytes())))),
    ]);
    if types.len() > TYPES_RECORDED_MAX {
        let rest = types.len() - TYPES_RECORDED_MAX;
        detail.insert("types_not_named".to_owned(), json!(rest));
    }
    Act { change, detail }
}
