//! Reading an object in ranges: several at once, each taken up again where it was cut, and never of two contents.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use engine::{Error, ErrorKind, Result};
use futures_util::TryStreamExt;
use futures_util::stream::BoxStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::cloud::trace;
use crate::network::too_slow;
use crate::place::Sink;
use crate::{Network, Object};

/// Where the bytes of an object come from.
#[async_trait]
pub(crate) trait Source: Send + Sync + 'static {
    /// Begins to read `range`, of `object` and no other. What is read says of which object it is.
    async fn open(&self, object: &Object, range: Range<u64>) -> Result<(Object, BoxStream<'static, Result<Bytes>>)>;
}

/// Tries in a row that bring not a byte.
const TRIES_MAX: u32 = 5;
/// Pieces that wait for whoever takes them, for each range that is read.
const WAITING_MAX: usize = 4;

/// Pieces that are taken at once.
const TAKEN_MAX: usize = 32;
/// After so long without a piece, whoever takes them is asked whether he still wants any.
const LOOK: Duration = Duration::from_millis(200);

type Piece = (u64, Bytes);

/// Reads `ranges`, none of them empty, `parallel` at once; see [`crate::Place::fetch`].
pub(crate) fn fetch(
    network: &Network,
    source: &Arc<dyn Source>,
    object: &Object,
    ranges: Vec<Range<u64>>,
    parallel: usize,
    sink: Sink<'_>,
) -> Result<()> {
    let parallel = parallel.min(ranges.len());
    let waiting = Arc::new(Mutex::new(VecDeque::from(ranges)));
    let (sender, mut receiver) = mpsc::channel(parallel * WAITING_MAX);
    let mut readers = JoinSet::new();
    for _ in 0..parallel {
        let range = Reading {
            source: Arc::clone(source),
            object: object.clone(),
            limit: network.limits.total,
            sender: sender.clone(),
        };
        let (waiting, reading) = (Arc::clone(&waiting), Arc::clone(&network.reading));
        readers.spawn_on(
            trace::scope(async move {
                while let Some(next) = { waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front() } {
                    // Held over a range: it is never closed.
                    let turn = reading.acquire().await;
                    range.read(next).await?;
                    drop(turn);
                }
                Ok(())
            }),
            network.handle(),
        );
    }
    drop(sender);
    let mut pieces = Vec::with_capacity(TAKEN_MAX);
    let mut heard = Instant::now();
    // What is left running when this returns is stopped with the set.
    loop {
        let taken = network.block_on(network.until_stopped(async {
            tokio::select! {
                biased;
                Some(ended) = readers.join_next() => match ended {
                    Ok(Ok(())) => Ok(None),
                    Ok(Err(error)) => Err(error),
                    Err(error) => Err(Error::internal(format!("a reader's task ended: {error}"))),
                },
                taken = receiver.recv_many(&mut pieces, TAKEN_MAX) => Ok(Some(taken)),
                () = tokio::time::sleep(LOOK) => Ok(None),
            }
        }))??;
        match taken {
            Some(_) => heard = Instant::now(),
            None if network.in_a_hurry() && heard.elapsed() > network.limits.hurry => return Err(network.too_late()),
            None => sink(0, Bytes::new())?,
        }
        for (offset, bytes) in pieces.drain(..) {
            sink(offset, bytes)?;
        }
        // Every reader has gone, and what they brought was taken.
        if taken == Some(0) && readers.is_empty() {
            return Ok(());
        }
    }
}

/// What one reader has.
struct Reading {
    source: Arc<dyn Source>,
    object: Object,
    /// The longest that a range may take.
    limit: Duration,
    sender: mpsc::Sender<Piece>,
}

impl Reading {
    /// Reads `range` to its end, with pauses that grow while nothing comes of it.
    async fn read(&self, range: Range<u64>) -> Result<()> {
        let mut at = range.start;
        let mut tries = 0;
        let reading = async {
            loop {
                let before = at;
                let ended = self.read_from(&mut at, range.end).await;
                if at == range.end {
                    return Ok(());
                }
                let error = match ended {
                    Ok(()) => Error::unavailable(format!("it ended at byte {at} of {}", range.end)),
                    Err(error) => error,
                };
                tries = if at > before { 1 } else { tries + 1 };
                // A service that did not even begin was asked again and again already.
                if error.kind != ErrorKind::Unavailable || tries > TRIES_MAX || at == range.start {
                    return Err(error);
                }
                tracing::debug!(at, end = range.end, %error, "read on from where it was cut");
                tokio::time::sleep(Duration::from_millis(50) * 2_u32.pow(tries)).await;
            }
        };
        tokio::time::timeout(self.limit, reading).await.unwrap_or_else(|_| Err(too_slow(self.limit)))
    }

    /// Reads from `at` on until `end`, or until it is cut; `at` is then where.
    async fn read_from(&self, at: &mut u64, end: u64) -> Result<()> {
        let (found, mut pieces) = self.source.open(&self.object, *at..end).await?;
        same(&self.object, &found)?;
        while let Some(bytes) = pieces.try_next().await? {
            if bytes.len() as u64 > end - *at {
                return Err(Error::corrupt("more bytes came than were asked for"));
            }
            let offset = *at;
            *at += bytes.len() as u64;
            if self.sender.send((offset, bytes)).await.is_err() {
                return Err(Error::new(ErrorKind::Cancelled, "nobody takes it any more"));
            }
        }
        Ok(())
    }
}

/// That `found` is `object`: not every service heeds the condition that goes with the request.
pub(crate) fn same(object: &Object, found: &Object) -> Result<()> {
    let differs = |one: &Option<String>, other: &Option<String>| one.is_some() && other.is_some() && one != other;
    let replaced = object.bytes != found.bytes || differs(&object.tag.etag, &found.tag.etag);
    let moved = object.tag.etag.is_none() && object.modified.is_some() && object.modified != found.modified;
    if replaced || moved {
        return Err(Error::new(ErrorKind::FailedPrecondition, "it is not what it was: it was replaced meanwhile"));
    }
    Ok(())
}
