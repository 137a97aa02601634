"""Writes a multilayer perceptron, 64 inputs, 128 hidden, 10 outputs, its weights from a seed.

Usage: make_mlp.py OUT.onnx [SEED]

So small that serving it measures the server and not the model.
"""

import sys

import numpy
from onnx import TensorProto, helper, numpy_helper, save

INPUTS, HIDDEN, OUTPUTS = 64, 128, 10


def mlp(seed):
    """The model: x [batch, 64] in, y [batch, 10] out."""
    random = numpy.random.default_rng(seed)
    shapes = {"w1": (INPUTS, HIDDEN), "b1": (HIDDEN,), "w2": (HIDDEN, OUTPUTS), "b2": (OUTPUTS,)}
    weights = [
        numpy_helper.from_array(random.normal(0, 0.1, shape).astype(numpy.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("Gemm", ["a", "w2", "b2"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", INPUTS])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", OUTPUTS])]
    body = helper.make_graph(nodes, "mlp", inputs, outputs, weights)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


if __name__ == "__main__":
    save(mlp(int(sys.argv[2]) if len(sys.argv) > 2 else 0), sys.argv[1])
