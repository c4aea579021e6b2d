//! Policy sets as text files.

use aws_lc_rs::digest;

use crate::model::SourceFile;

/// The built-in namespace `ZTA`.
pub(super) const BUILTIN_SCHEMA: &str = include_str!("zta.cedarschema");

/// A policy set as files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySource {
    /// `*.cedar` files, sorted by name.
    pub policies: Vec<SourceFile>,
    /// `*.cedarschema` files, sorted by name.
    pub schemas: Vec<SourceFile>,
}

/// The policies of a first start: the files of `policies/` in the repository.
pub fn builtin_source() -> PolicySource {
    let file = |name: &str, text: &str| SourceFile {
        name: name.to_owned(),
        text: text.to_owned(),
    };
    PolicySource {
        policies: vec![
            file("admin.cedar", include_str!("../../../policies/admin.cedar")),
            file("base.cedar", include_str!("../../../policies/base.cedar")),
        ],
        schemas: Vec::new(),
    }
}

/// SHA-256 over the content: each file's kind, name and text, length-prefixed, so that
/// no two sources share a digest by the way their parts join.
pub fn content_sha256(source: &PolicySource) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut part = |bytes: &[u8]| {
        context.update(&(bytes.len() as u64).to_be_bytes());
        context.update(bytes);
    };
    for (kind, files) in [("policy", &source.policies), ("schema", &source.schemas)] {
        for file in files {
            part(kind.as_bytes());
            part(file.name.as_bytes());
            part(file.text.as_bytes());
        }
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}
