"""Writes a small network of 3x3 convolutions that takes about two milliseconds on one core, its weights from a seed.

Usage: make_convnet.py OUT.onnx [SEED [DEEP]]

Its input is 3 kB and its weights stay in a core's cache, so that a load on it measures how a server shares cores, not how
it moves bytes; and a batch costs as much as its items, so that capacity is the same whatever waits. With 16 for DEEP it is the fixture
crates/store/tests/fixtures/convnet.onnx, the smallest network that CPUs lay out in different ways.
"""

import sys

import numpy
from onnx import TensorProto, helper, numpy_helper, save

SIDE, LAYERS, CLASSES = 16, 3, 10


def convnet(seed, width=128):
    """The model: x [batch, 3, 16, 16] in, y [batch, 10] out."""
    random = numpy.random.default_rng(seed)
    nodes, weights, value, deep = [], [], "x", 3

    def weight(name, deviation, *shape):
        weights.append(numpy_helper.from_array(random.normal(0, deviation, shape).astype(numpy.float32), name))
        return name

    for layer in range(LAYERS):
        filters = weight(f"w{layer}", (2 / (deep * 9)) ** 0.5, width, deep, 3, 3)
        inputs = [value, filters, weight(f"b{layer}", 0.1, width)]
        nodes.append(helper.make_node("Conv", inputs, [f"c{layer}"], kernel_shape=[3, 3], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]))
        value, deep = f"r{layer}", width
    nodes.append(helper.make_node("GlobalAveragePool", [value], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    classes = [weight("w", width**-0.5, width, CLASSES), weight("b", 0.1, CLASSES)]
    nodes.append(helper.make_node("Gemm", ["flat", *classes], ["y"]))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", CLASSES])]
    body = helper.make_graph(nodes, "convnet", inputs, outputs, weights)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


if __name__ == "__main__":
    numbers = [int(number) for number in sys.argv[2:]]
    save(convnet(*numbers or [0]), sys.argv[1])
