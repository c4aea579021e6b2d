//! Proposals: stored as they were made, decided once.

use zta_server::model::arguments::sha256;
use zta_server::model::proposal::{NewProposal, OPEN_MAX, Proposal, ProposalMeta, ProposalState};
use zta_server::model::revision::{FileChange, FileKind, Provenance};
use zta_server::model::{Change, Conflict, EntityUid};

use super::changes::{conflicts, succeeds};
use super::revisions::{policy, put, revision};
use super::support::{Db, NOW};

fn author() -> EntityUid {
    EntityUid::new("ZTA::User", "https://idp.example#é")
}

fn approver() -> EntityUid {
    EntityUid::new("ZTA::User", "spiffe://zta.local#eve")
}

pub(crate) fn proposal(number: u64, base_revision: u64) -> NewProposal {
    Proposal {
        meta: ProposalMeta {
            number,
            state: ProposalState::Open,
            base_revision,
            authors: vec![author(), EntityUid::new("ZTA::Agent", "spiffe://a/agent/b")],
            message: format!("proposal {number}\nwith é"),
            create_time: NOW,
            content_sha256: sha256(&number.to_be_bytes()),
            policies: 3,
            decided_by: None,
            provenance: Provenance {
                commit: Some("0123abc".to_owned()),
                signature: number.is_multiple_of(2).then(|| "é\n\n— a b\n".to_owned()),
            },
        },
        changes: vec![
            policy("a.cedar", &format!("// {number}\r\n")),
            FileChange {
                content: None,
                ..policy("b.cedar", "")
            },
            put(FileKind::Schema, "c.cedarschema", "namespace C {}"),
        ],
    }
}

pub(crate) fn propose(proposal: &NewProposal) -> Change {
    Change::Propose(Box::new(proposal.clone()))
}

pub(crate) fn approve(proposal: u64, number: u64) -> Change {
    let mut revision = revision(number, vec![policy("a.cedar", "// new")]);
    revision.meta.approver = Some(approver());
    Change::Approve {
        proposal,
        revision: Box::new(revision),
    }
}

pub(crate) fn reject(proposal: u64) -> Change {
    Change::Reject {
        proposal,
        by: approver(),
    }
}

pub(crate) async fn decided_once(db: Db) {
    let db = db.with_log().await;
    let first = revision(
        1,
        vec![policy("a.cedar", "// 0"), policy("b.cedar", "// b")],
    );
    succeeds(&db.store, &Change::ApplyRevision(Box::new(first))).await;
    let epoch = db.store.head().await.expect("head").epoch;
    for (number, ahead) in [(1, 3), (2, 4), (3, 5)] {
        conflicts(
            &db.store,
            &propose(&proposal(ahead, 1)),
            Conflict::ProposalMoved,
        )
        .await;
        succeeds(&db.store, &propose(&proposal(number, 1))).await;
        conflicts(
            &db.store,
            &propose(&proposal(number, 1)),
            Conflict::ProposalMoved,
        )
        .await;
    }
    let other_base = Conflict::Revision { in_force: 1 };
    conflicts(&db.store, &propose(&proposal(4, 2)), other_base).await;
    assert_eq!(db.store.head().await.expect("head").epoch, epoch);

    let stored = db.store.proposal(2).await.expect("read").expect("there");
    assert_eq!(stored.meta, proposal(2, 1).meta);
    let digests = |p: NewProposal| -> Vec<_> {
        let digest = |c: FileChange<zta_server::model::SourceFile>| FileChange {
            kind: c.kind,
            name: c.name,
            content: c.content.map(|f| *f.sha256()),
        };
        p.changes.into_iter().map(digest).collect()
    };
    assert_eq!(stored.changes, digests(proposal(2, 1)));
    let text = stored.changes[0].content.expect("a text");
    let texts = db.store.texts(&[text]).await.expect("texts");
    assert_eq!(&*texts[0], "// 2\r\n");

    for unknown in [approve(9, 2), reject(9)] {
        conflicts(&db.store, &unknown, Conflict::ProposalNotFound).await;
    }
    // A revision that cannot follow leaves the proposal open.
    conflicts(
        &db.store,
        &approve(2, 7),
        Conflict::Revision { in_force: 1 },
    )
    .await;
    assert_eq!(state(&db, 2).await, ProposalState::Open);
    succeeds(&db.store, &approve(2, 2)).await;
    let after = db.store.head().await.expect("head").epoch;
    assert!(after > epoch, "a revision that comes into force is seen");
    let manifest = db.store.revision(2).await.expect("read").expect("there");
    assert_eq!(manifest.meta.approver, Some(approver()));
    succeeds(&db.store, &reject(1)).await;
    for (number, decided) in [(1, ProposalState::Rejected), (2, ProposalState::Approved)] {
        for again in [approve(number, 3), reject(number)] {
            conflicts(&db.store, &again, Conflict::ProposalDecided(decided)).await;
        }
        let stored = db
            .store
            .proposal(number)
            .await
            .expect("read")
            .expect("there");
        assert_eq!(stored.meta.state, decided);
        assert_eq!(stored.meta.decided_by, Some(approver()));
    }
    let listed = db.store.proposals(3, 10).await.expect("list");
    let numbers: Vec<u64> = listed.iter().map(|p| p.number).collect();
    assert_eq!(numbers, [2, 1]);
    assert_eq!(
        db.store.proposals(u64::MAX, 1).await.expect("list")[0].number,
        3
    );
    assert_eq!(db.store.proposal(4).await.expect("read"), None);
}

async fn state(db: &Db, number: u64) -> ProposalState {
    let stored = db.store.proposal(number).await.expect("read");
    stored.expect("there").meta.state
}

pub(crate) async fn bounded(db: Db) {
    let db = db.with_log().await;
    for number in 1..=u64::from(OPEN_MAX) {
        succeeds(&db.store, &propose(&proposal(number, 0))).await;
    }
    let next = u64::from(OPEN_MAX) + 1;
    conflicts(
        &db.store,
        &propose(&proposal(next, 0)),
        Conflict::ProposalsOpen,
    )
    .await;
    succeeds(&db.store, &reject(7)).await;
    succeeds(&db.store, &propose(&proposal(next, 0))).await;
}
