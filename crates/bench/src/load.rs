//! Closed-loop load on a server: so many callers, each sending its next request when it has the answer to the last.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use engine::{Error, Result};
use hdrhistogram::Histogram;

/// Latencies are told apart to three digits, up to a minute.
const DIGITS: u8 = 3;
const LATENCY_MAX_US: u64 = 60_000_000;

/// What a load came to.
#[derive(Debug)]
pub struct Load {
    /// Requests answered with 200.
    pub answered: u64,
    /// Requests answered with anything else.
    pub refused: u64,
    /// From the first request to the last answer.
    pub wall: Duration,
    /// Of the answered ones, in microseconds; all callers' merged.
    pub latencies_us: Histogram<u64>,
}

impl Load {
    /// What the callers came to in all: their latencies and how many of their requests were refused.
    pub(crate) fn merged(parts: Vec<(Histogram<u64>, u64)>, wall: Duration) -> Result<Self> {
        let mut load = Self { answered: 0, refused: 0, wall, latencies_us: histogram()? };
        for (latencies_us, refused) in parts {
            load.answered += latencies_us.len();
            load.refused += refused;
            load.latencies_us
                .add(latencies_us)
                .map_err(|error| Error::internal(format!("histograms do not merge: {error}")))?;
        }
        Ok(load)
    }

    /// Answers a second.
    pub fn per_second(&self) -> f64 {
        self.answered as f64 / self.wall.as_secs_f64()
    }

    /// The latency that this share of the requests did not exceed, in milliseconds.
    pub fn quantile_ms(&self, share: f64) -> f64 {
        self.latencies_us.value_at_quantile(share) as f64 / 1e3
    }
}

/// Sends `request`, a whole HTTP/1.1 message, over and over from `callers` connections for `time`.
///
/// # Errors
/// [`Unavailable`](engine::ErrorKind::Unavailable) when the server cannot be reached or answers no HTTP.
pub fn http_load(server: SocketAddr, request: &[u8], callers: usize, time: Duration) -> Result<Load> {
    let until = Instant::now() + time;
    let started = Instant::now();
    let parts = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..callers).map(|_| scope.spawn(move || caller(server, request, until))).collect();
        callers
            .into_iter()
            .map(|caller| caller.join().unwrap_or_else(|_| Err(Error::internal("a caller panicked"))))
            .collect::<Result<Vec<_>>>()
    })?;
    Load::merged(parts, started.elapsed())
}

fn caller(server: SocketAddr, request: &[u8], until: Instant) -> Result<(Histogram<u64>, u64)> {
    let lost = |source: std::io::Error| Error::unavailable(format!("{server}: the connection failed: {source}"));
    let mut stream = TcpStream::connect(server).map_err(lost)?;
    stream.set_nodelay(true).map_err(lost)?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).map_err(lost)?;
    let (mut latencies_us, mut refused) = (histogram()?, 0);
    let mut buffer = Vec::new();
    while Instant::now() < until {
        let sent = Instant::now();
        stream.write_all(request).map_err(lost)?;
        if status(&mut stream, &mut buffer).map_err(lost)? == 200 {
            let us = u64::try_from(sent.elapsed().as_micros()).unwrap_or(LATENCY_MAX_US);
            latencies_us.saturating_record(us);
        } else {
            refused += 1;
        }
    }
    Ok((latencies_us, refused))
}

/// Reads one response with a Content-Length to its end, and gives its status.
fn status(stream: &mut impl Read, buffer: &mut Vec<u8>) -> std::io::Result<u16> {
    let broken = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned());
    buffer.clear();
    let mut chunk = [0u8; 16 << 10];
    let head = loop {
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        buffer.extend_from_slice(&chunk[..read]);
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
    };
    let text = std::str::from_utf8(&buffer[..head]).map_err(|_| broken("a head that is no text"))?;
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| broken("no status"))?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let mut left = (head + 4 + length.ok_or_else(|| broken("no Content-Length"))?).saturating_sub(buffer.len());
    while left > 0 {
        let most = left.min(chunk.len());
        let read = stream.read(&mut chunk[..most])?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        left -= read;
    }
    Ok(status)
}

pub(crate) fn histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_max(LATENCY_MAX_US, DIGITS).map_err(|error| Error::internal(format!("no histogram: {error}")))
}

/// CPU time that the process `id` and its threads have used: `utime` and `stime` of `/proc/ID/stat` (proc_pid_stat(5)),
/// which the kernel counts in hundredths of a second.
pub fn cpu_of(id: u32) -> Result<Duration> {
    const TICKS_PER_S: f64 = 100.0;
    let path = format!("/proc/{id}/stat");
    let text = std::fs::read_to_string(&path).map_err(|error| Error::unavailable(format!("{path}: {error}")))?;
    // The second field is the program's name in parentheses, and may hold anything.
    let fields: Vec<&str> = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
    let spent = ticks(11).zip(ticks(12)).map(|(user, system)| (user + system) as f64 / TICKS_PER_S);
    spent.map(Duration::from_secs_f64).ok_or_else(|| Error::internal(format!("{path} is not as the manual says")))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn answers_are_read_to_their_end_however_they_arrive() {
        for (what, reply, want) in [
            ("whole", &[&b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"[..]][..], Some(200)),
            ("in pieces", &[b"HTTP/1.1 429 Too", b" Many\r\ncontent-length:", b" 3\r\n\r\nno", b"!"], Some(429)),
            ("cut off", &[b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok"], None),
            ("no length", &[b"HTTP/1.1 200 OK\r\n\r\n"], None),
        ] {
            let mut pieces = reply.iter().copied();
            let mut piece: &[u8] = &[];
            let got = status(&mut Pieces { pieces: &mut pieces, piece: &mut piece }, &mut Vec::new());
            assert_eq!(got.ok(), want, "{what}");
        }
    }

    /// Gives one piece a read, as a network may.
    struct Pieces<'a, 'b> {
        pieces: &'a mut dyn Iterator<Item = &'b [u8]>,
        piece: &'a mut &'b [u8],
    }

    impl Read for Pieces<'_, '_> {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            if self.piece.is_empty() {
                *self.piece = self.pieces.next().unwrap_or(&[]);
            }
            Read::read(self.piece, out)
        }
    }

    #[test]
    fn a_load_counts_answers_and_refusals() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().take(2) {
                std::thread::spawn(move || {
                    let (mut stream, mut request, mut count) = (stream.unwrap(), [0; 4], 0);
                    while stream.read_exact(&mut request).is_ok() {
                        count += 1;
                        let code = if count % 2 == 0 { "503 no" } else { "200 ok" };
                        let _ = write!(stream, "HTTP/1.1 {code}\r\nContent-Length: 0\r\n\r\n");
                    }
                });
            }
        });
        let load = http_load(server, b"GET\n", 2, Duration::from_millis(500)).unwrap();
        assert!(load.answered > 0 && load.refused > 0, "{load:?}");
        assert_eq!(load.latencies_us.len(), load.answered);
        assert!(load.quantile_ms(0.5) <= load.quantile_ms(1.0));
    }

    #[test]
    fn cpu_time_of_a_process_grows_with_its_work() {
        let before = cpu_of(std::process::id()).unwrap();
        let begun = Instant::now();
        while cpu_of(std::process::id()).unwrap() == before {
            assert!(begun.elapsed() < Duration::from_secs(60), "the clock stands still");
            std::hint::black_box((0..1_000_000u64).sum::<u64>());
        }
    }
}
