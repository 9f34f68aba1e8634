//! What the suite's report says, and that it can be had from anywhere.

use std::sync::{Arc, OnceLock};

use lockkit_core::conformance::{
    Challenge, Fixture, Hook, Level, Outcome, Report, Time, cases, run,
};
use lockkit_core::{Applied, Error, LockName, LockProvider, Memory, Result, async_trait};
use serde_json::Value;

const NAME: &str = "<b>\"ours\" & 'theirs'</b>";
const WHY: &str = "<script>alert(\"no\ttools\")</script>";

/// The reference, whose remover may be out of order.
struct Reference {
    memory: Memory,
    removes: bool,
}

impl Reference {
    fn new(removes: bool) -> Self {
        Self { memory: Memory::new(), removes }
    }
}

#[async_trait]
impl Fixture for Reference {
    async fn connect(&self) -> Result<Arc<dyn LockProvider>> {
        Ok(Arc::new(self.memory.clone()))
    }

    fn store(&self) -> String {
        NAME.to_owned()
    }

    fn time(&self) -> Time {
        Time::Virtual
    }

    fn fresh(&self) -> Option<Arc<dyn Fixture>> {
        Some(Arc::new(Self::new(self.removes)))
    }

    fn hooks(&self) -> &[Hook] {
        &[Hook::Remove]
    }

    async fn remove(&self, name: &LockName) -> Result<()> {
        if !self.removes {
            return Err(Error::unavailable(Applied::No, WHY));
        }
        self.memory.expire(name.as_str());
        Ok(())
    }
}

/// Run inside a runtime of many threads, once for all tests.
fn good() -> &'static Report {
    static REPORT: OnceLock<Report> = OnceLock::new();
    REPORT.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
        runtime.block_on(async { run(&Arc::new(Reference::new(true))).unwrap() })
    })
}

/// Run inside a runtime of this thread alone, once for all tests.
fn bad() -> &'static Report {
    static REPORT: OnceLock<Report> = OnceLock::new();
    REPORT.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async { run(&Arc::new(Reference::new(false))).unwrap() })
    })
}

fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "passed",
        Outcome::Failed(_) => "failed",
        Outcome::NotClaimed(_) => "not claimed",
        Outcome::NotReached(_) => "not reached",
        other => panic!("{other:?} is new here"),
    }
}

fn count(report: &Report, ends: &str) -> usize {
    report.runs().iter().filter(|run| word(&run.outcome) == ends).count()
}

#[test]
fn a_report_has_every_case_and_no_skip_among_the_passed() {
    let report = good();
    let ids: Vec<_> = report.runs().iter().map(|run| run.case.id).collect();
    assert_eq!(ids, cases().iter().map(|case| case.id).collect::<Vec<_>>());
    assert!(report.is_passed(), "{report}");
    let of = |id| &report.runs().iter().find(|run| run.case.id == id).unwrap().outcome;
    let claim = "C4: tokens survive a data loss".to_owned();
    assert_eq!(*of("SF-17"), Outcome::NotClaimed(claim.clone()));
    assert_eq!(*of("AT-05"), Outcome::NotReached("the fixture lacks Fixture::linked".to_owned()));
    let text = report.to_string();
    assert!(text.contains(&format!("not claimed ({claim}): SF-17\n")), "{text}");
    assert!(text.contains("not reached (the fixture lacks Fixture::linked): AT-05, "), "{text}");
    let all = text.lines().find(|line| line.starts_with("all ")).unwrap();
    let counted: Vec<_> = all.split_whitespace().skip(1).take(4).collect();
    let ends = ["passed", "failed", "not claimed", "not reached"];
    assert_eq!(counted, ends.map(|end| count(report, end).to_string()));
    for challenge in Challenge::ALL {
        assert!(text.contains(&format!("\n{challenge} ")), "{challenge} in\n{text}");
    }
}

#[test]
fn what_cases_measure_is_in_the_report() {
    for (id, what) in [("SF-10", "margin, smallest"), ("PF-02", "hand-off, p99")] {
        let run = good().runs().iter().find(|run| run.case.id == id).unwrap();
        assert!(run.figures.iter().any(|figure| figure.what == what), "{:?}", run.figures);
        assert!(good().to_html().contains(what));
    }
}

#[test]
fn the_json_agrees_with_the_outcomes() {
    for report in [good(), bad()] {
        let json: Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(json["store"], NAME);
        assert_eq!(json["passed"], report.is_passed());
        for end in ["passed", "failed", "not claimed", "not reached"] {
            assert_eq!(json["summary"][end.replace(' ', "_")], count(report, end), "{end}");
        }
        for part in ["levels", "challenges"] {
            let parts = json[part].as_array().unwrap();
            let cases = parts.iter().map(|part| part["cases"].as_u64().unwrap()).sum::<u64>();
            assert_eq!(cases, report.runs().len() as u64, "{part}");
        }
        let listed = json["cases"].as_array().unwrap();
        assert_eq!(listed.len(), report.runs().len());
        for (listed, run) in listed.iter().zip(report.runs()) {
            assert_eq!(listed["id"], run.case.id);
            assert_eq!(listed["outcome"], word(&run.outcome));
            assert_eq!(listed["sentence"], run.case.sentence);
            assert_eq!(listed["figures"].as_array().unwrap().len(), run.figures.len());
        }
        let removed = listed.iter().find(|case| case["id"] == "SF-19").unwrap();
        assert_eq!(removed["reason"].is_null(), report.is_passed());
    }
}

#[test]
fn a_failed_case_is_seen_everywhere() {
    let report = bad();
    assert!(!report.is_passed());
    let failed: Vec<_> = report.failed().map(|run| run.case.id).collect();
    assert!(failed.contains(&"SF-19"), "{failed:?}");
    let text = report.to_string();
    assert!(text.contains("\nfailed: SF-19"), "{text}");
    let html = report.to_html();
    assert!(html.contains("<h2>What failed</h2>"), "{html}");
    assert!(html.contains("<a class=\"failed\" href=\"#SF-19\""), "{html}");
    assert!(!good().to_html().contains("<h2>What failed</h2>"));
}

#[test]
fn a_failure_tells_what_was_seen_what_the_contract_expects_and_what_was_done() {
    let text = bad().to_string();
    let failure = text.split_once("\nfailed: SF-19: ").unwrap().1;
    let mut lines = failure.lines();
    let seen = lines.next().unwrap();
    assert!(seen.starts_with("a call that must succeed here did not: the store is unavailable"));
    let expected = lines.next().unwrap();
    assert!(expected.starts_with("  Clause C7 ("), "{expected}");
    assert!(expected.ends_with("is told, and the next is granted"), "{expected}");
    assert!(lines.next().unwrap().starts_with("  The last calls, "), "{failure}");
    let first = lines.next().unwrap().trim_start();
    assert!(first.contains("s  client ") && first.contains(": granted with token 1"), "{first}");
    assert!(!failure.contains(".rs:"), "a line of the suite's source: {failure}");
}

#[test]
fn the_failures_of_fewest_calls_come_first_and_the_verdict_says_what_was_not_reached() {
    let report = bad();
    let calls: Vec<_> = report.failed().map(|run| (run.case.level(), run.calls)).collect();
    assert!(calls.len() > 1 && calls.is_sorted(), "{calls:?}");
    let levels: Vec<_> = report.levels_not_reached().collect();
    assert_eq!(levels, [Level::Link, Level::Processes]);
    let verdict = "not reached: level 3 the link, level 4 processes and servers";
    for (report, outcome) in [(good(), "passed"), (report, "FAILED, ")] {
        let text = report.to_string();
        let head = text.lines().next().unwrap();
        assert!(head.contains(outcome) && head.ends_with(verdict), "{head}");
        assert!(text.contains("All clients ran on one host"), "{text}");
        assert!(report.to_html().contains("not reached: level 3 the link"), "the page");
    }
}

#[test]
fn a_page_needs_nothing_else_and_shows_every_text_as_text() {
    for html in [good().to_html(), bad().to_html()] {
        for alien in ["<script", "<b>\"", "<link", "@import", "url(", "src=", "http"] {
            assert!(!html.contains(alien), "{alien} in the page");
        }
        assert!(html.contains("&lt;b&gt;&quot;ours&quot; &amp; &#x27;theirs&#x27;&lt;&#x2f;b&gt;"));
        for case in cases() {
            assert!(html.contains(&format!("<tr id=\"{}\">", case.id)), "{case}");
        }
        for element in ["section", "table", "tr", "td", "a", "small", "pre", "dl", "div"] {
            let [opened, closed] = [format!("<{element}"), format!("</{element}>")];
            let opened = html.split(&opened).skip(1).filter(|rest| rest.starts_with([' ', '>']));
            assert_eq!(opened.count(), html.matches(&closed).count(), "{element}");
        }
    }
    assert!(
        bad().to_html().contains("&lt;script&gt;alert(&quot;no\ttools&quot;)&lt;&#x2f;script&gt;")
    );
}

#[test]
fn a_report_is_written_beside_others() {
    let directory = std::env::temp_dir().join(format!("lockkit-report-{}", std::process::id()));
    let written = good().write_to(&directory).unwrap();
    for (file, text) in written.iter().zip([good().to_json(), good().to_html()]) {
        assert_eq!(file.parent(), Some(&*directory));
        assert_eq!(std::fs::read_to_string(file).unwrap(), text);
    }
    std::fs::remove_dir_all(directory).unwrap();
}
