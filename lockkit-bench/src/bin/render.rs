//! Makes `docs/performance.md`'s tables and plots from the reports of a run.
//!
//! `cargo run -p lockkit-bench --bin render`: what stands between the two marks of the page is written again, and a
//! plot for each store beside it.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use lockkit_bench::{Part, Ratio, Report, directory, median, number, spread};
use plotters::prelude::*;

/// The stores in the order of the page, one on each line.
const STORES: &str = include_str!("../../stores.txt");
const BEGIN: &str = "<!-- written by the bench: begin -->\n";
const END: &str = "<!-- written by the bench: end -->\n";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let docs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let page = docs.join("performance.md");
    let text = fs::read_to_string(&page)?;
    let (before, rest) = text.split_once(BEGIN).ok_or("the page has no mark of the beginning")?;
    let (_, after) = rest.split_once(END).ok_or("the page has no mark of the end")?;
    let mut tables = String::new();
    fs::create_dir_all(docs.join("performance"))?;
    for store in STORES.lines() {
        let Ok(report) = fs::read(directory().join(format!("{store}.json"))) else { continue };
        let report: Report = serde_json::from_slice(&report)?;
        write!(tables, "\n## {}\n\n{}.", report.store, report.server)?;
        tables += if report.quick { " A short run.\n" } else { "\n" };
        if report.parts.iter().any(|part| !part.ratios.is_empty()) {
            plot(&report, &docs.join(format!("performance/{store}.svg")))?;
            write!(tables, "\n![ratios of {store}](performance/{store}.svg)\n")?;
        }
        for part in &report.parts {
            table(&mut tables, part)?;
        }
    }
    fs::write(&page, format!("{before}{BEGIN}{tables}\n{END}{after}"))?;
    println!("{} is up to date", page.display());
    Ok(())
}

/// A part's figures, and its ratios below them.
fn table(text: &mut String, part: &Part) -> Result<()> {
    let Part { title, unit, .. } = part;
    write!(text, "\n**{title}**\n\n| | median, {unit} | least to most | |\n|---|---|---|---|\n")?;
    for row in &part.rows {
        let (least, most) = ends(&row.values);
        let between = if row.values.len() > 1 {
            format!("{} to {}", number(least), number(most))
        } else {
            String::new()
        };
        writeln!(
            text,
            "| {} | {} | {between} | {} |",
            row.label,
            number(median(&row.values)),
            row.note
        )?;
    }
    for Ratio { label, values, goal } in &part.ratios {
        let goal = if goal.is_empty() { String::new() } else { format!("goal {goal}") };
        writeln!(
            text,
            "| *{label}* | **{}** | {} | {goal} |",
            number(median(values)),
            spread(values)
        )?;
    }
    Ok(())
}

fn ends(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (least, most)
}

/// A point for each ratio's median, and a line from its least to its most, on a logarithmic scale.
fn plot(report: &Report, path: &Path) -> Result<()> {
    let lines: Vec<(String, &Ratio)> = report
        .parts
        .iter()
        .flat_map(|part| part.ratios.iter().map(|ratio| (label(part, ratio), ratio)))
        .collect();
    let count = u32::try_from(lines.len())?;
    let area = SVGBackend::new(path, (960, count * 34 + 50)).into_drawing_area();
    area.fill(&WHITE)?;
    let all = lines.iter().map(|(_, ratio)| ends(&ratio.values));
    let (least, most) =
        all.fold((0.5, 2.0), |all: (f64, f64), one| (all.0.min(one.0), all.1.max(one.1)));
    let left = least * 0.9;
    let mut chart = ChartBuilder::on(&area)
        .margin(10)
        .x_label_area_size(30)
        .build_cartesian_2d((left..most * 1.1).log_scale(), 0.0..f64::from(count))?;
    chart.configure_mesh().disable_y_mesh().disable_y_axis().x_labels(8).draw()?;
    chart.draw_series(LineSeries::new([(1.0, 0.0), (1.0, f64::from(count))], RED))?;
    for (row, (label, ratio)) in lines.iter().rev().enumerate() {
        let at = f64::from(u32::try_from(row)?) + 0.3;
        let (low, high) = ends(&ratio.values);
        chart.draw_series(LineSeries::new([(low, at), (high, at)], BLUE.stroke_width(2)))?;
        chart.draw_series([Circle::new((median(&ratio.values), at), 4, BLUE.filled())])?;
        let font = ("sans-serif", 12).into_font();
        chart.draw_series([Text::new(label.clone(), (left, at + 0.5), font)])?;
    }
    area.present()?;
    Ok(())
}

fn label(part: &Part, ratio: &Ratio) -> String {
    format!("{}: {}", part.title, ratio.label)
}
