//! What talking to endpoints takes: their connections, the thread that drives them, and how many calls may be under way.

use std::sync::Arc;
use std::time::Duration;

use engine::{Error, Result};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;

use crate::address::Address;
use crate::attachment::{Attachment, Model};
use crate::fit::Tolerance;
use crate::policy::Limits;
use crate::security::{Secured, Security};
use crate::wire::Peer;

/// How endpoints are treated.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Questions under way at once, of all models together; more wait.
    pub in_flight: usize,
    /// How far an endpoint's answer may be from our own.
    pub tolerance: Tolerance,
    /// Of questions.
    pub limits: Limits,
    /// For looking at an endpoint, which may have to bring the model into memory first.
    pub look: Duration,
    /// Of the way there.
    pub security: Security,
}

impl Default for Settings {
    fn default() -> Self {
        let (tolerance, limits, security) = (Tolerance::default(), Limits::default(), Security::default());
        Self { in_flight: 8, tolerance, limits, look: Duration::from_secs(10), security }
    }
}

/// Endpoints, and what it takes to talk to them. Dropping it ends every call that is under way.
pub struct Remote {
    /// Taken by the drop alone.
    runtime: Option<Runtime>,
    shared: Arc<Shared>,
}

/// What all attachments share.
pub(crate) struct Shared {
    pub(crate) endpoints: Vec<(Address, Peer)>,
    pub(crate) settings: Settings,
    pub(crate) places: Semaphore,
}

impl Remote {
    /// Starts the thread. Nobody is called yet.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) for an address that cannot be one, or security that cannot be had,
    /// [`Internal`](engine::ErrorKind::Internal) when the thread cannot be started.
    pub fn start(addresses: &[Address], settings: Settings) -> Result<Self> {
        let secured = Secured::new(&settings.security, addresses)?;
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("remote").enable_all().build();
        let runtime = runtime.map_err(|error| Error::internal(format!("no thread to call endpoints on: {error}")))?;
        let inside = runtime.enter();
        let connect = settings.limits.call;
        let peer = |address: &Address| Ok((address.clone(), Peer::new(address, &secured, connect)?));
        let endpoints = addresses.iter().map(peer).collect::<Result<_>>()?;
        drop(inside);
        let places = Semaphore::new(settings.in_flight.max(1));
        Ok(Self { runtime: Some(runtime), shared: Arc::new(Shared { endpoints, settings, places }) })
    }

    /// Looks at every endpoint for `model`, and goes on looking at those that it cannot ask. Blocks until each was looked at
    /// once.
    ///
    /// # Errors
    /// [`Internal`](engine::ErrorKind::Internal) when it is being dropped.
    pub fn attach(&self, model: Model) -> Result<Arc<Attachment>> {
        let runtime = self.runtime.as_ref().ok_or_else(|| Error::internal("the endpoints are being let go"))?;
        let attachment = Attachment::new(runtime.handle().clone(), Arc::clone(&self.shared), model);
        runtime.block_on(attachment.look_around());
        Ok(attachment)
    }

    /// How they are treated.
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Nobody waits for what is still under way.
            runtime.shutdown_background();
        }
    }
}
