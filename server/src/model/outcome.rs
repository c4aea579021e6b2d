//! What became of a permitted call, as its PEP reports it: bounded words and numbers, never
//! a result or the text of an error.

use std::collections::BTreeSet;

use aws_lc_rs::digest;
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// Bytes of the kind of an error.
pub const ERROR_CLASS_BYTES_MAX: usize = 128;
/// Labels of one outcome.
pub const LABELS_MAX: usize = 16;
/// Bytes of a label.
pub const LABEL_BYTES_MAX: usize = 64;
/// What a count may be at most: what both databases and most languages can hold.
pub const COUNT_MAX: u64 = i64::MAX as u64;

/// What the ids of outcomes are made of, so that nothing else comes to the same.
const ID_DOMAIN: &[u8] = b"zta outcome v1\0";

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallResult {
    /// With a result.
    Ok,
    /// With an error.
    Error,
}

impl CallResult {
    /// Its name on record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
        }
    }
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    decision_id: Uuid,
    result: CallResult,
    error_class: Option<String>,
    size_bytes: Option<u64>,
    duration_us: Option<u64>,
    labels: BTreeSet<String>,
}

/// A field of a report that is no good, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct OutcomeError {
    /// The field's name.
    pub field: &'static str,
    /// What it has to be.
    pub why: &'static str,
}

impl Outcome {
    /// A call that ended so.
    pub fn new(decision_id: Uuid, result: CallResult) -> Self {
        Self {
            decision_id,
            result,
            error_class: None,
            size_bytes: None,
            duration_us: None,
            labels: BTreeSet::new(),
        }
    }

    /// With the kind of its error; empty is absent.
    ///
    /// # Errors
    /// When it is no short word, or the call did not end with an error.
    pub fn with_error_class(mut self, class: &str) -> Result<Self, OutcomeError> {
        let refuse = |why| {
            Err(OutcomeError {
                field: "error_class",
                why,
            })
        };
        if class.is_empty() {
            return Ok(self);
        }
        if self.result != CallResult::Error {
            return refuse("must be empty where the result is not an error");
        }
        if !is_word(class, ERROR_CLASS_BYTES_MAX, "_.:-") {
            return refuse("must be at most 128 of A-Z a-z 0-9 _ . : -");
        }
        self.error_class = Some(class.to_owned());
        Ok(self)
    }

    /// With the size of its result in bytes and its duration in microseconds.
    ///
    /// # Errors
    /// When one is over [`COUNT_MAX`].
    pub fn with_counts(
        mut self,
        size_bytes: Option<u64>,
        duration_us: Option<u64>,
    ) -> Result<Self, OutcomeError> {
        for (field, count) in [("size_bytes", size_bytes), ("duration_us", duration_us)] {
            if count.is_some_and(|count| count > COUNT_MAX) {
                let why = "must be at most 2^63-1";
                return Err(OutcomeError { field, why });
            }
        }
        (self.size_bytes, self.duration_us) = (size_bytes, duration_us);
        Ok(self)
    }

    /// With what the PEP says of its result.
    ///
    /// # Errors
    /// When there are too many, or one is no short word.
    pub fn with_labels(
        mut self,
        labels: impl ExactSizeIterator<Item = String>,
    ) -> Result<Self, OutcomeError> {
        let refuse = |why| {
            Err(OutcomeError {
                field: "labels",
                why,
            })
        };
        if labels.len() > LABELS_MAX {
            return refuse("must be at most 16");
        }
        self.labels = labels.collect();
        let fits = |label: &String| is_word(label, LABEL_BYTES_MAX, "_.:/-");
        if !self.labels.iter().all(fits) {
            return refuse("must each be 1 to 64 of A-Z a-z 0-9 _ . : / -");
        }
        Ok(self)
    }

    /// The decision that permitted the call.
    pub fn decision_id(&self) -> Uuid {
        self.decision_id
    }

    /// The id of its event: made from the decision's, so that a second event for the same
    /// decision would be one of the same id, which no log holds. UUID version 8 (RFC 9562)
    /// of a SHA-256.
    pub fn event_id(&self, log_id: Uuid) -> Uuid {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(ID_DOMAIN);
        context.update(log_id.as_bytes());
        context.update(self.decision_id.as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&context.finish().as_ref()[..16]);
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    }

    /// The detail of its event. Two reports are the same where their details are.
    pub fn detail(&self) -> Map<String, Value> {
        let mut detail = Map::new();
        let mut put = |key: &str, value: Value| detail.insert(key.to_owned(), value);
        put("decision_id", json!(self.decision_id));
        put("result", json!(self.result.as_str()));
        if let Some(class) = &self.error_class {
            put("error_class", json!(class));
        }
        // 64-bit integers are texts in a leaf.
        if let Some(bytes) = self.size_bytes {
            put("size_bytes", json!(bytes.to_string()));
        }
        if let Some(us) = self.duration_us {
            put("duration_us", json!(us.to_string()));
        }
        if !self.labels.is_empty() {
            put("labels", json!(self.labels));
        }
        detail
    }
}

/// Whether a text is a word: no spaces, no quotes, nothing that could carry a payload far.
fn is_word(text: &str, bytes_max: usize, also: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || also.contains(c);
    (1..=bytes_max).contains(&text.len()) && text.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed() -> Outcome {
        Outcome::new(Uuid::from_u128(7), CallResult::Error)
    }

    #[test]
    fn an_error_class_is_a_word_and_no_text() {
        for good in ["TimeoutError", "http.503", "a::b-c_d"] {
            assert!(failed().with_error_class(good).is_ok(), "{good}");
        }
        let long = "x".repeat(ERROR_CLASS_BYTES_MAX + 1);
        for bad in ["card 4111 refused", "a\nb", "{\"a\":1}", "é", long.as_str()] {
            let refused = failed().with_error_class(bad).unwrap_err();
            assert_eq!(refused.field, "error_class", "{bad}");
        }
        let ok = Outcome::new(Uuid::from_u128(7), CallResult::Ok);
        assert!(ok.with_error_class("TimeoutError").is_err());
    }

    #[test]
    fn counts_and_labels_are_bounded() {
        assert!(failed().with_counts(Some(COUNT_MAX), Some(0)).is_ok());
        let refused = failed().with_counts(None, Some(COUNT_MAX + 1)).unwrap_err();
        assert_eq!(refused.field, "duration_us");
        let labels = |labels: &[&str]| {
            let owned: Vec<String> = labels.iter().map(|l| (*l).to_owned()).collect();
            failed().with_labels(owned.into_iter())
        };
        assert!(labels(&["pii", "source:crm/eu"]).is_ok());
        assert!(labels(&[""]).is_err());
        assert!(labels(&["two words"]).is_err());
        assert!(labels(&["x"; LABELS_MAX + 1]).is_err());
    }

    #[test]
    fn the_same_report_is_the_same_detail_whatever_the_order_of_its_labels() {
        let labelled = |labels: [&str; 2]| {
            let labels = labels.map(str::to_owned).into_iter();
            failed().with_labels(labels).unwrap().detail()
        };
        assert_eq!(labelled(["a", "b"]), labelled(["b", "a"]));
        assert_ne!(labelled(["a", "b"]), labelled(["a", "c"]));
    }

    #[test]
    fn an_event_id_is_of_the_decision_and_the_log() {
        let (log, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let ok = Outcome::new(Uuid::from_u128(7), CallResult::Ok);
        assert_eq!(ok.event_id(log), failed().event_id(log));
        assert_ne!(ok.event_id(log), ok.event_id(other));
        let next = Outcome::new(Uuid::from_u128(8), CallResult::Ok);
        assert_ne!(ok.event_id(log), next.event_id(log));
        // Computed by another implementation: it must never come to be another one.
        assert_eq!(
            ok.event_id(log).to_string(),
            "4cf63529-6780-8ace-b7c4-33a9a9b93610"
        );
    }
}
