//! Policy revisions as plain data.

use time::OffsetDateTime;

use super::request::EntityUid;

/// A named text of a policy set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// The path relative to the policy folder.
    pub name: String,
    /// The content.
    pub text: String,
}

impl SourceFile {
    /// A file.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            text: text.into(),
        }
    }
    /// The content.
    pub fn text(&self) -> &str {
        &self.text
    }
    /// SHA-256 of the text.
    pub fn sha256(&self) -> Box<[u8; 32]> {
        Box::new(super::arguments::sha256(self.text.as_bytes()))
    }
}

/// What is known of a revision without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionMeta {
    /// 1, 2, 3 … without gaps.
    pub number: u64,
    /// Who applied it.
    pub author: EntityUid,
    /// Why.
    pub message: String,
    /// When.
    pub apply_time: OffsetDateTime,
    /// SHA-256 over the content.
    pub content_sha256: [u8; 32],
    /// How many policies it holds.
    pub policies: u32,
}

/// An immutable, numbered policy set with its schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// What is known of it.
    pub meta: RevisionMeta,
    /// The `*.cedarschema` files.
    pub schema_files: Vec<SourceFile>,
    /// The policy files cut after each policy. Stored content-addressed, so that a
    /// change of one policy among 100,000 stores one text.
    pub chunks: Vec<PolicyChunk>,
}

/// A piece of a policy file: up to the end of one policy, or the rest of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyChunk {
    /// The file.
    pub file: String,
    /// The `@id` of the policy that ends the chunk; `None` for the rest of a file.
    pub policy_id: Option<String>,
    /// The exact text, with the comments before the policy.
    pub text: String,
}

impl Revision {
    /// The policy files, byte for byte as they were applied.
    pub fn policy_files(&self) -> Vec<SourceFile> {
        let mut files: Vec<SourceFile> = Vec::new();
        for chunk in &self.chunks {
            match files.last_mut() {
                Some(file) if file.name == chunk.file => file.text.push_str(&chunk.text),
                _ => files.push(SourceFile {
                    name: chunk.file.clone(),
                    text: chunk.text.clone(),
                }),
            }
        }
        files
    }
}
