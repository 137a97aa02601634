"""The OpenAPI documents are true: a fuzzer makes requests of them, right and wrong ones, and no answer is one that they do not tell."""

import base64
import io
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest
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
    """A file of coloured things, as JSON has it."""
    file = io.BytesIO()
    test_detectors.scene((64, 48)).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


# What is asked rightly: method and path, what stands in the path, and what in the query or the body.
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
    ("post", "/predictions/{model}", {"model": "detector"}, {"image": _picture()}),
    ("post", "/v1/embeddings", {}, {"model": "minilm", "input": [CONTEXT], "encoding_format": "base64"}),
]


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
        cls.server = cls.enterClassContext(product.Server(store))
        cls.models = [model["name"] for model in product.json_lines(product.packhorse("models", "--store", store))]

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
        for operations in document["paths"].values():
            for operation in operations.values():
                for parameter in operation["parameters"]:
                    # Names by chance are names of nothing.
                    if parameter["name"] == "model":
                        parameter["schema"] = {"enum": [*self.models, f"{TEXTS[0]}:answers", "nothing"]}
        self.fuzz(document, self.server.http)

    def test_the_listener_of_probes_does_what_its_document_says(self):
        self.fuzz(self.document(self.server.admin), self.server.admin)

    def test_what_is_asked_rightly_is_answered_as_the_document_says(self):
        schema = schemathesis.openapi.from_dict(self.document(self.server.http))
        for method, path, names, given in RIGHT:
            with self.subTest(f"{method} {path}", **names):
                content = {} if given is None else {"query": given} if method == "get" else {"body": given}
                if method == "post":
                    content["media_type"] = "application/json"
                case = schema[path][method].Case(path_parameters=names, **content)
                answer = case.call_and_validate(base_url=f"http://{self.server.http}")
                self.assertEqual(answer.status_code, 200, answer.text[:300])
