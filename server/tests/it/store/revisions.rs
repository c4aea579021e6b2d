//! Policy revisions come back byte for byte.

use zta_server::model::arguments::sha256;
use zta_server::model::revision::PolicyChunk;
use zta_server::model::{Change, Conflict, EntityUid, Revision, RevisionMeta, SourceFile};
use zta_server::store::StoreError;

use super::changes::{conflicts, succeeds};
use super::support::{Db, NOW};

pub(crate) fn revision(number: u64, chunks: Vec<PolicyChunk>) -> Revision {
    Revision {
        meta: RevisionMeta {
            number,
            author: EntityUid::new("ZTA::User", "spiffe://zta.local#admin"),
            message: format!("revision {number}\nwith é"),
            apply_time: NOW,
            content_sha256: sha256(&number.to_be_bytes()),
            policies: chunks.iter().filter(|c| c.policy_id.is_some()).count() as u32,
        },
        schema_files: vec![SourceFile {
            name: "zta.cedarschema".to_owned(),
            text: "namespace ZTA {}\r\n".to_owned(),
        }],
        chunks,
    }
}

pub(crate) fn chunk(file: &str, policy_id: Option<&str>, text: &str) -> PolicyChunk {
    PolicyChunk {
        file: file.to_owned(),
        policy_id: policy_id.map(str::to_owned),
        text: text.to_owned(),
    }
}

pub(crate) async fn round_trip(db: Db) {
    let db = db.with_log().await;
    assert_eq!(db.store.revision(1).await.expect("none"), None);
    let base = "// é \u{feff}\r\n@id(\"a\")\npermit(principal, action, resource);\n";
    let first = vec![
        chunk("b.cedar", Some("a"), base),
        chunk("b.cedar", None, "\n// the rest, without a line end"),
        chunk(
            "a.cedar",
            Some("z"),
            "@id(\"z\") forbid(principal, action, resource);",
        ),
        chunk("a.cedar", Some("y"), base),
        chunk("empty.cedar", None, ""),
    ];
    let mut second = first.clone();
    second.swap(0, 2);
    let (one, two) = (revision(1, first), revision(2, second));
    let apply = |r: &Revision| Change::ApplyRevision(Box::new(r.clone()));
    conflicts(&db.store, &apply(&two), Conflict::Revision { in_force: 0 }).await;
    succeeds(&db.store, &apply(&one)).await;
    conflicts(&db.store, &apply(&one), Conflict::Revision { in_force: 1 }).await;
    succeeds(&db.store, &apply(&two)).await;
    for wanted in [&one, &two] {
        let stored = db
            .store
            .revision(wanted.meta.number)
            .await
            .expect("revision");
        let stored = stored.expect("it is there");
        assert_eq!(&stored, wanted);
        assert_eq!(stored.policy_files(), wanted.policy_files());
    }
    let texts = db
        .raw
        .rows("SELECT 1 FROM policy_texts")
        .await
        .expect("texts");
    assert_eq!(texts, 5, "a text stands once");
    let metas = |list: Vec<RevisionMeta>| list.iter().map(|m| m.number).collect::<Vec<_>>();
    for (before, limit, expected) in [
        (u64::MAX, 9, vec![2, 1]),
        (u64::MAX, 1, vec![2]),
        (2, 9, vec![1]),
        (1, 9, vec![]),
    ] {
        let list = db.store.revisions(before, limit).await.expect("list");
        assert_eq!(metas(list), expected);
    }
    assert_eq!(db.store.revisions(2, 1).await.expect("list"), [one.meta]);
    let gone = "DELETE FROM policy_texts WHERE text LIKE '%forbid%'";
    db.raw.execute(gone).await.expect("deleted");
    let less = db.store.revision(2).await;
    assert!(matches!(less, Err(StoreError::Corrupt(_))), "{less:?}");
}

/// The writer holds the head meanwhile: this has to be a matter of seconds.
pub(crate) async fn a_large_one(db: Db) {
    let db = db.with_log().await;
    let chunks: Vec<_> = (0..20_000)
        .map(|n| {
            let id = format!("p{n}");
            let text =
                format!("@id(\"{id}\") permit(principal == A::\"{n}\", action, resource);\n");
            chunk(&format!("f{}.cedar", n / 1000), Some(&id), &text)
        })
        .collect();
    let large = revision(1, chunks);
    let started = std::time::Instant::now();
    succeeds(&db.store, &Change::ApplyRevision(Box::new(large.clone()))).await;
    let took = started.elapsed();
    assert!(took < std::time::Duration::from_secs(10), "{took:?}");
    let stored = db
        .store
        .revision(1)
        .await
        .expect("revision")
        .expect("it is there");
    assert_eq!(stored, large);
}
