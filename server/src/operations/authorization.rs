//! What stands beside decisions: explaining one, and listing what would be permitted.

use std::sync::{Arc, Mutex};

use serde_json::json;

use super::policies::blocking;
use super::{OperationError, Operations, allowed, detail};
use crate::audit::{AppendError, Record};
use crate::identity::registry::{Caller, Credential};
use crate::model::{
    AccessRequest, Decision, EntityUid, EventType, Principal, PrincipalKind, Standing,
};
use crate::pdp::{ATTEMPTS_MAX, Act, PdpError, contained, facts};
use crate::policy::{Explanation, Parties as _, Permission};
use crate::replica::State;

/// Questions to policy that one page of a listing may take.
const QUESTIONS_MAX: usize = 2000;
/// Pages in the making at once; more wait. Each keeps a core busy.
pub(crate) const PAGES_MAX: usize = 2;

/// What is asked of a listing.
#[derive(Clone, Debug)]
pub(crate) enum Query {
    /// Which resources: those of these ids, or all that are known.
    Resources {
        /// Their type.
        ty: String,
        /// Sorted; `None` means all.
        ids: Option<Vec<String>>,
    },
    /// Which actions on the request's resource.
    Actions,
}

/// One page of what is permitted.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Action, resource, and whether it depends on what the call brings.
    pub(crate) permitted: Vec<(EntityUid, EntityUid, bool)>,
    /// The last one looked at, if there are more.
    pub(crate) next: Option<EntityUid>,
    /// The revision that was asked.
    pub(crate) revision: u64,
    /// The place of the event in the log.
    pub(crate) sequence: u64,
}

impl Operations {
    /// The story of a request, of the caller or of another principal. An administrative
    /// act, decided and recorded like any; nothing is recorded as a decision on the
    /// request itself. The facts are those of a call made now, from the caller's address,
    /// over mutual TLS.
    pub(crate) async fn explain(
        &self,
        credential: &Credential,
        principal: Option<&EntityUid>,
        request: &AccessRequest,
    ) -> Result<(Explanation, Decision), OperationError> {
        let act = AccessRequest::new(EntityUid::action("explain"), self.zone());
        let story: Mutex<Option<Explanation>> = Mutex::new(None);
        let decision = self
            .pdp
            .operate(credential, &act, &|state, caller, now| {
                let of = match principal {
                    None => Some(caller.principal.clone()),
                    Some(uid) => registered(state, uid),
                };
                let Some(of) = of else {
                    return Err(PdpError::PrincipalNotFound);
                };
                let revision = state.revision.as_ref().ok_or(PdpError::NotReady)?;
                let caller = match principal {
                    None => caller.clone(),
                    Some(_) => Caller::direct(of, now, now),
                };
                let explanation = match contained(&caller, request) {
                    Some(verdict) => revision.compiled.without_policies(verdict),
                    None => {
                        let facts = facts(state, &caller, credential, request, now);
                        let (compiled, principal) = (&revision.compiled, &caller.principal);
                        let told = compiled.explain(principal, request, &facts, &state.pip())?;
                        match &caller.delegation {
                            None => told,
                            // Its policies are those that the caller meets.
                            Some(_) => Explanation {
                                verdict: (compiled.evaluate_chain(
                                    &caller.principal,
                                    request,
                                    &facts,
                                    &state.pip(),
                                )?)
                                .0,
                                ..told
                            },
                        }
                    }
                };
                let verdict = &explanation.verdict;
                let detail = detail([
                    ("principal", json!(caller.principal.uid())),
                    ("action", json!(verdict.action)),
                    ("resource", json!(request.resource)),
                    ("effect", json!(verdict.effect())),
                ]);
                *story
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(explanation);
                Ok(Act {
                    change: None,
                    detail,
                })
            })
            .await?;
        let decision = allowed(decision)?;
        let story = story
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut story = story.ok_or(PdpError::Stale)?;
        self.redact(&mut story);
        Ok((story, decision))
    }

    /// The rules of redaction speak of `arguments`; policies see them as `input`. What is
    /// told of an entity stands where one that the request brought stands in the record.
    fn redact(&self, story: &mut Explanation) {
        for entity in &mut story.entities {
            let attributes = entity.attributes.take();
            let told = json!({ "attributes": attributes, "tags": entity.tags.take() });
            let mut told = json!({ "entities": [told] });
            self.pdp.redaction.apply(&mut told);
            entity.attributes = told["entities"][0]["attributes"].take();
            entity.tags = told["entities"][0]["tags"].take();
        }
        let Some(context) = story.context.as_object_mut() else {
            return;
        };
        let rename = |context: &mut serde_json::Map<_, _>, from: &str, to: &str| {
            if let Some(value) = context.remove(from) {
                context.insert(to.to_owned(), value);
            }
        };
        rename(context, "input", "arguments");
        self.pdp.redaction.apply(&mut story.context);
        if let Some(context) = story.context.as_object_mut() {
            rename(context, "arguments", "input");
        }
    }

    /// What the caller may do now: a page of at most `limit`, after `after`. On record as
    /// an event of its own; no decision.
    pub(crate) async fn list_permitted(
        &self,
        credential: &Credential,
        query: &Query,
        request: &AccessRequest,
        after: Option<EntityUid>,
        limit: usize,
    ) -> Result<Listing, OperationError> {
        for _ in 0..ATTEMPTS_MAX {
            let state = self.pdp.replica.current();
            let now = (self.pdp.clock)();
            let caller = self.pdp.authenticate(credential, &state, now).await?;
            let mut listing = if caller.principal.state == Standing::Active {
                let page = Page {
                    state: Arc::clone(&state),
                    caller: caller.clone(),
                    credential: credential.clone(),
                    request: request.clone(),
                    query: query.clone(),
                    after: after.clone(),
                    limit,
                };
                // Closed only with the server.
                let _turn = self.pages.acquire().await;
                let made = blocking(move || page.make(now)).await?;
                match made {
                    Ok(listing) => listing,
                    // What the schema does not have may be in one applied elsewhere.
                    Err(_) if self.pdp.replica.is_newer_than(state.epoch).await? => continue,
                    Err(error) => return Err(error.into()),
                }
            } else {
                // Contained: nothing is permitted.
                Listing::default()
            };
            let mut event = self.pdp.event(EventType::PermissionsListed, now);
            event.actor = Some(caller.principal.uid());
            event.instance = caller.principal.instance;
            event.source = credential.source;
            event.session.clone_from(&request.session_id);
            event.task.clone_from(&request.task_id);
            event.user.clone_from(&request.user);
            event.revision = state.revision.as_ref().map(|r| r.meta.number);
            event.detail = detail([("listed", json!(listing.permitted.len()))]);
            let record = Record {
                epoch: Some(state.epoch),
                rider: caller.rider(),
                ..Record::fact(event)
            };
            match self.pdp.audit.append(record).await {
                Ok(appended) => {
                    caller.on_record();
                    listing.sequence = appended.sequence;
                    listing.revision = state.revision.as_ref().map_or(0, |r| r.meta.number);
                    return Ok(listing);
                }
                Err(AppendError::Stale { epoch }) => self.pdp.replica.catch_up(epoch).await?,
                Err(error) => return Err(PdpError::Append(error).into()),
            }
        }
        Err(PdpError::Stale.into())
    }
}

/// A principal of the registry, without a key of its own.
fn registered(state: &State, uid: &EntityUid) -> Option<Principal> {
    let party = state.party(&uid.ty, &uid.id)?;
    let agent = state.registry.agent(&uid.id);
    let agent = agent.filter(|_| uid.ty == PrincipalKind::Agent.cedar_type());
    Some(Principal {
        kind: agent.map_or(PrincipalKind::User, |_| PrincipalKind::Agent),
        id: uid.id.clone(),
        name: party.name,
        roles: party.roles,
        owner: party.owner.unwrap_or_default(),
        state: agent.map_or(Standing::Active, |agent| Standing::of(agent.state, None)),
        zone: party.zone.unwrap_or_default(),
        attributes: party.attributes,
        instance: None,
    })
}

/// A page in the making.
struct Page {
    state: Arc<State>,
    caller: Caller,
    credential: Credential,
    request: AccessRequest,
    query: Query,
    after: Option<EntityUid>,
    limit: usize,
}

impl Page {
    fn make(self, now: time::OffsetDateTime) -> Result<Listing, PdpError> {
        let revision = self.state.revision.as_ref().ok_or(PdpError::NotReady)?;
        let compiled = &revision.compiled;
        // What is asked about: actions or resources. The request is one, changed for each:
        // a copy of what a caller sent for each question would be theirs to multiply.
        let after = self.after.as_ref();
        let asked: Vec<EntityUid> = match &self.query {
            Query::Actions => {
                let actions = compiled.actions_on(&self.request.resource).into_iter();
                actions
                    .filter(|action| after.is_none_or(|a| action > a))
                    .collect()
            }
            Query::Resources { ty, ids } => {
                let after = after.map(|after| after.id.as_str());
                let later = |id: &&String| after.is_none_or(|after| id.as_str() > after);
                let stored = &self.state.entities;
                let ids = match ids {
                    Some(ids) => ids.iter().filter(later).cloned().collect(),
                    None => compiled.resources_named(ty, stored, after, QUESTIONS_MAX + 1),
                };
                ids.into_iter().map(|id| EntityUid::new(ty, id)).collect()
            }
        };
        let mut listing = Listing::default();
        let mut request = self.request;
        for (nth, uid) in asked.iter().enumerate() {
            if listing.permitted.len() == self.limit || nth == QUESTIONS_MAX {
                listing.next = nth.checked_sub(1).map(|last| asked[last].clone());
                break;
            }
            match self.query {
                Query::Actions => request.action.clone_from(uid),
                Query::Resources { .. } => request.resource.clone_from(uid),
            }
            let facts = facts(&self.state, &self.caller, &self.credential, &request, now);
            let pip = self.state.pip();
            let principal = &self.caller.principal;
            let permission = compiled.permission_chain(principal, &request, &facts, &pip)?;
            if permission != Permission::No {
                let conditional = permission == Permission::Conditional;
                let (action, resource) = (request.action.clone(), request.resource.clone());
                listing.permitted.push((action, resource, conditional));
            }
        }
        Ok(listing)
    }
}
