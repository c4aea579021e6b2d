//! `zta policy log`.

use serde_json::{Value, json};
use zta_client::v1;

use crate::cli::{Failure, Options, line, table, time_text};

pub(in crate::cli) fn revision_json(revision: &v1::Revision) -> Value {
    json!({
        "number": revision.number,
        "active": revision.active,
        "author": revision.author.as_ref().map(|a| &a.id),
        "approver": revision.approver.as_ref().map(|a| &a.id),
        "message": revision.message,
        "apply_time": time_text(revision.apply_time),
        "content_sha256": revision.content_sha256,
        "policies": revision.policies,
    })
}

/// Who wrote it and, of a proposal, who approved it.
fn by(revision: &v1::Revision) -> String {
    let id = |uid: &Option<v1::EntityRef>| uid.as_ref().map(|uid| uid.id.clone());
    let author = id(&revision.author).unwrap_or_default();
    match id(&revision.approver) {
        Some(approver) => format!("{author}, approved by {approver}"),
        None => author,
    }
}

pub(super) async fn log(options: &Options, limit: u32) -> Result<(), Failure> {
    let request = v1::ListRevisionsRequest {
        page_size: limit,
        page_token: String::new(),
    };
    let page = options
        .client()?
        .policies()
        .list_revisions(request)
        .await?
        .into_inner();
    if options.json {
        return page
            .revisions
            .iter()
            .try_for_each(|r| line(revision_json(r)));
    }
    let rows: Vec<Vec<String>> = page
        .revisions
        .iter()
        .map(|r| {
            vec![
                r.number.to_string(),
                if r.active {
                    "in force".to_owned()
                } else {
                    String::new()
                },
                time_text(r.apply_time),
                by(r),
                r.policies.to_string(),
                r.message.lines().next().unwrap_or_default().to_owned(),
            ]
        })
        .collect();
    table(
        &["REVISION", "", "APPLIED", "BY", "POLICIES", "MESSAGE"],
        &rows,
    )
}
