//! Delegation (token exchange, RFC 8693), in two steps that each need a key.
//!
//! A party says who may act on its behalf: decided by policy and on record. The agent that
//! it names turns the grant into an access token of its own, bound to its own key, in which
//! the subject stays and the agent is the newest actor. So no token is ever handed from one
//! to another, and a stolen grant is worth nothing without the key of the one it names.

use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::{OperationError, Operations, allowed, detail, text_field};
use crate::audit::{AppendError, Record};
use crate::identity::registry::{AuthenticationError, Caller, Credential};
use crate::identity::token::delegation::{DelegationGrant, GRANT_LIFETIME_MAX};
use crate::identity::token::{
    Confirmation, Grant, IssuedToken, TOKEN_LIFETIME_MAX, TokenError, TokenParty,
};
use crate::model::{
    AccessRequest, AgentState, Decision, EntityUid, EventType, PrincipalKind, Standing,
};
use crate::pdp::{ATTEMPTS_MAX, Act, PdpError};
use crate::replica::State;

/// Entries of one scope.
const SCOPE_MAX: usize = 64;
/// Bytes of one entry.
const SCOPE_BYTES_MAX: usize = 256;

/// A grant that was just made.
pub(crate) struct Granted {
    /// The grant, for the eyes of its maker and the one that it names.
    pub(crate) grant: String,
    /// From this moment on it is refused.
    pub(crate) expire_time: OffsetDateTime,
}

/// A token with which to act on somebody's behalf.
pub(crate) struct Exchanged {
    pub(crate) token: IssuedToken,
    /// Who is acted for in the end.
    pub(crate) subject: EntityUid,
    /// Who acts: the caller first.
    pub(crate) actors: Vec<EntityUid>,
    pub(crate) scope: Vec<String>,
    /// The place of its event in the log.
    pub(crate) sequence: u64,
}

/// Why a grant is refused. The caller hears of every refusal by the same name; these tell
/// the record which it was.
#[derive(Debug, thiserror::Error)]
enum GrantError {
    #[error("the grant is refused: {0}")]
    Token(#[from] TokenError),
    #[error("the grant names another agent")]
    OtherAgent,
    #[error("the caller acts on somebody's behalf already")]
    ActsAlready,
    #[error("only agents act on somebody's behalf")]
    NoAgent,
    #[error("a party of the grant is {}", .0.as_str())]
    Inactive(Standing),
    #[error("a party of the grant is not registered")]
    Unknown,
    #[error("the chain would be longer than {0} actors")]
    Depth(usize),
    #[error("an agent of the chain lets at most {0} agents act after it")]
    OwnDepth(u32),
    #[error("the agent is a party of the chain already")]
    Loop,
    #[error("the grant's scope does not cover what is asked for")]
    Scope,
}

impl Operations {
    /// Says that an agent may act on the caller's behalf, and on the behalf of those whom
    /// the caller acts for, if policy permits `delegate` to all of them.
    pub(crate) async fn delegate(
        &self,
        credential: &Credential,
        agent: &str,
        scope: Vec<String>,
        lifetime: Duration,
        note: &str,
    ) -> Result<(Granted, Decision), OperationError> {
        let agent_id = self.agent_id(agent)?;
        let scope = scope_field(scope)?;
        let lifetime = lifetime_field(lifetime, GRANT_LIFETIME_MAX)?;
        text_field("note", note, 1024)?;
        let request = AccessRequest::new(
            EntityUid::action("delegate"),
            EntityUid::new("ZTA::Agent", &agent_id),
        );
        let granted: Mutex<Option<DelegationGrant>> = Mutex::new(None);
        let prepare = |state: &State, caller: &Caller, now: OffsetDateTime| {
            let until = now + lifetime;
            let grant = self.grant(state, caller, &agent_id, &scope, (now, until))?;
            let told = detail([
                ("grant_id", json!(grant.id)),
                ("may_act", json!(EntityUid::new("ZTA::Agent", &agent_id))),
                ("scope", json!(grant.scope)),
                (
                    "expire_time",
                    json!(grant.expire_time.unix_timestamp().to_string()),
                ),
                ("note", json!(note)),
            ]);
            *granted.lock().unwrap_or_else(PoisonError::into_inner) = Some(grant);
            Ok(Act {
                change: None,
                detail: told,
            })
        };
        let decision = self
            .pdp
            .act(credential, &request, EventType::Delegated, &prepare)
            .await?;
        let decision = allowed(decision)?;
        let grant = granted.into_inner().unwrap_or_else(PoisonError::into_inner);
        let grant = grant.ok_or(PdpError::Stale)?;
        let expire_time = grant.expire_time;
        let grant = self.pdp.tokens.issue_grant(&grant, decision.time)?;
        Ok((Granted { grant, expire_time }, decision))
    }

    fn grant(
        &self,
        state: &State,
        caller: &Caller,
        agent_id: &str,
        scope: &[String],
        (now, until): (OffsetDateTime, OffsetDateTime),
    ) -> Result<DelegationGrant, PdpError> {
        let refuse = |why: GrantError| Err(PdpError::Delegation(why.to_string()));
        match state.registry.agent(agent_id) {
            None => return Err(PdpError::PrincipalNotFound),
            Some(agent) if agent.state != AgentState::Active => {
                let standing = Standing::of(agent.state, None);
                return refuse(GrantError::Inactive(standing));
            }
            Some(_) => {}
        }
        let party = |principal| state.registry.token_party(principal);
        let (subject, actors, held) = match &caller.delegation {
            None => (party(&caller.principal), Vec::new(), &[][..]),
            Some(delegation) => (
                party(&delegation.subject),
                delegation.actors.iter().map(party).collect(),
                &delegation.scope[..],
            ),
        };
        if actors.len() >= self.delegation_depth_max {
            return refuse(GrantError::Depth(self.delegation_depth_max));
        }
        if let Some(max) = exceeded(state, &subject, &actors) {
            return refuse(GrantError::OwnDepth(max));
        }
        let is_agent = |p: &TokenParty| p.kind == PrincipalKind::Agent && p.id == agent_id;
        if is_agent(&subject) || actors.iter().any(is_agent) {
            return refuse(GrantError::Loop);
        }
        let Some(scope) = shrink(held, scope) else {
            return refuse(GrantError::Scope);
        };
        Ok(DelegationGrant {
            id: Uuid::new_v4().to_string(),
            subject,
            actors,
            may_act: agent_id.to_owned(),
            scope,
            issue_time: now,
            // What its maker proved itself by ends, and with it what it stands for.
            expire_time: until.min(caller.expire_time).truncate_to_second(),
        })
    }

    /// Turns a grant that names the caller into an access token of the caller's, bound to
    /// the key that the caller has proved for this call.
    pub(crate) async fn exchange(
        &self,
        credential: &Credential,
        grant: &str,
        scope: Vec<String>,
        lifetime: Duration,
    ) -> Result<Exchanged, OperationError> {
        let scope = scope_field(scope)?;
        let lifetime = lifetime_field(lifetime, TOKEN_LIFETIME_MAX)?;
        for _ in 0..ATTEMPTS_MAX {
            let state = self.pdp.replica.current();
            let now = (self.pdp.clock)();
            let caller = self.pdp.authenticate(credential, &state, now).await?;
            if caller.principal.state != Standing::Active {
                self.pdp
                    .record_refusal(credential, "token exchange while contained", now)
                    .await?;
                return Err(OperationError::Contained(caller.principal.state));
            }
            let granted = self.redeem(&state, &caller, credential, grant, &scope, now);
            let wanted = match granted {
                Ok(wanted) => Grant {
                    lifetime: lifetime.min(self.token_lifetime(&state, &caller.principal)),
                    ..wanted
                },
                // A party that is not known here may have been registered elsewhere.
                Err(GrantError::Unknown) if self.pdp.replica.is_newer_than(state.epoch).await? => {
                    continue;
                }
                Err(error) => {
                    self.pdp
                        .record_refusal(credential, &error.to_string(), now)
                        .await?;
                    return Err(OperationError::DelegationInvalid);
                }
            };
            let token = self.pdp.tokens.issue(&wanted, now)?;
            match self
                .record_exchange(&state, &caller, credential, &wanted, &token)
                .await
            {
                Ok(sequence) => {
                    let uid =
                        |party: &TokenParty| EntityUid::new(party.kind.cedar_type(), &party.id);
                    return Ok(Exchanged {
                        subject: uid(&wanted.subject),
                        actors: wanted.actors.iter().map(uid).collect(),
                        scope: wanted.scope,
                        token,
                        sequence,
                    });
                }
                // Somebody may have been revoked meanwhile.
                Err(AppendError::Stale { epoch }) => self.pdp.replica.catch_up(epoch).await?,
                Err(error) => return Err(PdpError::Append(error).into()),
            }
        }
        Err(PdpError::Stale.into())
    }

    /// What a grant is worth to this caller now.
    fn redeem(
        &self,
        state: &State,
        caller: &Caller,
        credential: &Credential,
        grant: &str,
        scope: &[String],
        now: OffsetDateTime,
    ) -> Result<Grant, GrantError> {
        let grant = self.pdp.tokens.verify_grant(grant, now)?;
        let holder = TokenParty::registered(PrincipalKind::Agent, &grant.may_act);
        // What the one that it names got is a grant, too.
        let parties = [&grant.subject, &holder].into_iter().chain(&grant.actors);
        if state.registry.is_void(&grant.id, parties, grant.issue_time) {
            return Err(TokenError::Void.into());
        }
        let me = &caller.principal;
        if me.kind != PrincipalKind::Agent {
            return Err(GrantError::NoAgent);
        }
        if grant.may_act != me.id {
            return Err(GrantError::OtherAgent);
        }
        if caller.delegation.is_some() {
            return Err(GrantError::ActsAlready);
        }
        if grant.actors.len() >= self.delegation_depth_max {
            return Err(GrantError::Depth(self.delegation_depth_max));
        }
        if let Some(max) = exceeded(state, &grant.subject, &grant.actors) {
            return Err(GrantError::OwnDepth(max));
        }
        for party in std::iter::once(&grant.subject).chain(&grant.actors) {
            if party.kind == PrincipalKind::Agent && party.id == me.id {
                return Err(GrantError::Loop);
            }
            let party = state.registry.party(party).map_err(|error| match error {
                AuthenticationError::Token(error) => GrantError::Token(error),
                _ => GrantError::Unknown,
            })?;
            if party.state != Standing::Active {
                return Err(GrantError::Inactive(party.state));
            }
        }
        let mut actors = vec![TokenParty::registered(PrincipalKind::Agent, &me.id)];
        actors.extend(grant.actors);
        Ok(Grant {
            subject: grant.subject,
            actors,
            scope: shrink(&grant.scope, scope).ok_or(GrantError::Scope)?,
            confirmation: confirmation(caller, credential).ok_or(GrantError::NoAgent)?,
            auth_time: caller.auth_time.min(now),
            lifetime: TOKEN_LIFETIME_MAX,
            not_after: Some(grant.expire_time.min(caller.expire_time)),
        })
    }

    async fn record_exchange(
        &self,
        state: &State,
        caller: &Caller,
        credential: &Credential,
        grant: &Grant,
        token: &IssuedToken,
    ) -> Result<u64, AppendError> {
        let uid = |party: &TokenParty| -> Value {
            json!(EntityUid::new(party.kind.cedar_type(), &party.id))
        };
        let actors: Vec<Value> = grant.actors.iter().map(uid).collect();
        let mut event = self
            .pdp
            .event(EventType::TokenExchanged, (self.pdp.clock)())
            .with_detail("token_id", token.id.as_str())
            .with_detail("subject", uid(&grant.subject))
            .with_detail("actors", actors)
            .with_detail("scope", json!(grant.scope))
            .with_detail(
                "expire_time",
                token.expire_time.unix_timestamp().to_string(),
            );
        event.actor = Some(caller.principal.uid());
        event.instance = caller.principal.instance;
        event.source = credential.source;
        let record = Record {
            epoch: Some(state.epoch),
            rider: caller.rider(),
            ..Record::fact(event)
        };
        let appended = self.pdp.audit.append(record).await?;
        caller.on_record();
        Ok(appended.sequence)
    }
}

/// Whether one more actor would be too many for an agent of the chain, by its own record:
/// then how many that one lets act after it. `actors` begins with the newest.
fn exceeded(state: &State, subject: &TokenParty, actors: &[TokenParty]) -> Option<u32> {
    // After the newest actor there would be one agent, after the subject all of them.
    let parties = actors.iter().chain(std::iter::once(subject));
    parties.zip(1_usize..).find_map(|(party, after)| {
        let agent = state.registry.agent(&party.id)?;
        let max = agent.profile.delegation_depth_max?;
        let is_agent = party.kind == PrincipalKind::Agent;
        (is_agent && after > max as usize).then_some(max)
    })
}

/// What the caller has proved for this call: the key of its token's proof, or its
/// certificate.
fn confirmation(caller: &Caller, credential: &Credential) -> Option<Confirmation> {
    if caller.method == "dpop" {
        let key = credential.proof.as_deref()?;
        return Some(Confirmation::Key(key.thumbprint));
    }
    let certificate = credential.certificate.as_deref()?;
    Some(Confirmation::Certificate(*certificate.certificate_sha256()))
}

/// The scope that is asked for, if the one that is held covers each entry of it. Nothing
/// asked for is all that is held; nothing held is everything.
fn shrink(held: &[String], asked: &[String]) -> Option<Vec<String>> {
    if asked.is_empty() {
        return Some(held.to_vec());
    }
    let covered = |entry: &String| {
        held.is_empty()
            || held.iter().any(|whole| {
                let on_a_resource = || entry.strip_prefix(whole.as_str());
                entry == whole
                    || names_no_resource(whole)
                        && on_a_resource()
                            .is_some_and(|rest| rest.starts_with(':') && !rest.starts_with("::"))
            })
    };
    asked.iter().all(covered).then(|| asked.to_vec())
}

/// Whether an entry of a scope is an action alone. The id of a resource may have colons:
/// `read:a` covers the resource `a`, and not `a:b`.
fn names_no_resource(entry: &str) -> bool {
    let mut names = entry.split("::");
    let plain = names.all(|name| !name.is_empty() && !name.contains(':'));
    let ty = entry.rsplit_once("::").map(|(ty, _)| ty);
    plain && ty.is_none_or(|ty| ty == "Action" || ty.ends_with("::Action"))
}

/// A scope of the API: sorted, each entry once, none with a blank.
fn scope_field(mut scope: Vec<String>) -> Result<Vec<String>, OperationError> {
    let field = |why: String| OperationError::Field {
        field: "scope",
        why,
    };
    if scope.len() > SCOPE_MAX {
        let why = format!(
            "has {} entries, at most {SCOPE_MAX} are allowed",
            scope.len()
        );
        return Err(field(why));
    }
    for entry in &scope {
        let plain = |c: char| !c.is_whitespace() && !c.is_control();
        if entry.is_empty() || entry.len() > SCOPE_BYTES_MAX || !entry.chars().all(plain) {
            let why = format!(
                "an entry is `action` or `action:resource`, 1 to {SCOPE_BYTES_MAX} bytes without \
                 blanks"
            );
            return Err(field(why));
        }
    }
    scope.sort_unstable();
    scope.dedup();
    Ok(scope)
}

/// A lifetime of the API; 0 means the longest.
fn lifetime_field(lifetime: Duration, max: Duration) -> Result<Duration, OperationError> {
    match lifetime {
        zero if zero.is_zero() => Ok(max),
        lifetime if lifetime > max => Err(OperationError::Field {
            field: "lifetime_s",
            why: format!("must be at most {}", max.whole_seconds()),
        }),
        lifetime => Ok(lifetime),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shrunk(held: &[&str], asked: &[&str]) -> Option<Vec<String>> {
        let own = |entries: &[&str]| entries.iter().map(|&e| e.to_owned()).collect::<Vec<_>>();
        shrink(&own(held), &own(asked))
    }

    #[test]
    fn a_scope_only_shrinks() {
        let yes = |held: &[&str], asked: &[&str], got: &[&str]| {
            assert_eq!(
                shrunk(held, asked).expect("covered"),
                got,
                "{held:?} {asked:?}"
            );
        };
        yes(&[], &[], &[]);
        yes(&[], &["read"], &["read"]);
        yes(&["read"], &[], &["read"]);
        yes(&["read", "write:7"], &["read:x"], &["read:x"]);
        yes(&["write:7"], &["write:7"], &["write:7"]);
        yes(
            &["Shop::Action::refund"],
            &["Shop::Action::refund:7:x"],
            &["Shop::Action::refund:7:x"],
        );
        for (held, asked) in [
            (&["read"][..], &["write"][..]),
            (&["read:x"], &["read"]),
            (&["read:x"], &["read:y"]),
            (&["read:x"], &["read:x", "read:y"]),
            (&["rea"], &["read"]),
            (&["read:x"], &["read:x:y"]),
            (&["Shop::Action::refund:7"], &["Shop::Action::refund:7:x"]),
            (&["read:a::Action::b"], &["read:a::Action::b:c"]),
            (&["Shop"], &["Shop::Action::refund"]),
        ] {
            assert_eq!(shrunk(held, asked), None, "{held:?} {asked:?}");
        }
    }
}
