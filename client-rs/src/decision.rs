//! What was decided, as an enforcement point reads it.

use zta_proto::v1;

/// What a caller reads when no decision could be had, whatever the cause.
pub(crate) const UNAVAILABLE: &str = "authorisation service unavailable";
/// What a caller reads when the server did not accept the agent's identity.
pub(crate) const IDENTITY_REFUSED: &str = "the agent's identity was not accepted";

const TEXT_CHARS_MAX: usize = 600;

/// Allow or deny, nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The call may happen.
    Allow,
    /// The call must not happen.
    Deny,
}

/// The server's decision on one request. It is on record.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Decision {
    /// What was decided. Whatever is not plainly an allow is a deny.
    pub effect: Effect,
    /// Why it was denied, where the server said so.
    pub reason: Option<v1::DenyReason>,
    /// One sentence for a person or a model, on one line.
    pub message: String,
    /// Unique for each decision (UUID).
    pub decision_id: String,
    /// The place of the decision's event in the log, counted from 0.
    pub sequence: u64,
    /// The policies that determined the effect.
    pub policy_ids: Vec<String>,
    /// The policies that could not be evaluated.
    pub errored_policy_ids: Vec<String>,
    /// What must be done when the call happens.
    pub obligations: Vec<v1::Obligation>,
    /// The policy revision that made the decision.
    pub revision: u64,
    /// As in the request.
    pub correlation_id: String,
    /// The state of the log that the decision was made under.
    pub consistency_token: String,
}

impl Decision {
    /// Whether the call may happen, once the obligations are seen to.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.effect == Effect::Allow
    }
}

impl From<v1::AuthorizeResponse> for Decision {
    fn from(response: v1::AuthorizeResponse) -> Self {
        let reason = response.reason();
        let unspecified = reason == v1::DenyReason::Unspecified && response.reason == 0;
        // An allow that gives a reason to deny contradicts itself.
        let effect = match response.effect() {
            v1::Effect::Allow if unspecified => Effect::Allow,
            _ => Effect::Deny,
        };
        Self {
            effect,
            reason: (reason != v1::DenyReason::Unspecified).then_some(reason),
            message: one_line(&response.message),
            decision_id: response.decision_id,
            sequence: response.sequence,
            policy_ids: response.policy_ids,
            errored_policy_ids: response.errored_policy_ids,
            obligations: response.obligations,
            revision: response.revision,
            correlation_id: response.correlation_id,
            consistency_token: response.consistency_token.unwrap_or_default().value,
        }
    }
}

/// A call that must not happen: the server denied it, or there is no decision.
/// Its text is for the caller or the model; it holds nothing of the arguments.
#[derive(Clone, Debug, thiserror::Error)]
#[error("denied: {message}")]
#[non_exhaustive]
pub struct Denied {
    /// One sentence: what was decided and by which policy, or why there is no decision.
    pub message: String,
    /// Why: the name of a [`v1::DenyReason`] without its prefix, such as `FORBIDDEN`; or
    /// why there is no decision, such as `UNAVAILABLE`.
    pub reason: String,
    /// The decision, if the server made one.
    pub decision: Option<Box<Decision>>,
}

impl Denied {
    pub(crate) fn undecided(message: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            reason: reason.into(),
            decision: None,
        }
    }

    pub(crate) fn decided(decision: Decision) -> Self {
        let reason = decision.reason.map_or("UNSPECIFIED", reason_name);
        let message = match (decision.message.as_str(), decision.policy_ids.as_slice()) {
            ("", []) => reason.to_owned(),
            ("", policies) => format!("{reason} by {}", policies.join(", ")),
            (message, _) => message.to_owned(),
        };
        Self {
            message,
            reason: reason.to_owned(),
            decision: Some(Box::new(decision)),
        }
    }
}

fn reason_name(reason: v1::DenyReason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix("DENY_REASON_").unwrap_or(name)
}

/// Text on one line and of bounded length: it goes to a model and to logs.
fn one_line(text: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    let words: String = text.chars().take(TEXT_CHARS_MAX).map(printable).collect();
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_allow_is_an_allow() {
        for (effect, reason, allowed) in [
            (1, 0, true),
            (0, 0, false),
            (2, 2, false),
            (3, 0, false),
            (-1, 0, false),
            (1, 1, false),
            (1, 99, false),
        ] {
            let decision = Decision::from(v1::AuthorizeResponse {
                effect,
                reason,
                ..Default::default()
            });
            assert_eq!(decision.is_allowed(), allowed, "{effect} {reason}");
        }
    }

    #[test]
    fn a_deny_says_why_on_one_line() {
        let mut response = v1::AuthorizeResponse {
            effect: 2,
            reason: v1::DenyReason::Forbidden.into(),
            message: "forbidden\nby\t`no-secrets`\u{1b}[0m".into(),
            policy_ids: vec!["no-secrets".into()],
            ..Default::default()
        };
        let denied = Denied::decided(response.clone().into());
        assert_eq!(denied.reason, "FORBIDDEN");
        assert_eq!(denied.to_string(), "denied: forbidden by `no-secrets` [0m");
        response.message = String::new();
        let denied = Denied::decided(response.into());
        assert_eq!(denied.message, "FORBIDDEN by no-secrets");
    }
}
