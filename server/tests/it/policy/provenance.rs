//! What a revision says of where it comes from.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use zta_client::v1;

use super::in_force;
use crate::support::rpc::refused;
use crate::support::server::text;
use crate::support::{Database, Server, Setup};

#[tokio::test]
async fn a_commit_is_recorded_as_it_is_claimed() {
    for database in Database::both().await {
        let server = Setup::on(database).start().await;
        let admin = server.admin();
        let (_, source) = in_force(&admin).await;
        let apply = async |commit: &str, expected_revision| {
            let request = v1::ApplyRequest {
                source: Some(source.clone()),
                commit: commit.to_owned(),
                expected_revision,
                ..v1::ApplyRequest::default()
            };
            let answer = admin.policies().apply(request).await?;
            Ok(answer.into_inner().revision.expect("a revision"))
        };
        let applied = apply("0123abc-dirty", 1).await.expect("applied");
        assert_eq!(applied.commit, "0123abc-dirty");
        for bad in ["x", "0123ABC", "0123abc\n", &"a".repeat(65), "$(reboot)"] {
            assert_eq!(refused(apply(bad, 2).await), "FIELD_INVALID", "{bad}");
        }
        let list = v1::ListRevisionsRequest::default();
        let list = admin.policies().list_revisions(list).await.expect("a list");
        let list = list.into_inner().revisions;
        assert_eq!(list[0], applied, "as it was told");
        assert_eq!((list[1].commit.as_str(), list[1].base_epoch), ("", 0));
        assert!(list[0].base_epoch > 0);
    }
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .arg("-C")
        .arg(folder)
        .args(["-c", "user.name=a", "-c", "user.email=a@example.com"])
        .args(arguments)
        .output()
        .expect("git");
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).trim().to_owned()
}

fn applied(server: &Server, arguments: &[&str]) -> Value {
    let mut command = server.command(&[&["policy", "apply", "--json"], arguments].concat());
    command.env("PATH", std::env::var_os("PATH").expect("a path"));
    let output = command.output().expect("zta runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[tokio::test]
async fn the_command_line_asks_git() {
    let server = Setup::sqlite().start().await;
    let folder = server.folder().join("policies");
    let name = folder.to_string_lossy().into_owned();
    assert_eq!(
        applied(&server, &[&name])["commit"],
        Value::Null,
        "no checkout"
    );
    git(&folder, &["init", "-q"]);
    assert_eq!(
        applied(&server, &[&name])["commit"],
        Value::Null,
        "no commit"
    );
    std::fs::write(folder.join(".gitignore"), "ignored.*\n").expect("a file");
    git(&folder, &["add", "."]);
    git(&folder, &["commit", "-q", "-m", "all"]);
    let head = git(&folder, &["rev-parse", "HEAD"]);
    assert_eq!(applied(&server, &[&name])["commit"], head.as_str());
    // What is no policy file is not in the set either.
    std::fs::write(folder.join("notes.md"), "n").expect("a file");
    assert_eq!(applied(&server, &[&name])["commit"], head.as_str());
    for file in ["new.cedar", "ignored.cedar", "new.cedarschema"] {
        std::fs::write(folder.join(file), "// new").expect("a file");
        let dirty = format!("{head}-dirty");
        assert_eq!(
            applied(&server, &[&name])["commit"],
            dirty.as_str(),
            "{file}"
        );
        std::fs::remove_file(folder.join(file)).expect("removed");
    }
    let log = text(&server.zta(&["policy", "log"]).stdout);
    assert!(log.contains(&format!("{}-dirty", &head[..12])), "{log}");
    let said = applied(&server, &[&name, "--commit", "0123abc"]);
    assert_eq!(said["commit"], "0123abc");
    assert_eq!(
        applied(&server, &[&name, "--commit", "none"])["commit"],
        Value::Null
    );
}
