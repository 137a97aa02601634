//! A store elsewhere, which a folder plays here: what is pushed is what is pulled and served, whoever else is at it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use engine::{ErrorKind, Result, Tensor};
use objects::{Limits, Network, Place as Objects, Variables, When};

use super::*;
use crate::place::Origin;
use crate::upkeep::tests::compacting::pack_format_1;
use crate::upkeep::tests::{Place, model, tensor};
use crate::{Store, upkeep};

const KB: usize = 1024;
const MB: usize = 1024 * KB;

/// A store elsewhere.
struct Elsewhere {
    folder: tempfile::TempDir,
    network: Arc<Network>,
    place: Objects,
}

impl Elsewhere {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let network = Network::start(Limits::default(), Variables::default()).unwrap();
        let place = network.place(folder.path().join("bucket").to_str().unwrap()).unwrap();
        Self { folder, network, place }
    }

    fn push(&self, store: &Store) -> Result<Pushed> {
        push(store, &self.place, &[], false, &|_, _| ())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn open(&self, cache: &str, bytes: u64) -> Result<Remote> {
        std::fs::create_dir_all(self.path(cache)).unwrap();
        let place = self.path("bucket");
        Remote::open(&self.network, place.to_str().unwrap(), &self.path(cache), CacheBytes::AtMost(bytes))
    }

    /// Every key, but those of the catalogue.
    fn keys(&self) -> Vec<String> {
        let all = self.place.list("").flat_map(|page| page.unwrap().objects).map(|object| object.key);
        all.filter(|key| !key.starts_with("catalog/")).collect()
    }

    fn root(&self) -> catalog::Root {
        publish::current(&self.place).unwrap().0
    }

    fn flip(&self, key: &str, at: usize) {
        let (object, bytes) = self.place.get(key, 1 << 30).unwrap();
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 1;
        self.place.put(key, bytes.into(), &When::Same(object.tag)).unwrap();
    }
}

fn served(remote: &Remote, name: &str) -> Result<(Vec<Tensor>, Fetched)> {
    let manifest = remote.manifest(name, 1)?;
    let fetched = remote.fetch(&manifest, &|_| false)?;
    Ok((remote.store().weights(&manifest).unwrap(), fetched))
}

fn names(listing: &Listing) -> Vec<&str> {
    listing.keys().map(String::as_str).collect()
}

#[test]
fn what_is_pushed_is_listed_served_and_pulled() {
    let (own, elsewhere) = (Place::new(), Elsewhere::new());
    let error = elsewhere.open("cache", 1 << 30).unwrap_err();
    assert!(error.kind == ErrorKind::NotFound && error.message.contains("packhorse push"), "{error}");
    own.pack("a", &model(10));
    own.pack("b", &model(11));
    let pushed = elsewhere.push(&own.store).unwrap();
    assert_eq!((pushed.models, pushed.same, pushed.files), (2, 0, 5), "{pushed:?}");
    let again = elsewhere.push(&own.store).unwrap();
    assert_eq!(again, Pushed { same: 2, ..Pushed::default() });
    own.pack("c", &model(12));
    assert_eq!(elsewhere.push(&own.store).unwrap().models, 1);

    let remote = elsewhere.open("cache", 1 << 30).unwrap();
    assert_eq!(names(&remote.list().unwrap()), ["a", "b", "c"]);
    for (name, head) in [("a", 10), ("b", 11), ("c", 12)] {
        assert_eq!(served(&remote, name).unwrap().0, model(head), "{name}");
    }
    let counts = remote.counts();
    assert!(counts.misses > 0 && counts.hits > 0 && counts.fetched_bytes > 0 && counts.evictions == 0, "{counts:?}");
    let before = remote.counts().misses;
    drop(served(&remote, "a").unwrap());
    assert_eq!(remote.counts().misses, before, "fetched twice");

    let copy = Place::new();
    let pulled = pull(&elsewhere.place, &copy.store, &["a".to_owned(), "c/1".to_owned()], &|_, _| ()).unwrap();
    assert_eq!((pulled.models, pulled.same), (2, 0));
    assert_eq!(copy.store.names().unwrap(), ["a", "c"]);
    assert_eq!(copy.store.weights(&copy.store.manifest("c", 1).unwrap()).unwrap(), model(12));
    assert_eq!(copy.store.manifest("a", 1), own.store.manifest("a", 1));
    assert!(upkeep::verify(&copy.store, 1, &|_, _| ()).unwrap().damage.is_empty());
    let again = pull(&elsewhere.place, &copy.store, &[], &|_, _| ()).unwrap();
    assert_eq!((again.models, again.same), (1, 2));
    let missing = pull(&elsewhere.place, &copy.store, &["d".to_owned()], &|_, _| ()).unwrap_err();
    assert!(missing.kind == ErrorKind::NotFound && missing.message.contains("'d'"), "{missing}");
}

#[test]
fn what_lies_outside_the_store_is_brought_along() {
    let (own, elsewhere) = (Place::new(), Elsewhere::new());
    let checkpoint = elsewhere.path("checkpoint");
    let tensors = model(10);
    std::fs::write(&checkpoint, tensors.iter().flat_map(|tensor| tensor.data().to_vec()).collect::<Vec<_>>()).unwrap();
    let mut offset_bytes = 0;
    let origins: Vec<_> = tensors
        .iter()
        .enumerate()
        .map(|(at, tensor)| {
            let origin = Origin { path: checkpoint.clone(), offset_bytes };
            offset_bytes += tensor.data().len() as u64;
            // One of them lies inside, so that both kinds are mixed.
            (at != 1).then_some(origin)
        })
        .collect();
    own.pack_from("m", &tensors, &origins).unwrap();
    elsewhere.push(&own.store).unwrap();
    std::fs::remove_file(&checkpoint).unwrap();
    let remote = elsewhere.open("cache", 1 << 30).unwrap();
    assert!(remote.manifest("m", 1).unwrap().weights.segments.iter().all(|segment| segment.external.is_none()));
    assert_eq!(served(&remote, "m").unwrap().0, tensors);
}

#[test]
fn what_a_build_of_format_1_packed_is_pushed_as_any_other() {
    let (own, elsewhere) = (Place::new(), Elsewhere::new());
    pack_format_1(&own, "m", &model(10));
    own.pack("n", &model(11));
    elsewhere.push(&own.store).unwrap();
    let remote = elsewhere.open("cache", 1 << 30).unwrap();
    for (name, head) in [("m", 10), ("n", 11)] {
        assert_eq!(served(&remote, name).unwrap().0, model(head), "{name}");
    }
    assert_eq!(elsewhere.push(&own.store).unwrap().same, 2);
}

#[test]
fn many_who_push_at_once_lose_nothing() {
    let elsewhere = Elsewhere::new();
    let stores: Vec<Place> = (0..6).map(|_| Place::new()).collect();
    for (at, own) in stores.iter().enumerate() {
        own.pack(&format!("m{at}"), &model(10 + at as u32));
        own.pack("same", &model(99));
    }
    std::thread::scope(|scope| {
        for own in &stores {
            scope.spawn(|| elsewhere.push(&own.store).unwrap());
        }
    });
    let remote = elsewhere.open("cache", 1 << 30).unwrap();
    assert_eq!(names(&remote.list().unwrap()), ["m0", "m1", "m2", "m3", "m4", "m5", "same"]);
    assert!(elsewhere.root().pending.is_empty());
    assert_eq!(served(&remote, "m5").unwrap().0, model(15));
    assert!(verify(&elsewhere.place, &|_, _| ()).unwrap().damage.is_empty());
}

#[test]
fn another_model_of_the_same_name_is_refused() {
    let (one, other, elsewhere) = (Place::new(), Place::new(), Elsewhere::new());
    one.pack("m", &model(10));
    elsewhere.push(&one.store).unwrap();
    let (mut manifest, _) = other.pack("m", &model(11));
    manifest.source.hash = "another".to_owned();
    std::fs::write(other.store.manifest_path("m", 1), serde_json::to_vec(&manifest).unwrap()).unwrap();
    let error = elsewhere.push(&other.store).unwrap_err();
    assert_eq!(error.kind, ErrorKind::AlreadyExists, "{error}");
    assert_eq!(served(&elsewhere.open("cache", 1 << 30).unwrap(), "m").unwrap().0, model(10));
    // The same file, placed anew, takes its place.
    let (moved, _) = Place::new().pack("m", &model(10));
    let compacted = Manifest { weights: moved.weights, ..one.store.manifest("m", 1).unwrap() };
    assert_eq!(compacted, one.store.manifest("m", 1).unwrap(), "placed alike");
}

#[test]
fn a_push_or_a_removal_that_is_killed_leaves_a_list_that_tells_the_truth() {
    let (own, elsewhere) = (Place::new(), Elsewhere::new());
    own.pack("a", &model(10));
    elsewhere.push(&own.store).unwrap();
    let remote = elsewhere.open("cache", 1 << 30).unwrap();
    let which = |name: &str| (name.to_owned(), 1);
    // Before its manifest was written.
    publish::pend(&elsewhere.place, &[which("b")]).unwrap();
    assert_eq!(names(&remote.list().unwrap()), ["a"]);
    // After it.
    let (manifest, _) = own.pack("b", &model(11));
    let key = catalog::manifest_key(&which("b"));
    elsewhere.place.put(&key, serde_json::to_vec(&manifest).unwrap().into(), &When::Absent).unwrap();
    assert_eq!(names(&remote.list().unwrap()), ["a", "b"]);
    // A removal after it has removed.
    publish::pend(&elsewhere.place, &[which("a")]).unwrap();
    assert_eq!(names(&remote.list().unwrap()), ["a", "b"]);
    elsewhere.place.delete(&catalog::manifest_key(&which("a"))).unwrap();
    assert_eq!(names(&remote.list().unwrap()), ["b"]);
    // The next push and removal end what was left.
    elsewhere.push(&own.store).unwrap();
    assert_eq!(names(&remote.list().unwrap()), ["a", "b"]);
    assert!(elsewhere.root().pending.is_empty());
    assert_eq!(remove(&elsewhere.place, "a", None).unwrap(), [1]);
    assert_eq!(names(&remote.list().unwrap()), ["b"]);
    assert_eq!(remove(&elsewhere.place, "a", None).unwrap_err().kind, ErrorKind::NotFound);
    assert!(elsewhere.root().pending.is_empty());
}

#[test]
fn models_without_a_catalogue_are_listed_and_the_list_outlives_the_store() {
    let (own, elsewhere) = (Place::new(), Elsewhere::new());
    own.pack("a", &model(10));
    own.pack("b", &model(11));
    // As any tool copies a folder into a bucket.
    for file in own
        .files()
        .iter()
        .map(|file| file.to_string_lossy().into_owned())
        .chain(["models/a/1.json".to_owned(), "models/b/1.json".to_owned()])
    {
        let bytes = std::fs::read(own.store.root().join(&file)).unwrap();
        elsewhere.place.put(&file, bytes.into(), &When::Absent).unwrap();
    }
    let remote = elsewhere.open("cache", 1 << 30).unwrap();
    assert_eq!(names(&remote.list().unwrap()), ["a", "b"]);
    assert_eq!(served(&remote, "a").unwrap().0, model(10));
    elsewhere.place.delete("models/b/1.json").unwrap();
    assert_eq!(names(&remote.list().unwrap()), ["a"]);
    // The first push makes a catalogue of what is there.
    own.pack("c", &model(12));
    push(&own.store, &elsewhere.place, &["c".to_owned()], false, &|_, _| ()).unwrap();
    assert_eq!(names(&remote.list().unwrap()), ["a", "c"]);
    assert!(!elsewhere.root().shards.iter().all(String::is_empty));
    drop(remote);
    // What the cache knows does when the store is away.
    std::fs::rename(elsewhere.path("bucket"), elsewhere.path("away")).unwrap();
    std::fs::write(elsewhere.path("bucket"), "").unwrap();
    assert!(elsewhere.open("another", 1 << 30).is_err());
    let error = elsewhere.open("cache", 1 << 30).unwrap_err();
    // A folder that is none is no passing trouble, as a bucket that is away is.
    assert_eq!(error.kind, ErrorKind::InvalidInput, "{error}");
}

#[test]
fn a_cache_keeps_its_budget_and_what_is_held() {
    let (own, elsewhere) = (Place::new(), Elsewhere::new());
    let own_tensors = |seed: u32| vec![tensor(seed, 300 * KB)];
    (0..8).for_each(|seed| drop(own.pack(&format!("m{seed}"), &own_tensors(seed))));
    elsewhere.push(&own.store).unwrap();
    let remote = elsewhere.open("cache", 1000 * KB as u64).unwrap();
    let held = served(&remote, "m0").unwrap();
    for round in 0..3 {
        for seed in 1..8 {
            assert_eq!(served(&remote, &format!("m{seed}")).unwrap().0, own_tensors(seed), "round {round}");
            assert!(remote.counts().bytes <= 1000 * KB as u64, "{:?}", remote.counts());
        }
    }
    assert!(remote.counts().evictions > 10, "{:?}", remote.counts());
    let misses = remote.counts().misses;
    drop(served(&remote, "m0").unwrap());
    assert_eq!(remote.counts().misses, misses, "what was held went");
    // What is held leaves no room for more: that is said, and nothing is broken.
    let others = [served(&remote, "m1").unwrap(), served(&remote, "m2").unwrap()];
    let error = served(&remote, "m3").map(|_| ()).unwrap_err();
    assert!(error.kind == ErrorKind::Exhausted && error.message.contains("--cache-bytes-max"), "{error}");
    // Somebody has one of them let go of what it holds.
    let held_by = Mutex::new(others.into_iter().map(|(_, fetched)| fetched).collect::<Vec<_>>());
    let third = remote.manifest("m3", 1).unwrap();
    drop(remote.fetch(&third, &|_| held_by.lock().unwrap().pop().is_some()).unwrap());
    assert_eq!(held_by.lock().unwrap().len(), 1, "more went than had to");
    drop(held_by);
    assert_eq!(served(&remote, "m3").unwrap().0, own_tensors(3));
    // Nobody has to go for what never fits.
    own.pack("large", &[tensor(77, 1100 * KB)]);
    elsewhere.push(&own.store).unwrap();
    // The first list is the one that was made at the start.
    remote.list().and_then(|_| remote.list()).unwrap();
    let large = remote.manifest("large", 1).unwrap();
    let error = remote.fetch(&large, &|_| panic!("something was to go")).map(drop).unwrap_err();
    assert!(error.kind == ErrorKind::FailedPrecondition && error.message.contains("cache-bytes-max"), "{error}");
    drop((held, remote));
    // Another process finds what is there.
    let again = elsewhere.open("cache", 1000 * KB as u64).unwrap();
    drop(served(&again, "m3").unwrap());
    assert_eq!((again.counts().misses, again.counts().hits > 0), (0, true));
}

#[test]
fn one_download_does_for_all_who_ask() {
    let (own, elsewhere) = (Place::new(), Elsewhere::new());
    own.pack("m", &[tensor(1, 20 * MB)]);
    elsewhere.push(&own.store).unwrap();
    let remotes: Vec<Remote> = (0..2).map(|_| elsewhere.open("cache", 1 << 30).unwrap()).collect();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let remote = &remotes[number % 2];
            scope.spawn(move || assert_eq!(served(remote, "m").unwrap().0, [tensor(1, 20 * MB)]));
        }
    });
    let misses: u64 = remotes.iter().map(|remote| remote.counts().misses).sum();
    let fetched: u64 = remotes.iter().map(|remote| remote.counts().fetched_bytes).sum();
    assert!(misses == 3 && fetched < 21 * MB as u64, "{misses} {fetched}");
}

#[test]
fn a_large_segment_of_many_is_fetched_in_part() {
    let (own, elsewhere) = (Place::new(), Elsewhere::new());
    // All of them in one segment, as a store that was compacted has them.
    let tensors: Vec<Tensor> = (0..20).map(|seed| tensor(seed, 100 * KB + seed as usize)).collect();
    own.pack("all", &tensors);
    let parts = [vec![tensors[3].clone(), tensors[4].clone()], vec![tensors[15].clone()], vec![tensors[4].clone()]];
    for (at, part) in parts.iter().enumerate() {
        let (manifest, stored) = own.pack(&format!("m{at}"), part);
        assert_eq!((manifest.weights.segments.len(), stored), (1, 0), "it shares the segment");
    }
    elsewhere.push(&own.store).unwrap();
    let open = || {
        let mut remote = elsewhere.open("cache", 1 << 30).unwrap();
        Arc::get_mut(&mut remote.0).unwrap().part_of_bytes_min = 1;
        remote
    };
    let remote = open();
    let (first, _held) = served(&remote, "m0").unwrap();
    assert_eq!(first, parts[0]);
    let fetched = remote.counts().fetched_bytes;
    assert!(fetched < 300 * KB as u64, "{fetched}");
    let (second, _held) = served(&remote, "m1").unwrap();
    assert_eq!(second, parts[1]);
    let misses = remote.counts().misses;
    assert_eq!(served(&remote, "m2").unwrap().0, parts[2]);
    assert_eq!(remote.counts().misses, misses + 1, "its table alone");
    drop(remote);
    // A part is there for the next process too, and grows to the whole.
    let remote = open();
    assert_eq!(served(&remote, "m0").unwrap().0, parts[0]);
    assert_eq!(remote.counts().fetched_bytes, 0);
    assert_eq!(served(&remote, "all").unwrap().0, tensors);
    let segment = format!("segments/{}.seg", remote.manifest("m0", 1).unwrap().weights.segments[0].hash);
    let (_, want) = elsewhere.place.get(&segment, 1 << 30).unwrap();
    assert_eq!(std::fs::read(elsewhere.path("cache").join(&segment)).unwrap(), want);
    assert_eq!((first, second), (parts[0].clone(), parts[1].clone()), "what is mapped changed");
}

#[test]
fn damage_is_found_and_named_and_mended_by_pushing_again() {
    let (own, elsewhere) = (Place::new(), Elsewhere::new());
    own.pack("a", &model(10));
    own.pack("b", &[tensor(50, 100 * KB)]);
    elsewhere.push(&own.store).unwrap();
    let remote = elsewhere.open("cache", 1 << 30).unwrap();
    let segment = format!("segments/{}.seg", remote.manifest("a", 1).unwrap().weights.segments[0].hash);
    let keys = elsewhere.keys();
    for key in [&segment, keys.iter().find(|key| key.starts_with("weights/")).unwrap()] {
        elsewhere.flip(key, 9);
        let (found, damage) = (remote.manifest("a", 1), verify(&elsewhere.place, &|_, _| ()).unwrap().damage);
        assert!(found.is_ok() && !damage.is_empty(), "{key}");
        assert!(
            damage.iter().all(|damage| damage.reason.contains(key) && damage.fix.contains("--again")),
            "{damage:?}"
        );
        let harmed = damage[0].name.clone();
        let error = served(&remote, &harmed).map(|_| ()).unwrap_err();
        assert!(error.kind == ErrorKind::Corrupt && error.message.contains(key), "{error}");
        assert!(remote.counts().corrupt > 0);
        assert!(!elsewhere.path("cache").join(key).exists());
        push(&own.store, &elsewhere.place, &[], true, &|_, _| ()).unwrap();
        assert!(verify(&elsewhere.place, &|_, _| ()).unwrap().damage.is_empty());
        drop(served(&remote, &harmed).unwrap());
    }
    // What is gone is said, and a damaged store is not pushed.
    elsewhere.place.delete(&segment).unwrap();
    let another = elsewhere.open("another", 1 << 30).unwrap();
    let error = served(&another, "a").map(|_| ()).unwrap_err();
    assert!(error.kind == ErrorKind::Unavailable && error.message.contains(&segment), "{error}");
    assert_eq!(served(&another, "b").unwrap().0, [tensor(50, 100 * KB)]);
    let path = own.store.root().join(&segment);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[9] ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let error = push(&own.store, &elsewhere.place, &[], true, &|_, _| ()).unwrap_err();
    assert!(error.kind == ErrorKind::Corrupt && error.message.contains(&segment), "{error}");
}

#[test]
fn gc_takes_in_two_steps_what_nothing_needs_and_no_more() {
    const NOW: Duration = Duration::ZERO;
    let (own, elsewhere) = (Place::new(), Elsewhere::new());
    own.pack("a", &model(10));
    own.pack("b", &[tensor(50, 100 * KB)]);
    elsewhere.push(&own.store).unwrap();
    let all = elsewhere.keys();
    assert_eq!(collect(&elsewhere.place, NOW, false).unwrap(), Default::default());
    remove(&elsewhere.place, "b", Some(1)).unwrap();
    let first = collect(&elsewhere.place, NOW, false).unwrap();
    assert_eq!((first.files.len(), first.young), (0, 2), "condemned");
    assert_eq!(elsewhere.root().condemned.len(), 2);
    // A push that needs them comes in between: they stay.
    elsewhere.push(&own.store).unwrap();
    assert!(elsewhere.root().condemned.is_empty());
    assert_eq!(collect(&elsewhere.place, NOW, false).unwrap(), Default::default());
    assert_eq!(elsewhere.keys(), all);
    remove(&elsewhere.place, "b", Some(1)).unwrap();
    assert_eq!(collect(&elsewhere.place, Duration::from_secs(3600), false).unwrap().young, 2);
    assert_eq!(collect(&elsewhere.place, Duration::from_secs(3600), false).unwrap().young, 2, "before its time");
    let would = collect(&elsewhere.place, NOW, true).unwrap();
    assert_eq!(elsewhere.keys().len(), all.len() - 1);
    let went = collect(&elsewhere.place, NOW, false).unwrap();
    assert_eq!((went.files.len(), &would.files), (2, &went.files));
    assert!(elsewhere.root().condemned.is_empty() && elsewhere.root().doomed.is_empty());
    assert_eq!(elsewhere.keys().len(), all.len() - 3);
    assert_eq!(served(&elsewhere.open("cache", 1 << 30).unwrap(), "a").unwrap().0, model(10));
    assert!(verify(&elsewhere.place, &|_, _| ()).unwrap().damage.is_empty());
    // What goes while somebody checks it is not damaged.
    elsewhere.push(&own.store).unwrap();
    let begun = std::sync::Once::new();
    let meanwhile = || {
        remove(&elsewhere.place, "b", Some(1)).unwrap();
        for _ in 0..2 {
            collect(&elsewhere.place, NOW, false).unwrap();
        }
    };
    let verified = verify(&elsewhere.place, &|_, _| begun.call_once(meanwhile)).unwrap();
    assert_eq!((verified.models, verified.damage), (1, vec![]));
    assert_eq!(elsewhere.keys().len(), all.len() - 3);
    // A manifest that cannot be read may need anything.
    elsewhere.place.put("models/x/1.json", "{}".into(), &When::Absent).unwrap();
    assert_eq!(collect(&elsewhere.place, NOW, false).unwrap_err().kind, ErrorKind::Corrupt);
}

#[test]
fn what_others_wrote_without_the_catalogue_gc_takes_in() {
    let (own, elsewhere) = (Place::new(), Elsewhere::new());
    own.pack("a", &model(10));
    elsewhere.push(&own.store).unwrap();
    let (manifest, _) = own.pack("b", &model(10));
    elsewhere.place.put("models/b/1.json", serde_json::to_vec(&manifest).unwrap().into(), &When::Absent).unwrap();
    let remote = elsewhere.open("cache", 1 << 30).unwrap();
    assert_eq!(names(&remote.list().unwrap()), ["a"], "the catalogue does not know it yet");
    collect(&elsewhere.place, Duration::ZERO, false).unwrap();
    assert_eq!(names(&remote.list().unwrap()), ["a", "b"]);
    elsewhere.place.delete("models/a/1.json").unwrap();
    collect(&elsewhere.place, Duration::ZERO, false).unwrap();
    assert_eq!(names(&remote.list().unwrap()), ["b"]);
}
