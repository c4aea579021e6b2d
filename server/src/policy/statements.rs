//! Where each statement of a Cedar policy file begins and ends, found without parsing, so
//! that a file of which one policy changed is not parsed whole.

/// One statement: up to its `;`, with the comments before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Statement<'t> {
    /// Its text without what comes before its first token.
    pub(super) text: &'t str,
    /// The line of its first token, 1-based.
    pub(super) line: u32,
}

/// Cuts a policy file at each `;` outside strings and comments: in Cedar's grammar it ends
/// a policy and stands nowhere else. The second value is what is left after the last one.
pub(super) fn statements(text: &str) -> (Vec<Statement<'_>>, &str) {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    // Where the statement's first token is.
    let mut start: Option<(usize, u32)> = None;
    let mut rest = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\n' => line += 1,
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                let tail = bytes.get(at..).unwrap_or_default();
                let end = tail.iter().position(|b| matches!(b, b'\n' | b'\r'));
                at += end.unwrap_or(tail.len());
                continue;
            }
            b'"' => {
                start.get_or_insert((at, line));
                at += 1;
                while let Some(&inner) = bytes.get(at) {
                    match inner {
                        b'"' => break,
                        b'\\' => at += 1,
                        _ => {}
                    }
                    line += u32::from(bytes.get(at) == Some(&b'\n'));
                    at += 1;
                }
            }
            b';' => {
                let (begin, first_line) = start.take().unwrap_or((at, line));
                let text = text.get(begin..=at).unwrap_or_default();
                found.push(Statement {
                    text,
                    line: first_line,
                });
                rest = at + 1;
            }
            _ if byte.is_ascii_whitespace() => {}
            _ => {
                start.get_or_insert((at, line));
            }
        }
        at += 1;
    }
    let rest = match start {
        Some(_) => text.get(rest..).unwrap_or_default(),
        None => "",
    };
    (found, rest)
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use cedar_policy::PolicySet;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn strings_and_comments_hide_their_semicolons() {
        let text = "// a; b\n@id(\"x;\\\"\n;\") permit(principal, action, resource);\r\n// c;\n  forbid (principal, action, resource) // ;\n when { \"//\" == \";\" };\n// the end;\n";
        let (found, rest) = statements(text);
        let lines: Vec<u32> = found.iter().map(|s| s.line).collect();
        assert_eq!((lines, rest), (vec![2, 5], ""));
        assert!(found[0].text.starts_with("@id") && found[0].text.ends_with("resource);"));
        assert!(found[1].text.starts_with("forbid"));
        assert_eq!(statements("permit(principal"), (vec![], "permit(principal"));
        assert_eq!(statements("").0.len(), 0);
        assert_eq!(statements("\"\\").1, "\"\\");
    }

    proptest! {
        /// What is cut parses to what Cedar makes of the whole.
        #[test]
        fn cuts_where_cedar_does(
            parts in prop::collection::vec(
                prop_oneof![
                    Just("permit (principal, action, resource);"),
                    Just("@a(\";\")\nforbid(principal,action,resource)when{\"a\\\";//\" == \"\"};"),
                    Just("// ;\n"),
                    Just("//\"\r\n"),
                    Just("\n\t"),
                    Just("permit(principal, action, resource) unless { 1 / 2 // ;\n == 3 };"),
                    Just("forbid(principal, action, resource) // \" ;\n;"),
                ],
                0..12,
            ),
        ) {
            let text = parts.concat();
            let (found, rest) = statements(&text);
            match PolicySet::from_str(&text) {
                Ok(whole) => {
                    prop_assert_eq!(rest, "");
                    prop_assert_eq!(found.len(), whole.policies().count());
                    for statement in found {
                        prop_assert!(PolicySet::from_str(statement.text).is_ok(), "{}", statement.text);
                    }
                }
                Err(_) => {
                    let pieces_parse = found.iter().all(|s| PolicySet::from_str(s.text).is_ok());
                    prop_assert!(!pieces_parse || !rest.is_empty());
                }
            }
        }
    }
}
