//! Replacing the CA: prepare, activate, retire. See [`crate::identity::authorities`].

use serde_json::json;
use time::OffsetDateTime;

use super::{OperationError, Operations, allowed, detail, text_field};
use crate::identity::authorities::{OVERLAP, TRUSTED_MAX};
use crate::identity::ca::CaError;
use crate::identity::registry::Credential;
use crate::model::{
    AccessRequest, AuthorityRecord, AuthorityState, Change, Conflict, Decision, EntityUid,
};
use crate::pdp::{Act, PdpError};

/// Digits of an id that tell CAs apart well enough.
const ID_PREFIX_MIN: usize = 8;

/// From when on the next step with a CA needs no force.
pub(crate) fn next_step_time(authority: &AuthorityRecord) -> Option<OffsetDateTime> {
    match authority.state {
        AuthorityState::Prepared => Some(authority.prepare_time + OVERLAP),
        AuthorityState::Superseded => authority.supersede_time.map(|time| time + OVERLAP),
        AuthorityState::Active | AuthorityState::Retired => None,
    }
}

/// A step with one CA.
#[derive(Clone, Copy, Debug)]
enum Step {
    Activate,
    Retire,
}

impl Step {
    fn action(self) -> &'static str {
        match self {
            Self::Activate => "activate_ca",
            Self::Retire => "retire_ca",
        }
    }

    /// Whether the step may be taken now.
    fn check(
        self,
        authority: &AuthorityRecord,
        force: bool,
        now: OffsetDateTime,
    ) -> Result<(), Conflict> {
        use AuthorityState::{Active, Prepared, Retired, Superseded};
        let id = &authority.id;
        let conflict = |text: String| Err(Conflict::Authority(text));
        match (self, authority.state) {
            (Self::Activate, Prepared) | (Self::Retire, Superseded) => {}
            // It has signed nothing.
            (Self::Retire, Prepared) => return Ok(()),
            (Self::Retire, Active) => {
                return conflict(format!("the CA `{id}` signs; activate another one first"));
            }
            (Self::Activate, Active | Superseded | Retired) | (Self::Retire, Retired) => {
                let state = authority.state.as_str();
                return conflict(format!("the CA `{id}` is {state}"));
            }
        }
        let Some(from) = next_step_time(authority).filter(|from| now < *from && !force) else {
            return Ok(());
        };
        let from = crate::model::event::time_text(from);
        conflict(match self {
            Self::Activate => format!(
                "clients that have not renewed since the CA `{id}` was prepared do not trust it \
                 yet; wait until {from}, or force it and lock them out"
            ),
            Self::Retire => format!(
                "certificates that the CA `{id}` signed may hold until {from}; wait, or force it \
                 and lock their holders out"
            ),
        })
    }

    fn change(self, id: String, time: OffsetDateTime) -> Change {
        match self {
            Self::Activate => Change::ActivateAuthority { id, time },
            Self::Retire => Change::RetireAuthority { id, time },
        }
    }
}

impl Operations {
    /// The CAs, in the order in which they were prepared.
    pub(crate) async fn list_authorities(
        &self,
        credential: &Credential,
    ) -> Result<Vec<AuthorityRecord>, OperationError> {
        self.read(credential, "list_cas").await?;
        Ok(self.authorities())
    }

    fn authorities(&self) -> Vec<AuthorityRecord> {
        self.ca.on_record(&self.pdp.replica.current().authorities)
    }

    fn authority(&self, id: &str) -> Result<AuthorityRecord, OperationError> {
        let mut authorities = self.authorities().into_iter();
        authorities
            .find(|authority| authority.id == id)
            .ok_or_else(|| CaError::KeyMissing(id.to_owned()).into())
    }

    /// Has everybody trust a new CA.
    pub(crate) async fn prepare_authority(
        &self,
        credential: &Credential,
        own_root: bool,
        note: &str,
    ) -> Result<(AuthorityRecord, Decision), OperationError> {
        text_field("note", note, 1024)?;
        // Made before it is known whether the caller may: it is nobody's until it is on
        // record, and the next call takes the same key.
        let now = (self.pdp.clock)();
        let next = match self.ca.next(&self.authorities(), own_root, now).await {
            Ok(next) => next,
            Err(error @ CaError::NothingBrought) => {
                self.read(credential, "list_cas").await?;
                let why = error.to_string();
                return Err(PdpError::Conflict(Conflict::Authority(why)).into());
            }
            Err(error) => return Err(error.into()),
        };
        let request = AccessRequest::new(EntityUid::action("prepare_ca"), self.zone());
        let decision = self
            .pdp
            .operate(credential, &request, &|state, _, _| {
                let records = self.ca.on_record(&state.authorities);
                let signing = may_prepare(&records, &next)?;
                Ok(Act {
                    change: Some(Change::PrepareAuthority {
                        signing: Box::new(signing),
                        next: Box::new(next.clone()),
                    }),
                    detail: detail([
                        ("authority", json!(next.id)),
                        ("key", json!(next.key)),
                        ("note", json!(note)),
                    ]),
                })
            })
            .await?;
        let decision = allowed(decision)?;
        Ok((self.authority(&next.id)?, decision))
    }

    /// Has the prepared CA sign.
    pub(crate) async fn activate_authority(
        &self,
        credential: &Credential,
        id: &str,
        force: bool,
        note: &str,
    ) -> Result<(AuthorityRecord, Decision), OperationError> {
        let prepared = |r: &AuthorityRecord| r.state == AuthorityState::Prepared;
        let id = match id {
            "" => self.authorities().into_iter().find(prepared).map(|r| r.id),
            id => Some(self.found(id)?),
        };
        let id = id.ok_or_else(|| OperationError::Field {
            field: "id",
            why: "no CA is prepared; prepare one first".to_owned(),
        })?;
        self.step(credential, Step::Activate, id, force, note).await
    }

    /// Has nobody trust a CA any more.
    pub(crate) async fn retire_authority(
        &self,
        credential: &Credential,
        id: &str,
        force: bool,
        note: &str,
    ) -> Result<(AuthorityRecord, Decision), OperationError> {
        let id = self.found(id)?;
        self.step(credential, Step::Retire, id, force, note).await
    }

    /// The id that begins so.
    fn found(&self, id: &str) -> Result<String, OperationError> {
        let authorities = self.authorities();
        let mut found = authorities.iter().filter(|r| r.id.starts_with(id));
        match (found.next(), found.next()) {
            (Some(authority), None) if id.len() >= ID_PREFIX_MIN => Ok(authority.id.clone()),
            _ => Err(OperationError::Field {
                field: "id",
                why: format!("no CA has an id that begins so; give {ID_PREFIX_MIN} digits or more"),
            }),
        }
    }

    async fn step(
        &self,
        credential: &Credential,
        step: Step,
        id: String,
        force: bool,
        note: &str,
    ) -> Result<(AuthorityRecord, Decision), OperationError> {
        text_field("note", note, 1024)?;
        let request = AccessRequest::new(EntityUid::action(step.action()), self.zone());
        let decision = self
            .pdp
            .operate(credential, &request, &|state, _, now| {
                let records = self.ca.on_record(&state.authorities);
                let authority = records.iter().find(|r| r.id == id);
                let gone = || Conflict::Authority(format!("there is no CA `{id}`"));
                step.check(authority.ok_or_else(gone)?, force, now)?;
                let time = crate::model::event::to_micros(now);
                Ok(Act {
                    change: Some(step.change(id.clone(), time)),
                    detail: detail([
                        ("authority", json!(id)),
                        ("force", json!(force)),
                        ("note", json!(note)),
                    ]),
                })
            })
            .await?;
        let decision = allowed(decision)?;
        Ok((self.authority(&id)?, decision))
    }
}

/// The CA that signs, if another one may be prepared beside it.
fn may_prepare(
    records: &[AuthorityRecord],
    next: &AuthorityRecord,
) -> Result<AuthorityRecord, Conflict> {
    let prepared = |r: &&AuthorityRecord| r.state == AuthorityState::Prepared;
    if let Some(prepared) = records.iter().find(prepared) {
        let id = &prepared.id;
        let text = format!("the CA `{id}` is prepared already; activate or retire it first");
        return Err(Conflict::Authority(text));
    }
    if records.iter().filter(|r| r.is_trusted()).count() >= TRUSTED_MAX {
        let text = format!("{TRUSTED_MAX} CAs are trusted; retire one first");
        return Err(Conflict::Authority(text));
    }
    if records.iter().any(|r| r.id == next.id) {
        let text = format!("the CA `{}` is on record already", next.id);
        return Err(Conflict::Authority(text));
    }
    let signing = records.iter().find(|r| r.state == AuthorityState::Active);
    let signing = signing.ok_or_else(|| Conflict::Authority("no CA signs".to_owned()))?;
    Ok(signing.clone())
}

#[cfg(test)]
mod tests {
    use time::Duration;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-22 12:00 UTC);

    fn authority(id: &str, state: AuthorityState) -> AuthorityRecord {
        AuthorityRecord {
            id: id.to_owned(),
            key: "ca".to_owned(),
            chain_pem: String::new(),
            state,
            prepare_time: NOW,
            activate_time: None,
            supersede_time: (state == AuthorityState::Superseded).then_some(NOW),
            retire_time: None,
        }
    }

    #[test]
    fn a_step_waits_for_the_one_before_it_unless_forced() {
        use AuthorityState::{Prepared, Superseded};
        for (step, state) in [(Step::Activate, Prepared), (Step::Retire, Superseded)] {
            let authority = authority("a", state);
            let check = |force, now| step.check(&authority, force, now);
            let early = NOW + SVID_DAY;
            let error = check(false, early).expect_err("too early").to_string();
            assert!(error.contains("2026-11-23T12:05:00"), "{error}");
            check(true, NOW).expect("forced");
            check(false, NOW + OVERLAP).expect("in time");
        }
    }

    const SVID_DAY: Duration = Duration::DAY;

    #[test]
    fn only_what_has_its_turn_is_done_and_force_changes_nothing_of_that() {
        use AuthorityState::{Active, Prepared, Retired, Superseded};
        let late = NOW + Duration::days(99);
        for force in [false, true] {
            for (step, state, may) in [
                (Step::Activate, Prepared, true),
                (Step::Activate, Active, false),
                (Step::Activate, Superseded, false),
                (Step::Activate, Retired, false),
                (Step::Retire, Prepared, true),
                (Step::Retire, Active, false),
                (Step::Retire, Superseded, true),
                (Step::Retire, Retired, false),
            ] {
                let done = step.check(&authority("a", state), force, late);
                assert_eq!(done.is_ok(), may, "{step:?} {state:?}");
            }
        }
        let prepared = authority("a", Prepared);
        Step::Retire
            .check(&prepared, false, NOW)
            .expect("withdrawn at any time");
    }

    #[test]
    fn one_ca_is_prepared_at_a_time_and_few_are_trusted() {
        use AuthorityState::{Active, Prepared, Retired, Superseded};
        let next = authority("n", Prepared);
        let may = |states: &[AuthorityState]| {
            let records: Vec<_> = states
                .iter()
                .zip("abcdef".chars())
                .map(|(state, id)| authority(&id.to_string(), *state))
                .collect();
            may_prepare(&records, &next).map(|signing| signing.id)
        };
        assert_eq!(may(&[Active]).expect("one"), "a");
        assert_eq!(may(&[Retired, Superseded, Active]).expect("one"), "c");
        assert!(may(&[Active, Prepared]).is_err());
        assert!(may(&[Superseded, Superseded, Superseded, Active]).is_err());
        assert!(may(&[]).is_err());
        assert!(may_prepare(&[authority("n", Active)], &next).is_err());
    }
}
