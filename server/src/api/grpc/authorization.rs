//! `zta.v1.AuthorizationService`.

use std::sync::Arc;

use futures_util::future::join_all;
use tonic::{Request, Response, Status};
use zta_proto::v1;
use zta_proto::v1::authorization_service_server::AuthorizationService;

use super::{
    bounded, consistency_token, entity, explain, fresh, optional, outcomes, timestamp, wire_uid,
};
use crate::api::caller::credential;
use crate::api::status::{field, limit};
use crate::audit::sequencer::UNIT_MAX;
use crate::identity::registry::Credential;
use crate::keys::cursor::CursorSeal;
use crate::model::arguments::Arguments;
use crate::model::decision::{Annotations, Nearest};
use crate::model::request::ACTION_TYPE;
use crate::model::{AccessRequest, Decision, DenyReason, Effect, Obligation};
use crate::operations::Operations;
use crate::pdp::PdpError;
use crate::telemetry::Metrics;

/// Bytes of a tool's arguments.
const ARGUMENTS_BYTES_MAX: usize = 256 * 1024;
/// Bytes of a PEP's context.
const CONTEXT_BYTES_MAX: usize = 64 * 1024;
/// Requests of one batch.
const BATCH_MAX: usize = UNIT_MAX;
/// Obligations that a PEP may name.
const OBLIGATIONS_MAX: usize = 64;
/// Entities that a request may bring.
const ENTITIES_MAX: usize = 64;
/// Bytes of the annotations of one answer.
const ANNOTATIONS_BYTES_MAX: usize = 16 * 1024;
/// Bytes of the names that a client chooses: sessions, tasks, users, correlation ids.
const NAME_BYTES_MAX: usize = 256;

/// The door.
pub(crate) struct AuthorizationDoor {
    pub(crate) operations: Arc<Operations>,
    pub(crate) metrics: Metrics,
    pub(crate) cursors: Arc<CursorSeal>,
}

#[tonic::async_trait]
impl AuthorizationService for AuthorizationDoor {
    async fn authorize(
        &self,
        request: Request<v1::AuthorizeRequest>,
    ) -> Result<Response<v1::AuthorizeResponse>, Status> {
        let credential = credential(&request, (self.operations.pdp.clock)());
        self.decide(&credential, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn batch_authorize(
        &self,
        request: Request<v1::BatchAuthorizeRequest>,
    ) -> Result<Response<v1::BatchAuthorizeResponse>, Status> {
        let credential = credential(&request, (self.operations.pdp.clock)());
        let requests = request.into_inner().requests;
        if requests.is_empty() {
            return Err(field("requests", "is empty"));
        }
        if requests.len() > BATCH_MAX {
            return Err(limit("requests", requests.len(), BATCH_MAX));
        }
        let items = self.decide_all(&credential, requests).await?;
        Ok(Response::new(v1::BatchAuthorizeResponse { items }))
    }

    async fn list_permitted(
        &self,
        request: Request<v1::ListPermittedRequest>,
    ) -> Result<Response<v1::ListPermittedResponse>, Status> {
        let credential = credential(&request, (self.operations.pdp.clock)());
        let cursors = &self.cursors;
        let question = match explain::question(request.into_inner(), cursors) {
            Ok(question) => question,
            Err(status) => return Err(self.refuse(&credential, status).await),
        };
        fresh(&self.operations.pdp, question.demanded).await?;
        let listing = self
            .operations
            .list_permitted(
                &credential,
                &question.query,
                &question.request,
                question.after,
                question.limit,
            )
            .await?;
        let log_id = self.operations.pdp.audit.log_id();
        let listing = explain::wire_listing(listing, log_id, cursors)?;
        Ok(Response::new(listing))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        let credential = credential(&request, (self.operations.pdp.clock)());
        let v1::ExplainRequest { request, principal } = request.into_inner();
        let parsed = || {
            let mut request = request.ok_or_else(|| field("request", "is missing"))?;
            let demanded = request.at_least_as_fresh.take();
            let principal = principal
                .map(|p| entity("principal", Some(p), None))
                .transpose()?;
            Ok::<_, Status>((parse(request)?, principal, demanded))
        };
        let (request, principal, demanded) = match parsed() {
            Ok(parsed) => parsed,
            Err(status) => return Err(self.refuse(&credential, status).await),
        };
        fresh(&self.operations.pdp, demanded).await?;
        let (story, act) = self
            .operations
            .explain(&credential, principal.as_ref(), &request)
            .await?;
        Ok(Response::new(explain::wire_explanation(story, &act)))
    }

    async fn report_outcome(
        &self,
        request: Request<v1::ReportOutcomeRequest>,
    ) -> Result<Response<v1::ReportOutcomeResponse>, Status> {
        let credential = credential(&request, (self.operations.pdp.clock)());
        let outcomes = request.into_inner().outcomes;
        let items = outcomes::report(&self.operations, &credential, outcomes).await?;
        Ok(Response::new(v1::ReportOutcomeResponse { items }))
    }
}

impl AuthorizationDoor {
    /// The answers to a batch, in its order.
    async fn decide_all(
        &self,
        credential: &Credential,
        requests: Vec<v1::AuthorizeRequest>,
    ) -> Result<Vec<v1::BatchAuthorizeItem>, Status> {
        let ids: Vec<_> = requests.iter().map(|r| r.correlation_id.clone()).collect();
        let pdp = &self.operations.pdp;
        // They wait together.
        let demands = requests
            .iter()
            .map(|r| fresh(pdp, r.at_least_as_fresh.clone()));
        let demands = join_all(demands).await;
        let parsed: Vec<_> = requests
            .into_iter()
            .zip(demands)
            .map(|(request, fresh)| fresh.and_then(|()| parse(request)))
            .collect();
        let good: Vec<&AccessRequest> = parsed.iter().filter_map(|p| p.as_ref().ok()).collect();
        // Of an empty list, too, so that what is wrong is told to those who may ask.
        let mut decided = pdp.decide_all(credential, &good).await?.into_iter();
        let mut items = Vec::with_capacity(ids.len());
        for (correlation_id, parsed) in ids.into_iter().zip(parsed) {
            let decision = match parsed {
                Ok(_) => decided
                    .next()
                    .unwrap_or(Err(PdpError::Stale))
                    .map_err(Status::from),
                Err(status) => Err(status),
            };
            if let Ok(decision) = &decision {
                self.metrics.decided(decision);
            }
            items.push(item(decision, correlation_id));
        }
        Ok(items)
    }

    async fn decide(
        &self,
        credential: &Credential,
        request: v1::AuthorizeRequest,
    ) -> Result<v1::AuthorizeResponse, Status> {
        let correlation_id = request.correlation_id.clone();
        let demanded = request.at_least_as_fresh.clone();
        let request = match parse(request) {
            Ok(request) => request,
            Err(status) => return Err(self.refuse(credential, status).await),
        };
        fresh(&self.operations.pdp, demanded).await?;
        let decision = self.operations.pdp.decide(credential, &request).await?;
        self.metrics.decided(&decision);
        Ok(answer(decision, correlation_id))
    }

    /// What is wrong with a request is told to those who may make one.
    async fn refuse(&self, credential: &Credential, status: Status) -> Status {
        let pdp = &self.operations.pdp;
        let state = pdp.replica.current();
        match pdp.authenticate(credential, &state, (pdp.clock)()).await {
            Ok(_) => status,
            Err(error) => error.into(),
        }
    }
}

fn item(decision: Result<Decision, Status>, correlation_id: String) -> v1::BatchAuthorizeItem {
    use v1::batch_authorize_item::Result as Item;
    let result = match decision {
        Ok(decision) => Item::Decision(answer(decision, correlation_id.clone())),
        Err(status) => Item::Error(outcomes::item_error(&status)),
    };
    v1::BatchAuthorizeItem {
        correlation_id,
        result: Some(result),
    }
}

/// The wire's request as ours. What a model controls and gets wrong (its arguments) is
/// a deny on record; what the PEP gets wrong is an error.
pub(super) fn parse(request: v1::AuthorizeRequest) -> Result<AccessRequest, Status> {
    let action = entity("action", request.action, Some(ACTION_TYPE))?;
    let resource = entity("resource", request.resource, None)?;
    if request.context_json.len() > CONTEXT_BYTES_MAX {
        return Err(limit(
            "context_json",
            request.context_json.len(),
            CONTEXT_BYTES_MAX,
        ));
    }
    if request.supported_obligations.len() > OBLIGATIONS_MAX {
        let n = request.supported_obligations.len();
        return Err(limit("supported_obligations", n, OBLIGATIONS_MAX));
    }
    for name in &request.supported_obligations {
        bounded("supported_obligations", name, NAME_BYTES_MAX)?;
    }
    if request.entities.len() > ENTITIES_MAX {
        return Err(limit("entities", request.entities.len(), ENTITIES_MAX));
    }
    Ok(AccessRequest {
        action,
        resource,
        arguments: arguments(&request.arguments_json, &request.arguments_sha256)?,
        pep_context: Arguments::parse(&request.context_json),
        session_id: optional("session_id", request.session_id, NAME_BYTES_MAX)?,
        task_id: optional("task_id", request.task_id, NAME_BYTES_MAX)?,
        user: optional("user", request.user, NAME_BYTES_MAX)?,
        entities: request
            .entities
            .into_iter()
            .map(super::entities::given)
            .collect::<Result<_, _>>()?,
        correlation_id: optional("correlation_id", request.correlation_id, NAME_BYTES_MAX)?,
        supported_obligations: request.supported_obligations,
        trace_id: trace_id(&request.traceparent)?,
    })
}

type ParsedArguments = Option<Result<Arguments, String>>;

fn arguments(json: &[u8], sha256: &[u8]) -> Result<ParsedArguments, Status> {
    if !matches!(sha256.len(), 0 | 32) {
        return Err(field("arguments_sha256", "must be empty or 32 bytes"));
    }
    if json.is_empty() && sha256.is_empty() {
        return Ok(None);
    }
    if json.len() > ARGUMENTS_BYTES_MAX {
        let why = format!(
            "{} bytes are over the limit of {ARGUMENTS_BYTES_MAX}",
            json.len()
        );
        return Ok(Some(Err(why)));
    }
    let parsed = Arguments::parse(json).and_then(|arguments| {
        if sha256.is_empty() || arguments.sha256() == sha256 {
            return Ok(arguments);
        }
        Err("their digest is not the one that the PEP computed".to_owned())
    });
    Ok(Some(parsed))
}

/// The trace id of a W3C traceparent; empty is absent.
fn trace_id(traceparent: &str) -> Result<Option<String>, Status> {
    if traceparent.is_empty() {
        return Ok(None);
    }
    let parts: Vec<&str> = traceparent.split('-').collect();
    let lower_hex = |s: &str| {
        s.bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    match parts.as_slice() {
        [version, trace, span, flags, ..]
            if version.len() == 2
                && trace.len() == 32
                && span.len() == 16
                && flags.len() == 2
                && parts.iter().all(|p| lower_hex(p)) =>
        {
            Ok(Some((*trace).to_owned()))
        }
        _ => Err(field("traceparent", "is not a W3C traceparent")),
    }
}

fn answer(decision: Decision, correlation_id: String) -> v1::AuthorizeResponse {
    let token = consistency_token(&decision);
    let verdict = decision.verdict;
    let effect = match verdict.effect() {
        Effect::Allow => v1::Effect::Allow,
        Effect::Deny => v1::Effect::Deny,
    };
    v1::AuthorizeResponse {
        effect: effect.into(),
        reason: verdict
            .deny
            .map_or(v1::DenyReason::Unspecified, wire_reason)
            .into(),
        message: verdict.message,
        decision_id: decision.id.to_string(),
        sequence: decision.sequence,
        policy_ids: verdict.policies,
        errored_policy_ids: verdict.errored,
        obligations: wire_obligations(verdict.obligations),
        revision: decision.revision,
        consistency_token: token,
        correlation_id,
        decide_time: timestamp(decision.time),
        action: Some(wire_uid(&verdict.action)),
        nearest_policies: verdict.nearest.into_iter().map(wire_nearest).collect(),
        annotations: wire_annotations(&verdict.annotations),
    }
}

fn wire_nearest(nearest: Nearest) -> v1::NearestPolicy {
    v1::NearestPolicy {
        policy_id: nearest.policy,
        condition: nearest.condition,
        error: nearest.error.unwrap_or_default().to_owned(),
    }
}

pub(super) fn wire_obligations(obligations: Vec<Obligation>) -> Vec<v1::Obligation> {
    let wire = |o: Obligation| v1::Obligation {
        name: o.name,
        policy_id: o.policy,
    };
    obligations.into_iter().map(wire).collect()
}

/// As many as fit; a policy's own are not cut in two.
pub(super) fn wire_annotations(annotations: &[Arc<Annotations>]) -> Vec<v1::PolicyAnnotations> {
    let mut left = ANNOTATIONS_BYTES_MAX;
    let fits = |one: &&Arc<Annotations>| {
        let pairs = one.annotations.iter();
        let bytes = one.policy.len() + pairs.map(|(k, v)| k.len() + v.len()).sum::<usize>();
        left = left.saturating_sub(bytes);
        left > 0
    };
    let wire = |one: &Arc<Annotations>| v1::PolicyAnnotations {
        policy_id: one.policy.clone(),
        annotations: one.annotations.clone().into_iter().collect(),
    };
    annotations.iter().take_while(fits).map(wire).collect()
}

pub(super) fn wire_reason(reason: DenyReason) -> v1::DenyReason {
    match reason {
        DenyReason::Forbidden => v1::DenyReason::Forbidden,
        DenyReason::NotPermitted => v1::DenyReason::NotPermitted,
        DenyReason::EvaluationError => v1::DenyReason::EvaluationError,
        DenyReason::InvalidArguments => v1::DenyReason::InvalidArguments,
        DenyReason::ObligationUnsupported => v1::DenyReason::ObligationUnsupported,
        DenyReason::Suspended => v1::DenyReason::Suspended,
        DenyReason::Isolated => v1::DenyReason::Isolated,
        DenyReason::Revoked => v1::DenyReason::Revoked,
        DenyReason::Delegation => v1::DenyReason::Delegation,
        DenyReason::Locked => v1::DenyReason::Locked,
    }
}
