//! Stores with models of plain tensors: what is shared, what goes, what is found damaged, and what moves.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use engine::{DataType, ErrorKind, Result, Tensor};

use super::*;
use crate::manifest::{FORMAT, Form, ProgramKind, ProgramRef, Source, Weights};
use crate::place::{Origin, Placed, Rules, SEGMENTS_MAX, place};
use crate::precision::Precision;

pub(crate) mod compacting;
mod damage;

const KB: usize = 1024;
const NOW: Duration = Duration::ZERO;

pub(crate) struct Place {
    folder: tempfile::TempDir,
    pub(crate) store: Store,
}

impl Place {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path().join("store").to_str().unwrap()).unwrap();
        Self { folder, store }
    }

    pub(crate) fn pack(&self, name: &str, tensors: &[Tensor]) -> (Manifest, u64) {
        self.pack_from(name, tensors, &[]).unwrap()
    }

    /// Packs as `pack::pack` does, without a graph; gives the manifest and how many bytes were new.
    pub(crate) fn pack_from(
        &self,
        name: &str,
        tensors: &[Tensor],
        origins: &[Option<Origin>],
    ) -> Result<(Manifest, u64)> {
        loop {
            let hash = self.store.put_program(b"graph", "portable")?;
            let rules = Rules { segments_max: SEGMENTS_MAX, avoid: &HashSet::new() };
            let Placed { weights, stored_bytes } = place(&self.store, tensors, origins, &rules)?;
            let manifest = manifest(name, &hash, weights);
            if self.store.commit(&manifest)?.is_some() {
                return Ok((manifest, stored_bytes));
            }
        }
    }

    fn gc(&self) -> Collected {
        // Files of this very moment are as young as can be, so everything is made to look a day old.
        let past = SystemTime::now() - Duration::from_secs(86_400);
        for file in self.files() {
            let open = fs::File::options().write(true).open(self.store.root().join(file)).unwrap();
            open.set_modified(past).unwrap();
        }
        collect(&self.store, NOW, false).unwrap()
    }

    /// Every file of the store that is named by its content, sorted.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for folder in ["programs", "segments", "weights", "files"] {
            for entry in fs::read_dir(self.store.root().join(folder)).unwrap() {
                files.push(Path::new(folder).join(entry.unwrap().file_name()));
            }
        }
        files.sort();
        files
    }

    fn damage(&self) -> Vec<(String, String)> {
        let verified = verify(&self.store, 2, &|_, _| ()).unwrap();
        verified.damage.into_iter().map(|damage| (damage.name, damage.reason)).collect()
    }

    fn segment(&self, manifest: &Manifest, at: usize) -> PathBuf {
        self.store.root().join("segments").join(format!("{}.seg", manifest.weights.segments[at].hash))
    }

    fn load(&self, name: &str) -> Vec<Tensor> {
        let mut manifest = self.store.manifest(name, 1).unwrap();
        loop {
            // As a server does: what is not there any more was moved, or it is lost.
            match self.store.weights(&manifest) {
                Ok(tensors) => return tensors,
                Err(error) => {
                    let moved = self.store.manifest(name, 1).unwrap();
                    assert_ne!(moved, manifest, "{error:?}");
                    manifest = moved;
                }
            }
        }
    }
}

fn manifest(name: &str, program: &str, weights: Weights) -> Manifest {
    Manifest {
        format: FORMAT,
        name: name.to_owned(),
        version: 1,
        source: Source { format: "onnx".to_owned(), hash: String::new(), bytes: 1 },
        program: ProgramRef {
            hash: program.to_owned(),
            kind: ProgramKind::Lifted,
            target: "portable".to_owned(),
            why_whole: None,
        },
        inputs: Vec::new(),
        outputs: Vec::new(),
        max_batch_size: 0,
        task: None,
        labels: BTreeMap::new(),
        files: BTreeMap::new(),
        weights,
        others: Vec::new(),
        precision: Precision::Float,
        per_cpu: false,
        padding: None,
    }
}

/// `len` bytes that only `seed` has.
pub(crate) fn tensor(seed: u32, len: usize) -> Tensor {
    let words = (0..len.div_ceil(4) as u32).map(|at| at.wrapping_mul(2_654_435_761).wrapping_add(seed * 97));
    let bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).take(len).collect();
    Tensor::new(DataType::U8, vec![len], bytes.into()).unwrap()
}

/// Two large tensors and a bias that all models have, and a head.
pub(crate) fn model(head: u32) -> Vec<Tensor> {
    vec![tensor(1, 200 * KB), tensor(2, 100), tensor(3, 100 * KB), tensor(head, 8 * KB)]
}

fn flip(path: &Path, at: u64) {
    // Written anew, as a lost block would look: whoever mapped the old file keeps it.
    let mut bytes = fs::read(path).unwrap();
    bytes[at as usize] ^= 1;
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_frozen_trunk_is_stored_once() {
    let place = Place::new();
    let (first, stored) = place.pack("first", &model(100));
    assert_eq!((stored, first.weights.bytes, first.weights.segments.len()), (308 * 1024 + 100, stored, 1));
    for head in 101..110 {
        let name = format!("m{head}");
        let (manifest, stored) = place.pack(&name, &model(head));
        assert_eq!(
            (stored, manifest.weights.segments.len()),
            (8 * 1024, 2),
            "only the head, the small bias shared as well"
        );
        assert_eq!(place.load(&name), model(head));
    }
    let (_, stored) = place.pack("again", &model(105));
    assert_eq!(stored, 8 * 1024, "a head of 8 kB is copied rather than mapped");
    assert_eq!(
        place.files().len(),
        1 + 1 + 9 + 2,
        "program, trunk, heads, and a table for all alike: {:?}",
        place.files()
    );
    assert_eq!(place.load("first"), model(100));
    assert_eq!(place.damage(), []);
    let held: Vec<_> = place.store.list().unwrap().into_iter().map(|listed| place.load(&listed.name)).collect();
    assert_eq!((held.len(), place.store.mapped_files()), (11, 10), "one map a segment");
}

/// Tensors, each of which a model of its own in `place` has: `part0`, `part1`, ...
fn parts(place: &Place) -> Vec<Tensor> {
    let parts: Vec<Tensor> = (0..40).map(|seed| tensor(seed, 100 * KB)).collect();
    for (at, part) in parts.iter().enumerate() {
        place.pack(&format!("part{at}"), std::slice::from_ref(part));
    }
    parts
}

#[test]
fn a_model_lies_in_few_files() {
    let place = Place::new();
    let scattered = parts(&place);
    let (manifest, stored) = place.pack("scattered", &scattered);
    assert_eq!((manifest.weights.segments.len(), stored), (SEGMENTS_MAX, 25 * 100 * 1024));
    assert_eq!(place.load("scattered"), scattered);
    let compacted = compact(&place.store, false, &|_, _| ()).unwrap();
    assert_eq!((compacted.models, compacted.changed_meanwhile), (1, 0));
    assert!(place.store.manifest("scattered", 1).unwrap().weights.segments.len() < 5);
    assert_eq!(place.load("scattered"), scattered);
    assert_eq!(compact(&place.store, false, &|_, _| ()).unwrap(), Compacted::default(), "there is nothing left to do");
    place.gc();
    assert_eq!(place.damage(), []);
}

#[test]
fn what_no_model_needs_goes_when_its_time_has_come() {
    let place = Place::new();
    let (first, _) = place.pack("first", &model(100));
    place.pack("second", &model(101));
    fs::write(place.store.root().join("segments/notes.txt"), "not ours").unwrap();
    fs::write(place.store.root().join("segments/.part-dead"), "left by a packer that was killed").unwrap();
    let before = place.files();
    assert_eq!(place.gc().files, [Garbage { path: "segments/.part-dead".into(), bytes: 32 }]);

    assert_eq!(remove(&place.store, "first", None).unwrap(), [1]);
    assert!(!place.store.root().join("models/first").exists());
    // Removing marked what it let go.
    let hour = Duration::from_secs(3600);
    let kept = collect(&place.store, hour, false).unwrap();
    assert_eq!((kept.files.len(), kept.young), (0, 1), "its table; the trunk is the other's as well");
    let table = PathBuf::from(format!("weights/{}.tbl", first.weights.table));
    assert_eq!(place.gc().files.into_iter().map(|file| file.path).collect::<Vec<_>>(), std::slice::from_ref(&table));
    let left: Vec<_> = before.into_iter().filter(|file| *file != table && !file.ends_with(".part-dead")).collect();
    assert_eq!(place.files(), left);
    assert_eq!(place.load("second"), model(101));

    // The head that only the first model had is dead, too little of the segment to be worth a copy.
    assert_eq!(compact(&place.store, false, &|_, _| ()).unwrap().models, 0);
    remove(&place.store, "second", Some(1)).unwrap();
    let held = place.store.map(&place.segment(&first, 0)).unwrap();
    assert_eq!(place.gc().files.len(), 4);
    assert_eq!(place.files(), [Path::new("segments/notes.txt")]);
    assert_eq!(held[..200 * KB], *model(0)[0].data(), "whoever mapped it goes on");
}

#[test]
fn whoever_serves_what_was_removed_hears_what_to_do() {
    let place = Place::new();
    let (manifest, _) = place.pack("a", &[tensor(1, 100 * KB)]);
    remove(&place.store, "a", None).unwrap();
    place.gc();
    let (weights, program) =
        (place.store.weights(&manifest).map(drop), place.store.program(&manifest.program).map(drop));
    for error in [weights.unwrap_err(), program.unwrap_err()] {
        assert!(error.kind == ErrorKind::NotFound && error.message.contains("pack it again"), "{error}");
    }
}

#[test]
fn a_dry_run_and_an_unreadable_manifest_remove_nothing() {
    let place = Place::new();
    place.pack("m", &model(100));
    let (_, _) = place.pack("n", &[tensor(7, 100 * KB)]);
    fs::remove_file(place.store.manifest_path("n", 1)).unwrap();
    let before = place.files();
    std::thread::sleep(Duration::from_millis(20));
    fs::remove_file(place.store.root().join(".lock")).unwrap();
    let written = || fs::metadata(place.store.root()).unwrap().modified().unwrap();
    let last = written();
    let would = collect(&place.store, NOW, true).unwrap();
    assert_eq!((would.files.len(), place.files(), written()), (2, before.clone(), last));
    for text in ["{", r#"{"format": 9}"#] {
        fs::write(place.store.manifest_path("m", 1), text).unwrap();
        let error = collect(&place.store, NOW, false).unwrap_err();
        assert!(error.message.contains("models/m/1.json"), "{}", error.message);
        assert!(compact(&place.store, false, &|_, _| ()).is_err());
        assert_eq!(place.files(), before);
    }
    assert_eq!(place.damage().len(), 1);
    remove(&place.store, "m", Some(1)).unwrap();
    assert_eq!(place.gc().files.len(), before.len());
}

#[test]
fn weights_outside_the_store_are_mapped_there_until_the_file_is_another() {
    let place = Place::new();
    let file = place.folder.path().join("model.safetensors");
    let floats = |seed: u8| Tensor::from_f32(vec![64 * KB], vec![f32::from(seed); 64 * KB]).unwrap();
    let tensors = [floats(1), floats(2), floats(3)];
    // The second is not aligned for its numbers; the third has no place outside.
    let bytes = [b"head".as_slice(), tensors[0].data(), b"x", tensors[1].data()].concat();
    fs::write(&file, &bytes).unwrap();
    let modified = SystemTime::now() - Duration::from_secs(3600);
    fs::File::options().write(true).open(&file).unwrap().set_modified(modified).unwrap();
    let at = |offset_bytes| Some(Origin { path: file.clone(), offset_bytes });
    let length = tensors[0].data().len() as u64;
    let origins = [at(4), at(4 + length + 1), None];
    let (manifest, stored) = place.pack_from("m", &tensors, &origins).unwrap();
    assert_eq!((stored, manifest.weights.segments.len()), (2 * length, 2));
    assert_eq!(place.load("m"), tensors);
    assert_eq!(place.damage(), []);
    assert_eq!(place.gc().files, [], "gc has no business outside");

    let lied = place.pack_from("lied", &tensors, &[at(8), None, None]).err().unwrap();
    assert_eq!(lied.kind, ErrorKind::Corrupt);
    let missing = Some(Origin { path: place.folder.path().join("none"), offset_bytes: 0 });
    assert_eq!(place.pack_from("missing", &tensors, &[missing]).err().unwrap().kind, ErrorKind::NotFound);

    // Compacting leaves it there unless it is told to copy.
    assert_eq!(compact(&place.store, false, &|_, _| ()).unwrap().models, 0);
    let rewrite = |bytes: &[u8], time: SystemTime| {
        let part = place.folder.path().join("part");
        fs::write(&part, bytes).unwrap();
        fs::File::options().write(true).open(&part).unwrap().set_modified(time).unwrap();
        fs::rename(&part, &file).unwrap();
    };
    let other: Vec<u8> = bytes.iter().map(|byte| byte ^ 1).collect();
    for (what, bytes, time, loads) in [
        ("the same", &bytes[..], modified, true),
        ("the same, of another time", &bytes[..], modified - Duration::from_secs(60), true),
        ("perhaps not yet whole", &bytes[..], SystemTime::now(), false),
        ("shorter", &bytes[1..], modified, false),
        ("other bytes", &other, modified - Duration::from_secs(60), false),
        ("other bytes, size and time faked", &other, modified - Duration::from_secs(60), false),
    ] {
        rewrite(bytes, time);
        let loaded = place.store.weights(&manifest);
        assert_eq!(loaded.is_ok(), loads, "{what}");
        if let Err(error) = loaded {
            assert_eq!(error.kind, ErrorKind::Corrupt);
            assert!(error.message.contains("model.safetensors") && error.message.contains("pack the model again"));
        }
        assert_eq!(place.damage().len(), usize::from(!what.starts_with("the same")), "{what}");
    }
    rewrite(&bytes, modified);
    let compacted = compact(&place.store, true, &|_, _| ()).unwrap();
    assert_eq!(compacted.models, 1);
    fs::remove_file(&file).unwrap();
    assert_eq!(place.load("m"), tensors);
    assert_eq!(place.damage(), []);
}

#[test]
fn packers_and_collectors_at_once_leave_every_model_whole() {
    let place = Place::new();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let packers: Vec<_> = (0..3)
            .map(|packer| {
                let place = &place;
                scope.spawn(move || {
                    for round in 0..12 {
                        let name = format!("m{packer}");
                        place.pack(&name, &model(1000 + packer * 100 + round));
                        assert_eq!(place.load(&name), model(1000 + packer * 100 + round));
                        // All but the last goes, so that trunks lose their last model while others look for them.
                        if round < 11 {
                            remove(&place.store, &name, None).unwrap();
                        }
                    }
                })
            })
            .collect();
        let (store, done) = (&place.store, &done);
        let collector = scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                collect(store, NOW, false).unwrap();
                compact(store, false, &|_, _| ()).unwrap();
            }
        });
        let ended: Vec<_> = packers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        collector.join().unwrap();
        ended.into_iter().for_each(|packer| packer.unwrap());
    });
    assert_eq!(place.store.names().unwrap(), ["m0", "m1", "m2"]);
    assert_eq!(place.damage(), []);
    place.gc();
    assert_eq!(place.damage(), []);
    let needed: HashSet<_> =
        readable(&place.store).unwrap().iter().flat_map(|manifest| manifest.content().unwrap()).collect();
    assert_eq!(place.files().into_iter().collect::<HashSet<_>>(), needed);
}

#[test]
fn files_that_come_with_a_model_are_kept_and_checked() {
    let place = Place::new();
    let (model, _) = place.pack("m", &model(100));
    let hash = blake3::hash(b"tokens").to_hex().to_string();
    let file = place.store.root().join("files").join(&hash);
    fs::write(&file, "tokens").unwrap();
    let with = Manifest { files: BTreeMap::from([("tokenizer.json".to_owned(), hash.clone())]), ..model.clone() };
    assert!(place.store.supersede(&model, &with).unwrap());
    assert!(!place.store.supersede(&model, &with).unwrap(), "it is no longer what was read");
    assert_eq!((place.gc().files, place.damage()), (vec![], vec![]));
    flip(&file, 0);
    assert!(place.damage()[0].1.contains(&hash));
    remove(&place.store, "m", None).unwrap();
    place.gc();
    assert!(!file.exists());
}
