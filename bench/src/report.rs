//! The numbers, as JSON for programs and as a table for people.

use std::{fmt::Write as _, path::Path};

use serde_json::{Map, Value, json};

use crate::{
    Result, device, goals,
    load::{Round, Shape, median},
};

/// The rounds of one server at one shape.
#[derive(Clone, Debug)]
pub struct Series {
    /// The server: `noop`, `authorize_sqlite`, `authorize_postgres`.
    pub name: &'static str,
    /// What its names in the report end with.
    pub suffix: String,
    /// How it was driven.
    pub shape: Shape,
    /// Its rounds, in order.
    pub rounds: Vec<Round>,
}

impl Series {
    fn median(&self, of: fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(of).collect())
    }
}

/// Everything that a run found.
#[derive(Debug)]
pub struct Report {
    facts: Map<String, Value>,
    figures: Map<String, Value>,
    series: Vec<Series>,
}

impl Report {
    /// A report that knows the machine. `dir` is where the stores lie.
    ///
    /// # Errors
    /// The device cannot be measured.
    pub fn new(dir: &Path) -> Result<Self> {
        let mut facts = Map::new();
        facts.insert("cores".to_owned(), device::cores().into());
        facts.insert("kernel".to_owned(), device::kernel().into());
        facts.insert("file_system".to_owned(), device::file_system(dir).into());
        let fsync_us = device::fsync_us_p50(dir)?;
        facts.insert("fsync_us_p50".to_owned(), rounded(fsync_us, 1));
        Ok(Self {
            facts,
            figures: Map::new(),
            series: Vec::new(),
        })
    }

    /// Adds one figure, rounded to so many digits.
    pub fn figure(&mut self, name: impl Into<String>, value: f64, digits: i32) {
        self.figures.insert(name.into(), rounded(value, digits));
    }

    /// Adds a figure that is more than a number.
    pub fn value(&mut self, name: impl Into<String>, value: Value) {
        self.figures.insert(name.into(), value);
    }

    /// Adds why a part has no figures.
    pub fn not_available(&mut self, part: &str, why: &str) {
        let all = self.facts.entry("not_available");
        if let Value::Object(parts) = all.or_insert_with(|| json!({})) {
            parts.insert(part.to_owned(), why.into());
        }
    }

    /// Adds what was measured.
    pub fn add(&mut self, series: Series) {
        self.series.push(series);
    }

    /// Adds that a server's log verified after the load.
    pub fn verified(&mut self, name: &str, proof: &str) {
        self.facts.insert(format!("{name}_audit"), proof.into());
    }

    fn find(&self, name: &str, suffix: &str) -> Option<&Series> {
        let mut all = self.series.iter();
        all.find(|series| series.name == name && series.suffix == suffix)
    }

    /// The share of the no-op server's rate: the median over the rounds, each compared
    /// with the no-op round beside it.
    fn ratio(&self, series: &Series) -> Option<f64> {
        let noop = self.find("noop", &series.suffix)?;
        Some(paired_ratio(&series.rounds, &noop.rounds))
    }

    /// The report for programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut all = self.facts.clone();
        all.extend(self.figures.clone());
        for series in &self.series {
            let Series {
                name,
                suffix,
                rounds,
                ..
            } = series;
            let mut put = |key: String, value| all.insert(key, value);
            put(
                format!("{name}_per_s{suffix}"),
                rounded(series.median(|r| r.per_s), 0),
            );
            put(
                format!("{name}_p50_us{suffix}"),
                rounded(series.median(|r| r.p50_us), 0),
            );
            put(
                format!("{name}_p99_us{suffix}"),
                rounded(series.median(|r| r.p99_us), 0),
            );
            if *name != "noop"
                && let Some(ratio) = self.ratio(series)
            {
                put(format!("{name}_ratio{suffix}"), rounded(ratio, 4));
            }
            put(
                format!("{name}_rounds_per_s{suffix}"),
                rounds.iter().map(|r| rounded(r.per_s, 0)).collect(),
            );
        }
        Value::Object(all)
    }

    /// The report for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        let heading = ["server", "shape", "per second", "ratio", "p50 us", "p99 us"];
        let [a, b, c, d, e, f] = heading;
        let _ = writeln!(text, "{a:<28} {b:>6} {c:>11} {d:>7} {e:>8} {f:>8}");
        for series in &self.series {
            let Shape {
                connections,
                in_flight,
            } = series.shape;
            let shape = format!("{connections}x{in_flight}");
            let ratio = self.ratio(series);
            let ratio = ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}"));
            let _ = writeln!(
                text,
                "{:<28} {shape:>6} {:>11.0} {ratio:>7} {:>8.0} {:>8.0}",
                format!("{}{}", series.name, series.suffix),
                series.median(|r| r.per_s),
                series.median(|r| r.p50_us),
                series.median(|r| r.p99_us),
            );
        }
        for (key, value) in &self.facts {
            let value = match value {
                Value::String(value) => value.clone(),
                other => other.to_string(),
            };
            let _ = writeln!(text, "{key}: {value}");
        }
        let compare = self.figures.get("compare").unwrap_or(&Value::Null);
        text.push_str(&comparison(compare));
        let _ = write!(text, "\n{}", goals::table(&self.json()));
        text
    }
}

/// Other systems beside ours, for people.
fn comparison(compare: &Value) -> String {
    let mut text = String::new();
    for (policies, systems) in compare.as_object().into_iter().flatten() {
        for (name, found) in systems.as_object().into_iter().flatten() {
            let _ = write!(text, "compare, {policies:>6} policies, {name:16}");
            for (what, value) in found.as_object().into_iter().flatten() {
                let _ = write!(text, "  {what} {value}");
            }
            text.push('\n');
        }
    }
    text
}

/// The median over the rounds, each compared with the one beside it.
#[must_use]
pub fn paired_ratio(rounds: &[Round], beside: &[Round]) -> f64 {
    let pairs = rounds.iter().zip(beside);
    median(pairs.map(|(one, other)| one.per_s / other.per_s).collect())
}

/// JSON has no infinity: what was not measured is null.
pub(crate) fn rounded(value: f64, digits: i32) -> Value {
    let scale = 10_f64.powi(digits);
    let value = (value * scale).round() / scale;
    if digits == 0 && value.is_finite() {
        return json!(value as i64);
    }
    json!(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &'static str, rates: [f64; 3]) -> Series {
        let round = |per_s| Round {
            per_s,
            p50_us: 10.0,
            p99_us: f64::INFINITY,
        };
        Series {
            name,
            suffix: String::new(),
            shape: Shape {
                connections: 4,
                in_flight: 32,
            },
            rounds: rates.map(round).to_vec(),
        }
    }

    #[test]
    fn medians_and_paired_ratios_are_reported() {
        let mut report = Report {
            facts: Map::new(),
            figures: Map::new(),
            series: Vec::new(),
        };
        report.figure("load_s_100000", 7.04, 1);
        report.not_available("entities", "not yet");
        report.add(series("noop", [100.0, 10.0, 80.0]));
        report.add(series("authorize_sqlite", [50.0, 4.0, 60.0]));
        let json = report.json();
        assert_eq!(json["noop_per_s"], 80);
        assert_eq!(json["authorize_sqlite_per_s"], 50);
        assert_eq!(json["authorize_sqlite_ratio"], 0.5);
        assert_eq!(json["authorize_sqlite_p50_us"], 10);
        assert_eq!(json["authorize_sqlite_p99_us"], Value::Null);
        assert_eq!(json.get("noop_ratio"), None);
        assert_eq!(json["load_s_100000"], 7.0);
        assert_eq!(json["not_available"]["entities"], "not yet");
        report.value("compare", json!({"10": {"zta": {"per_s": 5}}}));
        let table = report.table();
        assert!(table.contains("4x32"), "{table}");
        assert!(table.contains("per_s 5"), "{table}");
        assert!(table.contains("NOT MET"), "{table}");
    }
}
