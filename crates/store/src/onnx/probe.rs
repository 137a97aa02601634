//! The check during packing: the lifted program must answer as the plain graph does.

use bytes::Bytes;
use engine::{DataType, Result, Session, Signature, Tensor, TensorSpec, Weights};

/// Sizes tried for dimensions that vary (batch, then every other), until the plain graph accepts one. Some graphs
/// only take the sizes they were made for.
pub(crate) const SIZES: [(usize, usize); 9] =
    [(1, 8), (1, 64), (1, 16), (1, 32), (1, 128), (1, 224), (1, 256), (1, 320), (1, 640)];

/// Answers may differ by this much of the largest value in a tensor: the order of additions may change, nothing else.
const RELATIVE_TOLERANCE: f32 = 1e-4;

/// Compares the two sessions on made-up inputs, once plain and once with a batch of two where the batch varies.
///
/// # Errors
/// The reason, for a person, when they differ or cannot be compared.
pub(crate) fn same_answers(
    plain: &dyn Session,
    lifted: &dyn Session,
    weights: &dyn Weights,
    no_weights: &dyn Weights,
) -> std::result::Result<(), String> {
    let signature = plain.signature().clone();
    let all: Vec<usize> = (0..signature.outputs.len()).collect();
    let mut last_refusal = String::new();
    for (batch, size) in SIZES {
        let inputs = made_up(&signature, batch, size).map_err(|error| error.message)?;
        let want = match plain.run(no_weights, &inputs, &all) {
            Ok(want) => want,
            Err(refusal) => {
                last_refusal = refusal.message;
                continue;
            }
        };
        compare(&want, lifted.run(weights, &inputs, &all), &signature)?;
        if signature.inputs.iter().any(|input| input.shape.first() == Some(&-1)) {
            let pair = made_up(&signature, 2, size).map_err(|error| error.message)?;
            if let Ok(want) = plain.run(no_weights, &pair, &all) {
                compare(&want, lifted.run(weights, &pair, &all), &signature)?;
            }
        }
        return Ok(());
    }
    Err(format!("no made-up input was accepted, so it could not be checked ({last_refusal})"))
}

fn compare(want: &[Tensor], got: Result<Vec<Tensor>>, signature: &Signature) -> std::result::Result<(), String> {
    let got =
        got.map_err(|refusal| format!("with its weights lifted the runtime refuses to run it: {}", refusal.message))?;
    for ((want, got), spec) in want.iter().zip(&got).zip(&signature.outputs) {
        if !close(want, got) {
            return Err(format!("with its weights lifted its output '{}' differs{}", spec.name, how_far(want, got)));
        }
    }
    Ok(())
}

/// By how much, for a person; nothing when that is no number.
fn how_far(want: &Tensor, got: &Tensor) -> String {
    if want.shape() != got.shape() {
        return format!(": it has shape {:?} instead of {:?}", got.shape(), want.shape());
    }
    let (Some(want), Some(got)) = (want.as_f32(), got.as_f32()) else { return String::new() };
    let largest = want.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let off = want.iter().zip(got).map(|(want, got)| (want - got).abs()).fold(0.0f32, f32::max);
    format!(" by {off:.2e}, where its largest value is {largest:.2e}")
}

/// Whether two answers are one but for the order of additions.
pub(crate) fn close(want: &Tensor, got: &Tensor) -> bool {
    if want.dtype() != got.dtype() || want.shape() != got.shape() {
        return false;
    }
    if want.data() == got.data() {
        return true;
    }
    let (Some(want), Some(got)) = (want.as_f32(), got.as_f32()) else { return false };
    let largest = want.iter().filter(|value| value.is_finite()).fold(0.0f32, |largest, value| largest.max(value.abs()));
    let tolerance = largest * RELATIVE_TOLERANCE + f32::MIN_POSITIVE;
    want.iter().zip(got).all(|(want, got)| want.to_bits() == got.to_bits() || (want - got).abs() <= tolerance)
}

/// Runs `session` once on made-up inputs of one item.
///
/// # Errors
/// The runtime's refusal, when it takes none of the sizes tried.
pub(crate) fn runs(session: &dyn Session, weights: &dyn Weights) -> Result<()> {
    let signature = session.signature().clone();
    let all: Vec<usize> = (0..signature.outputs.len()).collect();
    let mut refusal = None;
    for (batch, size) in [(1, 1)].into_iter().chain(SIZES) {
        match session.run(weights, &made_up(&signature, batch, size)?, &all) {
            Ok(_) => return Ok(()),
            Err(error) => refusal = Some(error),
        }
    }
    refusal.map_or(Ok(()), |error| Err(error.context("the program does not run")))
}

fn made_up(signature: &Signature, batch: usize, size: usize) -> Result<Vec<Tensor>> {
    seeded(signature, batch, size, 0)
}

/// As many tensors as `signature` has inputs, of what [`made_up_tensor`] makes; others for another seed.
pub(super) fn seeded(signature: &Signature, batch: usize, size: usize, seed: u64) -> Result<Vec<Tensor>> {
    let tensor = |(index, spec): (usize, &TensorSpec)| made_up_tensor(spec, batch, size, seed + index as u64);
    signature.inputs.iter().enumerate().map(tensor).collect()
}

/// Floats spread over 0..1; integers are 0 or 1, which is a valid token, type, mask or class everywhere.
pub(crate) fn made_up_tensor(spec: &TensorSpec, batch: usize, size: usize, seed: u64) -> Result<Tensor> {
    let shape: Vec<usize> = spec
        .shape
        .iter()
        .enumerate()
        .map(|(axis, &dim)| usize::try_from(dim).unwrap_or(if axis == 0 { batch } else { size }))
        .collect();
    let count = engine::element_count(&shape)?;
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        // Xorshift (Marsaglia, 2003): any spread of values will do, as long as it is the same every time.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 40
    };
    let mut bytes = Vec::new();
    for _ in 0..count {
        let bits = next();
        let unit = bits as f32 / (1u32 << 24) as f32;
        let bit = bits & 1;
        match spec.dtype {
            DataType::F32 => bytes.extend(unit.to_le_bytes()),
            DataType::F64 => bytes.extend(f64::from(unit).to_le_bytes()),
            // 0x3c00 and 0x3f80 are 1.0 in half precision and in bfloat16.
            DataType::F16 => bytes.extend((if bit == 1 { 0x3c00u16 } else { 0 }).to_le_bytes()),
            DataType::Bf16 => bytes.extend((if bit == 1 { 0x3f80u16 } else { 0 }).to_le_bytes()),
            DataType::U8 => bytes.push(bits as u8),
            DataType::Bool | DataType::I8 => bytes.push(bit as u8),
            DataType::U16 | DataType::I16 => bytes.extend((bit as u16).to_le_bytes()),
            DataType::U32 | DataType::I32 => bytes.extend((bit as u32).to_le_bytes()),
            DataType::U64 | DataType::I64 => bytes.extend(bit.to_le_bytes()),
            DataType::Bytes => bytes.extend(engine::strings_to_wire([&b"a"[..]])),
        }
    }
    Tensor::new(spec.dtype, shape, Bytes::from(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closeness_is_relative_and_not_a_number_equals_itself() {
        let of = |values: &[f32]| Tensor::from_f32(vec![values.len()], values.to_vec()).unwrap();
        for (want, got, same) in [
            (&[1.0, 1000.0][..], &[1.0, 1000.05][..], true),
            (&[1.0, 1000.0], &[1.0, 1001.0], false),
            (&[f32::NAN], &[f32::NAN], true),
            (&[f32::NAN], &[0.0], false),
            (&[f32::INFINITY], &[f32::INFINITY], true),
            (&[0.0, 0.0], &[0.0, 1e-3], false),
            (&[1.0], &[1.0, 1.0], false),
        ] {
            assert_eq!(close(&of(want), &of(got)), same, "{want:?} {got:?}");
        }
    }

    #[test]
    fn a_difference_is_told_in_numbers() {
        let of = |shape: &[usize], values: &[f32]| Tensor::from_f32(shape.to_vec(), values.to_vec()).unwrap();
        let want = of(&[2], &[1.0, -4.0]);
        assert_eq!(how_far(&want, &of(&[2], &[1.5, -4.0])), " by 5.00e-1, where its largest value is 4.00e0");
        assert_eq!(how_far(&want, &of(&[1, 2], &[1.0, -4.0])), ": it has shape [1, 2] instead of [2]");
    }

    #[test]
    fn every_datatype_can_be_made_up() {
        for dtype in DataType::ALL {
            let spec = TensorSpec { name: "x".to_owned(), dtype, shape: vec![-1, 3, -1], any_rank: false };
            let tensor = made_up_tensor(&spec, 2, 5, 0).unwrap();
            assert_eq!(tensor.shape(), [2, 3, 5], "{dtype}");
        }
    }
}
