//! `zta.v1.AuthenticationService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use zta_proto::v1;
use zta_proto::v1::authentication_service_server::AuthenticationService;

use super::{bounded, consistency_token, timestamp, token_of, wire_uid};
use crate::api::caller::credential;
use crate::api::status::field;
use crate::model::EntityUid;
use crate::operations::Operations;
use crate::operations::revocation::Revoked;

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
            proof_interval_s: self.0.pdp.key_proofs.interval().map_or(0, |interval| {
                u32::try_from(interval.whole_seconds()).unwrap_or(u32::MAX)
            }),
        }))
    }

    async fn exchange_token(
        &self,
        request: Request<v1::ExchangeTokenRequest>,
    ) -> Result<Response<v1::ExchangeTokenResponse>, Status> {
        use v1::exchange_token_request::Exchange;
        let credential = credential(&request, (self.0.pdp.clock)());
        let seconds = |s: u32| time::Duration::seconds(s.into());
        let response = match request.into_inner().exchange {
            None => return Err(field("exchange", "is missing: delegate or act")),
            Some(Exchange::Delegate(wire)) => {
                bounded("delegate.agent", &wire.agent, 512)?;
                let lifetime = seconds(wire.lifetime_s);
                let (granted, decision) = self
                    .0
                    .delegate(&credential, &wire.agent, wire.scope, lifetime, &wire.note)
                    .await?;
                v1::ExchangeTokenResponse {
                    token: granted.grant,
                    expire_time: timestamp(granted.expire_time),
                    consistency_token: consistency_token(&decision),
                    ..Default::default()
                }
            }
            Some(Exchange::Act(wire)) => {
                let lifetime = seconds(wire.lifetime_s);
                let exchange = self
                    .0
                    .exchange(&credential, &wire.grant, wire.scope, lifetime);
                let exchanged = self.0.attempt(&credential, exchange).await?;
                let log_id = self.0.pdp.audit.log_id();
                v1::ExchangeTokenResponse {
                    token: exchanged.token.token,
                    expire_time: timestamp(exchanged.token.expire_time),
                    subject: Some(wire_uid(&exchanged.subject)),
                    actors: exchanged.actors.iter().map(wire_uid).collect(),
                    scope: exchanged.scope,
                    consistency_token: token_of(log_id, exchanged.sequence + 1),
                }
            }
        };
        Ok(Response::new(response))
    }

    async fn revoke_tokens(
        &self,
        request: Request<v1::RevokeTokensRequest>,
    ) -> Result<Response<v1::RevokeTokensResponse>, Status> {
        use v1::revoke_tokens_request::Revoked as Wire;
        let credential = credential(&request, (self.0.pdp.clock)());
        let wire = request.into_inner();
        let of = match wire.revoked {
            None => return Err(field("revoked", "is missing: principal or token_id")),
            Some(Wire::Principal(uid)) => Revoked::Principal(EntityUid::new(&uid.r#type, &uid.id)),
            Some(Wire::TokenId(id)) => Revoked::Token(id),
        };
        let decision = self.0.revoke_tokens(&credential, &of, &wire.note).await?;
        Ok(Response::new(v1::RevokeTokensResponse {
            consistency_token: consistency_token(&decision),
        }))
    }

    async fn authenticate(
        &self,
        request: Request<v1::AuthenticateRequest>,
    ) -> Result<Response<v1::AuthenticateResponse>, Status> {
        use v1::authenticate_request::Proof;
        let credential = credential(&request, (self.0.pdp.clock)());
        let (token, principal) = match request.into_inner().proof {
            None => return Err(field("proof", "is missing")),
            Some(Proof::SignedChallenge(proof)) => {
                let (challenge, signature) = (&proof.challenge, &proof.signature);
                let login = self.0.authenticate(&credential, challenge, signature);
                let (token, caller) = self.0.attempt(&credential, login).await?;
                (token, caller.principal.uid())
            }
            Some(Proof::Certificate(proof)) => {
                let der = &proof.certificate_der;
                let login = self.0.authenticate_by_certificate(&credential, der);
                let login = self.0.attempt(&credential, login).await?;
                (login.token, login.principal)
            }
            Some(Proof::IdentityToken(proof)) => {
                let token = &proof.token;
                let login = self.0.authenticate_by_identity_token(&credential, token);
                let login = self.0.attempt(&credential, login).await?;
                (login.token, login.principal)
            }
        };
        Ok(Response::new(v1::AuthenticateResponse {
            access_token: token.token,
            expire_time: timestamp(token.expire_time),
            principal: Some(wire_uid(&principal)),
        }))
    }
}
