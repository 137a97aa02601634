//! A file per subcommand: what can be typed, and what happens then.

pub(crate) mod bench;
pub(crate) mod compact;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod gc;
pub(crate) mod load;
pub(crate) mod look;
mod migrate;
pub(crate) mod models;
pub(crate) mod pack;
pub(crate) mod predict;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod queue;
pub(crate) mod remove;
pub(crate) mod serve;
mod spool;
pub(crate) mod submit;
pub(crate) mod verify;
mod wait;
pub(crate) mod work;

use std::io::Write;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::exit::Exit;

/// Prints `value` as one line of JSON on standard output, where programs read, and flushes it.
fn print_json(value: &impl Serialize) -> Result<(), Exit> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, value).map_err(std::io::Error::from)?;
    writeln!(out)?;
    Ok(out.flush()?)
}

/// Prints `text` on standard error, where people read.
fn say(text: impl std::fmt::Display) {
    // Standard error may be closed; nothing else is lost then.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A bar of bytes, and what moves it: bytes done, and bytes of all.
fn bar_of_bytes() -> (ProgressBar, impl Fn(u64, u64) + Sync) {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {decimal_bytes}/{decimal_total_bytes} {eta}") {
        bar.set_style(style);
    }
    let moved = bar.clone();
    let progress = move |done, all| {
        moved.set_length(all);
        moved.set_position(done);
    };
    (bar, progress)
}

/// `number` of `what`, in the singular or the plural.
fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// `bytes` for people, in powers of 1000 as disks are sold.
fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::human_bytes;

    #[test]
    fn bytes_are_printed_for_people() {
        for (bytes, want) in
            [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (15_150_484, "15.2 MB"), (u64::MAX, "18446744.1 TB")]
        {
            assert_eq!(human_bytes(bytes), want);
        }
    }
}
