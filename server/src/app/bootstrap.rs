//! The first start of a log: revision 1 and one administrator. What if we crash here:
//! each step is one transaction and is skipped by the next start if it is done.

use std::sync::Arc;

use time::OffsetDateTime;
use uuid::Uuid;

use super::administrator::{self, FirstStart};
use super::material::Material;
use super::{AppError, start_error};
use crate::audit::{AppendError, Audit, Record};
use crate::config::Config;
use crate::model::event::to_micros;
use crate::model::revision::{NewRevision, Provenance};
use crate::model::{AccessRequest, Change, EntityUid, Event, EventType, RevisionMeta};
use crate::policy::{
    Compiled, EntityMap, Facts, Pip, PolicySource, SharedSet, builtin_source, content_sha256,
    gates_id, pass_gates,
};
use crate::replica::Replica;
use crate::store::SharedStore;

/// Makes revision 1 of a new log. The compiled set is offered to the replica, and goes
/// with the returned value.
pub(super) async fn first_policies(
    config: &Config,
    store: &SharedStore,
    audit: &Audit,
    material: &Material,
    replica: &Replica,
    now: OffsetDateTime,
) -> Result<Option<Arc<SharedSet>>, AppError> {
    if store.changes_since(0, 0).await?.revision.is_some() {
        return Ok(None);
    }
    let source = match &config.policy_dir {
        Some(dir) => PolicySource::read(std::slice::from_ref(dir)).map_err(AppError::Start)?,
        None => builtin_source(),
    };
    let compiled = tokio::task::spawn_blocking(move || compile_first(&source))
        .await
        .map_err(start_error)??;
    let revision = revision_1(&compiled, material, now)?;
    replica.offer(revision.meta.content_sha256, &compiled);
    let event = Event::new(EventType::LogCreated, audit.log_id(), Uuid::now_v7(), now)
        .with_detail("revision", "1")
        .with_detail("content_sha256", hex::encode(revision.meta.content_sha256))
        .with_detail("vkey", material.vkey.as_str());
    append(audit, event, Change::ApplyRevision(Box::new(revision))).await?;
    Ok(Some(compiled))
}

/// Makes the administrator of a new log. `None` when there is one already.
pub(super) async fn first_administrator(
    config: &Config,
    store: &SharedStore,
    audit: &Audit,
    material: &Material,
    now: OffsetDateTime,
) -> Result<Option<FirstStart>, AppError> {
    if !store.changes_since(0, 0).await?.users.is_empty() {
        return Ok(None);
    }
    administrator::create(config, audit, material, now).await
}

/// Another replica may do the same at the same time: then its work stands.
pub(super) async fn append(audit: &Audit, event: Event, change: Change) -> Result<bool, AppError> {
    let record = Record::change(event, change);
    match audit.append(record).await {
        Ok(_) => Ok(true),
        Err(AppendError::Conflict(_)) => Ok(false),
        Err(error) => Err(start_error(error)),
    }
}

fn compile_first(source: &PolicySource) -> Result<Arc<SharedSet>, AppError> {
    // A first start waits for its tests; nobody else does.
    let compiled = pass_gates(source, None, &|| false).map_err(|errors| {
        let lines: Vec<String> = errors
            .iter()
            .map(|d| format!("{}:{}: {}", d.file, d.line, d.message))
            .collect();
        AppError::Start(format!(
            "the policies of the first start do not pass:\n{}",
            lines.join("\n")
        ))
    })?;
    Ok(SharedSet::new(compiled))
}

fn revision_1(
    compiled: &Compiled,
    material: &Material,
    now: OffsetDateTime,
) -> Result<NewRevision, AppError> {
    require_administrator(compiled, material, now)?;
    let source = compiled.source();
    Ok(NewRevision {
        meta: RevisionMeta {
            number: 1,
            author: EntityUid::new("ZTA::Zone", material.ca.trust_domain().as_str()),
            approver: None,
            message: "first start".to_owned(),
            apply_time: to_micros(now),
            content_sha256: content_sha256(source),
            gates: gates_id(),
            policies: compiled.policy_count(),
            provenance: Provenance::default(),
            base_epoch: 0,
            restores: None,
        },
        changes: source.changes_from(&PolicySource::default()),
    })
}

/// The first policies must let the administrator apply the next ones: nobody else could.
fn require_administrator(
    compiled: &Compiled,
    material: &Material,
    now: OffsetDateTime,
) -> Result<(), AppError> {
    let trust_domain = material.ca.trust_domain();
    let administrator = administrator::principal(trust_domain);
    let zone = EntityUid::new("ZTA::Zone", trust_domain.as_str());
    let request = AccessRequest::new(EntityUid::action("apply_policy"), zone);
    let facts = Facts {
        delegation: None,
        now,
        source: None,
        authentication_method: "mtls",
        authentication_age_seconds: 0,
        resource: None,
    };
    let verdict = compiled
        .evaluate(
            &administrator,
            &request,
            &facts,
            &Pip {
                stored: &EntityMap::default(),
                parties: &(),
            },
        )
        .map_err(start_error)?;
    match verdict.deny {
        None => Ok(()),
        Some(_) => Err(AppError::Start(format!(
            "the policies of the first start lock the administrator out ({}); permit \
             `apply_policy` to the role `administrator`, as policies/admin.cedar does",
            verdict.message
        ))),
    }
}
