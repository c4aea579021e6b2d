//! The scripted answers: the tool's name says which one.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zta_client::v1::{
    self, agent_service_server::AgentService, authentication_service_server::AuthenticationService,
    authorization_service_server::AuthorizationService,
};

use super::{
    Seen,
    pki::{Pki, SPIFFE_ID, seconds_from_now},
    stream::Peer,
};

type Answer<T> = Result<Response<T>, Status>;

#[derive(Clone)]
pub(crate) struct Answers {
    pub(crate) pki: Arc<Pki>,
    pub(crate) seen: Arc<Seen>,
}

pub(crate) fn refusal(code: Code, reason: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, "zta", []);
    Status::with_error_details(code, "refused", details)
}

fn token() -> v1::AuthenticateResponse {
    v1::AuthenticateResponse {
        access_token: "a.jwt.token".into(),
        ..Default::default()
    }
}

fn peer<T>(request: &Request<T>) -> Option<Vec<u8>> {
    request.extensions().get::<Peer>().and_then(|p| p.0.clone())
}

impl Answers {
    fn authenticate<T>(&self, request: &Request<T>) -> Result<Vec<u8>, Status> {
        let certificate = peer(request);
        let mut certificates = self.seen.certificates.lock().expect("lock");
        if certificates.last() != Some(&certificate) {
            certificates.push(certificate.clone());
        }
        certificate.ok_or_else(|| refusal(Code::Unauthenticated, "CREDENTIAL_MISSING"))
    }
}

#[tonic::async_trait]
impl AuthorizationService for Answers {
    async fn authorize(
        &self,
        request: Request<v1::AuthorizeRequest>,
    ) -> Answer<v1::AuthorizeResponse> {
        self.authenticate(&request)?;
        let request = request.into_inner();
        let tool = request.resource.clone().unwrap_or_default().id;
        self.seen
            .requests
            .lock()
            .expect("lock")
            .push(request.clone());
        let mut response = v1::AuthorizeResponse {
            effect: v1::Effect::Allow.into(),
            message: "permitted by `all`".into(),
            decision_id: "0198c0de".into(),
            sequence: 7,
            correlation_id: request.correlation_id,
            ..Default::default()
        };
        match tool.as_str() {
            "allowed" => {}
            "denied" => {
                response.effect = v1::Effect::Deny.into();
                response.reason = v1::DenyReason::Forbidden.into();
                response.message = "forbidden by `no-secrets`".into();
                response.policy_ids = vec!["no-secrets".into()];
            }
            "unspecified" => response.effect = 0,
            "unknown effect" => response.effect = 7,
            "contradiction" => response.reason = v1::DenyReason::Stale.into(),
            "without id" => response.decision_id.clear(),
            "of another" => response.correlation_id = "another".into(),
            "obliged" => response.obligations.push(v1::Obligation {
                name: "notify".into(),
                policy_id: "all".into(),
            }),
            "slow" => tokio::time::sleep(Duration::from_secs(30)).await,
            "broken" => return Err(refusal(Code::Internal, "INTERNAL")),
            "overloaded" => return Err(refusal(Code::Unavailable, "OVERLOADED")),
            "unenrolled" => return Err(refusal(Code::Unauthenticated, "KEY_UNKNOWN")),
            other => panic!("no answer for {other}"),
        }
        Ok(Response::new(response))
    }

    async fn batch_authorize(
        &self,
        _: Request<v1::BatchAuthorizeRequest>,
    ) -> Answer<v1::BatchAuthorizeResponse> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn list_permitted(
        &self,
        _: Request<v1::ListPermittedRequest>,
    ) -> Answer<v1::ListPermittedResponse> {
        Err(Status::unimplemented("not scripted"))
    }

    /// The first of all is told to come again; `refused` is refused.
    async fn report_outcome(
        &self,
        request: Request<v1::ReportOutcomeRequest>,
    ) -> Answer<v1::ReportOutcomeResponse> {
        use v1::report_outcome_item::Result as Item;
        self.authenticate(&request)?;
        let mut seen = self.seen.outcomes.lock().expect("lock");
        let answer = |outcome: v1::CallOutcome| {
            let first = seen.is_empty();
            let error = |code: Code, reason: &str| {
                Item::Error(v1::ItemError {
                    code: code as i32,
                    message: "refused".to_owned(),
                    reason: reason.to_owned(),
                })
            };
            let result = match outcome.labels.first().map(String::as_str) {
                Some("refused") => error(Code::NotFound, "DECISION_NOT_FOUND"),
                _ if first => error(Code::Unavailable, "OVERLOADED"),
                _ => Item::Recorded(v1::RecordedOutcome::default()),
            };
            let decision_id = outcome.decision_id.clone();
            seen.push(outcome);
            v1::ReportOutcomeItem {
                decision_id,
                result: Some(result),
            }
        };
        let outcomes = request.into_inner().outcomes;
        let items = outcomes.into_iter().map(answer).collect();
        Ok(Response::new(v1::ReportOutcomeResponse { items }))
    }

    async fn explain(&self, _: Request<v1::ExplainRequest>) -> Answer<v1::ExplainResponse> {
        Err(Status::unimplemented("not scripted"))
    }
}

#[tonic::async_trait]
impl AuthenticationService for Answers {
    async fn exchange_token(
        &self,
        _: Request<v1::ExchangeTokenRequest>,
    ) -> Answer<v1::ExchangeTokenResponse> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn revoke_tokens(
        &self,
        _: Request<v1::RevokeTokensRequest>,
    ) -> Answer<v1::RevokeTokensResponse> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn get_challenge(
        &self,
        _: Request<v1::GetChallengeRequest>,
    ) -> Answer<v1::GetChallengeResponse> {
        Ok(Response::new(v1::GetChallengeResponse {
            challenge: b"a challenge".to_vec(),
            ..v1::GetChallengeResponse::default()
        }))
    }

    async fn authenticate(
        &self,
        request: Request<v1::AuthenticateRequest>,
    ) -> Answer<v1::AuthenticateResponse> {
        use v1::authenticate_request::Proof;
        if matches!(&request.get_ref().proof, Some(Proof::Certificate(_))) {
            return Ok(Response::new(token()));
        }
        let der = Answers::authenticate(self, &request)?;
        let (_, certificate) = X509Certificate::from_der(&der).expect("certificate");
        let key = &certificate.public_key().subject_public_key.data;
        let Some(v1::authenticate_request::Proof::SignedChallenge(proof)) =
            request.into_inner().proof
        else {
            return Err(refusal(Code::InvalidArgument, "FIELD_INVALID"));
        };
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key)
            .verify(b"zta-challenge-v1\0a challenge", &proof.signature)
            .map_err(|_| refusal(Code::Unauthenticated, "SIGNATURE_INVALID"))?;
        Ok(Response::new(token()))
    }
}

#[tonic::async_trait]
impl AgentService for Answers {
    async fn enroll(&self, request: Request<v1::EnrollRequest>) -> Answer<v1::EnrollResponse> {
        self.seen.enrolls.fetch_add(1, Ordering::SeqCst);
        let request = request.into_inner();
        if request.join_token != self.pki.join_token() {
            return Err(refusal(Code::Unauthenticated, "JOIN_TOKEN_INVALID"));
        }
        let certificate_pem = self
            .pki
            .certify_request(&request.csr_der)
            .ok_or_else(|| refusal(Code::InvalidArgument, "CSR_INVALID"))?;
        Ok(Response::new(v1::EnrollResponse {
            certificate: Some(v1::Certificate {
                certificate_pem,
                ca_bundle_pem: self.pki.ca_pem(),
                spiffe_id: SPIFFE_ID.into(),
                instance_id: "instance-1".into(),
                ..Default::default()
            }),
            ..Default::default()
        }))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Answer<v1::RenewResponse> {
        // A proxy sees no certificate but the one in the message.
        let der = match request.get_ref().certificate_der.clone() {
            der if peer(&request).is_none() && !der.is_empty() => der,
            _ => self.authenticate(&request)?,
        };
        self.seen.renews.fetch_add(1, Ordering::SeqCst);
        let (_, certificate) = X509Certificate::from_der(&der).expect("certificate");
        let key = rcgen::SubjectPublicKeyInfo::from_der(certificate.public_key().raw)
            .map_err(|_| refusal(Code::Internal, "INTERNAL"))?;
        let (from, to) = (seconds_from_now(-60), seconds_from_now(3_600));
        Ok(Response::new(v1::RenewResponse {
            certificate: Some(v1::Certificate {
                certificate_pem: self.pki.certify(&key, from, to),
                ca_bundle_pem: self.pki.ca_pem(),
                spiffe_id: SPIFFE_ID.into(),
                ..Default::default()
            }),
            ..Default::default()
        }))
    }

    async fn register(&self, _: Request<v1::RegisterRequest>) -> Answer<v1::RegisterResponse> {
        Err(refusal(Code::AlreadyExists, "AGENT_EXISTS"))
    }

    async fn create_join_token(
        &self,
        _: Request<v1::CreateJoinTokenRequest>,
    ) -> Answer<v1::CreateJoinTokenResponse> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn update(&self, _: Request<v1::UpdateRequest>) -> Answer<v1::UpdateResponse> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn recover(&self, _: Request<v1::RecoverRequest>) -> Answer<v1::RecoverResponse> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn list_instances(
        &self,
        _: Request<v1::ListInstancesRequest>,
    ) -> Answer<v1::ListInstancesResponse> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn ban(&self, _: Request<v1::BanRequest>) -> Answer<v1::BanResponse> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn list(
        &self,
        _: Request<v1::AgentServiceListRequest>,
    ) -> Answer<v1::AgentServiceListResponse> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn get(
        &self,
        _: Request<v1::AgentServiceGetRequest>,
    ) -> Answer<v1::AgentServiceGetResponse> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn suspend(&self, _: Request<v1::SuspendRequest>) -> Answer<v1::SuspendResponse> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn isolate(&self, _: Request<v1::IsolateRequest>) -> Answer<v1::IsolateResponse> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn reinstate(&self, _: Request<v1::ReinstateRequest>) -> Answer<v1::ReinstateResponse> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn revoke(&self, _: Request<v1::RevokeRequest>) -> Answer<v1::RevokeResponse> {
        Err(Status::unimplemented("not scripted"))
    }
}
