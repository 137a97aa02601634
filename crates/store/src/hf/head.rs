//! What each head makes of the encoder's vectors.

use super::config::{Activation, Family, Head};
use super::encoder::Encoder;
use super::graph::{Setting, Value};
use super::sentence::{Pooling, Sentence};

/// The outputs in the order of the signature, from `tokens` `[batch * sequence, width]`.
pub(super) fn outputs(encoder: &mut Encoder<'_>, tokens: &str) -> Vec<Value> {
    let (width, classes) = (encoder.config.width, encoder.config.classes);
    match encoder.config.head {
        Head::Base => vec![by_item(encoder, tokens, width)],
        Head::QuestionAnswering => {
            let logits = encoder.product(tokens, "qa_outputs", width, 2, true);
            let shape = encoder.batch_and_sequence();
            encoder.graph.halves(&logits).map(|half| encoder.graph.op("Reshape", [&half, &shape], &[])).into()
        }
        Head::TokenClassification => {
            let logits = encoder.linear(tokens, "classifier", width, classes);
            vec![by_item(encoder, &logits, classes)]
        }
        Head::SequenceClassification => vec![sequence_classification(encoder, tokens)],
        Head::MaskedLm => {
            let logits = masked_lm(encoder, tokens);
            vec![by_item(encoder, &logits, encoder.config.vocabulary)]
        }
        Head::Discriminator => {
            let hidden = encoder.product(tokens, "discriminator_predictions.dense", width, width, true);
            let hidden = encoder.activated(&hidden, encoder.config.activation);
            let logits = encoder.product(&hidden, "discriminator_predictions.dense_prediction", width, 1, false);
            let shape = encoder.batch_and_sequence();
            vec![encoder.graph.op("Reshape", [&logits, &shape], &[])]
        }
        Head::Sentence(sentence) => vec![sentence_embedding(encoder, tokens, sentence)],
    }
}

/// Rows given back to their items: `[batch, sequence, width]`.
fn by_item(encoder: &mut Encoder<'_>, rows: &str, width: usize) -> Value {
    let shape = encoder.batched(width);
    encoder.graph.op("Reshape", [rows, &shape], &[])
}

/// Each item's first token: `[batch, width]`.
fn first_tokens(encoder: &mut Encoder<'_>, tokens: &str) -> Value {
    let items = by_item(encoder, tokens, encoder.config.width);
    let zero = encoder.graph.int(0);
    encoder.graph.op("Gather", [&items, &zero], &[("axis", Setting::Int(1))])
}

fn sequence_classification(encoder: &mut Encoder<'_>, tokens: &str) -> Value {
    let (width, classes) = (encoder.config.width, encoder.config.classes);
    let (dense, activation, out) = match encoder.config.family {
        Family::Bert => ("pooler.dense", Activation::Tanh, "classifier"),
        Family::DistilBert => ("pre_classifier", Activation::Relu, "classifier"),
        Family::Roberta | Family::Mpnet => ("classifier.dense", Activation::Tanh, "classifier.out_proj"),
        Family::Electra => ("classifier.dense", Activation::Gelu, "classifier.out_proj"),
    };
    let first = first_tokens(encoder, tokens);
    let hidden = item_linear(encoder, &first, dense, width, width);
    let hidden = encoder.activated(&hidden, activation);
    item_linear(encoder, &hidden, out, width, classes)
}

/// A linear layer of one row an item: rows are few, and a single one on the left is a product with a vector, which the
/// runtime does without repacking anything.
fn item_linear(encoder: &mut Encoder<'_>, rows: &str, name: &str, from: usize, to: usize) -> Value {
    let weight = encoder.graph.weight(&[&format!("{name}.weight")], &[to, from]);
    let bias = encoder.graph.weight(&[&format!("{name}.bias")], &[to]);
    encoder.graph.op("Gemm", [rows, &weight, &bias], &[("transB", Setting::Int(1))])
}

/// Scores over the vocabulary, `[batch * sequence, vocabulary]`. The last matrix is the table of words where the
/// checkpoint does not hold one of its own.
fn masked_lm(encoder: &mut Encoder<'_>, tokens: &str) -> Value {
    let config = encoder.config;
    let width = config.embedding_width;
    let (dense, activation, norm, decoder, biases): (_, _, _, _, &[&str]) = match config.family {
        Family::Bert => (
            "cls.predictions.transform.dense",
            config.activation,
            "cls.predictions.transform.LayerNorm",
            "cls.predictions.decoder.weight",
            &["cls.predictions.bias", "cls.predictions.decoder.bias"],
        ),
        Family::Roberta | Family::Mpnet => (
            "lm_head.dense",
            Activation::Gelu,
            "lm_head.layer_norm",
            "lm_head.decoder.weight",
            &["lm_head.bias", "lm_head.decoder.bias"],
        ),
        Family::DistilBert => (
            "vocab_transform",
            config.activation,
            "vocab_layer_norm",
            "vocab_projector.weight",
            &["vocab_projector.bias"],
        ),
        Family::Electra => (
            "generator_predictions.dense",
            Activation::Gelu,
            "generator_predictions.LayerNorm",
            "generator_lm_head.weight",
            &["generator_lm_head.bias"],
        ),
    };
    let hidden = encoder.linear(tokens, dense, config.width, width);
    let hidden = encoder.activated(&hidden, activation);
    let hidden = encoder.norm(&hidden, norm, width);
    let tied = "embeddings.word_embeddings.weight";
    encoder.linear_by(&hidden, &[decoder, tied], biases, width, config.vocabulary)
}

/// `[batch, width]`, as sentence-transformers' pooling and normalising modules compute it.
fn sentence_embedding(encoder: &mut Encoder<'_>, tokens: &str, sentence: Sentence) -> Value {
    let embedding = match sentence.pooling {
        Pooling::First => first_tokens(encoder, tokens),
        Pooling::Mean => mean(encoder, tokens),
        Pooling::Max => largest(encoder, tokens),
    };
    if !sentence.normalise {
        return embedding;
    }
    let graph = &mut encoder.graph;
    let length = graph.op("ReduceL2", [&embedding], &[("axes", Setting::Ints(&[1])), ("keepdims", Setting::Int(1))]);
    // The reference's least length, so that a vector of zeros stays one.
    let least = graph.float(1e-12);
    let length = graph.op("Max", [&length, &least], &[]);
    graph.op("Div", [&embedding, &length], &[])
}

fn mean(encoder: &mut Encoder<'_>, tokens: &str) -> Value {
    const FLOAT: i64 = 1;
    let items = by_item(encoder, tokens, encoder.config.width);
    let graph = &mut encoder.graph;
    let mask = graph.op("Cast", ["attention_mask"], &[("to", Setting::Int(FLOAT))]);
    // A product with the mask as a row sums the tokens that it keeps: [batch, 1, sequence] x [batch, sequence, width].
    let axis = graph.ints(&[1]);
    let row = graph.op("Unsqueeze", [&mask, &axis], &[]);
    let sum = graph.op("MatMul", [&row, &items], &[]);
    let sum = graph.op("Squeeze", [&sum, &axis], &[]);
    let count = graph.op("ReduceSum", [&mask, &axis], &[("keepdims", Setting::Int(1))]);
    let least = graph.float(1e-9);
    let count = graph.op("Max", [&count, &least], &[]);
    graph.op("Div", [&sum, &count], &[])
}

fn largest(encoder: &mut Encoder<'_>, tokens: &str) -> Value {
    let items = by_item(encoder, tokens, encoder.config.width);
    let graph = &mut encoder.graph;
    let zero = graph.int(0);
    let left_out = graph.op("Equal", ["attention_mask", &zero], &[]);
    let axis = graph.ints(&[2]);
    let left_out = graph.op("Unsqueeze", [&left_out, &axis], &[]);
    // The reference's own stand-in for what never is the largest.
    let low = graph.float(-1e9);
    let items = graph.op("Where", [&left_out, &low, &items], &[]);
    graph.op("ReduceMax", [&items], &[("axes", Setting::Ints(&[1])), ("keepdims", Setting::Int(0))])
}
