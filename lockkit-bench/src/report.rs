//! What a run found: printed at once, and kept in a file.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// All that the bench of one store found.
#[derive(Debug, Deserialize, Serialize)]
pub struct Report {
    /// The store's name, which the file bears.
    pub store: String,
    /// The server and its settings, in a line.
    pub server: String,
    /// Whether it was a short run.
    pub quick: bool,
    /// Its parts, in their order.
    pub parts: Vec<Part>,
}

/// One question: a table of figures and the ratios among them.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Part {
    /// What was measured.
    pub title: String,
    /// The figures' unit.
    pub unit: String,
    /// A line for each way.
    pub rows: Vec<Row>,
    /// Ratios of two rows, paired within each round.
    pub ratios: Vec<Ratio>,
}

/// The figures of one way.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Row {
    /// The way's label.
    pub label: String,
    /// A figure for each round.
    pub values: Vec<f64>,
    /// What else was seen: fairness, waits, connections.
    pub note: String,
}

/// A ratio, one for each round.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Ratio {
    /// Which two figures.
    pub label: String,
    /// One for each round.
    pub values: Vec<f64>,
    /// What it should be, as in `<= 1.45`; empty where nothing is asked.
    pub goal: String,
}

/// The median.
///
/// # Panics
/// If there is no value.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    } else {
        sorted[middle]
    }
}

/// Where the reports are: beside the build, or where `LOCKKIT_BENCH_DIR` says.
#[must_use]
pub fn directory() -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    std::env::var_os("LOCKKIT_BENCH_DIR").map_or(root, PathBuf::from)
}

impl Report {
    /// A report without parts.
    #[must_use]
    pub fn new(store: &str, server: String) -> Self {
        println!("{store}: {server}");
        Self { store: store.to_owned(), server, quick: crate::is_quick(), parts: Vec::new() }
    }

    /// Prints a part, and adds it.
    pub fn add(&mut self, part: Part) {
        part.print();
        self.parts.push(part);
    }

    /// Writes the report to its file. Parts that this run left out stay as an earlier run wrote them.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn write(mut self) {
        let directory = directory();
        fs::create_dir_all(&directory).expect("the directory of the reports");
        let path = directory.join(format!("{}.json", self.store));
        let earlier =
            fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Self>(&text).ok());
        for part in earlier.map(|earlier| earlier.parts).unwrap_or_default() {
            if self.parts.iter().all(|new| new.title != part.title) {
                self.parts.push(part);
            }
        }
        let text = serde_json::to_vec_pretty(&self).expect("a report is text");
        fs::write(&path, text).expect("the report is written");
        println!("written to {}", path.display());
    }
}

impl Part {
    /// A part without figures.
    #[must_use]
    pub fn new(title: impl Into<String>, unit: &str) -> Self {
        Self { title: title.into(), unit: unit.to_owned(), ..Self::default() }
    }

    /// Adds the figures of a way.
    #[must_use]
    pub fn row(mut self, label: &str, values: Vec<f64>, note: impl Into<String>) -> Self {
        self.rows.push(Row { label: label.to_owned(), values, note: note.into() });
        self
    }

    /// Adds the ratio of two rows, paired within each round, beside what it should be.
    ///
    /// # Panics
    /// If there is no row of such a label.
    #[must_use]
    pub fn ratio(mut self, ours: &str, other: &str, goal: &str) -> Self {
        let of = |label: &str| {
            let row = self.rows.iter().find(|row| row.label == label);
            &row.expect("a row of that label").values
        };
        let values = of(ours).iter().zip(of(other)).map(|(ours, other)| ours / other).collect();
        self.ratios.push(Ratio {
            label: format!("{ours} / {other}"),
            values,
            goal: goal.to_owned(),
        });
        self
    }

    fn print(&self) {
        println!("\n{} ({})", self.title, self.unit);
        for row in &self.rows {
            let rounds: Vec<_> = row.values.iter().map(|value| number(*value)).collect();
            let (label, middle) = (&row.label, number(median(&row.values)));
            println!("  {label:<34} {middle:>9}   {:<40} {}", rounds.join(" "), row.note);
        }
        for ratio in &self.ratios {
            let goal = if ratio.goal.is_empty() {
                String::new()
            } else {
                format!("   goal {}", ratio.goal)
            };
            println!("  {:<66} {}{goal}", ratio.label, spread(&ratio.values));
        }
    }
}

/// A figure with as many digits as it is worth.
#[must_use]
pub fn number(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// The median, and the least and most beside it.
///
/// # Panics
/// If there is no value.
#[must_use]
pub fn spread(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    format!("{:.2} ({least:.2} to {most:.2})", median(values))
}
