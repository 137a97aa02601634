//! One child process: its pipes are watched with a time limit, its complaints are kept, its CPU time is read, and it
//! is killed and reaped when its owner lets go of it.

use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use engine::confine::{Bounds, confine, confine_with_loopback};
use engine::{Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use super::{Input, Tools};
use crate::ranges::{Serving, View};

/// Verbosity that [`Log`] can read: errors only, each line with its level, repeats written out so that they count.
pub(super) const LOG_LEVEL: &str = "repeat+level+error";

/// The containers that hold their own frames. Playlists, scripts and text renderers are left out: a file that a
/// stranger uploaded must not make the decoder open other files, and a text is no video.
pub(super) const CONTAINERS: &str = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegtsraw,mpegvideo,flv,asf,ogg,nut,ivf,\
h261,h263,h264,hevc,av1,obu,vc1,m4v,mjpeg,mjpeg_2000,gif,apng,rm,wtv,mxf,gxf,dv,yuv4mpegpipe,live_flv,bink,smk,swf,nsv";

/// How far a program goes that reads what strangers sent. The memory is enough for the largest frames that are decoded;
/// the time is for a film of hours, since one that makes no progress is stopped long before.
pub(super) const BOUNDS: Bounds = Bounds { memory_bytes: 4 << 30, cpu_s: 24 * 3600, file_bytes: 0, files: 64 };

/// The longest that a program may take for its next sign of life after it has waited for its video.
const GRACE: Duration = Duration::from_secs(30);

/// The error of a program that is not there, or may not be started.
pub(super) fn cannot_start(program: &Path, error: &io::Error) -> Error {
    Error::unavailable(format!(
        "cannot start '{}': {error}; install it with `apt-get install ffmpeg`, or point PACKHORSE_FFMPEG and \
         PACKHORSE_FFPROBE at the programs",
        program.display()
    ))
}

/// A running program.
pub(super) struct Child {
    process: std::process::Child,
    stderr: Option<ChildStderr>,
    log: Log,
    /// What it reads a video by that is elsewhere.
    serving: Option<Serving>,
}

/// How a program ended.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    /// User and system time of all its threads, to 10 ms.
    pub(super) cpu: Duration,
}

impl Child {
    /// Starts `command`, which reads what a stranger sent: within bounds, and without a network but for one that ends
    /// here, on which it is answered about an input that is elsewhere, as far as it is to see that.
    pub(super) fn reading(command: &mut Command, tools: &Tools, (input, view): (&Input, View)) -> Result<Self> {
        let loopback = match input {
            Input::Elsewhere(ranges) => Some((confine_with_loopback(command, &BOUNDS)?, ranges)),
            Input::File(_) | Input::Fetched(..) if tools.confined => confine(command, &BOUNDS).map(|()| None)?,
            Input::File(_) | Input::Fetched(..) => None,
        };
        let mut child = Self::spawn(command)?;
        child.serving =
            loopback.map(|(loopback, ranges)| Serving::start(loopback.listener()?, ranges, &view)).transpose()?;
        Ok(child)
    }

    /// Starts `command`; its standard error goes to the log.
    ///
    /// A process group of its own keeps an interrupt typed at the terminal away from it: a decoder that stopped early
    /// would look like a short video.
    pub(super) fn spawn(command: &mut Command) -> Result<Self> {
        let started = command.stderr(Stdio::piped()).process_group(0).env("AV_LOG_FORCE_NOCOLOR", "1").spawn();
        let mut process = started.map_err(|error| cannot_start(Path::new(command.get_program()), &error))?;
        let stderr = process.stderr.take();
        Ok(Self { process, stderr, log: Log::default(), serving: None })
    }

    pub(super) fn take_stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.process.stdin.take()
    }

    pub(super) fn take_stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.process.stdout.take()
    }

    /// What the program has complained about so far.
    pub(super) fn log(&self) -> &Log {
        &self.log
    }

    /// Why its video cannot be read on, if it cannot. It is known before the program hears of it, so whoever hears from the
    /// program of an end or an error asks here first.
    pub(super) fn fault(&self) -> Option<Error> {
        self.serving.as_ref()?.fault()
    }

    /// As [`wait_until`](Self::wait_until), but a program that waits for its video is not late: it has [`GRACE`] once that
    /// has come, and what is to become of a place that does not answer is for others to say.
    pub(super) fn wait<const N: usize>(
        &mut self,
        others: [Option<(BorrowedFd<'_>, PollFlags)>; N],
        deadline: Instant,
    ) -> io::Result<Option<[bool; N]>> {
        let mut until = deadline;
        loop {
            if let Some(ready) = self.wait_until(others, until)? {
                return Ok(Some(ready));
            }
            match self.serving.as_ref().and_then(Serving::last_waited).map(|at| at + GRACE) {
                Some(later) if later > Instant::now() => until = later,
                _ => return Ok(None),
            }
        }
    }

    /// Waits until standard error or one of `others` is ready, takes in what standard error has, and says which of
    /// `others` are ready. `None` when `deadline` passes first.
    fn wait_until<const N: usize>(
        &mut self,
        others: [Option<(BorrowedFd<'_>, PollFlags)>; N],
        deadline: Instant,
    ) -> io::Result<Option<[bool; N]>> {
        let mut watched: Vec<PollFd<'_>> =
            others.iter().flatten().map(|&(fd, flags)| PollFd::from_borrowed_fd(fd, flags)).collect();
        if let Some(stderr) = &self.stderr {
            watched.push(PollFd::new(stderr, PollFlags::IN));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut watched, Some(&timeout)) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Some([false; N])),
            Err(error) => return Err(error.into()),
        }
        // A pipe that has ended is ready as well: reading it says so.
        let mut ready = watched.iter().map(|fd| !fd.revents().is_empty());
        let answer = others.map(|other| other.is_some() && ready.next().unwrap_or(false));
        if ready.next().unwrap_or(false) {
            self.read_log()?;
        }
        // Complaints without end are no reason to wait on.
        let in_time = !left.is_zero() || answer.contains(&true);
        Ok(in_time.then_some(answer))
    }

    fn read_log(&mut self) -> io::Result<()> {
        let Some(stderr) = &mut self.stderr else { return Ok(()) };
        let mut bytes = [0; 4096];
        match read_some(stderr, &mut bytes)? {
            0 => self.stderr = None,
            count => self.log.push(&bytes[..count]),
        }
        Ok(())
    }

    /// Hands everything that the program writes to standard output to `take`, until it ends or `take` says that it is
    /// enough. `false` when nothing came for `limit`.
    pub(super) fn read_all(
        &mut self,
        limit: Duration,
        take: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> io::Result<bool> {
        let mut stdout = self.take_stdout();
        let mut piece = [0; 16 << 10];
        let mut deadline = Instant::now() + limit;
        while let Some(pipe) = &mut stdout {
            match self.wait([Some(readable(pipe))], deadline)? {
                None => return Ok(false),
                Some([false]) => continue,
                Some([true]) => deadline = Instant::now() + limit,
            }
            match read_some(pipe, &mut piece)? {
                0 => stdout = None,
                count if take(&piece[..count]).is_break() => stdout = None,
                _ => {}
            }
        }
        Ok(true)
    }

    /// Waits for the program's end, reading its last words; kills it when `limit` passes.
    pub(super) fn end(&mut self, limit: Duration) -> io::Result<Ended> {
        let deadline = Instant::now() + limit;
        // The last holder of standard error is the program itself, so the pipe's end is the program's.
        while self.stderr.is_some() {
            if self.wait_until::<0>([], deadline)?.is_none() {
                self.process.kill()?;
                self.stderr = None;
            }
        }
        let pid = Pid::from_child(&self.process);
        // The entry in /proc lives until the program is reaped, so it is read between its end and that.
        let cpu = match waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Ok(_) => cpu_time(self.process.id()).unwrap_or_default(),
            Err(_) => Duration::ZERO,
        };
        Ok(Ended { status: self.process.wait()?, cpu })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both fail only when it was reaped already. Whoever answers it goes after it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Ended {
    /// The signal or order to stop from outside that ended the program, when one did: trying again can help then.
    pub(super) fn stopped_from_outside(&self) -> Option<String> {
        // ffmpeg answers an interrupt with exit status 255.
        const INTERRUPTED: i32 = 255;
        match (self.status.signal(), self.status.code()) {
            (Some(signal @ (2 | 9 | 15)), _) => Some(format!("killed by signal {signal}")),
            (None, Some(INTERRUPTED)) => Some("interrupted".to_owned()),
            _ => None,
        }
    }
}

/// The lines of a program started with [`LOG_LEVEL`], counted; the first is kept.
#[derive(Debug, Default)]
pub(super) struct Log {
    line: Vec<u8>,
    errors: u64,
    first: Option<String>,
}

impl Log {
    /// A line longer than this is cut: it comes from a file that nobody vouches for.
    const LINE_BYTES_MAX: usize = 300;

    /// Lines that tell of an error.
    pub(super) fn errors(&self) -> u64 {
        self.errors
    }

    /// The first of them, with the name of the part that complained.
    pub(super) fn first(&self) -> Option<&str> {
        self.first.as_deref()
    }

    /// The first of them, or `otherwise`.
    pub(super) fn reason(&self, otherwise: &str) -> String {
        self.first().unwrap_or(otherwise).to_owned()
    }

    fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                _ if self.line.len() < Self::LINE_BYTES_MAX => self.line.push(byte),
                _ => {}
            }
        }
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.line).into_owned();
        self.line.clear();
        let tagged = ["[error] ", "[fatal] ", "[panic] "].iter().find_map(|tag| line.split_once(tag));
        let Some((part, message)) = tagged else { return };
        self.errors += 1;
        if self.first.is_none() {
            // `[h264 @ 0x55d0c0ffee00] ` names the part and an address that means nothing to anyone.
            let part = part.trim_start_matches('[').split_once(" @ ").map_or("", |(part, _)| part);
            let message = message.trim().trim_end_matches('.');
            self.first = Some(if part.is_empty() { message.to_owned() } else { format!("{part}: {message}") });
        }
    }
}

/// Reads what is there; 0 is the end.
pub(super) fn read_some(source: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(into) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            answer => return answer,
        }
    }
}

/// `fd`, to be watched for something to read.
pub(super) fn readable(fd: &impl AsFd) -> (BorrowedFd<'_>, PollFlags) {
    (fd.as_fd(), PollFlags::IN)
}

/// A failure of the pipe itself.
pub(super) fn pipe_failed(program: &str, error: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Internal, format!("the pipe to {program} failed: {error}"))
}

/// User and system time in `/proc/PID/stat` (proc(5), fields 14 and 15).
fn cpu_time(pid: u32) -> Option<Duration> {
    // The kernel's own unit for these two fields, whatever its timer runs at.
    const TICKS_PER_S: u64 = 100;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name stands in brackets and may hold anything; field 3 follows the last one.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some(Duration::from_millis((ticks()? + ticks()?) * 1000 / TICKS_PER_S))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_counts_errors_and_keeps_the_first() {
        let long = format!("[fatal] {}\n", "x".repeat(1000));
        let table: [(&str, u64, Option<&str>); 6] = [
            ("", 0, None),
            ("no level here\n[info] fine\n[warning] hm\n", 0, None),
            ("[h264 @ 0x5578] [error] no frame!\n[error] second\n", 2, Some("h264: no frame!")),
            (
                "[error] a.mp4: Invalid data found when processing input.\n",
                1,
                Some("a.mp4: Invalid data found when processing input"),
            ),
            ("[error] unfinished", 0, None),
            (&long, 1, Some(&long[8..300])),
        ];
        for (text, errors, first) in table {
            let mut log = Log::default();
            // Cut at every place, as a pipe may.
            text.as_bytes().chunks(7).for_each(|piece| log.push(piece));
            assert_eq!((log.errors(), log.first()), (errors, first), "{text:?}");
        }
    }

    #[test]
    fn a_child_is_timed_and_its_status_told() {
        // A loop in the shell itself, so that the time is its own.
        let mut command = Command::new("sh");
        command.args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo '[error] done' >&2; exit 3"]);
        let mut child = Child::spawn(&mut command).unwrap();
        let ended = child.end(Duration::from_secs(60)).unwrap();
        assert_eq!(ended.status.code(), Some(3));
        assert!(ended.cpu >= Duration::from_millis(10), "{:?}", ended.cpu);
        assert_eq!(child.log().first(), Some("done"));
    }

    #[test]
    fn a_child_that_does_not_end_is_killed() {
        let mut child = Child::spawn(Command::new("sleep").arg("600")).unwrap();
        let ended = child.end(Duration::from_millis(20)).unwrap();
        assert_eq!(ended.stopped_from_outside().as_deref(), Some("killed by signal 9"));
    }

    #[test]
    fn a_missing_program_is_named_with_its_cure() {
        let error = Child::spawn(&mut Command::new("/nowhere/ffmpeg")).err().unwrap();
        assert_eq!(error.kind, ErrorKind::Unavailable);
        assert!(
            error.message.contains("'/nowhere/ffmpeg'") && error.message.contains("apt-get install ffmpeg"),
            "{error}"
        );
    }
}
