//! All doors on one port: gRPC with health and reflection, and the plain HTTP paths.

use std::sync::Arc;
use std::time::Duration;

use tonic::service::{Routes, RoutesBuilder};
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::HealthService;
use zta_proto::v1;
use zta_proto::v1::agent_service_server::AgentServiceServer;
use zta_proto::v1::audit_service_server::AuditServiceServer;
use zta_proto::v1::authentication_service_server::AuthenticationServiceServer;
use zta_proto::v1::authorization_service_server::AuthorizationServiceServer;
use zta_proto::v1::certificate_authority_service_server::CertificateAuthorityServiceServer;
use zta_proto::v1::entity_service_server::EntityServiceServer;
use zta_proto::v1::policy_service_server::PolicyServiceServer;
use zta_proto::v1::user_service_server::UserServiceServer;

use super::gate::Gate;
use super::grpc::agents::AgentDoor;
use super::grpc::audit::AuditDoor;
use super::grpc::authentication::AuthenticationDoor;
use super::grpc::authorities::AuthorityDoor;
use super::grpc::authorization::AuthorizationDoor;
use super::grpc::entities::EntityDoor;
use super::grpc::policies::PolicyDoor;
use super::grpc::users::UserDoor;
use super::http::{Pages, routes};
use super::log;
use super::observe::Observe;
use super::tls::Incoming;
use crate::config::Limits;
use crate::keys::cursor::CursorSeal;
use crate::operations::Operations;
use crate::telemetry::Metrics;

/// Bytes of a message of those who have proved nothing yet: a join token and a CSR, the
/// token of an identity provider, the name of a service.
const ANONYMOUS_BYTES_MAX: usize = 64 * 1024;

/// Everything that the doors need.
pub(crate) struct Doors {
    pub(crate) operations: Arc<Operations>,
    pub(crate) metrics: Metrics,
    /// Seals where a page of what is permitted, or of events, ends.
    pub(crate) cursors: Arc<CursorSeal>,
    pub(crate) pages: Pages,
    pub(crate) limits: Limits,
    /// Whether calls are traced.
    pub(crate) spans: bool,
}

/// Health of the server as `grpc.health.v1` shows it.
pub(crate) type Health = tonic_health::server::HealthReporter;

impl Doors {
    /// Serves connections until `stop` completes, then lets calls in flight end. The
    /// caller sets the deadline: by itself this waits for the last open call.
    ///
    /// # Errors
    /// When the transport fails.
    pub(crate) async fn serve(
        self,
        incoming: Incoming,
        stop: impl Future<Output = ()>,
        health: Health,
    ) -> Result<(), tonic::transport::Error> {
        let max = self.limits.message_bytes_max;
        let operations = || Arc::clone(&self.operations);
        let gate = Gate(Arc::clone(&self.operations.pdp));
        let authorization = AuthorizationDoor {
            operations: operations(),
            metrics: self.metrics.clone(),
            cursors: Arc::clone(&self.cursors),
        };
        let mut services = Routes::builder();
        services
            .add_service(
                AuthorizationServiceServer::new(authorization).max_decoding_message_size(max),
            )
            .add_service(
                AuthenticationServiceServer::new(AuthenticationDoor(operations()))
                    .max_decoding_message_size(max.min(ANONYMOUS_BYTES_MAX)),
            )
            .add_service(
                AgentServiceServer::new(AgentDoor(operations()))
                    .max_decoding_message_size(max.min(ANONYMOUS_BYTES_MAX)),
            )
            .add_service(
                UserServiceServer::new(UserDoor(operations()))
                    .max_decoding_message_size(max.min(ANONYMOUS_BYTES_MAX)),
            )
            .add_service(
                CertificateAuthorityServiceServer::new(AuthorityDoor(operations()))
                    .max_decoding_message_size(max.min(ANONYMOUS_BYTES_MAX)),
            )
            .add_service(
                PolicyServiceServer::new(PolicyDoor(operations()))
                    .max_decoding_message_size(self.limits.policy_message_bytes_max),
            )
            .add_service(
                EntityServiceServer::new(EntityDoor(operations()))
                    .max_decoding_message_size(self.limits.entity_message_bytes_max),
            )
            .add_service(
                AuditServiceServer::new(AuditDoor(operations(), Arc::clone(&self.cursors)))
                    .max_decoding_message_size(max),
            );
        services.add_service(
            HealthServer::new(HealthService::from_health_reporter(health))
                .max_decoding_message_size(max.min(ANONYMOUS_BYTES_MAX)),
        );
        add_reflection(&mut services);
        let router = services
            .routes()
            .into_axum_router()
            .merge(routes(self.pages))
            .merge(log::routes(operations()));
        tonic::transport::Server::builder()
            .accept_http1(true)
            .tcp_nodelay(true)
            .max_concurrent_streams(self.limits.streams_per_connection_max)
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .timeout(Duration::from_millis(self.limits.request_timeout_ms))
            .layer(Observe::new(self.metrics, self.spans))
            .layer(gate)
            .add_routes(Routes::from(router))
            .serve_with_incoming_shutdown(incoming, stop)
            .await
    }
}

/// Reflection, in the version of today and in the one that older tools speak.
fn add_reflection(services: &mut RoutesBuilder) {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    match (builder().build_v1(), builder().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => {
            services
                .add_service(v1.max_decoding_message_size(ANONYMOUS_BYTES_MAX))
                .add_service(v1alpha.max_decoding_message_size(ANONYMOUS_BYTES_MAX));
        }
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "no reflection: the descriptors do not load");
        }
    }
}
