//! The log on standard error: how much of it, and what a line looks like.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};

use engine::{Error, Result};
use serve::{LogLevels, LogSwitch};
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::layer::{Filter, Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use super::Settings;
use super::repeats::Repeats;
use super::value::{LogFormat, LogLevel};

/// Says in detail what is logged, in the words of <https://docs.rs/tracing-subscriber>'s `EnvFilter`.
const FILTER_VARIABLE: &str = "PACKHORSE_LOG";

/// The crates whose words are ours.
const OURS: [&str; 6] = ["packhorse", "serve", "store", "engine", "work", "remote"];

/// Libraries that warn of every way in which they try something in vain, with all that they hold. What comes of it in the end
/// is an error of ours.
const TALKATIVE: [&str; 1] = ["aws_config"];

/// What decides which lines are written.
type Lines = Box<dyn Filter<Registry> + Send + Sync>;

/// The log, which can be switched while it runs.
pub(crate) struct Log {
    lines: reload::Handle<Lines, Registry>,
    /// What the lines were made of; under a filter of [`FILTER_VARIABLE`], what the settings say beside it.
    levels: Mutex<LogLevels>,
}

impl LogSwitch for Log {
    fn levels(&self) -> LogLevels {
        *self.levels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, levels: LogLevels) -> Result<()> {
        let mut held = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        let broken = |error| Error::internal(format!("the log cannot be switched: {error}"));
        self.lines.reload(lines(levels)).map_err(broken)?;
        *held = levels;
        Ok(())
    }
}

/// Starts the log as the settings say.
pub(crate) fn start(settings: &Settings) -> Log {
    start_with(settings.log_format, settings.log_level)
}

/// Starts the log for commands that have no settings.
pub(crate) fn start_plain() {
    start_with(LogFormat::Text, LogLevel::Info);
}

fn start_with(format: LogFormat, level: LogLevel) -> Log {
    let levels = levels(level);
    let asked = std::env::var(FILTER_VARIABLE).ok().filter(|words| !words.is_empty());
    let (detailed, wrong) = match asked.map(EnvFilter::try_new).transpose() {
        Ok(detailed) => (detailed, None),
        Err(error) => (None, Some(error)),
    };
    let (filter, handle) = reload::Layer::new(detailed.map_or_else(|| lines(levels), |filter| Box::new(filter)));
    let filter = filter.and(Repeats::default());
    // Colours are for eyes: a file or a collector gets the bare words.
    let colours = std::io::stderr().is_terminal();
    let log = fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
    match format {
        LogFormat::Text => tracing_subscriber::registry().with(log.with_target(false).with_filter(filter)).init(),
        // Timestamp, level, target and fields, an object a line, and the span of a request that is part of a trace.
        LogFormat::Json => {
            let log = log.json().with_current_span(true).with_span_list(false);
            tracing_subscriber::registry().with(log.with_filter(filter)).init();
        }
    }
    if let Some(error) = wrong {
        tracing::warn!("{FILTER_VARIABLE} is no filter and counts as not given: {error}; 'warn,serve=debug' is one");
    }
    Log { lines: handle, levels: Mutex::new(levels) }
}

/// A level and everything above it, as switches.
fn levels(level: LogLevel) -> LogLevels {
    let verbose = match level {
        LogLevel::Error | LogLevel::Warn | LogLevel::Info => 0,
        LogLevel::Debug => 1,
        LogLevel::Trace => 2,
    };
    let (warning, info) = (level != LogLevel::Error, !matches!(level, LogLevel::Error | LogLevel::Warn));
    LogLevels { error: true, warning, info, verbose }
}

/// The lines that `levels` stands for.
fn lines(levels: LogLevels) -> Lines {
    Box::new(filter_fn(move |line| passes(levels, line)))
}

/// Whether a line is written: ours at any level that is on; what the libraries have to say, only where something is
/// wrong. A span is no line, and has to be there for the lines within it.
fn passes(levels: LogLevels, line: &Metadata<'_>) -> bool {
    let root = line.target().split("::").next().unwrap_or_default();
    let ours = OURS.contains(&root);
    let on = match *line.level() {
        Level::ERROR => levels.error,
        Level::WARN => levels.warning && (levels.verbose >= 1 || !TALKATIVE.contains(&root)),
        Level::INFO => ours && levels.info,
        Level::DEBUG => ours && levels.verbose >= 1,
        Level::TRACE => ours && levels.verbose >= 2,
    };
    on || (ours && line.is_span())
}
