"""The models that the tests of TensorFlow Serving's protocols serve, packed once a process."""

import functools
import pathlib
import tempfile

import numpy as np
from onnx import TensorProto, helper

import oip_models
import product

MLP_INPUTS, MLP_HIDDEN, MLP_CLASSES = 64, 128, 10


def _model(nodes, inputs, outputs, constants=()):
    values = [[helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in side]
              for side in (inputs, outputs)]
    graph = helper.make_graph(nodes, "made_for_a_test", *values, list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def mlp_weights():
    """Two layers, the same every time."""
    random = np.random.default_rng(64)
    shapes = (("w1", (MLP_INPUTS, MLP_HIDDEN)), ("b1", (MLP_HIDDEN,)), ("w2", (MLP_HIDDEN, MLP_CLASSES)), ("b2", (MLP_CLASSES,)))
    return {name: (random.standard_normal(shape) / 8).astype(np.float32) for name, shape in shapes}


def mlp(x):
    """The MLP's scores, by numpy."""
    weights = {name: value.astype(np.float64) for name, value in mlp_weights().items()}
    logits = np.maximum(x @ weights["w1"] + weights["b1"], 0) @ weights["w2"] + weights["b2"]
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _mlp():
    kind = TensorProto.FLOAT
    constants = [helper.make_tensor(name, kind, value.shape, value.ravel()) for name, value in mlp_weights().items()]
    nodes = [helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]), helper.make_node("Relu", ["h"], ["r"]),
             helper.make_node("Gemm", ["r", "w2", "b2"], ["logits"]), helper.make_node("Softmax", ["logits"], ["scores"])]
    return _model(nodes, [("x", kind, ["n", MLP_INPUTS])], [("scores", kind, ["n", MLP_CLASSES])], constants)


def _pair():
    """Two inputs and two outputs under the names that tf2onnx gives them: `sum` of each row, and `many` is `bias` twice."""
    kind = TensorProto.FLOAT
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    nodes = [helper.make_node("ReduceSum", ["row:0", "axes"], ["sum:0"], keepdims=0),
             helper.make_node("Concat", ["bias:0", "bias:0"], ["many:0"], axis=0)]
    return _model(nodes, [("row:0", kind, ["n", 3]), ("bias:0", kind, ["m"])],
                  [("sum:0", kind, ["n"]), ("many:0", kind, ["k"])], [axes])


def _number():
    """One number a row in, the same out: a regression."""
    kind = TensorProto.FLOAT
    return _model([helper.make_node("Identity", ["x"], ["outputs"])], [("x", kind, ["n", 1])], [("outputs", kind, ["n", 1])])


def _strings():
    """Strings to themselves, once as text and once as bytes."""
    kind = TensorProto.STRING
    nodes = [helper.make_node("Identity", ["word"], [name]) for name in ("text", "raw_bytes")]
    return _model(nodes, [("word", kind, ["n"])], [("text", kind, ["n"]), ("raw_bytes", kind, ["n"])])


def _identity(kind):
    return _model([helper.make_node("Identity", ["x:0"], ["y:0"])], [("x:0", kind, ["n", "m"])], [("y:0", kind, ["n", "m"])])


@functools.cache
def _folder():
    """Lives as long as the process."""
    return tempfile.TemporaryDirectory(prefix="packhorse-tfs-")


@functools.cache
def store():
    """A store with every model; the SSDLite detector is called `default`, as the video system's call has it, and `two`
    has two versions."""
    folder = pathlib.Path(_folder().name)
    made = {"mlp": _mlp(), "pair": _pair(), "number": _number(), "strings": _strings()}
    made |= {f"identity_{name.lower()}": _identity(kind) for name, (kind, _) in oip_models.DATATYPES.items()}
    files = {"default": product.ASSETS / "person_ssdlite_odapi.onnx"}
    for name, model in made.items():
        files[name] = folder / f"{name}.onnx"
        files[name].write_bytes(model.SerializeToString())
    place = folder / "store"
    for name, path in files.items():
        product.packhorse("pack", path, "--store", place, "--name", name)
    for path in (files["number"], files["mlp"]):
        product.packhorse("pack", path, "--store", place, "--name", "two")
    return place
