//! What is beside the RPCs: health, reflection, the plain HTTP paths, and calls that are
//! none.

use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tower::ServiceExt as _;
use zta_client::v1;

use crate::support::Setup;
use crate::support::http::{anonymous, channel_as, get};
use crate::support::rpc::{allowed, call, refused};

#[tokio::test]
async fn the_plain_paths_answer_without_a_certificate() {
    let server = Setup::sqlite().start().await;
    let research = server.agent("research", &["researcher"]).await;
    allowed(&research, call("web_search")).await;
    assert_eq!(get(&server, "/livez").await, (200, "ok\n".to_owned()));
    crate::support::eventually("ready", async || match get(&server, "/readyz").await {
        (200, body) if body == "ready\n" => Ok(()),
        other => Err(other),
    })
    .await;
    let (status, metrics) = get(&server, "/metrics").await;
    assert_eq!(status, 200);
    let line = |name: &str, label: &str| {
        let line = metrics
            .lines()
            .find(|l| l.starts_with(name) && l.contains(label));
        let line = line.unwrap_or_else(|| panic!("no {name} {label} in\n{metrics}"));
        line.rsplit(' ')
            .next()
            .and_then(|n| n.parse::<f64>().ok())
            .expect("a number")
    };
    assert_eq!(line("zta_decisions_total", "effect=\"allow\"") as u64, 1);
    let authorize = "method=\"/zta.v1.AuthorizationService/Authorize\"";
    assert_eq!(line("zta_rpc_calls_total", authorize) as u64, 1);
    let ca = std::fs::read_to_string(server.data().join("ca.pem")).expect("ca.pem");
    assert_eq!(get(&server, "/ca.pem").await, (200, ca));
    let (status, body) = get(&server, "/etc/passwd").await;
    assert!(
        !(200..300).contains(&status) || body.is_empty(),
        "{status} {body}"
    );
    assert_eq!(server.zta(&["health"]).status.code(), Some(0));
}

#[tokio::test]
async fn health_and_both_versions_of_reflection() {
    let server = Setup::sqlite().start().await;
    let mut health = HealthClient::new(anonymous(&server));
    for service in ["", "zta.v1.AuthorizationService"] {
        crate::support::eventually(service, async || {
            let request = HealthCheckRequest {
                service: service.to_owned(),
            };
            let answer = health
                .check(request)
                .await
                .map_err(|e| e.to_string())?
                .into_inner();
            match answer.status() {
                ServingStatus::Serving => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
    let listed = [
        v1_services(anonymous(&server)).await,
        v1alpha_services(anonymous(&server)).await,
    ];
    for services in listed {
        for service in [
            "Authorization",
            "Authentication",
            "Agent",
            "Policy",
            "Audit",
        ] {
            let name = format!("zta.v1.{service}Service");
            assert!(services.contains(&name), "{name} in {services:?}");
        }
        assert!(
            services.contains(&"grpc.health.v1.Health".to_owned()),
            "{services:?}"
        );
    }
}

async fn v1_services(channel: Channel) -> Vec<String> {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(channel);
    let answers = client
        .server_reflection_info(tokio_stream::once(request))
        .await;
    let mut answers = answers.expect("reflection").into_inner();
    let answer = answers.message().await.expect("an answer").expect("one");
    match answer.message_response {
        Some(MessageResponse::ListServicesResponse(list)) => {
            list.service.into_iter().map(|s| s.name).collect()
        }
        other => panic!("{other:?}"),
    }
}

async fn v1alpha_services(channel: Channel) -> Vec<String> {
    use tonic_reflection::pb::v1alpha::ServerReflectionRequest;
    use tonic_reflection::pb::v1alpha::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1alpha::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1alpha::server_reflection_response::MessageResponse;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(channel);
    let answers = client
        .server_reflection_info(tokio_stream::once(request))
        .await;
    let mut answers = answers.expect("reflection").into_inner();
    let answer = answers.message().await.expect("an answer").expect("one");
    match answer.message_response {
        Some(MessageResponse::ListServicesResponse(list)) => {
            list.service.into_iter().map(|s| s.name).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// A channel that sends every call to another method than the client believes.
fn misdirected(
    channel: Channel,
    path: &'static str,
) -> impl tower::Service<
    http::Request<tonic::body::Body>,
    Response = http::Response<tonic::body::Body>,
    Error = tonic::transport::Error,
    Future: Send,
> + Clone {
    channel.map_request(move |mut request: http::Request<tonic::body::Body>| {
        let uri = format!("https://localhost{path}").parse().expect("a URI");
        *request.uri_mut() = uri;
        request
    })
}

#[tokio::test]
async fn a_message_that_does_not_decode_is_the_callers_error() {
    use v1::authorization_service_client::AuthorizationServiceClient;
    use v1::policy_service_client::PolicyServiceClient;
    let server = Setup::sqlite().start().await;
    let administrator = || channel_as(&server, &server.data().join("admin"));
    // Field 1 is a number here and a message there.
    let wrong_type = misdirected(administrator(), "/zta.v1.AuthorizationService/Authorize");
    let request = v1::GetRevisionRequest {
        number: 7,
        ..Default::default()
    };
    let answer = PolicyServiceClient::new(wrong_type)
        .get_revision(request)
        .await;
    let status = answer.expect_err("garbage");
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status:?}");
    assert_eq!(crate::support::rpc::reason(&status), "MESSAGE_INVALID");
    // Field 3 is bytes here and a text there.
    let no_text = misdirected(administrator(), "/zta.v1.PolicyService/Apply");
    let request = v1::AuthorizeRequest {
        arguments_json: b"\xff\xfe".to_vec(),
        ..Default::default()
    };
    let answer = AuthorizationServiceClient::new(no_text)
        .authorize(request)
        .await;
    assert_eq!(refused(answer), "MESSAGE_INVALID");
    let nowhere = misdirected(administrator(), "/zta.v1.AuthorizationService/Launch");
    let answer = AuthorizationServiceClient::new(nowhere)
        .authorize(call("x"))
        .await;
    assert_eq!(
        answer.expect_err("no such method").code(),
        tonic::Code::Unimplemented
    );
    let (status, _) = get(&server, "/livez").await;
    assert_eq!(status, 200, "and it goes on");
}

#[tokio::test]
async fn plain_text_on_loopback_serves_and_nobody_can_authenticate() {
    let server = Setup::sqlite().set("ZTA_PLAINTEXT", true).start().await;
    let client = zta_client::Client::plaintext(server.endpoint()).expect("a client");
    let answer = client.authorization().authorize(call("web_search")).await;
    assert_eq!(refused(answer), "CREDENTIAL_MISSING");
    assert!(server.log().contains("plain text"), "and the log warns");
    assert_eq!(server.zta(&["health"]).status.code(), Some(0));
}
