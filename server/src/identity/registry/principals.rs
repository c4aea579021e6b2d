//! Principals as they are in this moment: made anew for each call, from what is stored.

use std::sync::Arc;

use crate::identity::registry::{AuthenticationError, Registry};
use crate::identity::token::TokenParty;
use crate::model::{
    AgentRecord, AgentState, Instance, Principal, PrincipalKind, Standing, UserRecord,
};

/// An agent, known by this key or by none.
pub(super) fn of_agent(agent: &AgentRecord, instance: Option<&Instance>) -> Principal {
    Principal {
        kind: PrincipalKind::Agent,
        id: agent.id.clone(),
        name: agent.name.clone(),
        roles: agent.profile.roles.clone(),
        owner: agent.profile.owner.clone(),
        zone: agent.profile.zone.clone(),
        attributes: Arc::clone(&agent.profile.attributes),
        state: Standing::of(agent.state, instance.map(|i| i.state)),
        instance: instance.map(|i| i.id),
    }
}

/// A person, known by this key or by none.
pub(super) fn of_user(user: &UserRecord, instance: Option<&Instance>) -> Principal {
    Principal {
        kind: PrincipalKind::User,
        id: user.id.clone(),
        name: user.name().to_owned(),
        roles: user.roles.clone(),
        owner: String::new(),
        zone: String::new(),
        attributes: Arc::default(),
        state: Standing::of(AgentState::Active, instance.map(|i| i.state)),
        instance: instance.map(|i| i.id),
    }
}

/// One whom an identity provider vouched for, as its token has it.
pub(super) fn vouched(party: &TokenParty) -> Principal {
    Principal {
        kind: party.kind,
        id: party.id.clone(),
        name: party.name.clone(),
        roles: party.roles.clone(),
        owner: String::new(),
        zone: String::new(),
        attributes: Arc::clone(&party.attributes),
        state: Standing::Active,
        instance: None,
    }
}

/// Who holds a token that is bound to nothing: whom a provider vouched for, and never one
/// who is enrolled with a key.
pub(super) fn unbound_holder(holder: &TokenParty) -> Result<Principal, AuthenticationError> {
    match holder.kind {
        PrincipalKind::Agent => Err(AuthenticationError::KeyUnknown),
        PrincipalKind::User | PrincipalKind::Workload => Ok(vouched(holder)),
    }
}

impl Registry {
    /// A principal as a token names it: of one whom the registry does not know, with what
    /// its identity provider said.
    pub(crate) fn token_party(&self, principal: &Principal) -> TokenParty {
        let known = match principal.kind {
            PrincipalKind::Agent => true,
            PrincipalKind::User => self.users.contains_key(&principal.id),
            PrincipalKind::Workload => false,
        };
        if known {
            return TokenParty::registered(principal.kind, &principal.id);
        }
        TokenParty {
            kind: principal.kind,
            id: principal.id.clone(),
            name: principal.name.clone(),
            roles: principal.roles.clone(),
            attributes: Arc::clone(&principal.attributes),
        }
    }
}
