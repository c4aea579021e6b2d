//! A server with a large policy set: it lives while it loads, and decides nothing before.

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use zta_client::v1;

use crate::support::Setup;
use crate::support::http::{anonymous, get_at};
use crate::support::rpc::{allowed, authorize, call, refused};

#[tokio::test]
async fn while_a_large_set_loads_the_server_lives_and_is_not_ready() {
    let mut server = Setup::sqlite().start().await;
    let research = server.agent("research", &["researcher"]).await;
    let policy = |n| {
        format!(
            "@id(\"p{n}\") permit (principal == ZTA::Agent::\"spiffe://zta.local/agent/a{n}\", \
             action, resource) when {{ context.zta.authentication.age_seconds < {n} }};\n"
        )
    };
    let patch = v1::PolicyPatch {
        put_policies: vec![v1::SourceFile {
            name: "many.cedar".to_owned(),
            text: (0..10_000).map(policy).collect(),
        }],
        ..v1::PolicyPatch::default()
    };
    let request = v1::ApplyRequest {
        patch: Some(patch),
        expected_revision: 1,
        ..v1::ApplyRequest::default()
    };
    let admin = server.admin();
    admin.policies().apply(request).await.expect("applies");
    allowed(&research, call("web_search")).await;
    server.stop().await;

    let (endpoint, ca) = (server.endpoint().to_owned(), server.data().join("ca.pem"));
    let (asker, mut health) = (research.clone(), HealthClient::new(anonymous(&server)));
    let loading = tokio::spawn(async move {
        let get = async |path| get_at(&endpoint, &ca, path).await;
        let is_loading = async || {
            let ready = get("/readyz").await.ok();
            ready.is_some_and(|(status, why)| status == 503 && why.contains("being loaded"))
        };
        while !is_loading().await {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        let alive = get("/livez").await.expect("an answer");
        let request = HealthCheckRequest::default();
        let served = health.check(request).await.expect("health").into_inner();
        let answer = authorize(&asker, call("web_search")).await;
        assert!(is_loading().await, "it was loading all the while");
        assert_eq!(alive.0, 200);
        assert_eq!(served.status(), ServingStatus::NotServing);
        assert_eq!(refused(answer), "NOT_READY");
    });
    server.start().await;
    loading.await.expect("seen while it loaded");
    assert_eq!(allowed(&research, call("web_search")).await.revision, 2);
    assert_eq!(server.zta(&["health"]).status.code(), Some(0));
    server.assert_verifies();
}
