//! Agents and users of a state, as policies see them.

use std::sync::Arc;

use super::State;
use crate::model::{Party, PrincipalKind};
use crate::policy::Parties;

impl Parties for State {
    fn party(&self, ty: &str, id: &str) -> Option<Party> {
        if ty == PrincipalKind::Agent.cedar_type() {
            let agent = self.registry.agent(id)?;
            return Some(Party {
                name: agent.name.clone(),
                owner: Some(agent.profile.owner.clone()),
                zone: Some(agent.profile.zone.clone()),
                attributes: Arc::clone(&agent.profile.attributes),
                roles: agent.profile.roles.clone(),
            });
        }
        if ty != PrincipalKind::User.cedar_type() {
            return None;
        }
        let user = self.registry.user(id)?;
        Some(Party {
            name: user.name().to_owned(),
            owner: None,
            zone: None,
            attributes: Arc::default(),
            roles: user.roles.clone(),
        })
    }
}
