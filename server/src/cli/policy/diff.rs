//! `zta policy diff`. Exit codes: 0 the same, 1 different, 2 could not be compared, whatever
//! the reason, so that a pipeline never takes a refusal for a difference.

use std::path::PathBuf;

use serde_json::{Value, json};
use zta_client::v1;
use zta_server::policy::PolicySource;

use super::wire_files;
use crate::cli::{Failure, Options, line, printable};

/// What is compared, as it is typed.
#[derive(Debug, PartialEq, Eq)]
struct Sides {
    /// 0: the revision in force.
    before: u64,
    after: u64,
    /// Compared instead of `after` if there are any.
    folders: Vec<PathBuf>,
}

/// `A`, `A B`, `DIR…` or `A DIR…`, where A and B are numbers of revisions.
fn sides(arguments: &[String]) -> Result<Sides, Failure> {
    let numbers: Vec<u64> = arguments.iter().map_while(|a| a.parse().ok()).collect();
    let folders = arguments.get(numbers.len()..).unwrap_or_default();
    let (before, after) = match (numbers.as_slice(), folders.is_empty()) {
        ([], false) => (0, 0),
        ([before], _) => (*before, 0),
        ([before, after], true) => (*before, *after),
        _ => {
            let text = "compares two revisions, or one with policy folders";
            return Err(Failure::CouldNotRun(text.to_owned()));
        }
    };
    Ok(Sides {
        before,
        after,
        folders: folders.iter().map(PathBuf::from).collect(),
    })
}

pub(super) async fn diff(
    options: &Options,
    arguments: &[String],
    meaning_only: bool,
) -> Result<(), Failure> {
    let Sides {
        before,
        after,
        folders,
    } = sides(arguments)?;
    let source = match folders.is_empty() {
        true => None,
        false => Some(PolicySource::read(&folders).map_err(Failure::CouldNotRun)?),
    };
    let request = v1::DiffRequest {
        before,
        after,
        source: source.map(|source| v1::PolicySource {
            policies: wire_files(source.policies),
            schemas: wire_files(source.schemas),
            tests: wire_files(source.tests),
        }),
        patch: None,
        meaning_only,
    };
    let answer = options.client()?.policies().diff(request).await;
    let refused =
        |status: tonic::Status| Failure::CouldNotRun(zta_client::Error::from(status).to_string());
    let answer = answer.map_err(refused)?.into_inner();
    match options.json {
        true => line(diff_json(&answer))?,
        false => show(&answer)?,
    }
    let same = match meaning_only {
        true => answer.same_meaning,
        false => answer.same,
    };
    match (same, answer.same_meaning) {
        (true, _) => Ok(()),
        (false, true) => Err(Failure::No("different in text, not in meaning".to_owned())),
        (false, false) => Err(Failure::No("different".to_owned())),
    }
}

fn side(number: u64) -> String {
    match number {
        0 => "the folders".to_owned(),
        number => format!("revision {number}"),
    }
}

fn show(answer: &v1::DiffResponse) -> Result<(), Failure> {
    let (before, after) = (side(answer.before), side(answer.after));
    if answer.same {
        return line(format!("{before} and {after} are the same"));
    }
    line(format!("{before} -> {after}"))?;
    if answer.same_meaning {
        line("no change of meaning: formatting, comments, or where policies stand")?;
    }
    for policy in &answer.policies {
        line(printable(&policy_text(policy)))?;
    }
    for declared in &answer.schema {
        let v1::SchemaDiff { what, name, .. } = declared;
        let changed = list(&declared.changed);
        let text = format!("{} {what} {name}{changed}", sign(declared.kind()));
        line(printable(&text))?;
    }
    for file in &answer.files {
        let what = match file.formatting_only {
            true => " (formatting only)",
            false => "",
        };
        let text = match file.unified_omitted {
            true => format!("{} file {}{what}", sign(file.kind()), file.name),
            false => file.unified.trim_end_matches('\n').to_owned(),
        };
        line(format!("\n{}", printable(&text)))?;
    }
    Ok(())
}

fn sign(kind: v1::DiffKind) -> char {
    match kind {
        v1::DiffKind::Added => '+',
        v1::DiffKind::Removed => '-',
        v1::DiffKind::Moved => '>',
        v1::DiffKind::Changed | v1::DiffKind::Unspecified => '~',
    }
}

fn list(changed: &[String]) -> String {
    match changed.is_empty() {
        true => String::new(),
        false => format!(": {}", changed.join(", ")),
    }
}

fn policy_text(policy: &v1::PolicyDiff) -> String {
    let arrow = |before: &str, after: &str| match (before, after) {
        ("", one) | (one, "") => one.to_owned(),
        (before, after) if before == after => before.to_owned(),
        (before, after) => format!("{before} -> {after}"),
    };
    let effect = arrow(&policy.effect_before, &policy.effect_after);
    let file = arrow(&policy.file_before, &policy.file_after);
    let changed = list(&policy.changed);
    let sign = sign(policy.kind());
    format!("{sign} {effect} {} ({file}){changed}", policy.id)
}

fn kind_json(kind: v1::DiffKind) -> String {
    let name = kind.as_str_name().trim_start_matches("DIFF_KIND_");
    name.to_ascii_lowercase()
}

fn diff_json(answer: &v1::DiffResponse) -> Value {
    let policy = |p: &v1::PolicyDiff| {
        json!({
            "id": p.id,
            "kind": kind_json(p.kind()),
            "file_before": p.file_before,
            "file_after": p.file_after,
            "effect_before": p.effect_before,
            "effect_after": p.effect_after,
            "changed": p.changed,
        })
    };
    let schema = |s: &v1::SchemaDiff| {
        let kind = kind_json(s.kind());
        json!({ "what": s.what, "name": s.name, "kind": kind, "changed": s.changed })
    };
    let file = |f: &v1::FileDiff| {
        json!({
            "name": f.name,
            "kind": kind_json(f.kind()),
            "formatting_only": f.formatting_only,
            "unified": (!f.unified_omitted).then_some(&f.unified),
        })
    };
    json!({
        "before": answer.before,
        "after": answer.after,
        "same": answer.same,
        "same_meaning": answer.same_meaning,
        "policies": answer.policies.iter().map(policy).collect::<Vec<_>>(),
        "schema": answer.schema.iter().map(schema).collect::<Vec<_>>(),
        "files": answer.files.iter().map(file).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compared_is_told_by_what_looks_like_a_number() {
        let read = |text: &str| {
            let arguments: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
            let sides = sides(&arguments).ok()?;
            Some((sides.before, sides.after, sides.folders.len()))
        };
        assert_eq!(read("3"), Some((3, 0, 0)));
        assert_eq!(read("3 5"), Some((3, 5, 0)));
        assert_eq!(read("policies"), Some((0, 0, 1)));
        assert_eq!(read("3 policies ./5"), Some((3, 0, 2)));
        assert_eq!(read("1 2 3"), None);
        assert_eq!(read("1 2 policies"), None);
        assert_eq!(read(""), None);
    }
}
