//! Signals: SIGTERM and SIGINT ask for a drain, once; whoever waits is told.

use engine::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

/// Waits for the first SIGTERM or SIGINT.
pub(crate) fn wait() -> Result<()> {
    let (stop, stopped) = std::sync::mpsc::sync_channel(1);
    on_stop(move || {
        // Nobody waits any more when the process is on its way out already.
        let _ = stop.send(());
    })?;
    // An error would mean that the signal thread is gone, and then nobody could ask us to stop.
    let _ = stopped.recv();
    Ok(())
}

/// Calls `then` on a thread of its own at the first SIGTERM or SIGINT. A second signal ends the process at once, as
/// whoever sends it means to. The thread lives as long as the process: a signal may come at any time.
pub(crate) fn on_stop(then: impl FnOnce() + Send + 'static) -> Result<()> {
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
                        then();
                    }
                    // What the signal would have done without us; there is nothing to do if even that fails.
                    None => drop(emulate_default_handler(signal)),
                }
            }
        })
        .map(drop)
        .map_err(failed)
}
