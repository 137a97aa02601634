"""Small models of whole numbers, whose answers are the same in whatever order they are added up: two products, of which
all models of one width have the graph and the first matrix in common, and each its own second one."""

import dataclasses

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

COLUMNS = 64
QUESTION = np.arange(COLUMNS, dtype=np.float32)[None, :] % 5 - 2


def _whole(seed, shape):
    """No sum of their products leaves what a float holds exactly."""
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Model:
    """One of them. From a width of 256 on its own matrix is large enough for a segment of its own."""

    name: str
    width: int
    own: int

    def matrices(self):
        """The one that all of its width have, and its own."""
        return _whole(self.width, (COLUMNS, self.width)), _whole([self.width, self.own], (self.width, COLUMNS))

    def save(self, folder):
        """Writes it into the folder, and gives the file."""
        first, second = self.matrices()
        of = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", COLUMNS]) for name in ("x", "y")]
        nodes = [helper.make_node("MatMul", ["x", "first"], ["h"]), helper.make_node("MatMul", ["h", "second"], ["y"])]
        weights = [numpy_helper.from_array(first, "first"), numpy_helper.from_array(second, "second")]
        graph = helper.make_graph(nodes, "whole-numbers", of[:1], of[1:], weights)
        file = folder / f"{self.name}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
        return file

    def answer(self):
        """What it answers to the question."""
        first, second = self.matrices()
        return (QUESTION @ first @ second).ravel().tolist()

    def ask(self, server):
        """`None` when the server answers the question as the model does, else the status and reason of its refusal."""
        x = {"name": "x", "datatype": "FP32", "shape": list(QUESTION.shape), "data": QUESTION.ravel().tolist()}
        status, told = server.ask(f"/v2/models/{self.name}/infer", {"inputs": [x]})
        if status != 200:
            return status, told["error"]
        got = told["outputs"][0]["data"]
        if got != self.answer():
            raise AssertionError(f"{self.name} was answered with what is not its own: {got}")
        return None
