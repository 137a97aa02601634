"""Triton's extensions of the protocol, as its public clients use them: HTTP, gRPC and the asyncio form of each."""

import asyncio
import functools
import os
import pathlib
import queue
import tempfile
import unittest
import unittest.mock

import grpc
import numpy as np
import onnx
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from onnx import TensorProto, helper
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype, shared_memory

import oip_models
import product

SECONDS_MAX = 120
PREFIX = f"packhorse-test-{os.getpid()}-"
EXTENSIONS = {"classification", "schedule_policy", "model_configuration", "system_shared_memory", "binary_tensor_data",
              "statistics"}
MANAGED = {"model_repository", "model_repository(unload_dependents)", "logging"}
LABELS = ["ant", "bee", "cat", "dog"]
SCORES = np.array([[0.125, -2.0, 4.5, 0.25], [7.0, 7.0, 1.0, -1.0], [0.0, 1e-9, 0.5, -0.5]], np.float32)


@functools.cache
def _folder():
    """Lives as long as the process."""
    return tempfile.TemporaryDirectory(prefix="packhorse-triton-")


@functools.cache
def store():
    """A store with two models that rank four classes, one of them with labels, and one that takes its time."""
    folder = pathlib.Path(_folder().name)
    labels = folder / "labels.txt"
    labels.write_text("\n".join(LABELS), encoding="utf-8")
    for name, kind, more in (("scores", TensorProto.FLOAT, ("--labels", labels)), ("counts", TensorProto.INT32, ())):
        values = [[helper.make_tensor_value_info(side, kind, ["n", 4])] for side in ("x", "y")]
        graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "made_for_a_test", *values)
        path = folder / f"{name}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
        product.packhorse("pack", path, "--store", folder / "store", "--name", name, *more)
    product.packhorse("pack", oip_models.files()["slow"], "--store", folder / "store", "--name", "slow")
    return folder / "store"


def served(**settings):
    """A server with these settings besides the usual."""
    variables = {f"PACKHORSE_{name.upper()}": value for name, value in settings.items()}
    with unittest.mock.patch.dict(os.environ, variables):
        return product.Server(store())


def ranked(values, classes, labels=()):
    """The extension's answer for rows of `values`: the largest first, of equals the first."""
    def line(value, index):
        return (float(value), index, *labels[index:index + 1])
    return [[line(row[index], index) for index in np.argsort(-row, kind="stable")[:classes]] for row in values]


def parsed(strings):
    """Rows of `value:index[:label]` taken apart."""
    rows = [[string.decode().split(":", 2) for string in row] for row in strings]
    return [[(float(value), int(index), *label) for value, index, *label in row] for row in rows]


class _Served(unittest.TestCase):
    """One server for the tests of a class."""

    SETTINGS = {"shared_memory": PREFIX}

    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(served(**cls.SETTINGS))


class _Sync:
    """A public client as it is."""

    def open(self):
        """A client of the server, closed with the test."""
        client = self.module.InferenceServerClient(self.address())
        self.addCleanup(client.close)
        return client

    def ask(self, call, *arguments, **options):
        """What the client's method `call` returns."""
        return getattr(self.client, call)(*arguments, **options)


class _Asyncio:
    """A public client of asyncio, on a loop of the test's own."""

    def open(self):
        """A client of the server, closed with the test."""
        runner = self.enterContext(asyncio.Runner())
        self.run_to_end = runner.run

        async def made():
            return self.module.InferenceServerClient(self.address())
        client = runner.run(made())
        self.addCleanup(lambda: runner.run(client.close()))
        return client

    def ask(self, call, *arguments, **options):
        """What the client's method `call` returns in the end."""
        return self.run_to_end(getattr(self.client, call)(*arguments, **options))


class _Http:
    """What differs over HTTP: words in plain JSON, codes as text."""

    def address(self):
        """Where the server listens."""
        return self.server.http

    def told(self, call, *arguments):
        """The answer as a dictionary."""
        return self.ask(call, *arguments)

    def extensions(self):
        """The list in the server's metadata."""
        return self.ask("get_server_metadata")["extensions"]

    def output(self, name, **options):
        """A requested output; binary unless told otherwise."""
        return self.types.InferRequestedOutput(name, **{"binary_data": True, **options})


class _Grpc:
    """What differs over gRPC: words in messages."""

    def address(self):
        """Where the server listens."""
        return self.server.grpc

    def told(self, call, *arguments):
        """The answer as a dictionary; 64-bit numbers are text in it."""
        return self.ask(call, *arguments, as_json=True)

    def extensions(self):
        """The list in the server's metadata."""
        return list(self.ask("get_server_metadata").extensions)

    def output(self, name, **options):
        """A requested output."""
        return self.types.InferRequestedOutput(name, **options)


class _Extensions:
    """The tests that every client runs."""

    def setUp(self):
        self.client = self.open()

    def tensor(self, array):
        """`array` as the input x."""
        tensor = self.types.InferInput("x", list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        return tensor

    def infer(self, array=SCORES, model="scores", **options):
        """The result for `array`."""
        return self.ask("infer", model, [self.tensor(array)], **options)

    def refused(self, says, *arguments, **options):
        """Checks that a call fails with these words."""
        with self.assertRaises(InferenceServerException) as refusal:
            self.ask(*arguments, **options)
        self.assertIn(says, str(refusal.exception))

    def test_what_is_advertised(self):
        self.assertEqual(set(self.extensions()), EXTENSIONS)

    def test_infer(self):
        result = self.infer(request_id="mine", priority=1, parameters={"my_parameter": "passed over"})
        np.testing.assert_array_equal(result.as_numpy("y"), SCORES * 2)

    def test_configuration(self):
        told = self.told("get_model_config", "scores")
        config = told.get("config", told)
        self.assertEqual((config["name"], config["platform"], config["backend"]),
                         ("scores", "onnxruntime_onnx", "onnxruntime"))
        batch = config.get("max_batch_size", 0)
        dims = [4] if batch else [-1, 4]
        for side, name in (("input", "x"), ("output", "y")):
            tensor = config[side][0]
            self.assertEqual((tensor["name"], tensor["data_type"], [int(dim) for dim in tensor["dims"]]),
                             (name, "TYPE_FP32", dims))
        self.assertEqual([int(version) for version in config["version_policy"]["specific"]["versions"]], [1])
        self.assertEqual(config["instance_group"][0]["kind"], "KIND_CPU")
        self.assertEqual("dynamic_batching" in config, batch > 1)
        self.refused("nobody", "get_model_config", "nobody")
        self.refused("version", "get_model_config", "scores", "9")

    def statistics(self, *arguments):
        """The statistics of the one model version that `arguments` name."""
        (told,) = self.told("get_inference_statistics", *arguments)["model_stats"]
        return told

    def test_statistics_add_up(self):
        def numbers(told):
            counted = {part: int(spent.get("count", 0)) for part, spent in told["inference_stats"].items()}
            return counted | {count: int(told.get(count, 0)) for count in ("inference_count", "execution_count")}
        before = numbers(self.statistics("counts"))
        requests, items = 5, 3
        for _ in range(requests):
            self.infer(np.ones((items, 4), np.int32), "counts")
        told = self.statistics("counts", "1")
        after = numbers(told)
        grown = {name: after[name] - before[name] for name in after}
        batched = int(self.told("get_model_config", "counts").get("config", {}).get("max_batch_size", 0)
                      or self.told("get_model_config", "counts").get("max_batch_size", 0))
        expected = dict.fromkeys(("success", "queue", "compute_input", "compute_infer", "compute_output"), requests)
        self.assertEqual(grown, expected | {"fail": 0, "cache_hit": 0, "cache_miss": 0, "execution_count": requests,
                                            "inference_count": requests * (items if batched else 1)})
        self.assertEqual((told["name"], told["version"]), ("counts", "1"))
        self.assertGreater(int(told["last_inference"]), 0)
        batches = told["batch_stats"]
        runs = [int(batch["compute_infer"]["count"]) for batch in batches]
        self.assertEqual(sum(runs), after["execution_count"])
        self.assertEqual(sum(int(batch["batch_size"]) * run for batch, run in zip(batches, runs)),
                         after["inference_count"])
        every = self.told("get_inference_statistics")["model_stats"]
        self.assertEqual([model["name"] for model in every], ["counts", "scores", "slow"])
        self.refused("nobody", "get_inference_statistics", "nobody")

    def test_repository_index(self):
        told = self.told("get_model_repository_index")
        lines = told if isinstance(told, list) else told["models"]
        self.assertEqual([(line["name"], line["version"], line["state"]) for line in lines],
                         [(name, "1", "READY") for name in ("counts", "scores", "slow")])
        self.refused("explicit", "load_model", "scores")
        self.refused("explicit", "unload_model", "scores")
        self.refused("'file:1/model.onnx'", "load_model", "scores", config="{}", files={"file:1/model.onnx": b"x"})

    def test_classification(self):
        for model, array, labels in (("scores", SCORES, LABELS), ("counts", (SCORES * 8).astype(np.int32), ())):
            for classes in (1, 3, 99):
                with self.subTest(model=model, classes=classes):
                    result = self.infer(array, model, outputs=[self.output("y", class_count=classes)])
                    got = result.as_numpy("y")
                    if got.ndim == 1:
                        want = ranked((array * 2).reshape(1, -1), classes, labels)
                        got = got.reshape(1, -1)
                    else:
                        want = ranked(array * 2, classes, labels)
                    for got_row, want_row in zip(parsed(got), want, strict=True):
                        self.assertEqual([entry[1:] for entry in got_row], [entry[1:] for entry in want_row])
                        np.testing.assert_allclose([entry[0] for entry in got_row], [entry[0] for entry in want_row],
                                                   rtol=1e-6)

    def region(self, name, size):
        """A region of shared memory that the client made and the server knows, gone with the test."""
        key = f"{PREFIX}{self.id().rsplit('.', 1)[-1]}-{type(self).__name__}-{name}"
        handle = shared_memory.create_shared_memory_region(name, key, size, create_only=True)
        self.addCleanup(shared_memory.destroy_shared_memory_region, handle)
        self.ask("register_system_shared_memory", name, key, size)
        self.addCleanup(self.ask, "unregister_system_shared_memory", name)
        return handle

    def regions(self, *arguments):
        """The names that the server knows."""
        told = self.told("get_system_shared_memory_status", *arguments)
        return [line["name"] for line in told] if isinstance(told, list) else list(told.get("regions", {}))

    def test_shared_memory(self):
        size = SCORES.nbytes
        given, taken = self.region("given", size + 16), self.region("taken", size + 16)
        self.assertEqual(sorted(self.regions()), ["given", "taken"])
        self.assertEqual(self.regions("given"), ["given"])
        shared_memory.set_shared_memory_region(given, [SCORES], offset=16)
        tensor = self.types.InferInput("x", list(SCORES.shape), "FP32")
        tensor.set_shared_memory("given", size, offset=16)
        output = self.output("y")
        output.set_shared_memory("taken", size + 8, offset=8)
        result = self.ask("infer", "scores", [tensor], outputs=[output])
        self.assertIsNotNone(result.get_output("y"))
        np.testing.assert_array_equal(
            shared_memory.get_contents_as_numpy(taken, np.float32, SCORES.shape, offset=8), SCORES * 2)
        # Answered in the body: nothing of the request was in it.
        result = self.ask("infer", "scores", [tensor], outputs=[self.output("y")])
        np.testing.assert_array_equal(result.as_numpy("y"), SCORES * 2)

        output.set_shared_memory("taken", size - 4)
        self.refused("byte_size", "infer", "scores", [tensor], outputs=[output])
        output.set_shared_memory("taken", size, offset=20)
        self.refused("'taken' has", "infer", "scores", [tensor], outputs=[output])
        tensor.set_shared_memory("given", size, offset=2**62)
        self.refused("'given' has", "infer", "scores", [tensor])
        tensor.set_shared_memory("nobody", size)
        self.refused("'nobody' is not registered", "infer", "scores", [tensor])
        self.ask("unregister_system_shared_memory", "given")
        self.refused("'given'", "get_system_shared_memory_status", "given")
        self.ask("unregister_system_shared_memory")
        self.assertEqual(self.regions(), [])

    def test_shared_memory_that_is_not_open(self):
        for key in ("psm_other", f"{PREFIX}../other", "../../etc/passwd"):
            self.refused("not open to clients", "register_system_shared_memory", "r", key, 8)
        self.refused("no shared memory", "register_system_shared_memory", "r", f"{PREFIX}none", 8)

    def test_a_sequence_is_refused(self):
        self.refused("sequence_id", "infer", "scores", [self.tensor(SCORES)], sequence_id=7, sequence_start=True)

    def test_a_timeout_is_honoured(self):
        # Long enough to be read, and a thousandth of what the model takes.
        self.refused("deadline", "infer", "slow", [self.tensor(np.ones(1, np.float32))], timeout=1000)


class _Compressed:
    """What HTTP alone compresses: both ways, either way."""

    def test_compression(self):
        array = np.tile(SCORES, (1000, 1))
        for request in (None, "gzip", "deflate"):
            for response in (None, "gzip", "deflate"):
                with self.subTest(request=request, response=response):
                    result = self.infer(array, request_compression_algorithm=request,
                                        response_compression_algorithm=response)
                    np.testing.assert_array_equal(result.as_numpy("y"), array * 2)


class Http(_Http, _Sync, _Extensions, _Compressed, _Served):
    """tritonclient.http"""

    module = types = tritonclient.http


class HttpAsyncio(_Http, _Asyncio, _Extensions, _Compressed, _Served):
    """tritonclient.http.aio"""

    module, types = tritonclient.http.aio, tritonclient.http


def _requests(case):
    """Twenty requests, of which the fourth is for nobody."""
    for index in range(20):
        yield {"model_name": "nobody" if index == 3 else "scores", "inputs": [case.tensor(SCORES + index)],
               "request_id": str(index)}


class _Streamed:
    """What gRPC alone streams."""

    def check_streamed(self, answers):
        """`answers` are (result, error) in the order of the requests."""
        self.assertEqual(len(answers), 20)
        for index, (result, error) in enumerate(answers):
            if index == 3:
                self.assertIn("nobody", str(error))
                continue
            self.assertIsNone(error)
            self.assertEqual(result.get_response().id, str(index))
            self.assertTrue(result.get_response().parameters["triton_final_response"].bool_param)
            np.testing.assert_array_equal(result.as_numpy("y"), (SCORES + index) * 2)


class Grpc(_Grpc, _Sync, _Extensions, _Streamed, _Served):
    """tritonclient.grpc"""

    module = types = tritonclient.grpc

    def test_stream(self):
        answers = queue.Queue()
        self.client.start_stream(lambda result, error: answers.put((result, error)))
        for request in _requests(self):
            self.client.async_stream_infer(**request)
        got = [answers.get(timeout=SECONDS_MAX) for _ in range(20)]
        self.client.stop_stream()
        self.check_streamed(got)

    def test_compression(self):
        for algorithm in ("gzip", "deflate"):
            result = self.infer(compression_algorithm=algorithm)
            np.testing.assert_array_equal(result.as_numpy("y"), SCORES * 2)

    def test_what_is_not_served_is_named(self):
        self.refused("CudaSharedMemoryStatus", "get_cuda_shared_memory_status")
        self.refused("TraceSetting", "get_trace_settings")


class GrpcAsyncio(_Grpc, _Asyncio, _Extensions, _Streamed, _Served):
    """tritonclient.grpc.aio"""

    module, types = tritonclient.grpc.aio, tritonclient.grpc

    def test_stream(self):
        async def requests():
            for request in _requests(self):
                yield request

        async def streamed():
            return [answer async for answer in self.client.stream_infer(requests())]
        self.check_streamed(self.run_to_end(streamed()))


class Explicit(_Served):
    """Models that come and go, and a log that is switched, as clients of the management listener say."""

    SETTINGS = {"control": "explicit", "manage": "127.0.0.1:0"}

    def _check_life(self, client, ready, states):
        """From unloaded to loaded and back."""
        self.assertFalse(ready())
        self.assertEqual(set(states().values()), {"UNAVAILABLE"})
        client.load_model("scores")
        self.assertTrue(ready())
        self.assertEqual(states()["scores"], "READY")
        client.unload_model("scores")
        self.assertFalse(ready())
        with self.assertRaises(InferenceServerException):
            client.load_model("nobody")

    def test_http(self):
        client = tritonclient.http.InferenceServerClient(self.server.manage, network_timeout=SECONDS_MAX)
        self.addCleanup(client.close)
        self._check_life(client, lambda: client.is_model_ready("scores"),
                         lambda: {line["name"]: line["state"] for line in client.get_model_repository_index()})

    def test_grpc(self):
        client = tritonclient.grpc.InferenceServerClient(self.server.manage)
        self.addCleanup(client.close)
        self._check_life(client, lambda: client.is_model_ready("scores"),
                         lambda: {line.name: line.state for line in client.get_model_repository_index().models})

    def test_kserve_puts_the_model_first(self):
        channel = self.enterContext(grpc.insecure_channel(self.server.manage))
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        stub.RepositoryModelLoad(service_pb2.RepositoryModelLoadRequest(repository_name="counts"), timeout=SECONDS_MAX)
        ready = service_pb2.ModelReadyRequest(name="counts")
        self.assertTrue(stub.ModelReady(ready).ready)
        stub.RepositoryModelUnload(service_pb2.RepositoryModelUnloadRequest(repository_name="counts"))
        self.assertFalse(stub.ModelReady(ready).ready)

    def _check_log(self, client, told):
        """Every setting as it is, changed and back."""
        before = told(client.get_log_settings())
        self.assertEqual(before, {"log_file": "", "log_info": True, "log_warning": True, "log_error": True,
                                  "log_verbose_level": 0, "log_format": "ISO8601"})
        changes = {"log_verbose_level": 1, "log_info": False}
        self.assertEqual(told(client.update_log_settings(changes)), before | changes)
        for wrong in ({"log_everything": True}, {"log_file": "/tmp/log"}, {"log_format": "default"}):
            with self.assertRaises(InferenceServerException):
                client.update_log_settings(wrong)
        back = {name: before[name] for name in changes}
        self.assertEqual(told(client.update_log_settings(back)), before)

    def test_log_http(self):
        client = tritonclient.http.InferenceServerClient(self.server.manage)
        self.addCleanup(client.close)
        self._check_log(client, lambda answer: answer)

    def test_log_grpc(self):
        client = tritonclient.grpc.InferenceServerClient(self.server.manage)
        self.addCleanup(client.close)
        self._check_log(client, lambda answer: {
            name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in answer.settings.items()})

    def test_the_public_listeners_change_nothing(self):
        for module, public in ((tritonclient.http, self.server.http), (tritonclient.grpc, self.server.grpc)):
            client = module.InferenceServerClient(public)
            self.addCleanup(client.close)
            for call in (lambda: client.load_model("scores"), lambda: client.unload_model("scores"),
                         client.get_log_settings, lambda: client.update_log_settings({"log_info": False})):
                with self.subTest(api=module.__name__), self.assertRaisesRegex(InferenceServerException, "--manage"):
                    call()
            client = module.InferenceServerClient(self.server.manage)
            self.addCleanup(client.close)
            metadata = client.get_server_metadata()
            told = metadata["extensions"] if isinstance(metadata, dict) else metadata.extensions
            self.assertLessEqual(MANAGED, set(told))


class Closed(_Served):
    """A server that was not told to open shared memory."""

    SETTINGS = {}

    def test_shared_memory_is_off(self):
        client = tritonclient.http.InferenceServerClient(self.server.http)
        self.addCleanup(client.close)
        self.assertNotIn("system_shared_memory", client.get_server_metadata()["extensions"])
        for call in (client.get_system_shared_memory_status, client.unregister_system_shared_memory):
            with self.assertRaisesRegex(InferenceServerException, "--shared-memory"):
                call()


if __name__ == "__main__":
    unittest.main()
