"""Writes a question-answering model of BERT-base's shape (cased vocabulary, 107.7 M parameters), its weights from a seed.

Usage: make_bert.py OUT.onnx [SEED]

The graph is spelt as exporters spell it: MatMul and Add for a linear layer, Erf for GELU, LayerNormalization. It answers
nothing sensible; it is as large, as deep and as slow as the real thing, which is what measuring needs.
"""

import pathlib
import sys

import numpy
from onnx import TensorProto, helper, numpy_helper, save

VOCABULARY, POSITIONS, TYPES, WIDTH, LAYERS, HEADS, INNER = 28996, 512, 2, 768, 12, 12, 3072


class Graph:
    """Nodes and weights as they come; every value has a name of its own."""

    def __init__(self, seed):
        self.random = numpy.random.default_rng(seed)
        self.nodes, self.weights = [], []

    def op(self, kind, *inputs, **attributes):
        """One node with one output, whose name it returns."""
        output = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, values):
        """A tensor that is part of the model."""
        name = f"constant_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def weight(self, *shape):
        """Weights as BERT starts with them: normal, deviation 0.02."""
        return self.constant(self.random.normal(0, 0.02, shape).astype(numpy.float32))

    def linear(self, value, wide_in, wide_out):
        """A linear layer with its bias."""
        return self.op("Add", self.op("MatMul", value, self.weight(wide_in, wide_out)), self.weight(wide_out))

    def norm(self, value):
        """A layer norm, its scale near one."""
        scale = self.constant((1 + self.random.normal(0, 0.02, WIDTH)).astype(numpy.float32))
        return self.op("LayerNormalization", value, scale, self.weight(WIDTH), axis=-1, epsilon=1e-12)

    def gelu(self, value):
        """The exact form, by Erf."""
        half, one, root = (self.constant(numpy.float32(number)) for number in (0.5, 1.0, 2**0.5))
        erf = self.op("Erf", self.op("Div", value, root))
        return self.op("Mul", self.op("Mul", value, self.op("Add", erf, one)), half)

    def attention(self, value, mask):
        """Self-attention over all heads; `mask` is added to the scores."""
        split = self.constant(numpy.array([0, 0, HEADS, WIDTH // HEADS], numpy.int64))
        merge = self.constant(numpy.array([0, 0, WIDTH], numpy.int64))
        root = self.constant(numpy.float32((WIDTH // HEADS) ** 0.5))
        query, key, values = (self.op("Reshape", self.linear(value, WIDTH, WIDTH), split) for _ in range(3))
        query = self.op("Transpose", query, perm=[0, 2, 1, 3])
        key = self.op("Transpose", key, perm=[0, 2, 3, 1])
        values = self.op("Transpose", values, perm=[0, 2, 1, 3])
        scores = self.op("Add", self.op("Div", self.op("MatMul", query, key), root), mask)
        mixed = self.op("MatMul", self.op("Softmax", scores, axis=-1), values)
        return self.op("Reshape", self.op("Transpose", mixed, perm=[0, 2, 1, 3]), merge)


def bert(seed):
    """The model: token ids, attention mask and token types in, start and end logits out."""
    graph = Graph(seed)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    positions = graph.op(
        "Slice",
        graph.constant(numpy.arange(POSITIONS, dtype=numpy.int64)[None]),
        graph.constant(numpy.array([0], numpy.int64)),
        graph.op("Shape", names[0], start=1, end=2),
        graph.constant(numpy.array([1], numpy.int64)),
    )
    words = graph.op("Gather", graph.weight(VOCABULARY, WIDTH), names[0])
    types = graph.op("Gather", graph.weight(TYPES, WIDTH), names[2])
    places = graph.op("Gather", graph.weight(POSITIONS, WIDTH), positions)
    value = graph.norm(graph.op("Add", graph.op("Add", words, types), places))

    axes = graph.constant(numpy.array([1, 2], numpy.int64))
    mask = graph.op("Cast", graph.op("Unsqueeze", names[1], axes), to=TensorProto.FLOAT)
    mask = graph.op("Sub", graph.constant(numpy.float32(1)), mask)
    mask = graph.op("Mul", mask, graph.constant(numpy.float32(-10000)))
    for _ in range(LAYERS):
        value = graph.norm(graph.op("Add", value, graph.linear(graph.attention(value, mask), WIDTH, WIDTH)))
        inner = graph.gelu(graph.linear(value, WIDTH, INNER))
        value = graph.norm(graph.op("Add", value, graph.linear(inner, INNER, WIDTH)))
    logits = graph.linear(value, WIDTH, 2)
    outputs = ["start_logits", "end_logits"]
    for index, output in enumerate(outputs):
        which = graph.constant(numpy.array(index, numpy.int64))
        graph.nodes.append(helper.make_node("Gather", [logits, which], [output], axis=2))

    shape = ["batch", "sequence"]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in names]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in outputs]
    body = helper.make_graph(graph.nodes, "bert", inputs, outputs, graph.weights)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main():
    """Writes beside the target first, so that a file of that name is always whole."""
    out = pathlib.Path(sys.argv[1])
    part = out.with_suffix(".part")
    save(bert(int(sys.argv[2]) if len(sys.argv) > 2 else 0), part)
    part.rename(out)


if __name__ == "__main__":
    main()
