//! Four eyes: who writes a policy cannot put it in force.

use zta_client::{Client, v1};

use super::{apply, file, in_force};
use crate::support::rpc::{allowed, authorize, call, events, reason, refused};
use crate::support::server::text;
use crate::support::{Server, Setup, repository};

/// Roles for agents, too: people other than the first administrator need an identity
/// provider. Without `base.cedar`, which forbids agents to administer.
const ROLES: &str = r#"
    @id("test.author") permit (principal in ZTA::Role::"author", action in
        [ZTA::Action::"author", ZTA::Action::"audit"], resource);
    @id("test.approver") permit (principal in ZTA::Role::"approver", action in
        [ZTA::Action::"approve", ZTA::Action::"audit"], resource);
"#;

const OPEN_UP: &str = r#"@id("open.up") permit (principal, action, resource);"#;

pub(super) struct Scene {
    pub(super) server: Server,
    pub(super) author: Client,
    pub(super) approver: Client,
    /// Has both roles.
    pub(super) both: Client,
}

pub(super) async fn scene(four_eyes: bool) -> Scene {
    let folder = tempfile::tempdir().expect("a folder");
    let admin = repository("policies/admin.cedar");
    std::fs::copy(admin, folder.path().join("admin.cedar")).expect("copy");
    std::fs::write(folder.path().join("roles.cedar"), ROLES).expect("write");
    let server = Setup::sqlite()
        .policies(&[])
        .set("ZTA_POLICY_DIR", folder.path().display())
        .set("ZTA_FOUR_EYES", four_eyes)
        .start()
        .await;
    let author = server.agent("ann", &["author"]).await;
    let approver = server.agent("bob", &["approver"]).await;
    let both = server.agent("cem", &["author", "approver"]).await;
    Scene {
        server,
        author,
        approver,
        both,
    }
}

pub(super) async fn propose(client: &Client, policy: &str) -> Result<u64, tonic::Status> {
    let request = v1::ProposeRequest {
        patch: Some(v1::PolicyPatch {
            put_policies: vec![file("new.cedar", policy)],
            ..Default::default()
        }),
        expected_revision: in_force(client).await.0,
        message: "open up".to_owned(),
        ..Default::default()
    };
    let answer = client.policies().propose(request).await?.into_inner();
    let proposal = answer.proposal.expect("a proposal");
    assert_eq!(proposal.state(), v1::ProposalState::Open);
    Ok(proposal.number)
}

pub(super) async fn approve(client: &Client, number: u64) -> Result<v1::Revision, tonic::Status> {
    let request = v1::ApproveRequest { number };
    let answer = client.policies().approve(request).await?.into_inner();
    Ok(answer.revision.expect("a revision"))
}

#[tokio::test]
async fn what_one_proposes_another_one_approves() {
    let Scene {
        server,
        author,
        approver,
        both,
    } = scene(true).await;
    let (_, source) = in_force(&author).await;
    // Nobody applies, the administrator neither, and the try is on record.
    for client in [&author, &server.admin()] {
        let refused = refused(apply(client, source.clone(), 1).await);
        assert_eq!(refused, "APPROVAL_REQUIRED");
    }
    assert_eq!(refused(apply(&approver, source, 1).await), "NOT_PERMITTED");

    let number = propose(&author, OPEN_UP).await.expect("proposed");
    let answer = authorize(&author, call("x")).await.expect("a decision");
    assert_eq!(answer.effect(), v1::Effect::Deny, "nothing is in force yet");
    assert_eq!(refused(approve(&author, number).await), "NOT_PERMITTED");
    let own = propose(&both, OPEN_UP).await.expect("proposed");
    assert_eq!(refused(approve(&both, own).await), "OWN_PROPOSAL");
    assert_eq!(refused(propose(&approver, OPEN_UP).await), "NOT_PERMITTED");
    assert_eq!(refused(approve(&approver, 99).await), "PROPOSAL_NOT_FOUND");
    assert_eq!(refused(approve(&author, 99).await), "NOT_PERMITTED");

    let revision = approve(&approver, number).await.expect("approved");
    assert_eq!(revision.number, 2);
    let id = |uid: &Option<v1::EntityRef>| uid.as_ref().map(|uid| uid.id.clone());
    let spiffe = |name: &str| Some(format!("spiffe://zta.local/agent/{name}"));
    assert_eq!(id(&revision.author), spiffe("ann"));
    assert_eq!(id(&revision.approver), spiffe("bob"));
    allowed(&author, call("x")).await;
    assert_eq!(refused(approve(&approver, number).await), "STATE_CONFLICT");
    // Written against revision 1: what was reviewed is not what would come into force.
    assert_eq!(refused(approve(&approver, own).await), "REVISION_CONFLICT");

    let events = events(&server.admin(), &["admin"]).await;
    let acts = |action: &str| {
        events
            .iter()
            .filter(|e| e.1["action"]["id"] == action)
            .count()
    };
    assert_eq!((acts("propose_policy"), acts("approve_policy")), (3, 7));
    let approved = events.iter().find(|e| e.1["detail"]["revision"] == "2");
    let approved = &approved.expect("on record").1;
    assert_eq!(approved["actor"]["id"], "spiffe://zta.local/agent/bob");
    assert_eq!(approved["detail"]["proposal"], "1");
    assert_eq!(
        approved["detail"]["authors"][0]["id"],
        "spiffe://zta.local/agent/ann"
    );
    server.assert_verifies();
}

#[tokio::test]
async fn a_proposal_passes_the_gates_and_locks_nobody_out() {
    let Scene {
        author,
        approver,
        server,
        ..
    } = scene(true).await;
    let bad = propose(&author, "permit (").await.expect_err("no policy");
    assert_eq!(reason(&bad), "POLICY_INVALID");
    let lock_authors = r#"@id("no") forbid (principal, action == ZTA::Action::"propose_policy",
                                            resource);"#;
    assert_eq!(refused(propose(&author, lock_authors).await), "LOCKOUT");
    let lock_approvers = r#"@id("no") forbid (principal, action in ZTA::Action::"approve",
                                              resource);"#;
    let number = propose(&author, lock_approvers).await.expect("proposed");
    assert_eq!(refused(approve(&approver, number).await), "LOCKOUT");
    let reject = v1::RejectRequest {
        number,
        note: "locks us out".to_owned(),
    };
    let rejected = approver.policies().reject(reject).await.expect("rejected");
    let rejected = rejected.into_inner().proposal.expect("a proposal");
    assert_eq!(rejected.state(), v1::ProposalState::Rejected);
    assert_eq!(refused(approve(&approver, number).await), "STATE_CONFLICT");
    assert_eq!(in_force(&author).await.0, 1);
    server.assert_verifies();
}

#[tokio::test]
async fn without_four_eyes_proposals_are_offered_beside_apply() {
    let Scene {
        server,
        author,
        approver,
        ..
    } = scene(false).await;
    let number = propose(&author, OPEN_UP).await.expect("proposed");
    assert_eq!(
        approve(&approver, number).await.expect("approved").number,
        2
    );
    let (_, mut source) = in_force(&author).await;
    source.policies.retain(|f| f.name != "new.cedar");
    assert_eq!(apply(&author, source, 2).await.expect("applied"), 3);
    assert_eq!(
        refused(approve(&server.admin(), number).await),
        "STATE_CONFLICT"
    );
}

#[tokio::test]
async fn the_command_line_knows_proposals() {
    let Scene {
        server, approver, ..
    } = scene(true).await;
    let folder = server.folder().join("next");
    std::fs::create_dir(&folder).expect("a folder");
    for name in ["admin.cedar", "roles.cedar"] {
        let text = match name {
            "admin.cedar" => std::fs::read_to_string(repository("policies/admin.cedar")),
            _ => Ok(ROLES.to_owned()),
        };
        std::fs::write(folder.join(name), text.expect("a file")).expect("write");
    }
    std::fs::write(folder.join("new.cedar"), OPEN_UP).expect("write");
    let folder = folder.to_string_lossy();
    let applied = server.zta(&["policy", "apply", &folder]);
    assert_eq!(applied.status.code(), Some(1), "{}", text(&applied.stderr));
    assert!(text(&applied.stderr).contains("propose them"));
    let done = |arguments: &[&str]| {
        let output = server.zta(arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let proposed = done(&["policy", "propose", &folder, "-m", "open up"]);
    assert!(proposed.contains("proposal 1 waits"), "{proposed}");
    let listed = done(&["policy", "proposals"]);
    assert!(
        listed.contains("open") && listed.contains("open up"),
        "{listed}"
    );
    let shown = done(&["policy", "proposals", "1"]);
    assert!(
        shown.contains("+++ new.cedar") && shown.contains("open.up"),
        "{shown}"
    );
    assert!(!shown.contains("roles.cedar"), "only what changes: {shown}");
    let own = server.zta(&["policy", "approve", "1"]);
    assert!(text(&own.stderr).contains("somebody else"), "{own:?}");
    approve(&approver, 1).await.expect("approved");
    let log = done(&["policy", "log"]);
    assert!(
        log.contains("approved by spiffe://zta.local/agent/bob"),
        "{log}"
    );
    done(&["policy", "propose", &folder]);
    done(&["policy", "reject", "2", "--note", "no need"]);
    let listed = done(&["policy", "proposals", "--json"]);
    assert!(listed.contains("\"state\":\"rejected\""), "{listed}");
}
