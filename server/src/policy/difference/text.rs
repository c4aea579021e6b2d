//! The difference of texts, line by line.

use similar::TextDiff;

use super::Pair;
use crate::model::SourceFile;

/// Lines of both sides of one file: comparing costs their product at worst.
const FILE_LINES_MAX: usize = 20_000;
/// Lines of both sides of all files.
const LINES_MAX: usize = 100_000;
/// Bytes of all texts together: an answer is one message.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// What may still be compared.
pub(super) struct Budget {
    lines: usize,
    bytes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            lines: LINES_MAX,
            bytes: BYTES_MAX,
        }
    }
}

/// A unified diff with three lines of context; `None` beyond the limits.
pub(super) fn unified(pair: &Pair<'_>, budget: &mut Budget) -> Option<String> {
    let text = |file: Option<&SourceFile>| file.map(|f| f.text().to_string()).unwrap_or_default();
    let (before, after) = (text(pair.before), text(pair.after));
    let lines = before.lines().count() + after.lines().count();
    if lines > FILE_LINES_MAX.min(budget.lines) || before.len() + after.len() > budget.bytes {
        return None;
    }
    let header = |side: &str, file: Option<&SourceFile>| match file {
        Some(file) => format!("{side}/{}", file.name),
        None => "/dev/null".to_owned(),
    };
    let unified = TextDiff::from_lines(&before, &after)
        .unified_diff()
        .context_radius(3)
        .header(&header("a", pair.before), &header("b", pair.after))
        .to_string();
    budget.lines -= lines;
    budget.bytes = budget.bytes.saturating_sub(unified.len());
    Some(unified)
}
