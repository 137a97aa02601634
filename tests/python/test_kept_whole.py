"""Graphs whose weights cannot be taken out of them: `pack` says which and why, and they are served as they are."""

import pathlib
import subprocess
import tempfile
import unittest

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import product

# No size that packing tries for a dimension that may be anything.
ROW = 37
WEIGHTS = np.random.default_rng(1).integers(-3, 4, (ROW, 4)).astype(np.float32)


def save(path, nodes, row):
    """A model from `x`, of any number of rows, to `y`."""
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", row])
    gives = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph(nodes, "odd", [given], [gives], [numpy_helper.from_array(WEIGHTS, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


class KeptWhole(unittest.TestCase):
    def test_what_cannot_be_taken_apart_is_named_with_the_reason_and_served(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="packhorse-whole-")))
        # The runtime seeds chance by a node's number, which is another when what comes before it was worked out.
        save(folder / "chance.onnx", [helper.make_node("Neg", ["w"], ["v"]), helper.make_node("MatMul", ["x", "v"], ["m"]),
                                      helper.make_node("RandomUniformLike", ["m"], ["r"]),
                                      helper.make_node("Add", ["m", "r"], ["y"])], ROW)
        save(folder / "odd.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], "any")
        save(folder / "plain.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], ROW)
        told = {}
        for name in ("chance", "odd", "plain"):
            packed = subprocess.run([product.BINARY, "pack", folder / f"{name}.onnx", "--store", folder / "store"],
                                    capture_output=True, text=True, check=True)
            told[name] = packed.stderr
        for name, why in (("chance", "with its weights lifted its output 'y' differs by "),
                          ("odd", "no made-up input was accepted, so it could not be checked")):
            self.assertRegex(told[name], f"kept whole, in memory of its own when it is loaded: {why}")
        self.assertRegex(told["plain"], "1 weights of .* lifted out")
        x = np.random.default_rng(2).integers(-3, 4, (2, ROW)).astype(np.float32)
        question = {"inputs": [{"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}]}
        with product.Server(folder / "store") as server:
            for name in told:
                status, answer = server.ask(f"/v2/models/{name}/infer", question)
                self.assertEqual(status, 200, answer)
                got = np.array(answer["outputs"][0]["data"], np.float32).reshape(2, 4)
                if name == "chance":
                    off = got + x @ WEIGHTS
                    self.assertTrue(((off >= 0) & (off < 1)).all() and off.any(), off)
                else:
                    self.assertTrue((got == x @ WEIGHTS).all(), name)
            # Their memory is their own and counted as theirs, that of the one's program is the program's.
            for kind in ("whole", "programs", "weights"):
                self.assertGreater(server.metric("packhorse_memory_bytes", f'kind="{kind}"'), 0, kind)
            self.assertGreater(server.metric("packhorse_program_memory_bytes"), 0)
            for name in told:
                self.assertGreater(server.metric("packhorse_model_memory_bytes", f'model="{name}"'), 0, name)


if __name__ == "__main__":
    unittest.main()
