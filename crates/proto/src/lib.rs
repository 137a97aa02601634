//! Wire messages of the serving protocols: generated from `proto/*.proto` by `cargo run -p xtask -- codegen`,
//! committed, and never edited by hand. A leaf: it knows none of our types, and only an edge converts from it.

/// The Open Inference Protocol, package `inference`: messages, the server's trait and a client without a transport.
///
/// Every `bytes` field is [`prost::bytes::Bytes`], so that a tensor is a slice of the message it came in.
// What a generator writes answers to the generator; these are the rules that it breaks.
#[allow(missing_docs, unused_qualifications, clippy::struct_excessive_bools, clippy::too_many_lines)]
pub mod inference {
    include!("generated/inference.rs");
}

/// What TensorFlow Serving's messages take from TensorFlow: tensors, examples and signatures, package `tensorflow`.
#[allow(missing_docs, unused_qualifications, clippy::too_many_lines)]
pub mod tensorflow {
    include!("generated/tensorflow.rs");

    /// TensorFlow's error codes, package `tensorflow.error`.
    pub mod error {
        include!("generated/tensorflow.error.rs");
    }

    /// TensorFlow Serving's two services, package `tensorflow.serving`.
    pub mod serving {
        include!("generated/tensorflow.serving.rs");
    }
}

/// The encoded `FileDescriptorSet` of every `.proto` file here, for gRPC server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/descriptors.bin");
