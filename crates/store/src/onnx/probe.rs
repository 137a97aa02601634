//! The check during packing: the lifted program must answer as the plain graph does.

use bytes::Bytes;
use engine::{DataType, Result, Session, Signature, Tensor, TensorSpec, Weights};

/// Sizes tried for dimensions that vary (batch, then every other), until the plain graph accepts one. Some graphs
/// only take the sizes they were made for.
const SIZES: [(usize, usize); 9] =
    [(1, 8), (1, 64), (1, 16), (1, 32), (1, 128), (1, 224), (1, 256), (1, 320), (1, 640)];

/// Answers may differ by this much of the largest value in a tensor: the order of additions may change, nothing else.
const RELATIVE_TOLERANCE: f32 = 1e-4;

/// Compares the two sessions on made-up inputs, once plain and once with a batch of two where the batch varies.
///
/// # Errors
/// The reason, for a person, when they differ or cannot be compared.
pub(crate) fn same_answers(
    plain: &mut dyn Session,
    lifted: &mut dyn Session,
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
            return Err(format!("with its weights lifted its output '{}' differs", spec.name));
        }
    }
    Ok(())
}

fn close(want: &Tensor, got: &Tensor) -> bool {
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

fn made_up(signature: &Signature, batch: usize, size: usize) -> Result<Vec<Tensor>> {
    signature.inputs.iter().enumerate().map(|(index, spec)| made_up_tensor(spec, batch, size, index as u64)).collect()
}

/// Floats spread over 0..1; integers are 0 or 1, which is a valid token, type, mask or class everywhere.
fn made_up_tensor(spec: &TensorSpec, batch: usize, size: usize, seed: u64) -> Result<Tensor> {
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
    fn every_datatype_can_be_made_up() {
        for dtype in DataType::ALL {
            let spec = TensorSpec { name: "x".to_owned(), dtype, shape: vec![-1, 3, -1] };
            let tensor = made_up_tensor(&spec, 2, 5, 0).unwrap();
            assert_eq!(tensor.shape(), [2, 3, 5], "{dtype}");
        }
    }
}
