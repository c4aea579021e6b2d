//! `zta.v1.AuditService`.

use std::sync::Arc;

use tonic::{Code, Request, Response, Status};
use zta_proto::v1;
use zta_proto::v1::audit_service_server::AuditService;
use zta_proto::v1::get_event_request::Event;

use super::timestamp;
use crate::api::caller::credential;
use crate::api::status::{field, status};
use crate::keys::cursor::CursorSeal;
use crate::operations::Operations;
use crate::operations::proofs::{EventName, Receipted, SizedProof};

/// The door.
pub(crate) struct AuditDoor(
    pub(crate) Arc<Operations>,
    /// Seals where a page of events ends.
    pub(crate) Arc<CursorSeal>,
);

#[tonic::async_trait]
impl AuditService for AuditDoor {
    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        let credential = credential(&request, (self.0.pdp.clock)());
        super::events::list(&self.0, &self.1, &credential, request.into_inner()).await
    }

    type WatchEventsStream = super::events::Events;

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let credential = credential(&request, (self.0.pdp.clock)());
        super::events::watch(&self.0, credential, request.into_inner()).await
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
