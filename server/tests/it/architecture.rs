//! The map in `server/src/lib.rs` is true: who imports whom, where outside crates live,
//! who reads the clock, and how long a file may be.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::support::repository;

const FILE_LINES_MAX: usize = 500;

/// Outside crates that may be named in one place only. The command line is no part of the
/// library: it talks to a server like any client.
const HOMES: [(&[&str], &[&str]); 7] = [
    (&["cedar_policy", "cedar_policy_core"], &["policy"]),
    (&["similar"], &["policy"]),
    (&["serde_saphyr"], &["policy"]),
    (&["sqlx"], &["store"]),
    (
        &[
            "tonic",
            "tonic_types",
            "tonic_reflection",
            "axum",
            "zta_proto",
        ],
        &["api"],
    ),
    (&["tonic_health"], &["api", "app"]),
    (&["jsonwebtoken"], &["identity"]),
];

/// Each Rust file below a folder, with its text.
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source file");
            found.push((path, text));
        }
    }
    found
}

/// The library's files by their top module. The binary's own are left out.
fn library() -> Vec<(String, PathBuf, String)> {
    let root = repository("server/src");
    let files = sources(&root).into_iter().filter_map(|(path, text)| {
        let relative = path.strip_prefix(&root).expect("below the root");
        let top = relative
            .iter()
            .next()?
            .to_str()?
            .trim_end_matches(".rs")
            .to_owned();
        (!["lib", "main", "cli"].contains(&top.as_str())).then_some((top, path, text))
    });
    files.collect()
}

fn is_identifier(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// A text without its comment lines: what documentation refers to is not imported.
fn code(text: &str) -> String {
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// What stands after each `name::` in a text, where `name` is a whole path segment.
fn after_path<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(name).filter_map(move |(at, _)| {
        let before = text[..at].chars().next_back();
        let rest = text[at + name.len()..].strip_prefix("::")?;
        (!before.is_some_and(|c| is_identifier(c) || c == ':')).then_some(rest)
    })
}

/// The modules of this crate that a text names.
fn imports(text: &str) -> BTreeSet<String> {
    after_path(text, "crate")
        .map(|rest| rest.chars().take_while(|&c| is_identifier(c)).collect())
        .filter(|name: &String| !name.is_empty())
        .collect()
}

/// The names in backticks of a table's cell.
fn names(cell: &str) -> Vec<String> {
    cell.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// The table of `lib.rs`: each module with what it may import; `None` is everything.
fn table() -> BTreeMap<String, Option<BTreeSet<String>>> {
    let text = std::fs::read_to_string(repository("server/src/lib.rs")).expect("lib.rs");
    let capabilities = ["identity", "policy", "audit"].map(str::to_owned);
    let mut table = BTreeMap::new();
    for line in text.lines().filter_map(|l| l.strip_prefix("//! | ")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let may = cells.get(2).expect("three columns");
        let mut allowed: BTreeSet<String> = names(may).into_iter().collect();
        if may.contains("the capabilities") {
            allowed.extend(capabilities.clone());
        }
        assert!(
            *may == "everything"
                || *may == "nothing of ours"
                || !allowed.is_empty()
                || names(cells[0]).is_empty()
        );
        for module in names(cells[0]) {
            let allowed = (*may != "everything").then(|| allowed.clone());
            table.insert(module, allowed);
        }
    }
    table
}

#[test]
fn modules_import_what_the_table_in_lib_rs_lets_them() {
    let table = table();
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for (module, path, text) in library() {
        let Some(allowed) = table.get(&module) else {
            panic!("`{module}` has no row in the table of lib.rs");
        };
        seen.insert(module.clone());
        let Some(allowed) = allowed else { continue };
        for import in imports(&code(&text)) {
            if import != module && !allowed.contains(&import) {
                wrong.push(format!(
                    "{}: `{module}` may not import `{import}`",
                    path.display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let missing: Vec<_> = table.keys().filter(|m| !seen.contains(*m)).collect();
    assert!(missing.is_empty(), "rows without a module: {missing:?}");
}

#[test]
fn outside_crates_have_one_home() {
    let mut wrong = Vec::new();
    for (module, path, text) in library() {
        for (crates, homes) in HOMES {
            for name in crates.iter().filter(|_| !homes.contains(&module.as_str())) {
                if after_path(&code(&text), name).next().is_some() {
                    wrong.push(format!("{}: `{name}` lives in {homes:?}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_clock_is_read_in_app_alone() {
    let mut wrong = Vec::new();
    for (module, path, text) in library() {
        for call in [
            "SystemTime::now",
            "now_utc",
            "UtcDateTime::now",
            "Uuid::now_v7",
        ] {
            if module != "app" && text.contains(call) {
                wrong.push(format!("{}: `{call}`", path.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "time is an argument:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn no_file_is_longer_than_a_reader_can_hold() {
    let mut long = Vec::new();
    for folder in ["proto", "server", "client-rs", "bench"] {
        for (path, text) in sources(&repository(folder)) {
            let lines = text.lines().count();
            if lines > FILE_LINES_MAX {
                long.push(format!("{}: {lines} lines", path.display()));
            }
        }
    }
    assert!(
        long.is_empty(),
        "over {FILE_LINES_MAX} lines:\n{}",
        long.join("\n")
    );
}

#[test]
fn these_checks_can_fail() {
    let found = imports(&code(
        "use crate::store::X;\n  /// [`crate::audit`]\nlet a = crate::{self, y};",
    ));
    assert_eq!(found, BTreeSet::from(["store".to_owned()]));
    assert_eq!(after_path("use tonic::Status;", "tonic").count(), 1);
    assert_eq!(
        after_path("opentelemetry::tonic::x; with_tonic()", "tonic").count(),
        0
    );
    assert_eq!(names("`keys`, [`store`]"), ["keys", "store"]);
    assert_eq!(table()["model"], Some(BTreeSet::new()));
    assert_eq!(table()["app"], None);
}
