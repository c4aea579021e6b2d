//! Tokens and grants that were revoked before their end.

use std::collections::HashMap;

use time::OffsetDateTime;

use crate::identity::token::TokenParty;
use crate::model::TokenRevocation;

/// What was issued before these moments is void: by type (`token` or a principal's) and id.
#[derive(Clone, Debug, Default)]
pub(super) struct Void(HashMap<(String, String), OffsetDateTime>);

impl Void {
    pub(super) fn add(&mut self, revocations: &[TokenRevocation]) {
        for revocation in revocations {
            let of = (revocation.ty.clone(), revocation.id.clone());
            let before = self.0.entry(of).or_insert(revocation.before);
            // By a clock that is behind a later one may seem the earlier of two.
            *before = revocation.before.max(*before);
        }
    }

    /// Whether a token or a grant was revoked, or what one of its parties got by then.
    pub(super) fn holds<'a>(
        &self,
        id: &str,
        parties: impl IntoIterator<Item = &'a TokenParty>,
        issue_time: OffsetDateTime,
    ) -> bool {
        // The usual case costs nothing.
        if self.0.is_empty() {
            return false;
        }
        let before = |ty: &str, id: &str| self.0.get(&(ty.to_owned(), id.to_owned()));
        let is_late = |party: &TokenParty| {
            let before = before(party.kind.cedar_type(), &party.id);
            before.is_some_and(|before| issue_time < *before)
        };
        before("token", id).is_some() || parties.into_iter().any(is_late)
    }
}

#[cfg(test)]
mod tests {
    use time::Duration;
    use time::macros::datetime;

    use super::*;
    use crate::model::{EntityUid, PrincipalKind};

    const NOW: OffsetDateTime = datetime!(2026-11-22 12:00:00.5 UTC);

    #[test]
    fn what_was_issued_before_is_void_and_what_came_after_is_not() {
        let party = |kind, id: &str| TokenParty::registered(kind, id);
        let anna = party(PrincipalKind::User, "https://i#anna");
        let agent = party(PrincipalKind::Agent, "spiffe://td/agent/a");
        let service = party(PrincipalKind::Workload, "https://i#anna");
        let mut void = Void::default();
        assert!(!void.holds("t-1", [&anna], NOW));
        let uid = EntityUid::new("ZTA::User", "https://i#anna");
        void.add(&[
            TokenRevocation::of_principal(&uid, NOW),
            TokenRevocation::of_token("t-1", NOW),
        ]);
        let second = Duration::SECOND;
        assert!(void.holds("t-1", [&service], NOW + second), "named");
        assert!(void.holds("t-2", [&anna], NOW - second));
        assert!(void.holds("t-2", [&anna], NOW.truncate_to_second()));
        assert!(void.holds("t-2", [&agent, &anna], NOW - second), "a party");
        assert!(!void.holds("t-2", [&anna], NOW + second), "a new login");
        assert!(!void.holds("t-2", [&service], NOW - second), "another kind");
        void.add(&[TokenRevocation::of_principal(&uid, NOW + second)]);
        assert!(void.holds("t-2", [&anna], NOW), "again");
        void.add(&[TokenRevocation::of_principal(&uid, NOW - second)]);
        assert!(void.holds("t-2", [&anna], NOW), "by a clock that is behind");
    }
}
