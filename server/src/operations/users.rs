//! People with keys of their own: let in by a join token, and kept out by ending their keys.
//!
//! A person's key opens more than an agent's, and nobody else contains it. So each act has
//! an action of its own that no role below the administrator's has, and the last one who
//! may let others in is not locked out by mistake.

use serde_json::json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::profile;
use super::{OperationError, Operations, allowed, detail, text_field};
use crate::identity::join_token::{JOIN_TOKEN_LIFETIME, JoinToken};
use crate::identity::registry::Credential;
use crate::identity::spiffe::{PrincipalName, SpiffeId};
use crate::model::change::JoinTokenRecord;
use crate::model::event::to_micros;
use crate::model::{
    AccessRequest, AgentProfile, Change, Conflict, Decision, EntityUid, Instance, Principal,
    TokenRevocation, UserRecord,
};
use crate::pdp::{Act, PdpError};
use crate::policy::Facts;
use crate::replica::State;

/// The Cedar type of people.
const USER: &str = "ZTA::User";
/// Bytes of a note.
const NOTE_LEN_MAX: usize = 1024;

/// A user who was invited.
pub(crate) struct Invited {
    pub(crate) user: UserRecord,
    /// Shown once.
    pub(crate) token: JoinToken,
    pub(crate) expire_time: OffsetDateTime,
    pub(crate) decision: Decision,
}

impl Operations {
    /// The Cedar id of a user that a name or an id of the API means, and its SPIFFE ID.
    pub(super) fn user_ids(&self, user: &str) -> Result<(String, SpiffeId), OperationError> {
        let domain = self.ca.trust_domain();
        let prefix = format!("{}#", domain.uri());
        let name = user.strip_prefix(&prefix).unwrap_or(user);
        let name = PrincipalName::parse(name).map_err(|e| OperationError::Field {
            field: "user",
            why: e.to_string(),
        })?;
        Ok((format!("{prefix}{name}"), SpiffeId::user(domain, &name)))
    }

    /// A join token for a person, who is put on record with these roles if the name is new.
    /// The roles of one who is on record stay as they are: so nobody gives one to themselves.
    /// Under four eyes one person can be given another key by themselves alone: whoever held
    /// the join token of another one would be two.
    pub(crate) async fn invite(
        &self,
        credential: &Credential,
        user: &str,
        roles: &[String],
        note: &str,
    ) -> Result<Invited, OperationError> {
        let (id, spiffe_id) = self.user_ids(user)?;
        text_field("note", note, NOTE_LEN_MAX)?;
        profile::bounded(&AgentProfile {
            roles: roles.to_vec(),
            ..AgentProfile::default()
        })?;
        let token = JoinToken::create(self.ca.signing().fingerprint())
            .map_err(|_| OperationError::JoinToken)?;
        let stored = token.stored();
        let new = |now| UserRecord {
            id: id.clone(),
            spiffe_id: spiffe_id.as_str().to_owned(),
            roles: roles.to_vec(),
            create_time: to_micros(now),
        };
        let request = AccessRequest::new(
            EntityUid::action("invite_user"),
            EntityUid::new(USER, id.as_str()),
        );
        let decision = self
            .pdp
            .operate(credential, &request, &|state, caller, now| {
                if self.four_eyes && caller.principal.id != id {
                    return Err(PdpError::SecondIdentity);
                }
                let known = state.registry.user(&id);
                let same = |user: &UserRecord| roles.is_empty() || roles == user.roles;
                if known.is_some_and(|user| !same(user)) {
                    return Err(Conflict::UserExists.into());
                }
                let user = known.is_none().then(|| new(now));
                let roles = user.as_ref().map(|user| &user.roles);
                let detail = detail([
                    ("join_token_id", json!(stored.id)),
                    ("roles", json!(roles)),
                    ("note", json!(note)),
                ]);
                let token = JoinTokenRecord {
                    id: stored.id.clone(),
                    secret_sha256: stored.secret_sha256,
                    principal_id: id.clone(),
                    expire_time: now + JOIN_TOKEN_LIFETIME,
                    used: false,
                };
                Ok(Act {
                    change: Some(Change::InviteUser { user, token }),
                    detail,
                })
            })
            .await?;
        let decision = allowed(decision)?;
        Ok(Invited {
            user: self.known_user(&id)?,
            token,
            expire_time: decision.time + JOIN_TOKEN_LIFETIME,
            decision,
        })
    }

    /// Ends one key of a person, or all and the join tokens that could become one; bites on
    /// the next call, on every replica. What was made by a stolen key, such as a grant to act
    /// for its owner, is void with it.
    pub(crate) async fn revoke_user_keys(
        &self,
        credential: &Credential,
        user: &str,
        instance_id: Option<Uuid>,
        force: bool,
        note: &str,
    ) -> Result<(UserRecord, Decision), OperationError> {
        let (id, _) = self.user_ids(user)?;
        text_field("note", note, NOTE_LEN_MAX)?;
        let uid = EntityUid::new(USER, id.as_str());
        let request = AccessRequest::new(EntityUid::action("revoke_user_key"), uid.clone());
        let decision = self
            .pdp
            .operate(credential, &request, &|state, _, now| {
                state.registry.user(&id).ok_or(PdpError::UserNotFound)?;
                // Exact: each change of a key or a policy is another epoch, and the commit
                // refuses one that is not this.
                let before = lets_others_in(state, None, now);
                if !force && before && !lets_others_in(state, Some((&id, instance_id)), now) {
                    return Err(PdpError::LastAdministrator);
                }
                Ok(Act {
                    change: Some(Change::RevokeUserKeys {
                        user_id: id.clone(),
                        instance_id,
                        tokens: TokenRevocation::of_principal(&uid, now),
                    }),
                    detail: detail([
                        ("instance_id", json!(instance_id)),
                        ("force", json!(force)),
                        ("note", json!(note)),
                    ]),
                })
            })
            .await?;
        let decision = allowed(decision)?;
        Ok((self.known_user(&id)?, decision))
    }

    /// Users in the order of their ids, with the number of their keys.
    pub(crate) async fn list_users(
        &self,
        credential: &Credential,
        after: &str,
        limit: u32,
    ) -> Result<Vec<(UserRecord, u32)>, OperationError> {
        self.read(credential, "list_users").await?;
        let state = self.pdp.replica.current();
        let page = state.registry.users_after(after).take(limit as usize);
        let with_keys = |user: &std::sync::Arc<UserRecord>| {
            let keys = state.registry.instance_count(&user.id);
            (UserRecord::clone(user), keys)
        };
        Ok(page.map(with_keys).collect())
    }

    /// Keys of a user in the order of their ids, as they are stored now.
    pub(crate) async fn list_user_keys(
        &self,
        credential: &Credential,
        user: &str,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<Instance>, OperationError> {
        let (id, _) = self.user_ids(user)?;
        self.read(credential, "list_users").await?;
        self.known_user(&id)?;
        Ok(self.store.instances(&id, after, limit).await?)
    }

    fn known_user(&self, id: &str) -> Result<UserRecord, OperationError> {
        let state = self.pdp.replica.current();
        let user = state.registry.user(id).ok_or(PdpError::UserNotFound)?;
        Ok(UserRecord::clone(user))
    }
}

/// Whether somebody with an active key may invite users, these keys left aside. Whom an
/// identity provider vouches for does not count: nobody knows here whether it still does.
fn lets_others_in(
    state: &State,
    without: Option<(&str, Option<Uuid>)>,
    now: OffsetDateTime,
) -> bool {
    let mut people = state.registry.people(without);
    people.any(|person| may_invite(state, &person, now))
}

fn may_invite(state: &State, person: &Principal, now: OffsetDateTime) -> bool {
    let Some(revision) = &state.revision else {
        return false;
    };
    let request = AccessRequest::new(EntityUid::action("invite_user"), person.uid());
    let facts = Facts {
        delegation: None,
        now,
        source: None,
        authentication_method: "mtls",
        authentication_age_seconds: 0,
        resource: None,
    };
    let verdict = revision
        .compiled
        .evaluate(person, &request, &facts, &state.pip());
    verdict.is_ok_and(|verdict| verdict.deny.is_none())
}
