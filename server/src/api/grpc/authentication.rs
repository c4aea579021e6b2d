//! `zta.v1.AuthenticationService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use zta_proto::v1;
use zta_proto::v1::authentication_service_server::AuthenticationService;

use super::{timestamp, wire_uid};
use crate::api::caller::credential;
use crate::api::status::field;
use crate::operations::Operations;

/// The door.
pub(crate) struct AuthenticationDoor(pub(crate) Arc<Operations>);

#[tonic::async_trait]
impl AuthenticationService for AuthenticationDoor {
    async fn get_challenge(
        &self,
        request: Request<v1::GetChallengeRequest>,
    ) -> Result<Response<v1::GetChallengeResponse>, Status> {
        let credential = credential(&request, (self.0.pdp.clock)());
        let challenge = self.0.challenge(&credential).await?;
        Ok(Response::new(v1::GetChallengeResponse {
            challenge: challenge.bytes.to_vec(),
            expire_time: timestamp(challenge.expire_time),
        }))
    }

    async fn authenticate(
        &self,
        request: Request<v1::AuthenticateRequest>,
    ) -> Result<Response<v1::AuthenticateResponse>, Status> {
        let credential = credential(&request, (self.0.pdp.clock)());
        let Some(v1::authenticate_request::Proof::SignedChallenge(proof)) =
            request.into_inner().proof
        else {
            return Err(field("proof", "is missing"));
        };
        let (token, caller) = self
            .0
            .authenticate(&credential, &proof.challenge, &proof.signature)
            .await?;
        Ok(Response::new(v1::AuthenticateResponse {
            access_token: token.token,
            expire_time: timestamp(token.expire_time),
            principal: Some(wire_uid(&caller.principal.uid())),
        }))
    }
}
