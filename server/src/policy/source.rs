//! Policy sets as text files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;

use crate::model::SourceFile;
use crate::model::revision::{FileChange, FileDigest, FileKind};

/// The built-in namespace `ZTA`.
pub(super) const BUILTIN_SCHEMA: &str = include_str!("zta.cedarschema");

/// A policy set as files. Cheap to clone: texts are shared.
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
        source.sort();
        Ok(source)
    }

    fn sort(&mut self) {
        for files in [&mut self.policies, &mut self.schemas] {
            files.sort_by(|a, b| a.name.cmp(&b.name));
        }
    }

    /// From files in any order.
    pub fn new(policies: Vec<SourceFile>, schemas: Vec<SourceFile>) -> Self {
        let mut source = Self { policies, schemas };
        source.sort();
        source
    }

    /// All files, policies first.
    pub fn files(&self) -> impl Iterator<Item = (FileKind, &SourceFile)> {
        let policies = self.policies.iter().map(|f| (FileKind::Policy, f));
        policies.chain(self.schemas.iter().map(|f| (FileKind::Schema, f)))
    }

    /// The names and digests of all files, policies first.
    pub fn digests(&self) -> Vec<FileDigest> {
        self.files()
            .map(|(kind, file)| FileDigest {
                kind,
                name: file.name.clone(),
                sha256: *file.sha256(),
            })
            .collect()
    }

    /// What makes this set of another one. Compares digests, not texts.
    pub fn changes_from(&self, before: &Self) -> Vec<FileChange<SourceFile>> {
        let mut gone: BTreeMap<_, _> = before
            .files()
            .map(|(kind, file)| ((kind, file.name.as_str()), file.sha256()))
            .collect();
        let mut changes = Vec::new();
        for (kind, file) in self.files() {
            if gone.remove(&(kind, file.name.as_str())) != Some(file.sha256()) {
                changes.push(FileChange {
                    kind,
                    name: file.name.clone(),
                    content: Some(file.clone()),
                });
            }
        }
        changes.extend(gone.into_keys().map(|(kind, name)| FileChange {
            kind,
            name: name.to_owned(),
            content: None,
        }));
        changes
    }

    /// This set with changes made to it.
    #[must_use]
    pub fn with_changes(&self, changes: Vec<FileChange<SourceFile>>) -> Self {
        let mut changed: BTreeMap<_, _> = changes
            .into_iter()
            .map(|change| ((change.kind, change.name), change.content))
            .collect();
        let mut next = Self::default();
        let mut put = |kind, file| match kind {
            FileKind::Policy => next.policies.push(file),
            FileKind::Schema => next.schemas.push(file),
        };
        for (kind, file) in self.files() {
            match changed.remove(&(kind, file.name.clone())) {
                None => put(kind, file.clone()),
                Some(Some(replacement)) => put(kind, replacement),
                Some(None) => {}
            }
        }
        for ((kind, _), content) in changed {
            content.into_iter().for_each(|file| put(kind, file));
        }
        next.sort();
        next
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
            let name = format!("{prefix}{}", name.unwrap_or_default());
            files.push(SourceFile::new(name, text));
        }
        Ok(())
    }
}

/// The policies of a first start: the files of `policies/` in the repository.
pub fn builtin_source() -> PolicySource {
    PolicySource {
        policies: vec![
            SourceFile::new("admin.cedar", include_str!("../../../policies/admin.cedar")),
            SourceFile::new("base.cedar", include_str!("../../../policies/base.cedar")),
        ],
        schemas: Vec::new(),
    }
}

/// SHA-256 over the content: each file's kind, name and text's SHA-256 in the order of the
/// names, each length-prefixed, so that no two sources share a digest by the way their
/// parts join.
pub fn content_sha256(source: &PolicySource) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut part = |bytes: &[u8]| {
        context.update(&(bytes.len() as u64).to_be_bytes());
        context.update(bytes);
    };
    let mut files: Vec<_> = source.files().collect();
    files.sort_by(|(a, x), (b, y)| (a, &x.name).cmp(&(b, &y.name)));
    for (kind, file) in files {
        part(kind.as_str().as_bytes());
        part(file.name.as_bytes());
        part(file.sha256());
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}
