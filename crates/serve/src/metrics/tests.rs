//! Metrics as a scraper sees them, and their page of documentation.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Mutex;

use super::*;
use crate::residency::MemoryFigures;

/// Models that do as they are told: id, name, counts.
#[derive(Default)]
struct Told(Mutex<Vec<(u64, String, ModelCounts)>>);

impl Told {
    fn set(&self, models: impl IntoIterator<Item = (u64, String, ModelCounts)>) {
        *self.0.lock().unwrap() = models.into_iter().collect();
    }
}

impl ModelSource for Told {
    fn visit(&self, each: &mut dyn FnMut(u64, &str, ModelCounts)) {
        for (id, name, counts) in self.0.lock().unwrap().iter() {
            each(*id, name, *counts);
        }
    }

    fn fallbacks(&self) -> usize {
        0
    }
}

impl MemorySource for Told {
    fn figures(&self) -> MemoryFigures {
        MemoryFigures {
            limit_bytes: 100,
            charged_bytes: [1, 2, 3, 6],
            bodies_bytes: 4,
            other_bytes: 5,
            ..Default::default()
        }
    }

    fn models(&self, each: &mut dyn FnMut(&str, u64)) {
        for (id, name, _) in self.0.lock().unwrap().iter() {
            each(name, id + 1);
        }
    }

    fn hot(&self) -> usize {
        7
    }

    fn programs(&self, each: &mut dyn FnMut(ProgramMemory<'_>)) {
        for (id, _, _) in self.0.lock().unwrap().iter() {
            each(ProgramMemory { hash: &format!("{id:064x}"), bytes: id + 1 });
        }
    }
}

fn watched() -> (Metrics, Arc<Told>) {
    let (metrics, told) = (Metrics::default(), Arc::new(Told::default()));
    metrics.watch_models(Arc::clone(&told) as Arc<dyn ModelSource>);
    metrics.watch_memory(Arc::clone(&told) as Arc<dyn MemorySource>);
    (metrics, told)
}

fn answered(count: u64) -> ModelCounts {
    let ms = 1_000_000;
    ModelCounts { answered: count, failed: 0, items: 2 * count, runs: count, queue_ns: count * ms, compute_ns: ms }
}

/// The series of one family: labels as they are written, and the value.
fn series(text: &str, name: &str) -> BTreeMap<String, f64> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let parts = samples.filter_map(|line| {
        let (head, value) = line.rsplit_once(' ')?;
        let labels = head.strip_prefix(name)?;
        let exact = labels.is_empty() || labels.starts_with('{');
        exact.then(|| (labels.to_owned(), value.parse().unwrap()))
    });
    parts.collect()
}

fn requests_of(text: &str, model: &str) -> Option<f64> {
    let label = format!("{{model=\"{model}\",outcome=\"ok\"}}");
    series(text, "packhorse_model_requests_total").get(&label).copied()
}

#[test]
fn ten_thousand_models_give_a_bounded_scrape_that_adds_up() {
    const MODELS: u64 = 10_000;
    let (metrics, told) = watched();
    told.set((0..MODELS).map(|id| (id, format!("model-{id:05}"), answered(id))));
    let text = metrics.text();
    let total = (MODELS * (MODELS - 1) / 2) as f64;
    for (name, want, rows) in [
        ("packhorse_models", MODELS as f64, 1),
        ("packhorse_model_requests_total", total, 102),
        ("packhorse_model_items_total", 2.0 * total, 51),
        ("packhorse_model_runs_total", total, 51),
        ("packhorse_model_queue_seconds_total", total / 1000.0, 51),
        ("packhorse_model_compute_seconds_total", MODELS as f64 / 1000.0, 51),
        ("packhorse_models_ready", MODELS as f64, 1),
        ("packhorse_model_memory_bytes", total + MODELS as f64, 51),
        ("packhorse_memory_budget_bytes", 100.0, 1),
        ("packhorse_memory_bytes", 21.0, 7),
    ] {
        let found = series(&text, name);
        let sum: f64 = found.values().sum();
        assert!((sum - want).abs() < 1e-6 * want && found.len() == rows, "{name}: {sum}, {} series", found.len());
    }
    assert_eq!(requests_of(&text, "model-09999"), Some(9999.0));
    assert_eq!(requests_of(&text, "model-09950"), Some(9950.0));
    assert_eq!(requests_of(&text, "model-09949"), None);
    assert!(text.len() < 64 << 10, "{} bytes", text.len());
}

#[test]
fn no_series_shrinks_when_models_change_places_or_go() {
    let (metrics, told) = watched();
    let name = |id: u64| format!("m{id:03}");
    let other = |text: &str| requests_of(text, "_other").unwrap();
    // Sixty models, the first ten idle: they are the others.
    let mut counts: Vec<u64> = (0..60).map(|id| if id < 10 { 4 } else { 100 }).collect();
    let tell = |counts: &[u64]| {
        told.set((0..60).map(|id| (id, name(id), answered(counts[usize::try_from(id).unwrap()]))));
        metrics.text()
    };
    let text = tell(&counts);
    assert_eq!((requests_of(&text, "m000"), other(&text)), (None, 40.0));
    // A little busier than the least busy of the named is not enough to take its place.
    counts[0] = 110;
    let text = tell(&counts);
    assert_eq!((requests_of(&text, "m000"), other(&text)), (None, 146.0));
    // What was told among the others stays there; its own series begins where that ended.
    counts[0] = 200;
    let text = tell(&counts);
    assert_eq!((requests_of(&text, "m000"), other(&text)), (Some(90.0), 146.0));
    // One of the named had to go, and what it does now is with the others.
    let gone: Vec<u64> = (10..60).filter(|&id| requests_of(&text, &name(id)).is_none()).collect();
    let [gone] = gone[..] else { panic!("not one but {gone:?} are gone") };
    counts[usize::try_from(gone).unwrap()] += 5;
    assert_eq!(other(&tell(&counts)), 151.0);
    // Unloaded: its series ends. Loaded again: another id, counted from nothing.
    told.set([(60, name(0), answered(3))]);
    let text = metrics.text();
    assert_eq!((requests_of(&text, "m000"), requests_of(&text, "m020"), other(&text)), (Some(93.0), None, 151.0));
}

#[test]
fn two_versions_of_a_model_are_one_series() {
    let (metrics, told) = watched();
    told.set([(1, "m".to_owned(), answered(3)), (2, "m".to_owned(), answered(4))]);
    let text = metrics.text();
    assert_eq!((requests_of(&text, "m"), requests_of(&text, "_other")), (Some(7.0), Some(0.0)));
    assert_eq!(series(&text, "packhorse_models").get(""), Some(&2.0));
}

#[test]
fn names_are_escaped() {
    let (metrics, told) = watched();
    told.set([(1, "a\"b\\c\nd".to_owned(), answered(3))]);
    assert!(metrics.text().contains(r#"packhorse_model_runs_total{model="a\"b\\c\nd"} 3"#), "{}", metrics.text());
}

#[test]
fn lanes_batches_and_latencies_are_counted() {
    let metrics = Metrics::default();
    let ms = Duration::from_millis;
    metrics.ran(0, 4, ms(250));
    metrics.ran(1, 1, ms(500));
    metrics.ran(1, 1, ms(500));
    let timing = Timing { queue: ms(3), compute: ms(70), compute_cpu: ms(70) };
    metrics.answered(Ok(timing));
    metrics.answered(Err(&engine::Error::internal("broken")));
    metrics.refused(ErrorKind::Exhausted);
    let text = metrics.text();
    for (name, labels, want) in [
        ("packhorse_lane_busy_seconds_total", r#"{lane="0"}"#, 0.25),
        ("packhorse_lane_busy_seconds_total", r#"{lane="1"}"#, 1.0),
        ("packhorse_batch_items_bucket", r#"{le="1.0"}"#, 2.0),
        ("packhorse_batch_items_bucket", r#"{le="4.0"}"#, 3.0),
        ("packhorse_batch_items_sum", "", 6.0),
        ("packhorse_request_queue_seconds_bucket", r#"{le="0.0022"}"#, 0.0),
        ("packhorse_request_queue_seconds_bucket", r#"{le="0.0033"}"#, 1.0),
        ("packhorse_request_compute_seconds_bucket", r#"{le="0.068"}"#, 0.0),
        ("packhorse_request_compute_seconds_bucket", r#"{le="0.1"}"#, 1.0),
        ("packhorse_request_compute_seconds_bucket", r#"{le="68.0"}"#, 1.0),
        ("packhorse_requests_answered_total", "", 1.0),
        ("packhorse_requests_refused_total", r#"{reason="internal"}"#, 1.0),
        ("packhorse_requests_refused_total", r#"{reason="exhausted"}"#, 1.0),
        ("packhorse_requests_refused_total", r#"{reason="cancelled"}"#, 0.0),
    ] {
        assert_eq!(series(&text, name).get(labels), Some(&want), "{name}{labels}\n{text}");
    }
    assert!(series(&text, "process_cpu_seconds_total")[""] > 0.0);
    let (resident, private) = ("process_resident_memory_bytes", "process_private_memory_bytes");
    assert!(series(&text, resident)[""] >= series(&text, private)[""]);
}

struct Somebody;

impl OtherSource for Somebody {
    fn told(&self) -> Vec<OtherMetric> {
        let samples = vec![(Some(("at", "here")), 2.0), (Some(("at", "there")), 3.5)];
        let first = OtherMetric { name: "things", help: "What somebody counts", is_counter: true, samples };
        let second = OtherMetric { name: "others", help: "What he has", is_counter: false, samples: vec![(None, 1.0)] };
        vec![first, second]
    }
}

#[test]
fn what_others_count_is_told_too() {
    let metrics = Metrics::default();
    assert!(!metrics.text().contains("packhorse_things"));
    metrics.watch_others(Arc::new(Somebody));
    let text = metrics.text();
    for (name, labels, want) in [
        ("packhorse_things_total", r#"{at="here"}"#, 2.0),
        ("packhorse_things_total", r#"{at="there"}"#, 3.5),
        ("packhorse_others", "", 1.0),
    ] {
        assert_eq!(series(&text, name).get(labels), Some(&want), "{name}{labels}\n{text}");
    }
}

/// The rows between the marks of docs/metrics.md. `UPDATE=1 cargo test -p serve page` writes them.
#[test]
fn the_page_of_metrics_is_what_is_scraped() {
    const MARKS: [&str; 2] = ["<!-- metrics: generated -->\n", "<!-- end of metrics -->\n"];
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(MARKS[0]).unwrap();
    let (rows, after) = rest.split_once(MARKS[1]).unwrap();
    let (metrics, told) = watched();
    told.set([(1, "m".to_owned(), answered(3))]);
    metrics.ran(0, 1, Duration::ZERO);
    let want = rows_of_the_page(&metrics.text());
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, format!("{before}{}{want}{}{after}", MARKS[0], MARKS[1])).unwrap();
        return;
    }
    assert_eq!(rows, want, "docs/metrics.md is stale: run UPDATE=1 cargo test -p serve page");
}

fn rows_of_the_page(text: &str) -> String {
    let mut rows = "| metric | type | labels | what it is |\n|---|---|---|---|\n".to_owned();
    let mut help = "";
    for line in text.lines() {
        if let Some((_, told)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            help = told;
        }
        let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) else { continue };
        let name = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
        let labelled = if kind == "histogram" { format!("{name}_count") } else { name.clone() };
        let found = series(text, &labelled);
        let labels = found.keys().next().unwrap_or_else(|| panic!("{name} has no sample"));
        let names: Vec<String> = labels
            .trim_matches(['{', '}'])
            .split(',')
            .filter_map(|label| label.split_once('='))
            .map(|(label, _)| format!("`{label}`"))
            .collect();
        writeln!(rows, "| `{name}` | {kind} | {} | {help} |", names.join(", ")).unwrap();
    }
    rows
}
