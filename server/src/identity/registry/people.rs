//! People with keys of their own, as this replica knows them.

use std::sync::Arc;

use uuid::Uuid;

use super::Registry;
use super::principals::of_user;
use crate::model::{InstanceState, Principal, UserRecord};

impl Registry {
    /// Users in the order of their ids, after the given one.
    pub(crate) fn users_after(&self, id: &str) -> impl Iterator<Item = &Arc<UserRecord>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let range = self.users.range::<str, _>((Excluded(id), Unbounded));
        range.map(|(_, user)| user)
    }

    /// Each user who has an active key, as policies see them. With `without` not the one
    /// who has no other key than these: all of this user, or the one that is named.
    pub(crate) fn people(
        &self,
        without: Option<(&str, Option<Uuid>)>,
    ) -> impl Iterator<Item = Principal> {
        let stays = move |user_id: &str, key: Uuid| match without {
            Some((id, named)) if id == user_id => named.is_some_and(|named| named != key),
            _ => true,
        };
        let holders = self.keys.values().filter_map(move |key| {
            let key = &key.instance;
            let holds = key.state == InstanceState::Active && stays(&key.principal_id, key.id);
            self.users.get(&key.principal_id).filter(|_| holds)
        });
        holders.map(|user| of_user(user, None))
    }
}
