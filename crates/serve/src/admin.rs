//! Probes and metrics on a thread and a listener of their own, so that they answer while everything else is busy.
//! Nothing here changes any state.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use engine::{Error, Result};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::http::{self as api, Listener, Parts, Refusal, Route};
use crate::listen::{self, ListenLimits, Speaks};
use crate::{Connections, Scheduler};

/// What a scrape is told that it gets.
pub(crate) const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How long a stop waits for a scraper to take its answer.
const STOP_LIMIT: Duration = Duration::from_secs(1);

/// The running admin thread; dropping it stops and joins it.
#[derive(Debug)]
pub struct Admin {
    /// Dropped to say stop.
    stop: Option<watch::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Serves metrics and probes on `listener`, by GET alone: `/metrics`, `/livez`, `/readyz`, `/v2/health/live` and
/// `/v2/health/ready`, each of them by the names that other servers have for it, and `/openapi.json`, which lists them.
///
/// # Errors
/// [`Internal`](engine::ErrorKind::Internal) when the system gives no thread or no event queue.
pub fn spawn(listener: std::net::TcpListener, scheduler: Arc<Scheduler>) -> Result<Admin> {
    let broken = |source: std::io::Error| Error::internal(format!("the admin thread cannot be started: {source}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(broken)?;
    listener.set_nonblocking(true).map_err(broken)?;
    let listener = {
        let _within = runtime.enter();
        TcpListener::from_std(listener).map_err(broken)?
    };
    let (stop, stopping) = watch::channel(());
    let thread = std::thread::Builder::new()
        .name("admin".to_owned())
        .spawn(move || runtime.block_on(serve(listener, scheduler, stopping)))
        .map_err(broken)?;
    Ok(Admin { stop: Some(stop), thread: Some(thread) })
}

impl Admin {
    /// Stops listening, finishes the answers under way and joins the thread.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic has been printed by the thread itself.
            let _ = thread.join();
        }
    }
}

async fn serve(listener: TcpListener, scheduler: Arc<Scheduler>, stopping: watch::Receiver<()>) {
    let answer = move |request: Request<Incoming>| {
        let response = answer(&scheduler, request.method(), request.uri().path());
        async move { response }
    };
    let limits = ListenLimits { connections: 64, ..ListenLimits::default() };
    tokio::select! {
        () = listen::serve(listener, Speaks::Both, limits, Connections::here(), stopped(stopping.clone()), answer) => {}
        () = async { stopped(stopping).await; tokio::time::sleep(STOP_LIMIT).await } => {}
    }
}

/// Ready when the sender is gone; it never sends.
async fn stopped(mut stopping: watch::Receiver<()>) {
    let _ = stopping.changed().await;
}

fn answer(scheduler: &Scheduler, method: &Method, path: &str) -> Response<Parts> {
    if path == "/metrics" || path == "/monitoring/prometheus/metrics" {
        return match *method {
            Method::GET => api::text(StatusCode::OK, METRICS_TYPE, scheduler.metrics().text()),
            _ => Refusal::wrong_method(method, path, "GET").into_response(),
        };
    }
    match api::route(method, path) {
        Ok(Route::Document) => api::openapi(Listener::Admin),
        Ok(Route::Live) => api::live(),
        Ok(Route::Ready) => api::ready(scheduler),
        Ok(Route::Ping) => api::ping(scheduler),
        Ok(_) => Refusal::no_such_path(path).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}
