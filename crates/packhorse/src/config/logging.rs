//! The log on standard error: how much of it, and what a line looks like.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use super::Settings;
use super::value::{LogFormat, LogLevel};

/// Says in detail what is logged, in the words of <https://docs.rs/tracing-subscriber>'s `EnvFilter`.
const FILTER_VARIABLE: &str = "PACKHORSE_LOG";

/// Starts the log as the settings say.
pub(crate) fn start(settings: &Settings) {
    start_with(settings.log_format, settings.log_level);
}

/// Starts the log for commands that have no settings.
pub(crate) fn start_plain() {
    start_with(LogFormat::Text, LogLevel::Info);
}

fn start_with(format: LogFormat, level: LogLevel) {
    let filter = EnvFilter::try_from_env(FILTER_VARIABLE).unwrap_or_else(|_| EnvFilter::new(directives(level)));
    // Colours are for eyes: a file or a collector gets the bare words.
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    match format {
        LogFormat::Text => log.with_target(false).init(),
        // Timestamp, level, target and fields, an object a line; spans are no part of this program's log.
        LogFormat::Json => log.json().with_current_span(false).with_span_list(false).init(),
    }
}

/// Ours at `level`; what the libraries have to say, only where something is wrong.
fn directives(level: LogLevel) -> String {
    let word = level.word();
    let others = if level == LogLevel::Error { word } else { "warn" };
    ["packhorse", "serve", "store", "engine", "work"]
        .iter()
        .fold(others.to_owned(), |all, target| format!("{all},{target}={word}"))
}
