//! The network's threads. A connection stays on one of them from its first byte to its last: what it asks for is read
//! there, handed over, and answered there, so that no step of a request wakes a thread that it has no need of. What is
//! brief is even computed there ([`guest`](crate::guest)).

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use engine::{Error, Result};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;
use tokio::task;

use crate::Scheduler;

/// Threads that drive connections and listeners, until [`stop`](Self::stop).
#[derive(Debug)]
pub struct Network {
    connections: Connections,
    threads: Vec<Thread>,
}

#[derive(Debug)]
struct Thread {
    /// Dropped to say stop.
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// Where connections go: each to the thread that has the fewest.
#[derive(Clone, Debug)]
pub struct Connections(Arc<[Place]>);

#[derive(Debug)]
struct Place {
    runtime: Handle,
    /// Counted up where a connection is placed, and down when it ends; a hint, so that nothing else is read by it.
    held: AtomicUsize,
}

impl Network {
    /// Starts so many `threads`, at least one, for what is served from `scheduler`.
    ///
    /// # Errors
    /// [`Internal`](engine::ErrorKind::Internal) when the system gives no thread or no event queue.
    pub fn start(scheduler: &Arc<Scheduler>, threads: usize) -> Result<Self> {
        let started: Vec<_> = (0..threads.max(1)).map(|_| Thread::start(scheduler)).collect::<Result<_>>()?;
        let (threads, runtimes): (Vec<_>, Vec<_>) = started.into_iter().unzip();
        Ok(Self { connections: Connections::on(runtimes), threads })
    }

    /// Where its connections go.
    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    /// Runs `task`, which should not take long at a time, on one of the threads.
    pub fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> task::JoinHandle<T> {
        self.runtime().spawn(task)
    }

    /// Waits for `task` on the calling thread.
    pub fn block_on<T>(&self, task: impl Future<Output = T>) -> T {
        self.runtime().block_on(task)
    }

    /// The runtime of one of the threads; within it, sockets and timers can be made.
    pub fn runtime(&self) -> &Handle {
        &self.connections.0[0].runtime
    }

    /// Drops what still goes on, and joins the threads.
    pub fn stop(self) {
        let threads: Vec<_> = self.threads.into_iter().map(|Thread { stop, thread }| (drop(stop), thread)).collect();
        for (_, thread) in threads {
            // A panic has been printed by the thread itself.
            let _ = thread.join();
        }
    }
}

impl Thread {
    fn start(scheduler: &Arc<Scheduler>) -> Result<(Self, Handle)> {
        let broken = |source: std::io::Error| Error::internal(format!("the network cannot be used: {source}"));
        let looks = Arc::clone(scheduler);
        let runtime = Builder::new_current_thread()
            .enable_all()
            // For long bodies; two, so that a very long one holds up nobody else.
            .max_blocking_threads(2)
            .on_thread_park(move || looks.look())
            .build()
            .map_err(broken)?;
        let handle = runtime.handle().clone();
        let (stop, stopping) = oneshot::channel();
        let scheduler = Arc::clone(scheduler);
        let body = move || {
            scheduler.welcome();
            engine::cpu::be_prompt();
            drive(runtime, stopping);
        };
        let thread = std::thread::Builder::new().name("network".to_owned()).spawn(body).map_err(broken)?;
        Ok((Self { stop, thread }, handle))
    }
}

fn drive(runtime: Runtime, stopping: oneshot::Receiver<()>) {
    // Nothing is sent; the sender is dropped.
    let _ = runtime.block_on(stopping);
    runtime.shutdown_background();
}

impl Connections {
    /// On the thread, or threads, of the current runtime.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn here() -> Self {
        Self::on(vec![Handle::current()])
    }

    fn on(runtimes: Vec<Handle>) -> Self {
        Self(runtimes.into_iter().map(|runtime| Place { runtime, held: AtomicUsize::new(0) }).collect())
    }

    /// Places a connection: runs `connection` to its end.
    pub(crate) fn place(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let fewest = (0..self.0.len()).min_by_key(|&index| self.0[index].held.load(Ordering::Relaxed)).unwrap_or(0);
        self.0[fewest].held.fetch_add(1, Ordering::Relaxed);
        let counted = Counted { places: self.clone(), index: fewest };
        self.0[fewest].runtime.spawn(async move {
            connection.await;
            drop(counted);
        });
    }
}

/// Counts a connection down when it ends, however it ends.
struct Counted {
    places: Connections,
    index: usize,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.places.0[self.index].held.fetch_sub(1, Ordering::Relaxed);
    }
}
