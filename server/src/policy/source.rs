//! Policy sets as text files.

use std::path::{Path, PathBuf};

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

impl PolicySource {
    /// The `*.cedar` and `*.cedarschema` files of folders, sorted by name. Of several
    /// folders each file's name begins with its folder's.
    ///
    /// # Errors
    /// A folder or file that cannot be read, or no policy at all.
    pub fn read(folders: &[PathBuf]) -> Result<Self, String> {
        let mut source = Self::default();
        for folder in folders {
            let base = folder.file_name().map(|n| n.to_string_lossy().into_owned());
            let prefix = match base {
                Some(base) if folders.len() > 1 => format!("{base}/"),
                _ => String::new(),
            };
            source.read_folder(folder, &prefix)?;
        }
        if source.policies.is_empty() {
            return Err("no `*.cedar` file there: a policy set has at least one".to_owned());
        }
        source.policies.sort_by(|a, b| a.name.cmp(&b.name));
        source.schemas.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(source)
    }

    fn read_folder(&mut self, folder: &Path, prefix: &str) -> Result<(), String> {
        let unreadable = |path: &Path, e| format!("cannot read `{}`: {e}", path.display());
        for entry in std::fs::read_dir(folder).map_err(|e| unreadable(folder, e))? {
            let path = entry.map_err(|e| unreadable(folder, e))?.path();
            let files = match path.extension().and_then(|e| e.to_str()) {
                Some("cedar") => &mut self.policies,
                Some("cedarschema") => &mut self.schemas,
                _ => continue,
            };
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
            let text = std::fs::read_to_string(&path).map_err(|e| unreadable(&path, e))?;
            files.push(SourceFile {
                name: format!("{prefix}{}", name.unwrap_or_default()),
                text,
            });
        }
        Ok(())
    }
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
