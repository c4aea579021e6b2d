//! `zta.v1.AuditService`.

use std::sync::Arc;

use tonic::{Code, Request, Response, Status};
use zta_proto::v1;
use zta_proto::v1::audit_service_server::AuditService;
use zta_proto::v1::get_event_request::Event;

use super::{optional, page_size, page_token_invalid, time, timestamp};
use crate::api::caller::credential;
use crate::api::status::{field, limit, status};
use crate::model::{Effect, EventType};
use crate::operations::Operations;
use crate::operations::proofs::{EventName, Receipted, SizedProof};
use crate::store::EventFilter;

/// The door.
pub(crate) struct AuditDoor(pub(crate) Arc<Operations>);

#[tonic::async_trait]
impl AuditService for AuditDoor {
    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        let credential = credential(&request, (self.0.pdp.clock)());
        let request = request.into_inner();
        let size = page_size(request.page_size)?;
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(token.parse().map_err(|_| page_token_invalid())?),
        };
        let descending = request.descending;
        let filter = filter(request)?;
        let events = self
            .0
            .list_events(&credential, &filter, after, descending, size)
            .await?;
        let full = events.len() == size as usize;
        let next_page_token = events
            .last()
            .filter(|_| full)
            .map(|e| e.sequence.to_string())
            .unwrap_or_default();
        let events = events
            .into_iter()
            .map(|e| v1::AuditEvent {
                sequence: e.sequence,
                time: timestamp(e.columns.time),
                leaf: e.leaf,
            })
            .collect();
        Ok(Response::new(v1::ListEventsResponse {
            events,
            next_page_token,
        }))
    }

    async fn get_checkpoint(
        &self,
        request: Request<v1::GetCheckpointRequest>,
    ) -> Result<Response<v1::GetCheckpointResponse>, Status> {
        let credential = credential(&request, (self.0.pdp.clock)());
        let checkpoint = self.0.checkpoint(&credential).await?.ok_or_else(|| {
            let message = "the first checkpoint is not signed yet; try again in a second";
            status(Code::Unavailable, v1::ErrorReason::NotReady, message)
        })?;
        Ok(Response::new(v1::GetCheckpointResponse {
            note: checkpoint.note,
            size: checkpoint.size,
        }))
    }

    async fn get_event(
        &self,
        request: Request<v1::GetEventRequest>,
    ) -> Result<Response<v1::GetEventResponse>, Status> {
        let credential = credential(&request, (self.0.pdp.clock)());
        let name = match request.into_inner().event {
            Some(Event::Sequence(sequence)) => EventName::Sequence(sequence),
            Some(Event::EventId(id)) => {
                let id = id
                    .parse()
                    .map_err(|_| field("event_id", "must be a UUID"))?;
                EventName::Id(id)
            }
            None => return Err(field("event", "name one by `sequence` or `event_id`")),
        };
        let Receipted { event, receipt } = self.0.event(&credential, name).await?;
        Ok(Response::new(v1::GetEventResponse {
            receipt: Some(v1::Receipt {
                leaf: event.leaf.clone(),
                proof: receipt,
            }),
            event: Some(v1::AuditEvent {
                sequence: event.sequence,
                time: timestamp(event.columns.time),
                leaf: event.leaf,
            }),
        }))
    }

    async fn get_inclusion_proof(
        &self,
        request: Request<v1::GetInclusionProofRequest>,
    ) -> Result<Response<v1::GetInclusionProofResponse>, Status> {
        let credential = credential(&request, (self.0.pdp.clock)());
        let v1::GetInclusionProofRequest { sequence, size } = request.into_inner();
        let proof = self.0.inclusion_proof(&credential, sequence, size).await?;
        let (leaf_hash, proof) = proof;
        Ok(Response::new(v1::GetInclusionProofResponse {
            leaf_hash: leaf_hash.to_vec(),
            hashes: hashes(&proof),
            size: proof.size,
            checkpoint: note(proof),
        }))
    }

    async fn get_consistency_proof(
        &self,
        request: Request<v1::GetConsistencyProofRequest>,
    ) -> Result<Response<v1::GetConsistencyProofResponse>, Status> {
        let credential = credential(&request, (self.0.pdp.clock)());
        let request = request.into_inner();
        let (first, second) = (request.first_size, request.second_size);
        let proof = self.0.consistency_proof(&credential, first, second).await?;
        Ok(Response::new(v1::GetConsistencyProofResponse {
            hashes: hashes(&proof),
            second_size: proof.size,
            checkpoint: note(proof),
        }))
    }
}

fn hashes(proof: &SizedProof) -> Vec<Vec<u8>> {
    proof.hashes.iter().map(|hash| hash.to_vec()).collect()
}

fn note(proof: SizedProof) -> String {
    proof.checkpoint.map_or_else(String::new, |c| c.note)
}

fn filter(request: v1::ListEventsRequest) -> Result<EventFilter, Status> {
    if request.types.len() > EventType::ALL.len() {
        return Err(limit("types", request.types.len(), EventType::ALL.len()));
    }
    for name in &request.types {
        if !EventType::ALL.iter().any(|kind| kind.as_str() == name) {
            let known: Vec<&str> = EventType::ALL.iter().map(|kind| kind.as_str()).collect();
            return Err(field(
                "types",
                format!("a type is one of {}", known.join(", ")),
            ));
        }
    }
    let effect = match v1::Effect::try_from(request.effect) {
        Ok(v1::Effect::Unspecified) => None,
        Ok(v1::Effect::Allow) => Some(Effect::Allow),
        Ok(v1::Effect::Deny) => Some(Effect::Deny),
        Err(_) => return Err(field("effect", "is not a known effect")),
    };
    Ok(EventFilter {
        types: request.types,
        actor_id: optional("actor_id", request.actor_id, 1024)?,
        resource_id: optional("resource_id", request.resource_id, 1024)?,
        action_id: None,
        effect,
        with_inputs: false,
        start_time: time("start_time", request.start_time)?,
        end_time: time("end_time", request.end_time)?,
    })
}
