//! Graphs of every kind through the importer: each is lifted, and two exporters' spellings are one program.

use std::path::{Path, PathBuf};

use super::inside_tests as inside;
use super::*;
use crate::onnx::scramble::scramble;
use crate::onnx::wire::{
    Attribute, Dim, Entry, Node, OpsetId, Shape, SparseTensor, TensorProto, TensorType, Type, ValueInfo,
};

/// The runtime that `make setup` fetched, or the one that the environment names.
pub(in crate::onnx) fn onnx() -> Onnx {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/onnxruntime/1.31.1/libonnxruntime.so");
    let library = std::env::var_os(engine::onnx::LIBRARY_VARIABLE).map_or(fetched, PathBuf::from);
    Onnx::load(Some(&library)).expect("'make setup' fetches the runtime")
}

fn asset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets").join(name)
}

#[test]
fn what_another_exporter_wrote_is_the_same_program() {
    let (onnx, folder) = (onnx(), tempfile::tempdir().unwrap());
    for file in ["bert_tiny_qa.onnx", "nanodet_g_coco80.onnx", "person_ssdlite_odapi.onnx"] {
        let (_, model) = read(&asset(file)).unwrap();
        let [want] = lifted_natively(&onnx, &asset(file));
        let other = folder.path().join(file);
        std::fs::write(&other, scramble(&model, 99).encode_to_vec()).unwrap();
        let [got] = lifted_natively(&onnx, &other);
        assert!(got.program == want.program, "{file} scrambled is another program");
        assert!(got.weights == want.weights, "{file} scrambled has other weights");
    }
}

/// The form for this CPU, which must have its weights lifted out.
fn lifted_natively(onnx: &Onnx, path: &Path) -> [Compiled; 1] {
    let forms = import(onnx, path, Targets::Native).unwrap_or_else(|error| panic!("{}: {error:?}", path.display()));
    let form = <[Compiled; 1]>::try_from(forms.forms).ok().unwrap();
    assert_eq!(form[0].why_whole, None, "{}", path.display());
    form
}

#[test]
fn what_cpus_want_laid_out_differently_has_a_form_for_each() {
    let onnx = onnx();
    let native = engine::cpu::target();
    // Convolutions are laid out for the CPU; a transformer has none.
    for (file, targets, want, per_cpu) in [
        ("nanodet_g_coco80.onnx", Targets::Both, &[&native[..], PORTABLE][..], true),
        ("nanodet_g_coco80.onnx", Targets::Native, &[&native], true),
        ("nanodet_g_coco80.onnx", Targets::Portable, &[PORTABLE], true),
        ("bert_tiny_qa.onnx", Targets::Both, &[PORTABLE], false),
        ("bert_tiny_qa.onnx", Targets::Native, &[PORTABLE], false),
        ("bert_tiny_qa.onnx", Targets::Portable, &[PORTABLE], false),
    ] {
        let imported = import(&onnx, &asset(file), targets).unwrap();
        let got: Vec<_> = imported.forms.iter().map(|form| &form.target[..]).collect();
        assert_eq!((&got[..], imported.per_cpu), (want, per_cpu), "{file} {targets:?}");
        assert!(imported.forms.iter().all(|form| form.kind == ProgramKind::Lifted), "{file} {targets:?}");
    }
}

/// A `TensorProto` of 32-bit floats, different for each seed.
pub(in crate::onnx) fn floats(name: &str, dims: &[i64], seed: u16) -> TensorProto {
    let count: i64 = dims.iter().product();
    let value = |index: i64| f32::from(u16::try_from(index * 7919 % 101).unwrap() + seed) / 400.0 - 0.125;
    TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(1),
        dims: dims.to_vec(),
        float_data: (0..count).map(value).collect(),
        ..TensorProto::default()
    }
}

pub(in crate::onnx) fn value(name: &str, elem_type: i32, dims: &[i64]) -> ValueInfo {
    let dim = dims.iter().map(|&dim| Dim {
        dim_value: (dim >= 0).then_some(dim),
        dim_param: (dim < 0).then(|| format!("axis{dim}")),
        ..Dim::default()
    });
    let tensor_type = TensorType { elem_type: Some(elem_type), shape: Some(Shape { dim: dim.collect() }) };
    ValueInfo {
        name: Some(name.to_owned()),
        r#type: Some(Type { tensor_type: Some(tensor_type), ..Type::default() }),
        doc_string: None,
    }
}

pub(in crate::onnx) fn node(operator: &str, input: &[&str], output: &str) -> Node {
    Node {
        op_type: Some(operator.to_owned()),
        input: input.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.to_owned()],
        ..Node::default()
    }
}

pub(in crate::onnx) fn model(graph: Graph) -> Model {
    let opset = OpsetId { domain: Some(String::new()), version: Some(17) };
    let graph = Graph { name: Some("g".to_owned()), ..graph };
    Model { ir_version: Some(8), opset_import: vec![opset], graph: Some(graph), ..Model::default() }
}

/// Two learnt scalars, which are equal in one fine-tune and not in the other.
fn scalars(seed: u16) -> Model {
    model(Graph {
        node: vec![node("Mul", &["x", "a"], "m"), node("Tanh", &["m"], "t"), node("Mul", &["t", "b"], "y")],
        initializer: vec![floats("a", &[], 3), floats("b", &[], seed)],
        input: vec![value("x", 1, &[-1])],
        output: vec![value("y", 1, &[-1])],
        ..Graph::default()
    })
}

/// A matrix large enough to be turned, used twice.
fn tied(seed: u16) -> Model {
    model(Graph {
        node: vec![node("MatMul", &["x", "w"], "m"), node("Tanh", &["m"], "t"), node("MatMul", &["t", "w"], "y")],
        initializer: vec![floats("w", &[256, 256], seed)],
        input: vec![value("x", 1, &[-1, -2, 256])],
        output: vec![value("y", 1, &[-1, -2, 256])],
        ..Graph::default()
    })
}

fn sparse(seed: u16) -> Model {
    let numbers = SparseTensor {
        values: Some(floats("w", &[3], seed)),
        indices: Some(TensorProto {
            data_type: Some(7),
            dims: vec![3],
            int64_data: vec![0, 5, 7],
            ..TensorProto::default()
        }),
        dims: vec![2, 4],
    };
    model(Graph {
        node: vec![node("MatMul", &["x", "w"], "y")],
        sparse_initializer: vec![numbers],
        input: vec![value("x", 1, &[-1, 2])],
        output: vec![value("y", 1, &[-1, 4])],
        ..Graph::default()
    })
}

#[test]
fn fine_tunes_share_a_program_wherever_their_weights_are() {
    let (onnx, folder) = (onnx(), tempfile::tempdir().unwrap());
    for (what, make, weights) in [
        ("branches", inside::conditional as fn(u16) -> Model, 2),
        ("a loop", inside::looped, 1),
        ("a scan", inside::scanned, 2),
        ("halves", inside::halves, 1),
        ("scalars", scalars, 2),
        ("a tied matrix", tied, 1),
        ("a sparse matrix", sparse, 1),
    ] {
        let [one, other] = [3, 8].map(|seed| {
            let path = folder.path().join("m.onnx");
            std::fs::write(&path, make(seed).encode_to_vec()).unwrap();
            let [form] = lifted_natively(&onnx, &path);
            form
        });
        assert_eq!(one.weights.len(), weights, "{what}");
        assert!(one.program == other.program, "{what}: two programs");
        assert!(one.weights != other.weights, "{what}: the fine-tunes must differ for this test to mean anything");
    }
}

#[test]
fn external_data_is_lifted_and_a_whole_graph_takes_it_in() {
    let (onnx, folder) = (onnx(), tempfile::tempdir().unwrap());
    let entry = |key: &str, value: &str| Entry { key: Some(key.into()), value: Some(value.into()) };
    let path = folder.path().join("m.onnx");
    let mut split = tied(3);
    let weight = &mut split.graph.as_mut().unwrap().initializer[0];
    let numbers: Vec<u8> = weight.float_data.drain(..).flat_map(f32::to_le_bytes).collect();
    std::fs::write(folder.path().join("numbers"), [&[0; 4096], &numbers[..]].concat()).unwrap();
    weight.data_location = Some(1);
    weight.external_data = vec![entry("location", "numbers"), entry("offset", "4096")];
    std::fs::write(&path, split.encode_to_vec()).unwrap();
    assert_eq!(identify(&path).unwrap().bytes, std::fs::metadata(&path).unwrap().len() + 4096 + numbers.len() as u64);
    assert_eq!(lifted_natively(&onnx, &path)[0].weights.len(), 1);

    let model = Model::decode(whole(&path).unwrap()).unwrap();
    assert_eq!(model.graph.unwrap().initializer[0].raw_data.as_deref(), Some(&numbers[..]));

    split.graph.as_mut().unwrap().initializer[0].external_data[0] = entry("location", "../numbers");
    std::fs::write(&path, split.encode_to_vec()).unwrap();
    assert!(identify(&path).unwrap_err().message.contains("outside the model's folder"));
}

/// A table of `rows` of 64 numbers each, and a row that is added to what is looked up, in a file with holes where nothing but
/// zeros is: the table from `offset` on, its last row all ones, and behind it twos. Gives the model's path.
fn in_a_file_with_holes(folder: &Path, rows: u64, offset: u64) -> PathBuf {
    use std::os::unix::fs::FileExt;
    const ROW_BYTES: u64 = 64 * 4;
    let file = std::fs::File::create(folder.join("numbers")).unwrap();
    let ones: Vec<u8> = [1.0f32; 64].into_iter().flat_map(f32::to_le_bytes).collect();
    let twos: Vec<u8> = [2.0f32; 64].into_iter().flat_map(f32::to_le_bytes).collect();
    let end = offset + rows * ROW_BYTES;
    file.write_all_at(&ones, end - ROW_BYTES).unwrap();
    file.write_all_at(&twos, end).unwrap();
    let entry = |key: &str, value: String| Entry { key: Some(key.into()), value: Some(value) };
    let external = |name: &str, dims: &[i64], at: u64, length: u64| TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(1),
        dims: dims.to_vec(),
        data_location: Some(1),
        external_data: vec![
            entry("location", "numbers".to_owned()),
            entry("offset", at.to_string()),
            entry("length", length.to_string()),
        ],
        ..TensorProto::default()
    };
    let model = model(Graph {
        node: vec![node("Gather", &["w", "x"], "g"), node("Add", &["g", "b"], "y")],
        initializer: vec![
            external("w", &[i64::try_from(rows).unwrap(), 64], offset, rows * ROW_BYTES),
            external("b", &[64], end, ROW_BYTES),
        ],
        input: vec![value("x", 7, &[-1])],
        output: vec![value("y", 1, &[-1, 64])],
        ..Graph::default()
    });
    let path = folder.join("m.onnx");
    std::fs::write(&path, model.encode_to_vec()).unwrap();
    path
}

#[test]
fn external_data_may_lie_past_four_gigabytes() {
    let (onnx, folder) = (onnx(), tempfile::tempdir().unwrap());
    let path = in_a_file_with_holes(folder.path(), 1000, 5 << 30);
    let [form] = lifted_natively(&onnx, &path);
    let sizes: Vec<usize> = form.weights.iter().map(|weight| weight.data().len()).collect();
    assert_eq!(sizes.iter().sum::<usize>(), 1001 * 256, "{sizes:?}");
    // A file that ends before its numbers do is no model.
    std::fs::File::options().write(true).open(folder.path().join("numbers")).unwrap().set_len(5 << 30).unwrap();
    assert!(import(&onnx, &path, Targets::Native).is_err());
}

#[test]
#[ignore = "takes 7 GB of the disk for temporary files, and a minute"]
fn weights_of_more_than_two_gigabytes_are_packed() {
    const ROWS: u64 = (9 << 30) / 4 / 256;
    let folder = tempfile::tempdir().unwrap();
    let path = in_a_file_with_holes(folder.path(), ROWS, 0);
    let store = crate::Store::create(folder.path().join("store").to_str().unwrap()).unwrap();
    let runtimes = engine::Runtimes::new(onnx().into(), engine::Libraries::default());
    let request = crate::pack::Request { path, ..crate::pack::Request::default() };
    let packed = crate::pack::pack(&store, &runtimes, &request).unwrap();
    assert_eq!((packed.manifest.program.kind, packed.weight_bytes), (ProgramKind::Lifted, (ROWS + 1) * 256));
    let session = runtimes.onnx().session(&store.program(&packed.manifest.program).unwrap(), 2, engine::Load::AsIs);
    let weights = runtimes.onnx().bind(store.weights(&packed.manifest).unwrap()).unwrap();
    let ids: Vec<u8> = [0, ROWS - 1].into_iter().flat_map(u64::to_le_bytes).collect();
    let ids = Tensor::new(engine::DataType::I64, vec![2], ids.into()).unwrap();
    let answer = session.unwrap().run(weights.as_ref(), &[ids], &[0]).unwrap();
    assert_eq!(answer[0].as_f32().unwrap().to_vec(), [[2.0; 64], [3.0; 64]].concat());
}

/// A product of `x`, `[batch, 3, 128]` or flat, by `w`, spelt in one of several ways.
fn spelt(operator: &str, turned: bool, seed: u16) -> Model {
    let shape = if turned { [160, 128] } else { [128, 160] };
    let flat = operator != "MatMul";
    let [x, y] = if flat { [vec![-1, 128], vec![-1, 160]] } else { [vec![-1, 3, 128], vec![-1, 3, 160]] };
    let mut nodes =
        vec![node(operator, if flat { &["x", "w", "b"] } else { &["x", "w"] }, "m"), node("Relu", &["m"], "y")];
    if turned {
        nodes[0].attribute =
            vec![Attribute { name: Some("transB".into()), i: Some(1), r#type: Some(2), ..Attribute::default() }];
    }
    model(Graph {
        node: nodes,
        initializer: vec![floats("w", &shape, seed), floats("b", &[160], seed)],
        input: vec![value("x", 1, &x)],
        output: vec![value("y", 1, &y)],
        ..Graph::default()
    })
}

/// A table that rows are looked up in.
fn table(seed: u16) -> Model {
    model(Graph {
        node: vec![node("Gather", &["w", "x"], "y")],
        initializer: vec![floats("w", &[200, 100], seed)],
        input: vec![value("x", 7, &[-1, -2])],
        output: vec![value("y", 1, &[-1, -2, 100])],
        ..Graph::default()
    })
}

#[test]
fn products_and_tables_are_in_eight_bits_however_they_are_spelt() {
    use crate::precision::Precision;
    let (onnx, folder) = (onnx(), tempfile::tempdir().unwrap());
    let path = folder.path().join("m.onnx");
    for precision in [Precision::Int8, Precision::Int8Weights] {
        for (what, make) in [
            ("MatMul", &(|seed| spelt("MatMul", false, seed)) as &dyn Fn(u16) -> Model),
            ("Gemm", &|seed| spelt("Gemm", false, seed)),
            ("Gemm of a turned matrix", &|seed| spelt("Gemm", true, seed)),
            ("a table", &table),
            ("two products", &tied),
        ] {
            let [one, other] = [3, 8].map(|seed| {
                std::fs::write(&path, make(seed).encode_to_vec()).unwrap();
                let asked = Asked { precision, calibration: None, tolerance: 0.05 };
                import_in_eight_bits(&onnx, &path, &asked).unwrap_or_else(|error| panic!("{what}: {error:?}"))
            });
            let levels = |imported: &Imported| {
                imported.forms[0].weights.iter().filter(|weight| weight.dtype() == engine::DataType::I8).count()
            };
            assert_eq!((levels(&one.0), one.0.max_batch_size), (1, BATCH_MAX), "{what} {precision:?}");
            assert!(one.0.forms[0].program == other.0.forms[0].program, "{what}: two programs");
            assert!(one.1.is_near_enough() && one.1.outputs[0].relative_error > 0.0, "{what}: {:?}", one.1);
        }
    }
    std::fs::write(&path, scalars(3).encode_to_vec()).unwrap();
    let asked = Asked { precision: Precision::Int8, calibration: None, tolerance: 0.05 };
    assert!(import_in_eight_bits(&onnx, &path, &asked).is_err_and(|error| error.message.contains("no large matrix")));
}

#[test]
fn what_looks_at_a_whole_batch_is_never_batched() {
    let (onnx, folder) = (onnx(), tempfile::tempdir().unwrap());
    let number = |name: &str, value: f32| TensorProto { float_data: vec![value], ..floats(name, &[], 0) };
    let whole = |name: &str, value: i64| TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(7),
        int64_data: vec![value],
        ..TensorProto::default()
    };
    // Doubles all of what it is given where the condition holds.
    let doubled = || vec![node("Where", &["condition", "two", "one"], "factor"), node("Mul", &["x", "factor"], "y")];
    let largest = vec![node("ReduceMax", &["x"], "largest"), node("Greater", &["largest", "limit"], "many")];
    let of_one = vec![node("Squeeze", &["many"], "condition")];
    let counted = |most: i64| {
        let inits = vec![number("one", 1.0), number("two", 2.0), whole("first", 0), whole("most", most)];
        let nodes = vec![
            node("Shape", &["x"], "shape"),
            node("Gather", &["shape", "first"], "items"),
            node("Greater", &["items", "most"], "condition"),
        ];
        (nodes.into_iter().chain(doubled()).collect::<Vec<_>>(), inits)
    };
    let limits = vec![number("one", 1.0), number("two", 2.0), number("limit", 100.0)];
    let gated: Vec<Node> = largest.into_iter().chain(of_one).chain(doubled()).collect();
    let range = vec![
        Node { output: ["q", "s", "z"].map(str::to_owned).to_vec(), ..node("DynamicQuantizeLinear", &["x"], "q") },
        node("DequantizeLinear", &["q", "s", "z"], "y"),
    ];
    for (what, (node, initializer), batches) in [
        ("each by itself", (vec![node("Tanh", &["x"], "y")], Vec::new()), BATCH_MAX),
        ("its rows as shares", (vec![node("Softmax", &["x"], "y")], Vec::new()), BATCH_MAX),
        ("numbers that grow without end", (vec![node("Exp", &["x"], "y")], Vec::new()), BATCH_MAX),
        ("the largest number of all", (gated, limits), 0),
        ("the range of all", (range, Vec::new()), 0),
        ("more than five items", counted(5), 0),
        ("more than thirty", counted(30), 0),
    ] {
        let (input, output) = (vec![value("x", 1, &[-1, 4])], vec![value("y", 1, &[-1, 4])]);
        let graph = Graph { node, input, output, initializer, ..Graph::default() };
        let path = folder.path().join("model.onnx");
        std::fs::write(&path, model(graph).encode_to_vec()).unwrap();
        let imported = import(&onnx, &path, Targets::Native).unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert_eq!(imported.max_batch_size, batches, "{what}");
    }
}
