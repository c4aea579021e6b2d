//! Policy revisions come back byte for byte, and store what they changed.

use std::collections::BTreeMap;

use zta_server::model::arguments::sha256;
use zta_server::model::revision::{FileChange, FileKind, Manifest, NewRevision, Provenance};
use zta_server::model::{Change, Conflict, EntityUid, RevisionMeta, SourceFile};
use zta_server::store::StoreError;

use super::changes::{conflicts, succeeds};
use super::support::{Db, NOW};

pub(crate) fn revision(number: u64, changes: Vec<FileChange<SourceFile>>) -> NewRevision {
    NewRevision {
        meta: RevisionMeta {
            number,
            author: EntityUid::new("ZTA::User", "spiffe://zta.local#admin"),
            approver: number
                .is_multiple_of(2)
                .then(|| EntityUid::new("ZTA::User", "idp#é")),
            message: format!("revision {number}\nwith é"),
            apply_time: NOW,
            content_sha256: sha256(&number.to_be_bytes()),
            gates: format!("gates of {number}"),
            policies: changes.len() as u32,
            provenance: Provenance {
                commit: number.is_multiple_of(2).then(|| "0123abc-dirty".to_owned()),
                signature: number
                    .is_multiple_of(3)
                    .then(|| "text\n\n— é signs\n".to_owned()),
            },
            base_epoch: number + 7,
            restores: number.is_multiple_of(2).then_some(number / 2),
        },
        changes,
    }
}

pub(crate) fn put(kind: FileKind, name: &str, text: &str) -> FileChange<SourceFile> {
    FileChange {
        kind,
        name: name.to_owned(),
        content: Some(SourceFile::new(name, text)),
    }
}

pub(crate) fn policy(name: &str, text: &str) -> FileChange<SourceFile> {
    put(FileKind::Policy, name, text)
}

fn gone(kind: FileKind, name: &str) -> FileChange<SourceFile> {
    FileChange {
        kind,
        name: name.to_owned(),
        content: None,
    }
}

fn apply(revision: &NewRevision) -> Change {
    Change::ApplyRevision(Box::new(revision.clone()))
}

type Files = BTreeMap<(FileKind, String), String>;

/// The files of a revision with their texts.
async fn files(db: &Db, number: u64) -> Files {
    let stored = db.store.revision(number).await.expect("revision");
    let Manifest { meta, files } = stored.expect("it is there");
    assert_eq!(meta.number, number);
    assert!(files.is_sorted(), "by kind and name");
    let digests: Vec<_> = files.iter().map(|f| f.sha256).collect();
    let texts = db.store.texts(&digests).await.expect("texts");
    let file = |(f, text): (_, std::sync::Arc<str>)| {
        let f: zta_server::model::revision::FileDigest = f;
        assert_eq!(f.sha256, sha256(text.as_bytes()));
        ((f.kind, f.name), text.to_string())
    };
    files.into_iter().zip(texts).map(file).collect()
}

pub(crate) async fn round_trip(db: Db) {
    let db = db.with_log().await;
    assert_eq!(db.store.revision(1).await.expect("none"), None);
    let base = "// é \u{feff}\r\n@id(\"a\")\npermit(principal, action, resource);\n";
    let (p, s) = (FileKind::Policy, FileKind::Schema);
    let schema = put(s, "zta.cedarschema", "namespace ZTA {}\r\n");
    let revisions = [
        vec![
            policy("b.cedar", base),
            policy("B.cedar", "// forbid"),
            policy("empty.cedar", ""),
            schema,
        ],
        vec![
            policy("b.cedar", "// the rest, without a line end"),
            policy("twin", base),
        ],
        vec![
            gone(p, "b.cedar"),
            gone(s, "zta.cedarschema"),
            put(s, "é", base),
        ],
        vec![],
        vec![policy("b.cedar", base), gone(s, "é"), policy("é", "1")],
    ];
    let mut expected = Files::new();
    let mut all = Vec::new();
    for (number, changes) in (1..).zip(revisions) {
        let next = revision(number, changes);
        let ahead = revision(number + 1, Vec::new());
        let in_force = number - 1;
        conflicts(&db.store, &apply(&ahead), Conflict::Revision { in_force }).await;
        succeeds(&db.store, &apply(&next)).await;
        let in_force = number;
        conflicts(&db.store, &apply(&next), Conflict::Revision { in_force }).await;
        for change in next.changes {
            let key = (change.kind, change.name);
            match change.content {
                Some(file) => expected.insert(key, file.text().to_string()),
                None => expected.remove(&key),
            };
        }
        all.push((next.meta, expected.clone()));
    }
    for (meta, expected) in &all {
        assert_eq!(&files(&db, meta.number).await, expected, "{}", meta.number);
        let stored = db.store.revision(meta.number).await.expect("revision");
        assert_eq!(&stored.expect("it is there").meta, meta);
    }
    let rows = async |sql| db.raw.rows(sql).await.expect("rows");
    assert_eq!(
        rows("SELECT 1 FROM policy_texts").await,
        6,
        "a text stands once"
    );
    assert_eq!(
        rows("SELECT 1 FROM revision_files").await,
        12,
        "what changed"
    );
    listed(&db, all.iter().map(|(meta, _)| meta.clone()).collect()).await;
    let gone = "DELETE FROM policy_texts WHERE text LIKE '%forbid%'";
    db.raw.execute(gone).await.expect("deleted");
    let missing = sha256(b"// forbid");
    let less = db.store.texts(&[missing]).await;
    assert!(matches!(less, Err(StoreError::Corrupt(_))), "{less:?}");
}

async fn listed(db: &Db, metas: Vec<RevisionMeta>) {
    for (before, limit, expected) in [
        (u64::MAX, 9, vec![5, 4, 3, 2, 1]),
        (u64::MAX, 1, vec![5]),
        (3, 9, vec![2, 1]),
        (1, 9, vec![]),
    ] {
        let list = db.store.revisions(before, limit).await.expect("list");
        assert_eq!(list.iter().map(|m| m.number).collect::<Vec<_>>(), expected);
    }
    let list = db.store.revisions(2, 1).await.expect("list");
    assert_eq!(list, metas[..1]);
}

/// The feed tells what is different, whatever lies between.
pub(crate) async fn news(db: Db) {
    let db = db.with_log().await;
    let p = FileKind::Policy;
    for (number, changes) in (1..).zip([
        vec![policy("a", "1"), policy("b", "1")],
        vec![policy("a", "2")],
        vec![gone(p, "a"), policy("b", "2")],
        vec![policy("a", "1")],
    ]) {
        succeeds(&db.store, &apply(&revision(number, changes))).await;
    }
    let digest = |text: &str| Some(sha256(text.as_bytes()));
    // What is known may be newer: then the database was put back, and all of it is news.
    for (known, since, expected) in [
        (0, 0, vec![("a", digest("1")), ("b", digest("2"))]),
        (1, 1, vec![("a", digest("1")), ("b", digest("2"))]),
        (2, 2, vec![("a", digest("1")), ("b", digest("2"))]),
        (3, 3, vec![("a", digest("1"))]),
        (9, 0, vec![("a", digest("1")), ("b", digest("2"))]),
    ] {
        let feed = db.store.changes_since(0, known).await.expect("feed");
        let news = feed.revision.expect("news");
        assert_eq!((news.meta.number, news.since), (4, since));
        let changes: Vec<_> = news
            .changes
            .iter()
            .map(|c| (c.name.as_str(), c.content))
            .collect();
        assert_eq!(changes, expected, "known {known}");
    }
    assert_eq!(
        db.store.changes_since(0, 4).await.expect("feed").revision,
        None
    );
}

/// The writer holds the head meanwhile: this has to be a matter of seconds.
pub(crate) async fn a_large_one(db: Db) {
    let db = db.with_log().await;
    let changes: Vec<_> = (0..10_000)
        .map(|n| {
            let text =
                format!("@id(\"p{n}\") permit(principal == A::\"{n}\", action, resource);\n");
            policy(&format!("f{n:05}.cedar"), &text)
        })
        .collect();
    let large = revision(1, changes.clone());
    let started = std::time::Instant::now();
    succeeds(&db.store, &apply(&large)).await;
    let took = started.elapsed();
    assert!(took < std::time::Duration::from_secs(10), "{took:?}");
    let stored = files(&db, 1).await;
    assert_eq!(stored.len(), changes.len());
    let text = |c: FileChange<SourceFile>| c.content.expect("a file").text().to_string();
    assert!(stored.into_values().eq(changes.into_iter().map(text)));
}
