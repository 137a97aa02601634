//! A decoder's way to its video: a listener that only it can reach, and a thread for each of its connections.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use engine::{Error, Result};

use super::hollow::{Boxes, boxes, but_for};
use super::request::Request;
use super::{Ranges, Wait, given_up};

/// A decoder has two at most: one that it reads, and the one before.
const CONNECTIONS_MAX: usize = 8;
/// Of a request's head.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// Read and written at a time.
const PIECE_BYTES: usize = 64 << 10;
/// What may be on its way to a decoder: what it jumps away from was fetched for nothing.
const SENT_BYTES: usize = 64 << 10;

/// What a child is to see of a video.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum View {
    Whole,
    /// The same, for a child that lists its frames: it does not get far ahead of those that decode them, so that what it
    /// reads is still here when they need it.
    List,
    /// The same, and of its frames only that they are there, where the rest of the file says all of them that a list takes: zeros.
    Hollow,
    /// The same, but for those that lie here, in order.
    Frames(Arc<[Range<u64>]>),
}

/// What a child reads of a video, and the threads that answer it; they end with this.
pub(crate) struct Serving {
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    listener: TcpListener,
    ranges: Arc<Ranges>,
    reader: u64,
    /// Where it is told zeros, as all that it asks is whether there is something.
    hollows: Vec<Range<u64>>,
    stopped: AtomicBool,
    /// The connections by number, to end them by.
    streams: Mutex<BTreeMap<usize, TcpStream>>,
    /// How many of them wait for the place, and when last one of them did.
    waiting: Mutex<(u32, Option<Instant>)>,
}

impl Serving {
    /// Answers whoever asks `listener` for the video in `ranges`, as it is to be seen.
    ///
    /// # Errors
    /// [`Unavailable`](engine::ErrorKind::Unavailable) when the system gives no threads; what keeps the video from being
    /// read.
    pub(crate) fn start(listener: TcpListener, ranges: &Arc<Ranges>, view: &View) -> Result<Self> {
        let all = || match boxes(ranges.bytes(), &|into, at| ranges.read_exact_at(into, at))? {
            Boxes::Index(hollows) => Ok(hollows),
            Boxes::Fragments | Boxes::Other => Ok(Vec::new()),
        };
        let (reader, hollows) = (
            ranges.reader(),
            match view {
                View::Whole | View::List => Vec::new(),
                View::Hollow => all()?,
                View::Frames(frames) => but_for(&all()?, frames),
            },
        );
        match view {
            View::Whole => {}
            View::List | View::Hollow => ranges.lock().blocks.leads(reader),
            View::Frames(_) => ranges.follow(reader, &hollows),
        }
        let shared = Arc::new(Shared {
            listener,
            reader,
            ranges: Arc::clone(ranges),
            hollows,
            stopped: AtomicBool::new(false),
            streams: Mutex::default(),
            waiting: Mutex::default(),
        });
        let accepting = std::thread::Builder::new().name("video".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.accept()
        });
        let accepting = accepting.map_err(|error| Error::unavailable(format!("no thread for a decoder: {error}")))?;
        Ok(Self { shared, accepting: Some(accepting) })
    }

    /// Why the video cannot be read on, if it cannot.
    pub(crate) fn fault(&self) -> Option<Error> {
        self.shared.ranges.fault()
    }

    /// When the child last waited for the place; it may be doing so now.
    pub(crate) fn last_waited(&self) -> Option<Instant> {
        let waiting = self.shared.waiting();
        if waiting.0 > 0 { Some(Instant::now()) } else { waiting.1 }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let shared = &self.shared;
        shared.stopped.store(true, Ordering::Relaxed);
        shared.ranges.wake();
        // It ends the wait for connections with an error.
        let _ = rustix::net::shutdown(&shared.listener, rustix::net::Shutdown::Both);
        shared.streams().values().for_each(hang_up);
        if let Some(accepting) = self.accepting.take() {
            // A panic in it was told to the video already.
            let _ = accepting.join();
        }
        shared.ranges.lock().blocks.leaves(shared.reader);
        // Somebody may have waited for it to get on.
        shared.ranges.wake();
    }
}

fn hang_up(stream: &TcpStream) {
    // It may have ended by itself.
    let _ = stream.shutdown(Shutdown::Both);
}

impl Shared {
    fn accept(&self) {
        // Not one of them outlives this.
        std::thread::scope(|scope| {
            for number in 0.. {
                let accepted = self.listener.accept().and_then(|(stream, _)| Ok((stream.try_clone()?, stream)));
                let stream = match accepted {
                    Ok((to_end_it_by, stream)) => {
                        let mut streams = self.streams();
                        if self.is_stopped() {
                            return;
                        }
                        if streams.len() >= CONNECTIONS_MAX {
                            return self.ranges.fail(Error::internal("a decoder has too many connections"));
                        }
                        streams.insert(number, to_end_it_by);
                        stream
                    }
                    Err(_) if self.is_stopped() => return,
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                    Err(error) => return self.ranges.fail(Error::unavailable(format!("a decoder's socket: {error}"))),
                };
                scope.spawn(move || {
                    let _end = End { shared: self, number };
                    if let Err(error) = self.answer(&stream)
                        && !self.is_stopped()
                    {
                        self.ranges.fail(error);
                    }
                });
            }
        });
    }

    /// Answers what is asked on `stream` until the other side has gone.
    fn answer(&self, stream: &TcpStream) -> Result<()> {
        // A wish: the default holds more.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(stream, SENT_BYTES);
        let mut piece = vec![0; PIECE_BYTES];
        while let Some(request) = head(stream).as_deref().and_then(Request::parse) {
            let (head, span) = request.answer(self.ranges.bytes());
            let mut at = span.start;
            let mut told = (&*stream).write_all(head.as_bytes());
            while told.is_ok() && at < span.end {
                let most = usize::try_from(span.end - at).unwrap_or(usize::MAX).min(piece.len());
                let count = self.read(&mut piece[..most], at)?;
                told = (&*stream).write_all(&piece[..count]);
                at += count as u64;
            }
            // Whoever does not want the rest hangs up.
            if told.is_err() || !request.stays {
                break;
            }
        }
        Ok(())
    }

    /// Some of what is at `at`.
    fn read(&self, into: &mut [u8], at: u64) -> Result<usize> {
        let within = |end: u64| usize::try_from(end - at).unwrap_or(usize::MAX).min(into.len());
        let next = self.hollows.get(self.hollows.partition_point(|hollow| hollow.end <= at));
        let count = match next {
            Some(hollow) if hollow.start <= at => {
                let count = within(hollow.end);
                into[..count].fill(0);
                return Ok(count);
            }
            Some(hollow) => within(hollow.start),
            None => into.len(),
        };
        if self.is_stopped() {
            return Err(given_up());
        }
        let begins_or_ends = |begins: bool| {
            let mut waiting = self.waiting();
            *waiting = if begins { (waiting.0 + 1, waiting.1) } else { (waiting.0 - 1, Some(Instant::now())) };
        };
        let wait = Wait { is_wanted: &|| !self.is_stopped(), begins_or_ends: &begins_or_ends };
        self.ranges.read_some_at(self.reader, &mut into[..count], at, &wait)
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn streams(&self) -> MutexGuard<'_, BTreeMap<usize, TcpStream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, (u32, Option<Instant>)> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a connection when it goes out of scope; a panic was a fault before the other side hears of the end.
struct End<'a> {
    shared: &'a Shared,
    number: usize,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.ranges.fail(Error::internal("a bug stopped a thread that answers a decoder"));
        }
        if let Some(stream) = self.shared.streams().remove(&self.number) {
            hang_up(&stream);
        }
    }
}

/// The head of the next request; `None` when there is none, or it has no end.
fn head(mut stream: &TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0; 1024];
    while head.len() < HEAD_BYTES_MAX {
        let count = match stream.read(&mut byte) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok(0) | Err(_) => return None,
            Ok(count) => count,
        };
        head.extend_from_slice(&byte[..count]);
        // Nothing follows it before it is answered.
        if let Some(head) = head.strip_suffix(b"\r\n\r\n") {
            return String::from_utf8(head.to_vec()).ok();
        }
    }
    None
}
