//! The gRPC doors, one file per service.

pub(crate) mod agents;
pub(crate) mod audit;
pub(crate) mod authentication;
pub(crate) mod authorization;
pub(crate) mod entities;
pub(crate) mod policies;

use prost_types::Timestamp;
use time::OffsetDateTime;
use tonic::Status;
use zta_proto::v1;

use super::status::{field, limit, status};
use crate::model::{Decision, EntityUid};

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
    let value = format!("{}:{}", decision.log_id.simple(), decision.sequence + 1);
    Some(v1::ConsistencyToken { value })
}
