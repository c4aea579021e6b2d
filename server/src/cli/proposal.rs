//! `zta policy propose`, `proposals`, `approve` and `reject`: four eyes.

use std::path::PathBuf;

use serde_json::{Value, json};
use zta_client::v1;

use super::policy::{Offer, Origin, applied, not_applied, offer};
use super::{Failure, Options, line, printable, table, time_text};

pub(super) async fn propose(
    options: &Options,
    folders: &[PathBuf],
    message: String,
    expected: Option<u64>,
    origin: &Origin,
) -> Result<(), Failure> {
    let client = options.client()?;
    let Offer {
        number,
        patch,
        sent,
    } = offer(options, &client, folders, expected).await?;
    let request = v1::ProposeRequest {
        source: None,
        patch: Some(patch.clone()),
        expected_revision: number,
        message,
        commit: origin.commit(folders),
        signature: origin.signature()?,
    };
    let answer = match client.policies().propose(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return not_applied(options, &client, patch, status).await,
    };
    let proposal = answer.proposal.unwrap_or_default();
    if options.json {
        let mut proposed = proposal_json(&proposal);
        proposed["sent"] = sent;
        return line(proposed);
    }
    let number = proposal.number;
    line(format!(
        "proposal {number} waits for somebody else: zta policy proposals {number}, then \
         zta policy approve {number}"
    ))
}

pub(super) async fn list(options: &Options) -> Result<(), Failure> {
    let request = v1::ListProposalsRequest {
        page_size: 1000,
        page_token: String::new(),
    };
    let page = options.client()?.policies().list_proposals(request).await?;
    let proposals = page.into_inner().proposals;
    if options.json {
        return proposals.iter().try_for_each(|p| line(proposal_json(p)));
    }
    let row = |p: &v1::Proposal| {
        vec![
            p.number.to_string(),
            state(p),
            p.base_revision.to_string(),
            time_text(p.create_time),
            p.authors.first().map(|a| a.id.clone()).unwrap_or_default(),
            p.message.lines().next().unwrap_or_default().to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = proposals.iter().map(row).collect();
    let head = ["PROPOSAL", "STATE", "CHANGES", "PROPOSED", "BY", "MESSAGE"];
    table(&head, &rows)
}

/// A proposal with the files that it would put or delete.
pub(super) async fn show(options: &Options, number: u64) -> Result<(), Failure> {
    let request = v1::GetProposalRequest { number };
    let answer = options.client()?.policies().get_proposal(request).await?;
    let answer = answer.into_inner();
    let proposal = answer.proposal.unwrap_or_default();
    let patch = answer.patch.unwrap_or_default();
    let policies = || patch.put_policies.iter().chain(&patch.put_schemas);
    let put = || policies().chain(&patch.put_tests);
    if options.json {
        let files = put().map(|f| json!({"name": f.name, "text": f.text}));
        let mut shown = proposal_json(&proposal);
        shown["put"] = files.collect();
        shown["delete"] = json!(patch.delete_files);
        return line(shown);
    }
    let by: Vec<&str> = proposal.authors.iter().map(|a| a.id.as_str()).collect();
    line(format!(
        "proposal {number} ({}) of {} against revision {}: {}",
        state(&proposal),
        by.join(", "),
        proposal.base_revision,
        proposal.message
    ))?;
    for file in put() {
        let text = format!("\n+++ {}\n{}", file.name, file.text.trim_end());
        line(printable(&text))?;
    }
    let gone = |name: &String| line(format!("\n--- {name} (deleted)"));
    patch.delete_files.iter().try_for_each(gone)
}

pub(super) async fn approve(options: &Options, number: u64) -> Result<(), Failure> {
    let request = v1::ApproveRequest { number };
    let answer = options.client()?.policies().approve(request).await?;
    let revision = answer.into_inner().revision.unwrap_or_default();
    applied(options, &revision)
}

pub(super) async fn reject(options: &Options, number: u64, note: String) -> Result<(), Failure> {
    let request = v1::RejectRequest { number, note };
    let answer = options.client()?.policies().reject(request).await?;
    let proposal = answer.into_inner().proposal.unwrap_or_default();
    if options.json {
        return line(proposal_json(&proposal));
    }
    line(format!("proposal {number} is rejected"))
}

fn state(proposal: &v1::Proposal) -> String {
    let name = proposal.state().as_str_name();
    name.trim_start_matches("PROPOSAL_STATE_")
        .to_ascii_lowercase()
}

fn proposal_json(proposal: &v1::Proposal) -> Value {
    let authors: Vec<&str> = proposal.authors.iter().map(|a| a.id.as_str()).collect();
    json!({
        "number": proposal.number,
        "state": state(proposal),
        "base_revision": proposal.base_revision,
        "authors": authors,
        "message": proposal.message,
        "create_time": time_text(proposal.create_time),
        "content_sha256": proposal.content_sha256,
        "policies": proposal.policies,
        "decided_by": proposal.decided_by.as_ref().map(|by| &by.id),
        "commit": proposal.commit,
        "signed_by": proposal.signed_by,
    })
}
