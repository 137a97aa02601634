//! When requests are due in an open loop.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use engine::{Error, Result, cpu};
use tokio::sync::{Mutex, mpsc};

/// Hands out the times at which requests are due, each when it has come.
///
/// A thread sleeps from one to the next, because a runtime's timers are too coarse: they count whole milliseconds.
pub(super) struct Arrivals {
    /// Whoever is free waits here; the lock is fair, so every connection has its turn.
    due: Mutex<mpsc::Receiver<Instant>>,
    /// Gives the CPU time that it took.
    pacer: JoinHandle<Duration>,
}

impl Arrivals {
    /// `per_second` of them from `start` on, for `time`.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) for a rate that cannot be kept.
    pub(super) fn start(start: Instant, per_second: f64, time: Duration) -> Result<Self> {
        const PER_SECOND_MAX: f64 = 1e6;
        if !(per_second > 0.0 && per_second <= PER_SECOND_MAX) {
            return Err(Error::invalid(format!("{per_second} requests a second cannot be sent; give 0 to 1000000")));
        }
        let count = (per_second * time.as_secs_f64()) as u64;
        // Room for all of them: one that waits for a connection is sent late, and never holds up those after it.
        let (sender, receiver) = mpsc::channel(usize::try_from(count).unwrap_or(usize::MAX).max(1));
        let body = move || {
            for index in 0..count {
                let due = start + Duration::from_secs_f64(index as f64 / per_second);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                if sender.blocking_send(due).is_err() {
                    break;
                }
            }
            cpu::thread_cpu()
        };
        let pacer = std::thread::Builder::new()
            .name("pacer".to_owned())
            .spawn(body)
            .map_err(|source| Error::internal(format!("no thread to keep the pace: {source}")))?;
        Ok(Self { due: Mutex::new(receiver), pacer })
    }

    /// The next request that is due; waits for it. `None` when there are no more.
    pub(super) async fn next(&self) -> Option<Instant> {
        self.due.lock().await.recv().await
    }

    /// The CPU time that keeping the pace took.
    ///
    /// # Errors
    /// When the thread panicked.
    pub(super) fn stop(self) -> Result<Duration> {
        drop(self.due);
        self.pacer.join().map_err(|_| Error::internal("the pacer panicked"))
    }
}
