//! Entities in Postgres, in all their versions.

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Postgres, QueryBuilder, Row as _};
use uuid::Uuid;

use super::PostgresStore;
use super::error::translate;
use super::writer::within;
use crate::model::{EntityCursor, EntityPage, EntityUid, EntityVersion, StoredEntity};
use crate::store::value::{
    corrupt, entity_page, entity_version, parents_text, refuse_nul, signed, unsigned,
};
use crate::store::{EntityStore, StoreError};

/// Entities per statement.
const PIECE: usize = 4096;

#[async_trait]
impl EntityStore for PostgresStore {
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
    readers: &PgPool,
    range: Range<'_>,
    limit: u32,
) -> Result<Vec<StoredEntity>, StoreError> {
    let mut sql: QueryBuilder<Postgres> = QueryBuilder::new(
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
    sql.push(" ORDER BY type, id LIMIT ")
        .push_bind(i64::from(limit));
    let rows = sql.build().fetch_all(readers).await.map_err(translate)?;
    let entity = |row| match version(row)?.1 {
        EntityVersion::Put(entity) => Ok(entity),
        EntityVersion::Deleted(_) => Err(corrupt("an entity without content")),
    };
    rows.iter().map(entity).collect()
}

/// A page of the feed, see [`EntityStore::entity_changes`].
pub(super) async fn changes(
    connection: &mut PgConnection,
    since: u64,
    until: u64,
    after: Option<&EntityCursor>,
    limit: u32,
) -> Result<EntityPage, StoreError> {
    let mut sql: QueryBuilder<Postgres> = QueryBuilder::new(
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

fn version(row: &PgRow) -> Result<(u64, EntityVersion), StoreError> {
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
    tx: &mut PgConnection,
    log_id: Uuid,
    epoch: i64,
    entities: &[StoredEntity],
) -> Result<(), StoreError> {
    for piece in entities.chunks(PIECE) {
        let types: Vec<&str> = piece.iter().map(|e| e.uid.ty.as_str()).collect();
        let ids: Vec<&str> = piece.iter().map(|e| e.uid.id.as_str()).collect();
        let parents = piece.iter().map(parents_text);
        let parents: Vec<String> = parents.collect::<Result<_, _>>()?;
        end(tx, epoch, &types, &ids).await?;
        let insert = sqlx::query(
            "INSERT INTO entities (epoch, log_id, type, id, parents, attributes, tags) \
             SELECT $1, $2, t.* FROM UNNEST($3::text[], $4::text[], $5::text[], $6::text[], \
             $7::text[]) AS t",
        )
        .bind(epoch)
        .bind(log_id)
        .bind(&types)
        .bind(&ids)
        .bind(&parents)
        .bind(
            piece
                .iter()
                .map(|e| e.attributes.as_str())
                .collect::<Vec<_>>(),
        )
        .bind(piece.iter().map(|e| e.tags.as_str()).collect::<Vec<_>>())
        .execute(&mut *tx);
        within(insert).await.map_err(translate)?;
    }
    Ok(())
}

/// Puts deletions in place of the versions that hold now.
pub(super) async fn delete(
    tx: &mut PgConnection,
    log_id: Uuid,
    epoch: i64,
    uids: &[EntityUid],
) -> Result<(), StoreError> {
    for piece in uids.chunks(PIECE) {
        let types: Vec<&str> = piece.iter().map(|uid| uid.ty.as_str()).collect();
        let ids: Vec<&str> = piece.iter().map(|uid| uid.id.as_str()).collect();
        end(tx, epoch, &types, &ids).await?;
        let insert = sqlx::query(
            "INSERT INTO entities (epoch, log_id, type, id) \
             SELECT $1, $2, t.* FROM UNNEST($3::text[], $4::text[]) AS t",
        )
        .bind(epoch)
        .bind(log_id)
        .bind(&types)
        .bind(&ids)
        .execute(&mut *tx);
        within(insert).await.map_err(translate)?;
    }
    Ok(())
}

/// The versions that hold now hold until `epoch`.
async fn end(
    tx: &mut PgConnection,
    epoch: i64,
    types: &[&str],
    ids: &[&str],
) -> Result<(), StoreError> {
    let update = sqlx::query(
        "UPDATE entities SET until_epoch = $1 FROM UNNEST($2::text[], $3::text[]) AS t (type, id) \
         WHERE entities.type = t.type AND entities.id = t.id \
         AND until_epoch = 9223372036854775807",
    )
    .bind(epoch)
    .bind(types)
    .bind(ids)
    .execute(&mut *tx);
    within(update).await.map(drop).map_err(translate)
}
