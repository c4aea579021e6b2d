//! Tokens and grants that were revoked before their end.

use std::collections::HashMap;

use uuid::Uuid;

use super::Registry;
use crate::identity::token::{TokenError, TokenParty};
use crate::model::VoidTokens;

/// What was made before these epochs is void: by type (`token` or a principal's) and id.
///
/// Epochs, not times: the clocks of replicas differ, and a token that was made by one that is
/// ahead would seem to come after its revocation.
#[derive(Clone, Debug, Default)]
pub(super) struct Void(HashMap<(String, String), u64>);

/// A token or a grant that may be void.
pub(crate) struct Suspect<'a> {
    /// Its id.
    pub(crate) id: &'a str,
    /// What it was made from.
    pub(crate) lineage: &'a [Uuid],
    /// The epoch that it was made in.
    pub(crate) epoch: u64,
}

impl Void {
    pub(super) fn add(&mut self, revocations: &[VoidTokens]) {
        for revocation in revocations {
            let of = (revocation.ty.clone(), revocation.id.clone());
            self.0.insert(of, revocation.epoch);
        }
    }

    /// Whether a token or a grant was revoked, or what it was made from, or what one of its
    /// parties got by then.
    pub(super) fn holds<'a>(
        &self,
        suspect: &Suspect<'_>,
        parties: impl IntoIterator<Item = &'a TokenParty>,
    ) -> bool {
        // The usual case costs nothing.
        if self.0.is_empty() {
            return false;
        }
        let since = |ty: &str, id: &str| self.0.get(&(ty.to_owned(), id.to_owned()));
        let is_late = |party: &TokenParty| {
            let since = since(party.kind.cedar_type(), &party.id);
            since.is_some_and(|since| suspect.epoch < *since)
        };
        let is_named = |id: &str| since("token", id).is_some();
        let from_named = |id: &Uuid| is_named(&id.to_string());
        is_named(suspect.id)
            || suspect.lineage.iter().any(from_named)
            || parties.into_iter().any(is_late)
    }
}

impl Registry {
    /// Whether a token or a grant is good by what was revoked since it was made. One from a
    /// later epoch than this state's is not: what was revoked by then is not known here yet,
    /// or not any more because the database was put back.
    ///
    /// # Errors
    /// [`TokenError::Void`] and [`TokenError::Ahead`].
    pub(crate) fn require_alive<'a>(
        &self,
        suspect: &Suspect<'_>,
        parties: impl IntoIterator<Item = &'a TokenParty>,
    ) -> Result<(), TokenError> {
        match self.void.holds(suspect, parties) {
            true => Err(TokenError::Void),
            false if suspect.epoch > self.epoch => Err(TokenError::Ahead),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PrincipalKind;

    fn revoked(ty: &str, id: &str, epoch: u64) -> VoidTokens {
        VoidTokens {
            ty: ty.to_owned(),
            id: id.to_owned(),
            epoch,
        }
    }

    fn made(id: &str, epoch: u64) -> Suspect<'_> {
        Suspect {
            id,
            lineage: &[],
            epoch,
        }
    }

    #[test]
    fn what_was_made_before_is_void_and_what_came_after_is_not() {
        let party = |kind, id: &str| TokenParty::registered(kind, id);
        let anna = party(PrincipalKind::User, "https://i#anna");
        let agent = party(PrincipalKind::Agent, "spiffe://td/agent/a");
        let service = party(PrincipalKind::Workload, "https://i#anna");
        let mut void = Void::default();
        assert!(!void.holds(&made("t-1", 3), [&anna]));
        let ty = "ZTA::User";
        void.add(&[revoked(ty, "https://i#anna", 7), revoked("token", "t-1", 7)]);
        assert!(void.holds(&made("t-1", 9), [&service]), "named");
        assert!(void.holds(&made("t-2", 6), [&anna]));
        assert!(void.holds(&made("t-2", 6), [&agent, &anna]), "a party");
        assert!(!void.holds(&made("t-2", 7), [&anna]), "a new login");
        assert!(!void.holds(&made("t-2", 6), [&service]), "another kind");
        void.add(&[revoked(ty, "https://i#anna", 8)]);
        assert!(void.holds(&made("t-2", 7), [&anna]), "again");
    }

    #[test]
    fn what_was_made_from_a_revoked_token_is_void() {
        let nobody: [&TokenParty; 0] = [];
        let lineage = [1, 2, 3].map(Uuid::from_u128);
        let heir = Suspect {
            lineage: &lineage,
            ..made("t", 9)
        };
        let mut void = Void::default();
        void.add(&[revoked("token", &Uuid::from_u128(4).to_string(), 7)]);
        assert!(!void.holds(&heir, nobody));
        void.add(&[revoked("token", &lineage[1].to_string(), 7)]);
        assert!(void.holds(&heir, nobody));
    }
}
