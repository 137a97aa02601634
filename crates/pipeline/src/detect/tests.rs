//! Outputs made by hand: boxes that can be checked with a pencil, and outputs that no model would give.

use engine::{DataType, ErrorKind};
use half::f16;
use store::manifest::{Io, ProgramKind, ProgramRef, Source};
use store::picture::{Fit, Lies};
use store::task::NanodetLevel;

use super::*;

const NAN: f32 = f32::NAN;
/// A canvas of 32x16 pixels: 4x2 cells of stride 8, 2x1 of stride 16.
const CANVAS: Fit = Fit::Exact { width: 32, height: 16 };
/// Pictures are twice as wide and three times as high as the canvas.
const SOURCE_PX: (u32, u32) = (64, 48);

/// A manifest with nothing in it but `task` and the names of the outputs.
fn manifest(task: Option<Detection>, outputs: &[&str]) -> Manifest {
    let io =
        |name: &str, shape: Vec<i64>| Io { name: name.to_owned(), datatype: "FP32".to_owned(), shape, any_rank: false };
    Manifest {
        format: store::manifest::FORMAT,
        name: "m".to_owned(),
        version: 1,
        source: Source { format: "onnx".to_owned(), hash: String::new(), bytes: 0 },
        program: ProgramRef {
            hash: String::new(),
            kind: ProgramKind::Whole,
            target: "portable".to_owned(),
            why_whole: None,
        },
        inputs: vec![io("in", vec![-1, 3, -1, -1])],
        outputs: outputs.iter().map(|name| io(name, vec![-1])).collect(),
        max_batch_size: 0,
        task: task.map(Task::ObjectDetection),
        labels: Default::default(),
        files: Default::default(),
        weights: Default::default(),
        others: Default::default(),
        precision: Default::default(),
        per_cpu: false,
        padding: None,
    }
}

fn output() -> String {
    "a".to_owned()
}

fn made(head: Head) -> Detector {
    let task = Detection { input: PictureInput { fit: CANVAS, ..PictureInput::raw() }, head };
    for_model(&manifest(Some(task), &["a", "b", "c", "d"])).unwrap()
}

fn placement() -> Placement {
    Placement::of(CANVAS, SOURCE_PX).unwrap()
}

fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_f32(shape.to_vec(), values.to_vec()).unwrap()
}

/// Rows of `width` zeros, `count` of them, with some in their place.
fn rows(count: usize, width: usize, set: &[(usize, &[f32])]) -> Vec<f32> {
    let mut values = vec![0.0; count * width];
    for (row, given) in set {
        values[row * width..][..given.len()].copy_from_slice(given);
    }
    values
}

type Found<'a> = &'a [(u32, f32, [f32; 4])];

#[track_caller]
fn check(what: &str, detector: &Detector, outputs: &[Tensor], threshold: f32, want: Found<'_>) {
    let got = detector.detect(outputs, &placement(), threshold).unwrap();
    let close = |got: &Detected, want: &(u32, f32, [f32; 4])| {
        let apart = got.box_px.iter().zip(want.2).map(|(got, want)| (got - want).abs());
        got.class == want.0 && (got.score - want.1).abs() < 1e-5 && apart.fold(0.0, f32::max) < 1e-3
    };
    assert!(
        got.len() == want.len() && got.iter().zip(want).all(|(got, want)| close(got, want)),
        "{what}: {got:?}, {want:?}"
    );
}

fn odapi() -> Detector {
    made(Head::Odapi { boxes: "a".into(), scores: "b".into(), classes: "c".into(), count: "d".into() })
}

fn odapi_outputs(boxes: &[f32], scores: &[f32], classes: &[f32], count: f32) -> Vec<Tensor> {
    let n = scores.len();
    vec![tensor(&[1, n, 4], boxes), tensor(&[1, n], scores), tensor(&[1, n], classes), tensor(&[1], &[count])]
}

#[test]
fn odapi_rows_become_boxes() {
    let boxes = [0.125, 0.25, 0.5, 0.75, /**/ -1.0, 0.0, 0.5, 2.0, /**/ 0.0, 0.0, 1.0, 1.0];
    let first = (1, 0.5, [16.0, 6.0, 48.0, 24.0]);
    let second = (3, 0.9, [0.0, 0.0, 64.0, 24.0]);
    let third = (2, 0.4, [0.0, 0.0, 64.0, 48.0]);
    type Row<'a> = (&'a [f32], &'a [f32], f32, f32, Found<'a>);
    let table: [Row<'_>; 8] = [
        (&[0.5, 0.9, 0.4], &[1.0, 2.9, 2.0], 3.0, 0.4, &[second, first, third]),
        (&[0.5, 0.9, 0.4], &[1.0, 2.9, 2.0], 3.0, 0.41, &[second, first]),
        (&[0.5, 0.9, 0.4], &[1.0, 2.9, 2.0], 1.0, 0.0, &[first]),
        (&[0.5, 0.9, 0.4], &[1.0, 2.9, 2.0], 1e9, 0.5, &[second, first]),
        (&[0.5, 0.9, 0.4], &[1.0, 2.9, 2.0], -5.0, 0.0, &[]),
        (&[0.5, 0.9, 0.4], &[1.0, 2.9, 2.0], NAN, 0.0, &[]),
        (&[NAN, 0.9, 0.4], &[1.0, NAN, -2.0], 3.0, 0.0, &[]),
        (&[0.5, 0.9, 0.4], &[1.0, 2.9, 2.0], 3.0, NAN, &[]),
    ];
    for (scores, classes, count, threshold, want) in table {
        check("odapi", &odapi(), &odapi_outputs(&boxes, scores, classes, count), threshold, want);
    }
    for nothing in [
        odapi_outputs(&[NAN, 0.0, 1.0, 1.0], &[0.9], &[1.0], 1.0),
        odapi_outputs(&[0.0, 0.0, f32::INFINITY, 1.0], &[0.9], &[1.0], 1.0),
        odapi_outputs(&[0.9, 0.9, 0.1, 0.1], &[0.9], &[1.0], 1.0),
        odapi_outputs(&[], &[], &[], 3.0),
    ] {
        check("nothing", &odapi(), &nothing, 0.1, &[]);
    }
}

const IOU: f32 = 0.5;
/// 4x2 and 2x1 cells.
const CELLS: usize = 10;
const STRIDES: [usize; 2] = [8, 16];

#[test]
fn rows_of_middle_size_and_scores_become_boxes() {
    let detector = made(Head::Yolov5 { output: output(), iou: IOU });
    // Of two that are nearly one the better stays; what is beside the canvas is cut.
    let set: [(usize, &[f32]); 5] = [
        (0, &[16.0, 8.0, 8.0, 4.0, 0.8, 0.1, 0.5]),
        (3, &[16.0, 8.0, 8.0, 4.5, 0.9, 0.1, 0.5]),
        (4, &[0.0, 0.0, 8.0, 4.0, 1.0, 0.9, 0.5]),
        (5, &[16.0, 8.0, 8.0, 4.0, NAN, 0.9, 0.5]),
        (6, &[NAN, 8.0, 8.0, 4.0, 1.0, 1.0, 0.5]),
    ];
    let outputs = [tensor(&[1, 30, 7], &rows(30, 7, &set))];
    let (kept, cut) = ((1, 0.45, [24.0, 17.25, 40.0, 30.75]), (0, 0.9, [0.0, 0.0, 8.0, 6.0]));
    check("yolov5", &detector, &outputs, 0.3, &[cut, kept]);
    check("yolov5", &detector, &outputs, 0.5, &[cut]);
    check("yolov5", &detector, &outputs, NAN, &[]);
}

#[test]
fn columns_of_middle_size_and_scores_become_boxes() {
    let detector = made(Head::Yolov8 { output: output(), iou: IOU });
    let mut values = vec![0.0; 6 * CELLS];
    for (at, column) in [
        (0, [16.0, 8.0, 8.0, 4.0, 0.1, 0.4]),
        (1, [16.0, 8.0, 8.0, 4.5, 0.1, 0.45]),
        (2, [16.0, 8.0, 8.0, 4.0, 0.6, 0.1]),
        (9, [0.0, 0.0, 8.0, 4.0, NAN, 0.5]),
    ] {
        (0..6).for_each(|row| values[row * CELLS + at] = column[row]);
    }
    let outputs = [tensor(&[1, 6, CELLS], &values)];
    let other = (0, 0.6, [24.0, 18.0, 40.0, 30.0]);
    let (kept, cut) = ((1, 0.45, [24.0, 17.25, 40.0, 30.75]), (1, 0.5, [0.0, 0.0, 8.0, 6.0]));
    check("yolov8", &detector, &outputs, 0.3, &[other, cut, kept]);
    check("yolov8", &detector, &[tensor(&[1, 6, 0], &[])], 0.3, &[]);
}

#[test]
fn boxes_that_a_graph_chose_are_taken_as_they_are() {
    let detector = made(Head::Yolov10 { output: output() });
    let set: [(usize, &[f32]); 3] = [
        (0, &[12.0, 6.0, 20.0, 10.0, 0.9, 5.0]),
        (1, &[12.0, 6.0, 20.0, 10.0, 0.8, 5.0]),
        (2, &[12.0, 6.0, 20.0, 10.0, 0.7, -1.0]),
    ];
    let outputs = [tensor(&[1, 4, 6], &rows(4, 6, &set))];
    let at = [24.0, 18.0, 40.0, 30.0];
    check("yolov10", &detector, &outputs, 0.1, &[(5, 0.9, at), (5, 0.8, at)]);
}

#[test]
fn offsets_are_counted_from_their_cells() {
    let detector = made(Head::Yolox { output: output(), strides: STRIDES.to_vec(), iou: IOU });
    let one = 0.0; // exp(0) strides
    let set: [(usize, &[f32]); 2] = [
        // Column 1, row 1 of stride 8: (8 + 4, 8 + 4), 8 pixels each way.
        (5, &[0.5, 0.5, one, one, 0.8, 0.5]),
        // Column 1, row 0 of stride 16: (16 + 8, 8), 16 pixels each way.
        (9, &[0.5, 0.5, one, one, 1.0, 0.9]),
    ];
    let outputs = [tensor(&[1, CELLS, 6], &rows(CELLS, 6, &set))];
    let (large, small) = ((0, 0.9, [32.0, 0.0, 64.0, 48.0]), (0, 0.4, [16.0, 24.0, 32.0, 48.0]));
    check("yolox", &detector, &outputs, 0.3, &[large, small]);
    let hostile = [tensor(&[1, CELLS, 6], &rows(CELLS, 6, &[(5, &[0.5, 0.5, 1e9, 0.0, 1.0, 1.0])]))];
    check("yolox", &detector, &hostile, 0.3, &[]);
    let error = detector.detect(&[tensor(&[1, 9, 6], &[0.0; 54])], &placement(), 0.3).unwrap_err();
    assert!(error.message.contains("9 rows") && error.message.contains("make 10"), "{error}");
}

const BINS: usize = 4;

/// Bins of four sides with all of the weight on bin 1.
fn bins(logit: f32) -> Vec<f32> {
    (0..4).flat_map(|_| [0.0, logit, 0.0, 0.0]).collect()
}

#[test]
fn nanodet_cells_become_boxes() {
    let level = |stride, scores: &str, boxes: &str| NanodetLevel { stride, scores: scores.into(), boxes: boxes.into() };
    let levels = vec![level(8, "a", "b"), level(16, "c", "d")];
    let detector = made(Head::Nanodet { levels, bins: BINS, iou: IOU });
    // Cell 5 is column 1, row 1: its middle is (12, 12), its box (4, 4) to (20, 20), clipped to 32x16.
    type Row<'a> = (usize, [f32; 3], f32, f32, Found<'a>);
    let (near, corner) = ([8.0, 12.0, 40.0, 48.0], [0.0, 0.0, 24.0, 36.0]);
    let table: [Row<'_>; 6] = [
        (5, [0.0, 0.7, 0.0], 200.0, 0.4, &[(1, 0.7, near)]),
        (0, [0.4, 0.0, 0.5], 200.0, 0.4, &[(2, 0.5, corner), (0, 0.4, corner)]),
        (0, [0.4, 0.0, 0.5], 200.0, 0.6, &[]),
        (0, [0.4, NAN, 0.0], 200.0, NAN, &[]),
        (0, [0.9, 0.9, 0.9], NAN, 0.4, &[]),
        (0, [0.9, 0.9, 0.9], f32::INFINITY, 0.4, &[]),
    ];
    for (at, scores, logit, threshold, want) in table {
        let outputs = [
            tensor(&[1, 8, 3], &rows(8, 3, &[(at, &scores)])),
            tensor(&[1, 8, 16], &rows(8, 16, &[(at, &bins(logit))])),
            tensor(&[1, 2, 3], &[0.0; 6]),
            tensor(&[1, 2, 16], &[0.0; 32]),
        ];
        check("nanodet", &detector, &outputs, threshold, want);
        if threshold == 0.4 && at == 5 {
            let all = detector.detect(&outputs, &placement(), 0.0).unwrap();
            assert!(all.len() > 3 && all.len() <= FOUND_MAX && all[0].score == 0.7, "{all:?}");
        }
    }
}

#[test]
fn nanodet_plus_counts_from_the_corner() {
    let detector = made(Head::NanodetPlus { output: output(), strides: STRIDES.to_vec(), bins: BINS, iou: IOU });
    let row = [&[0.1, 0.7][..], &bins(200.0)].concat();
    let outputs = [tensor(&[1, CELLS, 18], &rows(CELLS, 18, &[(5, &row)]))];
    check("nanodet-plus", &detector, &outputs, 0.4, &[(1, 0.7, [0.0, 0.0, 32.0, 48.0])]);
}

#[test]
fn queries_are_scored_by_softmax_or_by_sigmoid() {
    let boxes = tensor(&[1, 2, 4], &[0.5, 0.5, 0.25, 0.5, 0.5, 0.5, NAN, 0.5]);
    // The logarithm of 3 is three times as likely as 0.
    let logits = tensor(&[1, 2, 3], &[0.0, 3.0f32.ln(), 0.0, 9.0, 9.0, 0.0]);
    let at = [24.0, 12.0, 40.0, 36.0];
    let detr = made(Head::Detr { logits: "a".into(), boxes: "b".into() });
    check("detr", &detr, &[logits.clone(), boxes.clone()], 0.4, &[(1, 0.6, at)]);
    let rt = made(Head::RtDetr { logits: "a".into(), boxes: "b".into() });
    check("rt-detr", &rt, &[logits, boxes], 0.4, &[(1, 0.75, at), (0, 0.5, at), (2, 0.5, at)]);
}

#[test]
fn boxes_leave_the_letterbox() {
    let task = Detection {
        input: PictureInput {
            fit: Fit::Letterbox { width: 64, height: 64, fill: 114, lies: Lies::Centre },
            ..PictureInput::raw()
        },
        head: Head::Yolov10 { output: output() },
    };
    let detector = for_model(&manifest(Some(task), &["a"])).unwrap();
    let picture = Picture { width: 128, height: 64, pixels: vec![0; 128 * 64 * 3] };
    let (fitted, placement) = detector.fit(&picture).unwrap();
    assert_eq!((fitted.width, fitted.height), (64, 64));
    assert_eq!(detector.prepare(&fitted).unwrap()[0].shape(), [1, 3, 64, 64]);
    let outputs = [tensor(&[1, 1, 6], &[10.0, 0.0, 20.0, 32.0, 0.9, 0.0])];
    let got = detector.detect(&outputs, &placement, 0.5).unwrap();
    assert_eq!(got, [Detected { class: 0, score: 0.9, box_px: [20.0, 0.0, 40.0, 32.0] }]);
}

#[test]
fn halves_are_as_good_as_singles() {
    let detector = made(Head::Yolov10 { output: output() });
    let halves = [12.0, 6.0, 20.0, 10.0, 0.5, 1.0].iter().flat_map(|&value| f16::from_f32(value).to_le_bytes());
    let outputs = [Tensor::new(DataType::F16, vec![1, 1, 6], halves.collect::<Vec<u8>>().into()).unwrap()];
    check("halves", &detector, &outputs, 0.1, &[(1, 0.5, [24.0, 18.0, 40.0, 30.0])]);
}

#[test]
fn outputs_that_do_not_fit_are_refused_by_name() {
    let level = |stride, scores: &str, boxes: &str| NanodetLevel { stride, scores: scores.into(), boxes: boxes.into() };
    let heads = [
        (Head::Odapi { boxes: "a".into(), scores: "b".into(), classes: "c".into(), count: "d".into() }, 4),
        (Head::Nanodet { levels: vec![level(8, "a", "b"), level(16, "c", "d")], bins: BINS, iou: IOU }, 4),
        (Head::NanodetPlus { output: output(), strides: STRIDES.to_vec(), bins: BINS, iou: IOU }, 1),
        (Head::Yolov5 { output: output(), iou: IOU }, 1),
        (Head::Yolov8 { output: output(), iou: IOU }, 1),
        (Head::Yolov10 { output: output() }, 1),
        (Head::Yolox { output: output(), strides: STRIDES.to_vec(), iou: IOU }, 1),
        (Head::Detr { logits: "a".into(), boxes: "b".into() }, 2),
        (Head::RtDetr { logits: "a".into(), boxes: "b".into() }, 2),
    ];
    for (head, count) in heads {
        let detector = made(head.clone());
        let mut wrong = vec![Vec::new()];
        for shape in [&[3][..], &[2, 8, 7], &[1, 8], &[], &[1, 3, 3, 3], &[1, 4, 3]] {
            let one = || tensor(shape, &vec![0.9; shape.iter().product()]);
            wrong.push((0..count).map(|_| one()).collect());
        }
        let bytes = Tensor::new(DataType::U8, vec![1, CELLS, 6], vec![1; CELLS * 6].into()).unwrap();
        wrong.push(vec![bytes; count]);
        for outputs in wrong {
            let shapes: Vec<_> = outputs.iter().map(|tensor| tensor.shape().to_vec()).collect();
            match detector.detect(&outputs, &placement(), 0.4) {
                Err(error) => assert_eq!(error.kind, ErrorKind::InvalidInput, "{head:?} {shapes:?}"),
                Ok(found) => panic!("{head:?} takes {shapes:?} and finds {found:?}"),
            }
        }
    }
}

#[test]
fn a_task_that_cannot_be_is_refused_with_the_cure() {
    let level = |stride| NanodetLevel { stride, scores: "a".into(), boxes: "b".into() };
    let nanodet = |levels, bins, iou| Head::Nanodet { levels, bins, iou };
    let input = PictureInput { fit: CANVAS, ..PictureInput::raw() };
    let of = |head| Some(Detection { input, head });
    let table = [
        (None, "--task object-detection"),
        (of(Head::Yolov10 { output: "z".into() }), "no output 'z'"),
        (of(nanodet(vec![level(8)], 0, IOU)), "bins"),
        (of(nanodet(vec![], BINS, IOU)), "levels"),
        (of(nanodet(vec![level(0)], BINS, IOU)), "stride"),
        (of(nanodet(vec![level(usize::MAX)], BINS, IOU)), "stride"),
        (of(Head::Yolov8 { output: output(), iou: f32::INFINITY }), "overlap"),
        (of(Head::Yolox { output: output(), strides: vec![], iou: IOU }), "levels"),
        (
            Some(Detection {
                input: PictureInput { std: [0.0; 3], ..input },
                head: Head::Yolov10 { output: output() },
            }),
            "deviation",
        ),
    ];
    for (task, says) in table {
        let error = for_model(&manifest(task, &["a", "b"])).err().unwrap();
        assert!(error.kind == ErrorKind::InvalidInput && error.message.contains(says), "{error}; wanted: {says}");
    }
    let mut two = manifest(of(Head::Yolov10 { output: output() }), &["a"]);
    two.inputs.push(two.inputs[0].clone());
    assert!(for_model(&two).err().unwrap().message.contains("one input"));
}
