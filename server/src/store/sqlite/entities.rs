//! Entities in SQLite, in all their versions.

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row as _, Sqlite, SqliteConnection, SqlitePool};

use super::{SqliteStore, translate};
use crate::model::{EntityCursor, EntityPage, EntityUid, EntityVersion, StoredEntity};
use crate::store::value::{
    corrupt, entity_page, entity_version, parents_text, refuse_nul, signed, unsigned,
};
use crate::store::{EntityStore, StoreError};

/// Entities per statement.
const PIECE: usize = 4096;

#[async_trait]
impl EntityStore for SqliteStore {
    async fn entity_changes(
        &self,
        since: u64,
        until: u64,
        after: Option<&EntityCursor>,
        limit: u32,
    ) -> Result<EntityPage, StoreError> {
        let mut connection = self.readers.acquire().await.map_err(translate)?;
        changes(&mut connection, since, until, after, limit).await
    }

    async fn entities(
        &self,
        ty: Option<&str>,
        after: Option<&EntityUid>,
        limit: u32,
    ) -> Result<Vec<StoredEntity>, StoreError> {
        refuse_nul(after.into_iter().flat_map(|uid| [&uid.ty, &uid.id]))?;
        // First the rest of the type that the page before ended in: a comparison of
        // pairs would walk that type from its beginning.
        let mut found = match after {
            Some(after) => current(&self.readers, Range::Rest(after), limit).await?,
            None => Vec::new(),
        };
        let left = limit.saturating_sub(u32::try_from(found.len()).unwrap_or(u32::MAX));
        let range = match (ty, after) {
            (Some(_), Some(_)) => return Ok(found),
            (Some(ty), None) => Range::Type(ty),
            (None, Some(after)) => Range::Beyond(&after.ty),
            (None, None) => Range::All,
        };
        if left > 0 {
            found.extend(current(&self.readers, range, left).await?);
        }
        Ok(found)
    }
}

/// A piece of the order of type and id.
enum Range<'a> {
    All,
    Type(&'a str),
    /// What follows in the same type.
    Rest(&'a EntityUid),
    /// What follows in later types.
    Beyond(&'a str),
}

async fn current(
    readers: &SqlitePool,
    range: Range<'_>,
    limit: u32,
) -> Result<Vec<StoredEntity>, StoreError> {
    let mut sql: QueryBuilder<Sqlite> = QueryBuilder::new(
        "SELECT epoch, type, id, parents, attributes, tags FROM entities \
         WHERE until_epoch = 9223372036854775807 AND attributes IS NOT NULL",
    );
    match range {
        Range::All => {}
        Range::Type(ty) => {
            sql.push(" AND type = ").push_bind(ty);
        }
        Range::Rest(after) => {
            sql.push(" AND type = ").push_bind(&after.ty);
            sql.push(" AND id > ").push_bind(&after.id);
        }
        Range::Beyond(ty) => {
            sql.push(" AND type > ").push_bind(ty);
        }
    }
    sql.push(" ORDER BY type, id LIMIT ").push_bind(limit);
    let rows = sql.build().fetch_all(readers).await.map_err(translate)?;
    let entity = |row| match version(row)?.1 {
        EntityVersion::Put(entity) => Ok(entity),
        EntityVersion::Deleted(_) => Err(corrupt("an entity without content")),
    };
    rows.iter().map(entity).collect()
}

/// A page of the feed, see [`EntityStore::entity_changes`].
pub(super) async fn changes(
    connection: &mut SqliteConnection,
    since: u64,
    until: u64,
    after: Option<&EntityCursor>,
    limit: u32,
) -> Result<EntityPage, StoreError> {
    let mut sql: QueryBuilder<Sqlite> = QueryBuilder::new(
        "SELECT epoch, type, id, parents, attributes, tags FROM entities WHERE epoch <= ",
    );
    sql.push_bind(signed(until)).push(" AND until_epoch > ");
    sql.push_bind(signed(until));
    if since == 0 {
        sql.push(" AND attributes IS NOT NULL");
    }
    match after {
        None => {
            sql.push(" AND epoch > ").push_bind(signed(since));
        }
        Some(after) => {
            sql.push(" AND (epoch, type, id) > (")
                .push_bind(signed(after.epoch));
            sql.push(", ").push_bind(&after.uid.ty);
            sql.push(", ").push_bind(&after.uid.id).push(")");
        }
    }
    sql.push(" ORDER BY epoch, type, id LIMIT ")
        .push_bind(i64::from(limit) + 1);
    let rows = sql.build().fetch_all(connection).await.map_err(translate)?;
    let versions = rows.iter().map(version).collect::<Result<_, _>>()?;
    Ok(entity_page(versions, limit))
}

fn version(row: &SqliteRow) -> Result<(u64, EntityVersion), StoreError> {
    let content = |name: &str| row.try_get::<Option<String>, _>(name).map_err(translate);
    let uid = EntityUid {
        ty: row.try_get("type").map_err(translate)?,
        id: row.try_get("id").map_err(translate)?,
    };
    let content = (
        content("parents")?,
        content("attributes")?,
        content("tags")?,
    );
    let epoch = unsigned(row.try_get("epoch").map_err(translate)?)?;
    Ok((epoch, entity_version(uid, content)?))
}

/// Puts new versions in place of those that hold now.
pub(super) async fn put(
    tx: &mut SqliteConnection,
    log_id: &str,
    epoch: i64,
    entities: &[StoredEntity],
) -> Result<(), StoreError> {
    for piece in entities.chunks(PIECE) {
        let row = |e: &StoredEntity| {
            let parents = parents_text(e)?;
            Ok(serde_json::json!([
                e.uid.ty,
                e.uid.id,
                parents,
                e.attributes,
                e.tags
            ]))
        };
        let rows = piece.iter().map(row).collect::<Result<_, StoreError>>()?;
        insert(tx, log_id, epoch, rows).await?;
    }
    Ok(())
}

/// Puts deletions in place of the versions that hold now.
pub(super) async fn delete(
    tx: &mut SqliteConnection,
    log_id: &str,
    epoch: i64,
    uids: &[EntityUid],
) -> Result<(), StoreError> {
    for piece in uids.chunks(PIECE) {
        let rows = piece.iter().map(|uid| serde_json::json!([uid.ty, uid.id]));
        insert(tx, log_id, epoch, rows.collect()).await?;
    }
    Ok(())
}

async fn insert(
    tx: &mut SqliteConnection,
    log_id: &str,
    epoch: i64,
    rows: Vec<serde_json::Value>,
) -> Result<(), StoreError> {
    let json = serde_json::Value::Array(rows).to_string();
    // As a row in a list, so that SQLite looks each up in the index; as a join it may
    // walk the table instead.
    sqlx::query(
        "UPDATE entities SET until_epoch = $1 WHERE (type, id, until_epoch) IN \
         (SELECT value ->> 0, value ->> 1, 9223372036854775807 FROM json_each($2))",
    )
    .bind(epoch)
    .bind(&json)
    .execute(&mut *tx)
    .await
    .map_err(translate)?;
    sqlx::query(
        "INSERT INTO entities (epoch, log_id, type, id, parents, attributes, tags) \
         SELECT $1, $2, value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 \
         FROM json_each($3)",
    )
    .bind(epoch)
    .bind(log_id)
    .bind(&json)
    .execute(&mut *tx)
    .await
    .map_err(translate)?;
    Ok(())
}
