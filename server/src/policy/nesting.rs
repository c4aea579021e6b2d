//! How deep a text of Cedar nests, found out before Cedar sees it: its parser recurses
//! without a limit, and some 150 nested parentheses overflow a thread's stack, which ends
//! the whole process.

use super::limits::{NESTING_MAX, STATEMENT_BYTES_MAX};

/// The line in which a text begins to nest deeper than [`NESTING_MAX`], or in which a
/// statement is longer than [`STATEMENT_BYTES_MAX`]; 0 if none does. The second, because
/// `1+1+1…` nests, too, in what Cedar makes of it.
///
/// Counts brackets that are open and each `if` of them, for an `else` nests without
/// brackets; and, apart, the `<` of `Set<Set<…>>`, for elsewhere `<` compares, and never
/// twice with nothing but names in between. A bracket that closes another kind is not counted as closing: Cedar refuses
/// such a text, but only after it has recursed.
pub(super) fn too_deep_at(text: &str) -> u32 {
    let bytes = text.as_bytes();
    // For each open bracket: what closes it, and the `if`s in it so far.
    let mut open: Vec<(u8, usize)> = vec![(0, 0)];
    let (mut depth, mut angles) = (0, 0);
    let (mut at, mut statement) = (0, 0);
    while let Some(&byte) = bytes.get(at) {
        let closing = match byte {
            b'(' => b')',
            b'[' => b']',
            b'{' => b'}',
            _ => 0,
        };
        angles = match byte {
            b'<' => angles + 1,
            b'/' | b':' | b'_' => angles,
            _ if byte.is_ascii_alphanumeric() || byte.is_ascii_whitespace() => angles,
            _ => 0,
        };
        if byte == b';' {
            statement = at;
        }
        let top = open.last_mut();
        match (byte, top) {
            (b'"', _) => at = end_of_string(bytes, at),
            (b'/', _) if bytes.get(at + 1) == Some(&b'/') => at = end_of_comment(bytes, at),
            (b'(' | b'[' | b'{', _) => {
                open.push((closing, 0));
                depth += 1;
            }
            (_, Some((closes, ifs))) if byte == *closes && byte != 0 => {
                depth -= 1 + *ifs;
                open.pop();
            }
            // The next policy, declaration, element or argument.
            (b';' | b',', Some((_, ifs))) => depth -= std::mem::take(ifs),
            (b'i', Some((_, ifs))) if is_if(bytes, at) => {
                *ifs += 1;
                depth += 1;
            }
            _ => {}
        }
        if depth.max(angles) > NESTING_MAX || at - statement > STATEMENT_BYTES_MAX {
            let before = bytes.get(..at).unwrap_or_default();
            let lines = before.iter().filter(|b| **b == b'\n').count();
            return u32::try_from(lines + 1).unwrap_or(u32::MAX);
        }
        at += 1;
    }
    0
}

/// The index of the quote that ends the string that begins at `at`.
fn end_of_string(bytes: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => return at,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The index of the line break that ends the comment that begins at `at`.
fn end_of_comment(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    let length = rest.iter().position(|b| matches!(b, b'\n' | b'\r'));
    // One before it, so that the break is counted.
    at + length.unwrap_or(rest.len()).saturating_sub(1)
}

/// Whether the word at `at` is `if`.
fn is_if(bytes: &[u8], at: usize) -> bool {
    let in_word = |i: Option<usize>| {
        i.and_then(|i| bytes.get(i))
            .is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_')
    };
    bytes.get(at + 1) == Some(&b'f') && !in_word(at.checked_sub(1)) && !in_word(Some(at + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nests_is_counted_and_what_does_not_is_not() {
        let n = NESTING_MAX;
        let nested =
            |open: &str, close: &str, n: usize| format!("\n{}1{}", open.repeat(n), close.repeat(n));
        for (open, close) in [
            ("(", ")"),
            ("[", "]"),
            ("{a: ", "}"),
            ("f(", ")"),
            ("Set<", ">"),
            ("Set < // (\n", ">"),
            ("if true then ", " else 1"),
            ("if true then 1 else ", ""),
            ("(\")\" + //)\r", ")"),
            ("(]", ")"),
            ("(\"\\\")\" + ", ")"),
        ] {
            assert_eq!(too_deep_at(&nested(open, close, n)), 0, "{open}");
            assert_ne!(too_deep_at(&nested(open, close, n + 1)), 0, "{open}");
        }
        for flat in [
            "(1) ",
            "(if a then b else c) ",
            "if a then b else c; ",
            "\"(\" ",
            "1 < 2 && ",
        ] {
            assert_eq!(too_deep_at(&flat.repeat(10 * n)), 0, "{flat}");
        }
        assert_eq!(too_deep_at(&nested("(", ")", n + 1)), 2);
        let long = |terms: usize| format!("1{};", "+1".repeat(terms));
        assert_eq!(too_deep_at(&long(STATEMENT_BYTES_MAX / 2 - 1).repeat(2)), 0);
        assert_eq!(too_deep_at(&long(STATEMENT_BYTES_MAX / 2 + 1)), 1);
    }
}
