//! Differences through the real door and on the command line.

use serde_json::Value;
use zta_client::v1;

use super::{apply, file, in_force, with};
use crate::support::rpc::{events, refused};
use crate::support::server::text;
use crate::support::{Database, Setup};

const FORBID: &str =
    "@id(\"x.closed\")\nforbid (principal, action, resource == ZTA::Tool::\"x\");\n";

#[tokio::test]
async fn revisions_and_candidates_are_compared() {
    for database in Database::both().await {
        let server = Setup::on(database).start().await;
        let admin = server.admin();
        let (_, first) = in_force(&admin).await;
        let source = with(&admin, "x.cedar", FORBID).await;
        apply(&admin, source.clone(), 1).await.expect("applied");
        let diff = async |request| {
            let answer = admin.policies().diff(request).await;
            answer.map(tonic::Response::into_inner)
        };
        let request = |before, after| v1::DiffRequest {
            before,
            after,
            ..Default::default()
        };
        let answer = diff(request(1, 0)).await.expect("compared");
        assert_eq!((answer.before, answer.after, answer.same), (1, 2, false));
        assert_eq!(answer.policies.len(), 1);
        let policy = &answer.policies[0];
        assert_eq!(
            (policy.kind(), policy.id.as_str()),
            (v1::DiffKind::Added, "x.closed")
        );
        assert_eq!(
            (policy.effect_after.as_str(), policy.file_after.as_str()),
            ("forbid", "x.cedar")
        );
        let [changed] = &answer.files[..] else {
            panic!("{answer:?}")
        };
        assert!(
            changed.unified.contains("\n+forbid (principal"),
            "{changed:?}"
        );
        let back = diff(request(2, 1)).await.expect("compared");
        assert_eq!(back.policies[0].kind(), v1::DiffKind::Removed);
        assert!(diff(request(2, 2)).await.expect("compared").same);
        assert_eq!(refused(diff(request(9, 0)).await), "REVISION_NOT_FOUND");

        // A candidate, whole or as a patch; nothing has to pass but the parser.
        let spaced = file("x.cedar", &FORBID.replace(" ", "  "));
        let patch = v1::PolicyPatch {
            put_policies: vec![spaced],
            ..Default::default()
        };
        let candidate = |patch: &v1::PolicyPatch| v1::DiffRequest {
            patch: Some(patch.clone()),
            meaning_only: true,
            ..Default::default()
        };
        let answer = diff(candidate(&patch)).await.expect("compared");
        assert!(answer.same_meaning && !answer.same, "{answer:?}");
        assert!(answer.files[0].formatting_only && answer.files[0].unified_omitted);
        let whole = v1::DiffRequest {
            source: Some(first),
            ..Default::default()
        };
        let answer = diff(whole).await.expect("compared");
        assert_eq!(
            (answer.before, answer.after, answer.policies.len()),
            (2, 0, 1)
        );
        let bad = v1::PolicyPatch {
            put_policies: vec![file("x.cedar", "permit (")],
            ..Default::default()
        };
        assert_eq!(refused(diff(candidate(&bad)).await), "POLICY_INVALID");
        let both = v1::DiffRequest {
            after: 1,
            ..candidate(&patch)
        };
        assert_eq!(refused(diff(both).await), "FIELD_INVALID");
    }
}

#[tokio::test]
async fn whoever_may_not_read_policies_compares_none() {
    let server = Setup::sqlite().start().await;
    let research = server.agent("research", &["researcher"]).await;
    let request = v1::DiffRequest {
        before: 9,
        ..Default::default()
    };
    let answer = research.policies().diff(request).await;
    assert_eq!(refused(answer), "NOT_PERMITTED");
    let acts = events(&server.admin(), &["admin"]).await;
    let act = acts.iter().find(|e| e.1["action"]["id"] == "read_policy");
    assert_eq!(act.expect("on record").1["effect"], "deny");
}

#[tokio::test]
async fn the_exit_code_tells_a_pipeline() {
    let server = Setup::sqlite().start().await;
    let folder = server.folder().join("policies");
    let name = folder.to_string_lossy().into_owned();
    let run = |arguments: &[&str]| {
        let output = server.zta(&[&["policy", "diff"], arguments].concat());
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let (code, said, _) = run(&[&name]);
    assert_eq!(
        (code, said.as_str()),
        (Some(0), "revision 1 and the folders are the same\n")
    );
    let crew = folder.join("crew.cedar");
    let old = std::fs::read_to_string(&crew).expect("a file");
    std::fs::write(&crew, format!("// more\n{old}")).expect("written");
    let (code, said, error) = run(&[&name]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("no change of meaning") && said.contains("\n+// more\n"),
        "{said}"
    );
    assert!(error.contains("not in meaning"), "{error}");
    assert_eq!(run(&[&name, "--meaning"]).0, Some(0));
    // What would hide a line from a reviewer is shown to them.
    let hidden = "@id(\"crew.more\") permit (principal, action, resource);//\u{1b}[2K\u{202e}\n";
    std::fs::write(&crew, format!("{hidden}{old}")).expect("written");
    let (code, said, _) = run(&["1", &name]);
    assert_eq!(code, Some(1));
    assert!(said.contains("+ permit crew.more (crew.cedar)"), "{said}");
    assert!(
        said.contains("\\u{1b}[2K\\u{202e}") && !said.contains('\u{1b}'),
        "{said}"
    );
    let (code, said, _) = run(&[&name, "--json", "--meaning"]);
    let json: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((code, &json["same_meaning"]), (Some(1), &false.into()));
    assert_eq!(json["policies"][0]["kind"], "added");
    // What could not be compared is not called different.
    for bad in [&["9"][..], &["/nowhere"], &["1", "2", "3"]] {
        assert_eq!(run(bad).0, Some(2), "{bad:?}");
    }
    std::fs::write(&crew, "permit (").expect("written");
    assert_eq!(run(&[&name]).0, Some(2));
}
