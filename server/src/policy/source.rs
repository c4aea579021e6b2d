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
    /// `*.test.yaml` and `*.test.json` files, sorted by name.
    pub tests: Vec<SourceFile>,
}

impl PolicySource {
    /// The `*.cedar`, `*.cedarschema`, `*.test.yaml` and `*.test.json` files of folders,
    /// sorted by name. Of several folders each file's name begins with its folder's.
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
        for files in [&mut self.policies, &mut self.schemas, &mut self.tests] {
            files.sort_by(|a, b| a.name.cmp(&b.name));
        }
    }

    /// From files in any order.
    pub fn new(policies: Vec<SourceFile>, schemas: Vec<SourceFile>) -> Self {
        let mut source = Self {
            policies,
            schemas,
            tests: Vec::new(),
        };
        source.sort();
        source
    }

    /// The same with these test files, given in any order.
    #[must_use]
    pub fn with_tests(mut self, tests: Vec<SourceFile>) -> Self {
        self.tests = tests;
        self.sort();
        self
    }

    /// All files, policies first.
    pub fn files(&self) -> impl Iterator<Item = (FileKind, &SourceFile)> {
        let policies = self.policies.iter().map(|f| (FileKind::Policy, f));
        let schemas = self.schemas.iter().map(|f| (FileKind::Schema, f));
        let tests = self.tests.iter().map(|f| (FileKind::Test, f));
        policies.chain(schemas).chain(tests)
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
            FileKind::Test => next.tests.push(file),
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
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
            let files = match name.as_deref().and_then(kind_of) {
                Some(FileKind::Policy) => &mut self.policies,
                Some(FileKind::Schema) => &mut self.schemas,
                Some(FileKind::Test) => &mut self.tests,
                None => continue,
            };
            let text = std::fs::read_to_string(&path).map_err(|e| unreadable(&path, e))?;
            let name = format!("{prefix}{}", name.unwrap_or_default());
            files.push(SourceFile::new(name, text));
        }
        Ok(())
    }
}

/// What a file of a policy folder is, by its name; `None`: no part of the policy set.
fn kind_of(name: &str) -> Option<FileKind> {
    let ends = |end: &str| name.ends_with(end);
    if ends(".cedar") {
        Some(FileKind::Policy)
    } else if ends(".cedarschema") {
        Some(FileKind::Schema)
    } else if ends(".test.yaml") || ends(".test.json") {
        Some(FileKind::Test)
    } else {
        None
    }
}

/// The policies of a first start: the files of `policies/` in the repository.
pub fn builtin_source() -> PolicySource {
    let policies = vec![
        SourceFile::new("admin.cedar", include_str!("../../../policies/admin.cedar")),
        SourceFile::new("base.cedar", include_str!("../../../policies/base.cedar")),
    ];
    // Not those of the administrators' roles: who is given which is for each installation.
    let tests = vec![SourceFile::new(
        "base.test.yaml",
        include_str!("../../../policies/base.test.yaml"),
    )];
    PolicySource::new(policies, Vec::new()).with_tests(tests)
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
