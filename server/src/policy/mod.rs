//! What the rules say: policy sets as compiled revisions, and their evaluation. The
//! only home of `cedar_policy`.

mod actions;
mod authorize;
mod bundle;
mod cedar;
mod chain;
mod compile;
mod context;
mod convert;
mod declarations;
mod diagnostic;
mod difference;
mod entities;
mod entry;
mod evaluate;
mod explain;
mod gates;
mod lint;
mod nesting;
mod parallel;
mod party;
mod patch;
mod permitted;
mod scope_index;
mod shape;
mod sharded;
mod shared;
mod sharing;
mod source;
mod statements;
mod strict;
mod test;
#[cfg(test)]
mod tests;
mod verdict;
mod vocabulary;

pub use bundle::{Bundle, SignatureError, Signing, signed_by};
pub use cedar::{CedarItem, CedarResult, CedarSetup, evaluate_cedar};
pub use chain::Denier;
pub use compile::{Compiled, compile, compile_passed, gates_id};
pub use diagnostic::Diagnostic;
pub use difference::{
    Difference, DifferenceError, DifferenceKind, FileDifference, PolicyDifference,
    SchemaDifference, difference,
};
pub use entities::{EntityError, EntityMap, EntityTypes, SliceError};
pub use evaluate::{Facts, Parties, Pip, PolicyError};
pub use explain::{ExplainedEntity, ExplainedPolicy, Explanation, Outcome};
pub use gates::pass_gates;
pub use lint::LINTS;
pub(crate) use parallel::parallel;
pub use patch::{PatchError, PolicyPatch};
pub use permitted::Permission;
pub use shared::SharedSet;
pub use source::{PolicySource, builtin_source, content_sha256};
pub use test::{ConditionCoverage, Coverage, Mismatch, PolicyCoverage, TestReport, TestResult};

/// The limits of a policy set.
pub mod limits {
    /// Bytes of all files of a policy set together.
    pub const SOURCE_BYTES_MAX: usize = 64 * 1024 * 1024;
    /// Files of a policy set.
    pub const FILES_MAX: usize = 10_000;
    /// Policies of two sets that are compared one by one: those whose texts differ.
    pub const COMPARED_MAX: usize = 50_000;
    /// Policies of a policy set.
    pub const POLICIES_MAX: usize = 1_000_000;
    /// Entity types and actions of a policy set's schema, the built-in ones included.
    pub const DECLARATIONS_MAX: usize = 5_000;
    /// Pairs of an entity type or an action and one that it is in, directly or not.
    pub const TYPE_ANCESTORS_MAX: usize = 100_000;
    /// Combinations of a principal type, an action and a resource type that it applies to:
    /// a policy is validated once for each that its scope admits.
    pub const ENVIRONMENTS_MAX: usize = 50_000;
    /// Parts of all types of a schema, with common types written out where they are used.
    pub const TYPE_PARTS_MAX: usize = 1_000_000;
    /// Levels of a type's JSON form, with common types written out: three for each record.
    pub const TYPE_LEVELS_MAX: usize = 500;
    /// Brackets and `if`s within each other, in a policy or a schema.
    pub const NESTING_MAX: usize = 100;
    /// Bytes of one policy, or of one declaration of a schema.
    pub const STATEMENT_BYTES_MAX: usize = 32 * 1024;
    /// Entities that can be stored.
    pub const ENTITIES_MAX: usize = 5_000_000;
    /// Bytes of an entity's attributes and tags, as canonical JSON.
    pub const ENTITY_BYTES_MAX: usize = 32 * 1024;
    /// Parents that an entity names itself.
    pub const ENTITY_PARENTS_MAX: usize = 256;
    /// Entities that an entity is in, over all levels.
    pub const ANCESTORS_MAX: usize = 1000;
    /// Stored entities that one request may reach.
    pub const SLICE_ENTITIES_MAX: usize = 1000;
    /// Bytes of one test file.
    pub const TEST_FILE_BYTES_MAX: usize = 4 * 1024 * 1024;
    /// Test cases and rows of a policy set.
    pub const TEST_CASES_MAX: usize = 10_000;
    /// Principals and entities of one test file, or entities of one test in Cedar's format.
    pub const TEST_FIXTURES_MAX: usize = 1_000;
    /// Seconds that the tests of a policy set may take.
    pub const TEST_SECONDS_MAX: u64 = 60;
    /// Ancestors of all entities of one request together.
    pub const SLICE_ANCESTORS_MAX: usize = 10_000;
}
