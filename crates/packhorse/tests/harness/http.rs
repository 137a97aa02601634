//! A client for HTTP/1.1 that does as it is told: one request on a connection of its own.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use super::{LIMIT, json};

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// In lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        json(&self.body)
    }
}

/// A request that was sent, the whole of it.
pub(crate) struct Sent(TcpStream);

impl Sent {
    /// Waits for the answer.
    pub(crate) fn answer(mut self) -> Answer {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).unwrap();
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer has a head");
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head, body: String::from_utf8_lossy(&bytes[end + 4..]).into_owned() }
    }
}

pub(crate) fn get(address: &str, path: &str) -> Answer {
    send(address, &format!("GET {path} HTTP/1.1\r\n"), b"").answer()
}

pub(crate) fn post(address: &str, path: &str, headers: &str, body: &[u8]) -> Sent {
    let length = if headers.starts_with("content-length:") {
        String::new()
    } else {
        format!("content-length: {}\r\n", body.len())
    };
    send(address, &format!("POST {path} HTTP/1.1\r\n{length}{headers}"), body)
}

fn send(address: &str, head: &str, body: &[u8]) -> Sent {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream.write_all(format!("{head}host: {address}\r\nconnection: close\r\n\r\n").as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    Sent(stream)
}
