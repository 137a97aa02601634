//! On the bundled models; the heads that have none are tested from outside, on graphs made for it.

use std::path::PathBuf;
use std::sync::Arc;

use engine::ErrorKind;
use engine::onnx::Onnx;
use store::picture::{Fit, Resample};
use store::task::Head;

use super::*;

fn asset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets").join(name)
}

fn runtimes() -> Runtimes {
    let library = std::env::var_os(engine::onnx::LIBRARY_VARIABLE).map(PathBuf::from);
    Runtimes::new(Arc::new(Onnx::load(library.as_deref()).unwrap()), engine::Libraries::default())
}

#[test]
fn bundled_models_are_told_or_refused() {
    let runtimes = runtimes();
    let wish = |task| Wish { task: Some(task), ..Wish::default() };
    let detection = || wish(TaskChoice::ObjectDetection);
    let with_head = |head: &str| Wish { head: Some(head.to_owned()), ..detection() };
    let none = BTreeMap::new();
    for (file, wish, head) in [
        ("nanodet_g_coco80.onnx", detection(), Ok("nanodet")),
        ("nanodet_g_coco80.onnx", with_head("nanodet"), Ok("nanodet")),
        ("nanodet_g_coco80.onnx", with_head("yolov8"), Err("not the head yolov8")),
        ("nanodet_g_coco80.onnx", with_head("yolo"), Err("'yolo' is no head that this build knows")),
        ("person_ssdlite_odapi.onnx", detection(), Ok("odapi")),
        ("bert_tiny_qa.onnx", detection(), Err("pictures go into one input")),
        ("bert_tiny_qa.onnx", wish(TaskChoice::ImageEmbedding), Err("pictures go into one input")),
        ("nanodet_g_coco80.onnx", wish(TaskChoice::ImageClassification), Err("give --preprocess")),
        ("nanodet_g_coco80.onnx", Wish::default(), Err("give --task")),
    ] {
        match (understand(&runtimes, &asset(file), &wish, &none), head) {
            (Ok(Understood { task: Task::ObjectDetection(detection), .. }), Ok(head)) => {
                assert_eq!(detection.head.name(), head, "{file} {wish:?}");
            }
            (Err(error), Err(says)) => {
                assert!(error.kind == ErrorKind::InvalidInput && error.message.contains(says), "{file}: {error}");
            }
            (got, want) => panic!("{file} {wish:?}: {got:?}, not {want:?}"),
        }
    }
    let named = |names: u32| (0..names).map(|class| (class, class.to_string())).collect();
    let nanodet = |names| understand(&runtimes, &asset("nanodet_g_coco80.onnx"), &detection(), &named(names));
    assert!(nanodet(80).is_ok());
    let refused = nanodet(81).unwrap_err();
    assert!(refused.message.contains("80 classes, but there is a name for class 80"), "{refused}");
    let source = InputWish { fit: Some(Fit::Source), ..InputWish::default() };
    for (file, input, want) in [
        (
            "person_ssdlite_odapi.onnx",
            InputWish::default(),
            (Fit::Exact { width: 300, height: 300 }, Resample::Asymmetric),
        ),
        ("person_ssdlite_odapi.onnx", source, (Fit::Source, Resample::Bilinear)),
        ("nanodet_g_coco80.onnx", InputWish::default(), (Fit::Exact { width: 416, height: 416 }, Resample::Bilinear)),
    ] {
        let told = understand(&runtimes, &asset(file), &Wish { input, ..detection() }, &none).unwrap();
        let Task::ObjectDetection(detection) = &told.task else { panic!("{told:?}") };
        assert_eq!((detection.input.fit, detection.input.resample), want, "{file}");
        assert_eq!(told.notes.iter().any(|note| note.contains("300x300")), want.1 == Resample::Asymmetric, "{told:?}");
    }
    let said = Wish { iou: Some(0.25), input: InputWish::preset("imagenet").unwrap(), ..detection() };
    let told = understand(&runtimes, &asset("nanodet_g_coco80.onnx"), &said, &none).unwrap();
    let Task::ObjectDetection(detection) = told.task else { panic!("{told:?}") };
    assert!(matches!(detection.head, Head::Nanodet { iou: 0.25, .. }) && detection.input.mean == [0.485, 0.456, 0.406]);
}

#[test]
fn task_files_are_read_whole_or_refused() {
    let text = r#"
        task = "object-detection"
        head = "yolov8"
        iou = 0.5
        [input]
        fit = { to = "letterbox", width = 640, height = 384 }
        resample = "bicubic"
        channels = "bgr"
        layout = "nhwc"
        scale = 0.5
        mean = [1, 2, 3]
    "#;
    let wish = Wish::from_toml(text).unwrap();
    assert_eq!(
        (wish.task, wish.head.as_deref(), wish.iou),
        (Some(TaskChoice::ObjectDetection), Some("yolov8"), Some(0.5))
    );
    let fit = Fit::Letterbox { width: 640, height: 384, fill: 114, lies: store::picture::Lies::Centre };
    assert_eq!((wish.input.fit, wish.input.mean, wish.input.std), (Some(fit), Some([1.0, 2.0, 3.0]), None));
    for (text, says) in [
        ("tusk = 1", "unknown field `tusk`"),
        ("task = \"detect\"", "image-embedding"),
        ("[input]\nfit = { to = \"box\" }", "letterbox"),
        ("[input]\nfit = { to = \"exact\", width = -1, height = 1 }", "width"),
        ("[input]\nmean = [1, 2]", "mean"),
        ("task =", "line 1"),
    ] {
        let error = Wish::from_toml(text).unwrap_err();
        assert!(error.message.contains("no task file") && error.message.contains(says), "{error}; wanted: {says}");
    }
    let (asked, said) = (Wish { iou: Some(0.1), ..Wish::default() }, wish);
    let both = asked.or(said.clone());
    assert_eq!((both.iou, both.head, both.input), (Some(0.1), said.head, said.input));
}
