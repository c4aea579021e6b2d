//! Test results as JUnit XML, which every build server reads.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::shown::Shown;

/// A suite for each file, a case for each test.
pub(super) fn xml(results: &[Shown]) -> String {
    let mut files: BTreeMap<&str, Vec<&Shown>> = BTreeMap::new();
    for result in results {
        files.entry(&result.file).or_default().push(result);
    }
    let failed =
        |results: &mut dyn Iterator<Item = &Shown>| results.filter(|r| !r.passed()).count();
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    // A write to a String cannot fail.
    let _ = writeln!(
        out,
        "<testsuites tests=\"{}\" failures=\"{}\">",
        results.len(),
        failed(&mut results.iter())
    );
    for (file, results) in files {
        let _ = writeln!(
            out,
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\">",
            escaped(file),
            results.len(),
            failed(&mut results.iter().copied())
        );
        results
            .into_iter()
            .for_each(|result| case(&mut out, result));
        out.push_str("  </testsuite>\n");
    }
    out.push_str("</testsuites>\n");
    out
}

fn case(out: &mut String, result: &Shown) {
    let (name, file) = (escaped(&result.name), escaped(&result.file));
    let _ = write!(
        out,
        "    <testcase name=\"{name}\" classname=\"{file}\" file=\"{file}\" line=\"{}\"",
        result.line
    );
    if result.passed() {
        out.push_str("/>\n");
        return;
    }
    let what: Vec<&str> = result
        .mismatches
        .iter()
        .map(|[what, ..]| what.as_str())
        .collect();
    let _ = writeln!(
        out,
        ">\n      <failure message=\"{} as not expected\">{}\n{}</failure>\n    </testcase>",
        escaped(&what.join(", ")),
        escaped(&result.place()),
        escaped(&result.differences())
    );
}

/// Text as it may stand in XML 1.0, in an attribute too.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_name_holds_stays_a_name() {
        let result = |name: &str, failed: bool| Shown {
            file: "a.test.yaml".to_owned(),
            line: 3,
            column: 5,
            name: name.to_owned(),
            mismatches: failed
                .then(|| ["decision", "allow", "deny"].map(str::to_owned))
                .into_iter()
                .collect(),
            decision: "deny",
            reason: String::new(),
            policies: Vec::new(),
            obligations: Vec::new(),
            message: "]]></failure>\u{1b}".to_owned(),
        };
        let text = xml(&[result("\"/><testcase name=\"x", false), result("b", true)]);
        assert_eq!(text.matches("<testcase").count(), 2, "{text}");
        assert!(text.contains("tests=\"2\" failures=\"1\""), "{text}");
        assert!(text.contains("]]&gt;&lt;/failure&gt;\u{fffd}"), "{text}");
        assert!(text.contains("classname=\"a.test.yaml\" file=\"a.test.yaml\" line=\"3\""));
    }
}
