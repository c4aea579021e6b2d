//! A candidate as a change of the set in force.

use std::collections::HashSet;

use super::source::PolicySource;
use crate::model::SourceFile;
use crate::model::revision::{FileDigest, FileKind};

/// Files to put and to delete. A file is known by its name, whatever its kind.
#[derive(Clone, Debug, Default)]
pub struct PolicyPatch {
    /// Policy files that are new or replace the one of that name.
    pub put_policies: Vec<SourceFile>,
    /// Schema files likewise.
    pub put_schemas: Vec<SourceFile>,
    /// Test files likewise.
    pub put_tests: Vec<SourceFile>,
    /// Names of files that go.
    pub delete_files: Vec<String>,
}

/// Why a patch does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// What would be left is not clear.
    #[error("names `{0}` twice: put or delete a file once")]
    Twice(String),
    /// Probably a typing error; nothing is guessed.
    #[error("deletes `{0}`, which is no file of the revision in force")]
    Unknown(String),
}

impl PolicyPatch {
    /// What makes a set of another one, of which only the digests are known.
    pub fn between(before: &[FileDigest], after: &PolicySource) -> Self {
        let known: HashSet<_> = before
            .iter()
            .map(|f| (f.kind, &f.name, &f.sha256))
            .collect();
        let names: HashSet<_> = after.files().map(|(_, file)| &file.name).collect();
        let mut patch = Self::default();
        for (kind, file) in after.files() {
            if !known.contains(&(kind, &file.name, file.sha256())) {
                match kind {
                    FileKind::Policy => patch.put_policies.push(file.clone()),
                    FileKind::Schema => patch.put_schemas.push(file.clone()),
                    FileKind::Test => patch.put_tests.push(file.clone()),
                }
            }
        }
        let gone = before.iter().filter(|f| !names.contains(&f.name));
        patch.delete_files = gone.map(|f| f.name.clone()).collect();
        patch
    }

    /// The set that it makes of another one.
    ///
    /// # Errors
    /// See [`PatchError`].
    pub fn apply(self, before: &PolicySource) -> Result<PolicySource, PatchError> {
        let names: Vec<&String> = self
            .put()
            .map(|file| &file.name)
            .chain(&self.delete_files)
            .collect();
        let mut touched = HashSet::new();
        for name in names {
            if !touched.insert(name.clone()) {
                return Err(PatchError::Twice(name.clone()));
            }
        }
        let known: HashSet<_> = before.files().map(|(_, file)| &file.name).collect();
        if let Some(name) = self.delete_files.iter().find(|name| !known.contains(name)) {
            return Err(PatchError::Unknown(name.clone()));
        }
        let kept = |files: &[SourceFile]| -> Vec<SourceFile> {
            let kept = files.iter().filter(|file| !touched.contains(&file.name));
            kept.cloned().collect()
        };
        let (mut policies, mut schemas) = (kept(&before.policies), kept(&before.schemas));
        let mut tests = kept(&before.tests);
        policies.extend(self.put_policies);
        schemas.extend(self.put_schemas);
        tests.extend(self.put_tests);
        Ok(PolicySource::new(policies, schemas).with_tests(tests))
    }

    /// All files that it puts.
    pub fn put(&self) -> impl Iterator<Item = &SourceFile> {
        let policies = self.put_policies.iter().chain(&self.put_schemas);
        policies.chain(&self.put_tests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> SourceFile {
        SourceFile::new(name, text)
    }

    fn set(policies: &[(&str, &str)], schemas: &[(&str, &str)]) -> PolicySource {
        let files = |list: &[(&str, &str)]| list.iter().map(|(n, t)| file(n, t)).collect();
        PolicySource::new(files(policies), files(schemas))
    }

    fn tested(tests: &[(&str, &str)]) -> PolicySource {
        let files = tests.iter().map(|(n, t)| file(n, t)).collect();
        set(&[("a", "1")], &[]).with_tests(files)
    }

    #[test]
    fn a_patch_and_the_changes_lead_from_one_set_to_another() {
        let sets = [
            set(&[], &[]),
            set(&[("a", "1"), ("b", "2")], &[("s", "3")]),
            set(&[("b", "2"), ("a", "1"), ("c", "4")], &[]),
            set(&[("a", "9")], &[("s", "3"), ("b", "2")]),
            set(&[("s", "3")], &[("a", "1")]),
            tested(&[("a.test.yaml", "5"), ("s", "3")]),
            tested(&[("b", "2")]),
        ];
        for before in &sets {
            for after in &sets {
                let patch = PolicyPatch::between(&before.digests(), after);
                assert_eq!(patch.apply(before).as_ref(), Ok(after));
                let changes = after.changes_from(before);
                assert_eq!(&before.with_changes(changes.clone()), after);
                assert_eq!(changes.is_empty(), before == after);
            }
        }
    }

    #[test]
    fn a_patch_that_is_not_clear_is_refused() {
        let before = set(&[("a", "1")], &[("s", "2")]);
        let twice = PolicyPatch {
            put_policies: vec![file("a", "x")],
            delete_files: vec!["a".to_owned()],
            ..PolicyPatch::default()
        };
        assert_eq!(twice.apply(&before), Err(PatchError::Twice("a".to_owned())));
        let unknown = PolicyPatch {
            delete_files: vec!["A".to_owned()],
            ..PolicyPatch::default()
        };
        let error = unknown.apply(&before);
        assert_eq!(error, Err(PatchError::Unknown("A".to_owned())));
    }
}
