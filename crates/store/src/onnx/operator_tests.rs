//! Every family of operators that exporters and quantisers write: which of its constants are lifted, and that the answers
//! stay. The importer itself refuses to lift what answers differently, so a form that is lifted was compared.

use engine::onnx::Onnx;
use prost::Message;

use super::tests::{node, onnx, value};
use super::{Compiled, Targets, import};
use crate::manifest::ProgramKind;
use crate::onnx::wire::{Attribute, Graph, Model, Node, OpsetId, TensorProto};

const FLOAT: i32 = 1;
const BYTE: i32 = 2;
const SIGNED: i32 = 3;
const WHOLE: i32 = 6;

/// An input of the operator under test.
#[derive(Clone, Copy)]
enum Input<'a> {
    /// The model's own.
    Given(i32, &'a [i64]),
    /// Numbers around zero.
    Learnt(&'a [i64]),
    /// Numbers above zero: a variance, a scale.
    Above(&'a [i64]),
    /// Whole numbers of a type.
    Whole(i32, &'a [i64]),
    /// Left out.
    None,
}

struct Case<'a> {
    operator: &'a str,
    attributes: Vec<Attribute>,
    inputs: &'a [Input<'a>],
    /// The datatype of the output.
    output: i32,
    /// How many constants are lifted.
    lifted: usize,
}

fn whole(name: &str, value: i64) -> Attribute {
    Attribute { name: Some(name.into()), i: Some(value), r#type: Some(2), ..Attribute::default() }
}

fn tensor(name: &str, data_type: i32, dims: &[i64], numbers: impl Fn(i64) -> f32) -> TensorProto {
    let count: i64 = dims.iter().product();
    let (mut float_data, mut int32_data) = (Vec::new(), Vec::new());
    if data_type == FLOAT {
        float_data = (0..count).map(numbers).collect();
    } else {
        // Small enough for every type of bytes, and for a sum of many.
        int32_data = (0..count).map(|index| i32::try_from(index * 7 % 5).unwrap()).collect();
    }
    TensorProto {
        name: Some(name.into()),
        data_type: Some(data_type),
        dims: dims.to_vec(),
        float_data,
        int32_data,
        ..TensorProto::default()
    }
}

fn model(case: &Case<'_>, seed: u16) -> Model {
    let learnt = move |index: i64| f32::from(u16::try_from(index * 7919 % 101).unwrap() + seed) / 400.0 - 0.125;
    let (mut given, mut initializer, mut names) = (Vec::new(), Vec::new(), Vec::new());
    for (index, input) in case.inputs.iter().enumerate() {
        let name = format!("i{index}");
        match *input {
            Input::Given(data_type, dims) => given.push(value(&name, data_type, dims)),
            Input::Learnt(dims) => initializer.push(tensor(&name, FLOAT, dims, learnt)),
            Input::Above(dims) => initializer.push(tensor(&name, FLOAT, dims, move |index| learnt(index).abs() + 0.1)),
            Input::Whole(data_type, dims) => initializer.push(tensor(&name, data_type, dims, learnt)),
            Input::None => {
                names.push(String::new());
                continue;
            }
        }
        names.push(name);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (domain, operator) = case.operator.rsplit_once(':').unwrap_or(("", case.operator));
    let domain = if domain.is_empty() { None } else { Some(domain.to_owned()) };
    let mut tested = Node { domain, attribute: case.attributes.clone(), ..node(operator, &names, "y") };
    if operator == "QEmbedLayerNormalization" {
        tested.output.push("mask".to_owned());
    }
    let output = crate::onnx::wire::ValueInfo { r#type: None, ..value("y", case.output, &[]) };
    let opset = |domain: &str, version| OpsetId { domain: Some(domain.into()), version: Some(version) };
    let graph = Graph {
        name: Some("g".into()),
        node: vec![tested],
        initializer,
        input: given,
        output: vec![output],
        ..Graph::default()
    };
    Model {
        ir_version: Some(8),
        opset_import: vec![opset("", 17), opset("com.microsoft", 1)],
        graph: Some(graph),
        ..Model::default()
    }
}

fn text(name: &str, value: &str) -> Attribute {
    Attribute { name: Some(name.into()), s: Some(value.to_owned().into()), r#type: Some(3), ..Attribute::default() }
}

fn case<'a>(operator: &'a str, inputs: &'a [Input<'a>], lifted: usize) -> Case<'a> {
    Case { operator, attributes: Vec::new(), inputs, output: FLOAT, lifted }
}

impl Case<'_> {
    fn with(mut self, attributes: Vec<Attribute>) -> Self {
        self.attributes = attributes;
        self
    }

    fn giving(self, output: i32) -> Self {
        Self { output, ..self }
    }
}

/// Float operators, with every constant that training makes.
fn floats() -> Vec<Case<'static>> {
    use Input::{Above, Given, Learnt, None, Whole};
    const PICTURE: Input<'static> = Given(FLOAT, &[1, 4, 8, 8]);
    const ROWS: Input<'static> = Given(FLOAT, &[-1, 8]);
    const STEPS: Input<'static> = Given(FLOAT, &[5, 2, 4]);
    const TOKENS: Input<'static> = Given(FLOAT, &[1, 6, 8]);
    let hidden = || vec![whole("hidden_size", 3)];
    vec![
        case("Conv", &[PICTURE, Learnt(&[4, 4, 3, 3]), Learnt(&[4])], 2),
        case("ConvTranspose", &[PICTURE, Learnt(&[4, 3, 3, 3]), Learnt(&[3])], 2),
        case("Gemm", &[ROWS, Learnt(&[8, 6]), Learnt(&[6])], 2),
        case("MatMul", &[TOKENS, Learnt(&[8, 6])], 1),
        case("Einsum", &[ROWS, Learnt(&[8, 6])], 1).with(vec![text("equation", "ab,bc->ac")]),
        case("BatchNormalization", &[PICTURE, Learnt(&[4]), Learnt(&[4]), Learnt(&[4]), Above(&[4])], 4),
        case("InstanceNormalization", &[PICTURE, Learnt(&[4]), Learnt(&[4])], 2),
        case("LayerNormalization", &[ROWS, Learnt(&[8]), Learnt(&[8])], 2),
        case("SimplifiedLayerNormalization", &[ROWS, Learnt(&[8])], 1),
        case("com.microsoft:SkipLayerNormalization", &[TOKENS, TOKENS, Learnt(&[8]), Learnt(&[8]), Learnt(&[8])], 3),
        case("com.microsoft:SkipSimplifiedLayerNormalization", &[TOKENS, TOKENS, Learnt(&[8])], 1),
        case("LSTM", &[STEPS, Learnt(&[1, 12, 4]), Learnt(&[1, 12, 3]), Learnt(&[1, 24])], 3).with(hidden()),
        case("GRU", &[STEPS, Learnt(&[1, 9, 4]), Learnt(&[1, 9, 3]), Learnt(&[1, 18])], 3).with(hidden()),
        case("RNN", &[STEPS, Learnt(&[1, 3, 4]), Learnt(&[1, 3, 3]), Learnt(&[1, 6])], 3).with(hidden()),
        case("Gather", &[Learnt(&[20, 8]), Given(7, &[-1])], 1),
        case("PRelu", &[ROWS, Learnt(&[8])], 1),
        case("com.microsoft:BiasGelu", &[ROWS, Learnt(&[8])], 1),
        case("com.microsoft:FusedGemm", &[ROWS, Learnt(&[8, 6]), Learnt(&[6])], 2)
            .with(vec![text("activation", "Relu")]),
        case("com.microsoft:FusedMatMul", &[ROWS, Learnt(&[6, 8])], 1).with(vec![whole("transB", 1)]),
        case("com.microsoft:FusedConv", &[PICTURE, Learnt(&[4, 4, 3, 3]), Learnt(&[4])], 2)
            .with(vec![text("activation", "Relu")]),
        case("com.microsoft:Attention", &[TOKENS, Learnt(&[8, 24]), Learnt(&[24])], 2)
            .with(vec![whole("num_heads", 2)]),
        case("com.microsoft:MultiHeadAttention", &[TOKENS, TOKENS, TOKENS, Learnt(&[24])], 1)
            .with(vec![whole("num_heads", 2)]),
        // Blockwise weights stay where they are packed once.
        case("com.microsoft:MatMulNBits", &[Given(FLOAT, &[-1, 16]), Whole(BYTE, &[6, 1, 8]), Above(&[6]), None], 0)
            .with(vec![whole("K", 16), whole("N", 6), whole("bits", 4), whole("block_size", 16)]),
        // Structure, not weights.
        case("Resize", &[PICTURE, None, Above(&[4])], 0),
    ]
}

/// Quantised operators: weights, scales, zero points and biases are all learnt or measured.
fn quantised() -> Vec<Case<'static>> {
    use Input::{Above, Given, Learnt, Whole};
    const PICTURE: Input<'static> = Given(BYTE, &[1, 4, 8, 8]);
    const ROWS: Input<'static> = Given(BYTE, &[3, 8]);
    const SCALE: Input<'static> = Above(&[]);
    const ZERO: Input<'static> = Whole(BYTE, &[]);
    vec![
        case(
            "QLinearConv",
            &[PICTURE, SCALE, ZERO, Whole(BYTE, &[4, 4, 3, 3]), SCALE, ZERO, SCALE, ZERO, Whole(WHOLE, &[4])],
            8,
        )
        .giving(BYTE),
        case("QLinearMatMul", &[ROWS, SCALE, ZERO, Whole(BYTE, &[8, 6]), SCALE, ZERO, SCALE, ZERO], 7).giving(BYTE),
        case("MatMulInteger", &[ROWS, Whole(SIGNED, &[8, 6]), ZERO, Whole(SIGNED, &[6])], 3).giving(WHOLE),
        case("ConvInteger", &[PICTURE, Whole(BYTE, &[4, 4, 3, 3]), ZERO, ZERO], 3).giving(WHOLE),
        case("DequantizeLinear", &[ROWS, SCALE, ZERO], 2),
        case("QuantizeLinear", &[Given(FLOAT, &[3, 8]), SCALE, ZERO], 2).giving(BYTE),
        case(
            "com.microsoft:DynamicQuantizeMatMul",
            &[Given(FLOAT, &[3, 8]), Whole(SIGNED, &[8, 6]), Above(&[6]), Whole(SIGNED, &[6]), Learnt(&[6])],
            4,
        ),
        case(
            "com.microsoft:MatMulIntegerToFloat",
            &[ROWS, Whole(SIGNED, &[8, 6]), SCALE, Above(&[6]), ZERO, Whole(SIGNED, &[6]), Learnt(&[6])],
            6,
        ),
        case(
            "com.microsoft:QGemm",
            &[ROWS, SCALE, ZERO, Whole(BYTE, &[8, 6]), SCALE, ZERO, Whole(WHOLE, &[6]), SCALE, ZERO],
            8,
        )
        .giving(BYTE),
        case("com.microsoft:QLinearAdd", &[ROWS, SCALE, ZERO, Whole(BYTE, &[8]), SCALE, ZERO, SCALE, ZERO], 7)
            .giving(BYTE),
        case(
            "com.microsoft:QAttention",
            &[Given(BYTE, &[1, 6, 8]), Whole(BYTE, &[8, 24]), Learnt(&[24]), SCALE, SCALE, Input::None, ZERO, ZERO],
            6,
        )
        .with(vec![whole("num_heads", 2)]),
    ]
}

/// The same of texts: what runs along them, and tables.
fn quantised_texts() -> Vec<Case<'static>> {
    use Input::{Above, Given, Learnt, Whole};
    const SCALE: Input<'static> = Above(&[]);
    const ZERO: Input<'static> = Whole(BYTE, &[]);
    vec![
        case(
            "com.microsoft:DynamicQuantizeLSTM",
            &[
                Given(FLOAT, &[5, 1, 3]),
                Whole(SIGNED, &[1, 3, 16]),
                Whole(SIGNED, &[1, 4, 16]),
                Learnt(&[1, 32]),
                Input::None,
                Input::None,
                Input::None,
                Input::None,
                Above(&[1]),
                Whole(SIGNED, &[1]),
                Above(&[1]),
                Whole(SIGNED, &[1]),
            ],
            7,
        )
        .with(vec![whole("hidden_size", 4)]),
        case(
            "com.microsoft:QEmbedLayerNormalization",
            &[
                Given(WHOLE, &[1, 4]),
                Input::None,
                Whole(BYTE, &[9, 8]),
                Whole(BYTE, &[6, 8]),
                Input::None,
                Whole(BYTE, &[8]),
                Whole(BYTE, &[8]),
                Input::None,
                SCALE,
                SCALE,
                Input::None,
                SCALE,
                SCALE,
                ZERO,
                ZERO,
                Input::None,
                ZERO,
                ZERO,
            ],
            12,
        ),
    ]
}

fn packed(onnx: &Onnx, case: &Case<'_>, seed: u16) -> engine::Result<Compiled> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    std::fs::write(&path, model(case, seed).encode_to_vec()).unwrap();
    Ok(import(onnx, &path, Targets::Native)?.forms.remove(0))
}

#[test]
fn every_family_gives_up_its_weights_and_two_fine_tunes_share_what_is_left() {
    let onnx = onnx();
    let mut wrong = Vec::new();
    for case in floats().iter().chain(&quantised()).chain(&quantised_texts()) {
        let [one, other] = match [3, 8].map(|seed| packed(&onnx, case, seed)) {
            [Ok(one), Ok(other)] => [one, other],
            [one, other] => {
                wrong.push(format!("{}: {:?}", case.operator, one.err().or(other.err())));
                continue;
            }
        };
        let shared = case.lifted == 0 || one.program == other.program;
        if one.kind != ProgramKind::Lifted || one.weights.len() != case.lifted || !shared {
            let (kind, lifted, why) = (one.kind, one.weights.len(), one.why_whole);
            wrong.push(format!(
                "{}: {kind:?}, {lifted} of {} lifted, one program: {shared}, {why:?}",
                case.operator, case.lifted
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
