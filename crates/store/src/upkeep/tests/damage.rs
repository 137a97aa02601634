//! Damage and lies: named, not shared, and refused with the reason.

use super::*;

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
fn a_model_that_names_no_files_is_named_by_whoever_stops_at_it_and_can_be_removed() {
    let place = Place::new();
    let (whole, _) = place.pack("m", &model(100));
    place.pack("n", &model(101));
    let path = place.store.manifest_path("m", 1);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace(&whole.weights.table, "no-hash")).unwrap();
    for error in [
        collect(&place.store, NOW, false).map(drop).unwrap_err(),
        compact(&place.store, false, &|_, _| ()).map(drop).unwrap_err(),
    ] {
        assert_eq!(error.kind, ErrorKind::Corrupt);
        assert!(error.message.contains("model 'm' version 1: the manifest names 'no-hash'"), "{}", error.message);
        assert!(error.message.contains("'packhorse remove' removes them"), "{}", error.message);
    }
    assert_eq!(remove(&place.store, "m", None).unwrap(), [1]);
    place.gc();
    assert_eq!((place.damage(), place.load("n")), (vec![], model(101)));
}
