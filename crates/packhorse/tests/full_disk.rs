//! Disks that are full: the error names the place, nothing half is left, and with room everything goes on.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use work::queue::Phase;

use crate::harness::{Place, Ran, Running, assert_says};

/// At this threshold a frame's line takes about 100 kB, so that a short clip fills a small disk.
const SUBMISSION: &str = "clip.mp4 --model nanodet --threshold 0.01";
const FRAMES: u32 = 20;

/// A small disk that a test sees as the folder `disk` in its place. It is mounted in a namespace that lives as long as
/// the process that holds it, so nothing is left however a test ends.
struct Disk<'a> {
    place: &'a Place,
    holder: Child,
}

impl<'a> Disk<'a> {
    const BYTES: u64 = 48 << 20;

    /// `None` where the system lets nobody mount, as in many a container.
    fn mount(place: &'a Place) -> Option<Self> {
        std::fs::create_dir(place.path("mount")).unwrap();
        let script = r#"mount -t tmpfs -o size="$0" tmpfs "$1" && echo mounted && exec cat"#;
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", script, &Self::BYTES.to_string()]);
        command.arg(place.path("mount")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let held = command.spawn().and_then(|mut holder| {
            let mut line = String::new();
            BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line)?;
            Ok((line, holder))
        });
        let holder = match held {
            Ok((line, holder)) if line == "mounted\n" => holder,
            refused => {
                eprintln!("no small disk can be mounted here, so only a limit on files stands in for it: {refused:?}");
                if let Ok((_, mut holder)) = refused {
                    holder.wait().unwrap();
                }
                return None;
            }
        };
        let seen = format!("/proc/{}/root{}", holder.id(), place.path("mount").display());
        std::os::unix::fs::symlink(seen, place.path("disk")).unwrap();
        Some(Self { place, holder })
    }

    /// Leaves room for `bytes` more.
    fn fill_but(&self, bytes: u64) {
        self.free();
        let used: u64 = self
            .place
            .files("disk")
            .iter()
            .map(|file| self.place.path(&format!("disk/{file}")).metadata().unwrap().len())
            .sum();
        let ballast = std::fs::File::create(self.place.path("disk/ballast")).unwrap();
        rustix::fs::fallocate(&ballast, rustix::fs::FallocateFlags::empty(), 0, Self::BYTES - used - bytes).unwrap();
    }

    fn free(&self) {
        let _ = std::fs::remove_file(self.place.path("disk/ballast"));
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Runs `packhorse` by way of another program, which gets its path and arguments after its own.
fn run_through(place: &Place, by_way_of: &[&str], line: &str) -> Ran {
    let packhorse = place.packhorse(line);
    let mut command = Command::new(by_way_of[0]);
    command.args(&by_way_of[1..]).arg(packhorse.get_program()).args(packhorse.get_args());
    command.current_dir(packhorse.get_current_dir().unwrap());
    for (variable, value) in packhorse.get_envs() {
        match value {
            Some(value) => command.env(variable, value),
            None => command.env_remove(variable),
        };
    }
    Running::start(&mut command).end()
}

/// Runs `packhorse` where no file can grow past half a megabyte, which is another way for a place to take no more.
fn run_limited(place: &Place, line: &str) -> Ran {
    // 512 or 1024 bytes each, as the shell likes.
    run_through(place, &["sh", "-c", r#"ulimit -f 512; exec "$0" "$@""#], line)
}

/// Works while the output place takes no more and then, mended, again.
#[track_caller]
fn check_output(place: &Place, output: &str, full: impl Fn(&str) -> Ran, mend: impl Fn(), says: &[&str]) {
    place.clip("clip.mp4", FRAMES);
    let id = place.submit(SUBMISSION);
    let line = format!("work --queue queue --store store --output {output} --mode drain-once");
    let ran = full(&line);
    assert_eq!((ran.code, &*ran.out), (Some(1), ""), "{}", ran.err);
    assert_says(ran.complaint(), says);
    assert_says(ran.complaint(), &[place.path(output).to_str().unwrap()]);
    let state = place.state(&id);
    assert_eq!((state.phase, state.failures), (Phase::Visible, 0), "{state:?}");
    assert_eq!(place.files(output), [""; 0]);
    mend();
    let ran = place.ok(&line);
    assert_eq!(ran.lines()[0]["completed"], 1, "{}", ran.err);
    assert_eq!(place.state(&id).phase, Phase::Done);
    if output != "out" {
        std::os::unix::fs::symlink(place.path(output), place.path("out")).unwrap();
    }
    place.check_results(&[&id], FRAMES as usize);
}

#[test]
fn a_full_output_place_is_named_and_the_task_goes_back_unharmed() {
    let place = Place::with_store();
    let Some(disk) = Disk::mount(&place) else { return };
    disk.fill_but(256 << 10);
    check_output(&place, "disk/out", |line| place.run(line), || disk.free(), &["is full", "free some space"]);
}

#[test]
fn an_output_place_that_takes_no_more_is_named_and_the_task_goes_back_unharmed() {
    let place = Place::with_store();
    check_output(&place, "out", |line| run_limited(&place, line), || (), &["failed", "check the disk"]);
}

/// Packs while the store takes no more and then, mended, again.
#[track_caller]
fn check_pack(place: &Place, store: &str, full: impl Fn(&str) -> Ran, mend: impl Fn(), says: &[&str]) {
    let line = format!("pack assets/nanodet_g_coco80.onnx --store {store} --name nanodet");
    let ran = full(&line);
    assert_eq!((ran.code, &*ran.out), (Some(1), ""), "{}", ran.err);
    assert_says(ran.complaint(), says);
    assert_eq!(place.ok(&format!("models --store {store} --json")).out, "", "half a model is there");
    // A whole program may be there, since equal ones are shared; no part of anything may.
    let whole = |file: &String| file.starts_with("programs/") && file.ends_with(".onnx");
    assert!(place.files(store).iter().all(whole), "{:?}", place.files(store));
    mend();
    place.ok(&line);
    assert_eq!(place.ok(&format!("models --store {store} --json")).lines().len(), 1);
}

#[test]
fn a_full_store_is_named_and_holds_no_half_model() {
    let place = Place::new();
    let Some(disk) = Disk::mount(&place) else { return };
    disk.fill_but(4 << 20);
    check_pack(&place, "disk/store", |line| place.run(line), || disk.free(), &["disk/store/segments", "free space"]);
}

#[test]
fn a_store_that_takes_no_more_is_named_and_holds_no_half_model() {
    let place = Place::new();
    check_pack(&place, "store", |line| run_limited(&place, line), || (), &["File too large"]);
}

#[test]
fn a_full_disk_below_the_queue_is_named() {
    let place = Place::new();
    let Some(disk) = Disk::mount(&place) else { return };
    place.clip("clip.mp4", 2);
    disk.fill_but(0);
    // SQLite follows links by their text, which the way to the disk from here is none of; so it is run over there.
    let (holder, script) =
        (disk.holder.id().to_string(), format!(r#"cd '{}' && exec "$0" "$@""#, place.path("").display()));
    let inside = ["nsenter", "--target", &holder, "--user", "--mount", "--preserve-credentials", "sh", "-c", &script];
    let submit = || run_through(&place, &inside, "submit clip.mp4 --queue mount/queue --model nanodet");
    let ran = submit();
    assert_eq!((ran.code, &*ran.out), (Some(1), ""), "{}", ran.err);
    assert_says(ran.complaint(), &["mount/queue", "is full", "free some space"]);
    disk.free();
    let ran = submit();
    assert_eq!((ran.code, ran.lines().len()), (Some(0), 1), "{}", ran.err);
    assert!(place.path("disk/queue").metadata().unwrap().len() > 0);
}
