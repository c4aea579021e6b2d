//! Decisions on whose behalf: what the caller asks for must be permitted to each party of
//! its delegation, asked one by one as the principal of the same request.
//!
//! RFC 8693 calls nested actors informational; here they decide. A deputy who can be
//! confused into asking for what it may do, but the one it acts for may not, gains nothing,
//! nor does one who is asked for what only the other may.

use super::compile::Compiled;
use super::evaluate::{Facts, Pip, PolicyError};
use super::permitted::Permission;
use crate::model::request::{ACTION_TYPE, CALL_TOOL};
use crate::model::{
    AccessRequest, Delegation, DenyReason, EntityUid, Principal, PrincipalKind, Standing, Verdict,
};

/// Who was not permitted what the caller was, for the record.
#[derive(Debug)]
pub struct Denier {
    /// The party.
    pub party: EntityUid,
    /// Why: of policy, or its state.
    pub reason: String,
    /// The policies that determined it.
    pub policies: Vec<String>,
}

impl Compiled {
    /// What policy says to the caller and, if that is an allow, to each party on whose behalf
    /// it asks, as the facts have it. Without a delegation this is the one evaluation and
    /// nothing else.
    ///
    /// # Errors
    /// As [`Compiled::evaluate`].
    pub fn evaluate_chain(
        &self,
        caller: &Principal,
        request: &AccessRequest,
        facts: &Facts,
        pip: &Pip<'_>,
    ) -> Result<(Verdict, Option<Box<Denier>>), PolicyError> {
        let verdict = self.evaluate(caller, request, facts, pip)?;
        let Some(delegation) = &facts.delegation else {
            return Ok((verdict, None));
        };
        if verdict.deny.is_some() {
            return Ok((verdict, None));
        }
        if let Some(party) = inactive(delegation) {
            let why = format!(
                "the {} on whose behalf it is asked is no longer active",
                noun(party)
            );
            let denier = Denier {
                party: party.uid(),
                reason: party.state.as_str().to_ascii_uppercase(),
                policies: Vec::new(),
            };
            return Ok(denied(&verdict, why, Some(denier)));
        }
        if !in_scope(&delegation.scope, &request.action, &request.resource) {
            let why =
                "the delegation does not cover it: its scope names other actions or resources";
            return Ok(denied(&verdict, why.to_owned(), None));
        }
        let mut whole = verdict;
        for party in delegation.others() {
            let theirs = self.evaluate(party, request, facts, pip)?;
            if let Some(reason) = theirs.deny {
                let why = format!(
                    "the {} on whose behalf it is asked is not permitted it",
                    noun(party)
                );
                let denier = Denier {
                    party: party.uid(),
                    reason: reason.as_str().to_owned(),
                    policies: theirs.policies,
                };
                return Ok(denied(&whole, why, Some(denier)));
            }
            unite(&mut whole, theirs);
        }
        Ok((whole, None))
    }

    /// Whether the caller may do something, and each party on whose behalf it asks.
    ///
    /// # Errors
    /// As [`Compiled::permission`].
    pub fn permission_chain(
        &self,
        caller: &Principal,
        request: &AccessRequest,
        facts: &Facts,
        pip: &Pip<'_>,
    ) -> Result<Permission, PolicyError> {
        let mut whole = self.permission(caller, request, facts, pip)?;
        let Some(delegation) = &facts.delegation else {
            return Ok(whole);
        };
        let covered = in_scope(&delegation.scope, &request.action, &request.resource);
        if inactive(delegation).is_some() || !covered {
            return Ok(Permission::No);
        }
        for party in delegation.others() {
            if whole == Permission::No {
                break;
            }
            match self.permission(party, request, facts, pip)? {
                Permission::Yes => {}
                other => whole = other,
            }
        }
        Ok(whole)
    }
}

/// The first party that may not act any more. The caller's own state is looked at before.
fn inactive(delegation: &Delegation) -> Option<&Principal> {
    delegation
        .others()
        .find(|party| party.state != Standing::Active)
}

/// Whether a scope covers a request: no entry at all, its action, or its action on its
/// resource. Clients ask for `call_tool`, which stands for a declared tool's own action.
fn in_scope(scope: &[String], action: &EntityUid, resource: &EntityUid) -> bool {
    if scope.is_empty() {
        return true;
    }
    // An action of another namespace is named whole, so that no name means two.
    let name = match action.ty.as_str() {
        ACTION_TYPE => action.id.clone(),
        ty => format!("{ty}::{}", action.id),
    };
    let tool = resource.ty == "ZTA::Tool" && action.id == resource.id;
    let names = [Some(name.as_str()), tool.then_some(CALL_TOOL)];
    names.into_iter().flatten().any(|name| {
        scope.iter().any(|entry| match entry.split_once(':') {
            // `Shop::Action::refund` has colons of its own.
            _ if entry == name => true,
            Some(_) => entry
                .strip_prefix(name)
                .and_then(|rest| rest.strip_prefix(':'))
                .is_some_and(|id| id == resource.id),
            None => false,
        })
    })
}

fn denied(
    verdict: &Verdict,
    why: String,
    denier: Option<Denier>,
) -> (Verdict, Option<Box<Denier>>) {
    let action = verdict.action.clone();
    let verdict = Verdict::deny(DenyReason::Delegation, why, action);
    (verdict, denier.map(Box::new))
}

/// What another party's allow adds: what it rests on, and what it asks the PEP to do.
fn unite(whole: &mut Verdict, theirs: Verdict) {
    fn add<T: Ord>(all: &mut Vec<T>, more: Vec<T>) {
        all.extend(more);
        all.sort_unstable();
        all.dedup();
    }
    add(&mut whole.policies, theirs.policies);
    add(&mut whole.errored, theirs.errored);
    add(&mut whole.obligations, theirs.obligations);
    for annotations in theirs.annotations {
        if !whole
            .annotations
            .iter()
            .any(|a| a.policy == annotations.policy)
        {
            whole.annotations.push(annotations);
        }
    }
    whole
        .annotations
        .sort_unstable_by(|a, b| a.policy.cmp(&b.policy));
}

fn noun(party: &Principal) -> &'static str {
    match party.kind {
        PrincipalKind::Agent => "agent",
        PrincipalKind::User => "user",
        PrincipalKind::Workload => "workload",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(scope: &[&str], action: (&str, &str), resource: (&str, &str)) -> bool {
        let scope: Vec<String> = scope.iter().map(|&entry| entry.to_owned()).collect();
        let uid = |(ty, id): (&str, &str)| EntityUid::new(ty, id);
        in_scope(&scope, &uid(action), &uid(resource))
    }

    #[test]
    fn a_scope_covers_what_it_names_and_nothing_else() {
        let tool = ("ZTA::Tool", "web_search");
        let call = (ACTION_TYPE, CALL_TOOL);
        assert!(covers(&[], call, tool));
        assert!(covers(&["call_tool"], call, tool));
        assert!(covers(&["read", "call_tool:web_search"], call, tool));
        // A declared tool's own action, however it is asked for.
        assert!(covers(&["call_tool"], ("Shop::Action", "web_search"), tool));
        assert!(covers(
            &["call_tool:web_search"],
            ("Shop::Action", "web_search"),
            tool
        ));
        assert!(covers(
            &["Shop::Action::refund:7"],
            ("Shop::Action", "refund"),
            ("R", "7")
        ));
        assert!(covers(
            &["Shop::Action::refund"],
            ("Shop::Action", "refund"),
            ("R", "7")
        ));
        for (scope, action, resource) in [
            (&["read"][..], call, tool),
            (&["call_tool:web"], call, tool),
            (&["call_tool:web_search:x"], call, tool),
            (&["call_tool:"], call, tool),
            (&["call"], call, tool),
            (&["CALL_TOOL"], call, tool),
            (&["refund"], ("Shop::Action", "refund"), ("R", "7")),
            (&["refund:7"], ("Shop::Action", "refund"), ("R", "7")),
            (
                &["call_tool"],
                (ACTION_TYPE, "delegate"),
                ("ZTA::Agent", "a"),
            ),
            (
                &["call_tool"],
                ("Shop::Action", "web_search"),
                ("R", "web_search"),
            ),
        ] {
            assert!(
                !covers(scope, action, resource),
                "{scope:?} {action:?} {resource:?}"
            );
        }
    }
}
