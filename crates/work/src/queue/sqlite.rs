//! The embedded queue: one SQLite file, any number of processes on one machine.
//!
//! Write-ahead log with full synchronisation: a task that was sent, or ended, is so after a power cut too. Every change
//! is one immediate transaction, so two workers never take the same task.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use engine::{Error, ErrorKind, Result};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use super::{Clock, DeadLetter, Depth, Lease, Phase, Received, TaskQueue, TaskState, lease_lost, system_clock};
use crate::Task;
use crate::queue::fault::explain;
use crate::task::{check_segment, nonce};

/// Marks the file as ours in its header ("phtq"), so that another program's database is never taken for a queue.
const APPLICATION_ID: i64 = 0x7068_7471;

/// The table layout this build writes, and the newest it reads.
const SCHEMA_VERSION: i64 = 1;

/// No lease lasts as long, and no delay. What is hidden for longer was hidden by a clock that was ahead, and would be lost
/// until then.
const HIDDEN_MS_MAX: i64 = 24 * 3_600 * 1_000;

/// A reason longer than this is cut: it is for a person, and the queue's size must not hang on an error's length.
const REASON_CHARS_MAX: usize = 2_000;

/// `queued` covers visible, delayed and in flight: which of them depends on the time alone, so nothing has to run when
/// a lease lapses.
const SCHEMA: &str = "
    CREATE TABLE tasks (
        id                TEXT PRIMARY KEY NOT NULL,
        body              TEXT NOT NULL,
        state             TEXT NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'done', 'dead')),
        visible_at_ms     INTEGER NOT NULL,
        receipt           TEXT,
        receive_count     INTEGER NOT NULL DEFAULT 0,
        failures          INTEGER NOT NULL DEFAULT 0,
        sent_ms           INTEGER NOT NULL,
        received_first_ms INTEGER,
        finished_ms       INTEGER,
        reason            TEXT
    ) STRICT;
    CREATE INDEX tasks_queued ON tasks (visible_at_ms) WHERE state = 'queued';
    CREATE INDEX tasks_ended ON tasks (state) WHERE state <> 'queued';
";

/// How a queue behaves.
#[derive(Clone)]
pub struct Options {
    /// What time it is.
    pub clock: Clock,
    /// How long to wait for another process's transaction before the file counts as locked.
    pub busy_timeout: Duration,
    /// A task received this often without an end is given up: it may be what kills its workers.
    pub receives_max: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { clock: system_clock(), busy_timeout: Duration::from_secs(5), receives_max: 10 }
    }
}

/// A [`TaskQueue`] in one SQLite file.
pub struct SqliteQueue {
    path: PathBuf,
    options: Options,
    /// One connection, since every call is one short transaction; a thread waits here rather than inside SQLite.
    connection: Mutex<Connection>,
}

impl SqliteQueue {
    /// Opens the queue in the file `path`, and makes it if it does not exist.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) without the folder, [`InvalidInput`](ErrorKind::InvalidInput) when the path
    /// is no file of ours or not writable, [`Corrupt`](ErrorKind::Corrupt) when the file is no sound database,
    /// [`Unsupported`](ErrorKind::Unsupported) when a newer build made it,
    /// [`Unavailable`](ErrorKind::Unavailable) while another program holds it locked.
    pub fn open(path: &Path, options: Options) -> Result<Self> {
        // Absolute, so that no path is ever read as one of SQLite's `file:` URIs or `:memory:`.
        let path =
            std::path::absolute(path).map_err(|_| Error::invalid("the queue's path is empty: give a file path"))?;
        if path.is_dir() {
            return Err(Error::invalid(format!("queue {} is a folder: give the path of a file in it", path.display())));
        }
        if !path.parent().is_some_and(Path::is_dir) {
            let message =
                format!("the folder of queue {} does not exist: make it, or correct the path", path.display());
            return Err(Error::not_found(message));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&path, flags)
            .and_then(|mut connection| prepare(&mut connection, &options).map(|version| (connection, version)))
            .map_err(|e| explain(&path, &e));
        let (connection, version) = connection?;
        match version {
            Some(SCHEMA_VERSION) => Ok(Self { path, options, connection: Mutex::new(connection) }),
            Some(version) => Err(Error::unsupported(format!(
                "queue {} has layout {version}, but this build knows layout {SCHEMA_VERSION}: use the build that made it",
                path.display()
            ))),
            None => Err(Error::invalid(format!(
                "queue {} is another program's SQLite database: give another path",
                path.display()
            ))),
        }
    }

    fn now_ms(&self) -> i64 {
        (self.options.clock)()
    }

    /// Runs `act` in one immediate transaction, so that what it reads is still so when it writes.
    fn transact<T>(&self, act: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T> {
        // A panic inside leaves nothing half done: the transaction rolls back when it is dropped.
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let run = || {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = act(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        run().map_err(|e| explain(&self.path, &e))
    }

    /// Reads with one statement, which needs no write lock and sees one state of the file.
    fn read<T>(&self, act: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        act(&connection).map_err(|e| explain(&self.path, &e))
    }

    /// Runs a change that the lease's receipt guards.
    fn change(&self, lease: &Lease, sql: &str, values: &[&dyn rusqlite::ToSql]) -> Result<()> {
        let guarded = format!("UPDATE tasks SET {sql} WHERE id = ?1 AND receipt = ?2 AND state = 'queued'");
        let mut all: Vec<&dyn rusqlite::ToSql> = vec![&lease.task.id, &lease.receipt];
        all.extend_from_slice(values);
        match self.transact(|tx| tx.execute(&guarded, all.as_slice()))? {
            0 => Err(lease_lost(&lease.task.id)),
            _ => Ok(()),
        }
    }
}

impl TaskQueue for SqliteQueue {
    fn send(&self, task: &Task) -> Result<()> {
        let (body, now_ms) = (task.to_json()?, self.now_ms());
        let same = self.transact(|tx| {
            let held: Option<String> =
                tx.query_row("SELECT body FROM tasks WHERE id = ?1", [&task.id], |row| row.get(0)).optional()?;
            if held.is_none() {
                let sql = "INSERT INTO tasks (id, body, visible_at_ms, sent_ms) VALUES (?1, ?2, ?3, ?3)";
                tx.execute(sql, params![task.id, body, now_ms])?;
            }
            Ok(held.is_none_or(|held| held == body))
        })?;
        match same {
            true => Ok(()),
            false => Err(Error::new(
                ErrorKind::AlreadyExists,
                format!(
                    "queue {} holds another task called {}: give this one another id",
                    self.path.display(),
                    task.id
                ),
            )),
        }
    }

    fn receive(&self, visibility: Duration) -> Result<Received> {
        let now_ms = self.now_ms();
        self.transact(|tx| self.take(tx, now_ms, visibility))
    }

    fn extend(&self, lease: &Lease, visibility: Duration) -> Result<()> {
        self.change(lease, "visible_at_ms = ?3", &[&after(self.now_ms(), visibility)])
    }

    fn complete(&self, lease: &Lease) -> Result<()> {
        self.change(lease, "state = 'done', receipt = NULL, reason = NULL, finished_ms = ?3", &[&self.now_ms()])
    }

    fn release(&self, lease: &Lease, delay: Duration, reason: &str, count_failure: bool) -> Result<()> {
        let sql = "receipt = NULL, visible_at_ms = ?3, reason = ?4, failures = failures + ?5,
                   receive_count = max(receive_count - 1 + ?5, 0)";
        self.change(lease, sql, &[&after(self.now_ms(), delay), &cut(reason), &i64::from(count_failure)])
    }

    fn dead_letter(&self, lease: &Lease, reason: &str) -> Result<()> {
        let sql = "state = 'dead', receipt = NULL, finished_ms = ?3, reason = ?4";
        self.change(lease, sql, &[&self.now_ms(), &cut(reason)])
    }

    fn depth(&self) -> Result<Depth> {
        let now_ms = self.now_ms();
        // `sum` over no rows is NULL, `total` is a real, hence `count` with a filter.
        let sql = "SELECT count(*) FILTER (WHERE visible_at_ms <= ?1),
                          count(*) FILTER (WHERE visible_at_ms > ?1 AND receipt IS NULL),
                          count(*) FILTER (WHERE visible_at_ms > ?1 AND receipt IS NOT NULL),
                          min(sent_ms),
                          (SELECT count(*) FROM tasks WHERE state = 'dead'),
                          (SELECT count(*) FROM tasks WHERE state = 'done')
                   FROM tasks WHERE state = 'queued'";
        self.read(|connection| {
            connection.query_row(sql, [now_ms], |row| {
                let oldest_ms: Option<i64> = row.get(3)?;
                Ok(Depth {
                    visible: count(row, 0)?,
                    delayed: count(row, 1)?,
                    in_flight: count(row, 2)?,
                    dead: count(row, 4)?,
                    done: count(row, 5)?,
                    oldest_age: oldest_ms.map(|sent| {
                        Duration::from_millis(u64::try_from(now_ms.saturating_sub(sent)).unwrap_or_default())
                    }),
                })
            })
        })
    }

    fn keeps_tasks(&self) -> bool {
        true
    }

    fn state(&self, id: &str) -> Result<TaskState> {
        let now_ms = self.now_ms();
        let sql = "SELECT state, visible_at_ms, receipt IS NOT NULL, failures, reason FROM tasks WHERE id = ?1";
        let state = self.read(|connection| {
            let read = |row: &Row<'_>| {
                let (state, visible_at_ms, held): (String, i64, bool) = (row.get(0)?, row.get(1)?, row.get(2)?);
                let phase = match (state.as_str(), visible_at_ms <= now_ms, held) {
                    ("done", ..) => Phase::Done,
                    ("dead", ..) => Phase::Dead,
                    (_, true, _) => Phase::Visible,
                    (_, false, true) => Phase::InFlight,
                    (_, false, false) => Phase::Delayed,
                };
                Ok(TaskState { phase, failures: small(row, 3)?, reason: row.get(4)? })
            };
            connection.query_row(sql, [id], read).optional()
        })?;
        state.ok_or_else(|| Error::not_found(format!("queue {} has no task called {id}", self.path.display())))
    }

    fn dead_letters(&self, count_max: usize) -> Result<Vec<DeadLetter>> {
        let sql = "SELECT id, body, reason FROM tasks WHERE state = 'dead' ORDER BY rowid LIMIT ?1";
        let read = |row: &Row<'_>| {
            let input = Task::shown_input_of(&text(row, 1)?);
            let reason = row.get::<_, Option<String>>(2)?.unwrap_or_default();
            Ok(DeadLetter { id: text(row, 0)?, input, reason })
        };
        let limit = i64::try_from(count_max).unwrap_or(i64::MAX);
        self.read(|connection| connection.prepare(sql)?.query_map([limit], read)?.collect())
    }

    fn redrive(&self, wanted: &dyn Fn(&str) -> bool) -> Result<u64> {
        let now_ms = self.now_ms();
        self.transact(|tx| {
            let mut statement = tx.prepare("SELECT rowid, id FROM tasks WHERE state = 'dead' ORDER BY rowid")?;
            let dead = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, text(row, 1)?)))?;
            let dead: Vec<(i64, String)> = dead.collect::<rusqlite::Result<_>>()?;
            let mut count = 0;
            for (number, _) in dead.iter().filter(|(_, id)| wanted(id)) {
                let sql = "UPDATE tasks SET state = 'queued', visible_at_ms = ?2, receipt = NULL, receive_count = 0,
                           failures = 0, finished_ms = NULL WHERE rowid = ?1";
                tx.execute(sql, params![number, now_ms])?;
                count += 1;
            }
            Ok(count)
        })
    }
}

impl SqliteQueue {
    fn take(&self, tx: &Transaction<'_>, now_ms: i64, visibility: Duration) -> rusqlite::Result<Received> {
        let sql = "UPDATE tasks SET visible_at_ms = ?1 WHERE state = 'queued' AND visible_at_ms > ?2";
        tx.execute(sql, [now_ms, now_ms.saturating_add(HIDDEN_MS_MAX)])?;
        // The row is told by its number from here on: the id may be anything if it is not ours.
        let sql = "SELECT rowid, id, body, receive_count, failures FROM tasks
                   WHERE state = 'queued' AND visible_at_ms <= ?1 ORDER BY visible_at_ms, rowid LIMIT 1";
        let read =
            |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, text(row, 1)?, text(row, 2)?, small(row, 3)?, small(row, 4)?));
        let found = tx.query_row(sql, [now_ms], read).optional()?;
        let Some((number, id, body, receives, failures)) = found else {
            return Ok(Received::Nothing);
        };
        let task = match parse(&id, &body) {
            Ok(task) if receives >= self.options.receives_max => Err((
                Some(Box::new(task)),
                format!(
                    "received {receives} times without an end: it may be what stops its workers; look at their logs"
                ),
            )),
            Ok(task) => Ok(task),
            Err(error) => Err((None, error.message)),
        };
        match task {
            Ok(task) => {
                let receipt = format!("{:016x}{:016x}", nonce(), nonce());
                let sql = "UPDATE tasks SET receipt = ?2, visible_at_ms = ?3, receive_count = ?4,
                           received_first_ms = coalesce(received_first_ms, ?5) WHERE rowid = ?1";
                let receive_count = receives.saturating_add(1);
                tx.execute(sql, params![number, receipt, after(now_ms, visibility), receive_count, now_ms])?;
                Ok(Received::Task(Box::new(Lease { task, receipt, receive_count, failures })))
            }
            Err((task, reason)) => {
                let sql =
                    "UPDATE tasks SET state = 'dead', receipt = NULL, finished_ms = ?2, reason = ?3 WHERE rowid = ?1";
                tx.execute(sql, params![number, now_ms, cut(&reason)])?;
                Ok(Received::DeadLetter { id, task, reason })
            }
        }
    }
}

/// The task in a row; the body may have been written by anyone.
fn parse(id: &str, body: &str) -> Result<Task> {
    check_segment("the task's id", id)?;
    let task = Task::from_json(body)?;
    if task.id != id {
        return Err(Error::invalid(format!("field 'id': the body says {}, but the queue says {id}", task.id)));
    }
    Ok(task)
}

/// Sets the connection up and makes the tables in a new file; says which layout the file has, `None` when it is
/// another program's.
fn prepare(connection: &mut Connection, options: &Options) -> rusqlite::Result<Option<i64>> {
    connection.busy_timeout(options.busy_timeout)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let read = |sql: &str| transaction.query_row(sql, [], |row| row.get::<_, i64>(0));
    let (mark, mut version) = (read("PRAGMA application_id")?, read("PRAGMA user_version")?);
    if mark != APPLICATION_ID {
        if mark != 0 || version != 0 || read("SELECT count(*) FROM sqlite_schema")? != 0 {
            return Ok(None);
        }
        transaction.execute_batch(SCHEMA)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        version = SCHEMA_VERSION;
    }
    transaction.commit()?;
    // Touched only once the file is known to be ours: the first of these is written into it.
    if version == SCHEMA_VERSION {
        connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0))?;
        connection.pragma_update(None, "synchronous", "FULL")?;
    }
    Ok(Some(version))
}

fn after(now_ms: i64, wait: Duration) -> i64 {
    now_ms.saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX))
}

fn cut(reason: &str) -> String {
    reason.chars().take(REASON_CHARS_MAX).collect()
}

/// Text that may have been written by anyone, so it need not be UTF-8.
fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    Ok(String::from_utf8_lossy(row.get_ref(column)?.as_bytes()?).into_owned())
}

/// A count of rows, which SQLite never makes negative.
fn count(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|value| u64::try_from(value).unwrap_or_default())
}

/// A counter of a task, saturating: a foreign row may hold anything.
fn small(row: &Row<'_>, column: usize) -> rusqlite::Result<u32> {
    row.get::<_, i64>(column).map(|value| u32::try_from(value.max(0)).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests;
