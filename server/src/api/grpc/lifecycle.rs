//! Rollback, difference, streams and status of `zta.v1.PolicyService`.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use tokio::time::Instant;
use tonic::{Response, Status};
use zta_proto::v1;

use super::policies::{candidate, wire_diagnostics, wire_revision};
use super::told::{self, Source};
use super::{consistency_token, timestamp};
use crate::api::status::field;
use crate::identity::registry::Credential;
use crate::operations::diff::{Compared, Other};
use crate::operations::fleet::{ReplicaState, SeenReplica};
use crate::operations::watch::{FRESH, News, Place};
use crate::operations::{OperationError, Operations};
use crate::policy::{DifferenceKind, FileDifference, PolicyDifference, SchemaDifference};

pub(super) async fn rollback(
    operations: &Operations,
    credential: &Credential,
    request: v1::RollbackRequest,
) -> Result<Response<v1::RollbackResponse>, Status> {
    let v1::RollbackRequest {
        number,
        expected_revision,
        message,
    } = request;
    let (meta, warnings, decision) = operations
        .rollback_policy(credential, number, expected_revision, message)
        .await?;
    let active = meta.number;
    Ok(Response::new(v1::RollbackResponse {
        revision: Some(wire_revision(meta, active)),
        warnings: wire_diagnostics(&warnings),
        consistency_token: consistency_token(&decision),
    }))
}

pub(super) async fn diff(
    operations: &Operations,
    credential: &Credential,
    request: v1::DiffRequest,
) -> Result<Response<v1::DiffResponse>, Status> {
    let other = match (request.source, request.patch) {
        (None, None) => Other::Revision(request.after),
        (source, patch) if request.after == 0 => Other::Candidate(candidate(source, patch)?),
        _ => {
            return Err(field(
                "after",
                "stands beside a candidate: give one of them",
            ));
        }
    };
    let texts = !request.meaning_only;
    let Compared {
        before,
        after,
        difference,
    } = operations
        .diff_policy(credential, request.before, other, texts)
        .await?;
    let same_meaning = difference.same_meaning();
    Ok(Response::new(v1::DiffResponse {
        same: difference.files.is_empty(),
        same_meaning,
        files: difference.files.into_iter().map(wire_file).collect(),
        policies: difference.policies.into_iter().map(wire_policy).collect(),
        schema: difference.schema.into_iter().map(wire_schema).collect(),
        before,
        after,
    }))
}

fn wire_kind(kind: DifferenceKind) -> i32 {
    match kind {
        DifferenceKind::Added => v1::DiffKind::Added,
        DifferenceKind::Removed => v1::DiffKind::Removed,
        DifferenceKind::Changed => v1::DiffKind::Changed,
        DifferenceKind::Moved => v1::DiffKind::Moved,
    }
    .into()
}

fn wire_file(file: FileDifference) -> v1::FileDiff {
    v1::FileDiff {
        name: file.name,
        kind: wire_kind(file.kind),
        unified_omitted: file.unified.is_none(),
        unified: file.unified.unwrap_or_default(),
        formatting_only: file.formatting_only,
    }
}

fn wire_policy(policy: PolicyDifference) -> v1::PolicyDiff {
    v1::PolicyDiff {
        id: policy.id,
        kind: wire_kind(policy.kind),
        file_before: policy.file_before.unwrap_or_default(),
        file_after: policy.file_after.unwrap_or_default(),
        effect_before: policy.effect_before.unwrap_or_default(),
        effect_after: policy.effect_after.unwrap_or_default(),
        changed: policy.changed,
    }
}

fn wire_schema(schema: SchemaDifference) -> v1::SchemaDiff {
    v1::SchemaDiff {
        what: schema.what.to_owned(),
        name: schema.name,
        kind: wire_kind(schema.kind),
        changed: schema.changed,
    }
}

pub(super) async fn get_status(
    operations: &Operations,
    credential: &Credential,
) -> Result<Response<v1::GetStatusResponse>, Status> {
    let fleet = operations.fleet_status(credential).await?;
    Ok(Response::new(v1::GetStatusResponse {
        revision: fleet.revision,
        time: timestamp(fleet.time),
        replicas: fleet.replicas.into_iter().map(wire_replica).collect(),
    }))
}

fn wire_replica(replica: SeenReplica) -> v1::Replica {
    let state = match replica.state {
        ReplicaState::Running => v1::ReplicaState::Running,
        ReplicaState::Stopped => v1::ReplicaState::Stopped,
        ReplicaState::Gone => v1::ReplicaState::Gone,
    };
    let record = replica.record;
    v1::Replica {
        id: record.id.to_string(),
        name: record.name,
        version: record.version,
        state: state.into(),
        revision: record.revision,
        revision_time: timestamp(record.revision_time),
        start_time: timestamp(record.start_time),
        seen_time: timestamp(record.seen_time),
        lagging: replica.lagging,
        answering: replica.answering,
    }
}

/// A stream of revisions, as tonic takes it.
pub(crate) type Revisions =
    Pin<Box<dyn Stream<Item = Result<v1::WatchRevisionsResponse, Status>> + Send>>;

/// Opens a stream. It does something only when its reader takes something, so one that
/// does not holds up nothing but itself.
pub(super) async fn watch(
    operations: &Arc<Operations>,
    credential: Credential,
    after: u64,
) -> Result<Response<Revisions>, Status> {
    let states = operations.pdp.replica.subscribe();
    let (first, place) = operations.watch_revisions(&credential, after).await?;
    let watch = Watch {
        operations: Arc::clone(operations),
        credential,
        known: after,
        behind: true,
        first: Some(first),
        states,
        checked: Instant::now(),
        _place: place,
    };
    Ok(Response::new(Box::pin(told::stream(watch))))
}

/// Where a stream is.
struct Watch {
    operations: Arc<Operations>,
    credential: Credential,
    /// The newest revision that was told.
    known: u64,
    /// Whether there is more to tell at once.
    behind: bool,
    first: Option<News>,
    /// The states in which it was looked whether the reader may have what is told.
    states: tokio::sync::watch::Receiver<u64>,
    /// When that was.
    checked: Instant,
    _place: Place,
}

impl Source for Watch {
    type Told = v1::WatchRevisionsResponse;

    async fn next(&mut self) -> Result<v1::WatchRevisionsResponse, Status> {
        let news = match self.first.take() {
            Some(news) => news,
            None => {
                if !self.behind {
                    self.wait().await?;
                }
                let _ = self.states.borrow_and_update();
                let news = self.operations.news(&self.credential, self.known).await?;
                self.checked = Instant::now();
                news
            }
        };
        if let Some(last) = news.revisions.last() {
            self.known = last.number;
        }
        self.behind = self.known < news.in_force;
        let revisions = news.revisions.into_iter();
        Ok(v1::WatchRevisionsResponse {
            revisions: revisions
                .map(|meta| wire_revision(meta, news.in_force))
                .collect(),
            in_force: news.in_force,
            time: timestamp(news.time),
        })
    }

    fn is_outdated(&self) -> bool {
        self.states.has_changed().unwrap_or(true) || self.checked.elapsed() > FRESH
    }

    async fn require_reader(&mut self) -> Result<(), Status> {
        let _ = self.states.borrow_and_update();
        if !self.operations.may_watch(&self.credential).await {
            self.operations.news(&self.credential, self.known).await?;
        }
        self.checked = Instant::now();
        Ok(())
    }
}

impl Watch {
    /// Returns when there is something to tell or to refuse, at the latest for a heartbeat.
    ///
    /// # Errors
    /// When the server stops.
    async fn wait(&self) -> Result<(), Status> {
        let watches = &self.operations.watches;
        let mut stopping = watches.stopping.clone();
        let mut states = self.operations.pdp.replica.subscribe();
        let heartbeat = tokio::time::sleep(watches.heartbeat);
        tokio::pin!(heartbeat);
        loop {
            // Each change of the registry, too: who is contained hears nothing more.
            let new = self.operations.active_revision() != self.known;
            if new || !self.operations.may_watch(&self.credential).await {
                return Ok(());
            }
            tokio::select! {
                _ = stopping.wait_for(|stop| *stop) => return Err(OperationError::Stopping.into()),
                () = &mut heartbeat => return Ok(()),
                _ = states.changed() => {}
            }
        }
    }
}
