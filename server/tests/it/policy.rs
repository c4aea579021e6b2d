//! The life of policy sets: gates, compare-and-swap, reading back; and that `evaluate` is
//! exactly Cedar.

mod corpus;
mod diff;
mod export;
mod four_eyes;
mod friday;
mod gates;
mod lint;
mod patch;
mod provenance;
pub(crate) mod replay;
mod rollback;
mod signed;
mod status;
mod tested;
mod watch;

use zta_client::{Client, v1};

use crate::support::rpc::{allowed, authorize, call, denied, entity, refused};
use crate::support::server::text;
use crate::support::{Database, Setup};

fn file(name: &str, text: &str) -> v1::SourceFile {
    v1::SourceFile {
        name: name.to_owned(),
        text: text.to_owned(),
    }
}

/// The files in force.
async fn in_force(admin: &Client) -> (u64, v1::PolicySource) {
    let answer = admin
        .policies()
        .get_revision(v1::GetRevisionRequest {
            number: 0,
            ..Default::default()
        })
        .await;
    let answer = answer.expect("a revision").into_inner();
    let revision = answer.revision.expect("a revision");
    assert!(revision.active);
    (revision.number, answer.source.expect("files"))
}

async fn apply(
    admin: &Client,
    source: v1::PolicySource,
    expected_revision: u64,
) -> Result<u64, tonic::Status> {
    let request = v1::ApplyRequest {
        source: Some(source),
        expected_revision,
        message: "a test".to_owned(),
        ..Default::default()
    };
    let answer = admin.policies().apply(request).await?.into_inner();
    Ok(answer.revision.expect("a revision").number)
}

/// The policies in force and one more file.
async fn with(admin: &Client, name: &str, text: &str) -> v1::PolicySource {
    let (_, mut source) = in_force(admin).await;
    source.policies.push(file(name, text));
    source
}

#[tokio::test]
async fn a_forbid_over_roles_of_the_other_agent_forbids() {
    let server = Setup::sqlite().start().await;
    let admin = server.admin();
    let chatter = server.agent("chatter", &["talker"]).await;
    server.register("vault", &["shielded"]).await;
    server.register("lobby", &[]).await;
    let text = r#"
        @id("chat.all") permit (principal, action == ZTA::Action::"send_message", resource);
        @id("chat.shielded") forbid (principal, action == ZTA::Action::"send_message",
                                     resource in ZTA::Role::"shielded");"#;
    let source = with(&admin, "chat.cedar", text).await;
    apply(&admin, source, 1).await.expect("applied");
    let message = |to: &str| v1::AuthorizeRequest {
        action: entity("ZTA::Action", "send_message"),
        resource: entity("ZTA::Agent", &format!("spiffe://zta.local/agent/{to}")),
        ..v1::AuthorizeRequest::default()
    };
    allowed(&chatter, message("lobby")).await;
    allowed(&chatter, message("chatter")).await;
    let reason = denied(&chatter, message("vault")).await;
    assert_eq!(reason, v1::DenyReason::Forbidden);
}

#[tokio::test]
async fn of_concurrent_applies_one_wins_and_the_others_are_told() {
    for database in Database::both().await {
        let server = Setup::on(database).start().await;
        let admin = server.admin();
        let mut applies = Vec::new();
        for i in 0..6 {
            let more = format!(
                "@id(\"racer.{i}\")\nforbid (principal, action, resource == ZTA::Tool::\"x\");"
            );
            let source = with(&admin, &format!("racer{i}.cedar"), &more).await;
            let client = server.admin();
            applies.push(async move { apply(&client, source, 1).await });
        }
        let (won, lost): (Vec<_>, Vec<_>) = futures_util::future::join_all(applies)
            .await
            .into_iter()
            .partition(Result::is_ok);
        assert_eq!(won.len(), 1, "{}: {lost:?}", server.database.name());
        for answer in lost {
            let status = answer.expect_err("lost");
            let details = tonic_types::StatusExt::get_details_precondition_failure(&status);
            assert!(details.is_some(), "{status:?}");
            assert!(
                status.message().contains("revision 2 is in force"),
                "{status:?}"
            );
            assert_eq!(crate::support::rpc::reason(&status), "REVISION_CONFLICT");
        }
        let (number, source) = in_force(&admin).await;
        assert_eq!(number, 2);
        let racers = source
            .policies
            .iter()
            .filter(|f| f.name.starts_with("racer"));
        assert_eq!(racers.count(), 1, "the winner's files and no others");
        assert_eq!(
            refused(apply(&admin, source.clone(), 7).await),
            "REVISION_CONFLICT"
        );
        assert_eq!(apply(&admin, source, 2).await.expect("applies"), 3);
        server.assert_verifies();
    }
}

#[tokio::test]
async fn a_decision_is_made_under_one_revision_and_names_it() {
    const FORBID: &str = "@id(\"test.no_search\")\nforbid (principal, action, resource == ZTA::Tool::\"web_search\");\n";
    for database in Database::both().await {
        let server = Setup::on(database).start().await;
        let admin = server.admin();
        let research = server.agent("research", &["researcher"]).await;
        let (_, open) = in_force(&admin).await;
        let closed = with(&admin, "closed.cedar", FORBID).await;
        let asker = tokio::spawn(async move {
            let mut seen = std::collections::BTreeSet::new();
            while seen.last() != Some(&7) {
                let answer = authorize(&research, call("web_search"))
                    .await
                    .expect("a decision");
                // Odd revisions are open, even ones closed.
                let open = answer.revision % 2 == 1;
                assert_eq!(answer.effect() == v1::Effect::Allow, open, "{answer:?}");
                assert_eq!(
                    answer.policy_ids.contains(&"test.no_search".to_owned()),
                    !open
                );
                assert!(
                    seen.last().is_none_or(|&last| last <= answer.revision),
                    "{answer:?}"
                );
                seen.insert(answer.revision);
            }
            (research, seen)
        });
        for revision in 1..7 {
            let source = if revision % 2 == 1 { &closed } else { &open };
            assert_eq!(
                apply(&admin, source.clone(), revision)
                    .await
                    .expect("applies"),
                revision + 1
            );
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let (research, seen) = asker.await.expect("decides");
        assert!(seen.len() > 2, "{seen:?}");
        allowed(&research, call("web_search")).await;
    }
}

#[tokio::test]
async fn files_come_back_byte_for_byte() {
    for database in Database::both().await {
        let server = Setup::on(database).start().await;
        let admin = server.admin();
        let (_, mut source) = in_force(&admin).await;
        let odd = "\r\n// CRLF, tabs\t and ünïcödé 漢字 \u{1f980}\r\n\r\n@id(\"odd.one\")@reason(\"é\")\r\nforbid(principal,action,resource)when{false};forbid (principal, action, resource) when { false }\n;   ";
        let odd = odd.replacen(";forbid", ";@id(\"odd.two\") forbid", 1);
        source.policies.extend([
            file("zz/odd.cedar", &odd),
            file("zz/comment.cedar", "// nothing here"),
            file("zz/empty.cedar", ""),
            file("zz/twin.cedar", "// nothing here"),
        ]);
        source.schemas.push(file(
            "zz/mine.cedarschema",
            "namespace Mine {\r\n\tentity Thing; // é\r\n}",
        ));
        let revision = apply(&admin, source.clone(), 1).await.expect("applies");
        let by = |a: &v1::SourceFile, b: &v1::SourceFile| a.name.cmp(&b.name);
        source.policies.sort_by(by);
        source.schemas.sort_by(by);
        let (number, read) = in_force(&admin).await;
        assert_eq!(
            (number, &read),
            (revision, &source),
            "{}",
            server.database.name()
        );
        let first = admin
            .policies()
            .get_revision(v1::GetRevisionRequest {
                number: 1,
                ..Default::default()
            })
            .await;
        let first = first
            .expect("the first")
            .into_inner()
            .source
            .expect("files");
        assert_eq!(
            first.policies.len() + 4,
            read.policies.len(),
            "the old one is as it was"
        );
    }
}

#[tokio::test]
async fn revisions_are_listed_in_pages() {
    for database in Database::both().await {
        let server = Setup::on(database).start().await;
        let admin = server.admin();
        let (_, source) = in_force(&admin).await;
        for revision in 1..7 {
            apply(&admin, source.clone(), revision)
                .await
                .expect("applies");
        }
        let page = async |page_size, page_token: &str| {
            let request = v1::ListRevisionsRequest {
                page_size,
                page_token: page_token.to_owned(),
            };
            admin
                .policies()
                .list_revisions(request)
                .await
                .map(tonic::Response::into_inner)
        };
        let (mut numbers, mut sizes, mut token) = (Vec::new(), Vec::new(), String::new());
        loop {
            let answer = page(3, &token).await.expect("a page");
            sizes.push(answer.revisions.len());
            for revision in &answer.revisions {
                assert_eq!(revision.active, revision.number == 7, "{revision:?}");
                assert_eq!(revision.content_sha256.len(), 64);
            }
            numbers.extend(answer.revisions.iter().map(|r| r.number));
            token = answer.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!((numbers, sizes), (vec![7, 6, 5, 4, 3, 2, 1], vec![3, 3, 1]));
        let all = page(7, "").await.expect("a page");
        assert_eq!((all.revisions.len(), all.next_page_token.as_str()), (7, ""));
        assert_eq!(
            all.revisions[0].author.as_ref().expect("one").id,
            "spiffe://zta.local#admin"
        );
        assert_eq!(refused(page(3, "x").await), "PAGE_TOKEN_INVALID");
        assert_eq!(refused(page(1001, "").await), "LIMIT_EXCEEDED");
        let beyond = admin
            .policies()
            .get_revision(v1::GetRevisionRequest {
                number: 8,
                ..Default::default()
            })
            .await;
        assert_eq!(refused(beyond), "REVISION_NOT_FOUND");
    }
}

#[tokio::test]
async fn the_command_line_says_by_its_exit_code_how_it_went() {
    let mut server = Setup::sqlite().start().await;
    let good = server.folder().join("policies");
    let bad = server.folder().join("bad");
    std::fs::create_dir(&bad).expect("a folder");
    std::fs::write(
        bad.join("bad.cedar"),
        "// one\n\npermit (principal, action resource);\n",
    )
    .expect("bad");
    let empty = server.folder().join("empty");
    std::fs::create_dir(&empty).expect("a folder");
    let [good, bad, empty] = [good, bad, empty].map(|p| p.to_string_lossy().into_owned());
    let run = |server: &crate::support::Server, arguments: &[&str]| {
        let output = server.zta(arguments);
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let (code, said, _) = run(&server, &["policy", "check", &good]);
    assert_eq!((code, said.as_str()), (Some(0), "12 policies pass\n"));
    let (code, said, error) = run(&server, &["policy", "check", &bad]);
    assert_eq!(code, Some(1), "{said}{error}");
    assert!(said.starts_with("bad.cedar:3:27: error: "), "{said}");
    assert_eq!(run(&server, &["policy", "check", &empty]).0, Some(2));
    assert_eq!(run(&server, &["policy", "check", "/nowhere"]).0, Some(2));

    let (code, said, error) = run(&server, &["policy", "apply", &bad]);
    assert_eq!(code, Some(1), "{said}{error}");
    assert!(
        said.contains("bad.cedar:3:27") && error.contains("nothing was applied"),
        "{said}{error}"
    );
    let (code, said, error) = run(
        &server,
        &["policy", "apply", &good, "-m", "as before", "--json"],
    );
    assert_eq!(code, Some(0), "{error}");
    let applied: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(applied["sent"]["files"], 0, "the server has them all");
    assert_eq!(
        (&applied["number"], &applied["active"]),
        (&2.into(), &true.into())
    );
    let (code, _, error) = run(&server, &["policy", "apply", &good, "--expected", "1"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("(REVISION_CONFLICT)"), "{error}");
    let (code, said, _) = run(&server, &["policy", "log", "--json"]);
    let lines: Vec<serde_json::Value> = said
        .lines()
        .map(|l| serde_json::from_str(l).expect("JSON"))
        .collect();
    assert_eq!((code, lines.len()), (Some(0), 2));
    assert_eq!(
        (&lines[0]["message"], &lines[1]["message"]),
        (&"as before".into(), &"first start".into())
    );

    server.stop().await;
    let (code, _, error) = run(&server, &["policy", "apply", &good]);
    assert_eq!(code, Some(2), "{error}");
}
