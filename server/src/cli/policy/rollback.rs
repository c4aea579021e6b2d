//! `zta policy rollback`.

use zta_client::v1;

use super::log::applied;
use crate::cli::{Failure, Options};

pub(super) async fn rollback(
    options: &Options,
    number: Option<u64>,
    message: String,
    expected: Option<u64>,
) -> Result<(), Failure> {
    let client = options.client()?;
    let expected_revision = match expected {
        Some(expected) => expected,
        None => in_force(&client).await?,
    };
    let request = v1::RollbackRequest {
        number: number.unwrap_or(0),
        expected_revision,
        message,
    };
    let answer = client.policies().rollback(request).await?.into_inner();
    applied(options, &answer.revision.unwrap_or_default())
}

/// The number of the revision in force.
async fn in_force(client: &zta_client::Client) -> Result<u64, Failure> {
    let request = v1::ListRevisionsRequest {
        page_size: 1,
        page_token: String::new(),
    };
    let page = client.policies().list_revisions(request).await?;
    let newest = page.into_inner().revisions.into_iter().next();
    Ok(newest.map_or(0, |revision| revision.number))
}
