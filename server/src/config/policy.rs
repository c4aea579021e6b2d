//! Settings of the life of policies.

use serde::{Deserialize, Serialize};

/// What the server demands of policies beyond that they pass the gates.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyConfig {
    /// The keys whose signatures of policies are taken, as `zta policy keygen` prints them.
    pub signing_keys: Vec<String>,
    /// Whether policies without a signature by one of them are refused.
    pub require_signed: bool,
}

impl PolicyConfig {
    /// What is wrong with it; whether the keys are keys is found out at the start.
    pub(super) fn defect(&self) -> Option<&'static str> {
        let nobody = self.require_signed && self.signing_keys.is_empty();
        nobody.then_some("is set, but nobody could sign: name keys in `policy.signing_keys`")
    }
}
