//! Videos and tasks that cannot be worked: each ends as a dead letter that says why, and its neighbours do not notice.

use std::fs;

use rusqlite::Connection;
use work::queue::Phase;

use crate::harness::{Place, assert_says};

/// Frames of each good clip.
const FRAMES: u32 = 8;

/// A video that cannot be worked.
struct Bad {
    name: &'static str,
    /// Makes the video.
    make: fn(&Place, &str),
    /// What happens to it after it was submitted.
    then: fn(&Place, &str),
    model: &'static str,
    /// What the dead letter's reason has to say besides the file's name.
    says: &'static [&'static str],
}

const BAD: [Bad; 8] = [
    Bad {
        name: "truncated.mp4",
        make: truncated,
        then: stays,
        model: "nanodet",
        says: &["upload it again", "--tolerate-damage"],
    },
    Bad { name: "text.mp4", make: text, then: stays, model: "nanodet", says: &["no video that ffmpeg"] },
    Bad { name: "empty.mp4", make: empty, then: stays, model: "nanodet", says: &["is empty"] },
    Bad {
        name: "scratched.mp4",
        make: scratched,
        then: stays,
        model: "nanodet",
        says: &["decoding errors in", "re-encode", "--tolerate-damage"],
    },
    Bad { name: "frameless.avi", make: frameless, then: stays, model: "nanodet", says: &["no frame"] },
    Bad { name: "fine.mp4", make: fine, then: stays, model: "nobody", says: &["nobody", "packhorse models"] },
    Bad {
        name: "deleted.mp4",
        make: fine,
        then: deleted,
        model: "nanodet",
        says: &["does not exist", "check the path"],
    },
    Bad { name: "folder.mp4", make: fine, then: folder, model: "nanodet", says: &["is a folder"] },
];

/// Rows that somebody else put into the queue's file: id, body, and what the reason has to say.
const ROWS: [(&str, &str, &str); 5] = [
    ("half", r#"{"format":1,"id":"half","inp"#, "the task's body is not a task"),
    ("newer", r#"{"format":99,"id":"newer"}"#, "update the worker"),
    ("other", r#"{"format":1,"id":"another","input":"/v.mp4","model":"nanodet"}"#, "field 'id'"),
    ("relative", r#"{"format":1,"id":"relative","input":"v.mp4","model":"nanodet"}"#, "give the absolute path"),
    ("../escape", r#"{"format":1,"id":"../escape","input":"/v.mp4","model":"nanodet"}"#, "the task's id"),
];

#[test]
fn bad_videos_and_tasks_become_dead_letters_and_the_good_ones_are_completed() {
    let place = Place::with_store();
    place.clip("good.mp4", FRAMES);
    let good = || place.submit("good.mp4 --model nanodet");
    let bad = |bad: &'static Bad| {
        (bad.make)(&place, bad.name);
        let id = place.submit(&format!("{} --model {}", bad.name, bad.model));
        (bad.then)(&place, bad.name);
        (id, bad)
    };
    let before = good();
    let mut dead: Vec<_> = BAD[..4].iter().map(bad).collect();
    let between = good();
    dead.extend(BAD[4..].iter().map(bad));
    insert_rows(&place);
    let after = good();

    let ran = place.run("work --queue queue --store store --output out --mode drain-once");
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    let count = BAD.len() + ROWS.len();
    let report = serde_json::json!({ "completed": 3, "dead": count, "released": 0, "lost": 0 });
    assert_eq!(ran.lines(), [report], "{}", ran.err);
    assert_says(ran.complaint(), &[&format!("{count} tasks went to the dead letters")]);
    for (id, bad) in dead {
        let state = place.state(&id);
        assert_eq!((state.phase, state.failures), (Phase::Dead, 0), "{}: {state:?}", bad.name);
        let named = if bad.model == "nanodet" { bad.name } else { bad.model };
        assert_says(&state.reason.unwrap(), &[bad.says, &[named]].concat());
    }
    for (id, _, says) in ROWS {
        let state = place.state(id);
        assert_eq!(state.phase, Phase::Dead, "{id}");
        let reason = state.reason.unwrap();
        assert_says(&reason, &[says]);
        assert_says(&ran.err, &[&format!("task {id}: dead letter: {reason}")]);
    }
    let good = [before, between, after];
    assert!(good.iter().all(|id| place.state(id).phase == Phase::Done));
    place.check_results(&good.each_ref().map(String::as_str), FRAMES as usize);
}

fn insert_rows(place: &Place) {
    let queue = Connection::open(place.path("queue")).unwrap();
    for (id, body, _) in ROWS {
        let sql =
            "INSERT INTO tasks (id, body, visible_at_ms, sent_ms) SELECT ?1, ?2, max(sent_ms), max(sent_ms) FROM tasks";
        queue.execute(sql, [id, body]).unwrap();
    }
}

/// Long enough to lose its middle, with its index in front, as what is streamed has it.
fn whole(place: &Place) -> Vec<u8> {
    place.ffmpeg("-f lavfi -i testsrc=s=64x48:r=10:d=8 -c:v libx264 -g 10 -movflags +faststart whole.mp4");
    fs::read(place.path("whole.mp4")).unwrap()
}

fn truncated(place: &Place, name: &str) {
    let bytes = whole(place);
    fs::write(place.path(name), &bytes[..bytes.len() / 2]).unwrap();
}

fn scratched(place: &Place, name: &str) {
    let mut bytes = whole(place);
    let pictures = bytes.windows(4).position(|four| four == b"mdat").unwrap() + 4;
    bytes[pictures..pictures + 1000].fill(0x55);
    fs::write(place.path(name), bytes).unwrap();
}

fn text(place: &Place, name: &str) {
    fs::write(place.path(name), "Dear diary,\ntoday I was a video.\n").unwrap();
}

fn empty(place: &Place, name: &str) {
    fs::write(place.path(name), "").unwrap();
}

fn frameless(place: &Place, name: &str) {
    place.ffmpeg(&format!("-f lavfi -i testsrc=s=64x48 -frames:v 0 -c:v mjpeg {name}"));
}

fn fine(place: &Place, name: &str) {
    fs::copy(place.path("good.mp4"), place.path(name)).unwrap();
}

fn stays(_: &Place, _: &str) {}

fn deleted(place: &Place, name: &str) {
    fs::remove_file(place.path(name)).unwrap();
}

fn folder(place: &Place, name: &str) {
    deleted(place, name);
    fs::create_dir(place.path(name)).unwrap();
}
