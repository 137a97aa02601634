//! Keeping a store: packers that are killed, trunks that packers share, and disks that are full leave models that are
//! whole; what is left over goes, and what is damaged is named.

use rustix::process::Signal;

use crate::harness::{Place, assert_says, eventually};

/// The bundled question answerer with other numbers in its last matrix, [512, 128], which is that part of the file: a
/// fine-tune that froze the rest.
pub(crate) fn fine_tune(place: &Place, name: &str, seed: u8) {
    const MATRIX: std::ops::Range<usize> = 16_479_263..16_741_407;
    let mut bytes = std::fs::read(place.path("assets/bert_tiny_qa.onnx")).unwrap();
    // Runs of equal bytes make small finite numbers.
    bytes[MATRIX][..200_000].fill(0x3a);
    bytes[MATRIX][200_000..][..4 * usize::from(seed)].fill(0x3b);
    std::fs::write(place.path(name), bytes).unwrap();
}

fn models(place: &Place) -> Vec<serde_json::Value> {
    place.ok("models --store store --json").lines()
}

/// That every model is whole, and that with what is left over gone the store holds nothing else.
#[track_caller]
fn check_whole(place: &Place, want: usize) {
    assert_eq!(models(place).len(), want);
    let ran = place.ok("verify --store store");
    assert_eq!(ran.out, "");
    place.ok("gc --store store --grace 0");
    place.ok("verify --store store");
    let files = place.files("store");
    assert!(!files.iter().any(|file| file.contains(".part-")), "{files:?}");
    assert_eq!(place.ok("gc --store store --grace 0").out, "");
}

#[test]
fn a_killed_packer_leaves_whole_models_and_what_gc_takes() {
    let place = Place::new();
    place.ok("pack assets/bert_tiny_qa.onnx --store store --name base");
    let mut whole = 1;
    for (round, what) in
        ["segments/.part-", "segments/", "weights/", "models/tuned"].into_iter().cycle().take(8).enumerate()
    {
        fine_tune(&place, "tuned.onnx", u8::try_from(round).unwrap());
        let before = place.files("store");
        let mut packer = Some(place.start(&format!("pack tuned.onnx --store store --name tuned{round}")));
        eventually("something new in the store, or the packer's end", || {
            let new = place.files("store").into_iter().any(|file| file.starts_with(what) && !before.contains(&file));
            (new || models_on_disk(&place) > whole).then_some(())
        });
        packer.as_ref().unwrap().signal(Signal::KILL);
        packer.take().unwrap().end();
        let now = models_on_disk(&place);
        assert!(now == whole || now == whole + 1);
        whole = now;
        place.ok("verify --store store");
    }
    check_whole(&place, whole);
    place.ok("pack assets/bert_tiny_qa.onnx --store store --name base");
}

fn models_on_disk(place: &Place) -> usize {
    place.files("store/models").into_iter().filter(|file| file.ends_with(".json") && !file.contains(".part-")).count()
}

#[test]
fn packers_at_once_share_a_trunk() {
    let place = Place::new();
    let first = place.ok("pack assets/bert_tiny_qa.onnx --store store --name base").lines();
    let running: Vec<_> = (0..4)
        .map(|seed| {
            fine_tune(&place, &format!("m{seed}.onnx"), seed);
            place.start(&format!("pack m{seed}.onnx --store store"))
        })
        .collect();
    for running in running {
        let ran = running.end();
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let line = &ran.lines()[0];
        let (all, stored) = (line["weight_bytes"].as_u64().unwrap(), line["stored_bytes"].as_u64().unwrap());
        assert!(stored * 4 < all, "{stored} of {all} are new");
        assert_eq!(line["program"], first[0]["program"]);
    }
    for line in models(&place) {
        assert!(line["shared_bytes"].as_u64().unwrap() * 4 > line["weight_bytes"].as_u64().unwrap() * 3, "{line}");
    }
    assert_says(&place.ok("models --store store").err, &["OWN", "SHARED", "5 models on 1 program"]);
    check_whole(&place, 5);
}

#[test]
fn models_are_removed_collected_compacted_and_verified() {
    let place = Place::new();
    place.ok("pack assets/bert_tiny_qa.onnx assets/nanodet_g_coco80.onnx --store store");
    place.ok("pack assets/nanodet_g_coco80.onnx --store store --name bert_tiny_qa");
    let removed = place.ok("remove bert_tiny_qa 1 --store store");
    assert_eq!((&removed.lines()[0]["version"], models(&place).len()), (&1.into(), 2));
    assert_says(&place.ok("gc --store store").err, &["removed 0 files", "3 files that no model needs stay", "--grace"]);
    let would = place.ok("gc --store store --grace 0 --dry-run");
    let went = place.ok("gc --store store --grace 0");
    assert_eq!((would.lines().len(), went.lines().len()), (3, 3), "{}", went.out);
    assert_eq!(place.ok("compact --store store").lines()[0]["models"], 0);
    check_whole(&place, 2);

    let segment = place.files("store/segments").pop().unwrap();
    let path = place.path(&format!("store/segments/{segment}"));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[70_000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let ran = place.run("verify --store store");
    assert_eq!((ran.code, ran.lines().len()), (Some(1), 2), "{}", ran.err);
    assert_says(
        &ran.err,
        &["bert_tiny_qa version 2", "nanodet_g_coco80 version 1", &segment, "packhorse remove", "2 models damaged"],
    );
    place.ok("remove nanodet_g_coco80 --store store");
    place.ok("pack assets/nanodet_g_coco80.onnx --store store");
    check_whole(&place, 2);

    for (line, code, says) in [
        ("remove none --store store", 1, "model 'none' is not in the store"),
        ("remove bert_tiny_qa 9 --store store", 1, "version 9"),
        ("gc --store nowhere", 2, "there is no store"),
        ("verify --store nowhere", 2, "there is no store"),
    ] {
        let ran = place.run(line);
        assert_eq!((ran.code, &*ran.out), (Some(code), ""), "{line}: {}", ran.err);
        assert_says(ran.complaint(), &[says]);
    }
}

#[test]
fn packing_again_mends_what_a_model_has_lost() {
    let place = Place::new();
    let pack = "pack assets/bert_tiny_qa.onnx --store store --name base";
    place.ok(pack);
    fine_tune(&place, "tuned.onnx", 1);
    place.ok("pack tuned.onnx --store store --name tuned");
    let of = |folder: &str, ending: &str| -> Vec<_> {
        let mut files = place.files("store");
        files.retain(|file| file.starts_with(folder) && file.ends_with(ending));
        files.into_iter().map(|file| place.path(&format!("store/{file}"))).collect()
    };
    type Harm = fn(&std::path::Path);
    let lose: Harm = |file| std::fs::remove_file(file).unwrap();
    let cut: Harm = |file| std::fs::File::options().write(true).open(file).unwrap().set_len(100).unwrap();
    for (folder, ending) in [("segments/", ".seg"), ("weights/", ".tbl"), ("programs/", ".onnx")] {
        for harm in [lose, cut] {
            of(folder, ending).iter().for_each(|file| harm(file));
            let damaged = place.run("verify --store store");
            assert_ne!(damaged.code, Some(0), "{folder}: {}", damaged.err);
            for (line, name) in [(pack, "base"), ("pack tuned.onnx --store store --name tuned", "tuned")] {
                let ran = place.ok(line);
                let told = &ran.lines()[0];
                assert_eq!((&told["name"], &told["version"]), (&name.into(), &1.into()), "{folder}: {}", ran.err);
            }
            place.ok("verify --store store");
            assert_eq!(place.ok(pack).lines()[0]["changed"], false);
        }
    }
    check_whole(&place, 2);
}
