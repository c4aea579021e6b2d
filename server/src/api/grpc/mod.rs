//! The gRPC doors, one file per service.

pub(crate) mod agents;
pub(crate) mod audit;
pub(crate) mod authentication;
pub(crate) mod authorities;
pub(crate) mod authorization;
pub(crate) mod entities;
mod events;
mod explain;
mod lifecycle;
mod outcomes;
pub(crate) mod policies;
mod policy_tests;
mod proposals;
mod replay;
mod told;
pub(crate) mod users;

use prost_types::Timestamp;
use time::OffsetDateTime;
use tonic::Status;
use uuid::Uuid;
use zta_proto::v1;

use super::status::{field, limit, status};
use crate::model::{Decision, EntityUid};
use crate::pdp::Pdp;

/// Bytes of an entity's id.
const ID_BYTES_MAX: usize = 1024;
/// Bytes of an entity's type.
const TYPE_BYTES_MAX: usize = 256;
/// Entries of one page.
const PAGE_MAX: u32 = 1000;
/// Entries of a page when the caller does not say.
const PAGE_DEFAULT: u32 = 100;

fn timestamp(time: OffsetDateTime) -> Option<Timestamp> {
    Some(Timestamp {
        seconds: time.unix_timestamp(),
        nanos: i32::try_from(time.nanosecond()).unwrap_or(0),
    })
}

fn time(
    name: &'static str,
    timestamp: Option<Timestamp>,
) -> Result<Option<OffsetDateTime>, Status> {
    let Some(t) = timestamp else { return Ok(None) };
    let parsed = OffsetDateTime::from_unix_timestamp(t.seconds)
        .ok()
        .zip(u32::try_from(t.nanos).ok());
    parsed
        .and_then(|(time, nanos)| time.replace_nanosecond(nanos).ok())
        .filter(|time| (1970..=9999).contains(&time.year()))
        .map(Some)
        .ok_or_else(|| field(name, "is not a time between 1970 and 9999"))
}

fn wire_uid(uid: &EntityUid) -> v1::EntityRef {
    v1::EntityRef {
        r#type: uid.ty.clone(),
        id: uid.id.clone(),
    }
}

/// An entity reference of a request. `default_type` stands for an empty type.
fn entity(
    name: &'static str,
    reference: Option<v1::EntityRef>,
    default_type: Option<&str>,
) -> Result<EntityUid, Status> {
    let reference = reference.ok_or_else(|| field(name, "is missing"))?;
    let ty = match default_type {
        Some(default) if reference.r#type.is_empty() => default.to_owned(),
        _ => reference.r#type,
    };
    bounded(name, &ty, TYPE_BYTES_MAX)?;
    bounded(name, &reference.id, ID_BYTES_MAX)?;
    let identifier = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    if !ty.split("::").all(identifier) {
        return Err(field(
            name,
            "its type must be a Cedar entity type such as `ZTA::Tool`",
        ));
    }
    if reference.id.is_empty() {
        return Err(field(name, "its id is empty"));
    }
    Ok(EntityUid {
        ty,
        id: reference.id,
    })
}

/// A text within its limit and on one line: nothing of a caller breaks a record.
fn bounded(name: &str, text: &str, bytes_max: usize) -> Result<(), Status> {
    if text.len() > bytes_max {
        return Err(limit(name, text.len(), bytes_max));
    }
    if text.chars().any(char::is_control) {
        return Err(field(name, "must not contain control characters"));
    }
    Ok(())
}

fn wire_effect(allowed: bool) -> v1::Effect {
    match allowed {
        true => v1::Effect::Allow,
        false => v1::Effect::Deny,
    }
}

/// An optional text: empty is absent.
fn optional(name: &str, text: String, bytes_max: usize) -> Result<Option<String>, Status> {
    bounded(name, &text, bytes_max)?;
    Ok((!text.is_empty()).then_some(text))
}

fn page_size(requested: u32) -> Result<u32, Status> {
    match requested {
        0 => Ok(PAGE_DEFAULT),
        1..=PAGE_MAX => Ok(requested),
        _ => Err(limit("page_size", requested as usize, PAGE_MAX as usize)),
    }
}

fn page_token_invalid() -> Status {
    status(
        tonic::Code::InvalidArgument,
        v1::ErrorReason::PageTokenInvalid,
        "page_token: not one that this server gave for this list",
    )
}

/// The state of the log that the decision's commit led to.
fn consistency_token(decision: &Decision) -> Option<v1::ConsistencyToken> {
    token_of(decision.log_id, decision.sequence + 1)
}

/// A state of the log, for clients to give back: the log and its size.
fn token_of(log_id: Uuid, size: u64) -> Option<v1::ConsistencyToken> {
    let value = format!("{}:{size}", log_id.simple());
    Some(v1::ConsistencyToken { value })
}

/// Returns once the state that a request demands is reached, so that whatever is answered
/// now is at least as fresh. Every door whose request has `at_least_as_fresh` calls this
/// first. No query where this replica has seen that state.
///
/// # Errors
/// A token that this log did not give; `NOT_FRESH` after two seconds.
async fn fresh(pdp: &Pdp, demanded: Option<v1::ConsistencyToken>) -> Result<(), Status> {
    match demanded {
        None => Ok(()),
        Some(token) => Ok(pdp
            .reach(demanded_size(&token.value, pdp.audit.log_id())?)
            .await?),
    }
}

/// The size in a token of this log.
fn demanded_size(value: &str, log_id: Uuid) -> Result<u64, Status> {
    size_in(value, log_id).ok_or_else(|| {
        status(
            tonic::Code::InvalidArgument,
            v1::ErrorReason::ConsistencyTokenInvalid,
            "at_least_as_fresh: not a consistency token of this server's log",
        )
    })
}

/// A place in this log, as [`token_of`] writes it.
fn size_in(value: &str, log_id: Uuid) -> Option<u64> {
    value
        .split_once(':')
        .filter(|(log, size)| *log == log_id.simple().to_string() && size.len() <= 20)
        .and_then(|(_, size)| size.parse::<u64>().ok())
        // One way to write it: no sign, no leading zero.
        .filter(|size| token_of(log_id, *size).is_some_and(|token| token.value == value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consistency_token_is_read_as_it_was_written_and_in_no_other_way() {
        let log = Uuid::from_u128(0xabc);
        for size in [0, 1, 20, u64::MAX] {
            let token = token_of(log, size).expect("a token").value;
            assert!(token.len() <= 128);
            assert_eq!(demanded_size(&token, log).expect("ours"), size);
            assert!(demanded_size(&token, Uuid::from_u128(1)).is_err());
        }
        let id = log.simple().to_string();
        for size in [
            "",
            "-1",
            "+1",
            "01",
            " 1",
            "1 ",
            "1:",
            "18446744073709551616",
            "x",
        ] {
            assert!(
                demanded_size(&format!("{id}:{size}"), log).is_err(),
                "{size}"
            );
        }
        for value in [
            "",
            ":",
            ":1",
            &id,
            &format!("{log}:1"),
            &format!("{}:1", id.to_uppercase()),
        ] {
            assert!(demanded_size(value, log).is_err(), "{value}");
        }
        assert!(demanded_size(&format!("{id}:{}1", "0".repeat(1000)), log).is_err());
    }
}
