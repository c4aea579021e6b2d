//! What the real server needs before it is driven: a policy set, an enrolled agent.

use std::path::Path;

use zta_client::{Client, Credential};
use zta_proto::v1;

use crate::{Result, server::RealServer};

const AGENT: &str = "bench";

/// Adds the bench's policies to those in force, registers and enrolls an agent.
///
/// # Errors
/// The server refuses one of the steps.
pub async fn prepare(server: &RealServer) -> Result<Credential> {
    let admin = server.admin()?;
    apply_policies(&admin).await?;
    let register = v1::RegisterRequest {
        name: AGENT.to_owned(),
        roles: vec!["bench".to_owned()],
        owner: String::new(),
    };
    let mut agents = admin.agents();
    agents
        .register(register)
        .await
        .map_err(zta_client::Error::from)?;
    let request = v1::CreateJoinTokenRequest {
        agent: AGENT.to_owned(),
    };
    let token = agents
        .create_join_token(request)
        .await
        .map_err(zta_client::Error::from)?
        .into_inner()
        .join_token;
    let folder: &Path = &server.dir().join("agent");
    Ok(zta_client::enroll(server.endpoint(), &token, folder).await?)
}

async fn apply_policies(admin: &Client) -> Result<()> {
    let mut policies = admin.policies();
    let in_force = policies
        .get_revision(v1::GetRevisionRequest {
            number: 0,
            ..Default::default()
        })
        .await
        .map_err(zta_client::Error::from)?
        .into_inner();
    let mut source = in_force.source.unwrap_or_default();
    source.policies.push(v1::SourceFile {
        name: "bench.cedar".to_owned(),
        text: include_str!("bench.cedar").to_owned(),
    });
    let request = v1::ApplyRequest {
        source: Some(source),
        expected_revision: in_force.revision.unwrap_or_default().number,
        message: "the policies of the benchmark".to_owned(),
        ..Default::default()
    };
    policies
        .apply(request)
        .await
        .map_err(zta_client::Error::from)?;
    Ok(())
}
