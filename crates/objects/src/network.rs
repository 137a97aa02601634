//! The one owner of what talking to the outside takes: a few threads, connections, credentials.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use engine::{Error, Result};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{OnceCell, Semaphore, watch};

use crate::address::{Address, Scheme};
use crate::cloud::trace;
use crate::{Place, aws, cloud, folder, http};

/// The bounds of every call.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Threads that move bytes.
    pub threads: usize,
    /// Whether they step back for whoever computes.
    pub background: bool,
    /// Ranges of objects that are read at once, by whoever.
    pub parallel: usize,
    /// The longest that a connection may take to be made.
    pub connect: Duration,
    /// The longest silence of a connection from which something is expected.
    pub silence: Duration,
    /// How long a request that fails in passing is tried again, with growing pauses.
    pub retry: Duration,
    /// The longest that one request, or one range of an object, may take in all.
    pub total: Duration,
    /// The same, and the longest silence, once there is a hurry.
    pub hurry: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            threads: 2,
            background: false,
            parallel: 32,
            connect: Duration::from_secs(5),
            silence: Duration::from_secs(20),
            retry: Duration::from_secs(60),
            total: Duration::from_secs(180),
            hurry: Duration::from_secs(5),
        }
    }
}

/// The variables that say where services are and who asks: those of the process, or others in their stead.
#[derive(Clone, Debug, Default)]
pub struct Variables(Arc<BTreeMap<String, String>>);

impl Variables {
    /// Those of this process, as they are now.
    pub fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self(Arc::new(std::env::vars_os().filter_map(text).collect()))
    }

    /// The value of the variable called `name`; one that is empty is none.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Those whose names begin with `prefix`.
    pub(crate) fn starting_with<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let of = self.0.iter().filter(move |(name, value)| name.starts_with(prefix) && !value.is_empty());
        of.map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Variables {
    fn from(pairs: [(&str, &str); N]) -> Self {
        Self(Arc::new(pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()))
    }
}

/// What talking to the outside takes. Its calls, and those of the places that it opens, block the calling thread and must
/// not be made from within an asynchronous task.
pub struct Network {
    /// Stops when this goes; until then driven by its own threads.
    runtime: Option<Runtime>,
    pub(crate) limits: Limits,
    pub(crate) variables: Variables,
    pub(crate) clients: http::Clients,
    /// Given out to whoever reads a range, for as long as that takes.
    pub(crate) reading: Arc<Semaphore>,
    /// Who asks Amazon's services; found out at the first need.
    aws: OnceCell<Arc<aws::Account>>,
    /// Turns true when nobody is to wait for long.
    hurried: watch::Sender<bool>,
    /// Turns true when everything that waits is to give up.
    stopped: watch::Sender<bool>,
}

impl Network {
    /// Starts the threads.
    ///
    /// # Errors
    /// [`Internal`](engine::ErrorKind::Internal) when the system gives no threads,
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) for certificates that `AWS_CA_BUNDLE` names and that are none.
    pub fn start(limits: Limits, variables: Variables) -> Result<Arc<Self>> {
        let background = limits.background;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(limits.threads.max(1))
            .max_blocking_threads(4)
            .thread_name("objects")
            .on_thread_start(move || {
                if background {
                    engine::cpu::step_back();
                }
            })
            .enable_all()
            .build()
            .map_err(|source| Error::internal(format!("no threads for the network: {source}")))?;
        let clients = http::Clients::new(&limits, &variables)?;
        let (hurried, stopped) = (watch::Sender::new(false), watch::Sender::new(false));
        let reading = Arc::new(Semaphore::new(limits.parallel.clamp(1, Semaphore::MAX_PERMITS)));
        let (runtime, aws) = (Some(runtime), OnceCell::new());
        Ok(Arc::new(Self { runtime, limits, variables, clients, reading, aws, hurried, stopped }))
    }

    /// The place that `text` names; see [`Address::parse`]. Nothing is asked of it yet, but for Amazon's who asks and where.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) for a text that is no place or settings that cannot be,
    /// [`Forbidden`](engine::ErrorKind::Forbidden) without credentials.
    pub fn place(self: &Arc<Self>, text: &str) -> Result<Place> {
        self.open(Address::parse(text)?)
    }

    /// The place of the object whose URL `text` is, and its key there.
    ///
    /// # Errors
    /// As [`place`](Self::place).
    pub fn object(self: &Arc<Self>, text: &str) -> Result<(Place, String)> {
        let (address, key) = Address::parse_object(text)?;
        Ok((self.open(address)?, key))
    }

    fn open(self: &Arc<Self>, address: Address) -> Result<Place> {
        let back: Arc<dyn crate::place::Backend> = match address.scheme {
            Scheme::Folder => Arc::new(folder::Folder::new(&address)),
            Scheme::Http => Arc::new(http::Web::new(Arc::clone(self), address.clone())),
            Scheme::S3 | Scheme::Gcs | Scheme::Azure => Arc::new(cloud::Cloud::open(self, &address)?),
        };
        Ok(Place::new(address, back))
    }

    /// Who asks Amazon's services, for clients of those that are no places of objects.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) for a profile that is not there or broken.
    pub fn aws(&self) -> Result<Arc<aws::Account>> {
        self.block_on(self.aws_account())
    }

    pub(crate) async fn aws_account(&self) -> Result<Arc<aws::Account>> {
        let account = self.aws.get_or_try_init(|| async { aws::Account::find(self).await.map(Arc::new) });
        account.await.map(Arc::clone)
    }

    /// Runs `task` to its end on the calling thread, with this network's threads behind it.
    pub fn block_on<T>(&self, task: impl Future<Output = T>) -> T {
        self.handle().block_on(trace::scope(task))
    }

    /// As [`block_on`](Self::block_on), but not longer than a request may take, in a hurry or not, nor than until the network
    /// is stopped.
    pub(crate) fn run<T>(&self, what: impl Fn() -> String, task: impl Future<Output = Result<T>>) -> Result<T> {
        let limit = self.limits.total;
        self.block_on(async {
            let timed = self.while_there_is_time(tokio::time::timeout(limit, task)).await?;
            timed.unwrap_or_else(|_| Err(too_slow(limit)))
        })
        .map_err(|error| error.context(what()))
    }

    /// As [`block_on`](Self::block_on), for as long as `wanted` says so, which is asked ten times a second, and not longer
    /// than `limit`: what is not wanted any more is dropped where it stands, and `None`.
    ///
    /// # Errors
    /// The task's own, and [`Unavailable`](engine::ErrorKind::Unavailable) when it took too long.
    pub fn run_while<T>(
        &self,
        limit: Duration,
        wanted: &dyn Fn() -> bool,
        task: impl Future<Output = Result<T>>,
    ) -> Result<Option<T>> {
        const LOOK: Duration = Duration::from_millis(100);
        let unwanted = async {
            while wanted() {
                tokio::time::sleep(LOOK).await;
            }
        };
        self.block_on(async {
            tokio::select! {
                biased;
                done = self.until_stopped(tokio::time::timeout(limit, task)) => done?.unwrap_or_else(|_| Err(too_slow(limit))).map(Some),
                () = unwanted => Ok(None),
            }
        })
    }

    /// Where Amazon's service called `id` is, such as `SQS` or `Auto Scaling`, when somebody said another address than its
    /// own.
    ///
    /// # Errors
    /// As [`aws`](Self::aws).
    pub fn aws_endpoint(&self, id: &str) -> Result<Option<String>> {
        let variable = format!("AWS_ENDPOINT_URL_{}", id.to_ascii_uppercase().replace(' ', "_"));
        self.aws()?.endpoint(&self.variables, id, &variable)
    }

    /// Whose credentials Amazon's services were asked with, for people.
    pub fn aws_asker(&self) -> String {
        self.aws.get().map_or_else(|| "no credentials".to_owned(), |account| account.description())
    }

    /// `task`, or an error when the network is stopped before it ends.
    pub(crate) async fn until_stopped<T>(&self, task: impl Future<Output = T>) -> Result<T> {
        let mut stopped = self.stopped.subscribe();
        tokio::select! {
            biased;
            _ = stopped.wait_for(|&stopped| stopped) => Err(Error::unavailable("the network was stopped")),
            done = task => Ok(done),
        }
    }

    /// `task`, or an error when the network is stopped before it ends, or there is a hurry and it goes on for too long.
    pub(crate) async fn while_there_is_time<T>(&self, task: impl Future<Output = T>) -> Result<T> {
        let mut hurried = self.hurried.subscribe();
        let late = async {
            // It is gone only with the network.
            let _ = hurried.wait_for(|&hurried| hurried).await;
            tokio::time::sleep(self.limits.hurry).await;
        };
        tokio::select! {
            biased;
            done = self.until_stopped(task) => done,
            () = late => Err(self.too_late()),
        }
    }

    /// That there is a hurry, and it took longer than one may take then.
    pub(crate) fn too_late(&self) -> Error {
        let limit = self.limits.hurry.as_secs_f64();
        Error::unavailable(format!("nothing came of it within {limit} s, and this process is about to end"))
    }

    /// Whether whoever asks is about to leave.
    pub(crate) fn in_a_hurry(&self) -> bool {
        *self.hurried.borrow()
    }

    /// Whoever asks is about to leave: from now on a request to a place of objects is given [`Limits::hurry`], those that
    /// are under way included. What works is done still; what does not is not waited for.
    pub fn hurry(&self) {
        self.hurried.send_replace(true);
    }

    /// Whatever waits for the outside gives up at once, and so does whatever comes.
    pub fn stop(&self) {
        self.stopped.send_replace(true);
    }

    pub(crate) fn handle(&self) -> &Handle {
        // It is taken away only when this is dropped.
        #[expect(clippy::expect_used, reason = "nobody calls into what is being dropped")]
        self.runtime.as_ref().expect("a network that was dropped").handle()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // The last owner may be one of the runtime's own tasks, which must not wait for itself.
            runtime.shutdown_background();
        }
    }
}

pub(crate) fn too_slow(limit: Duration) -> Error {
    Error::unavailable(format!("nothing came of it within {} s; try again", limit.as_secs_f64()))
}
