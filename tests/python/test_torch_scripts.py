"""TorchScript modules, served as Triton's and TorchServe's users have them: answers are libtorch's own.

The runtime is set up for x86-64 alone; elsewhere these tests are left out.
"""

import json
import os
import pathlib
import platform
import shutil
import subprocess
import tempfile
import threading
import unittest

import ml_dtypes
import numpy as np
import tritonclient.grpc
import tritonclient.http
import tritonclient.utils

import product

FIXTURES = product.ROOT / "crates" / "store" / "tests" / "fixtures" / "torch_script"
REFERENCE = json.loads((FIXTURES / "reference.json").read_text(encoding="utf-8"))
TRITONS = {"float16": "FP16", "bfloat16": "BF16", "float32": "FP32", "float64": "FP64"}
READER = """
    name: "reader" platform: "pytorch_libtorch" max_batch_size: 8
    input [{ name: "INPUT__0" data_type: TYPE_INT64 dims: [-1] }, { name: "INPUT__1" data_type: TYPE_INT64 dims: [-1] }]
    output [{ name: "START__0" data_type: TYPE_FP32 dims: [-1] }, { name: "END__1" data_type: TYPE_FP32 dims: [-1] }]"""
MLP = """
    backend: "pytorch" max_batch_size: 16 dynamic_batching { }
    input [{ name: "x" data_type: TYPE_FP32 dims: [4] }]
    output [{ name: "OUTPUT__0" data_type: TYPE_FP32 dims: [3] }]"""


def datatype(told):
    return TRITONS.get(told["dtype"], told["dtype"].upper())


def array(told):
    """A tensor of reference.json."""
    dtype = ml_dtypes.bfloat16 if told["dtype"] == "bfloat16" else np.dtype(told["dtype"])
    return np.frombuffer(bytes.fromhex(told["content"]), dtype).reshape(told["shape"])


def signature(path, told):
    """Writes what `told`, inputs by name, are, with a batch that varies."""
    lines = ", ".join(f"{{ name = '{name}', datatype = '{datatype(one)}', shape = {[-1, *one['shape'][1:]]} }}"
                      for name, one in told.items())
    path.write_text(f"inputs = [{lines}]\n", encoding="utf-8")
    return path


def give(module, name, values, kind):
    given = module.InferInput(name, list(values.shape), kind)
    given.set_data_from_numpy(values)
    return given


@unittest.skipUnless(platform.machine() == "x86_64", "libtorch is set up for x86-64 alone")
class TorchScripts(unittest.TestCase):
    """One server over Triton's layout, one over a store of packs."""

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="packhorse-torch-")))
        cls.root, cls.store = cls.folder / "triton", cls.folder / "store"
        for name, config in (("reader", READER), ("mlp", MLP), ("counter", MLP), ("bare", "")):
            (cls.root / name / "1").mkdir(parents=True)
            file = "mlp" if name == "bare" else name
            shutil.copy(FIXTURES / f"{file}.pt", cls.root / name / "1" / "model.pt")
            if config:
                (cls.root / name / "config.pbtxt").write_text(config, encoding="utf-8")
        for name in ("named", "types", "mixing", "loop_scaled"):
            said = signature(cls.folder / f"{name}.toml", REFERENCE[name][0]["inputs"])
            product.packhorse("pack", FIXTURES / f"{name}.pt", "--signature", said, "--store", cls.store)
        cls.triton = cls.enterClassContext(product.Server(cls.root))
        cls.packs = cls.enterClassContext(product.Server(cls.store))

    def clients(self, server):
        for module, address in ((tritonclient.http, server.http), (tritonclient.grpc, server.grpc)):
            client = module.InferenceServerClient(address)
            self.addCleanup(client.close)
            yield module, client

    def test_a_triton_repository(self):
        for module, client in self.clients(self.triton):
            for ask in REFERENCE["reader"]:
                given = [give(module, f"INPUT__{at}", array(ask["inputs"][name]), "INT64")
                         for at, name in enumerate(("input_ids", "attention_mask"))]
                answer = client.infer("reader", given)
                for at, name in enumerate(("START__0", "END__1")):
                    np.testing.assert_array_equal(answer.as_numpy(name), array(ask["outputs"][f"OUTPUT__{at}"]))
            for ask in REFERENCE["mlp"]:
                answer = client.infer("mlp", [give(module, "x", array(ask["inputs"]["x"]), "FP32")])
                np.testing.assert_array_equal(answer.as_numpy("OUTPUT__0"), array(ask["outputs"]["OUTPUT__0"]))
        http = tritonclient.http.InferenceServerClient(self.triton.http)
        self.addCleanup(http.close)
        told = http.get_model_metadata("reader")
        self.assertEqual(told["platform"], "pytorch_libtorch")
        self.assertEqual([(one["name"], one["datatype"], one["shape"]) for one in told["inputs"] + told["outputs"]],
                         [("INPUT__0", "INT64", [-1, -1]), ("INPUT__1", "INT64", [-1, -1]),
                          ("START__0", "FP32", [-1, -1]), ("END__1", "FP32", [-1, -1])])
        config = http.get_model_config("mlp")
        self.assertEqual((config["platform"], config["backend"], config["max_batch_size"]),
                         ("pytorch_libtorch", "pytorch", 16))

    def test_what_cannot_be_served_says_why(self):
        client = tritonclient.http.InferenceServerClient(self.triton.http)
        self.addCleanup(client.close)
        why = {one["name"]: one.get("reason", "") for one in client.get_model_repository_index()}
        self.assertIn("keeps 'seen' from one request to the next", why["counter"])
        self.assertIn("does not say datatype and shape of what its forward takes, here of 'x'", why["bare"])

    def test_packs_answer_and_go_on_after_a_refusal(self):
        for module, client in self.clients(self.packs):
            for name in ("named", "types", "mixing", "loop_scaled"):
                for ask in REFERENCE[name]:
                    given = [give(module, key, array(told), datatype(told)) for key, told in ask["inputs"].items()]
                    answer = client.infer(name, given)
                    for key, told in ask["outputs"].items():
                        with self.subTest(model=name, output=key, client=module.__name__):
                            got = answer.as_numpy(key)
                            np.testing.assert_array_equal(got, array(told))
            pair = array(REFERENCE["loop_scaled"][0]["inputs"]["x"])
            other = np.zeros((5, 3), np.float32)
            with self.assertRaisesRegex(tritonclient.utils.InferenceServerException, "must match the size of tensor b"):
                client.infer("loop_scaled", [give(module, "x", pair, "FP32"), give(module, "scale", other, "FP32")])

    def test_many_at_once_answer_as_alone(self):
        asks, wrong = REFERENCE["mlp"], []

        def ask(seed):
            client = tritonclient.http.InferenceServerClient(self.triton.http)
            for turn in range(20):
                told = asks[(seed + turn) % len(asks)]
                got = client.infer("mlp", [give(tritonclient.http, "x", array(told["inputs"]["x"]), "FP32")])
                # Rows of a larger matrix may be summed in another order.
                if not np.allclose(got.as_numpy("OUTPUT__0"), array(told["outputs"]["OUTPUT__0"]), rtol=1e-5, atol=1e-6):
                    wrong.append((seed, turn))
            client.close()

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])

    def test_without_libtorch_it_is_told_what_is_missing(self):
        command = [product.BINARY, "pack", FIXTURES / "mlp.pt", "--store", self.folder / "none"]
        done = subprocess.run(command, env={**os.environ, "PACKHORSE_TORCH": "/nowhere/libpackhorse_torch.so"},
                              capture_output=True, text=True, check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("libtorch cannot be loaded", done.stderr)
        self.assertIn("PACKHORSE_TORCH", done.stderr)


if __name__ == "__main__":
    unittest.main()
