//! A candidate as a patch: cost and meaning are those of the changed files.

use zta_client::{Client, v1};

use super::{apply, file, in_force};
use crate::support::rpc::{allowed, authorize, call, denied, refused};
use crate::support::{Database, Server, Setup};

const FORBID: &str = "@id(\"closed\")\nforbid (principal is ZTA::Agent, action, resource == ZTA::Tool::\"web_search\");\n";

fn put(name: &str, text: &str) -> v1::PolicyPatch {
    v1::PolicyPatch {
        put_policies: vec![file(name, text)],
        ..v1::PolicyPatch::default()
    }
}

fn delete(name: &str) -> v1::PolicyPatch {
    v1::PolicyPatch {
        delete_files: vec![name.to_owned()],
        ..v1::PolicyPatch::default()
    }
}

async fn patch(
    admin: &Client,
    patch: v1::PolicyPatch,
    expected_revision: u64,
) -> Result<v1::ApplyResponse, tonic::Status> {
    let request = v1::ApplyRequest {
        patch: Some(patch),
        expected_revision,
        ..v1::ApplyRequest::default()
    };
    let answer = admin.policies().apply(request).await?;
    Ok(answer.into_inner())
}

async fn revision(admin: &Client, number: u64, digests_only: bool) -> v1::GetRevisionResponse {
    let request = v1::GetRevisionRequest {
        number,
        digests_only,
    };
    let answer = admin.policies().get_revision(request).await;
    answer.expect("a revision").into_inner()
}

/// Texts in the store's table.
async fn texts(server: &Server) -> i64 {
    const SQL: &str = "SELECT count(*) FROM policy_texts";
    match &*server.database {
        Database::Sqlite => {
            let options = sqlx::sqlite::SqliteConnectOptions::new()
                .filename(server.data().join("zta.db"))
                .read_only(true);
            let pool = sqlx::SqlitePool::connect_with(options)
                .await
                .expect("the file");
            sqlx::query_scalar(SQL)
                .fetch_one(&pool)
                .await
                .expect("a count")
        }
        Database::Postgres(database) => {
            let mut connection = database.intruder().await;
            let count = sqlx::query_scalar(SQL).fetch_one(&mut connection).await;
            count.expect("a count")
        }
    }
}

/// The files by name, as digests say and as texts say, which must agree.
async fn files(admin: &Client, number: u64) -> Vec<(String, String)> {
    let whole = revision(admin, number, false).await;
    let short = revision(admin, number, true).await;
    assert!(short.source.is_none() && whole.files.is_empty());
    assert_eq!(whole.revision, short.revision);
    let source = whole.source.expect("files");
    let named =
        |kind: (bool, bool)| move |f: &v1::SourceFile| (f.name.clone(), f.text.clone(), kind);
    let all: Vec<_> = (source.policies.iter().map(named((false, false))))
        .chain(source.schemas.iter().map(named((true, false))))
        .chain(source.tests.iter().map(named((false, true))))
        .collect();
    assert_eq!(all.len(), short.files.len());
    for ((name, text, kind), digest) in all.iter().zip(&short.files) {
        assert_eq!((name, *kind), (&digest.name, (digest.schema, digest.test)));
        let sha256 = zta_server::model::arguments::sha256(text.as_bytes());
        assert_eq!(digest.sha256, sha256);
    }
    all.into_iter()
        .map(|(name, text, _)| (name, text))
        .collect()
}

#[tokio::test]
async fn a_patch_puts_replaces_and_deletes_and_stores_what_it_changes() {
    for database in Database::both().await {
        let mut server = Setup::on(database).start().await;
        let admin = server.admin();
        let research = server.agent("research", &["researcher"]).await;
        let first = files(&admin, 1).await;
        let before = texts(&server).await;
        let answer = patch(&admin, put("zz.cedar", FORBID), 1)
            .await
            .expect("applies");
        let applied = answer.revision.expect("a revision");
        assert_eq!((applied.number, applied.active), (2, true));
        assert_eq!(revision(&admin, 2, true).await.revision, Some(applied));
        let reason = denied(&research, call("web_search")).await;
        assert_eq!(reason, v1::DenyReason::Forbidden);
        assert_eq!(
            texts(&server).await,
            before + 1,
            "one new text for one changed file"
        );
        let mut second = first.clone();
        second.push(("zz.cedar".to_owned(), FORBID.to_owned()));
        sort(&mut second);

        patch(&admin, put("zz.cedar", "// open"), 2)
            .await
            .expect("replaces");
        allowed(&research, call("web_search")).await;
        patch(&admin, delete("zz.cedar"), 3).await.expect("deletes");
        assert_eq!(texts(&server).await, before + 2);
        // The text was there before; so is the revision's content.
        patch(&admin, put("zz.cedar", FORBID), 4)
            .await
            .expect("puts it back");
        assert_eq!(texts(&server).await, before + 2);
        let nothing = v1::PolicyPatch::default();
        patch(&admin, nothing, 5).await.expect("nothing, on record");
        for number in 2..=10 {
            let next = put("counter.cedar", &format!("// {number}"));
            patch(&admin, next, number + 4).await.expect("one more");
        }
        server.stop().await;
        server.start().await;
        let admin = server.admin();
        let mut last = second.clone();
        last.push(("counter.cedar".to_owned(), "// 10".to_owned()));
        sort(&mut last);
        let mut third = first.clone();
        third.push(("zz.cedar".to_owned(), "// open".to_owned()));
        sort(&mut third);
        for (number, expected) in [
            (1, &first),
            (2, &second),
            (3, &third),
            (4, &first),
            (5, &second),
            (6, &second),
            (15, &last),
            (0, &last),
        ] {
            let mut stored = files(&admin, number).await;
            sort(&mut stored);
            assert_eq!(&stored, expected, "{} {number}", server.database.name());
        }
        let digest = |r: v1::GetRevisionResponse| r.revision.expect("one").content_sha256;
        let (two, five) = (
            revision(&admin, 2, true).await,
            revision(&admin, 5, true).await,
        );
        assert_eq!(
            digest(two),
            digest(five),
            "the same content has the same digest"
        );
        assert_eq!(
            authorize(&research, call("web_search"))
                .await
                .expect("a decision")
                .revision,
            15
        );
        server.assert_verifies();
    }
}

fn sort(files: &mut [(String, String)]) {
    files.sort();
}

#[tokio::test]
async fn a_patch_that_does_not_fit_is_refused() {
    let server = Setup::sqlite().start().await;
    let admin = server.admin();
    let (_, source) = in_force(&admin).await;
    patch(&admin, put("a.cedar", "// 1"), 1)
        .await
        .expect("applies");
    for stale in [0, 1, 3, u64::MAX] {
        let answer = patch(&admin, put("a.cedar", "// 2"), stale).await;
        let status = answer.expect_err("another revision is in force");
        assert!(
            status.message().contains("revision 2 is in force"),
            "{status:?}"
        );
        assert_eq!(crate::support::rpc::reason(&status), "REVISION_CONFLICT");
    }
    let both = v1::ApplyRequest {
        source: Some(source.clone()),
        patch: Some(put("a.cedar", "// 3")),
        expected_revision: 2,
        ..v1::ApplyRequest::default()
    };
    assert_eq!(refused(admin.policies().apply(both).await), "FIELD_INVALID");
    let neither = v1::ApplyRequest {
        expected_revision: 2,
        ..v1::ApplyRequest::default()
    };
    assert_eq!(
        refused(admin.policies().apply(neither).await),
        "FIELD_INVALID"
    );
    let twice = v1::PolicyPatch {
        delete_files: vec!["a.cedar".to_owned()],
        ..put("a.cedar", "// 4")
    };
    for unclear in [delete("b.cedar"), delete(""), twice] {
        let answer = patch(&admin, unclear.clone(), 2).await;
        assert_eq!(refused(answer), "FIELD_INVALID", "{unclear:?}");
        let validate = v1::ValidateRequest {
            patch: Some(unclear),
            source: None,
        };
        assert_eq!(
            refused(admin.policies().validate(validate).await),
            "FIELD_INVALID"
        );
    }
    assert_eq!(
        refused(patch(&admin, delete("admin.cedar"), 2).await),
        "LOCKOUT"
    );
    assert_eq!(
        refused(patch(&admin, put("a.cedar", "permit"), 2).await),
        "POLICY_INVALID"
    );
    let validate = v1::ValidateRequest {
        patch: Some(put("a.cedar", FORBID)),
        source: None,
    };
    let checked = admin.policies().validate(validate).await.expect("checked");
    let checked = checked.into_inner();
    assert!(checked.errors.is_empty());
    let policies = revision(&admin, 0, true)
        .await
        .revision
        .expect("one")
        .policies;
    assert_eq!(checked.policies, policies + 1);
    assert_eq!(in_force(&admin).await.0, 2);
    assert_eq!(apply(&admin, source, 2).await.expect("applies"), 3);
}

#[tokio::test]
async fn a_patch_applied_at_one_replica_decides_at_the_other() {
    let first = Setup::on(Database::postgres().await).start().await;
    let second = first.replica().await;
    first.register("research", &["researcher"]).await;
    let research = second.client(first.enroll("research").await);
    allowed(&research, call("web_search")).await;
    for number in (1..9).step_by(2) {
        // By turns at either replica; the other one learns of the change alone.
        let (one, other) = match number % 4 {
            1 => (first.admin(), second.admin()),
            _ => (second.admin(), first.admin()),
        };
        patch(&one, put("zz.cedar", FORBID), number)
            .await
            .expect("applies");
        let answer = authorize(&research, call("web_search"))
            .await
            .expect("a decision");
        assert_eq!(
            (answer.effect(), answer.revision),
            (v1::Effect::Deny, number + 1)
        );
        patch(&other, delete("zz.cedar"), number + 1)
            .await
            .expect("the other one applies");
        let answer = allowed(&research, call("web_search")).await;
        assert_eq!(answer.revision, number + 2);
    }
    assert_eq!(
        files(&first.admin(), 0).await,
        files(&second.admin(), 0).await
    );
    // A replica that starts now has no base.
    let third = first.replica().await;
    assert_eq!(
        files(&first.admin(), 8).await,
        files(&third.admin(), 8).await
    );
}
