"""TensorFlow Serving's REST API, KServe V1 on the same paths and the packing system's API, by plain HTTP."""

import base64
import http.client
import json
import math
import unittest
import urllib.error
import urllib.request

import numpy as np
import onnxruntime

import product
import tfs_models


class Rest(unittest.TestCase):
    """One server, asked as a script with `requests` would."""

    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(product.Server(tfs_models.store()))

    def ask(self, path, body=None, status=200, method=None):
        """The answer's JSON; `body` is text or an object. Python's reader knows NaN and the infinities by itself."""
        data = None if body is None else (body if isinstance(body, str) else json.dumps(body)).encode()
        request = urllib.request.Request(f"http://{self.server.http}{path}", data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=product.START_SECONDS_MAX) as answer:
                got, text = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            got, text = error.code, error.read()
        self.assertEqual(got, status, text[:500])
        return json.loads(text)

    def refused(self, path, body, status, says):
        error = self.ask(path, body, status)["error"]
        self.assertIn(says, error)

    def test_the_video_systems_call(self):
        pictures = np.random.default_rng(7).integers(0, 256, (2, 360, 640, 3), dtype=np.uint8)
        answer = self.ask("/v1/models/default:predict", {"instances": pictures.tolist()})
        session = onnxruntime.InferenceSession(str(product.ASSETS / "person_ssdlite_odapi.onnx"),
                                               providers=["CPUExecutionProvider"])
        names = ["num_detections", "detection_classes", "detection_scores", "detection_boxes"]
        plain = dict(zip(names, session.run([f"{name}:0" for name in names], {"image_tensor:0": pictures})))
        self.assertEqual(len(answer["predictions"]), len(pictures))
        for index, prediction in enumerate(answer["predictions"]):
            self.assertEqual(set(prediction), set(names))
            for name in names:
                given, expected = np.asarray(prediction[name]), plain[name][index]
                self.assertEqual(given.shape, expected.shape, name)
                np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-4, err_msg=name)
            count = int(prediction["num_detections"])
            self.assertLessEqual(count, len(prediction["detection_scores"]))

    def test_rows_and_columns(self):
        x = np.random.default_rng(8).standard_normal((3, tfs_models.MLP_INPUTS))
        expected = tfs_models.mlp(x)
        for body, key in [({"instances": x.tolist()}, "predictions"), ({"inputs": x.tolist()}, "outputs"),
                          ({"instances": [{"x": row} for row in x.tolist()]}, "predictions"),
                          ({"inputs": {"x": x.tolist()}, "signature_name": "serving_default"}, "outputs")]:
            answer = self.ask("/v1/models/mlp:predict", body)
            self.assertEqual(set(answer), {key})
            np.testing.assert_allclose(np.asarray(answer[key]), expected, rtol=1e-3, atol=1e-5)

    def test_several_inputs_and_outputs(self):
        rows = {"instances": [{"row": [1, 2, 3], "bias": 0}]}
        self.refused("/v1/models/pair:predict", rows, 400, "ask with inputs instead of instances")
        answer = self.ask("/v1/models/pair:predict", {"inputs": {"row:0": [[1, 2, 3]], "bias": [0.5]}})
        self.assertEqual(answer, {"outputs": {"sum": [6.0], "many": [0.5, 0.5]}})
        self.refused("/v1/models/pair:predict", {"inputs": {"row": [[1, 2, 3]]}}, 400, "'bias' is missing")

    def test_not_a_number_goes_both_ways(self):
        answer = self.ask("/v1/models/identity_fp32:predict", '{"instances": [[NaN, Infinity, -Infinity, 1]]}')
        nan, *rest = answer["predictions"][0]
        self.assertTrue(math.isnan(nan))
        self.assertEqual(rest, [math.inf, -math.inf, 1.0])
        self.refused("/v1/models/identity_int32:predict", '{"instances": [[NaN]]}', 400, "INT32 cannot hold")

    def test_every_number_type(self):
        values = {"bool": [True, False], "uint8": [0, 255], "int8": [-128, 127], "uint16": [0, 65535], "int16": [-32768, 32767],
                  "uint32": [0, 2**32 - 1], "int32": [-(2**31), 2**31 - 1], "uint64": [0, 2**64 - 1], "int64": [-(2**63), 2**63 - 1],
                  "fp16": [1.5, -65504.0], "bf16": [1.5, -0.25], "fp32": [0.1, 1e-45], "fp64": [0.1, 1e300], "bytes": ["", "é\n"]}
        for name, row in values.items():
            with self.subTest(name):
                answer = self.ask(f"/v1/models/identity_{name}:predict", {"instances": [row]})
                self.assertEqual(answer, {"predictions": [row]})

    def test_bytes_are_base64(self):
        raw = bytes(range(256))
        coded = {"b64": base64.b64encode(raw).decode()}
        answer = self.ask("/v1/models/strings:predict", {"instances": [coded, {"word": coded}, "text"]})
        self.assertEqual([row["raw_bytes"]["b64"] for row in answer["predictions"]],
                         [coded["b64"], coded["b64"], base64.b64encode(b"text").decode()])
        self.assertEqual(answer["predictions"][2]["text"], "text")
        self.refused("/v1/models/strings:predict", {"instances": [{"b64": "*"}]}, 400, "base64")

    def test_classify_and_regress(self):
        x = np.random.default_rng(9).standard_normal((2, tfs_models.MLP_INPUTS)).astype(np.float32)
        answer = self.ask("/v1/models/mlp:classify", {"examples": [{"x": row} for row in x.tolist()]})
        scores = np.asarray([[score for _, score in row] for row in answer["results"]])
        np.testing.assert_allclose(scores, tfs_models.mlp(x), rtol=1e-3, atol=1e-5)
        self.assertEqual([label for label, _ in answer["results"][0]], [str(label) for label in range(10)])
        answer = self.ask("/v1/models/number:regress", {"context": {"x": 2.5}, "examples": [{}, {"x": 1}]})
        self.assertEqual(answer, {"results": [2.5, 1.0]})
        self.refused("/v1/models/strings:classify", {"examples": [{"word": "a"}]}, 400, "does not classify")

    def test_status_and_versions(self):
        told = self.ask("/v1/models/two")
        self.assertEqual((told["name"], told["ready"]), ("two", True))
        states = [(row["version"], row["state"], row["status"]) for row in told["model_version_status"]]
        fine = {"error_code": "OK", "error_message": ""}
        self.assertEqual(states, [("2", "AVAILABLE", fine), ("1", "AVAILABLE", fine)])
        self.assertEqual(len(self.ask("/V1/Models/two/Versions/1")["model_version_status"]), 1)
        self.assertEqual(self.ask("/v1/models/two/versions/1:predict", {"instances": [[3]]}), {"predictions": [[3.0]]})
        self.refused("/v1/models/two:predict", {"instances": [[3]]}, 400, "wants shape")
        self.refused("/v1/models/two/versions/3:predict", {"instances": [[3]]}, 404, "no version 3")
        self.refused("/v1/models/two/labels/stable:predict", {"instances": [[3]]}, 404, "no labels are configured")
        self.refused("/v1/models/nobody", None, 404, "nobody")
        self.assertIn("mlp", self.ask("/v1/models")["models"])

    def test_metadata(self):
        told = self.ask("/v1/models/default/metadata")
        self.assertEqual(told["model_spec"], {"name": "default", "signature_name": "", "version": "1"})
        signature = told["metadata"]["signature_def"]["signature_def"]["serving_default"]
        self.assertEqual(signature["method_name"], "tensorflow/serving/predict")
        picture = signature["inputs"]["image_tensor"]
        self.assertEqual((picture["dtype"], picture["name"]), ("DT_UINT8", "image_tensor:0"))
        self.assertEqual([dim["size"] for dim in picture["tensor_shape"]["dim"]][-1], "3")
        self.assertIn("detection_boxes", signature["outputs"])

    def test_what_is_wrong_is_refused(self):
        for path, body, status, says in [
            ("mlp:predict", "{", 400, "no JSON"),
            ("mlp:predict", "{}", 400, "exactly one of instances"),
            ("mlp:predict", {"instances": [[1]], "inputs": [[1]]}, 400, "exactly one of instances"),
            ("mlp:predict", {"instances": []}, 400, "empty"),
            ("mlp:predict", {"instances": [[1], [1, 2]]}, 400, "uneven"),
            ("mlp:predict", {"instances": [[1]], "signature_name": "other"}, 400, "no signature 'other'"),
            ("mlp:predict", "[" * 100_000, 400, "'{' is missing"),
            ("mlp:predict", '{"instances":' + "[" * 100_000, 400, "nested deeper"),
            ("mlp:explain", "{}", 501, "no explainer"),
            ("mlp:guess", "{}", 404, "no call ':guess'"),
            ("mlp/versions/1/labels/a:predict", "{}", 404, "exclude each other"),
            ("nobody:predict", "{}", 404, "nobody"),
        ]:
            with self.subTest(path=path, body=str(body)[:40]):
                self.refused(f"/v1/models/{path}", body, status, says)
        self.ask("/v1/models/mlp:predict", status=405)

    def test_the_packing_systems_paths(self):
        self.assertEqual(self.ask("/"), {"Status": "Healthy"})
        self.assertIn("nobody", self.ask("/predictions/nobody?seq_0=Q&seq_1=C", status=404)["detail"])
        for body in (None, "{}"):
            detail = self.ask("/predictions/mlp", body, 400)["detail"]
            self.assertEqual(detail, "model 'mlp' serves tensors and declares no task; "
                                     "use /v2/models/mlp/infer or pack it with a task")

    def test_metrics(self):
        connection = http.client.HTTPConnection(self.server.http, timeout=product.START_SECONDS_MAX)
        self.addCleanup(connection.close)
        connection.request("GET", "/monitoring/prometheus/metrics")
        answer = connection.getresponse()
        self.assertEqual(answer.status, 200)
        self.assertIn(b"packhorse_", answer.read())


if __name__ == "__main__":
    unittest.main()
