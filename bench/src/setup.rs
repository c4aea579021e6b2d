//! What the real server needs before it is driven: a policy set, an enrolled agent.

use std::path::Path;

use zta_client::{Client, Credential};
use zta_proto::v1;

use crate::{Result, policies, server::RealServer};

/// A larger set is sent by several patches, each a message that every server takes.
const MESSAGE_BYTES_MAX: usize = 3_000_000;

/// Adds the bench's policies to those in force, registers and enrolls an agent.
///
/// # Errors
/// The server refuses one of the steps.
pub async fn prepare(server: &RealServer) -> Result<Credential> {
    let source = v1::PolicySource {
        policies: vec![v1::SourceFile {
            name: "bench.cedar".to_owned(),
            text: include_str!("bench.cedar").to_owned(),
        }],
        schemas: Vec::new(),
        tests: Vec::new(),
    };
    apply(&server.admin()?, source).await?;
    enroll(server, &["bench"]).await
}

/// Registers and enrolls the generator's agent.
///
/// # Errors
/// The server refuses one of the steps.
pub async fn enroll(server: &RealServer, roles: &[&str]) -> Result<Credential> {
    enroll_as(server, policies::AGENT, roles).await
}

/// Registers and enrolls an agent.
///
/// # Errors
/// The server refuses one of the steps.
pub async fn enroll_as(server: &RealServer, name: &str, roles: &[&str]) -> Result<Credential> {
    let register = v1::RegisterRequest {
        name: name.to_owned(),
        roles: roles.iter().map(ToString::to_string).collect(),
        owner: String::new(),
        ..Default::default()
    };
    let mut agents = server.admin()?.agents();
    agents
        .register(register)
        .await
        .map_err(zta_client::Error::from)?;
    let request = v1::CreateJoinTokenRequest {
        agent: name.to_owned(),
    };
    let token = agents
        .create_join_token(request)
        .await
        .map_err(zta_client::Error::from)?
        .into_inner()
        .join_token;
    let folder: &Path = &server.dir().join(format!("agent-{name}"));
    Ok(zta_client::enroll(server.endpoint(), &token, folder).await?)
}

/// Adds files to the policies in force.
///
/// # Errors
/// The server refuses.
pub async fn apply(admin: &Client, source: v1::PolicySource) -> Result<()> {
    let bytes: usize = source.policies.iter().map(|file| file.text.len()).sum();
    if bytes <= MESSAGE_BYTES_MAX {
        return apply_whole(admin, source).await;
    }
    let mut patch = v1::PolicyPatch {
        put_schemas: source.schemas,
        ..Default::default()
    };
    let mut bytes = 0;
    for file in source.policies {
        if bytes + file.text.len() > MESSAGE_BYTES_MAX {
            apply_patch(admin, std::mem::take(&mut patch)).await?;
            bytes = 0;
        }
        bytes += file.text.len();
        patch.put_policies.push(file);
    }
    apply_patch(admin, patch).await?;
    Ok(())
}

async fn apply_whole(admin: &Client, added: v1::PolicySource) -> Result<()> {
    let in_force = in_force(admin, false).await?;
    let mut source = in_force.source.unwrap_or_default();
    source.policies.extend(added.policies);
    source.schemas.extend(added.schemas);
    let request = v1::ApplyRequest {
        source: Some(source),
        expected_revision: in_force.revision.unwrap_or_default().number,
        message: "the policies of the benchmark".to_owned(),
        ..Default::default()
    };
    let mut policies = admin.policies();
    policies
        .apply(request)
        .await
        .map_err(zta_client::Error::from)?;
    Ok(())
}

/// Changes the policies in force; the number of the new revision.
///
/// # Errors
/// The server refuses.
pub async fn apply_patch(admin: &Client, patch: v1::PolicyPatch) -> Result<u64> {
    let revision = in_force(admin, true).await?.revision.unwrap_or_default();
    apply_patch_to(admin, patch, revision.number).await
}

/// As [`apply_patch`], without asking which revision is in force.
///
/// # Errors
/// The server refuses.
pub async fn apply_patch_to(
    admin: &Client,
    patch: v1::PolicyPatch,
    expected_revision: u64,
) -> Result<u64> {
    let request = v1::ApplyRequest {
        patch: Some(patch),
        expected_revision,
        message: "the policies of the benchmark".to_owned(),
        ..Default::default()
    };
    let mut policies = admin.policies();
    let answer = policies
        .apply(request)
        .await
        .map_err(zta_client::Error::from)?;
    Ok(answer.into_inner().revision.unwrap_or_default().number)
}

/// The revision in force, with its files or with their digests.
///
/// # Errors
/// The server refuses.
pub async fn in_force(admin: &Client, digests_only: bool) -> Result<v1::GetRevisionResponse> {
    let request = v1::GetRevisionRequest {
        number: 0,
        digests_only,
    };
    let mut policies = admin.policies();
    let answer = policies
        .get_revision(request)
        .await
        .map_err(zta_client::Error::from)?;
    Ok(answer.into_inner())
}
