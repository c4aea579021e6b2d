use std::sync::Arc;

use super::*;
use crate::audit::Record;
use crate::model::outcome::CallResult;
use crate::model::{Principal, PrincipalKind};

const NOW: OffsetDateTime = time::macros::datetime!(2026-01-02 03:04:05 UTC);
const LOG: Uuid = Uuid::from_u128(7);

fn caller() -> Caller {
    let principal = Principal {
        kind: PrincipalKind::Agent,
        id: "spiffe://zta.local/agent/a".to_owned(),
        name: "a".to_owned(),
        roles: Vec::new(),
        owner: String::new(),
        zone: String::new(),
        attributes: Arc::default(),
        state: Standing::Active,
        instance: Some(Uuid::from_u128(8)),
    };
    Caller::direct(principal, NOW, NOW)
}

fn stored(event: Event, sequence: u64) -> StoredEvent {
    let event = Record::prepare(event, None).expect("a leaf");
    StoredEvent {
        sequence,
        log_id: LOG,
        leaf: event.leaf,
        leaf_hash: event.leaf_hash,
        columns: event.columns,
        inputs: None,
    }
}

/// A minute after the decision is in time, and a moment later is not, except where the
/// outcome is on record already.
#[test]
fn an_outcome_is_late_by_the_time_of_its_decision() {
    let (caller, credential) = (caller(), Credential::none(None, NOW));
    let mut decision = Event::new(EventType::Decision, LOG, Uuid::from_u128(9), NOW);
    decision.actor = Some(caller.principal.uid());
    decision.instance = caller.principal.instance;
    decision.effect = Some(Effect::Allow);
    let outcome = Outcome::new(decision.id, CallResult::Ok);
    let mut known = Known::from([(decision.id, stored(decision, 0))]);
    let at = |now| Reporting {
        caller: &caller,
        credential: &credential,
        log_id: LOG,
        window: Duration::minutes(1),
        now,
    };
    let in_time = at(NOW + Duration::minutes(1));
    let late = at(NOW + Duration::minutes(1) + Duration::microseconds(1));
    assert!(matches!(in_time.place(&known, &outcome), Ok(None)));
    let refused = late.place(&known, &outcome);
    assert!(matches!(refused, Err(OperationError::OutcomeLate(_))));

    let event = in_time.event(&known[&outcome.decision_id()].columns, &outcome);
    known.insert(event.id, stored(event, 1));
    let found = late.place(&known, &outcome).expect("on record");
    assert_eq!(found.map(|f| (f.sequence, f.repeated)), Some((1, true)));
}
