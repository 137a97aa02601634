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
            let input = Task::from_json(&text(row, 1)?).ok().map(|task| task.shown_input().into_owned());
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
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::super::conformance::{self, Bench, RECEIVES_MAX};
    use super::*;

    const VISIBILITY: Duration = Duration::from_secs(30);

    fn receive(queue: &SqliteQueue) -> Option<Lease> {
        match queue.receive(VISIBILITY).unwrap() {
            Received::Nothing => None,
            Received::Task(lease) => Some(*lease),
            Received::DeadLetter { id, reason, .. } => panic!("{id}: {reason}"),
        }
    }

    fn impatient() -> Options {
        Options { busy_timeout: Duration::from_millis(1), ..Options::default() }
    }

    fn sample(id: &str) -> Task {
        Task { id: id.to_owned(), ..Task::new(Path::new("/videos/a.mp4"), "detector").unwrap() }
    }

    #[test]
    fn conforms() {
        conformance::check(&|| {
            let folder = tempfile::tempdir().unwrap();
            let now_ms = Arc::new(AtomicI64::new(1_700_000_000_000));
            let turned = Arc::clone(&now_ms);
            let clock: Clock = Arc::new(move || turned.load(Ordering::SeqCst));
            let options = Options { clock, receives_max: RECEIVES_MAX, ..Options::default() };
            let queue = SqliteQueue::open(&folder.path().join("queue.db"), options).unwrap();
            // Durability is not what these cases check, and a thousand synchronisations take their time.
            queue.connection.lock().unwrap().pragma_update(None, "synchronous", "OFF").unwrap();
            let advance = move |time: Duration| {
                now_ms.fetch_add(i64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
            };
            Bench {
                queue: Box::new(queue),
                advance: Box::new(advance),
                visibility: conformance::VISIBILITY,
                _folder: Box::new(folder),
            }
        });
    }

    #[test]
    fn what_is_sent_survives_and_is_synchronised_to_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue.db");
        SqliteQueue::open(&path, Options::default()).unwrap().send(&sample("a")).unwrap();
        let again = SqliteQueue::open(&path, Options::default()).unwrap();
        assert_eq!(receive(&again).unwrap().task, sample("a"));
        let connection = again.connection.lock().unwrap();
        let pragma = |name: &str| {
            connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, rusqlite::types::Value>(0)).unwrap()
        };
        assert_eq!(pragma("journal_mode"), rusqlite::types::Value::Text("wal".to_owned()));
        assert_eq!(pragma("synchronous"), rusqlite::types::Value::Integer(2), "FULL");
    }

    /// Fills a path that the queue cannot be opened at.
    type Spoil = fn(&Path);

    #[test]
    fn a_path_that_is_no_queue_is_refused_with_the_fix() {
        let sql = |path: &Path, sql: &str| Connection::open(path).unwrap().execute_batch(sql).unwrap();
        let check = |spoil: Spoil, kind: ErrorKind, part: &str| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("queue.db");
            spoil(&path);
            let before = std::fs::read(&path).ok();
            let error = SqliteQueue::open(&path, impatient()).map(|_| ()).unwrap_err();
            assert_eq!(error.kind, kind, "{error}");
            assert!(error.message.contains(part) && error.message.contains("queue.db"), "{error}");
            assert_eq!(std::fs::read(&path).ok(), before, "{part}: the file was changed");
        };
        check(
            |path| std::fs::write(path, "not a database".repeat(100)).unwrap(),
            ErrorKind::Corrupt,
            "move the file away",
        );
        check(|path| std::fs::create_dir(path).unwrap(), ErrorKind::InvalidInput, "is a folder");
        check(|path| std::fs::remove_dir(path.parent().unwrap()).unwrap(), ErrorKind::NotFound, "does not exist");
        let foreign: Spoil = |path| {
            Connection::open(path).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
        };
        check(foreign, ErrorKind::InvalidInput, "another program's");
        let newer: Spoil = |path| {
            drop(SqliteQueue::open(path, Options::default()).unwrap());
            Connection::open(path).unwrap().pragma_update(None, "user_version", SCHEMA_VERSION + 1).unwrap();
        };
        check(newer, ErrorKind::Unsupported, "layout 2");
        // An empty file is what `touch` and `mktemp` leave, and is as good as none.
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("queue.db"), "").unwrap();
        SqliteQueue::open(&folder.path().join("queue.db"), impatient()).unwrap();
        sql(&folder.path().join("queue.db"), "SELECT id FROM tasks");
    }

    #[test]
    fn damage_in_the_middle_of_the_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue.db");
        let queue = SqliteQueue::open(&path, impatient()).unwrap();
        for number in 0..200 {
            queue.send(&sample(&format!("t{number}"))).unwrap();
        }
        drop(queue);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[4096..].fill(0x5a);
        std::fs::write(&path, bytes).unwrap();
        let error =
            SqliteQueue::open(&path, impatient()).and_then(|queue| queue.receive(VISIBILITY).map(|_| ())).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Corrupt, "{error}");
        assert!(error.message.contains("queue.db") && error.message.contains("submit the videos again"), "{error}");
    }

    #[test]
    fn a_locked_file_is_named_and_works_again_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue.db");
        let queue = SqliteQueue::open(&path, impatient()).unwrap();
        let other = Connection::open(&path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let opened = SqliteQueue::open(&path, impatient()).map(|_| ());
        for result in [queue.send(&sample("a")), queue.receive(VISIBILITY).map(|_| ()), opened] {
            let error = result.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
            assert!(error.message.contains("queue.db is locked"), "{error}");
        }
        assert_eq!(queue.depth().unwrap(), Depth::default(), "a reader does not wait for a writer");
        other.execute_batch("ROLLBACK").unwrap();
        queue.send(&sample("a")).unwrap();
        assert_eq!(receive(&queue).unwrap().task.id, "a");
    }

    #[test]
    fn a_full_disk_is_named_and_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let queue = SqliteQueue::open(&folder.path().join("queue.db"), Options::default()).unwrap();
        queue.connection.lock().unwrap().pragma_update(None, "max_page_count", 12).unwrap();
        let refused =
            (0..1_000).find_map(|number| queue.send(&sample(&format!("t{number}"))).err().map(|e| (number, e)));
        let (held, error) = refused.unwrap();
        assert_eq!(error.kind, ErrorKind::Exhausted, "{error}");
        assert!(error.message.contains("free some space"), "{error}");
        assert_eq!(queue.depth().unwrap().visible, held);
    }

    #[test]
    fn rows_that_anyone_wrote_go_to_the_dead_letters_and_the_next_task_is_received() {
        let check = |id: &str, body: &str, part: &str| {
            let folder = tempfile::tempdir().unwrap();
            let queue = SqliteQueue::open(&folder.path().join("queue.db"), Options::default()).unwrap();
            let sql = format!("INSERT INTO tasks (id, body, visible_at_ms, sent_ms) VALUES ({id}, {body}, 0, 0)");
            queue.connection.lock().unwrap().execute(&sql, []).unwrap();
            queue.send(&sample("next")).unwrap();
            let Received::DeadLetter { reason, .. } = queue.receive(VISIBILITY).unwrap() else { panic!("{id} {body}") };
            assert!(reason.contains(part), "{id} {body}: {reason}");
            assert_eq!(queue.depth().unwrap().dead, 1, "{id} {body}");
            assert_eq!(receive(&queue).unwrap().task.id, "next", "{id} {body}");
            let read = |row: &Row<'_>| row.get::<_, String>(0);
            let connection = queue.connection.lock().unwrap();
            let kept = connection.query_row("SELECT reason FROM tasks WHERE state = 'dead'", [], read).unwrap();
            assert_eq!(kept, reason);
        };
        let body = |id: &str| format!("'{}'", sample("x").to_json().unwrap().replace(r#""x""#, &format!("\"{id}\"")));
        check("'a'", "'no json'", "not a task");
        check("'a'", "cast(x'ff' AS TEXT)", "not a task");
        check("'a'", &body("b"), "the queue says a");
        check("'../a'", &body("../a"), "path segment");
        check("cast(x'ff' AS TEXT)", &body("a"), "path segment");
    }

    #[test]
    fn what_a_clock_that_was_ahead_has_hidden_is_received() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue.db");
        let at = |now_ms: i64| Options { clock: Arc::new(move || now_ms), ..Options::default() };
        let (year_ms, day_ms) = (365 * 86_400_000, 86_400_000);
        let ahead = SqliteQueue::open(&path, at(year_ms)).unwrap();
        ahead.send(&sample("held")).unwrap();
        let lost = receive(&ahead).unwrap();
        ahead.send(&sample("waiting")).unwrap();
        let right = SqliteQueue::open(&path, at(0)).unwrap();
        let mut ids = [receive(&right), receive(&right)].map(|lease| lease.unwrap().task.id);
        ids.sort_unstable();
        assert_eq!(ids, ["held", "waiting"]);
        assert_eq!(ahead.complete(&lost).unwrap_err().kind, ErrorKind::Cancelled);
        // A lease of the longest kind is none of these.
        right.send(&sample("long")).unwrap();
        assert!(matches!(right.receive(Duration::from_millis(day_ms / 2)).unwrap(), Received::Task(_)));
        assert_eq!(right.receive(VISIBILITY).unwrap(), Received::Nothing);
    }

    #[test]
    fn a_new_file_may_be_opened_by_many_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue.db");
        let send = |number: u64| {
            // Eight of them wait for each other's synchronisations, on whatever disk this is.
            let options = Options { busy_timeout: Duration::from_secs(120), ..Options::default() };
            let queue = SqliteQueue::open(&path, options).unwrap();
            queue.send(&sample(&format!("t{number}"))).unwrap();
        };
        let send = &send;
        std::thread::scope(|scope| (0..8).for_each(|number| drop(scope.spawn(move || send(number)))));
        let queue = SqliteQueue::open(&path, Options::default()).unwrap();
        assert_eq!(queue.depth().unwrap().visible, 8);
    }

    #[test]
    fn workers_that_race_receive_each_task_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue.db");
        let queue = SqliteQueue::open(&path, Options::default()).unwrap();
        queue.connection.lock().unwrap().pragma_update(None, "synchronous", "OFF").unwrap();
        let sent: Vec<String> = (0..60).map(|number| format!("t{number:02}")).collect();
        for id in &sent {
            queue.send(&sample(id)).unwrap();
        }
        let drain = || {
            let queue = SqliteQueue::open(&path, Options::default()).unwrap();
            let mut ids = Vec::new();
            while let Some(lease) = receive(&queue) {
                queue.complete(&lease).unwrap();
                ids.push(lease.task.id);
            }
            ids
        };
        let mut received = std::thread::scope(|scope| {
            let workers = [(); 3].map(|()| scope.spawn(drain));
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
        });
        received.sort_unstable();
        assert_eq!(received, sent);
    }
}
