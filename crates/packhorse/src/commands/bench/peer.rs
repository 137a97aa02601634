//! A server that others would write: `scripts/packing/peers.py`, FastAPI in front of plain sessions.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bench::{Question, json_numbers};
use engine::Tensor;

use crate::exit::Exit;

/// Importing and loading take seconds.
const START_MAX: Duration = Duration::from_secs(60);

/// Makes the question of tensors by name.
type Asks = fn(&[(String, Tensor)]) -> Result<Question, Exit>;

/// How it is asked, and what the table calls that.
pub(super) const WAYS: [(&str, Asks); 2] = [("FastAPI, raw body", raw), ("FastAPI, JSON", json)];

/// A server of one model, until it is dropped.
pub(super) struct Peer {
    child: Child,
    pub(super) address: SocketAddr,
}

impl Peer {
    /// Has `command`, a program and its arguments between spaces, serve the model at `file`.
    pub(super) fn start(command: &str, file: &Path) -> Result<Self, Exit> {
        let failed = |reason: &dyn std::fmt::Display| Exit::Failed(format!("{command}: it did not start: {reason}"));
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.map_err(|error| failed(&error))?;
        let mut words = command.split_whitespace();
        let child = Command::new(words.next().unwrap_or_default())
            .args(words)
            .args(["serve", &address.port().to_string()])
            .arg(file)
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| failed(&error))?;
        let mut peer = Self { child, address };
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Ok(Some(status)) = peer.child.try_wait() {
                return Err(failed(&status));
            }
            if begun.elapsed() > START_MAX {
                return Err(failed(&"it does not listen"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(peer)
    }

    /// The process.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The measurement is over; how its server ends is of no interest.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The bytes of the one input, and nothing else.
fn raw(tensors: &[(String, Tensor)]) -> Result<Question, Exit> {
    let body = tensors.first().map(|(_, tensor)| tensor.data().clone()).unwrap_or_default();
    Ok(Question::Http(Question::post("/raw/0", "", &body)))
}

/// Flat lists by input, which is the least that a reader of JSON can be asked for.
fn json(tensors: &[(String, Tensor)]) -> Result<Question, Exit> {
    let inputs = tensors.iter().map(|(name, tensor)| Ok(format!("\"{name}\":[{}]", json_numbers(tensor)?)));
    let body = format!("{{\"inputs\":{{{}}}}}", inputs.collect::<engine::Result<Vec<_>>>()?.join(","));
    Ok(Question::Http(Question::post("/predictions/0", "Content-Type: application/json\r\n", body.as_bytes())))
}
