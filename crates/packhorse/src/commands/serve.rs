//! `packhorse serve`

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use engine::Error;
use serde::Serialize;
use serve::admin::Admin;
use serve::grpc::GrpcLimits;
use serve::http::HttpLimits;
use serve::{Budget, Control, LoadOptions, Management, Network, ResidencyOptions, Scheduler};
use tokio::sync::watch;

use super::{counted, print_json, say};
use crate::config::{Flags, Label, Limits, Log, LogFormat, Raw, Resolved, Settings, logging, nearly};
use crate::exit::Exit;
use crate::node::{self, Place};
use crate::{Outcome, signal};

#[derive(clap::Args)]
#[command(
    after_help = "Every setting is also a variable (--queue-capacity: PACKHORSE_QUEUE_CAPACITY) and a key of the \
                        file of --config (queue-capacity). A flag comes before a variable, that before the file."
)]
pub(crate) struct Args {
    /// A TOML file with settings
    #[arg(long, env = "PACKHORSE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print every setting and where it came from, and whether the store is there, and do not start
    #[arg(long)]
    check: bool,
    /// With --check, print one JSON object on standard output
    #[arg(long, requires = "check")]
    json: bool,
    #[command(flatten)]
    flags: Flags,
}

impl Args {
    /// Every setting, from all places.
    fn resolve(&self) -> Result<Resolved, Exit> {
        let file = self.config.as_deref().map(read).transpose()?;
        let variable = |name: &str| std::env::var_os(name).map(|text| text.to_string_lossy().into_owned());
        Resolved::new(&Raw::gather(self.flags.clone(), variable, file)).map_err(Exit::Configuration)
    }
}

/// Variables that were meant for a setting, it seems, and are none's.
fn misspelt() -> impl Iterator<Item = String> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    names.filter_map(|name| Some(format!("there is no variable {name}; the nearest is {}", nearly(&name)?)))
}

/// The path and the text of a configuration file.
fn read(path: &Path) -> Result<(String, String), Exit> {
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => Ok((name, text)),
        Err(source) => {
            let fix = "give a file that can be read with --config or PACKHORSE_CONFIG";
            Err(Exit::Configuration(format!("{name}: the configuration cannot be read: {source}; {fix}")))
        }
    }
}

/// The addresses that were bound.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Addresses {
    pub(crate) http: SocketAddr,
    pub(crate) grpc: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// Where the server may be changed, if anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) manage: Option<SocketAddr>,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let resolved = args.resolve()?;
    if args.check {
        if args.json {
            print_json(&resolved.json())?;
        } else {
            say(resolved.table());
            misspelt().for_each(say);
        }
        // Settings may be checked on another machine than the one that they are for, so this is no reason to refuse them.
        if let Err(missing) = place(&resolved.settings).check() {
            say(format_args!("with this store the server would not start here: {}", missing.reason()));
        }
        return Ok(());
    }
    let log = logging::start(&resolved.settings);
    misspelt().for_each(|told| tracing::warn!("{told}"));
    serve_until_stopped(&resolved, log)
}

/// Where models come from.
fn place(settings: &Settings) -> Place<'_> {
    Place {
        store: &settings.store,
        pack_cache: settings.pack_cache.as_deref(),
        cache: settings.cache.as_deref(),
        cache_bytes_max: settings.cache_bytes_max.get(),
    }
}

/// What `load` stands for: every model of the store.
const EVERY: &str = "*";

/// Loads what is to be served from the start.
fn load(scheduler: &Scheduler, names: &[String]) -> Outcome {
    let residency = scheduler.residency();
    for name in names {
        if name == EVERY {
            let there: BTreeSet<String> = residency.index().into_iter().map(|entry| entry.name).collect();
            // What of them cannot be served is logged, and named by the index.
            there.iter().for_each(|name| drop(residency.load_named(name, &LoadOptions::default())));
            continue;
        }
        residency.load_named(name, &LoadOptions::default()).map_err(|error| Exit::configuration(&error))?;
    }
    Ok(())
}

fn serve_until_stopped(resolved: &Resolved, log: Log) -> Outcome {
    let settings = &resolved.settings;
    let Settings { http, grpc, admin, manage, .. } = *settings;
    let wanted = Addresses { http, grpc, admin, manage };
    let (limits, budget) = (settings.limits()?, Budget::new(settings.memory_budget_bytes()));
    budget.set_aside(&limits.http.bodies);
    let overrides = resolved.servings().clone();
    let hot = node::scratch(settings.hot_cache.as_deref())?;
    let (control, budget) = (settings.control, Some(budget));
    let options = ResidencyOptions { control, overrides, budget, hot, ..ResidencyOptions::default() };
    let scheduler = node::start(place(settings), settings.queue_limits(), options)?;
    leaves_room(scheduler.residency().budget())?;
    load(&scheduler, &settings.load)?;
    label(&scheduler, settings)?;
    tell_of_labels(&scheduler);
    if settings.control == Control::Poll {
        scheduler.poll_every(settings.poll_interval_s.get())?;
    }
    let management = Management::new(Arc::new(log));
    // Before anybody can connect, and long before the addresses are told.
    let asked = signal::listen()?;
    let server = Server::start_within(Arc::clone(&scheduler), wanted, limits, Some(management))?;
    if let Some(manage) = server.addresses.manage.filter(|manage| !manage.ip().is_loopback()) {
        tracing::warn!(%manage, "the server can be changed from other machines; whoever reaches this address may do it");
    }
    scheduler.settle()?;
    scheduler.promote()?;
    if settings.inspect_mb_s.get() > 0 {
        scheduler.inspect(u64::from(settings.inspect_mb_s.get()) * 1_000_000);
    }
    let models = scheduler.residency().models().len();
    let lanes = scheduler.lanes();
    let http = server.addresses.http;
    match settings.log_format {
        LogFormat::Text => {
            let (models, lanes) = (counted(models, "model"), counted(lanes, "lane"));
            say(format_args!("serving {models} on {lanes}: REST on http://{http}"));
        }
        // Whoever reads objects reads no sentences in between.
        LogFormat::Json => tracing::info!(models, lanes, %http, "serving"),
    }
    print_json(&server.addresses)?;

    let lame_duck = match asked.wait() {
        signal::Asker::Supervisor => settings.lame_duck_s.get(),
        signal::Asker::Person => Duration::ZERO,
    };
    server.stop(lame_duck, settings.grace_s.get())
}

/// That the budget is for more than the server itself, without which every request would be asked to come again.
fn leaves_room(budget: &Budget) -> Outcome {
    let (own, limit) = (engine::memory::usage().private_bytes, budget.limit_bytes());
    if own < limit {
        return Ok(());
    }
    Err(Exit::Configuration(format!(
        "memory-budget-bytes is {limit}, and the server itself takes {own} before there is a model in memory; raise it, or \
         give the container more"
    )))
}

/// Gives versions the names that they are to have.
fn label(scheduler: &Scheduler, settings: &Settings) -> Outcome {
    let residency = scheduler.residency();
    for Label { model, label, version } in &settings.label {
        let mut labels = residency.labels(model);
        labels.insert(label.clone(), *version);
        residency.label(model, labels).map_err(|error| Exit::configuration(&error))?;
    }
    Ok(())
}

/// Tells which names, whoever gave them, are of versions that are not there: they may wait for those, or be mistyped.
fn tell_of_labels(scheduler: &Scheduler) {
    let residency = scheduler.residency();
    let known: BTreeSet<(String, Option<u64>)> =
        residency.index().into_iter().map(|entry| (entry.name, entry.version)).collect();
    let models: BTreeSet<&String> = known.iter().map(|(name, _)| name).collect();
    for model in models {
        for (label, version) in residency.labels(model) {
            if !known.contains(&(model.clone(), Some(version))) {
                tracing::warn!(%model, %label, version, "the label is of a version that is not there; it waits for it");
            }
        }
    }
}

/// A server that runs on threads of its own.
pub(crate) struct Server {
    pub(crate) addresses: Addresses,
    scheduler: Arc<Scheduler>,
    network: Network,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    stop: watch::Sender<bool>,
    admin: Admin,
}

impl Server {
    /// As [`start_within`](Self::start_within), with the limits that hold when nobody says otherwise.
    pub(crate) fn start(scheduler: Arc<Scheduler>, wanted: Addresses) -> Result<Self, Exit> {
        Self::start_within(scheduler, wanted, Limits::default(), None)
    }

    /// Binds every address before anything runs, so that a port that is taken is a plain error. `management` is the
    /// right that the `manage` listener has, where one is wanted.
    pub(crate) fn start_within(
        scheduler: Arc<Scheduler>,
        wanted: Addresses,
        limits: Limits,
        management: Option<Management>,
    ) -> Result<Self, Exit> {
        let (http, grpc, admin) = (bind(wanted.http)?, bind(wanted.grpc)?, bind(wanted.admin)?);
        let manage = wanted.manage.map(bind).transpose()?;
        let address = |listener: &TcpListener| listener.local_addr().map_err(|source| network(&source));
        let addresses = Addresses {
            http: address(&http)?,
            grpc: address(&grpc)?,
            admin: address(&admin)?,
            manage: manage.as_ref().map(address).transpose()?,
        };
        let threads = limits.network_threads.unwrap_or(scheduler.lanes() / 4);
        let network = Network::start(&scheduler, threads)?;
        let connections = || network.connections().clone();
        let (stop, stopping) = watch::channel(false);
        let Limits { http: http_limits, grpc: grpc_limits, .. } = limits;
        let tasks = {
            let _entered = network.runtime().enter();
            let (http, grpc) = (listen(http)?, listen(grpc)?);
            let mut tasks = Vec::new();
            if let Some(manage) = manage {
                let rest = HttpLimits { management: management.clone(), ..http_limits.clone() };
                let calls = GrpcLimits { management, ..grpc_limits.clone() };
                let (scheduler, asked) = (Arc::clone(&scheduler), asked(stopping.clone()));
                let served = serve::manage::serve(listen(manage)?, scheduler, rest, calls, connections(), asked);
                tasks.push(network.spawn(told(served)));
            }
            let asked = || asked(stopping.clone());
            let of = || Arc::clone(&scheduler);
            tasks.push(network.spawn(serve::http::serve(http, of(), http_limits, connections(), asked())));
            tasks.push(network.spawn(told(serve::grpc::serve(grpc, of(), grpc_limits, connections(), asked()))));
            tasks
        };
        let admin = serve::admin::spawn(admin, Arc::clone(&scheduler))?;
        Ok(Self { addresses, scheduler, network, tasks, stop, admin })
    }

    /// The one way down: not ready, for `lame_duck` as before so that others notice, stop accepting, finish what was
    /// accepted, stop the lanes, leave. All of it within `grace`.
    pub(crate) fn stop(self, lame_duck: Duration, grace: Duration) -> Outcome {
        let deadline = tokio::time::Instant::now() + grace;
        self.scheduler.leave();
        // Of a grace that is no longer than that, half is for finishing.
        std::thread::sleep(if lame_duck < grace { lame_duck } else { grace / 2 });
        let _ = self.stop.send(true);
        let finished = self.network.block_on(async {
            let all = async {
                for task in self.tasks {
                    let _ = task.await;
                }
            };
            tokio::time::timeout_at(deadline, all).await.is_ok()
        });
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        let drained = self.scheduler.drain(left);
        self.admin.stop();
        self.network.stop();
        if finished && drained {
            return Ok(());
        }
        Err(Exit::Failed(format!(
            "some requests were not finished within the grace time of {} s; give more with --grace-s",
            grace.as_secs_f64()
        )))
    }
}

/// Says when a listener could not be served.
async fn told(serving: impl Future<Output = engine::Result<()>>) {
    if let Err(error) = serving.await {
        tracing::error!(%error, "a listener ended");
    }
}

async fn asked(mut stopping: watch::Receiver<bool>) {
    // An error means that the sender is gone, and with it the server.
    let _ = stopping.wait_for(|&stop| stop).await;
}

/// A listener at `address`.
pub(super) fn bind(address: SocketAddr) -> Result<TcpListener, Exit> {
    TcpListener::bind(address).map_err(|source| {
        Exit::Configuration(format!("{address}: cannot listen here: {source}; choose another address or port 0"))
    })
}

fn listen(listener: TcpListener) -> Result<tokio::net::TcpListener, Exit> {
    listener.set_nonblocking(true).map_err(|source| network(&source))?;
    tokio::net::TcpListener::from_std(listener).map_err(|source| network(&source))
}

fn network(source: &std::io::Error) -> Exit {
    Exit::from(Error::internal(format!("the network cannot be used: {source}")))
}
