//! The readers of messages that clients send, one by one; see [`crate::untrusted`].

use std::time::Instant;

use prost::Message;
use proto::inference::ModelInferRequest;
use proto::tensorflow::TensorProto;

use super::{convert, tfs};
use crate::untrusted::Reader;

pub(crate) const READERS: [(&str, Reader); 2] = [("grpc-infer", infer), ("grpc-tensor", tensor)];

/// As small as the messages that are tried.
const LIMIT_BYTES: usize = 1 << 20;

fn infer(bytes: &[u8]) {
    let Ok(message) = ModelInferRequest::decode(bytes) else { return };
    let _ = convert::typed_bytes(&message);
    let call = convert::Call { memory: None, memory_bytes: 0, now: Instant::now(), deadline: None };
    if let Ok((request, _)) = convert::decode(message, call) {
        for (name, tensor) in &request.inputs {
            assert!(tensor.data().len() <= LIMIT_BYTES.max(bytes.len() * 8), "'{name}' has more than was sent");
        }
    }
}

fn tensor(bytes: &[u8]) {
    let Ok(message) = TensorProto::decode(bytes) else { return };
    if let Ok(tensor) = tfs::tensor::decode(message, LIMIT_BYTES) {
        assert!(tensor.data().len() <= LIMIT_BYTES.max(bytes.len()), "more than may be asked for");
        let _ = tfs::tensor::encode(&tensor);
    }
}
