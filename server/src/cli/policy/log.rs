//! `zta policy log`, and how a revision is told of.

use serde_json::{Value, json};
use zta_client::v1;
use zta_server::model::revision::DIRTY;

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
        "commit": given(&revision.commit),
        "base_epoch": revision.base_epoch,
        "restores": (revision.restores != 0).then_some(revision.restores),
        "signed_by": given(&revision.signed_by),
    })
}

fn given(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// A revision that has come into force, on one line.
pub(in crate::cli) fn applied(options: &Options, revision: &v1::Revision) -> Result<(), Failure> {
    if options.json {
        return line(revision_json(revision));
    }
    let v1::Revision {
        number, policies, ..
    } = revision;
    let restored = match revision.restores {
        0 => String::new(),
        restored => format!(", those of revision {restored}"),
    };
    line(format!(
        "revision {number} is in force: {policies} policies{restored}"
    ))
}

/// Hex digits of a commit that people look at.
const COMMIT_SHOWN: usize = 12;

/// Where its content comes from.
fn from(revision: &v1::Revision) -> String {
    let mut from = Vec::new();
    if revision.restores != 0 {
        from.push(format!("revision {}", revision.restores));
    }
    if !revision.commit.is_empty() {
        let (hex, dirty) = match revision.commit.strip_suffix(DIRTY) {
            Some(hex) => (hex, DIRTY),
            None => (revision.commit.as_str(), ""),
        };
        let shown = hex.get(..COMMIT_SHOWN).unwrap_or(hex);
        from.push(format!("{shown}{dirty}"));
    }
    if !revision.signed_by.is_empty() {
        from.push(format!("signed by {}", revision.signed_by));
    }
    from.join(", ")
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
                from(r),
                r.message.lines().next().unwrap_or_default().to_owned(),
            ]
        })
        .collect();
    table(
        &[
            "REVISION", "", "APPLIED", "BY", "POLICIES", "FROM", "MESSAGE",
        ],
        &rows,
    )
}
