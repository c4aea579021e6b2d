//! Tokens that an administrator makes void before they end.

use serde_json::json;
use time::OffsetDateTime;

use super::{OperationError, Operations, allowed, detail, text_field};
use crate::identity::registry::Credential;
use crate::model::{AccessRequest, Change, Decision, EntityUid, PrincipalKind, TokenRevocation};
use crate::pdp::Act;

/// Bytes of the id of a principal or a token.
const ID_LEN_MAX: usize = 1024;
/// Bytes of a note.
const NOTE_LEN_MAX: usize = 1024;

/// Whose tokens are to be void.
#[derive(Clone, Debug)]
pub(crate) enum Revoked {
    /// All that a principal got, and that others got to act for it.
    Principal(EntityUid),
    /// One token or grant.
    Token(String),
}

impl Operations {
    /// Makes tokens void, on every replica and from the next decision on.
    pub(crate) async fn revoke_tokens(
        &self,
        credential: &Credential,
        of: &Revoked,
        note: &str,
    ) -> Result<Decision, OperationError> {
        text_field("note", note, NOTE_LEN_MAX)?;
        let (ty, id) = match of {
            Revoked::Principal(uid) => (uid.ty.as_str(), &uid.id),
            Revoked::Token(id) => ("token", id),
        };
        let kinds = [
            PrincipalKind::Agent,
            PrincipalKind::User,
            PrincipalKind::Workload,
        ];
        let is_principal = kinds.iter().any(|kind| kind.cedar_type() == ty);
        if matches!(of, Revoked::Principal(_)) && !is_principal {
            let why = "must be ZTA::Agent, ZTA::User or ZTA::Workload".to_owned();
            return Err(OperationError::Field {
                field: "principal.type",
                why,
            });
        }
        text_field("id", id, ID_LEN_MAX)?;
        if id.is_empty() {
            let why = "is missing".to_owned();
            return Err(OperationError::Field { field: "id", why });
        }
        let request = AccessRequest::new(EntityUid::action("revoke_tokens"), self.zone());
        let decision = self
            .pdp
            .operate(credential, &request, &|_, _, now: OffsetDateTime| {
                let revocation = match of {
                    Revoked::Principal(uid) => TokenRevocation::of_principal(uid, now),
                    Revoked::Token(id) => TokenRevocation::of_token(id, now),
                };
                Ok(Act {
                    change: Some(Change::RevokeTokens(revocation)),
                    detail: detail([
                        ("revoked_type", json!(ty)),
                        ("revoked_id", json!(id)),
                        ("note", json!(note)),
                    ]),
                })
            })
            .await?;
        allowed(decision)
    }
}
