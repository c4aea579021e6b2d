//! The goals of the decision engine, and whether a report meets them.

use std::fmt::Write as _;

use serde_json::Value;

/// What a figure shall be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
    /// Nothing: it is only reported.
    Reported,
}

use Goal::{AtLeast, AtMost, Reported};

/// The figures by their names in the report, in the order of the table.
pub const GOALS: [(&str, Goal); 53] = [
    ("authorize_sqlite_ratio", AtLeast(0.40)),
    ("authorize_postgres_ratio", AtLeast(0.25)),
    ("authorize_sqlite_per_s_10", Reported),
    ("authorize_sqlite_per_s_100000", Reported),
    ("authorize_sqlite_100000_vs_10", AtLeast(0.9)),
    ("authorize_p99_ms_at_half_load", AtMost(10.0)),
    ("batch128_sqlite_per_s", AtLeast(20_000.0)),
    ("decide_us_100", Reported),
    ("decide_us_100000", AtMost(20.0)),
    ("decide_100000_vs_100", AtMost(1.5)),
    ("decide_us_worst_100000", Reported),
    ("load_s_100000", AtMost(6.0)),
    ("load_cpu_s_100000", Reported),
    ("rss_loaded_mb_100000", Reported),
    ("rss_mb_100000", AtMost(420.0)),
    ("rss_peak_mb_100000", Reported),
    ("activate_one_ms_100000", AtMost(100.0)),
    ("entities_1m_put_s", Reported),
    ("entities_1m_load_s", Reported),
    ("entities_1m_load_cpu_s", Reported),
    ("entities_1m_rss_loaded_mb", Reported),
    ("entities_1m_rss_mb", AtMost(1200.0)),
    ("entities_1m_rss_peak_mb", Reported),
    ("authorize_sqlite_per_s_1m_entities", Reported),
    ("authorize_sqlite_p99_us_1m_entities", Reported),
    ("authenticate_per_s", Reported),
    ("authorize_mtls_ratio", Reported),
    ("authorize_dpop_ratio", Reported),
    ("revoke_visible_ms_p50", Reported),
    ("revoke_visible_ms_p99", Reported),
    ("replay_per_s", Reported),
    ("converge_ms_p50", Reported),
    ("converge_ms_p99", Reported),
    ("watch_lag_ms_p99", AtMost(250.0)),
    ("audit_append_sqlite_per_s", Reported),
    ("audit_append_postgres_per_s", Reported),
    ("audit_append_postgres_per_s_2", Reported),
    ("audit_commit_ms_p50", Reported),
    ("audit_commit_ms_p99", Reported),
    ("audit_commit_postgres_ms_p50", Reported),
    ("audit_commit_postgres_ms_p99", Reported),
    ("authorize_audit_features_ratio", Reported),
    ("outcome_report_per_s", Reported),
    ("authorize_with_outcomes_ratio", Reported),
    ("proof_ms_p50", Reported),
    ("proof_ms_p99", AtMost(5.0)),
    ("verify_leaves_per_s", AtLeast(200_000.0)),
    ("export_leaves_per_s", Reported),
    ("python_guard_ms_p50", Reported),
    ("python_guard_ms_p99", Reported),
    ("python_guard_async_ms_p50", Reported),
    ("python_guard_async_ms_p99", Reported),
    ("python_guard_calls_per_s", Reported),
];

impl Goal {
    fn text(self) -> String {
        match self {
            Self::AtLeast(bound) => format!("≥ {bound}"),
            Self::AtMost(bound) => format!("≤ {bound}"),
            Self::Reported => "reported".to_owned(),
        }
    }

    fn verdict(self, value: f64) -> &'static str {
        let met = match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
            Self::Reported => return "",
        };
        if met { "met" } else { "NOT MET" }
    }
}

/// Each goal beside what a report (as JSON) found.
#[must_use]
pub fn table(report: &Value) -> String {
    let mut text = String::new();
    let [a, b, c, d] = ["figure", "value", "goal", ""];
    let _ = writeln!(text, "{a:<36} {b:>12} {c:>10}  {d}");
    for (name, goal) in GOALS {
        let (value, verdict) = match report[name].as_f64() {
            Some(value) => (value.to_string(), goal.verdict(value)),
            None => ("-".to_owned(), "not measured"),
        };
        let line = format!("{name:<36} {value:>12} {:>10}  {verdict}", goal.text());
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_goal_is_met_or_not_or_was_not_measured() {
        let report = json!({
            "authorize_sqlite_ratio": 0.4,
            "load_s_100000": 6.1,
            "decide_us_100": 7.5,
            "rss_mb_100000": null,
        });
        let table = table(&report);
        let line = |name: &str| {
            let mut lines = table.lines();
            let line = lines.find(|line| line.split(' ').next() == Some(name));
            line.expect(name)
                .split_whitespace()
                .skip(1)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(line("authorize_sqlite_ratio"), "0.4 ≥ 0.4 met");
        assert_eq!(line("load_s_100000"), "6.1 ≤ 6 NOT MET");
        assert_eq!(line("decide_us_100"), "7.5 reported");
        assert_eq!(line("rss_mb_100000"), "- ≤ 420 not measured");
    }
}
