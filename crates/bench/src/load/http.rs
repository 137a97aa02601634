//! One caller over HTTP/1.1, written for a load: a request is one write of bytes that were made before.

use std::io::{Error as IoError, ErrorKind as IoErrorKind};
use std::net::SocketAddr;

use bytes::Bytes;
use engine::{Error, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use super::tally::Answer;

/// A connection of its own, made again when it was lost.
pub(super) struct HttpCaller {
    server: SocketAddr,
    request: Bytes,
    stream: Option<TcpStream>,
    /// The last answer; kept so that the next one allocates nothing.
    buffer: Vec<u8>,
}

/// What the head of an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    length: usize,
    pub(super) retry_after: bool,
    close: bool,
}

impl HttpCaller {
    pub(super) async fn connect(server: SocketAddr, request: Bytes) -> Result<Self> {
        let stream = connected(server)
            .await
            .map_err(|source| Error::unavailable(format!("{server}: the connection failed: {source}")))?;
        Ok(Self { server, request, stream: Some(stream), buffer: Vec::new() })
    }

    /// Sends `request` from now on.
    pub(super) fn will_send(&mut self, request: Bytes) {
        self.request = request;
    }

    pub(super) async fn ask(&mut self) -> Answer {
        match self.exchange().await {
            Ok(Head { status: 200, .. }) => Answer::Answered,
            Ok(Head { status: 429, retry_after, .. }) => Answer::Refused { retry_after },
            Ok(head) => Answer::Failed(format!("HTTP {}", head.status)),
            Err(error) => {
                self.hang_up();
                Answer::Failed(format!("connection: {}", error.kind()))
            }
        }
    }

    /// Gives up the connection, and whatever is still on its way on it.
    pub(super) fn hang_up(&mut self) {
        self.stream = None;
    }

    async fn exchange(&mut self) -> std::io::Result<Head> {
        let stream = match self.stream.take() {
            Some(stream) => self.stream.insert(stream),
            None => self.stream.insert(connected(self.server).await?),
        };
        stream.write_all(&self.request).await?;
        let head = answer(stream, &mut self.buffer).await?;
        if head.close {
            self.hang_up();
        }
        Ok(head)
    }
}

/// A connection for single requests, one after the other.
pub struct Connection {
    runtime: Runtime,
    caller: HttpCaller,
}

impl Connection {
    /// Connects to `server`.
    ///
    /// # Errors
    /// [`Unavailable`](engine::ErrorKind::Unavailable) when it cannot be reached.
    pub fn open(server: SocketAddr) -> Result<Self> {
        let runtime = super::runtime()?;
        let caller = runtime.block_on(HttpCaller::connect(server, Bytes::new()))?;
        Ok(Self { runtime, caller })
    }

    /// Sends `request`, a whole message, and waits for the answer.
    ///
    /// # Errors
    /// [`Unavailable`](engine::ErrorKind::Unavailable), with the first line of the request and with what came back, for
    /// any answer but 200.
    pub fn ask(&mut self, request: Bytes) -> Result<()> {
        let line = String::from_utf8_lossy(request.split(|&byte| byte == b'\r').next().unwrap_or(&[])).into_owned();
        self.caller.will_send(request);
        let failed = |what: &dyn std::fmt::Display| Error::unavailable(format!("{line}: {what}"));
        match self.runtime.block_on(self.caller.exchange()) {
            Ok(Head { status: 200, .. }) => Ok(()),
            Ok(head) => Err(failed(&format_args!("{} {}", head.status, String::from_utf8_lossy(&self.caller.buffer)))),
            Err(error) => Err(failed(&error)),
        }
    }
}

async fn connected(server: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Reads one answer with a Content-Length to its end; all of it is then in `buffer`.
pub(super) async fn answer(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> std::io::Result<Head> {
    const ROOM: usize = 16 << 10;
    buffer.clear();
    let end = loop {
        // The blank line may have begun in what came before.
        let searched = buffer.len().saturating_sub(3);
        buffer.reserve(ROOM);
        some(stream.read_buf(buffer).await?)?;
        if let Some(found) = buffer[searched..].windows(4).position(|window| window == b"\r\n\r\n") {
            break searched + found;
        }
    };
    let head = head(&buffer[..end])?;
    let length = (end + 4).saturating_add(head.length);
    while buffer.len() < length {
        buffer.reserve(ROOM);
        some(stream.read_buf(buffer).await?)?;
    }
    Ok(head)
}

/// Nothing read is the end of the stream, which is no place for an answer to end.
fn some(read: usize) -> std::io::Result<usize> {
    if read == 0 { Err(IoErrorKind::UnexpectedEof.into()) } else { Ok(read) }
}

fn head(bytes: &[u8]) -> std::io::Result<Head> {
    let broken = |what: &str| IoError::new(IoErrorKind::InvalidData, what.to_owned());
    let text = std::str::from_utf8(bytes).map_err(|_| broken("a head that is no text"))?;
    let status = text.split(' ').nth(1).and_then(|code| code.get(..3)?.parse().ok());
    let status = status.ok_or_else(|| broken("no status"))?;
    let (mut length, mut retry_after, mut close) = (None, false, false);
    for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            length = value.parse().ok();
        } else if name.eq_ignore_ascii_case("retry-after") {
            retry_after = true;
        } else if name.eq_ignore_ascii_case("connection") {
            close = value.eq_ignore_ascii_case("close");
        }
    }
    let length = length.ok_or_else(|| broken("no Content-Length"))?;
    Ok(Head { status, length, retry_after, close })
}
