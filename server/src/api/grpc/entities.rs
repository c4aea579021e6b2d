//! `zta.v1.EntityService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use zta_proto::v1;
use zta_proto::v1::entity_service_server::EntityService;

use super::{consistency_token, entity, fresh, page_size, page_token_invalid, wire_uid};
use crate::api::caller::credential;
use crate::api::status::{field, limit};
use crate::model::arguments::Arguments;
use crate::model::{EntityUid, GivenEntity, StoredEntity};
use crate::operations::Operations;

/// Entities of one Put, uids of one Delete.
const WRITE_MAX: usize = 10_000;
/// Uids of one Get.
const GET_MAX: usize = 1000;
/// Bytes of the contents in one answer. A list ends its page there.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The door.
pub(crate) struct EntityDoor(pub(crate) Arc<Operations>);

fn within<T>(name: &'static str, items: &[T], max: usize) -> Result<(), Status> {
    match items.len() {
        0 => Err(field(name, "is empty")),
        n if n > max => Err(limit(name, n, max)),
        _ => Ok(()),
    }
}

pub(super) fn given(wire: v1::Entity) -> Result<GivenEntity, Status> {
    let json =
        |name: &str, text: &str| Arguments::parse(text.as_bytes()).map_err(|why| field(name, why));
    let parents = wire.parents.into_iter();
    Ok(GivenEntity {
        uid: entity("entities.uid", wire.uid, None)?,
        parents: parents
            .map(|parent| entity("entities.parents", Some(parent), None))
            .collect::<Result<_, _>>()?,
        attributes: json("entities.attributes_json", &wire.attributes_json)?,
        tags: json("entities.tags_json", &wire.tags_json)?,
    })
}

fn uids(wire: Vec<v1::EntityRef>, max: usize) -> Result<Vec<EntityUid>, Status> {
    within("uids", &wire, max)?;
    let uid = |reference| entity("uids", Some(reference), None);
    wire.into_iter().map(uid).collect()
}

fn wire_entity(entity: StoredEntity) -> v1::Entity {
    v1::Entity {
        uid: Some(wire_uid(&entity.uid)),
        parents: entity.parents.iter().map(wire_uid).collect(),
        attributes_json: entity.attributes,
        tags_json: entity.tags,
    }
}

/// What an entity takes of an answer, roughly.
fn bytes(entity: &StoredEntity) -> usize {
    let uid = |uid: &EntityUid| uid.ty.len() + uid.id.len() + 8;
    let parents: usize = entity.parents.iter().map(uid).sum();
    uid(&entity.uid) + parents + entity.attributes.len() + entity.tags.len()
}

/// How many of the first entities fit into one answer; at least one.
fn fitting(entities: &[StoredEntity]) -> usize {
    let mut left = ANSWER_BYTES_MAX;
    let fits = |entity: &&StoredEntity| {
        let rest = left.checked_sub(bytes(entity));
        left = rest.unwrap_or(0);
        rest.is_some()
    };
    entities.iter().take_while(fits).count().max(1)
}

/// A page token is the last uid of the page before.
fn page_token(uid: &EntityUid) -> String {
    hex::encode(format!("{} {}", uid.ty, uid.id))
}

fn after(token: &str, ty: Option<&str>) -> Result<Option<EntityUid>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let bytes = hex::decode(token).map_err(|_| page_token_invalid())?;
    let text = String::from_utf8(bytes).map_err(|_| page_token_invalid())?;
    let (of, id) = text.split_once(' ').ok_or_else(page_token_invalid)?;
    if ty.is_some_and(|ty| ty != of) || text.contains('\0') {
        return Err(page_token_invalid());
    }
    Ok(Some(EntityUid::new(of, id)))
}

#[tonic::async_trait]
impl EntityService for EntityDoor {
    async fn put(
        &self,
        request: Request<v1::EntityServicePutRequest>,
    ) -> Result<Response<v1::EntityServicePutResponse>, Status> {
        let credential = credential(&request, (self.0.pdp.clock)());
        let entities = request.into_inner().entities;
        within("entities", &entities, WRITE_MAX)?;
        let entities = entities
            .into_iter()
            .map(given)
            .collect::<Result<Vec<_>, _>>()?;
        let (changed, decision) = self.0.put_entities(&credential, &entities).await?;
        Ok(Response::new(v1::EntityServicePutResponse {
            changed: u32::try_from(changed).unwrap_or(u32::MAX),
            consistency_token: consistency_token(&decision),
        }))
    }

    async fn get(
        &self,
        request: Request<v1::EntityServiceGetRequest>,
    ) -> Result<Response<v1::EntityServiceGetResponse>, Status> {
        let credential = credential(&request, (self.0.pdp.clock)());
        let v1::EntityServiceGetRequest {
            uids: wanted,
            at_least_as_fresh,
        } = request.into_inner();
        let uids = uids(wanted, GET_MAX)?;
        fresh(&self.0.pdp, at_least_as_fresh).await?;
        let entities = self.0.get_entities(&credential, &uids).await?;
        let size: usize = entities.iter().map(bytes).sum();
        if size > ANSWER_BYTES_MAX {
            return Err(limit("answer_bytes_max", size, ANSWER_BYTES_MAX));
        }
        Ok(Response::new(v1::EntityServiceGetResponse {
            entities: entities.into_iter().map(wire_entity).collect(),
        }))
    }

    async fn list(
        &self,
        request: Request<v1::EntityServiceListRequest>,
    ) -> Result<Response<v1::EntityServiceListResponse>, Status> {
        let credential = credential(&request, (self.0.pdp.clock)());
        let v1::EntityServiceListRequest {
            r#type: ty,
            page_size: size,
            page_token: token,
            at_least_as_fresh,
        } = request.into_inner();
        let size = page_size(size)?;
        super::bounded("type", &ty, super::TYPE_BYTES_MAX)?;
        let ty = (!ty.is_empty()).then_some(ty);
        let after = after(&token, ty.as_deref())?;
        fresh(&self.0.pdp, at_least_as_fresh).await?;
        let mut entities = self
            .0
            .list_entities(&credential, ty.as_deref(), after.as_ref(), size + 1)
            .await?;
        let fitting = fitting(&entities).min(size as usize);
        let more = fitting < entities.len();
        entities.truncate(fitting);
        let last = entities.last().filter(|_| more);
        Ok(Response::new(v1::EntityServiceListResponse {
            next_page_token: last.map(|e| page_token(&e.uid)).unwrap_or_default(),
            entities: entities.into_iter().map(wire_entity).collect(),
        }))
    }

    async fn delete(
        &self,
        request: Request<v1::EntityServiceDeleteRequest>,
    ) -> Result<Response<v1::EntityServiceDeleteResponse>, Status> {
        let credential = credential(&request, (self.0.pdp.clock)());
        let uids = uids(request.into_inner().uids, WRITE_MAX)?;
        let (deleted, decision) = self.0.delete_entities(&credential, &uids).await?;
        Ok(Response::new(v1::EntityServiceDeleteResponse {
            deleted: u32::try_from(deleted).unwrap_or(u32::MAX),
            consistency_token: consistency_token(&decision),
        }))
    }
}
