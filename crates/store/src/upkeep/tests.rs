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
fn damage_is_named_not_shared_and_mended_by_packing_again() {
    let place = Place::new();
    let (first, _) = place.pack("first", &model(100));
    place.pack("second", &model(101));
    let root = place.store.root();
    let trunk = place.segment(&first, 0);
    let whole = fs::read(&trunk).unwrap();
    let table = root.join(format!("weights/{}.tbl", first.weights.table));
    let program = root.join(format!("programs/{}.onnx", first.program.hash));
    let length = whole.len() as u64;
    for (what, path, at, harmed) in [
        ("a weight", &trunk, 5, 2),
        ("the table of contents", &trunk, length - 100, 2),
        ("the count of the contents", &trunk, length - 10, 2),
        ("a table of weights", &table, 20, 1),
        ("the program", &program, 2, 2),
    ] {
        flip(path, at);
        let damage = place.damage();
        assert_eq!(damage.len(), harmed, "{what}: {damage:?}");
        let file = path.file_stem().unwrap().to_str().unwrap();
        assert!(damage.iter().all(|(_, reason)| reason.contains(file)), "{what}: {damage:?}");
        flip(path, at);
        assert_eq!(place.damage(), [], "{what}");
    }
    for path in [&trunk, &table, &program] {
        let bytes = fs::read(path).unwrap();
        fs::remove_file(path).unwrap();
        assert!(!place.damage().is_empty(), "{}", path.display());
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        assert!(!place.damage().is_empty(), "{}", path.display());
        fs::write(path, bytes).unwrap();
    }

    // Whoever claims a hash for other bytes is not believed, whether by mistake or on purpose.
    flip(&trunk, 5);
    let (third, stored) = place.pack("third", &model(102));
    assert_eq!(stored, 308 * 1024 + 100, "nothing of what is damaged is shared");
    assert_eq!((place.load("third"), third.weights.segments.len()), (model(102), 1));
    remove(&place.store, "first", None).unwrap();
    let Placed { weights, .. } = {
        // As packed from nothing: nothing is shared, so the segment gets the name of the damaged one.
        let avoid = place
            .store
            .list()
            .unwrap()
            .iter()
            .flat_map(|listed| listed.manifest.clone())
            .flat_map(|manifest| manifest.weights.segments)
            .map(|segment| segment.hash)
            .collect();
        self::place(&place.store, &model(100), &[], &Rules { segments_max: SEGMENTS_MAX, avoid: &avoid }).unwrap()
    };
    assert_eq!(weights, first.weights);
    assert_eq!(fs::read(&trunk).unwrap(), whole, "written anew");
    assert_eq!(place.damage(), []);
}

#[test]
fn what_is_removed_or_moved_while_it_is_checked_is_not_damaged() {
    let place = Place::new();
    let scattered = parts(&place);
    let (before, _) = place.pack("scattered", &scattered);
    let meanwhile = |done: u64, _: u64| {
        if done == 0 {
            for at in 0..scattered.len() {
                remove(&place.store, &format!("part{at}"), None).unwrap();
            }
            assert_eq!(compact(&place.store, false, &|_, _| ()).unwrap().models, 1);
            place.gc();
        }
    };
    // One thread, which hears of the beginning before it reads anything.
    let verified = verify(&place.store, 1, &meanwhile).unwrap();
    assert_eq!((verified.models, verified.damage), (1, vec![]));
    let gone = (0..before.weights.segments.len()).filter(|&at| !place.segment(&before, at).exists());
    assert!(gone.count() > 1, "nothing was collected");
}

#[test]
fn a_manifest_that_lies_is_refused_with_the_reason() {
    let place = Place::new();
    place.pack("m", &model(100));
    let path = place.store.manifest_path("m", 1);
    let text = fs::read_to_string(&path).unwrap();
    let other =
        place.store.put_table(&place.store.table(&place.pack("n", &[tensor(9, 10)]).0.weights).unwrap()).unwrap();
    let whole = place.store.manifest("m", 1).unwrap();
    let table = place.store.table(&whole.weights).unwrap();
    let lie = |change: &dyn Fn(&mut crate::table::WeightRef)| {
        let mut lying = table.clone();
        change(&mut lying[0]);
        text.replace(&whole.weights.table, &place.store.put_table(&lying).unwrap())
    };
    let bytes = whole.weights.segments[0].bytes;
    for (what, lying, loads, says) in [
        ("the count", text.replace(r#""count":4"#, r#""count":5"#), false, "5"),
        ("the size", text.replace(&format!(r#""bytes":{bytes},"#), r#""bytes":9,"#), false, "and had 9"),
        ("another's table", text.replace(&whole.weights.table, &other), false, "weights"),
        ("no hash", text.replace(&whole.weights.table, "../../etc/passwd"), false, "no content hash"),
        ("no such segment", lie(&|weight| weight.segment = 1), false, "no segment 1"),
        ("past the end", lie(&|weight| weight.offset_bytes = bytes), false, "at byte"),
        ("beside a tensor", lie(&|weight| weight.offset_bytes = 1), false, "no tensor of that size"),
        ("part of a tensor", lie(&|weight| weight.shape = vec![5]), false, "no tensor of that size"),
    ] {
        fs::write(&path, lying).unwrap();
        let manifest = place.store.manifest("m", 1).unwrap();
        assert_eq!(place.store.weights(&manifest).is_ok(), loads, "{what}");
        if let Err(error) = place.store.weights(&manifest) {
            assert_eq!(error.kind, ErrorKind::Corrupt, "{what}");
        }
        let damage = place.damage();
        assert_eq!(damage.len(), 1, "{what}");
        assert!(damage[0].1.contains(says), "{what}: {}", damage[0].1);
    }
}

#[test]
fn dead_bytes_go_and_the_models_answer_as_before() {
    let place = Place::new();
    // The second lies in what the first brought, most of which is dead when the first is gone.
    let large = |seed| tensor(seed, 300 * KB);
    let (first, _) = place.pack("first", &[large(1), large(2), large(3), tensor(4, 100 * KB)]);
    place.pack("second", &[tensor(4, 100 * KB)]);
    place.pack("third", &[tensor(4, 100 * KB), large(9)]);
    remove(&place.store, "first", None).unwrap();
    let mapped = place.load("second");
    let bytes = fs::metadata(place.segment(&first, 0)).unwrap().len();
    let compacted = compact(&place.store, false, &|_, _| ()).unwrap();
    let want = Compacted { models: 2, changed_meanwhile: 0, stored_bytes: 100 * 1024, freed_bytes: bytes };
    assert_eq!(compacted, want);
    let went: Vec<_> = place.gc().files.iter().map(|file| file.bytes).collect();
    assert!(went.contains(&bytes) && !place.segment(&first, 0).exists());
    assert_eq!(place.load("second"), mapped);
    assert_eq!(place.load("third"), [tensor(4, 100 * KB), large(9)]);
    assert_eq!(place.damage(), []);
    assert_eq!(compact(&place.store, false, &|_, _| ()).unwrap(), Compacted::default());
}

#[test]
fn every_form_of_a_model_moves_with_it() {
    let place = Place::new();
    let forms = [vec![tensor(1, 200 * KB), tensor(9, 10)], vec![tensor(2, 100 * KB), tensor(9, 10)]];
    // Both forms lie in the segment of a model that goes, between tensors that are nobody's then.
    let doomed = [&forms[0][..], &forms[1], &[tensor(7, 300 * KB)]].concat();
    place.pack("doomed", &doomed);
    let [(first, _), (second, _)] =
        ["first", "second"].map(|name| place.pack(name, &forms[usize::from(name == "second")]));
    let other =
        Form { program: ProgramRef { target: "another".to_owned(), ..second.program }, weights: second.weights };
    let both = Manifest { others: vec![other], ..first };
    fs::write(place.store.manifest_path("first", 1), serde_json::to_vec(&both).unwrap()).unwrap();
    for name in ["doomed", "second"] {
        remove(&place.store, name, None).unwrap();
    }

    let compacted = compact(&place.store, false, &|_, _| ()).unwrap();
    assert_eq!((compacted.models, compacted.stored_bytes), (1, 300 * 1024 + 20));
    let collected = place.gc().files;
    assert!(collected.iter().any(|garbage| garbage.bytes > 600 * 1024), "{collected:?}");
    let moved = place.store.manifest("first", 1).unwrap();
    for (target, tensors) in [("here", &forms[0]), ("another", &forms[1])] {
        assert_eq!(place.store.weights(&moved.clone().on(target).unwrap()).unwrap(), *tensors, "{target}");
    }
}

/// The store as a build that wrote format 1 left it: one segment a model, its name the hash of the file.
fn pack_format_1(place: &Place, name: &str, tensors: &[Tensor]) {
    let mut file = Vec::new();
    let weights: Vec<_> = tensors
        .iter()
        .map(|tensor| {
            file.resize(file.len().next_multiple_of(4096), 0);
            let hash = blake3::hash(tensor.data()).to_hex().to_string();
            let offset = file.len();
            file.extend_from_slice(tensor.data());
            serde_json::json!({"segment": 0, "offset_bytes": offset, "datatype": "UINT8", "shape": tensor.shape(), "hash": hash})
        })
        .collect();
    let segment = blake3::hash(&file).to_hex().to_string();
    let program = place.store.put_program(b"graph", "portable").unwrap();
    fs::write(place.store.root().join(format!("segments/{segment}.seg")), file).unwrap();
    let manifest = serde_json::json!({
        "format": 1, "name": name, "version": 1,
        "source": {"format": "onnx", "hash": "", "bytes": 1},
        "program": {"hash": program, "kind": "lifted", "target": "portable"},
        "inputs": [], "outputs": [], "segments": [segment], "weights": weights,
    });
    fs::create_dir_all(place.store.root().join("models").join(name)).unwrap();
    fs::write(place.store.manifest_path(name, 1), manifest.to_string()).unwrap();
}

#[test]
fn format_1_is_read_checked_and_left_behind_by_compacting() {
    let place = Place::new();
    for head in 0..3 {
        pack_format_1(&place, &format!("m{head}"), &model(100 + head));
    }
    for folder in ["weights", "files"] {
        fs::remove_dir(place.store.root().join(folder)).unwrap();
    }
    let old = place.store.manifest("m1", 1).unwrap();
    assert_eq!((old.format, old.weights.len(), old.weights.bytes), (1, 4, 308 * 1024 + 100));
    assert_eq!(old.weights.segments[0].used_bytes, old.weights.bytes);
    assert_eq!(place.load("m1"), model(101));
    assert_eq!(place.damage(), []);
    flip(&place.segment(&old, 0), 5);
    assert_eq!(place.damage().len(), 1);
    flip(&place.segment(&old, 0), 5);

    let compacted = compact(&place.store, false, &|_, _| ()).unwrap();
    assert_eq!((compacted.models, compacted.stored_bytes), (3, (308 + 8 + 8) * 1024 + 100));
    assert_eq!(place.gc().files.len(), 3);
    for head in 0..3 {
        let name = format!("m{head}");
        assert_eq!(place.store.manifest(&name, 1).unwrap().format, FORMAT);
        assert_eq!(place.load(&name), model(100 + head));
    }
    assert_eq!(place.damage(), []);
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
