//! Cedar's strict validation, spread over the cores.

use std::collections::HashSet;
use std::sync::Arc;

use cedar_policy::{PolicyId, ValidationWarning};
use cedar_policy_core::{ast, validator};
use miette::Diagnostic as _;

use super::compile::{Files, place};
use super::diagnostic::{Diagnostic, plain};
use super::entry::Entry;
use super::lint::allows;
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
    // What applies to nothing is never true either; that is said once.
    let never_applies: HashSet<&PolicyId> = result
        .validation_warnings()
        .filter(|w| matches!(w, ValidationWarning::InvalidActionApplication(_)))
        .map(ValidationWarning::policy_id)
        .collect();
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
            .filter(|w| !never_applies.contains(w.policy_id()) || !is_impossible(w))
            .filter_map(|w| warning(w, piece))
            .collect(),
    )
}

fn is_impossible(warning: &ValidationWarning) -> bool {
    matches!(warning, ValidationWarning::ImpossiblePolicy(_))
}

/// A warning of Cedar's under the name of a lint; `None` where the policy allows it.
fn warning(warning: &ValidationWarning, piece: &[&Arc<Entry>]) -> Option<Diagnostic> {
    let (lint, help) = match warning {
        ValidationWarning::ImpossiblePolicy(_) => (
            "impossible",
            "its conditions are never true: correct them, or delete the policy",
        ),
        ValidationWarning::InvalidActionApplication(_) => (
            "never_applies",
            "name an action that applies to the principals and resources of its scope",
        ),
        _ => ("confusable", "write it in the letters of one script"),
    };
    let id = warning.policy_id().to_string();
    let entry = piece.iter().find(|entry| entry.id() == id);
    if entry.is_some_and(|entry| allows(entry, lint)) {
        return None;
    }
    Some(Diagnostic {
        message: warning.to_string(),
        help: help.to_owned(),
        policy_id: id,
        lint: lint.to_owned(),
        ..Diagnostic::default()
    })
}
