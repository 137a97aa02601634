"""The OpenAPI documents are true: a fuzzer makes requests of them, right and wrong ones, and no answer is one that they do not tell."""

import base64
import copy
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest
import unittest.mock
import urllib.request

import onnx
import schemathesis

import detector_models
import product
import test_detectors
import test_text
import tfs_models

# Statuses that are an answer, though they count as the server's: what is not served here, not now, or not in time.
SETTINGS = """
[checks]
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "501", "503", "504"]
"""
CHECKS = ["not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
          "response_schema_conformance", "negative_data_rejection", "unsupported_method", "allow_header_conformance"]
TEXTS = ("bert-qa", "bert-sequence", "bert-token", "bert-mlm")
EXAMPLES = 12
FLOATS = {"name": "x", "datatype": "FP32", "shape": [1, tfs_models.MLP_INPUTS], "data": [0.5] * tfs_models.MLP_INPUTS}
CONTEXT = "A packhorse carries wool."


def _picture():
    """A file of coloured things."""
    file = io.BytesIO()
    test_detectors.scene((64, 48)).save(file, "png")
    return file.getvalue()


PNG = _picture()
# What is asked rightly: method and path, what stands in the path, and what in the query or the body, which is JSON unless
# it comes with its type.
RIGHT = [
    ("get", "/v2", {}, None),
    ("get", "/v2/models/{model}/config", {"model": "mlp"}, None),
    ("get", "/v2/models/{model}/versions/{version}/stats", {"model": "mlp", "version": 1}, None),
    ("post", "/v2/models/{model}/infer", {"model": "mlp"}, {"inputs": [FLOATS]}),
    ("post", "/v2/models/{model}/infer", {"model": "bert-sequence"},
     {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": [CONTEXT]}]}),
    ("get", "/v2/models/{model}", {"model": "bert-qa:answers"}, None),
    ("get", "/v2/models/{model}/config", {"model": "bert-qa:answers"}, None),
    ("get", "/v2/models/{model}/stats", {"model": "bert-qa:answers"}, None),
    ("post", "/v2/models/{model}/infer", {"model": "bert-sequence:answers"},
     {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": [CONTEXT]}], "parameters": {"top_k": 1}}),
    ("post", "/v2/repository/index", {}, {"ready": True}),
    ("get", "/v1/models/{model}", {"model": "mlp"}, None),
    ("get", "/v1/models/{model}/metadata", {"model": "mlp"}, None),
    ("post", "/v1/models/{model}:predict", {"model": "mlp"}, {"instances": [FLOATS["data"]]}),
    ("post", "/v1/models/{model}:predict", {"model": "mlp"}, {"inputs": [FLOATS["data"]]}),
    ("post", "/v1/models/{model}:classify", {"model": "mlp"}, {"examples": [{"x": FLOATS["data"]}]}),
    ("get", "/predictions/{model}", {"model": "bert-qa"}, {"seq_0": "What?", "seq_1": CONTEXT}),
    ("post", "/predictions/{model}", {"model": "bert-token"}, {"inputs": [CONTEXT], "parameters": {}}),
    ("post", "/predictions/{model}", {"model": "detector"}, {"image": base64.b64encode(PNG).decode()}),
    ("post", "/predictions/{model}", {"model": "detector"}, ("application/octet-stream", PNG)),
    ("post", "/predictions/{model}", {"model": "detector"}, ("image/png", PNG)),
    ("post", "/predictions/{model}", {"model": "detector"}, ("multipart/form-data", {"image": PNG})),
    ("post", "/predictions/{model}", {"model": "minilm"}, ("text/plain", CONTEXT)),
    ("post", "/predictions/{model}", {"model": "minilm"}, ("multipart/form-data", {"text": CONTEXT})),
    ("post", "/predictions/{model}", {"model": "bert-qa"},
     ("application/x-www-form-urlencoded", {"question": "What?", "context": CONTEXT})),
    ("post", "/v1/embeddings", {}, {"model": "minilm", "input": [CONTEXT], "encoding_format": "base64"}),
]
# The same, in this order, of what the management listener alone allows.
RIGHT_TO_CHANGE = [
    ("post", "/v2/repository/models/{model}/unload", {"model": "mlp"}, {}),
    ("post", "/v2/repository/models/{model}/load", {"model": "mlp"}, None),
    ("post", "/v2/models/{model}/infer", {"model": "mlp"}, {"inputs": [FLOATS]}),
    ("get", "/v2/logging", {}, None),
    ("post", "/v2/logging", {}, {"log_verbose_level": 0, "log_info": True}),
]
MANAGED = {"PACKHORSE_MANAGE": "127.0.0.1:0", "PACKHORSE_CONTROL": "explicit", "PACKHORSE_LOAD": "mlp"}
# Which models are asked by which call; by others the first of all. Names by chance are names of nothing.
ASKED = {
    "/predictions/{model}": ("bert-qa", "bert-token", "minilm", "detector"),
    "/v1/models/{model}:predict": ("mlp", "bert-qa", "detector"),
    "/v2/models/{model}": ("mlp", "bert-qa:answers"),
    "/v2/models/{model}/infer": ("mlp", "bert-qa", "minilm:answers", "detector:answers"),
}


def with_models(paths):
    """These paths, with one of its own for each model that is asked, and of their versions that which there is."""
    told = {}
    for path, operations in paths.items():
        for model in ASKED.get(path, ("mlp",)):
            filled = copy.deepcopy(operations)
            for operation in filled.values():
                operation["operationId"] += f" of {model}"
                operation["parameters"] = [one for one in operation["parameters"] if one["name"] != "model"]
                for parameter in operation["parameters"]:
                    if parameter["name"] == "version":
                        parameter["schema"] = {"const": 1}
            told[path.replace("{model}", model)] = filled
    return told


class OpenApi(unittest.TestCase):
    """A server with models of tensors, of texts and of pictures."""

    @classmethod
    def setUpClass(cls):
        cls.place = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="packhorse-openapi-")))
        store = pathlib.Path(shutil.copytree(tfs_models.store(), cls.place / "store"))
        for model in TEXTS:
            product.packhorse("pack", test_text.folder_of(cls.place, model), "--store", store, "--copy")
        product.packhorse("pack", test_text.MINILM, "--store", store, "--name", "minilm")
        onnx.save(detector_models.HEADS["yolov8"](), str(cls.place / "detector.onnx"))
        product.packhorse("pack", cls.place / "detector.onnx", "--store", store, "--task", "object-detection")
        cls.server, cls.store = cls.enterClassContext(product.Server(store)), store

    def document(self, address):
        with urllib.request.urlopen(f"http://{address}/openapi.json", timeout=product.START_SECONDS_MAX) as answer:
            self.assertEqual(answer.headers["content-type"], "application/json")
            return json.load(answer)

    def fuzz(self, document, address):
        """Requests of `document`, the same ones every time."""
        settings, file = self.place / "schemathesis.toml", self.place / "openapi.json"
        settings.write_text(SETTINGS, encoding="utf-8")
        file.write_text(json.dumps(document), encoding="utf-8")
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", settings, "run", file, "--url", f"http://{address}",
                   "--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES),
                   "--generation-deterministic", "--no-shrink", "--continue-on-failure",
                   "--request-timeout", "30", "--suppress-health-check", "all", "--warnings", "off", "--no-color"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, cwd=self.place)
        self.assertEqual(done.returncode, 0, f"{done.stdout[-60000:]}\n{done.stderr[-2000:]}\n{self.server.log()[-2000:]}")

    def test_the_public_listener_does_what_its_document_says(self):
        document = self.document(self.server.http)
        self.fuzz(document | {"paths": with_models(document["paths"])}, self.server.http)

    def test_the_listener_for_management_does_what_its_document_says(self):
        with unittest.mock.patch.dict(os.environ, MANAGED):
            server = self.enterContext(product.Server(self.store))
        document = self.document(server.manage)
        self.assertEqual(document, self.document(server.http))
        self.check_right(document, server.manage, RIGHT_TO_CHANGE)
        # All else is as on the public one, which refuses these.
        changes = {path: operations for path, operations in document["paths"].items()
                   if any("403" in operation["responses"] for operation in operations.values())}
        self.assertIn("/v2/logging", changes)
        self.fuzz(document | {"paths": with_models(changes)}, server.manage)

    def test_the_listener_of_probes_does_what_its_document_says(self):
        self.fuzz(self.document(self.server.admin), self.server.admin)

    def check_right(self, document, address, right):
        """That each of these is answered, in the form that the document tells."""
        schema = schemathesis.openapi.from_dict(document)
        for method, path, names, given in right:
            with self.subTest(f"{method} {path}", **names):
                kind, given = given if isinstance(given, tuple) else ("application/json", given)
                content = {"query": given} if method == "get" else {"body": given, "media_type": kind}
                if given is None:
                    content = {}
                if content.get("body"):
                    self.assertIn(kind, document["paths"][path][method]["requestBody"]["content"])
                case = schema[path][method].Case(path_parameters=names, **content)
                answer = case.call_and_validate(base_url=f"http://{address}")
                self.assertEqual(answer.status_code, 200, answer.text[:300])

    def test_what_is_asked_rightly_is_answered_as_the_document_says(self):
        self.check_right(self.document(self.server.http), self.server.http, RIGHT)
