//! Whole videos, in a spool.

use std::path::Path;
use std::sync::atomic::Ordering;

use objects::{Limits, Variables, When};

use super::*;
use crate::ranges::tests::{Does, Web};
use crate::servers::{self, KEY, SECRET, Server};

const MIB: usize = 1 << 20;

fn network(server: &Server) -> Arc<Network> {
    let url = server.url();
    let keys = [("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET), ("AWS_REGION", "us-east-1")];
    let variables = Variables::from([keys[0], keys[1], keys[2], ("AWS_ENDPOINT_URL", &url)]);
    Network::start(Limits::default(), variables).unwrap()
}

fn task(input: &str) -> Task {
    Task::new(Path::new(input), "m").unwrap()
}

fn bytes(count: usize, seed: usize) -> Vec<u8> {
    (0..count).map(|at| (at * 31 + at / 251 + seed) as u8).collect()
}

fn files(root: &Path) -> Vec<PathBuf> {
    let of = fs::read_dir(root.join("0")).unwrap().map(|entry| entry.unwrap().path());
    of.filter(|path| !path.ends_with(LOCK)).collect()
}

fn path_of<'a>(fetched: &'a Fetched<'_>) -> &'a Path {
    fetched.source.input.file().expect("it is here")
}

fn go_on() -> bool {
    false
}

#[test]
fn a_video_is_a_file_while_it_is_held_and_what_was_fetched_is_not_fetched_again() {
    let server = servers::ministack();
    server.make_bucket("spool");
    let (network, folder) = (network(server), tempfile::tempdir().unwrap());
    let place = network.place("s3://spool").unwrap();
    let whole = bytes(50 * MIB + 7, 1);
    place.put("a b.mp4", whole.clone().into(), &When::Always).unwrap();
    let object = place.head("a b.mp4").unwrap();
    let spool = Spool::open(&network, folder.path(), 100 << 20).unwrap();
    // Another one left it in the middle of the second window, with holes where parts were still on their way.
    let left = folder.path().join("0").join(name("s3://spool/a b.mp4", &object));
    let mut begun = whole[..40 * MIB].to_vec();
    begun[33 * MIB..].fill(0);
    begun[5] ^= 1;
    fs::write(&left, &begun).unwrap();
    let fetched = spool.fetch(&task("s3://spool/a b.mp4"), false, &go_on).unwrap();
    let mut got = fs::read(path_of(&fetched)).unwrap();
    assert_eq!(got[5], begun[5], "the first window was fetched again");
    got[5] ^= 1;
    assert!(got == whole);
    assert_eq!(fetched.source.identity.path, "s3://spool/a b.mp4");
    drop(fetched);
    assert_eq!(files(folder.path()), Vec::<PathBuf>::new());
    let fresh = spool.fetch(&task("s3://spool/a b.mp4"), false, &go_on).unwrap();
    assert!(fs::read(path_of(&fresh)).unwrap() == whole);
}

#[test]
fn what_cannot_be_had_is_said() {
    let server = servers::ministack();
    server.make_bucket("spool-not");
    let (network, folder) = (network(server), tempfile::tempdir().unwrap());
    let place = network.place("s3://spool-not").unwrap();
    place.put("a", bytes(1000, 0).into(), &When::Always).unwrap();
    let spool = Spool::open(&network, folder.path(), 900).unwrap();
    let check = |spool: &Spool, task: &Task, kind: ErrorKind, says: &str| {
        let error = spool.fetch(task, false, &go_on).map(|_| ()).unwrap_err();
        assert!(error.kind == kind && error.message.contains(says), "{:?} {error}", error.kind);
    };
    check(&spool, &task("s3://spool-not/b"), ErrorKind::NotFound, "s3://spool-not/b");
    check(&spool, &task("s3://spool-nowhere/b"), ErrorKind::NotFound, "s3://spool-nowhere/b");
    check(&spool, &task("s3://spool-not/a"), ErrorKind::InvalidInput, "--spool-max");
    let other = Task { input_etag: Some("another".to_owned()), ..task("s3://spool-not/a") };
    check(&spool, &other, ErrorKind::FailedPrecondition, "replaced");
    assert_eq!(files(folder.path()), Vec::<PathBuf>::new());
}

#[test]
fn the_spool_holds_no_more_than_it_may() {
    let server = servers::ministack();
    server.make_bucket("spool-max");
    let (network, root) = (network(server), tempfile::tempdir().unwrap());
    let place = network.place("s3://spool-max").unwrap();
    for (key, seed) in [("a", 1), ("b", 2)] {
        place.put(key, bytes(600, seed).into(), &When::Always).unwrap();
    }
    let spool = Spool::open(&network, root.path(), 1000).unwrap();
    fs::write(root.path().join("0/left"), bytes(500, 0)).unwrap();
    let first = spool.fetch(&task("s3://spool-max/a"), false, &go_on).unwrap();
    assert_eq!(files(root.path()), [path_of(&first).to_owned()], "what nobody needs had to go");
    // The second waits for the first, or gives up when it is told to.
    let given_up = spool.fetch(&task("s3://spool-max/b"), false, &|| true).map(|_| ()).unwrap_err();
    assert_eq!(given_up.kind, ErrorKind::Cancelled);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let second = spool.fetch(&task("s3://spool-max/b"), false, &go_on).unwrap();
            fs::read(path_of(&second)).unwrap()
        });
        drop(first);
        assert_eq!(waiting.join().unwrap(), bytes(600, 2));
    });
    // Another worker has another folder of the same spool.
    let beside = Spool::open(&network, root.path(), 1000).unwrap();
    assert!(beside.folder.ends_with("1") && spool.folder.ends_with("0"));
    drop(spool);
    assert!(Spool::open(&network, root.path(), 1000).unwrap().folder.ends_with("0"));
}

#[test]
fn a_large_video_takes_as_much_as_there_is_and_leaves_some_for_others() {
    let [large, small] = [200 * MIB, 100].map(|count| Web::start("v.mp4", bytes(count, 1), |_| Does::Give));
    let (network, root) = (crate::ranges::tests::network(), tempfile::tempdir().unwrap());
    let spool = Spool::open(&network, root.path(), 300 << 20).unwrap();
    let held = || spool.lock().values().copied().collect::<Vec<u64>>();
    let first = spool.fetch(&task(&large.url), true, &go_on).unwrap();
    assert!(first.ranges().is_some() && files(root.path()).is_empty());
    assert_eq!(held(), [150 << 20]);
    // Of both ends it knows what it is, and has fetched nothing else.
    let as_a_file = root.path().join("v.mp4");
    fs::write(&as_a_file, bytes(200 * MIB, 1)).unwrap();
    let here = Source::of(&task(as_a_file.to_str().unwrap())).unwrap();
    assert_eq!(here.identity.fingerprint, first.source.identity.fingerprint);
    assert_eq!(large.given.load(Ordering::SeqCst), 2 << 20);
    // A small one is fetched whole beside it, and so is any where decoders read files alone.
    let second = spool.fetch(&task(&small.url), true, &go_on).unwrap();
    assert_eq!(fs::read(path_of(&second)).unwrap(), bytes(100, 1));
    let third = spool.fetch(&task(&large.url), true, &go_on).unwrap();
    assert_eq!(held().into_iter().sum::<u64>(), (150 << 20) + 100 + (((150 << 20) - 100) / 2));
    drop((first, third));
    let whole = spool.fetch(&task(&large.url), false, &go_on).unwrap();
    assert!(whole.ranges().is_none() && fs::metadata(path_of(&whole)).unwrap().len() == 200 << 20);
    drop((second, whole));
    assert!(held().is_empty() && files(root.path()).is_empty());
    // It never fits whole, and is read all the same; in next to nothing it is not.
    let (tight, tiny) = (Spool::open(&network, root.path(), 100 << 20), Spool::open(&network, root.path(), 1000));
    assert!(tight.unwrap().fetch(&task(&large.url), true, &go_on).unwrap().ranges().is_some());
    let error = tiny.unwrap().fetch(&task(&large.url), true, &go_on).map(|_| ()).unwrap_err();
    assert!(error.kind == ErrorKind::InvalidInput && error.message.contains("--spool-max"), "{error}");
}
