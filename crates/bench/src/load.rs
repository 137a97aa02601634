//! Load on a server, by REST or gRPC: in a closed loop, which finds what it can do, or in an open one, which sends at its
//! own pace whether or not earlier requests were answered.
//!
//! One thread drives every connection, so that the cores are left to the server when both share a machine; what the
//! generator itself took is part of the result.

mod arrivals;
mod deck;
mod grpc;
mod http;
mod question;
mod tally;

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use engine::{Error, Result, cpu};
use tokio::task::{JoinSet, LocalSet};

use self::arrivals::Arrivals;
use self::grpc::GrpcCaller;
use self::http::HttpCaller;
use self::tally::{Answer, Tally};

pub use self::deck::Deck;
pub use self::http::Connection;
pub use self::question::{Api, Question, input, json_numbers};
pub use self::tally::Load;

/// How requests come.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// So many callers, each sending its next request when it has the answer to the last.
    Closed {
        /// Requests in flight, and connections.
        callers: usize,
    },
    /// Evenly in time, whatever becomes of earlier requests. A latency is counted from when its request was due, so
    /// that a server that keeps requests from being sent does not look fast.
    Open {
        /// Requests a second.
        per_second: f64,
        /// The most that can be in flight. A request that finds all of them busy is sent late, or never.
        connections: usize,
    },
}

/// The longest wait for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Puts `question` to `server` over and over for `time`.
///
/// # Errors
/// [`Unavailable`](engine::ErrorKind::Unavailable) when the server cannot be reached at all; what goes wrong later is
/// counted.
pub fn load(server: SocketAddr, question: &Question, pace: Pace, time: Duration) -> Result<Load> {
    run(server, question, None, (pace, time))
}

/// As [`load`], each request drawn from `deck`.
///
/// # Errors
/// As [`load`].
pub fn load_deck(server: SocketAddr, deck: Deck, pace: Pace, time: Duration) -> Result<Load> {
    let first = Question::Http(deck.draw(&mut 0));
    run(server, &first, Some(&Rc::new(deck)), (pace, time))
}

fn run(
    server: SocketAddr,
    question: &Question,
    deck: Option<&Rc<Deck>>,
    (pace, time): (Pace, Duration),
) -> Result<Load> {
    let connections = match pace {
        Pace::Closed { callers } => callers,
        Pace::Open { connections, .. } => connections,
    };
    let runtime = runtime()?;
    let cpu_before = cpu::thread_cpu();
    let callers = runtime.block_on(Caller::connect(server, question, connections))?;
    let started = Instant::now();
    let until = started + time;
    let arrivals = match pace {
        Pace::Closed { .. } => None,
        Pace::Open { per_second, .. } => Some(Arrivals::start(started, per_second, time)?),
    };
    let arrivals = Rc::new(arrivals);
    let tallies = runtime.block_on(LocalSet::new().run_until(async {
        let mut tasks = JoinSet::new();
        for (number, caller) in callers.into_iter().enumerate() {
            let hand = Hand { deck: deck.cloned(), state: number as u64 };
            tasks.spawn_local(ask_until((caller, hand), Rc::clone(&arrivals), until));
        }
        tasks.join_all().await
    }));
    let wall = started.elapsed();
    let generator_cpu = cpu::thread_cpu().saturating_sub(cpu_before);
    let paced_cpu = Rc::into_inner(arrivals).flatten().map_or(Ok(Duration::ZERO), Arrivals::stop)?;
    let mut all = Tally::new()?;
    for tally in tallies {
        all.add(&tally?)?;
    }
    Ok(all.over(wall, generator_cpu + paced_cpu))
}

/// A runtime on the calling thread alone.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::internal(format!("the network cannot be used: {source}")))
}

/// One connection, over which one request is in flight at a time.
enum Caller {
    Http(HttpCaller),
    Grpc(Box<GrpcCaller>),
}

impl Caller {
    async fn connect(server: SocketAddr, question: &Question, count: usize) -> Result<Vec<Self>> {
        let mut callers = Vec::with_capacity(count);
        for _ in 0..count {
            callers.push(match question {
                Question::Http(request) => Self::Http(HttpCaller::connect(server, request.clone()).await?),
                Question::Grpc(message) => Self::Grpc(Box::new(GrpcCaller::connect(server, message.clone()).await?)),
            });
        }
        Ok(callers)
    }

    async fn ask(&mut self) -> Answer {
        let answer = async {
            match self {
                Self::Http(caller) => caller.ask().await,
                Self::Grpc(caller) => caller.ask().await,
            }
        };
        match tokio::time::timeout(ANSWER_LIMIT, answer).await {
            Ok(answer) => answer,
            Err(_) => {
                match self {
                    Self::Http(caller) => caller.hang_up(),
                    Self::Grpc(caller) => caller.hang_up(),
                }
                Answer::Failed("no answer in time".to_owned())
            }
        }
    }
}

/// What a caller takes its requests from, where they are not all the same.
struct Hand {
    deck: Option<Rc<Deck>>,
    /// Of its own, so that callers do not ask the same things in step.
    state: u64,
}

impl Hand {
    fn deal(&mut self, caller: &mut Caller) {
        if let (Some(deck), Caller::Http(caller)) = (&self.deck, caller) {
            caller.will_send(deck.draw(&mut self.state));
        }
    }
}

/// The life of a caller: with `arrivals`, one request for each that it gets; without, one after the other.
async fn ask_until(
    (mut caller, mut hand): (Caller, Hand),
    arrivals: Rc<Option<Arrivals>>,
    until: Instant,
) -> Result<Tally> {
    let mut tally = Tally::new()?;
    loop {
        hand.deal(&mut caller);
        let due = match arrivals.as_ref() {
            None => Instant::now(),
            Some(arrivals) => match arrivals.next().await {
                Some(due) => due,
                None => return Ok(tally),
            },
        };
        if Instant::now() < until {
            tally.count(caller.ask().await, due.elapsed());
        } else if arrivals.is_some() {
            tally.unsent();
        } else {
            return Ok(tally);
        }
    }
}

#[cfg(test)]
mod tests;
