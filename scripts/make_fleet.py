"""Writes a folder of small models that have little in common: perceptrons in twenty architectures, their weights from seeds.

Usage: make_fleet.py FOLDER [COUNT]

Every tenth adds random numbers to its answer, so that packing finds no two answers alike and keeps it whole.
"""

import pathlib
import shutil
import sys

import numpy
from onnx import TensorProto, helper, numpy_helper, save

INPUTS, OUTPUTS, ARCHITECTURES = 64, 10, 20


def model(index):
    """Number `index` of the fleet: x [batch, 64] in, y [batch, 10] out."""
    random = numpy.random.default_rng(index)
    kind = index % ARCHITECTURES
    widths = [INPUTS, *[64 + 16 * kind] * (1 + kind % 4), OUTPUTS]
    nodes, weights, value = [], [], "x"
    for layer, shape in enumerate(zip(widths, widths[1:])):
        values = [random.normal(0, 0.1, shape), random.normal(0, 0.1, shape[1:])]
        names = [f"w{layer}", f"b{layer}"]
        pairs = zip(values, names)
        weights += [numpy_helper.from_array(numbers.astype(numpy.float32), name) for numbers, name in pairs]
        nodes.append(helper.make_node("Gemm", [value, *names], [f"h{layer}"]))
        nodes.append(helper.make_node("Tanh", [f"h{layer}"], [f"a{layer}"]))
        value = f"a{layer}"
    if index % 10 == 0:
        nodes.append(helper.make_node("RandomUniformLike", [value], ["noise"]))
        nodes.append(helper.make_node("Add", [value, "noise"], ["y"]))
    else:
        nodes.append(helper.make_node("Identity", [value], ["y"]))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", INPUTS])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", OUTPUTS])]
    body = helper.make_graph(nodes, f"fleet{index}", inputs, outputs, weights)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main():
    """Writes beside the target first, so that a folder of that name is always whole."""
    out = pathlib.Path(sys.argv[1])
    part = out.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for index in range(int(sys.argv[2]) if len(sys.argv) > 2 else 200):
        save(model(index), part / f"fleet{index:03}.onnx")
    part.rename(out)


if __name__ == "__main__":
    main()
