"""The models that the protocol tests serve: small ONNX graphs made on the spot, and two real ones.

`store()` packs them all once a process; `plain(model, inputs, outputs)` is ONNX Runtime's own answer to the same question.
"""

import functools
import pathlib
import tempfile

import ml_dtypes
import numpy as np
import onnxruntime
from onnx import TensorProto, helper

import product

# The protocol's datatype -> (ONNX's, numpy's).
DATATYPES = {
    "BOOL": (TensorProto.BOOL, np.bool_),
    "UINT8": (TensorProto.UINT8, np.uint8),
    "UINT16": (TensorProto.UINT16, np.uint16),
    "UINT32": (TensorProto.UINT32, np.uint32),
    "UINT64": (TensorProto.UINT64, np.uint64),
    "INT8": (TensorProto.INT8, np.int8),
    "INT16": (TensorProto.INT16, np.int16),
    "INT32": (TensorProto.INT32, np.int32),
    "INT64": (TensorProto.INT64, np.int64),
    "FP16": (TensorProto.FLOAT16, np.float16),
    "BF16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
    "FP32": (TensorProto.FLOAT, np.float32),
    "FP64": (TensorProto.DOUBLE, np.float64),
    "BYTES": (TensorProto.STRING, np.object_),
}

SLOW_SIDE = 1024
SLOW_PRODUCTS = 40


def _model(nodes, inputs, outputs, constants=()):
    values = [[helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in side]
              for side in (inputs, outputs)]
    graph = helper.make_graph(nodes, "made_for_a_test", *values, list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _identity(kind, shape):
    return _model([helper.make_node("Identity", ["x"], ["y"])], [("x", kind, shape)], [("y", kind, shape)])


def _arithmetic():
    """Two inputs of different shapes, two outputs, exact in any order of evaluation."""
    nodes = [helper.make_node("Add", ["left", "right"], ["sum"]), helper.make_node("Sub", ["left", "right"], ["difference"])]
    kind = TensorProto.FLOAT
    return _model(nodes, [("left", kind, ["n", 3]), ("right", kind, [3])],
                  [("sum", kind, ["n", 3]), ("difference", kind, ["n", 3])])


def _linear():
    """A product with weights, so that there is something to lift out of the graph."""
    random = np.random.default_rng(20)
    constants = [helper.make_tensor(name, TensorProto.FLOAT, shape, random.standard_normal(shape).astype(np.float32).ravel())
                 for name, shape in (("weight", (4, 6)), ("bias", (6,)))]
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["product"]), helper.make_node("Add", ["product", "bias"], ["y"])]
    return _model(nodes, [("x", TensorProto.FLOAT, ["n", 4])], [("y", TensorProto.FLOAT, ["n", 6])], constants)


def _slow():
    """A second or more of work on one core for one number in and one out; the answer to 1 is 1."""
    nodes = [helper.make_node("Expand", ["x", "shape"], ["m0"])]
    for step in range(SLOW_PRODUCTS):
        nodes += [helper.make_node("MatMul", [f"m{step}", f"m{step}"], [f"p{step}"]),
                  helper.make_node("Mul", [f"p{step}", "scale"], [f"m{step + 1}"])]
    nodes.append(helper.make_node("ReduceMean", [f"m{SLOW_PRODUCTS}"], ["y"], keepdims=0))
    constants = [helper.make_tensor("shape", TensorProto.INT64, [2], [SLOW_SIDE, SLOW_SIDE]),
                 helper.make_tensor("scale", TensorProto.FLOAT, [], [1 / SLOW_SIDE])]
    return _model(nodes, [("x", TensorProto.FLOAT, [1])], [("y", TensorProto.FLOAT, [])], constants)


def _made():
    for datatype, (kind, _) in DATATYPES.items():
        yield f"identity_{datatype.lower()}", _identity(kind, ["n", "m"])
    yield "scalar", _identity(TensorProto.FLOAT, [])
    yield "arithmetic", _arithmetic()
    yield "linear", _linear()
    yield "slow", _slow()


REAL = {"bert": product.ASSETS / "bert_tiny_qa.onnx", "nanodet": product.ASSETS / "nanodet_g_coco80.onnx"}


@functools.cache
def _folder():
    """Lives as long as the process."""
    return tempfile.TemporaryDirectory(prefix="packhorse-oip-")


@functools.cache
def files():
    """Model name -> ONNX file."""
    paths = dict(REAL)
    for name, model in _made():
        path = pathlib.Path(_folder().name) / f"{name}.onnx"
        path.write_bytes(model.SerializeToString())
        paths[name] = path
    return paths


@functools.cache
def store():
    """A store that holds every model, packed by the binary under test."""
    place = pathlib.Path(_folder().name) / "store"
    for name, path in files().items():
        product.packhorse("pack", path, "--store", place, "--name", name)
    return place


@functools.cache
def _session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(files()[model]), options, providers=["CPUExecutionProvider"])


def signature(model):
    """(inputs, outputs), each a list of (name, the protocol's datatype, shape with -1 where it varies)."""
    short = {"bool": "BOOL", "float16": "FP16", "bfloat16": "BF16", "float": "FP32", "double": "FP64", "string": "BYTES"}

    def spec(value):
        kind = value.type.removeprefix("tensor(").removesuffix(")")
        return (value.name, short.get(kind, kind.upper()), [dim if isinstance(dim, int) else -1 for dim in value.shape])

    session = _session(model)
    return [spec(value) for value in session.get_inputs()], [spec(value) for value in session.get_outputs()]


def plain(model, inputs, outputs=None):
    """Output name -> array, from ONNX Runtime in this process on one thread."""
    names = outputs or [name for name, _, _ in signature(model)[1]]
    if model == "identity_bf16":
        # Numpy has no bfloat16 of its own, so the runtime's Python face takes none; this graph's answer is its question.
        return {"y": inputs["x"]}
    return dict(zip(names, _session(model).run(names, inputs)))
