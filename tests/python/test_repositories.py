"""Repositories of other servers, served as they are: Triton's, TensorFlow Serving's and plain folders of ONNX files."""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
import time
import unittest
import unittest.mock
import urllib.error
import urllib.request

import grpc
import numpy as np
import onnx
import tritonclient.grpc
import tritonclient.http
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

import product
import tfs_stubs

model_pb2 = tfs_stubs.api("model_pb2")
predict_pb2 = tfs_stubs.api("predict_pb2")
status_pb2 = tfs_stubs.api("get_model_status_pb2")
management_pb2 = tfs_stubs.api("model_management_pb2")

SECONDS_MAX = product.START_SECONDS_MAX
X = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32)


def model(factor, external=False):
    """A model that multiplies rows of three by `factor`."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in ("x", "y")]
    weight = onnx.numpy_helper.from_array(np.full((1, 3), factor, np.float32), "w")
    graph = helper.make_graph([helper.make_node("Mul", ["x", "w"], ["y"])], "made_for_a_test", value[:1], value[1:], [weight])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    if external:
        onnx.external_data_helper.convert_model_to_external_data(made, location="model.data", size_threshold=0)
    return made


def put(path, factor, external=False):
    """Saves a model so that it appears at once, as whoever fills a repository that is looked at should."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.parent / f".{path.name}"
    onnx.save(model(factor, external), part)
    part.rename(path)


class Repositories(unittest.TestCase):
    """A folder of its own for each test, and servers with a cache in it."""

    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="packhorse-repositories-")))
        self.root = self.folder / "repository"
        self.root.mkdir()

    @contextlib.contextmanager
    def served(self, store=None, **settings):
        """A server of the repository with these settings."""
        settings = {"pack_cache": str(self.folder / "cache")} | settings
        if settings.get("control") == "explicit":
            settings["manage"] = "127.0.0.1:0"
        variables = {f"PACKHORSE_{name.upper()}": value for name, value in settings.items()}
        with unittest.mock.patch.dict(os.environ, variables):
            server = product.Server(store or self.root)
        with server:
            yield server

    def config(self, name, text):
        """Writes the configuration of a model."""
        (self.root / name).mkdir(parents=True, exist_ok=True)
        (self.root / name / "config.pbtxt").write_text(text, encoding="utf-8")

    def clients(self, server):
        """The public clients of both APIs, where they may change the server if there is such a place."""
        for module, address in ((tritonclient.http, server.http), (tritonclient.grpc, server.grpc)):
            client = module.InferenceServerClient(server.manage or address)
            self.addCleanup(client.close)
            yield module, client

    def factor(self, module, client, name, version=""):
        """What a model multiplies by."""
        given = module.InferInput("x", list(X.shape), "FP32")
        given.set_data_from_numpy(X)
        answer = client.infer(name, [given], model_version=version).as_numpy("y")
        factor = answer[0, 0] / X[0, 0]
        np.testing.assert_array_equal(answer, X * factor)
        return factor

    def until(self, what, true):
        """Waits until `true`; fails when it never is."""
        deadline = time.monotonic() + SECONDS_MAX
        while not true():
            self.assertLess(time.monotonic(), deadline, what)
            time.sleep(0.05)


def refusal(call, *arguments, **options):
    """The words of a refusal."""
    try:
        call(*arguments, **options)
    except InferenceServerException as error:
        return error.message()
    raise AssertionError("it was not refused")


class Triton(Repositories):
    """Triton's model repository."""

    def fill(self):
        """One model of each kind."""
        put(self.root / "plain" / "1" / "model.onnx", 2)
        put(self.root / "apart" / "1" / "model.onnx" / "model.onnx", 3, external=True)
        for version in (1, 2, 10):
            put(self.root / "latest" / str(version) / "model.onnx", version)
            put(self.root / "every" / str(version) / "model.onnx", version)
            put(self.root / "some" / str(version) / "other.onnx", version)
        self.config("every", "version_policy: { all { } }")
        self.config("some", 'default_model_filename: "other.onnx" version_policy { specific { versions: [ 1, 2 ] } }')
        put(self.root / "full" / "1" / "model.onnx", 5)
        (self.root / "full" / "labels.txt").write_text("ant\nbee\ncat\n", encoding="utf-8")
        self.config("full", """
            name: "full"
            platform: "onnxruntime_onnx"
            max_batch_size: 8
            input [ { name: "x" data_type: TYPE_FP32 dims: [ 3 ] } ]
            output [ { name: "y" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "labels.txt" } ]
            instance_group [ { count: 2 kind: KIND_CPU } ]
            dynamic_batching { preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 100 }
            parameters { key: "team" value { string_value: "ranking" } }""")
        self.config("shape", 'input [ { name: "x" data_type: TYPE_FP32 dims: [ -1, 4 ] } ]')
        self.config("sequence", "sequence_batching { oldest { max_candidate_sequences: 4 } }")
        self.config("text", "max_batch: 4")
        self.config("absent", "version_policy { specific { versions: [ 7 ] } }")
        for name in ("shape", "sequence", "text", "absent"):
            put(self.root / name / "1" / "model.onnx", 1)
        self.config("python", 'backend: "python"')
        for name, file in (("python", "model.py"), ("engine", "model.plan")):
            (self.root / name / "1").mkdir(parents=True)
            (self.root / name / "1" / file).write_bytes(b"x")
        self.config("ensemble", 'platform: "ensemble" ensemble_scheduling { step [ { model_name: "plain" model_version: -1 } ] }')

    def test_every_model_is_served_or_refused_with_a_reason(self):
        self.fill()
        with self.served() as server:
            for module, client in self.clients(server):
                with self.subTest(module.__name__):
                    for name, version, factor in (("plain", "", 2), ("apart", "1", 3), ("full", "", 5), ("latest", "", 10),
                                                  ("every", "2", 2), ("every", "", 10), ("some", "", 2), ("some", "1", 1)):
                        self.assertEqual(self.factor(module, client, name, version), factor, name)
                    for name, version in (("latest", "1"), ("some", "10")):
                        self.assertIn("no version", refusal(self.factor, module, client, name, version))
                    self.index(client)

    def index(self, client):
        """What the index says of what is not served."""
        index = client.get_model_repository_index()
        lines = index if isinstance(index, list) else [
            {"name": line.name, "version": line.version, "state": line.state, "reason": line.reason} for line in index.models]
        states = {}
        for line in lines:
            states.setdefault(line["name"], []).append((line.get("version"), line["state"], line["reason"]))
        self.assertEqual([version for version, *_ in states["every"]], ["1", "2", "10"])
        for name, says in (("shape", "[-1, 4]"), ("absent", "policy names (7)"), ("sequence", "sequence_batching"), ("text", "max_batch"), ("python", "'python'"),
                           ("engine", "TensorRT"), ("ensemble", "ensemble")):
            (_, state, reason), = states[name]
            self.assertEqual(state, "UNAVAILABLE", name)
            self.assertIn(says, reason)
        self.assertEqual({name for name, lines in states.items() if lines[0][1] == "READY"},
                         {"plain", "apart", "latest", "every", "some", "full"})

    def test_every_model_can_be_asked_for_at_the_start(self):
        self.fill()
        with self.served(control="explicit", load="*") as server:
            (module, client), _ = self.clients(server)
            self.index(client)
            self.assertEqual(self.factor(module, client, "plain"), 2)

    def test_configuration_and_metadata_are_the_repositorys(self):
        self.fill()
        with self.served() as server:
            (_, http), (_, over_grpc) = self.clients(server)
            for config in (http.get_model_config("full"), over_grpc.get_model_config("full", as_json=True)["config"]):
                self.assertEqual(config["max_batch_size"], 8)
                self.assertEqual([int(dim) for dim in config["input"][0]["dims"]], [3])
                self.assertEqual(config["output"][0]["label_filename"], "labels.txt")
                self.assertEqual(config["parameters"]["team"]["string_value"], "ranking")
                self.assertEqual(config["dynamic_batching"]["preferred_batch_size"], [4])
            self.assertEqual(http.get_model_metadata("full")["inputs"][0]["shape"], [-1, 3])
            self.assertEqual(http.get_model_config("some")["version_policy"], {"specific": {"versions": [1, 2]}})
            wanted = tritonclient.http.InferRequestedOutput("y", class_count=1)
            given = tritonclient.http.InferInput("x", [1, 3], "FP32").set_data_from_numpy(X[:1])
            self.assertTrue(http.infer("full", [given], outputs=[wanted]).as_numpy("y")[0, 0].endswith(b":2:cat"))

    def test_a_batch_larger_than_the_configuration_allows_is_refused(self):
        self.fill()
        with self.served() as server:
            for module, client in self.clients(server):
                for name, rows, taken in (("full", 8, True), ("full", 9, False), ("plain", 9, True)):
                    with self.subTest(module.__name__, name=name, rows=rows):
                        given = module.InferInput("x", [rows, 3], "FP32").set_data_from_numpy(np.ones((rows, 3), np.float32))
                        if taken:
                            self.assertEqual(client.infer(name, [given]).as_numpy("y").shape, (rows, 3))
                            continue
                        with self.assertRaises(InferenceServerException) as refused:
                            client.infer(name, [given])
                        self.assertIn("batch of 9, and the max_batch_size of model 'full' is 8", refused.exception.message())
                        self.assertIn(refused.exception.status(), ("400", "StatusCode.INVALID_ARGUMENT"))

    def test_a_tensor_may_have_another_shape_for_clients(self):
        put(self.root / "reshaped" / "1" / "model.onnx", 3)
        self.config("reshaped", """
            max_batch_size: 8
            input [ { name: "x" data_type: TYPE_FP32 dims: [ 3, 1 ] reshape { shape: [ 3 ] } } ]
            output [ { name: "y" data_type: TYPE_FP32 dims: [ 1, 3, 1 ] reshape { shape: [ 3 ] } } ]""")
        with self.served() as server:
            for module, client in self.clients(server):
                with self.subTest(module.__name__):
                    given = module.InferInput("x", [2, 3, 1], "FP32").set_data_from_numpy(X.reshape(2, 3, 1))
                    answer = client.infer("reshaped", [given]).as_numpy("y")
                    np.testing.assert_array_equal(answer, (X * 3).reshape(2, 1, 3, 1))
                    given = module.InferInput("x", [2, 3], "FP32").set_data_from_numpy(X)
                    self.assertIn("[-1, 3, 1]", refusal(client.infer, "reshaped", [given]))

    def test_a_start_over_an_unchanged_repository_packs_nothing(self):
        put(self.root / "plain" / "1" / "model.onnx", 2)
        with self.served() as server:
            self.assertIn("packing what the repository holds", server.log())
        packs = {path: path.stat().st_mtime_ns for path in (self.folder / "cache").rglob("*") if path.is_file()}
        self.assertTrue(packs)
        with self.served() as server:
            (module, client), _ = self.clients(server)
            self.assertEqual(self.factor(module, client, "plain"), 2)
            self.assertNotIn("packing what the repository holds", server.log())
        self.assertEqual({path: path.stat().st_mtime_ns for path in (self.folder / "cache").rglob("*") if path.is_file()}, packs)
        lines = product.json_lines(product.packhorse("models", "--json", "--store", self.root, "--pack-cache", self.folder / "cache"))
        self.assertEqual([(line["name"], line["version"]) for line in lines], [("plain", 1)])

    def test_polling_follows_the_repository(self):
        put(self.root / "m" / "1" / "model.onnx", 1)
        with self.served(control="poll", poll_interval_s="1") as server:
            (module, client), _ = self.clients(server)

            def answers(factor):
                return lambda: self.factor(module, client, "m") == factor

            self.assertTrue(answers(1)())
            put(self.root / "m" / "2" / "model.onnx", 2)
            self.until("a new version takes over", answers(2))
            self.assertIn("no version", refusal(self.factor, module, client, "m", "1"))
            put(self.root / "m" / "2" / "model.onnx", 7)
            self.until("a version that changed is read again", answers(7))
            (self.root / "m" / "3").mkdir()
            (self.root / "m" / "3" / "model.onnx").write_bytes(b"no model")
            put(self.root / "new" / "1" / "model.onnx", 4)
            self.until("a new model is served", lambda: client.is_model_ready("new"))
            self.assertTrue(answers(7)(), "a version that cannot be served takes nothing over")
            self.config("m", "version_policy { specific { versions: 1 } }")
            self.until("the policy changed", answers(1))
            shutil.rmtree(self.root / "new")
            self.until("a model that went is gone", lambda: not client.is_model_ready("new"))

    def test_loads_may_bring_a_configuration_and_no_files(self):
        for version in (1, 2):
            put(self.root / "m" / str(version) / "model.onnx", version)
        with self.served(control="explicit") as server:
            for module, client in self.clients(server):
                with self.subTest(module.__name__):
                    self.assertFalse(client.is_model_ready("m"))
                    client.load_model("m")
                    self.assertEqual(self.factor(module, client, "m"), 2)
                    client.load_model("m", config=json.dumps({"max_batch_size": 4, "version_policy": {"all": {}}}))
                    self.assertEqual([self.factor(module, client, "m", version) for version in "12"], [1, 2])
                    for config, says in (({"max_batch": 4}, "max_batch"), ({"backend": "python"}, "python"),
                                         ({"max_batch_size": 4, "input": [{"name": "z"}]}, "'z'")):
                        self.assertIn(says, refusal(client.load_model, "m", config=json.dumps(config)))
                    self.assertEqual(self.factor(module, client, "m", "1"), 1, "a load that failed changed something")
                    files = {"file:1/model.onnx": model(9).SerializeToString()}
                    self.assertIn("file:1/model.onnx", refusal(client.load_model, "m", config="{}", files=files))
                    client.load_model("m")
                    self.assertIn("no version", refusal(self.factor, module, client, "m", "1"))
                    client.unload_model("m")
                    self.assertFalse(client.is_model_ready("m"))


class TensorFlowServing(Repositories):
    """TensorFlow Serving's layouts, labels and reload."""

    def rest(self, server, path, body=None):
        """Status and object of a call."""
        request = urllib.request.Request(f"http://{server.http}{path}", None if body is None else json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request, timeout=SECONDS_MAX) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def predicted(self, server, path):
        """What the model at `path` multiplies by."""
        status, answer = self.rest(server, f"/v1/models/{path}:predict", {"instances": X.tolist()})
        return answer["predictions"][0][0] if status == 200 else status

    def test_a_base_of_models_and_one_models_base(self):
        for version in (1, 3):
            put(self.root / "half" / str(version) / "half.onnx", version)
        (self.root / "half" / "4").mkdir()
        (self.root / "half" / "4" / "saved_model.pb").write_bytes(b"x")
        (self.root / "saved" / "1").mkdir(parents=True)
        (self.root / "saved" / "1" / "saved_model.pb").write_bytes(b"x")
        put(self.root / "both" / "1" / "model.onnx", 5)
        (self.root / "both" / "1" / "saved_model.pb").write_bytes(b"x")
        with self.served() as server:
            self.assertEqual(self.predicted(server, "both"), 5)
            _, told = self.rest(server, "/v1/models/saved")
            self.assertIn("no SavedModel", told["model_version_status"][0]["status"]["error_message"])
        shutil.rmtree(self.root / "half" / "4")
        with self.served(self.root / "half") as server:
            self.assertEqual(self.predicted(server, "half"), 3)
            self.assertEqual(self.predicted(server, "half/versions/1"), 404)

    def test_a_model_that_is_refused_as_a_whole_says_why(self):
        put(self.root / "two" / "1" / "model.onnx", 2)
        self.config("two", 'platform: "ensemble"')
        with self.served() as server:
            for path in ("/v1/models/two", "/v1/models/two/versions/1"):
                status, answer = self.rest(server, path)
                self.assertEqual(status, 404)
                self.assertIn("two/config.pbtxt: it is an ensemble", answer["error"])

    def models_config(self):
        """A `models.config` of one model of which two versions are served."""
        for version in (1, 2, 3):
            put(self.root / "m" / str(version) / "model.onnx", version)
        config = self.folder / "models.config"
        config.write_text(f"""
            model_config_list {{
              config {{
                name: "canary" base_path: "{self.root / 'm'}" model_platform: "tensorflow"
                model_version_policy {{ specific {{ versions: 1 versions: 2 }} }}
                version_labels {{ key: "stable" value: 1 }}
                version_labels {{ key: "next" value: 3 }}
              }}
              config {{ name: "gone" base_path: "{self.root / 'gone'}" }}
            }}""", encoding="utf-8")
        return config

    def test_labels_of_a_models_config(self):
        with self.served(self.models_config(), label="canary/mine=2") as server:
            for path, want in (("canary", 2), ("canary/versions/1", 1), ("canary/labels/stable", 1), ("canary/labels/mine", 2),
                               ("canary/labels/next", 404), ("canary/labels/nobody", 404), ("gone", 404)):
                self.assertEqual(self.predicted(server, path), want, path)
            self.assertRegex(server.log(), r"of a version that is not there.* label=next version=3")
            self.assertNotIn("label=stable", server.log())
            status, told = self.rest(server, "/v1/models/canary/labels/stable")
            self.assertEqual((status, told["model_version_status"][0]["version"]), (200, "1"))
            with grpc.insecure_channel(server.grpc) as channel:
                models = tfs_stubs.api("model_service_pb2_grpc").ModelServiceStub(channel)
                spec = model_pb2.ModelSpec(name="canary", version_label="mine")
                told = models.GetModelStatus(status_pb2.GetModelStatusRequest(model_spec=spec), timeout=SECONDS_MAX)
                self.assertEqual([line.version for line in told.model_version_status], [2])
                prediction = tfs_stubs.api("prediction_service_pb2_grpc").PredictionServiceStub(channel)
                request = predict_pb2.PredictRequest(model_spec=spec)
                tensor = tfs_stubs.message("TensorProto")(dtype=1, tensor_content=X.tobytes())
                for size in X.shape:
                    tensor.tensor_shape.dim.add(size=size)
                request.inputs["x"].CopyFrom(tensor)
                answer = prediction.Predict(request, timeout=SECONDS_MAX)
                self.assertEqual(answer.model_spec.version.value, 2)

    def test_a_reload_moves_labels_and_versions(self):
        def config(versions, **labels):
            request = management_pb2.ReloadConfigRequest()
            one = request.config.model_config_list.config.add(name="canary")
            one.model_version_policy.specific.versions.extend(versions)
            for label, version in labels.items():
                one.version_labels[label] = version
            return request

        with self.served(self.models_config(), control="explicit") as server, grpc.insecure_channel(server.manage) as channel:
            reload = tfs_stubs.api("model_service_pb2_grpc").ModelServiceStub(channel).HandleReloadConfigRequest
            reload(config([1, 2], stable=1, canary=2), timeout=SECONDS_MAX)
            self.assertEqual([self.predicted(server, f"canary/labels/{label}") for label in ("stable", "canary")], [1, 2])
            reload(config([2, 3], stable=2), timeout=SECONDS_MAX)
            self.assertEqual(self.predicted(server, "canary/labels/stable"), 2)
            for path in ("canary/versions/1", "canary/labels/canary"):
                self.assertEqual(self.predicted(server, path), 404, path)
            with self.assertRaises(grpc.RpcError) as refused:
                reload(config([2, 3], stable=1), timeout=SECONDS_MAX)
            self.assertEqual(refused.exception.code(), grpc.StatusCode.FAILED_PRECONDITION)
            self.assertEqual(self.predicted(server, "canary/labels/stable"), 2)


class Files(Repositories):
    """A folder of files, and one file."""

    def test_a_folder_of_files_and_one_of_them(self):
        put(self.root / "two.onnx", 2)
        put(self.root / "three.onnx", 3)
        (self.root / "broken.onnx").write_bytes(b"no model")
        with self.served() as server:
            (module, client), _ = self.clients(server)
            self.assertEqual([self.factor(module, client, name) for name in ("two", "three")], [2, 3])
            states = {line["name"]: line["state"] for line in client.get_model_repository_index()}
            self.assertEqual(states, {"two": "READY", "three": "READY", "broken": "UNAVAILABLE"})
        with self.served(self.root / "two.onnx") as server:
            (module, client), _ = self.clients(server)
            self.assertEqual([line["name"] for line in client.get_model_repository_index()], ["two"])
            self.assertEqual(self.factor(module, client, "two"), 2)

    def test_a_cache_that_cannot_be_made_is_for_one_run_and_said(self):
        put(self.root / "two.onnx", 2)
        (self.folder / "file").write_text("", encoding="utf-8")
        blocked = {"XDG_CACHE_HOME": str(self.folder / "file"), "PACKHORSE_PACK_CACHE": ""}
        with unittest.mock.patch.dict(os.environ, blocked), self.served(pack_cache="") as server:
            (module, client), _ = self.clients(server)
            self.assertEqual(self.factor(module, client, "two"), 2)
            self.assertIn("this run only", server.log())


if __name__ == "__main__":
    unittest.main()
