//! Cedar's strict validation, spread over the cores.

use std::sync::Arc;

use cedar_policy_core::{ast, validator};
use miette::Diagnostic as _;

use super::compile::{Files, place};
use super::diagnostic::{Diagnostic, plain};
use super::entry::Entry;
use super::parallel::parallel;
use super::vocabulary::Vocabulary;

/// Policies that are validated in one go.
const PIECE: usize = 256;

/// Strict validation. Returns the warnings.
pub(super) fn validate(
    vocabulary: &Vocabulary,
    entries: &[&Arc<Entry>],
    files: &Files,
) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
    let pieces: Vec<&[&Arc<Entry>]> = entries.chunks(PIECE).collect();
    let mut errors = Vec::new();
    let mut warnings = Vec::new();
    for (failed, warned) in parallel(&pieces, 2, |piece| validate_piece(vocabulary, piece)) {
        errors.extend(failed);
        warnings.extend(warned);
    }
    for diagnostic in errors.iter_mut().chain(&mut warnings) {
        let entry = entries.iter().find(|e| e.id() == diagnostic.policy_id);
        if let Some((file, line)) = entry.and_then(|entry| place(files, entry)) {
            (diagnostic.file, diagnostic.line) = (file.to_owned(), line);
        }
    }
    if errors.is_empty() {
        Ok(warnings)
    } else {
        Err(errors)
    }
}

/// Errors, then warnings.
fn validate_piece(
    vocabulary: &Vocabulary,
    piece: &[&Arc<Entry>],
) -> (Vec<Diagnostic>, Vec<Diagnostic>) {
    let mut set = ast::PolicySet::new();
    for entry in piece {
        // The index holds each id once.
        if let Err(e) = set.add(entry.policy.clone()) {
            return (vec![plain(e.to_string(), "")], Vec::new());
        }
    }
    let result = vocabulary
        .validator
        .validate(&set, validator::ValidationMode::Strict);
    let result = cedar_policy::ValidationResult::from(result);
    let at = |id: String, message: String, help: Option<String>| Diagnostic {
        message,
        help: help.unwrap_or_default(),
        policy_id: id,
        ..Diagnostic::default()
    };
    (
        result
            .validation_errors()
            .map(|e| {
                let help = e.help().map(|h| h.to_string());
                at(e.policy_id().to_string(), e.to_string(), help)
            })
            .collect(),
        result
            .validation_warnings()
            .map(|w| {
                let help = w.help().map(|h| h.to_string());
                at(w.policy_id().to_string(), w.to_string(), help)
            })
            .collect(),
    )
}
