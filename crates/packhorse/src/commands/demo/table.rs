//! The demo's tables: what was seen, and what it cost.

use comfy_table::{CellAlignment, Table, presets};
use work::{Cost, Summary};

use crate::commands::say;

/// Prints what `summary` and `cost` say.
pub(super) fn print(summary: &Summary, cost: &Cost) {
    let mut seen = Table::new();
    seen.load_style(presets::UTF8_FULL_CONDENSED).set_header(["class", "frames", "detections"]);
    let mut classes: Vec<_> = summary.classes.iter().collect();
    classes.sort_by_key(|(_, count)| std::cmp::Reverse(count.detections));
    for (label, count) in classes {
        seen.add_row([label.clone(), count.frames.to_string(), count.detections.to_string()]);
    }
    let all = ["any class".to_owned(), summary.frames_with_detections.to_string(), summary.detections.to_string()];
    seen.add_row(all);
    align_right(&mut seen, 1..3);
    say(format_args!("\n{} frames of {}x{}\n{seen}", summary.frames, summary.video.width, summary.video.height));

    let cpu = cost.cpu_s_per_frame;
    let mut spent = Table::new();
    spent.load_style(presets::UTF8_FULL_CONDENSED).set_header([
        "CPU a frame",
        "decode",
        "prepare",
        "infer",
        "post",
        "total",
    ]);
    let phases = [cpu.decode, cpu.prepare, cpu.infer, cpu.post, cpu.total];
    let row = |what: &str, value: &dyn Fn(f64) -> String| {
        std::iter::once(what.to_owned()).chain(phases.iter().map(|&seconds| value(seconds))).collect::<Vec<_>>()
    };
    spent.add_row(row("ms", &|seconds| format!("{:.2}", seconds * 1e3)));
    spent.add_row(row("share", &|seconds| format!("{:.1}%", 100.0 * seconds / cpu.total.max(f64::MIN_POSITIVE))));
    align_right(&mut spent, 1..6);
    say(format_args!("\n{:.1} frames a second, every frame\n{spent}", cost.fps));
}

fn align_right(table: &mut Table, columns: std::ops::Range<usize>) {
    for index in columns {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}
