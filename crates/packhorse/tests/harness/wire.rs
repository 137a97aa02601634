//! A wire to a server that a test holds: bytes pass, or stay where they are, or it is cut.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

/// What becomes of the bytes that the server sends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bytes {
    Pass,
    Stay,
    Cut,
}

struct State {
    bytes: Mutex<Bytes>,
    changed: Condvar,
}

impl State {
    /// Waits while bytes stay; whether they pass.
    fn passes(&self) -> bool {
        let bytes = self.bytes.lock().unwrap();
        *self.changed.wait_while(bytes, |bytes| *bytes == Bytes::Stay).unwrap() == Bytes::Pass
    }

    fn set(&self, bytes: Bytes) {
        *self.bytes.lock().unwrap() = bytes;
        self.changed.notify_all();
    }
}

/// The wire; cut when it goes.
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

impl Wire {
    pub(crate) fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State { bytes: Mutex::new(Bytes::Pass), changed: Condvar::new() });
        let of_listener = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // Whoever comes after it was cut finds nobody: the listener goes with this thread.
                if *of_listener.bytes.lock().unwrap() == Bytes::Cut {
                    return;
                }
                let Ok(server) = TcpStream::connect(server) else { return };
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || copy(from, to, || true));
                let state = Arc::clone(&of_listener);
                std::thread::spawn(move || copy(server, client, || state.passes()));
            }
        });
        Self { address, state }
    }

    pub(crate) fn hold(&self) {
        self.state.set(Bytes::Stay);
    }

    pub(crate) fn let_go(&self) {
        self.state.set(Bytes::Pass);
    }

    pub(crate) fn cut(&self) {
        self.state.set(Bytes::Cut);
        // The listener waits for somebody to come.
        drop(TcpStream::connect(self.address));
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.cut();
    }
}

/// Copies until an end closes or `passes` says no, and closes both then.
fn copy(mut from: TcpStream, mut to: TcpStream, passes: impl Fn() -> bool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read) = from.read(&mut buffer) {
        if read == 0 || !passes() || to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
