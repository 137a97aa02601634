//! Signals: SIGTERM and SIGINT ask for a drain, once; whoever waits is told. A file past its limit is an error and no end.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use engine::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

/// Who asks for the drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// Whatever runs the process, and others beside it.
    Supervisor,
    /// A person at a terminal, who waits.
    Person,
}

/// Hears of the first SIGTERM or SIGINT from here on, so that whoever was told that the process runs can end it well.
pub(crate) fn listen() -> Result<Asked> {
    let (stop, stopped) = std::sync::mpsc::sync_channel(1);
    on_signal(move |signal| {
        // Nobody waits any more when the process is on its way out already.
        let _ = stop.send(if signal == SIGINT { Asker::Person } else { Asker::Supervisor });
    })?;
    Ok(Asked(stopped))
}

/// What [`listen`] heard.
pub(crate) struct Asked(Receiver<Asker>);

impl Asked {
    /// Waits until somebody asks.
    pub(crate) fn wait(self) -> Asker {
        // An error would mean that the signal thread is gone, and then nobody could ask us to stop.
        self.0.recv().unwrap_or(Asker::Supervisor)
    }
}

/// From here on a write past the limit on the size of files (`ulimit -f`) fails, and the process goes on. Programs that it
/// starts are as they were.
pub(crate) fn outlive_file_limits() -> Result<()> {
    let failed = |source: std::io::Error| Error::internal(format!("SIGXFSZ cannot be caught: {source}"));
    // The error of the write says all that there is to know.
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map(drop).map_err(failed)
}

/// As [`on_signal`], for those to whom both signals are the same.
pub(crate) fn on_stop(then: impl FnOnce() + Send + 'static) -> Result<()> {
    on_signal(|_| then())
}

/// Calls `then` on a thread of its own at the first SIGTERM or SIGINT. A second signal ends the process at once, as
/// whoever sends it means to. The thread lives as long as the process: a signal may come at any time.
fn on_signal(then: impl FnOnce(i32) + Send + 'static) -> Result<()> {
    let failed = |source: std::io::Error| Error::internal(format!("signals cannot be waited for: {source}"));
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(failed)?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let mut then = Some(then);
            for signal in signals.forever() {
                match then.take() {
                    Some(then) => {
                        tracing::info!("asked to stop; finishing what is held (a second signal stops at once)");
                        then(signal);
                    }
                    // What the signal would have done without us; there is nothing to do if even that fails.
                    None => drop(emulate_default_handler(signal)),
                }
            }
        })
        .map(drop)
        .map_err(failed)
}
