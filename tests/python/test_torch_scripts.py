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
import unittest
import urllib.request
import zipfile
from unittest import mock

import ml_dtypes
import numpy as np
import tritonclient.grpc
import tritonclient.http
import tritonclient.utils

import product

FIXTURES = product.ROOT / "crates" / "store" / "tests" / "fixtures" / "torch_script"
REFERENCE = json.loads((FIXTURES / "reference.json").read_text(encoding="utf-8"))
TRITONS = {"float16": "FP16", "bfloat16": "BF16", "float32": "FP32", "float64": "FP64"}
# Of eight MiB each, in a budget that has no room for all of them, be the runtimes counted or not yet.
MANY, BUDGET_BYTES = 16, 144 << 20
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


def with_code(path, body, methods=""):
    """Writes the archive of one fixture to `path` with `body` as the code of its forward, and `methods` after that."""
    with zipfile.ZipFile(FIXTURES / "mixing.pt") as archive, zipfile.ZipFile(path, "w") as new:
        for name in archive.namelist():
            content = archive.read(name)
            if name.endswith("__torch__.py"):
                head = content.decode().partition("  def forward")[0]
                content = f"{head}  def forward(self: __torch__.Mixing,\n    x: Tensor) -> Tensor:\n{body}\n{methods}".encode()
            # As libtorch writes them: code is compressed, and nothing else.
            packed = zipfile.ZIP_DEFLATED if name.endswith(".py") else zipfile.ZIP_STORED
            new.writestr(zipfile.ZipInfo(name), content, packed)
    return path


def in_a_row(count):
    """Code of so many operations, each on what the one before gave."""
    return "\n".join(f"    x{at + 1} = torch.neg(x{at or ''})" for at in range(count)) + f"\n    return x{count}"


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
        said = signature(cls.folder / "mixing.toml", REFERENCE["mixing"][0]["inputs"])
        product.packhorse("pack", with_code(cls.folder / "long.pt", in_a_row(9000)), "--signature", said, "--store", cls.store)
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

        product.at_once(ask, 8)
        self.assertEqual(wrong, [])

    def test_what_is_read_by_recursion_ends_no_process(self):
        method = "  def m{}(self: __torch__.Mixing,\n    x: Tensor) -> Tensor:\n    return {}\n"
        twice = "".join(method.format(at, f"(self).m{at + 1}((self).m{at + 1}(x, ), )") for at in range(40))
        for what, body, methods, says in (
                ("brackets", f"    return {'(' * 50_000}x{')' * 50_000}", "", "nests deeper"),
                ("a chain", in_a_row(60_000), "", "more than 50000 operations"),
                ("calls that double", "    return (self).m0(x, )", twice + method.format(40, "torch.neg(x)"),
                 "more than 50000 operations"),
                ("functions", "    return x", "".join(method.format(at, "x") for at in range(10_001)), "more functions")):
            with self.subTest(what=what):
                file = with_code(self.folder / "odd.pt", body, methods)
                command = [product.BINARY, "pack", file, "--store", self.folder / "odd", "--signature",
                           self.folder / "mixing.toml"]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assertIn(says, done.stderr)
        with zipfile.ZipFile(with_code(self.folder / "old.pt", "    return x"), "a") as archive:
            archive.writestr("mixing/Model.JSON", "{}")
        done = subprocess.run([product.BINARY, "pack", self.folder / "old.pt", "--store", self.folder / "odd"],
                              capture_output=True, text=True, check=False)
        self.assertIn("before 1.4", done.stderr)
        # What is long and no longer than it may be is run by lanes, whose stacks are small.
        client = tritonclient.http.InferenceServerClient(self.packs.http, connection_timeout=product.START_SECONDS_MAX)
        self.addCleanup(client.close)
        values = np.array([[1, -2]], np.float32)
        got = client.infer("long", [give(tritonclient.http, "x", values, "FP32")]).as_numpy("OUTPUT__0")
        np.testing.assert_array_equal(got, values)

    def test_more_modules_than_memory_answer_each_its_own(self):
        store, weights = self.folder / "many", {}
        said = self.folder / "wide.toml"
        said.write_text("inputs = [{ name = 'x', datatype = 'FP32', shape = [-1, 2] }]", encoding="utf-8")
        files = [self.folder / f"wide{seed}.pt" for seed in range(MANY)]
        for seed, file in enumerate(files):
            weights[seed] = np.random.default_rng(seed).random((512, 4096), np.float32)
            shutil.copy(FIXTURES / "wide.pt", file)
            with zipfile.ZipFile(file, "a") as archive:
                archive.writestr("wide/data/0", weights[seed].tobytes())
        product.packhorse("pack", *files, "--signature", said, "--store", store)
        with mock.patch.dict(os.environ, {"PACKHORSE_MEMORY_BUDGET_BYTES": str(BUDGET_BYTES)}), \
                product.Server(store) as server:
            client = tritonclient.http.InferenceServerClient(server.http)
            self.addCleanup(client.close)
            values = np.array([[1, 0], [2, -1]], np.float32)
            for seed in [*range(MANY)] * 2:
                got = client.infer(f"wide{seed}", [give(tritonclient.http, "x", values, "FP32")]).as_numpy("OUTPUT__0")
                np.testing.assert_allclose(got, values @ weights[seed][:2, :3], rtol=1e-6)
            with urllib.request.urlopen(f"http://{server.admin}/metrics", timeout=product.START_SECONDS_MAX) as answer:
                told = answer.read().decode()
        value = {line.split(" ")[0]: float(line.split(" ")[1]) for line in told.splitlines() if line[0] != "#"}
        self.assertGreater(value['packhorse_evictions_total{what="program"}'], 0)
        self.assertLess(value['packhorse_memory_bytes{kind="whole"}'], BUDGET_BYTES)
        # Which of them are left is a matter of what each took; the first one brought in what all of them need.
        held = [bytes for name, bytes in value.items() if name.startswith('packhorse_model_memory_bytes{model="wide') and bytes]
        self.assertLess(abs(min(held) - weights[1].nbytes), weights[1].nbytes / 8, "weights are charged once")

    def test_without_libtorch_it_is_told_what_is_missing(self):
        command = [product.BINARY, "pack", FIXTURES / "mlp.pt", "--store", self.folder / "none"]
        done = subprocess.run(command, env={**os.environ, "PACKHORSE_TORCH": "/nowhere/libpackhorse_torch.so"},
                              capture_output=True, text=True, check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("libtorch cannot be loaded", done.stderr)
        self.assertIn("PACKHORSE_TORCH", done.stderr)


if __name__ == "__main__":
    unittest.main()
