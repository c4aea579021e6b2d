//! Events: what is on record. An event's canonical bytes are its leaf in the Merkle
//! tree; the columns that people query are projections of the leaf, so that a verifier
//! can recompute each of them.

use std::borrow::Cow;
use std::net::IpAddr;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::macros::format_description;
use uuid::Uuid;

use super::canonical::{Object, plain, texts};
use super::decision::{Effect, Obligation};
use super::request::EntityUid;

mod kind;

pub use kind::EventType;

/// The version of the leaf format.
pub const LEAF_VERSION: u32 = 1;
/// The largest leaf, in bytes. C2SP entry bundles have 16-bit lengths; half of that
/// leaves room.
pub const LEAF_BYTES_MAX: usize = 32 * 1024;

/// One entry of the log, in the shape of its leaf. Absent fields are left out of the
/// leaf; 64-bit integers are strings in it, because RFC 8785 knows only doubles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// [`LEAF_VERSION`].
    pub v: u32,
    /// The log that the event belongs to.
    pub log_id: Uuid,
    /// Unique; for a decision also the decision's id.
    pub id: Uuid,
    /// When, to the microsecond.
    #[serde(with = "rfc3339_micros")]
    pub time: OffsetDateTime,
    /// What happened.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// Who did it: the principal that a credential proved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<EntityUid>,
    /// The key that proved it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Uuid>,
    /// The network address that the call came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// The action that was evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<EntityUid>,
    /// What it acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<EntityUid>,
    /// Allow or deny, for decisions and administrative acts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<Effect>,
    /// Why denied or refused: a `DenyReason` or an `ErrorReason` by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The `@id` of each determining policy, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// The `@id` of each policy that errored, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errored: Vec<String>,
    /// What the PEP was told to do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub obligations: Vec<Obligation>,
    /// The revision that decided.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "opt_u64_string"
    )]
    pub revision: Option<u64>,
    /// The client's name for the run of calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The user that the guard named; unproven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The PEP's own id of the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// The W3C trace id, 32 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// SHA-256 over salt and inputs (see [`Inputs`]), hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs_sha256: Option<String>,
    /// What else there is to say, by type of event. Never a secret or an argument.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub detail: serde_json::Map<String, serde_json::Value>,
}

impl Event {
    /// An event with nothing but its type.
    pub fn new(kind: EventType, log_id: Uuid, id: Uuid, time: OffsetDateTime) -> Self {
        Self {
            v: LEAF_VERSION,
            log_id,
            id,
            time: to_micros(time),
            kind,
            actor: None,
            instance: None,
            source: None,
            action: None,
            resource: None,
            effect: None,
            reason: None,
            policies: Vec::new(),
            errored: Vec::new(),
            obligations: Vec::new(),
            revision: None,
            session: None,
            task: None,
            user: None,
            correlation_id: None,
            trace_id: None,
            inputs_sha256: None,
            detail: serde_json::Map::new(),
        }
    }

    /// Adds a text to `detail`.
    #[must_use]
    pub fn with_detail(mut self, key: &str, value: impl Into<serde_json::Value>) -> Self {
        self.detail.insert(key.to_owned(), value.into());
        self
    }

    /// The leaf: canonical JSON (RFC 8785).
    ///
    /// # Errors
    /// When the leaf would be larger than [`LEAF_BYTES_MAX`].
    pub fn leaf(&self) -> Result<Vec<u8>, LeafError> {
        let bytes = self.canonical()?;
        if bytes.len() > LEAF_BYTES_MAX {
            return Err(LeafError::TooLarge { bytes: bytes.len() });
        }
        Ok(bytes)
    }

    /// What serde and the general canonicalizer would write, in one pass.
    fn canonical(&self) -> Result<Vec<u8>, LeafError> {
        // Named one by one, so that a new field cannot be forgotten here.
        let Self {
            v,
            log_id,
            id,
            time,
            kind,
            actor,
            instance,
            source,
            action,
            resource,
            effect,
            reason,
            policies,
            errored,
            obligations,
            revision,
            session,
            task,
            user,
            correlation_id,
            trace_id,
            inputs_sha256,
            detail,
        } = self;
        let mut out = Vec::with_capacity(1024);
        let mut leaf = Object::begin(&mut out);
        leaf.uid("action", action.as_ref());
        leaf.uid("actor", actor.as_ref());
        leaf.optional("correlation_id", correlation_id.as_deref());
        if !detail.is_empty() {
            general(leaf.key("detail"), detail)?;
        }
        leaf.optional("effect", effect.map(Effect::as_str));
        leaf.list("errored", errored);
        leaf.quoted("id", id);
        leaf.optional("inputs_sha256", inputs_sha256.as_deref());
        if let Some(instance) = instance {
            leaf.quoted("instance", instance);
        }
        leaf.quoted("log_id", log_id);
        if !obligations.is_empty() {
            general(leaf.key("obligations"), obligations)?;
        }
        leaf.list("policies", policies);
        leaf.optional("reason", reason.as_deref());
        leaf.uid("resource", resource.as_ref());
        if let Some(revision) = revision {
            leaf.quoted("revision", revision);
        }
        leaf.optional("session", session.as_deref());
        if let Some(source) = source {
            leaf.quoted("source", source);
        }
        leaf.optional("task", task.as_deref());
        leaf.text("time", &time_text(*time));
        leaf.optional("trace_id", trace_id.as_deref());
        leaf.text("type", kind.as_str());
        leaf.optional("user", user.as_deref());
        plain(leaf.key("v"), v);
        leaf.end();
        Ok(out)
    }

    /// Reads a leaf back, and refuses one that is not in canonical form.
    ///
    /// # Errors
    /// When it is not the canonical form of an event of this version.
    pub fn from_leaf(leaf: &[u8]) -> Result<Self, LeafError> {
        let event: Self =
            serde_json::from_slice(leaf).map_err(|e| LeafError::Malformed(e.to_string()))?;
        if event.v != LEAF_VERSION {
            return Err(LeafError::Malformed(format!(
                "version {} is not known",
                event.v
            )));
        }
        if event.leaf()? != leaf {
            return Err(LeafError::Malformed(
                "it is not in canonical form".to_owned(),
            ));
        }
        Ok(event)
    }

    /// The columns that stand beside the leaf.
    pub fn columns(&self) -> Columns {
        self.clone().into_columns()
    }

    /// [`Event::columns`] of an event that is needed no more.
    pub fn into_columns(self) -> Columns {
        let (actor_type, actor_id) = split(self.actor);
        let (action_type, action_id) = split(self.action);
        let (resource_type, resource_id) = split(self.resource);
        Columns {
            event_id: self.id,
            time: self.time,
            kind: Cow::Borrowed(self.kind.as_str()),
            actor_type,
            actor_id,
            instance_id: self.instance,
            source: self.source.map(|ip| ip.to_string()),
            action_type,
            action_id,
            resource_type,
            resource_id,
            effect: self.effect.map(|e| Cow::Borrowed(e.as_str())),
            reason: self.reason,
            policies: self.policies,
            revision: self.revision,
            session_id: self.session,
            task_id: self.task,
            user_id: self.user,
            correlation_id: self.correlation_id,
            trace_id: self.trace_id,
        }
    }
}

/// What is seldom there, by the general way.
fn general(out: &mut Vec<u8>, value: &impl Serialize) -> Result<(), LeafError> {
    let bytes =
        serde_json_canonicalizer::to_vec(value).map_err(|e| LeafError::Malformed(e.to_string()))?;
    out.extend_from_slice(&bytes);
    Ok(())
}

impl Object<'_> {
    fn optional(&mut self, key: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    fn list(&mut self, key: &'static str, items: &[String]) {
        if !items.is_empty() {
            texts(self.key(key), items);
        }
    }

    fn uid(&mut self, key: &'static str, uid: Option<&EntityUid>) {
        if let Some(EntityUid { ty, id }) = uid {
            let mut object = Object::begin(self.key(key));
            object.text("id", id);
            object.text("type", ty);
            object.end();
        }
    }
}

fn split(uid: Option<EntityUid>) -> (Option<String>, Option<String>) {
    uid.map(|u| (u.ty, u.id)).unzip()
}

/// The time to the microsecond, the precision of the leaf and of both databases.
pub fn to_micros(time: OffsetDateTime) -> OffsetDateTime {
    time.replace_microsecond(time.microsecond()).unwrap_or(time)
}

/// RFC 3339 with six digits in UTC, so that text order is time order. Years of the log
/// have four digits.
pub fn time_text(t: OffsetDateTime) -> String {
    let t = t.to_offset(time::UtcOffset::UTC);
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    let mut put = |at: std::ops::Range<usize>, mut n: u32| {
        for digit in text[at].iter_mut().rev() {
            *digit = b'0' + (n % 10) as u8;
            n /= 10;
        }
    };
    put(0..4, t.year().unsigned_abs());
    put(5..7, u8::from(t.month()).into());
    put(8..10, t.day().into());
    put(11..13, t.hour().into());
    put(14..16, t.minute().into());
    put(17..19, t.second().into());
    put(20..26, t.microsecond());
    text.iter().map(|&byte| char::from(byte)).collect()
}

/// Why a leaf cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LeafError {
    /// Larger than [`LEAF_BYTES_MAX`].
    #[error("the event's leaf has {bytes} bytes, at most {LEAF_BYTES_MAX} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not a leaf.
    #[error("not a leaf of this log: {0}")]
    Malformed(String),
}

/// The projections of a leaf for people who query. Documented in `migrations/README.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Columns {
    pub event_id: Uuid,
    pub time: OffsetDateTime,
    pub kind: Cow<'static, str>,
    pub actor_type: Option<String>,
    pub actor_id: Option<String>,
    pub instance_id: Option<Uuid>,
    pub source: Option<String>,
    pub action_type: Option<String>,
    pub action_id: Option<String>,
    pub resource_type: Option<String>,
    pub resource_id: Option<String>,
    pub effect: Option<Cow<'static, str>>,
    pub reason: Option<String>,
    pub policies: Vec<String>,
    pub revision: Option<u64>,
    pub session_id: Option<String>,
    pub task_id: Option<String>,
    pub user_id: Option<String>,
    pub correlation_id: Option<String>,
    pub trace_id: Option<String>,
}

/// What a decision was made from: kept beside the log under a commitment in the leaf,
/// so that it can be destroyed later while every proof still verifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// 16 random bytes, so that the commitment says nothing about short inputs.
    pub salt: [u8; 16],
    /// Canonical JSON, redacted.
    pub json: Vec<u8>,
}

impl Inputs {
    /// The commitment: SHA-256 over salt, then inputs.
    pub fn commitment(&self) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&self.salt);
        context.update(&self.json);
        let mut out = [0; 32];
        out.copy_from_slice(context.finish().as_ref());
        out
    }
}

mod rfc3339_micros {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use time::{OffsetDateTime, PrimitiveDateTime};

    const FORMAT: &[time::format_description::BorrowedFormatItem<'_>] = super::format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z"
    );

    pub(super) fn serialize<S: Serializer>(t: &OffsetDateTime, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&super::time_text(*t))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<OffsetDateTime, D::Error> {
        let text = String::deserialize(d)?;
        PrimitiveDateTime::parse(&text, FORMAT)
            .map(PrimitiveDateTime::assume_utc)
            .map_err(D::Error::custom)
    }
}

mod opt_u64_string {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(n: &Option<u64>, s: S) -> Result<S::Ok, S::Error> {
        match n {
            Some(n) => s.collect_str(n),
            None => s.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
        let text = Option::<String>::deserialize(d)?;
        text.map(|t| t.parse().map_err(D::Error::custom))
            .transpose()
    }
}

#[cfg(test)]
mod tests;
