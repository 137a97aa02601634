//! The embedded queue: what all queues promise, and what is its file's alone.

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
    check(|path| std::fs::write(path, "not a database".repeat(100)).unwrap(), ErrorKind::Corrupt, "move the file away");
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
    let refused = (0..1_000).find_map(|number| queue.send(&sample(&format!("t{number}"))).err().map(|e| (number, e)));
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
fn a_dead_letter_names_its_video_whatever_else_is_wrong_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let queue = SqliteQueue::open(&folder.path().join("queue.db"), Options::default()).unwrap();
    let body = sample("a").to_json().unwrap().replace(r#""format":1"#, r#""format":1,"track":"yes""#);
    let sql = format!("INSERT INTO tasks (id, body, visible_at_ms, sent_ms) VALUES ('a', '{body}', 0, 0)");
    queue.connection.lock().unwrap().execute(&sql, []).unwrap();
    let Received::DeadLetter { reason, .. } = queue.receive(VISIBILITY).unwrap() else { panic!("{body}") };
    assert!(reason.starts_with("field 'track': invalid type"), "{reason}");
    assert_eq!(queue.dead_letters(10).unwrap()[0].input, Some(sample("a").input));
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
