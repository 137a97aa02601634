//! Repositories of other servers: which layout a place is, what it lists, and what is packed of it.

use std::path::Path;
use std::sync::Arc;

use engine::ErrorKind;
use store::repository::{Layout, PackCache, Source};
use store::{Repository, Store};

use crate::{onnx, relu};

/// Writes the files of `tree` below `root`: a path and, after a space, what is in it; `ONNX` is a model.
fn plant(root: &Path, tree: &[&str]) {
    for line in tree {
        let (path, text) = line.split_once(' ').unwrap_or((line, "x"));
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let bytes = if text == "ONNX" { relu(Some(&[1 << 3 | 2, 0])) } else { text.as_bytes().to_vec() };
        std::fs::write(path, bytes).unwrap();
    }
}

fn place(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What `layout` lists: `NAME/VERSION`, with a mark where it is refused, or the model's name where all of it is.
fn listed(layout: Layout) -> Vec<String> {
    let packs = tempfile::tempdir().unwrap();
    let repository = Repository::new(layout, PackCache::open(place(packs.path())).unwrap(), None);
    let mut lines = Vec::new();
    for (name, listed) in repository.list().unwrap() {
        if listed.refusal.is_some() {
            lines.push(format!("{name} refused"));
            continue;
        }
        for version in listed.wanted() {
            let refused = matches!(listed.versions[&version].source, Source::Refused(_));
            lines.push(format!("{name}/{version}{}", if refused { " refused" } else { "" }));
        }
    }
    lines
}

#[test]
fn a_place_is_known_by_what_lies_there() {
    let triton = |layout: &Layout| matches!(layout, Layout::Triton(_));
    let tfs = |layout: &Layout| matches!(layout, Layout::TensorFlowServing(_));
    let one = |layout: &Layout| matches!(layout, Layout::OneModel(_, name) if name == "base");
    let configured = |layout: &Layout| matches!(layout, Layout::ModelsConfig(_));
    let files = |layout: &Layout| matches!(layout, Layout::OnnxFiles(_));
    type Case<'a> = (&'a [&'a str], &'a str, &'a dyn Fn(&Layout) -> bool, &'a [&'a str]);
    let cases: &[Case<'_>] = &[
        (&["m/1/model.onnx"], "", &triton, &["m/1"]),
        (&["m/1/model.onnx", "m/2/model.onnx", "m/02/model.onnx", "m/x/model.onnx"], "", &triton, &["m/2"]),
        (
            &["m/config.pbtxt platform: \"tensorrt_plan\"", "m/1/model.plan", "n/1/model.onnx"],
            "",
            &triton,
            &["m refused", "n/1"],
        ),
        (&["m/1/model.py", ".git/1/model.onnx", "README x"], "", &triton, &["m/1 refused"]),
        (&["m/config.pbtxt backend: \"onnxruntime\"", "m/x"], "", &triton, &["m refused"]),
        (&["models/1/model.onnx"], "", &triton, &["models/1"]),
        (
            &["m/config.pbtxt version_policy: {all {}}", "m/1/model.onnx/model.onnx", "m/3/model.onnx"],
            "",
            &triton,
            &["m/1", "m/3"],
        ),
        (&["m/1/saved_model.pb", "n/1/any.onnx", "n/0002/any.onnx"], "", &tfs, &["m/1", "n/2"]),
        (&["m/1/assets/words", "n/1/saved_model.pb", "n/1/variables/v"], "", &tfs, &["m/1 refused", "n/1"]),
        (&["m/1/model.savedmodel/saved_model.pb", "n/1/model.savedmodel/x"], "", &triton, &["m/1", "n/1 refused"]),
        (
            &["m/config.pbtxt platform: \"tensorflow_savedmodel\"", "m/1/model.savedmodel/saved_model.pb"],
            "",
            &triton,
            &["m/1"],
        ),
        (&["m/1/a.onnx", "n/1/a.onnx", "n/1/b.onnx"], "", &tfs, &["m/1", "n/1 refused"]),
        (&["base/1/any.onnx", "base/7/model.onnx"], "base", &one, &["base/7"]),
        (&["a.onnx", "b.onnx", "weights.bin", "c/1/model.onnx"], "", &files, &["a/1", "b/1"]),
        (&["a.onnx", "b.onnx"], "b.onnx", &files, &["b/1"]),
        (
            &[
                "models.config model_config_list { config { name: \"n\" base_path: \"m\" model_version_policy { all {} } } \
               config { name: \"s3\" base_path: \"s3://bucket/m\" } }",
                "m/1/model.onnx",
                "m/2/model.onnx",
            ],
            "models.config",
            &configured,
            &["n/1", "n/2", "s3 refused"],
        ),
    ];
    for (tree, at, is, want) in cases {
        let folder = tempfile::tempdir().unwrap();
        plant(folder.path(), tree);
        let layout = Layout::of(place(&folder.path().join(at))).unwrap();
        assert!(is(&layout), "{tree:?} is {layout:?}");
        assert_eq!(listed(layout), *want, "{tree:?}");
    }
    for tree in [&[][..], &["README"], &["m/README"], &["m/n/o/p.onnx"]] {
        let folder = tempfile::tempdir().unwrap();
        plant(folder.path(), tree);
        assert_eq!(Layout::of(place(folder.path())).unwrap_err().kind, ErrorKind::NotFound, "{tree:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    Store::create(place(folder.path())).unwrap();
    assert!(matches!(Layout::of(place(folder.path())).unwrap(), Layout::Packs(_)));
    assert_eq!(Layout::of("s3://bucket").unwrap_err().kind, ErrorKind::Unsupported);
}

#[test]
fn a_torch_script_file_is_the_usual_one_or_is_called_so() {
    let folder = tempfile::tempdir().unwrap();
    let tree = [
        "m/1/model.pt",
        "n/config.pbtxt platform: \"pytorch_libtorch\"",
        "n/1/model.pt",
        "o/config.pbtxt backend: \"pytorch\" default_model_filename: \"traced.bin\"",
        "o/1/traced.bin",
        "p/config.pbtxt backend: \"pytorch\"",
        "p/1/model.onnx",
        "q/1/model.pt",
        "q/1/model.onnx",
    ];
    plant(folder.path(), &tree);
    let layout = Layout::of(place(folder.path())).unwrap();
    assert_eq!(listed(layout), ["m/1", "n/1", "o/1 refused", "p/1 refused", "q/1"]);
}

#[test]
fn a_file_is_packed_once_and_again_when_it_changes() {
    let (onnx, folder) = (Arc::new(onnx()), tempfile::tempdir().unwrap());
    let (root, cache) = (folder.path().join("repository"), folder.path().join("cache"));
    plant(&root, &["m/1/model.onnx ONNX", "m/config.pbtxt max_batch_size: 8", "bad/1/model.onnx"]);
    let open = |packer| Repository::new(Layout::Triton(root.clone()), PackCache::open(place(&cache)).unwrap(), packer);
    let repository = open(Some(Arc::clone(&onnx)));
    let of = |name: &str| repository.model(name, None).unwrap().unwrap().versions.remove(&1).unwrap();
    let found = of("m");
    assert!(repository.at_hand("m", 1, &found).is_none(), "nothing was packed yet");
    let manifest = repository.manifest("m", 1, &found).unwrap();
    assert_eq!((&manifest.name[..], manifest.version), ("m", 1));
    assert!(repository.store().unwrap().program(&manifest.program).is_ok());
    // Another process finds it without a runtime; a changed configuration is another stamp over the same file.
    assert_eq!(open(None).at_hand("m", 1, &found).unwrap().unwrap(), manifest);
    plant(&root, &["m/config.pbtxt max_batch_size: 16"]);
    let configured = of("m");
    assert_ne!(configured.stamp, found.stamp);
    assert_eq!(repository.at_hand("m", 1, &configured).unwrap().unwrap(), manifest);
    // A changed file is another; and one that changes between the look and the reading is not taken for the one looked at.
    std::fs::write(root.join("m/1/model.onnx"), relu(Some(&[]))).unwrap();
    assert_eq!(repository.manifest("bad", 1, &of("bad")).unwrap_err().kind, ErrorKind::InvalidInput);
    let changed = of("m");
    assert!(repository.at_hand("m", 1, &changed).is_none());
    std::fs::write(root.join("m/1/model.onnx"), relu(None)).unwrap();
    assert_eq!(repository.manifest("m", 1, &changed).unwrap_err().kind, ErrorKind::Unavailable);
    assert!(repository.manifest("m", 1, &of("m")).unwrap().inputs[0].any_rank);
    // What was lost from the cache is packed again.
    std::fs::remove_dir_all(cache.join("programs")).unwrap();
    std::fs::create_dir(cache.join("programs")).unwrap();
    assert!(repository.at_hand("m", 1, &of("m")).is_none());
    assert!(repository.manifest("m", 1, &of("m")).is_ok());
}
