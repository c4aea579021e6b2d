//! Rollback: the old content in force again, exactly, through the same gates.

use zta_client::{Client, v1};

use super::four_eyes::{Scene, approve, propose, scene};
use super::{apply, file, in_force, with};
use crate::support::rpc::{allowed, authorize, call, entity, event, events, refused};
use crate::support::server::text;
use crate::support::{Database, Setup};

const FORBID: &str = r#"@id("closed") forbid (principal is ZTA::Agent, action, resource);"#;

pub(super) async fn rollback(
    client: &Client,
    number: u64,
    expected_revision: u64,
) -> Result<v1::Revision, tonic::Status> {
    let request = v1::RollbackRequest {
        number,
        expected_revision,
        message: "back".to_owned(),
    };
    let answer = client.policies().rollback(request).await?.into_inner();
    assert!(answer.consistency_token.is_some());
    Ok(answer.revision.expect("a revision"))
}

/// What a decision says but for its own time and place.
fn said(answer: v1::AuthorizeResponse) -> v1::AuthorizeResponse {
    v1::AuthorizeResponse {
        decision_id: String::new(),
        sequence: 0,
        revision: 0,
        consistency_token: None,
        decide_time: None,
        ..answer
    }
}

/// Permits with obligations, forbids with reasons, conditions over stored entities, and one
/// that errors.
const RULES: &str = r#"
    @id("r.log") @obligation("log, notify") @reason("watched")
    permit (principal is ZTA::Agent, action == ZTA::Action::"call_tool",
            resource in ZTA::Group::"watched");
    @id("r.never") @reason("never") @advice("ask somebody")
    forbid (principal is ZTA::Agent, action == ZTA::Action::"call_tool",
            resource in ZTA::Group::"never");
    @id("r.level") permit (principal is ZTA::Agent, action == ZTA::Action::"call_tool",
            resource == ZTA::Tool::"leveled") when { resource.hasTag("level") && resource.getTag("level") == "low" };
    @id("r.errs") forbid (principal is ZTA::Agent, action == ZTA::Action::"call_tool",
            resource == ZTA::Tool::"errs") when { 9223372036854775807 + 1 == 0 };
"#;

async fn put_tools(admin: &Client) {
    let tool = |id: &str, group: &str, tags: &str| v1::Entity {
        uid: entity("ZTA::Tool", id),
        parents: entity("ZTA::Group", group).into_iter().collect(),
        tags_json: tags.to_owned(),
        ..v1::Entity::default()
    };
    let group = |id: &str| v1::Entity {
        uid: entity("ZTA::Group", id),
        ..v1::Entity::default()
    };
    let request = v1::EntityServicePutRequest {
        entities: vec![
            group("watched"),
            group("never"),
            group("other"),
            tool("a", "watched", ""),
            tool("b", "never", ""),
            tool("leveled", "other", r#"{"level": "low"}"#),
            tool("errs", "watched", ""),
        ],
    };
    admin.entities().put(request).await.expect("put");
}

async fn answers(client: &Client) -> Vec<v1::AuthorizeResponse> {
    let mut answers = Vec::new();
    for tool in ["a", "b", "c", "leveled", "errs", "web_search"] {
        for supported in [&["log", "notify"][..], &[]] {
            let request = v1::AuthorizeRequest {
                supported_obligations: supported.iter().map(|&s| s.to_owned()).collect(),
                ..call(tool)
            };
            answers.push(said(authorize(client, request).await.expect("a decision")));
        }
    }
    answers
}

#[tokio::test]
async fn a_rollback_restores_effect_reason_policies_and_obligations() {
    for database in Database::both().await {
        let server = Setup::on(database).start().await;
        let admin = server.admin();
        let research = server.agent("research", &["researcher"]).await;
        let source = with(&admin, "rules.cedar", RULES).await;
        apply(&admin, source.clone(), 1).await.expect("applied");
        put_tools(&admin).await;
        let before = answers(&research).await;
        let kinds: std::collections::BTreeSet<_> = before
            .iter()
            .map(|a| (a.effect, a.reason, a.obligations.len()))
            .collect();
        assert!(kinds.len() > 4, "they tell revisions apart: {before:?}");

        // Everything about them changes, in three steps.
        let other = RULES
            .replace("permit", "PERMIT")
            .replace("forbid", "permit");
        let other = other
            .replace("PERMIT", "forbid")
            .replace("log, notify", "wipe");
        let mut changed = source.clone();
        changed.policies.retain(|f| f.name != "crew.cedar");
        for (i, rules) in [&other, "// none", FORBID].into_iter().enumerate() {
            changed.policies.retain(|f| f.name != "rules.cedar");
            changed.policies.push(file("rules.cedar", rules));
            let expected = 2 + i as u64;
            apply(&admin, changed.clone(), expected)
                .await
                .expect("applied");
            assert_ne!(answers(&research).await, before);
        }
        let restored = rollback(&admin, 2, 5).await.expect("rolled back");
        assert_eq!((restored.number, restored.restores), (6, 2));
        assert_eq!(
            answers(&research).await,
            before,
            "{}",
            server.database.name()
        );
        let revision = async |number| {
            let request = v1::GetRevisionRequest {
                number,
                digests_only: false,
            };
            let answer = admin.policies().get_revision(request).await;
            answer.expect("a revision").into_inner()
        };
        let (old, new) = (revision(2).await, revision(6).await);
        assert_eq!(old.source, new.source);
        let (old, new) = (old.revision.expect("one"), new.revision.expect("one"));
        assert_eq!(old.content_sha256, new.content_sha256);
        assert_eq!((new.message.as_str(), new.active), ("back", true));
        assert!(new.base_epoch > old.base_epoch && new.apply_time != old.apply_time);
        let acts = events(&admin, &["admin"]).await;
        let act = acts
            .iter()
            .find(|e| e.1["action"]["id"] == "rollback_policy");
        let detail = &act.expect("on record").1["detail"];
        assert_eq!(
            (&detail["restores"], &detail["revision"]),
            (&"2".into(), &"6".into())
        );
        server.assert_verifies();
    }
}

#[tokio::test]
async fn without_a_number_it_goes_back_and_never_forth() {
    let server = Setup::sqlite().start().await;
    let admin = server.admin();
    for revision in 1..4 {
        let text = format!("// {revision}");
        let source = with(&admin, &format!("{revision}.cedar"), &text).await;
        apply(&admin, source, revision).await.expect("applied");
    }
    let restored = async |expected| rollback(&admin, 0, expected).await.expect("back").restores;
    assert_eq!(restored(4).await, 3);
    assert_eq!(restored(5).await, 2, "not 4, which was bad");
    assert_eq!(
        rollback(&admin, 5, 6).await.expect("back").restores,
        3,
        "5 is what 3 was"
    );
    assert_eq!(rollback(&admin, 4, 7).await.expect("forth").restores, 4);
    assert_eq!(restored(8).await, 3);
    assert_eq!(restored(9).await, 2);
    assert_eq!(restored(10).await, 1);
    assert_eq!(refused(rollback(&admin, 0, 11).await), "REVISION_NOT_FOUND");
    let (number, source) = in_force(&admin).await;
    assert_eq!(
        (number, source.policies.len()),
        (11, 3),
        "nothing of 2, 3 and 4 is left"
    );
}

#[tokio::test]
async fn it_goes_through_the_gates() {
    for database in Database::both().await {
        let server = Setup::on(database).start().await;
        let admin = server.admin();
        let schema = "namespace App { entity Doc = { title: String }; }";
        let (_, first) = in_force(&admin).await;
        let mut source = first.clone();
        source.schemas.push(file("app.cedarschema", schema));
        apply(&admin, source, 1).await.expect("applied");
        // Of the expected one, an earlier one, that is there.
        assert_eq!(refused(rollback(&admin, 1, 1).await), "REVISION_CONFLICT");
        assert_eq!(refused(rollback(&admin, 1, 3).await), "REVISION_CONFLICT");
        assert_eq!(refused(rollback(&admin, 2, 2).await), "STATE_CONFLICT");
        assert_eq!(refused(rollback(&admin, 9, 2).await), "REVISION_NOT_FOUND");
        // What is stored now does not fit the schema of then.
        let doc = v1::Entity {
            uid: entity("App::Doc", "d"),
            attributes_json: r#"{"title": "t"}"#.to_owned(),
            ..v1::Entity::default()
        };
        let put = v1::EntityServicePutRequest {
            entities: vec![doc],
        };
        admin.entities().put(put).await.expect("put");
        assert_eq!(refused(rollback(&admin, 1, 2).await), "POLICY_INVALID");
        let delete = v1::EntityServiceDeleteRequest {
            uids: entity("App::Doc", "d").into_iter().collect(),
        };
        admin.entities().delete(delete).await.expect("deleted");
        assert_eq!(rollback(&admin, 1, 2).await.expect("rolled back").number, 3);
        // Nobody locks themselves out by it.
        let no =
            r#"@id("no") forbid (principal, action == ZTA::Action::"rollback_policy", resource);"#;
        let source = with(&admin, "no.cedar", no).await;
        apply(&admin, source, 3).await.expect("applied");
        apply(&admin, first, 4).await.expect("applied");
        assert_eq!(refused(rollback(&admin, 4, 5).await), "LOCKOUT");
        assert_eq!(in_force(&admin).await.0, 5);
        server.assert_verifies();
    }
}

#[tokio::test]
async fn of_concurrent_rollbacks_one_wins() {
    for database in Database::both().await {
        let server = Setup::on(database).start().await;
        let admin = server.admin();
        let source = with(&admin, "x.cedar", "// x").await;
        apply(&admin, source, 1).await.expect("applied");
        let clients = [(); 4].map(|()| server.admin());
        let all = clients.iter().map(|client| rollback(client, 1, 2));
        let (won, lost): (Vec<_>, Vec<_>) = futures_util::future::join_all(all)
            .await
            .into_iter()
            .partition(Result::is_ok);
        assert_eq!(won.len(), 1);
        for lost in lost {
            assert_eq!(refused(lost), "REVISION_CONFLICT");
        }
        assert_eq!(in_force(&admin).await.0, 3);
    }
}

#[tokio::test]
async fn whoever_may_not_learns_nothing_and_is_on_record() {
    let server = Setup::sqlite().start().await;
    let research = server.agent("research", &["researcher"]).await;
    let admin = server.admin();
    for number in [0, 1, 2, 99] {
        assert_eq!(
            refused(rollback(&research, number, 1).await),
            "NOT_PERMITTED"
        );
    }
    let acts = events(&admin, &["admin"]).await;
    let tried = acts
        .iter()
        .filter(|e| e.1["action"]["id"] == "rollback_policy");
    let tried: Vec<_> = tried.collect();
    assert_eq!(tried.len(), 4);
    for (sequence, _) in tried {
        assert_eq!(event(&admin, *sequence).await["effect"], "deny");
    }
    assert_eq!(in_force(&admin).await.0, 1);
}

#[tokio::test]
async fn under_four_eyes_one_person_brings_back_what_another_one_approved() {
    let Scene {
        server,
        author,
        approver,
        ..
    } = scene(true).await;
    let change = async |text: &str| {
        let number = propose(&author, text).await.expect("proposed");
        approve(&approver, number).await.expect("approved").number
    };
    let open = r#"@id("open") permit (principal, action, resource);"#;
    assert_eq!(change(open).await, 2);
    allowed(&author, call("x")).await;
    // What the last change replaced, though nobody approved the policies of the first start.
    assert_eq!(rollback(&approver, 0, 2).await.expect("undone").restores, 1);
    assert_eq!(refused(rollback(&author, 2, 3).await), "NOT_PERMITTED");
    assert_eq!(
        rollback(&approver, 2, 3)
            .await
            .expect("approved once")
            .restores,
        2
    );
    // But nothing further back that nobody else looked at.
    assert_eq!(
        refused(rollback(&approver, 1, 4).await),
        "APPROVAL_REQUIRED"
    );
    assert_eq!(
        refused(rollback(&approver, 3, 4).await),
        "APPROVAL_REQUIRED"
    );
    assert_eq!(change("// nothing").await, 5);
    assert_eq!(
        refused(rollback(&approver, 1, 5).await),
        "APPROVAL_REQUIRED"
    );
    assert_eq!(
        rollback(&approver, 4, 5)
            .await
            .expect("approved once")
            .restores,
        2
    );
    server.assert_verifies();
}

#[tokio::test]
async fn the_command_line_rolls_back() {
    let server = Setup::sqlite().start().await;
    let admin = server.admin();
    let source = with(&admin, "x.cedar", "// x").await;
    apply(&admin, source, 1).await.expect("applied");
    let done = server.zta(&["policy", "rollback", "-m", "it was Friday"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let said = text(&done.stdout);
    assert_eq!(
        said,
        "revision 3 is in force: 12 policies, those of revision 1\n"
    );
    let log = text(&server.zta(&["policy", "log"]).stdout);
    let row = log.lines().find(|l| l.starts_with("3 ")).expect("a row");
    assert!(
        row.contains("revision 1") && row.contains("it was Friday"),
        "{row}"
    );
    let moved = server.zta(&["policy", "rollback", "2", "--expected", "2"]);
    assert_eq!(moved.status.code(), Some(1));
    assert!(text(&moved.stderr).contains("(REVISION_CONFLICT)"));
    let json = server.zta(&["policy", "rollback", "2", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!((&json["number"], &json["restores"]), (&4.into(), &2.into()));
}
