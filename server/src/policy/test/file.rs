//! The text of a test file (`*.test.yaml`), as serde reads it. Unknown keys, doubled keys,
//! merge keys and values of another type are errors; aliases cannot blow it up.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};
use serde_saphyr::{Spanned, alias_limits, budget, options};

use crate::model::SourceFile;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::limits::TEST_FIXTURES_MAX;

/// A test file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TestFile {
    /// Agents, users and workloads by a name of the file. They are the whole registry.
    #[serde(default)]
    pub(super) principals: BTreeMap<String, Spanned<PrincipalText>>,
    /// Entities by a name of the file; stored unless a case brings them itself.
    #[serde(default)]
    pub(super) entities: BTreeMap<String, Spanned<EntityText>>,
    /// What all cases have in common.
    pub(super) defaults: Option<Spanned<CaseText>>,
    pub(super) cases: Vec<Spanned<CaseText>>,
}

/// Somebody; exactly one of the first three is given.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PrincipalText {
    pub(super) agent: Option<String>,
    pub(super) user: Option<String>,
    pub(super) workload: Option<String>,
    /// The last part of the id, where it is left out.
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) roles: Vec<String>,
    #[serde(default)]
    pub(super) owner: String,
    #[serde(default)]
    pub(super) zone: String,
    #[serde(default)]
    pub(super) attributes: BTreeMap<String, String>,
}

/// An entity.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EntityText {
    /// As in Cedar: `Bank::Account::"a"`.
    pub(super) uid: String,
    #[serde(default)]
    pub(super) parents: Vec<String>,
    #[serde(default)]
    pub(super) attributes: Map<String, Value>,
    #[serde(default)]
    pub(super) tags: Map<String, Value>,
}

/// A case, a row of one, or the defaults. What a row leaves out is the case's, then the
/// defaults'.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CaseText {
    pub(super) name: Option<String>,
    /// A name of `principals`.
    pub(super) principal: Option<String>,
    /// `ZTA::Action::"call_tool"` on this tool; in place of `action` and `resource`.
    pub(super) tool: Option<String>,
    pub(super) action: Option<String>,
    pub(super) resource: Option<String>,
    /// An object, or JSON text to be sent as it stands.
    pub(super) arguments: Option<Value>,
    /// What the PEP says: `context.request`. Likewise.
    pub(super) context: Option<Value>,
    pub(super) user: Option<String>,
    pub(super) session: Option<String>,
    pub(super) task: Option<String>,
    pub(super) supported_obligations: Option<Vec<String>>,
    /// Names of `entities` that are stored; without it all that the case does not bring.
    pub(super) stored: Option<Vec<String>>,
    /// Names of `entities` that the request brings.
    pub(super) brings: Option<Vec<String>>,
    pub(super) facts: Option<FactsText>,
    pub(super) expect: Option<ExpectText>,
    pub(super) rows: Option<Vec<Spanned<CaseText>>>,
}

/// What the server knows of a call. Fields that are left out are the case's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FactsText {
    /// RFC 3339.
    pub(super) now: Option<String>,
    pub(super) source: Option<String>,
    pub(super) authentication: Option<AuthenticationText>,
    pub(super) delegation: Option<DelegationText>,
}

/// How the caller proved itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuthenticationText {
    pub(super) method: MethodText,
    #[serde(default)]
    pub(super) age_seconds: u32,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum MethodText {
    Mtls,
    Token,
}

/// On whose behalf the caller acts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DelegationText {
    /// A name of `principals`.
    pub(super) subject: String,
    /// Those who acted before the caller, the nearest first.
    #[serde(default)]
    pub(super) actors: Vec<String>,
    #[serde(default)]
    pub(super) scope: Vec<String>,
}

/// What must come. Either a decision or an error; what is left out may be anything.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpectText {
    pub(super) decision: Option<DecisionText>,
    /// The reason of a deny, as in `zta.v1.DenyReason`.
    pub(super) reason: Option<String>,
    /// Exactly these, in any order.
    pub(super) policies: Option<Vec<String>>,
    /// Likewise.
    pub(super) errored: Option<Vec<String>>,
    /// Likewise; names.
    pub(super) obligations: Option<Vec<String>>,
    /// A part of the message.
    pub(super) message: Option<String>,
    /// The reason of an RPC error, as in `zta.v1.ErrorReason`.
    pub(super) error: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum DecisionText {
    Allow,
    Deny,
}

/// Reads a test file.
///
/// # Errors
/// What is wrong with its text, and where.
pub(super) fn read(file: &SourceFile) -> Result<TestFile, Vec<Diagnostic>> {
    let options = options! {
        budget: budget! {
            max_depth: 64,
            max_documents: 1,
            max_aliases: 1_000,
            max_anchors: 1_000,
        },
        alias_limits: alias_limits! {
            max_total_replayed_events: 100_000,
            max_replay_stack_depth: 8,
        },
        merge_keys: serde_saphyr::MergeKeyPolicy::Error,
        // `no` and `007` are texts; only `true` and `false` are booleans.
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        with_snippet: false,
    };
    let read: TestFile =
        serde_saphyr::from_str_with_options(file.text(), options).map_err(|error| {
            let at = error.location();
            vec![Diagnostic {
                file: file.name.clone(),
                line: at.map_or(0, |at| small(at.line())),
                column: at.map_or(0, |at| small(at.column())),
                message: format!("the test file cannot be read: {error}"),
                help: "docs/policy/testing.md lists the keys of a test file".to_owned(),
                ..Diagnostic::default()
            }]
        })?;
    let fixtures = read.principals.len() + read.entities.len();
    if fixtures > TEST_FIXTURES_MAX {
        return Err(vec![Diagnostic {
            file: file.name.clone(),
            message: format!(
                "the test file has {fixtures} principals and entities, at most {TEST_FIXTURES_MAX} are allowed"
            ),
            help: "split it into several files".to_owned(),
            ..Diagnostic::default()
        }]);
    }
    Ok(read)
}

/// A line or a column.
pub(super) fn small(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
