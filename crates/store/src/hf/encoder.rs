//! The encoder that all heads share: embeddings and layers, as one graph.
//!
//! Tokens of all items are rows of one matrix `[batch * sequence, width]` between layers. A linear layer multiplies with
//! its weights on the *left*, `W [out, in] x tokens^T`: the runtime repacks the right operand of a product at each call,
//! and that way it repacks a few tokens instead of the whole weights. Measured in docs/huggingface.md.

use engine::DataType;

use super::config::{Activation, Config, Family};
use super::graph::{Graph, Setting, Value, signed};

/// The distance from which all positions share a bucket, and the buckets of one direction (MPNet's own constants).
const DISTANCE_MAX: i64 = 128;
const BUCKETS_ONE_WAY: i64 = 16;

/// The tables that a token's vector is looked up in: by word, by position, by which of two texts it is of.
const TABLES: [&str; 3] = [
    "embeddings.word_embeddings.weight",
    "embeddings.position_embeddings.weight",
    "embeddings.token_type_embeddings.weight",
];

/// How linear layers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Products {
    /// With the weights on the left, which is quickest for floats that come at run time.
    Turned,
    /// As everybody writes them, to be rewritten by who takes the graph.
    Plain,
}

/// A graph with what its nodes have in common.
pub(super) struct Encoder<'a> {
    pub(super) graph: Graph,
    pub(super) config: &'a Config,
    products: Products,
    /// What numbers the checkpoint has under a tensor's name.
    precision: &'a dyn Fn(&str) -> DataType,
    /// `[2]`: batch and sequence.
    shape: Value,
}

/// The tensors' names within an encoder layer, which each family spells its own way.
struct LayerNames {
    layers: &'static str,
    query: &'static str,
    key: &'static str,
    value: &'static str,
    attended: &'static str,
    attended_norm: &'static str,
    up: &'static str,
    down: &'static str,
    norm: &'static str,
}

const BERT: LayerNames = LayerNames {
    layers: "encoder.layer",
    query: "attention.self.query",
    key: "attention.self.key",
    value: "attention.self.value",
    attended: "attention.output.dense",
    attended_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    norm: "output.LayerNorm",
};

const MPNET: LayerNames = LayerNames {
    query: "attention.attn.q",
    key: "attention.attn.k",
    value: "attention.attn.v",
    attended: "attention.attn.o",
    attended_norm: "attention.LayerNorm",
    ..BERT
};

const DISTILBERT: LayerNames = LayerNames {
    layers: "transformer.layer",
    query: "attention.q_lin",
    key: "attention.k_lin",
    value: "attention.v_lin",
    attended: "attention.out_lin",
    attended_norm: "sa_layer_norm",
    up: "ffn.lin1",
    down: "ffn.lin2",
    norm: "output_layer_norm",
};

impl<'a> Encoder<'a> {
    /// Over `graph`, which has the signature's inputs.
    pub(super) fn new(
        mut graph: Graph,
        config: &'a Config,
        products: Products,
        precision: &'a dyn Fn(&str) -> DataType,
    ) -> Self {
        let shape = graph.op("Shape", ["input_ids"], &[]);
        Self { graph, config, products, precision, shape }
    }

    /// The last layer's vectors, `[batch * sequence, width]`.
    pub(super) fn tokens(&mut self) -> Value {
        let config = self.config;
        let mut tokens = self.embeddings();
        // The operator takes a 32-bit mask.
        const INT32: i64 = 6;
        let mask = self.graph.op("Cast", ["attention_mask"], &[("to", Setting::Int(INT32))]);
        let bias = if config.family == Family::Mpnet { self.position_bias() } else { Value::new() };
        let by_item = self.batched(config.width);
        let names = match config.family {
            Family::Bert | Family::Roberta | Family::Electra => &BERT,
            Family::Mpnet => &MPNET,
            Family::DistilBert => &DISTILBERT,
        };
        for index in 0..config.layers {
            tokens = self.layer(names, index, &tokens, &Attention { mask: &mask, bias: &bias, by_item: &by_item });
        }
        tokens
    }

    fn embeddings(&mut self) -> Value {
        let config = self.config;
        let width = config.embedding_width;
        let [words_name, positions_name, types_name] = TABLES;
        let words = self.table(words_name, config.vocabulary);
        let positions = self.table(positions_name, config.positions);
        let words = self.graph.op("Gather", [&words, "input_ids"], &[]);
        let words = self.widened(words_name, words);
        let positions = match config.family {
            Family::Roberta | Family::Mpnet => {
                let positions_of = self.positions_past_padding();
                self.graph.op("Gather", [&positions, &positions_of], &[])
            }
            Family::Bert | Family::DistilBert | Family::Electra => {
                let (zero, one, two) = (self.graph.ints(&[0]), self.graph.ints(&[1]), self.graph.ints(&[2]));
                let length = self.graph.op("Slice", [&self.shape.clone(), &one, &two], &[]);
                self.graph.op("Slice", [&positions, &zero, &length], &[])
            }
        };
        let positions = self.widened(positions_name, positions);
        let mut sum = self.graph.op("Add", [&words, &positions], &[]);
        if matches!(config.family, Family::Bert | Family::Electra | Family::Roberta) {
            let types = self.table(types_name, config.token_types);
            let types = if config.family.takes_token_types() {
                self.graph.op("Gather", [&types, "token_type_ids"], &[])
            } else {
                // There is one text, whose tokens are all of the first type.
                let zero = self.graph.int(0);
                self.graph.op("Gather", [&types, &zero], &[])
            };
            let types = self.widened(types_name, types);
            sum = self.graph.op("Add", [&sum, &types], &[]);
        }
        let flat = self.graph.ints(&[-1, signed(width)]);
        let flat = self.graph.op("Reshape", [&sum, &flat], &[]);
        let tokens = self.norm(&flat, "embeddings.LayerNorm", width);
        if width == config.width { tokens } else { self.linear(&tokens, "embeddings_project", width, config.width) }
    }

    /// The table called `name`, its numbers as the checkpoint has them: a table in half precision is mapped where it lies,
    /// and only the rows that a request reads are widened.
    fn table(&mut self, name: &str, rows: usize) -> Value {
        self.graph.table(name, &[rows, self.config.embedding_width], (self.precision)(name))
    }

    /// `rows` of the table called `name` in single precision.
    fn widened(&mut self, name: &str, rows: Value) -> Value {
        const FLOAT: i64 = 1;
        if (self.precision)(name) == DataType::F32 {
            return rows;
        }
        self.graph.op("Cast", [&rows], &[("to", Setting::Int(FLOAT))])
    }

    /// Positions counted over tokens that are no padding, from the padding's id on; padding stays at its id.
    fn positions_past_padding(&mut self) -> Value {
        const INT64: i64 = 7;
        let (pad, one) = (self.graph.int(self.config.pad), self.graph.int(1));
        let is_pad = self.graph.op("Equal", ["input_ids", &pad], &[]);
        let is_token = self.graph.op("Not", [&is_pad], &[]);
        let is_token = self.graph.op("Cast", [&is_token], &[("to", Setting::Int(INT64))]);
        let count = self.graph.op("CumSum", [&is_token, &one], &[]);
        let count = self.graph.op("Mul", [&count, &is_token], &[]);
        self.graph.op("Add", [&count, &pad], &[])
    }

    /// MPNet's learnt bias by distance, `[1, heads, sequence, sequence]`.
    fn position_bias(&mut self) -> Value {
        let heads = self.config.heads;
        let buckets: Vec<i64> = (-DISTANCE_MAX..=DISTANCE_MAX).map(bucket).collect();
        let buckets = self.graph.ints(&buckets);
        let (zero, one) = (self.graph.int(0), self.graph.int(1));
        let length = self.graph.op("Gather", [&self.shape.clone(), &one], &[]);
        let places = self.graph.op("Range", [&zero, &length, &one], &[]);
        let axis = self.graph.ints(&[1]);
        let column = self.graph.op("Unsqueeze", [&places, &axis], &[]);
        let distance = self.graph.op("Sub", [&places, &column], &[]);
        let (low, high) = (self.graph.int(-DISTANCE_MAX), self.graph.int(DISTANCE_MAX));
        let distance = self.graph.op("Clip", [&distance, &low, &high], &[]);
        let index = self.graph.op("Add", [&distance, &high], &[]);
        let bucket = self.graph.op("Gather", [&buckets, &index], &[]);
        let table =
            self.graph.weight(&["encoder.relative_attention_bias.weight"], &[2 * BUCKETS_ONE_WAY as usize, heads]);
        let bias = self.graph.op("Gather", [&table, &bucket], &[]);
        let bias = self.graph.op("Transpose", [&bias], &[("perm", Setting::Ints(&[2, 0, 1]))]);
        let axis = self.graph.ints(&[0]);
        self.graph.op("Unsqueeze", [&bias, &axis], &[])
    }

    fn layer(&mut self, names: &LayerNames, index: usize, tokens: &str, attention: &Attention<'_>) -> Value {
        let config = self.config;
        let (width, inner) = (config.width, config.inner);
        let of = |name: &str| format!("{}.{index}.{name}", names.layers);
        let [query, key, value] = [names.query, names.key, names.value].map(|name| {
            let rows = self.linear(tokens, &of(name), width, width);
            self.graph.op("Reshape", [&rows, attention.by_item], &[])
        });
        let settings = [
            ("num_heads", Setting::Int(signed(config.heads))),
            // What the reference adds to the score of a token that the mask leaves out.
            ("mask_filter_value", Setting::Float(f32::MIN)),
        ];
        let inputs = [&query, &key, &value, "", attention.mask, attention.bias];
        let attended = self.graph.op("MultiHeadAttention", inputs, &settings);
        let rows = self.graph.ints(&[-1, signed(width)]);
        let attended = self.graph.op("Reshape", [&attended, &rows], &[]);
        let attended = self.linear(&attended, &of(names.attended), width, width);
        let sum = self.graph.op("Add", [&attended, tokens], &[]);
        let tokens = self.norm(&sum, &of(names.attended_norm), width);

        let down = match self.products {
            Products::Turned => {
                let up = self.product(&tokens, &of(names.up), width, inner, true);
                let up = self.activated(&up, config.activation);
                let down = self.product(&up, &of(names.down), inner, width, false);
                self.graph.op("Transpose", [&down], &[("perm", Setting::Ints(&[1, 0]))])
            }
            Products::Plain => {
                let up = self.linear(&tokens, &of(names.up), width, inner);
                let up = self.activated(&up, config.activation);
                self.linear(&up, &of(names.down), inner, width)
            }
        };
        let sum = self.graph.op("Add", [&down, &tokens], &[]);
        self.norm(&sum, &of(names.norm), width)
    }

    /// The linear layer `name` of rows `[tokens, from]`: `[tokens, to]`.
    pub(super) fn linear(&mut self, rows: &str, name: &str, from: usize, to: usize) -> Value {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        self.linear_by(rows, &[&weight], &[&bias], from, to)
    }

    /// As [`linear`](Self::linear), by tensors that go by one of several names.
    pub(super) fn linear_by(&mut self, rows: &str, weight: &[&str], bias: &[&str], from: usize, to: usize) -> Value {
        let weight = self.graph.weight(weight, &[to, from]);
        let settings = [("transB", Setting::Int(1))];
        match self.products {
            Products::Plain => {
                let bias = self.graph.weight(bias, &[to]);
                self.graph.op("Gemm", [rows, &weight, &bias], &settings)
            }
            Products::Turned => {
                let bias = self.graph.weight_as(bias, &[to], &[to, 1]);
                let columns = self.graph.op("Gemm", [&weight, rows, &bias], &settings);
                self.graph.op("Transpose", [&columns], &[("perm", Setting::Ints(&[1, 0]))])
            }
        }
    }

    /// The linear layer `name` as columns `[to, tokens]`, of rows `[tokens, from]` or of columns `[from, tokens]`.
    pub(super) fn product(&mut self, tokens: &str, name: &str, from: usize, to: usize, rows: bool) -> Value {
        let weight = self.graph.weight(&[&format!("{name}.weight")], &[to, from]);
        let bias = self.graph.weight_as(&[&format!("{name}.bias")], &[to], &[to, 1]);
        self.graph.op("Gemm", [&weight, tokens, &bias], &[("transB", Setting::Int(rows.into()))])
    }

    pub(super) fn norm(&mut self, rows: &str, name: &str, width: usize) -> Value {
        let scale = self.graph.weight(&[&format!("{name}.weight")], &[width]);
        let bias = self.graph.weight(&[&format!("{name}.bias")], &[width]);
        let settings = [("axis", Setting::Int(-1)), ("epsilon", Setting::Float(self.config.norm_epsilon))];
        self.graph.op("LayerNormalization", [rows, &scale, &bias], &settings)
    }

    pub(super) fn activated(&mut self, value: &str, activation: Activation) -> Value {
        let operator = match activation {
            Activation::Gelu => "Gelu",
            Activation::GeluTanh => "FastGelu",
            Activation::Relu => "Relu",
            Activation::Tanh => "Tanh",
        };
        self.graph.op(operator, [value], &[])
    }

    /// The shape `[batch, sequence, width]`, to give rows back to their items.
    pub(super) fn batched(&mut self, width: usize) -> Value {
        let width = self.graph.ints(&[signed(width)]);
        self.graph.op("Concat", [&self.shape.clone(), &width], &[("axis", Setting::Int(0))])
    }

    /// The shape `[batch, sequence]`.
    pub(super) fn batch_and_sequence(&self) -> Value {
        self.shape.clone()
    }
}

/// What all layers attend with.
struct Attention<'a> {
    mask: &'a str,
    /// Empty when there is none.
    bias: &'a str,
    by_item: &'a str,
}

/// The bucket of `distance`, from the one who looks to what is looked at: near ones have their own, farther ones share
/// by the logarithm of the distance. The reference takes the logarithm in floating point; whole numbers say the same.
fn bucket(distance: i64) -> i64 {
    let direction = if distance > 0 { BUCKETS_ONE_WAY } else { 0 };
    let distance = distance.abs();
    let exact = BUCKETS_ONE_WAY / 2;
    let near = if distance < exact {
        distance
    } else {
        // exact * log(distance / exact) / log(DISTANCE_MAX / exact), which is 2 * log2(distance / 8), rounded down.
        let squared = distance * distance / (exact * exact);
        (exact + i64::from(squared.ilog2())).min(BUCKETS_ONE_WAY - 1)
    };
    direction + near
}
