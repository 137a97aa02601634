//! `packhorse serve`

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use engine::Error;
use serde::Serialize;
use serve::admin::Admin;
use serve::grpc::GrpcLimits;
use serve::http::HttpLimits;
use serve::{QueueLimits, Scheduler};
use tokio::sync::watch;

use super::{print_json, say};
use crate::exit::Exit;
use crate::{Outcome, node, signal};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The folder of packs
    #[arg(long, env = "PACKHORSE_STORE")]
    store: String,
    /// Where the REST API listens; port 0 takes a free one
    #[arg(long, env = "PACKHORSE_HTTP", default_value = "127.0.0.1:8080")]
    http: SocketAddr,
    /// Where the gRPC API listens
    #[arg(long, env = "PACKHORSE_GRPC", default_value = "127.0.0.1:8081")]
    grpc: SocketAddr,
    /// Where probes and metrics are answered, on a thread of their own
    #[arg(long, env = "PACKHORSE_ADMIN", default_value = "127.0.0.1:8082")]
    admin: SocketAddr,
    /// Requests of one model that may wait; one more is refused at once
    #[arg(long, env = "PACKHORSE_QUEUE_CAPACITY", default_value_t = QueueLimits::default().capacity)]
    queue_capacity: usize,
    /// After SIGTERM, seconds to finish what was accepted
    #[arg(long, env = "PACKHORSE_GRACE", default_value_t = 30.0, value_name = "SECONDS", value_parser = seconds)]
    grace: f64,
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|seconds| (0.0..=86_400.0).contains(seconds))
        .ok_or_else(|| "give seconds from 0 to 86400".to_owned())
}

/// The addresses that were bound.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Addresses {
    pub(crate) http: SocketAddr,
    pub(crate) grpc: SocketAddr,
    pub(crate) admin: SocketAddr,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let wanted = Addresses { http: args.http, grpc: args.grpc, admin: args.admin };
    let limits = QueueLimits { capacity: args.queue_capacity, ..QueueLimits::default() };
    let scheduler = node::start(&args.store, limits)?;
    let server = Server::start(Arc::clone(&scheduler), wanted)?;
    let models = scheduler.residency().models().count();
    let lanes = scheduler.lanes();
    say(format_args!("serving {models} models on {lanes} lanes: REST on http://{}", server.addresses.http));
    print_json(&server.addresses)?;

    let (stop, stopped) = std::sync::mpsc::sync_channel(1);
    signal::on_stop(move || {
        // Nobody waits any more when the process is on its way out already.
        let _ = stop.send(());
    })?;
    // An error would mean that the signal thread is gone, and then nobody could ask us to stop.
    let _ = stopped.recv();
    server.stop(Duration::from_secs_f64(args.grace))
}

/// A server that runs on threads of its own.
pub(crate) struct Server {
    pub(crate) addresses: Addresses,
    scheduler: Arc<Scheduler>,
    runtime: tokio::runtime::Runtime,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    stop: watch::Sender<bool>,
    admin: Admin,
}

impl Server {
    /// Binds every address before anything runs, so that a port that is taken is a plain error.
    pub(crate) fn start(scheduler: Arc<Scheduler>, wanted: Addresses) -> Result<Self, Exit> {
        let (http, grpc, admin) = (bind(wanted.http)?, bind(wanted.grpc)?, bind(wanted.admin)?);
        let address = |listener: &TcpListener| listener.local_addr().map_err(|source| network(&source));
        let addresses = Addresses { http: address(&http)?, grpc: address(&grpc)?, admin: address(&admin)? };
        // Network threads only convert; two keep one long body from holding up a probe, more on larger machines.
        let threads = (scheduler.lanes() / 4).max(2);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("network")
            .enable_all()
            .build()
            .map_err(|source| network(&source))?;
        let (stop, stopping) = watch::channel(false);
        let tasks = {
            let _entered = runtime.enter();
            let (http, grpc) = (listen(http)?, listen(grpc)?);
            vec![
                runtime.spawn(serve::http::serve(
                    http,
                    Arc::clone(&scheduler),
                    HttpLimits::default(),
                    asked(stopping.clone()),
                )),
                runtime.spawn(serve_grpc(grpc, Arc::clone(&scheduler), asked(stopping))),
            ]
        };
        let admin = serve::admin::spawn(admin, Arc::clone(&scheduler))?;
        Ok(Self { addresses, scheduler, runtime, tasks, stop, admin })
    }

    /// The one way down: not ready, stop accepting, finish what was accepted, stop the lanes, leave.
    pub(crate) fn stop(self, grace: Duration) -> Outcome {
        let deadline = tokio::time::Instant::now() + grace;
        self.scheduler.leave();
        let _ = self.stop.send(true);
        let finished = self.runtime.block_on(async {
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
        self.runtime.shutdown_background();
        if finished && drained {
            return Ok(());
        }
        Err(Exit::Failed(format!(
            "some requests were not finished within the grace time of {} s; give more with --grace",
            grace.as_secs_f64()
        )))
    }
}

async fn serve_grpc(
    listener: tokio::net::TcpListener,
    scheduler: Arc<Scheduler>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    if let Err(error) = serve::grpc::serve(listener, scheduler, GrpcLimits::default(), shutdown).await {
        tracing::error!(%error, "the gRPC listener ended");
    }
}

async fn asked(mut stopping: watch::Receiver<bool>) {
    // An error means that the sender is gone, and with it the server.
    let _ = stopping.wait_for(|&stop| stop).await;
}

fn bind(address: SocketAddr) -> Result<TcpListener, Exit> {
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
