//! One program ready to run: names made once, values lent per call.

use std::ffi::CString;
use std::ptr;

use ort::AsPointer;
use ort::session::Session as OrtSession;
use ort::value::{Outlet, TensorElementType, ValueType};

use super::value::{Bound, Value, check};
use crate::map::torn;
use crate::{DataType, Error, Result, Session, Signature, Tensor, TensorSpec, Weights};

pub(super) struct OnnxSession {
    session: OrtSession,
    signature: Signature,
    /// Names of all graph inputs: the signature's first, then the weights'.
    input_names: Vec<CString>,
    output_names: Vec<CString>,
    weights: usize,
}

impl OnnxSession {
    pub(super) fn new(session: OrtSession, weights: usize) -> Result<Self> {
        let inputs = session.inputs().len().checked_sub(weights).ok_or_else(|| {
            Error::corrupt(format!(
                "the program has {} inputs, fewer than its {weights} weights",
                session.inputs().len()
            ))
        })?;
        let of = |side: Side, outlets: &[Outlet]| {
            outlets.iter().enumerate().map(|(index, outlet)| spec(&session, side, index, outlet)).collect::<Result<_>>()
        };
        let signature = Signature {
            inputs: of(Side::Input, &session.inputs()[..inputs])?,
            outputs: of(Side::Output, session.outputs())?,
        };
        let input_names = session.inputs().iter().map(name).collect::<Result<_>>()?;
        let output_names = session.outputs().iter().map(name).collect::<Result<_>>()?;
        Ok(Self { session, signature, input_names, output_names, weights })
    }
}

impl Session for OnnxSession {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn has(&self, inputs: usize, outputs: usize) -> bool {
        (self.signature.inputs.len(), self.signature.outputs.len()) == (inputs, outputs)
    }

    fn takes(&self, weights: &dyn Weights) -> Result<()> {
        let (bound, inputs) = (Bound::of(weights)?, self.signature.inputs.len());
        if bound.values.len() != self.weights {
            let (has, takes) = (bound.values.len(), self.weights);
            return Err(Error::corrupt(format!("the program takes {takes} weights, and there are {has}")));
        }
        for (at, (value, outlet)) in bound.values.iter().zip(&self.session.inputs()[inputs..]).enumerate() {
            let wanted = spec(&self.session, Side::Input, inputs + at, outlet)?;
            let (dtype, shape) = value.datatype_and_shape()?;
            let fits = |(is, wanted): (&usize, &i64)| usize::try_from(*wanted).map_or(true, |wanted| wanted == *is);
            let of_rank = wanted.any_rank || shape.len() == wanted.shape.len();
            if dtype != wanted.dtype || !of_rank || !shape.iter().zip(&wanted.shape).all(fits) {
                return Err(Error::corrupt(format!(
                    "weight {at} is {dtype} {shape:?}, and the program takes {} {:?} there",
                    wanted.dtype, wanted.shape
                )));
            }
        }
        Ok(())
    }

    #[expect(unsafe_code, reason = "Run is called through the C API")]
    fn run(&self, weights: &dyn Weights, inputs: &[Tensor], outputs: &[usize]) -> Result<Vec<Tensor>> {
        let bound = Bound::of(weights)?;
        if inputs.len() != self.signature.inputs.len() || bound.values.len() != self.weights {
            return Err(Error::internal(format!(
                "the program takes {} inputs and {} weights, but got {} and {}",
                self.signature.inputs.len(),
                self.weights,
                inputs.len(),
                bound.values.len()
            )));
        }
        let lent = inputs.iter().map(Value::lend).collect::<Result<Vec<_>>>()?;
        let values: Vec<_> = lent.iter().chain(&bound.values).map(Value::as_ptr).collect();
        let names: Vec<_> = self.input_names.iter().map(|name| name.as_ptr()).collect();
        let wanted = outputs
            .iter()
            .map(|&index| self.output_names.get(index).map(|name| name.as_ptr()))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| Error::internal("an output index is beyond the signature"))?;
        bound.check()?;
        let mut results = vec![ptr::null_mut(); wanted.len()];
        // SAFETY: the runtime lets several threads run one session at once on its CPU provider, which is the only one that
        // is ever given to a session; what changes in it is behind its own locks. Names and values live across the call and
        // their counts are those of the arrays; every result is null, so the runtime allocates it.
        let status = torn::reading(|| unsafe {
            (ort::api().Run)(
                self.session.ptr().cast_mut(),
                ptr::null(),
                names.as_ptr(),
                values.as_ptr(),
                values.len(),
                wanted.as_ptr(),
                wanted.len(),
                results.as_mut_ptr(),
            )
        });
        // Adopted before the status is looked at, so that nothing leaks when only some were made.
        let results: Vec<_> = results.into_iter().map(Value::adopt).collect();
        bound.check_read()?;
        check(status)?;
        results.into_iter().map(|value| value?.into_tensor()).collect()
    }
}

fn name(outlet: &Outlet) -> Result<CString> {
    CString::new(outlet.name()).map_err(|_| Error::unsupported("a tensor's name holds a NUL byte"))
}

/// Which of a session's lists an index counts in.
#[derive(Clone, Copy)]
enum Side {
    Input,
    Output,
}

fn spec(session: &OrtSession, side: Side, index: usize, outlet: &Outlet) -> Result<TensorSpec> {
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
        return Err(Error::unsupported(format!("'{}' is no tensor, and serving carries only tensors", outlet.name())));
    };
    let dtype = match ty {
        TensorElementType::Bool => DataType::Bool,
        TensorElementType::Uint8 => DataType::U8,
        TensorElementType::Uint16 => DataType::U16,
        TensorElementType::Uint32 => DataType::U32,
        TensorElementType::Uint64 => DataType::U64,
        TensorElementType::Int8 => DataType::I8,
        TensorElementType::Int16 => DataType::I16,
        TensorElementType::Int32 => DataType::I32,
        TensorElementType::Int64 => DataType::I64,
        TensorElementType::Float16 => DataType::F16,
        TensorElementType::Bfloat16 => DataType::Bf16,
        TensorElementType::Float32 => DataType::F32,
        TensorElementType::Float64 => DataType::F64,
        TensorElementType::String => DataType::Bytes,
        other => {
            return Err(Error::unsupported(format!(
                "'{}' has element type {other:?}, which no serving API carries",
                outlet.name()
            )));
        }
    };
    let any_rank = shape.is_empty() && !has_shape(session, side, index)?;
    let shape = if any_rank { vec![-1] } else { shape.to_vec() };
    Ok(TensorSpec { name: outlet.name().to_owned(), dtype, shape, any_rank })
}

/// Whether the graph gives a tensor a shape at all: the runtime reports no dimensions for a scalar and for a tensor
/// of unknown rank alike, and tells them apart only here.
#[expect(unsafe_code, reason = "type information is read through the C API")]
fn has_shape(session: &OrtSession, side: Side, index: usize) -> Result<bool> {
    let api = ort::api();
    let type_info = match side {
        Side::Input => api.SessionGetInputTypeInfo,
        Side::Output => api.SessionGetOutputTypeInfo,
    };
    let mut info = ptr::null_mut();
    let mut tensor = ptr::null();
    // SAFETY: the session is live and the index is one of its list's. The tensor's part belongs to the information,
    // which is released after its last use; the part is null for what is no tensor.
    unsafe {
        check(type_info(session.ptr(), index, &raw mut info))?;
        let cast = check((api.CastTypeInfoToTensorInfo)(info, &raw mut tensor));
        let has_shape = !tensor.is_null() && (api.TensorTypeAndShape_HasShape)(tensor);
        (api.ReleaseTypeInfo)(info);
        cast.map(|()| has_shape)
    }
}
