//! A running program, and one that has ended.

use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::NamedTempFile;

use super::{eventually, json};

/// A running program; it does not outlive its test.
pub(crate) struct Running {
    child: Child,
    /// Files rather than pipes, so that nothing has to be read while it runs.
    out: NamedTempFile,
    err: NamedTempFile,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let (out, err) = (NamedTempFile::new().unwrap(), NamedTempFile::new().unwrap());
        command.stdin(Stdio::null()).stdout(out.reopen().unwrap()).stderr(err.reopen().unwrap());
        Self { child: command.spawn().unwrap(), out, err }
    }

    /// The first line of standard output, once it is there.
    pub(crate) fn first_line(&mut self) -> Value {
        let line = eventually("a line on standard output", || {
            let out = read(&self.out);
            assert!(self.child.try_wait().unwrap().is_none(), "ended early: {}", read(&self.err));
            out.split_once('\n').map(|(line, _)| line.to_owned())
        });
        json(&line)
    }

    /// What is on standard error so far.
    pub(crate) fn err(&self) -> String {
        read(&self.err)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ran {
        let status = eventually("the end of the program", || self.child.try_wait().unwrap());
        Ran { code: status.code(), out: read(&self.out), err: read(&self.err) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already, which is as good.
        let _ = self.child.kill();
        let ended = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}\nended with {ended:?}", read(&self.err));
        }
    }
}

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// The lines of standard output.
    #[track_caller]
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.out.lines().map(json).collect()
    }

    /// Why it ended badly: the one line on standard error that says so, logs and a user's help aside.
    #[track_caller]
    pub(crate) fn complaint(&self) -> &str {
        let is_complaint = |line: &&str| line.starts_with("packhorse: ") || line.starts_with("error: ");
        let complaints: Vec<_> = self.err.lines().filter(is_complaint).collect();
        assert_eq!(complaints.len(), 1, "not one complaint: {}", self.err);
        complaints[0]
    }
}

fn read(file: &NamedTempFile) -> String {
    String::from_utf8_lossy(&std::fs::read(file.path()).unwrap()).into_owned()
}
