//! What is wrong with a policy set, and where.

use crate::model::SourceFile;

/// Something wrong with a policy set, at a place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file, empty where there is no single place.
    pub file: String,
    /// 1-based; 0 where unknown.
    pub line: u32,
    /// 1-based; 0 where unknown.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// What to do about it; may be empty.
    pub help: String,
    /// The policy's `@id`, if it concerns one.
    pub policy_id: String,
    /// The name of the lint that found it; empty for what is no lint.
    pub lint: String,
}

/// A problem without a place.
pub(super) fn plain(message: String, help: &str) -> Diagnostic {
    Diagnostic {
        message,
        help: help.to_owned(),
        ..Diagnostic::default()
    }
}

/// Cedar's own diagnostic with its place in the file.
pub(super) fn located(file: &SourceFile, error: &dyn miette::Diagnostic) -> Diagnostic {
    let offset = error
        .labels()
        .and_then(|mut l| l.next())
        .map(|l| l.offset());
    let (line, column) = offset.map_or((0, 0), |o| place(file.text(), o));
    Diagnostic {
        file: file.name.clone(),
        line,
        column,
        message: error.to_string(),
        help: error.help().map(|h| h.to_string()).unwrap_or_default(),
        ..Diagnostic::default()
    }
}

/// 1-based line and column of a byte offset.
fn place(text: &str, offset: usize) -> (u32, u32) {
    let before = text.get(..offset.min(text.len())).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    (line as u32, column as u32)
}
