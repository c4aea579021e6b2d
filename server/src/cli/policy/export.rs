//! `zta policy export`: a revision as files, for git.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Component, Path, PathBuf};

use serde_json::json;
use zta_client::v1;

use super::log::revision_json;
use crate::cli::{Failure, Options, line};

/// What policy files end with; nothing else is ever written, or taken away.
const ENDINGS: [&str; 4] = [".cedar", ".cedarschema", ".test.yaml", ".test.json"];

pub(super) async fn export(
    options: &Options,
    number: u64,
    folder: &Path,
    force: bool,
) -> Result<(), Failure> {
    let request = v1::GetRevisionRequest {
        number,
        digests_only: false,
    };
    let answer = options.client()?.policies().get_revision(request).await?;
    let answer = answer.into_inner();
    let revision = answer.revision.unwrap_or_default();
    let source = answer.source.unwrap_or_default();
    let files = source.policies.iter().chain(&source.schemas);
    let files: Vec<&v1::SourceFile> = files.chain(&source.tests).collect();
    write(folder, &files, force).map_err(Failure::CouldNotRun)?;
    if options.json {
        let mut exported = revision_json(&revision);
        exported["files"] = json!(files.len());
        return line(exported);
    }
    line(format!(
        "revision {}: {} files in {}",
        revision.number,
        files.len(),
        folder.display()
    ))
}

/// Writes the files, all of whose names are looked at before the first one is written. With
/// `force`, a folder that is not empty becomes the revision: its other policy files go, and
/// whatever else is in it stays.
///
/// # Errors
/// A folder that is not empty, a name that would lead out of it, or a file that cannot be
/// written.
fn write(folder: &Path, files: &[&v1::SourceFile], force: bool) -> Result<(), String> {
    let mut paths = Vec::with_capacity(files.len());
    for file in files {
        paths.push(below(&file.name)?);
    }
    let bad = |path: &Path, e: std::io::Error| format!("`{}`: {e}", path.display());
    fs::create_dir_all(folder).map_err(|e| bad(folder, e))?;
    let entries = fs::read_dir(folder).map_err(|e| bad(folder, e))?;
    for entry in entries {
        let path = entry.map_err(|e| bad(folder, e))?.path();
        if !force {
            let text = "is not empty; name another folder, or say --force";
            return Err(format!("`{}` {text}", folder.display()));
        }
        // A link goes, not what it leads to.
        let is_folder = fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir());
        if ending(&path).is_some() && !is_folder {
            fs::remove_file(&path).map_err(|e| bad(&path, e))?;
        }
    }
    for (relative, file) in paths.iter().zip(files) {
        write_one(folder, relative, &file.text)?;
    }
    Ok(())
}

fn write_one(folder: &Path, relative: &Path, text: &str) -> Result<(), String> {
    let bad = |path: &Path, e: std::io::Error| format!("`{}`: {e}", path.display());
    let mut path = folder.to_owned();
    for part in relative.parent().into_iter().flat_map(Path::components) {
        path.push(part);
        match fs::create_dir(&path) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(bad(&path, e)),
            _ => {}
        }
        // A link could lead anywhere.
        if !fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir()) {
            return Err(format!("`{}` is no folder", path.display()));
        }
    }
    let path = folder.join(relative);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(bad(&path, e)),
        _ => {}
    }
    let created = fs::File::create_new(&path);
    let written = created.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|e| bad(&path, e))
}

/// A file's name as a path below any folder. Whoever applied the revision chose the name.
///
/// # Errors
/// Whatever is no plain path to a policy file: `..`, roots, drives, hidden files, backslashes.
fn below(name: &str) -> Result<PathBuf, String> {
    let path = Path::new(name);
    let plain = name.split('/').all(|part| {
        let good = |c: char| !c.is_control() && !matches!(c, '\\' | ':');
        !part.is_empty() && !part.starts_with('.') && part.chars().all(good)
    });
    let normal = path.components().all(|c| matches!(c, Component::Normal(_)));
    match plain && normal && ending(path).is_some() {
        true => Ok(path.to_owned()),
        false => Err(format!(
            "the revision has a file `{}`, which is no name of a policy file; nothing was written",
            name.escape_debug()
        )),
    }
}

fn ending(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    let ends = |ending: &&str| name.len() > ending.len() && name.ends_with(ending);
    ENDINGS.into_iter().find(ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> v1::SourceFile {
        v1::SourceFile {
            name: name.to_owned(),
            text: "// new".to_owned(),
        }
    }

    #[test]
    fn no_name_leads_out_of_the_folder() {
        let outside = tempfile::tempdir().expect("a folder");
        let folder = outside.path().join("in");
        let absolute = outside.path().join("x.cedar").display().to_string();
        for name in [
            "../x.cedar",
            "a/../../x.cedar",
            "a/./x.cedar",
            "a//x.cedar",
            "/x.cedar",
            &absolute,
            "..",
            "",
            ".git/hooks/x.cedar",
            ".x.cedar",
            "..\\x.cedar",
            "C:x.cedar",
            "x.sh",
            "x",
            "x.cedar/",
            "x\n.cedar",
        ] {
            // A good one beside it is not written either.
            let files = [&file("good.cedar"), &file(name)];
            assert!(write(&folder, &files, true).is_err(), "{name}");
            assert!(!folder.exists(), "{name}");
        }
        assert!(!outside.path().join("x.cedar").exists());
        let files = [&file("a/b.cedar"), &file("c.cedarschema")];
        write(&folder, &files, false).expect("written");
        assert_eq!(
            fs::read_to_string(folder.join("a/b.cedar")).expect("a file"),
            "// new"
        );
    }

    #[test]
    fn a_folder_that_is_not_empty_is_left_alone_unless_told() {
        let outside = tempfile::tempdir().expect("a folder");
        let folder = outside.path().join("in");
        let elsewhere = outside.path().join("elsewhere");
        fs::create_dir_all(&folder).expect("a folder");
        fs::create_dir_all(&elsewhere).expect("a folder");
        for (path, text) in [("README.md", "r"), ("old.cedar", "o")] {
            fs::write(folder.join(path), text).expect("a file");
        }
        fs::write(outside.path().join("target"), "t").expect("a file");
        std::os::unix::fs::symlink("../target", folder.join("new.cedar")).expect("a link");
        std::os::unix::fs::symlink("../elsewhere", folder.join("sub")).expect("a link");
        let new = file("new.cedar");
        assert!(write(&folder, &[&new], false).is_err());
        assert!(folder.join("old.cedar").exists());
        write(&folder, &[&new], true).expect("written");
        assert!(
            !folder.join("old.cedar").exists(),
            "it is no part of the revision"
        );
        let read = |path: PathBuf| fs::read_to_string(path).expect("a file");
        assert_eq!(read(folder.join("README.md")), "r");
        assert_eq!(read(folder.join("new.cedar")), "// new");
        assert_eq!(
            read(outside.path().join("target")),
            "t",
            "not through a link"
        );
        assert!(write(&folder, &[&file("sub/x.cedar")], true).is_err());
        assert!(!elsewhere.join("x.cedar").exists());
    }
}
