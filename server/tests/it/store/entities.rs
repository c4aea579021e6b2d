//! Entities: their versions, the feed of them in pages, and the list of those that hold.

use zta_server::model::{Change, EntityCursor, EntityUid, EntityVersion, StoredEntity};
use zta_server::store::SharedStore;

use super::queries::LOOK_ALIKES;
use super::support::{Db, change};

pub(crate) fn entity(ty: &str, id: &str, attributes: &str) -> StoredEntity {
    StoredEntity {
        uid: EntityUid::new(ty, id),
        parents: vec![EntityUid::new("ZTA::Group", "g \"1\"")],
        attributes: attributes.to_owned(),
        tags: r#"{"k":"\u0000\\é"}"#.to_owned(),
    }
}

async fn put(store: &SharedStore, entities: &[StoredEntity]) {
    let wanted = Change::PutEntities(entities.into());
    change(store, &wanted).await.expect("puts");
}

async fn delete(store: &SharedStore, uids: &[EntityUid]) {
    let wanted = Change::DeleteEntities(uids.into());
    change(store, &wanted).await.expect("deletes");
}

/// The feed after an epoch, read in pages of a size.
async fn feed(store: &SharedStore, since: u64, until: u64, page: u32) -> Vec<EntityVersion> {
    let mut all = Vec::new();
    let mut after: Option<EntityCursor> = None;
    loop {
        let page = store
            .entity_changes(since, until, after.as_ref(), page)
            .await;
        let page = page.expect("a page");
        all.extend(page.versions);
        after = page.next;
        if after.is_none() {
            return all;
        }
    }
}

pub(crate) async fn versions(db: Db) {
    let db = db.with_log().await;
    let one = |attributes: &str| entity("A", "1", attributes);
    let (two, three) = (entity("A", "2", "{}"), entity("B", "1", "{}"));
    put(&db.store, &[one("{}"), two.clone()]).await;
    put(
        &db.store,
        &[one(r#"{"n":9223372036854775807}"#), three.clone()],
    )
    .await;
    delete(&db.store, std::slice::from_ref(&two.uid)).await;
    put(&db.store, &[one("{}")]).await;
    put(&db.store, std::slice::from_ref(&two)).await;
    delete(&db.store, &[one("").uid, three.uid.clone()]).await;
    let put_of = EntityVersion::Put;
    let gone = |entity: &StoredEntity| EntityVersion::Deleted(entity.uid.clone());
    let changed = one(r#"{"n":9223372036854775807}"#);
    let states: [(u64, Vec<StoredEntity>); 7] = [
        (0, vec![]),
        (1, vec![one("{}"), two.clone()]),
        (2, vec![two.clone(), changed.clone(), three.clone()]),
        (3, vec![changed, three.clone()]),
        (4, vec![three.clone(), one("{}")]),
        (5, vec![three.clone(), one("{}"), two.clone()]),
        (6, vec![two.clone()]),
    ];
    for page in [1, 2, 3, 100] {
        // Each epoch can be read for ever, as it was.
        for (epoch, expected) in &states {
            let read = feed(&db.store, 0, *epoch, page).await;
            let mut read: Vec<_> = read.iter().map(|v| format!("{v:?}")).collect();
            let mut expected: Vec<_> = expected
                .iter()
                .map(|e| format!("{:?}", put_of(e.clone())))
                .collect();
            read.sort();
            expected.sort();
            assert_eq!(read, expected, "epoch {epoch} in pages of {page}");
        }
        assert_eq!(
            feed(&db.store, 2, 3, page).await,
            [gone(&two)],
            "a deletion is news to who knew the entity"
        );
        assert_eq!(
            feed(&db.store, 3, 6, page).await,
            [put_of(two.clone()), gone(&one("")), gone(&three)]
        );
        assert_eq!(feed(&db.store, 6, 6, page).await, []);
    }
    let changes = db.store.changes_since(3, 0).await.expect("feed");
    assert_eq!(changes.entities.versions.len(), 3);
    assert_eq!(changes.entities.next, None);
    let list = db.store.entities(None, None, 10).await.expect("list");
    assert_eq!(list, [two]);
}

pub(crate) async fn look_alikes(db: Db) {
    let db = db.with_log().await;
    let mut all: Vec<StoredEntity> = LOOK_ALIKES
        .iter()
        .flat_map(|id| ["App::T", "App::t"].map(|ty| entity(ty, id, &format!("{{\"{ty}\":1}}"))))
        .collect();
    put(&db.store, &all).await;
    all.sort_by(|a, b| a.uid.cmp(&b.uid));
    let list = db.store.entities(None, None, 1000).await.expect("list");
    assert_eq!(list, all, "byte by byte");
    for page in [1, 3] {
        let mut read: Vec<StoredEntity> = Vec::new();
        loop {
            let after = read.last().map(|e| e.uid.clone());
            let more = db
                .store
                .entities(None, after.as_ref(), page)
                .await
                .expect("a page");
            if more.is_empty() {
                break;
            }
            assert!(more.len() <= page as usize);
            read.extend(more);
        }
        assert_eq!(read, all);
    }
    let first = EntityUid::new("App::T", LOOK_ALIKES[0]);
    let of_type = db.store.entities(Some("App::T"), Some(&first), 1000).await;
    let rest = all
        .iter()
        .filter(|e| e.uid.ty == "App::T" && e.uid.id > first.id);
    assert_eq!(of_type.expect("list"), rest.cloned().collect::<Vec<_>>());
    delete(&db.store, std::slice::from_ref(&first)).await;
    let list = db.store.entities(None, None, 1000).await.expect("list");
    assert_eq!(list.len(), all.len() - 1, "only that one");
    assert!(list.iter().all(|e| e.uid != first));
}

pub(crate) async fn bulk(db: Db) {
    let db = db.with_log().await;
    let many: Vec<StoredEntity> = (0..10_000)
        .map(|n| entity("App::T", &format!("{n:05}"), r#"{"a":"b"}"#))
        .collect();
    for _ in 0..2 {
        put(&db.store, &many).await;
    }
    assert_eq!(feed(&db.store, 0, 2, 4096).await.len(), 10_000);
    let changes = db.store.changes_since(1, 0).await.expect("feed");
    assert_eq!(changes.entities.versions.len(), 4096);
    let next = changes.entities.next.expect("another page");
    assert_eq!((next.epoch, next.uid.id.as_str()), (2, "04095"));
    let uids: Vec<EntityUid> = many.into_iter().map(|e| e.uid).collect();
    delete(&db.store, &uids).await;
    assert_eq!(feed(&db.store, 0, 3, 4096).await.len(), 0);
    assert_eq!(feed(&db.store, 2, 3, 4096).await.len(), 10_000);
    // A NUL is refused by both, and leaves nothing behind.
    let mut tx = db.store.begin().await.expect("begin");
    let nul = Change::PutEntities([entity("App::T", "a\0b", "{}")].into());
    assert!(tx.apply(&nul, 4).await.is_err());
}
