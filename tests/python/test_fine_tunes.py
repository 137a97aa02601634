"""Fine-tunes of one model, each with a head of its own: requests for different ones run through what they share together, and
each is answered with its own model's numbers, those of ONNX Runtime on the file that it was packed from."""

import pathlib
import random
import re
import tempfile
import threading
import time
import unittest
import urllib.request

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import product

MODELS = 8
CALLERS = 16
WIDTH, CLASSES = 1536, 10
SHARED_WANTED = 60
SECONDS_MAX = 120


def fine_tune(path, number):
    """Four wide layers that all have, and a last one of its own; a name of its own for each weight, as exporters give."""
    trunk, own = np.random.default_rng(1), np.random.default_rng(100 + number)
    widths = [64, WIDTH, WIDTH, WIDTH, WIDTH]
    nodes, weights, name = [], [], "x"
    for layer, (rows, columns) in enumerate(zip(widths, widths[1:], strict=False)):
        matrix = trunk.standard_normal((rows, columns), np.float32) / np.float32(np.sqrt(rows))
        weights += [numpy_helper.from_array(matrix, f"w{layer}"),
                    numpy_helper.from_array(trunk.standard_normal(columns, np.float32), f"b{layer}")]
        nodes += [helper.make_node("MatMul", [name, f"w{layer}"], [f"p{layer}"]),
                  helper.make_node("Add", [f"p{layer}", f"b{layer}"], [f"q{layer}"]),
                  helper.make_node("Relu", [f"q{layer}"], [f"r{layer}"])]
        name = f"r{layer}"
    weights.append(numpy_helper.from_array(own.standard_normal((WIDTH, CLASSES), np.float32), "head"))
    nodes.append(helper.make_node("MatMul", [name, "head"], ["y"]))
    graph = helper.make_graph(
        nodes, "fine-tune", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["items", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["items", CLASSES])], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


class FineTunesTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="packhorse-test-")
        place = pathlib.Path(cls.folder.name)
        cls.store, cls.sessions = place / "store", []
        for number in range(MODELS):
            file = place / f"{number}.onnx"
            fine_tune(file, number)
            product.packhorse("pack", file, "--store", cls.store, "--name", f"tune{number}")
            cls.sessions.append(onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]))

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    @staticmethod
    def metrics(server):
        with urllib.request.urlopen(f"http://{server.admin}/metrics") as answer:
            text = answer.read().decode()
        return {name: float(value) for name, value in re.findall(r"^(packhorse_\w+(?:\{[^}]*\})?) (\S+)$", text, re.M)}

    def check(self, server, number, items, generator):
        """One request for the model `number`, and its answer against the runtime's own."""
        x = generator.standard_normal((items, 64), np.float32)
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [items, 64], "data": x.ravel().tolist()}]}
        status, answer = server.ask(f"/v2/models/tune{number}/infer", body)
        self.assertEqual(status, 200, answer)
        got = np.array(answer["outputs"][0]["data"], np.float32).reshape(items, CLASSES)
        want = self.sessions[number].run(None, {"x": x})[0]
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())

    def test_requests_for_several_run_together_and_are_each_ones_own(self):
        with product.Server(self.store) as server:
            enough, wrong = threading.Event(), []

            def ask(caller):
                generator, order = np.random.default_rng(caller), random.Random(caller)
                try:
                    while not enough.is_set():
                        self.check(server, order.randrange(MODELS), order.choice([1, 1, 1, 2, 3]), generator)
                except Exception as error:
                    wrong.append(error)
                    enough.set()

            def watch():
                end = time.monotonic() + SECONDS_MAX
                while not enough.wait(0.2) and time.monotonic() < end:
                    if self.metrics(server)["packhorse_shared_requests_total"] >= SHARED_WANTED:
                        break
                enough.set()

            product.at_once(lambda number: watch() if number == CALLERS else ask(number), CALLERS + 1)
            if wrong:
                raise wrong[0]
            told = self.metrics(server)
            self.assertGreaterEqual(told["packhorse_shared_requests_total"], SHARED_WANTED, server.log())
            self.assertGreater(told["packhorse_shared_requests_total"], told["packhorse_shared_runs_total"])
            self.assertIn("share a trunk run together", server.log())
            self.assertEqual(server.drain(30), 0)


if __name__ == "__main__":
    unittest.main()
