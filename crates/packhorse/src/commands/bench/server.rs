//! `packhorse serve` as a process of its own, so that its CPU time and memory can be told from the callers'.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use bench::{Api, Connection, Question};
use serde::Deserialize;
use store::Store;

use crate::exit::Exit;

/// The flags of a server that loads and unloads models when it is asked.
pub(super) const BY_REQUEST: &[&str] = &["--control", "explicit", "--manage", "127.0.0.1:0"];

/// A server on free ports, until it is dropped.
pub(super) struct Server {
    child: Child,
    pub(super) addresses: Addresses,
}

#[derive(Clone, Copy, Deserialize)]
pub(super) struct Addresses {
    pub(super) http: SocketAddr,
    pub(super) grpc: SocketAddr,
    /// Where models are loaded and unloaded, if that is a listener of its own; else it is that of REST.
    manage: Option<SocketAddr>,
}

impl Server {
    /// Serves `store`, with `flags` besides.
    pub(super) fn start(store: &Store, flags: &[&str]) -> Result<Self, Exit> {
        let failed = |reason: &dyn std::fmt::Display| Exit::Failed(format!("the server did not start: {reason}"));
        let program = std::env::current_exe().map_err(|error| failed(&error))?;
        let mut child = Command::new(program)
            .args(["serve", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(["--log-level", "error", "--store"])
            .arg(store.root())
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| failed(&error))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).map_err(|error| failed(&error))?;
        }
        let addresses = serde_json::from_str(&line).map_err(|error| failed(&error))?;
        Ok(Self { child, addresses })
    }

    /// The process.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where it takes requests of this API.
    pub(super) fn listener(&self, api: Api) -> SocketAddr {
        match api {
            Api::Rest | Api::RestJson => self.addresses.http,
            Api::Grpc => self.addresses.grpc,
        }
    }

    /// A connection to where models are loaded and unloaded.
    pub(super) fn repository(&self) -> Result<Repository, Exit> {
        Ok(Repository(Connection::open(self.addresses.manage.unwrap_or(self.addresses.http))?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The measurement is over; how its server ends is of no interest.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Loads and unloads models by name, one after the other.
pub(super) struct Repository(Connection);

impl Repository {
    /// Answered when the model takes requests.
    pub(super) fn load(&mut self, model: &str) -> Result<(), Exit> {
        self.change(model, "load")
    }

    /// Answered when the model takes none.
    pub(super) fn unload(&mut self, model: &str) -> Result<(), Exit> {
        self.change(model, "unload")
    }

    fn change(&mut self, model: &str, what: &str) -> Result<(), Exit> {
        Ok(self.0.ask(Question::post(&format!("/v2/repository/models/{model}/{what}"), "", b""))?)
    }
}
