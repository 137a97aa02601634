"""Writes a ResNet-18 for 1000 classes (11.7 M parameters), its weights from a seed.

Usage: make_resnet18.py OUT.onnx [SEED]

The graph is spelt as PyTorch's exporter spells it for evaluation: batch normalisation folded into the convolutions, a
batch of any size. It recognises nothing; it is as large, as deep and as slow as the real thing.
"""

import pathlib
import sys

import numpy
from onnx import TensorProto, helper, numpy_helper, save

SIDE, CLASSES = 224, 1000
WIDTHS, BLOCKS = (64, 128, 256, 512), 2


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

    def weight(self, deviation, *shape):
        """Normal numbers around zero."""
        name = f"weight_{len(self.weights)}"
        values = self.random.normal(0, deviation, shape).astype(numpy.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def convolution(self, value, deep_in, deep_out, side, stride):
        """A convolution with the bias that folding leaves; its weights keep the variance of what goes through."""
        filters = self.weight((2 / (deep_in * side * side)) ** 0.5, deep_out, deep_in, side, side)
        shape = {"kernel_shape": [side, side], "strides": [stride, stride], "pads": [side // 2] * 4}
        return self.op("Conv", value, filters, self.weight(0.1, deep_out), **shape)

    def block(self, value, deep_in, deep_out):
        """Two convolutions and the way around them."""
        stride = 1 if deep_in == deep_out else 2
        inner = self.op("Relu", self.convolution(value, deep_in, deep_out, 3, stride))
        inner = self.convolution(inner, deep_out, deep_out, 3, 1)
        around = value if deep_in == deep_out else self.convolution(value, deep_in, deep_out, 1, stride)
        return self.op("Relu", self.op("Add", inner, around))


def resnet18(seed):
    """The model: input [batch, 3, 224, 224] in, output [batch, 1000] out."""
    graph = Graph(seed)
    value = graph.op("Relu", graph.convolution("input", 3, WIDTHS[0], 7, 2))
    value = graph.op("MaxPool", value, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    deep = WIDTHS[0]
    for width in WIDTHS:
        for _ in range(BLOCKS):
            value = graph.block(value, deep, width)
            deep = width
    value = graph.op("Flatten", graph.op("GlobalAveragePool", value), axis=1)
    classes = [graph.weight(deep**-0.5, CLASSES, deep), graph.weight(0.1, CLASSES)]
    graph.nodes.append(helper.make_node("Gemm", [value, *classes], ["output"], transB=1))

    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])]
    outputs = [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", CLASSES])]
    body = helper.make_graph(graph.nodes, "resnet18", inputs, outputs, graph.weights)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main():
    """Writes beside the target first, so that a file of that name is always whole."""
    out = pathlib.Path(sys.argv[1])
    part = out.with_suffix(".part")
    save(resnet18(int(sys.argv[2]) if len(sys.argv) > 2 else 0), part)
    part.rename(out)


if __name__ == "__main__":
    main()
