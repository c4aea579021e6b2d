//! `zta.v1.UserService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use uuid::Uuid;
use zta_proto::v1;
use zta_proto::v1::user_service_server::UserService;

use super::agents::wire_instance;
use super::{bounded, consistency_token, page_size, page_token_invalid, timestamp};
use crate::api::caller::credential;
use crate::api::status::field;
use crate::model::UserRecord;
use crate::operations::Operations;

/// The door.
pub(crate) struct UserDoor(pub(crate) Arc<Operations>);

impl UserDoor {
    fn credential<T>(&self, request: &Request<T>) -> crate::identity::registry::Credential {
        credential(request, (self.0.pdp.clock)())
    }

    /// A user with the number of its keys.
    fn wire(&self, user: UserRecord) -> v1::User {
        let state = self.0.pdp.replica.current();
        let keys = state.registry.instance_count(&user.id);
        wire_user(user, keys)
    }
}

fn named(user: &str) -> Result<(), Status> {
    if user.is_empty() {
        return Err(field("user", "is missing: give a name or an id"));
    }
    bounded("user", user, 512)
}

fn wire_user(user: UserRecord, keys: u32) -> v1::User {
    v1::User {
        name: user.name().to_owned(),
        id: user.id,
        spiffe_id: user.spiffe_id,
        roles: user.roles,
        create_time: timestamp(user.create_time),
        keys,
    }
}

#[tonic::async_trait]
impl UserService for UserDoor {
    async fn invite(
        &self,
        request: Request<v1::InviteRequest>,
    ) -> Result<Response<v1::InviteResponse>, Status> {
        let credential = self.credential(&request);
        let v1::InviteRequest { user, roles, note } = request.into_inner();
        named(&user)?;
        let invited = self.0.invite(&credential, &user, &roles, &note).await?;
        Ok(Response::new(v1::InviteResponse {
            join_token: invited.token.encode().to_string(),
            expire_time: timestamp(invited.expire_time),
            user: Some(self.wire(invited.user)),
            consistency_token: consistency_token(&invited.decision),
        }))
    }

    async fn revoke_keys(
        &self,
        request: Request<v1::RevokeKeysRequest>,
    ) -> Result<Response<v1::RevokeKeysResponse>, Status> {
        let credential = self.credential(&request);
        let v1::RevokeKeysRequest {
            user,
            instance_id,
            note,
            force,
        } = request.into_inner();
        named(&user)?;
        let key = match instance_id.as_str() {
            "" => None,
            id => Some(Uuid::parse_str(id).map_err(|_| field("instance_id", "is not a UUID"))?),
        };
        let (user, decision) = self
            .0
            .revoke_user_keys(&credential, &user, key, force, &note)
            .await?;
        Ok(Response::new(v1::RevokeKeysResponse {
            user: Some(self.wire(user)),
            consistency_token: consistency_token(&decision),
        }))
    }

    async fn list(
        &self,
        request: Request<v1::UserServiceListRequest>,
    ) -> Result<Response<v1::UserServiceListResponse>, Status> {
        let credential = self.credential(&request);
        let v1::UserServiceListRequest {
            page_size: size,
            page_token,
        } = request.into_inner();
        let size = page_size(size)?;
        // The token is the last id of the page before: stable under changes.
        if !page_token.is_empty() && !page_token.starts_with("spiffe://") {
            return Err(page_token_invalid());
        }
        bounded("page_token", &page_token, 512)?;
        let users = self.0.list_users(&credential, &page_token, size).await?;
        let last = users.last().filter(|_| users.len() == size as usize);
        let next_page_token = last.map(|(user, _)| user.id.clone()).unwrap_or_default();
        let users = users.into_iter().map(|(user, keys)| wire_user(user, keys));
        Ok(Response::new(v1::UserServiceListResponse {
            users: users.collect(),
            next_page_token,
        }))
    }

    async fn list_keys(
        &self,
        request: Request<v1::ListKeysRequest>,
    ) -> Result<Response<v1::ListKeysResponse>, Status> {
        let credential = self.credential(&request);
        let v1::ListKeysRequest {
            user,
            page_size: size,
            page_token,
        } = request.into_inner();
        named(&user)?;
        let size = page_size(size)?;
        let after = match page_token.as_str() {
            "" => None,
            token => Some(Uuid::parse_str(token).map_err(|_| page_token_invalid())?),
        };
        let found = self
            .0
            .list_user_keys(&credential, &user, after, size)
            .await?;
        let last = found.last().filter(|_| found.len() == size as usize);
        let next_page_token = last.map(|key| key.id.to_string()).unwrap_or_default();
        Ok(Response::new(v1::ListKeysResponse {
            keys: found.into_iter().map(wire_instance).collect(),
            next_page_token,
        }))
    }
}
