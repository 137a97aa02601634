//! Whether a model treats the items of a batch apart from each other: whether requests answer the same when they are put
//! together along the first dimension as when each runs alone. Nothing in an ONNX file says so; a graph that mixes its
//! items, or that refuses a batch, is run request by request.

use engine::{DataType, Session, Tensor, TensorSpec, Weights};
use half::{bf16, f16};

use super::import::BATCH_MAX;
use super::probe::{SIZES, close, seeded};

/// What the numbers of items that are alike are multiplied with.
const ALIKE: [f32; 3] = [1.0; 3];
/// The same of items as unlike as strangers' are. What looks at a whole batch, for its largest number or its range, then
/// answers one of them for another.
const UNLIKE: [f32; 7] = [1.0, 0.0, -1.0, 1000.0, 0.01, -100.0, 8.0];
/// Answers to unlike items may differ by this much of an item's largest value: sums of large numbers are rounded coarsely,
/// and what is mixed up differs by more.
const UNLIKE_TOLERANCE: f32 = 0.05;
/// As many unlike items are put together as ever are, if these bytes hold them: what they become on the way is many times
/// as large.
const TOGETHER_BYTES_MAX: usize = 4 << 20;

/// Whether `session` treats the items of a batch apart, as far as made-up ones tell.
pub(crate) fn items_are_apart(session: &dyn Session, weights: &dyn Weights) -> bool {
    let signature = session.signature();
    let batched = |specs: &[TensorSpec]| {
        !specs.is_empty() && specs.iter().all(|spec| !spec.any_rank && spec.shape.first() == Some(&-1))
    };
    if !batched(&signature.inputs) || !batched(&signature.outputs) {
        return false;
    }
    let ran = |size, scales: &[f32]| {
        let item = |(seed, &scale): (usize, &f32)| Item::run(session, weights, (size, seed), scale);
        scales.iter().enumerate().map(item).collect::<Option<Vec<_>>>()
    };
    let Some((size, alike)) = SIZES.iter().find_map(|&(_, size)| Some((size, ran(size, &ALIKE)?))) else {
        return false;
    };
    let same = |items: &[&Item], same: &dyn Fn(&Tensor, &Tensor) -> bool| {
        let inputs = side_by_side(items, |item| &item.inputs);
        let all: Vec<usize> = (0..signature.outputs.len()).collect();
        let together = inputs.and_then(|inputs| session.run(weights, &inputs, &all).ok());
        together.is_some_and(|got| {
            let want = side_by_side(items, |item| &item.outputs);
            want.is_some_and(|want| want.iter().zip(&got).all(|(want, got)| same(want, got)))
        })
    };
    if !same(&alike.iter().collect::<Vec<_>>(), &close) {
        return false;
    }
    // What takes no such numbers is never asked with them.
    let Some(unlike) = ran(size, &UNLIKE) else { return true };
    let bytes: usize = unlike[0].inputs.iter().map(|input| input.data().len()).sum();
    let count = (TOGETHER_BYTES_MAX / bytes.max(1)).clamp(ALIKE.len(), BATCH_MAX as usize);
    let many: Vec<&Item> = unlike.iter().cycle().take(count).collect();
    same(&many, &|want, got| alike_by_item(want, got, count))
}

/// One item, and its answer when it runs alone.
struct Item {
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

impl Item {
    fn run(session: &dyn Session, weights: &dyn Weights, (size, seed): (usize, usize), scale: f32) -> Option<Self> {
        const SEED: u64 = 11;
        let signature = session.signature();
        let inputs = seeded(signature, 1, size, SEED + 12 * seed as u64).ok()?;
        let inputs: Vec<Tensor> = inputs.iter().map(|input| scaled(input, scale)).collect::<Option<_>>()?;
        let all: Vec<usize> = (0..signature.outputs.len()).collect();
        let outputs = session.run(weights, &inputs, &all).ok()?;
        Some(Self { inputs, outputs })
    }
}

/// `tensor` with its numbers multiplied, if they have a point.
fn scaled(tensor: &Tensor, scale: f32) -> Option<Tensor> {
    if scale.to_bits() == 1.0f32.to_bits() {
        return Some(tensor.clone());
    }
    let data = tensor.data();
    let scaled: Vec<u8> = match tensor.dtype() {
        DataType::F32 => tensor.as_f32()?.iter().flat_map(|value| (value * scale).to_le_bytes()).collect(),
        DataType::F64 => {
            let values = data.chunks_exact(8).filter_map(|bytes| Some(f64::from_le_bytes(bytes.try_into().ok()?)));
            values.flat_map(|value| (value * f64::from(scale)).to_le_bytes()).collect()
        }
        DataType::F16 => {
            halves(data).flat_map(|bits| f16::from_f32(f16::from_bits(bits).to_f32() * scale).to_le_bytes()).collect()
        }
        DataType::Bf16 => {
            halves(data).flat_map(|bits| bf16::from_f32(bf16::from_bits(bits).to_f32() * scale).to_le_bytes()).collect()
        }
        _ => return Some(tensor.clone()),
    };
    Tensor::new(tensor.dtype(), tensor.shape().to_vec(), scaled.into()).ok()
}

fn halves(data: &[u8]) -> impl Iterator<Item = u16> {
    data.chunks_exact(2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
}

/// The tensors of all `items` in one batch each; `None` when they do not fit together.
fn side_by_side(items: &[&Item], of: impl Fn(&Item) -> &[Tensor]) -> Option<Vec<Tensor>> {
    let join = |index: usize| {
        let tensors: Vec<&Tensor> = items.iter().filter_map(|item| of(item).get(index)).collect();
        let first = tensors.first()?;
        let fits = |tensor: &&Tensor| tensor.shape() == first.shape() && tensor.shape().first() == Some(&1);
        if !tensors.iter().all(fits) {
            return None;
        }
        let mut shape = first.shape().to_vec();
        shape[0] = tensors.len();
        let data: Vec<&[u8]> = tensors.iter().map(|tensor| &tensor.data()[..]).collect();
        Tensor::new(first.dtype(), shape, data.concat().into()).ok()
    };
    (0..of(items.first()?).len()).map(join).collect()
}

/// Whether each of `count` items is what was wanted, or near it as numbers with a point are.
fn alike_by_item(want: &Tensor, got: &Tensor, count: usize) -> bool {
    if (want.dtype(), want.shape()) != (got.dtype(), got.shape()) {
        return false;
    }
    let (Some(wanted), Some(gotten)) = (numbers(want), numbers(got)) else { return want.data() == got.data() };
    let each = (wanted.len() / count).max(1);
    wanted.chunks(each).zip(gotten.chunks(each)).all(|(want, got)| {
        let largest = want.iter().filter(|value| value.is_finite()).fold(0.0f32, |most, value| most.max(value.abs()));
        let tolerance = largest * UNLIKE_TOLERANCE + f32::MIN_POSITIVE;
        want.iter().zip(got).all(|(want, got)| {
            want.to_bits() == got.to_bits() || want.is_nan() && got.is_nan() || (want - got).abs() <= tolerance
        })
    })
}

/// The numbers of `tensor`, if they have a point.
fn numbers(tensor: &Tensor) -> Option<Vec<f32>> {
    let data = tensor.data();
    match tensor.dtype() {
        DataType::F32 => tensor.as_f32().map(<[f32]>::to_vec),
        DataType::F16 => Some(halves(data).map(|bits| f16::from_bits(bits).to_f32()).collect()),
        DataType::Bf16 => Some(halves(data).map(|bits| bf16::from_bits(bits).to_f32()).collect()),
        DataType::F64 => {
            let values = data.chunks_exact(8).filter_map(|bytes| Some(f64::from_le_bytes(bytes.try_into().ok()?)));
            Some(values.map(|value| value as f32).collect())
        }
        _ => None,
    }
}
