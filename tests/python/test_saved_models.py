"""TensorFlow SavedModels, served as TensorFlow Serving's and Triton's users have them: answers are TensorFlow's own.

The runtime is fetched for x86-64 alone; elsewhere these tests are left out.
"""

import base64
import json
import pathlib
import platform
import shutil
import tempfile
import unittest
import urllib.error
import urllib.request

import grpc
import ml_dtypes
import numpy as np
import tritonclient.grpc
import tritonclient.http

import frames
import product
import reference_odapi
import test_tfs_grpc
import tfs_stubs

predict_pb2 = tfs_stubs.api("predict_pb2")
prediction_grpc = tfs_stubs.api("prediction_service_pb2_grpc")
SECONDS_MAX = product.START_SECONDS_MAX
FIXTURES = product.ROOT / "crates" / "store" / "tests" / "fixtures" / "saved_models"
REFERENCE = json.loads((FIXTURES / "reference.json").read_text(encoding="utf-8"))
# TensorFlow's name of a datatype -> the Open Inference Protocol's.
DATATYPES = {"bool": "BOOL", "float16": "FP16", "bfloat16": "BF16", "float32": "FP32", "float64": "FP64", "string": "BYTES",
             **{f"{sign}int{bits}": f"{sign}int{bits}".upper() for sign in ("", "u") for bits in (8, 16, 32, 64)}}
FROZEN = product.ROOT / ".cache" / "ssdlite" / "frozen_inference_graph.pb"


def array(told):
    """A tensor of reference.json."""
    if told["dtype"] == "string":
        words = [base64.b64decode(word) for word in told["content"]]
        return np.array(words, dtype=object).reshape(told["shape"])
    dtype = ml_dtypes.bfloat16 if told["dtype"] == "bfloat16" else np.dtype(told["dtype"])
    return np.frombuffer(bytes.fromhex(told["content"]), dtype).reshape(told["shape"])


def put_version(folder, name):
    """A fixture as a version's folder."""
    shutil.copytree(FIXTURES / name, folder)


def wrap_frozen(folder):
    """The detector's frozen graph as a SavedModel, with the signature that its makers' exporter gives it."""
    saved = tfs_stubs.message("SavedModel")(saved_model_schema_version=1)
    meta = saved.meta_graphs.add()
    meta.meta_info_def.tags.append("serve")
    meta.graph_def.ParseFromString(FROZEN.read_bytes())
    signature = meta.signature_def["serving_default"]
    signature.method_name = "tensorflow/serving/predict"

    def tensor(side, alias, name, dtype, shape):
        info = side[alias]
        info.name, info.dtype = f"{name}:0", dtype
        for size in shape:
            info.tensor_shape.dim.add(size=size)

    tensor(signature.inputs, "inputs", "image_tensor", 4, [-1, -1, -1, 3])
    for alias, shape in (("detection_boxes", [-1, 100, 4]), ("detection_scores", [-1, 100]),
                         ("detection_classes", [-1, 100]), ("num_detections", [-1])):
        tensor(signature.outputs, alias, alias, 1, shape)
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(saved.SerializeToString())


def same_numbers(got, want):
    """Answers of another CPU than that on which the reference was made are summed in another order."""
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)


@unittest.skipUnless(platform.machine() == "x86_64", "TensorFlow is fetched for x86-64 alone")
class SavedModels(unittest.TestCase):
    """Two servers: one over TensorFlow Serving's layout, one over Triton's."""

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="packhorse-saved-models-")))
        base, triton = cls.folder / "base", cls.folder / "triton"
        for name in ("affine", "words", "types"):
            put_version(base / name / "3", name)
        put_version(base / "reader" / "1", "reader")
        wrap_frozen(base / "default" / "1")
        put_version(triton / "affine" / "1" / "model.savedmodel", "affine")
        (triton / "affine" / "config.pbtxt").write_text("""
            name: "affine" platform: "tensorflow_savedmodel" max_batch_size: 8
            input [{ name: "x" data_type: TYPE_FP32 dims: [4] }, { name: "scale" data_type: TYPE_FP32 dims: [1] }]
            output [{ name: "y" data_type: TYPE_FP32 dims: [3] }]""", encoding="utf-8")
        cls.tfs = cls.enterClassContext(product.Server(base))
        cls.triton = cls.enterClassContext(product.Server(triton))

    def test_tensorflow_servings_grpc(self):
        with grpc.insecure_channel(self.tfs.grpc) as channel:
            predict = prediction_grpc.PredictionServiceStub(channel).Predict
            for name in ("affine", "words", "types"):
                for ask in REFERENCE[name]:
                    request = predict_pb2.PredictRequest()
                    request.model_spec.name = name
                    for alias, told in ask["inputs"].items():
                        values = array(told)
                        tensor = test_tfs_grpc.shaped(DATATYPES[told["dtype"]], values.shape)
                        if told["dtype"] == "string":
                            tensor.string_val.extend(values.reshape(-1).tolist())
                        else:
                            tensor.tensor_content = values.tobytes()
                        request.inputs[alias].CopyFrom(tensor)
                    answer = predict(request, timeout=SECONDS_MAX)
                    self.assertEqual((answer.model_spec.version.value, answer.model_spec.signature_name),
                                     (3, "serving_default"))
                    self.assertEqual(sorted(answer.outputs), sorted(ask["outputs"]))
                    for alias, told in ask["outputs"].items():
                        with self.subTest(model=name, output=alias):
                            want = array(told)
                            got = getattr(answer.outputs[alias], test_tfs_grpc.TYPES[DATATYPES[told["dtype"]]][1])
                            if told["dtype"] in ("float32", "float64"):
                                same_numbers(np.array(got, want.dtype), want.reshape(-1))
                                continue
                            # Half numbers travel as their bits.
                            bits = want.view(np.uint16) if told["dtype"] in ("float16", "bfloat16") else want
                            self.assertEqual(list(got), bits.reshape(-1).tolist())

    def test_tritons_http_and_grpc(self):
        for module, address in ((tritonclient.http, self.triton.http), (tritonclient.grpc, self.triton.grpc)):
            client = module.InferenceServerClient(address)
            self.addCleanup(client.close)
            self.assertTrue(client.is_model_ready("affine"))
            for ask in REFERENCE["affine"]:
                inputs = []
                for alias in ("x", "scale"):
                    values = array(ask["inputs"][alias])
                    inputs.append(module.InferInput(alias, list(values.shape), "FP32"))
                    inputs[-1].set_data_from_numpy(values)
                answer = client.infer("affine", inputs)
                same_numbers(answer.as_numpy("y"), array(ask["outputs"]["y"]))
        config = tritonclient.http.InferenceServerClient(self.triton.http).get_model_config("affine")
        self.assertEqual((config["platform"], config["backend"], config["max_batch_size"]),
                         ("tensorflow_savedmodel", "tensorflow", 8))

    def test_many_at_once_answer_as_alone(self):
        asks = REFERENCE["affine"]
        wrong = []

        def ask(seed):
            client = tritonclient.http.InferenceServerClient(self.triton.http)
            for turn in range(20):
                told = asks[(seed + turn) % len(asks)]
                inputs = []
                for alias in ("x", "scale"):
                    values = array(told["inputs"][alias])
                    inputs.append(tritonclient.http.InferInput(alias, list(values.shape), "FP32"))
                    inputs[-1].set_data_from_numpy(values)
                got = client.infer("affine", inputs).as_numpy("y")
                # Rows of a larger matrix may be summed in another order.
                if not np.allclose(got, array(told["outputs"]["y"]), rtol=1e-5, atol=1e-6):
                    wrong.append((seed, turn))
            client.close()

        product.at_once(ask, 8)
        self.assertEqual(wrong, [])

    def rest(self, path, body=None):
        """Status and object of a call of TensorFlow Serving's REST."""
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(f"http://{self.tfs.http}{path}", data, timeout=SECONDS_MAX) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def test_the_video_systems_call(self):
        street = product.ASSETS / "street.mp4"
        width_px, height_px = frames.size_px(street)
        pictures = list(frames.decode(street, [], (width_px, height_px), 2))
        body = {"instances": [picture.tolist() for picture in pictures]}
        status, answer = self.rest("/v1/models/default:predict", body)
        self.assertEqual(status, 200, answer)
        for got, want in zip(answer["predictions"], reference_odapi.run(street, limit=2)):
            outputs = [np.asarray([got[name]]) for name in ("detection_boxes", "detection_scores", "detection_classes",
                                                            "num_detections")]
            found = reference_odapi.detections(outputs, width_px, height_px)
            self.assertEqual(len(found), len(want))
            for one, other in zip(found, want):
                self.assertEqual(one["class"], other["class"])
                self.assertAlmostEqual(one["score"], other["score"], delta=1e-3)
                np.testing.assert_allclose(one["box_px"], other["box_px"], atol=0.5)

    def test_status_metadata_and_refusals(self):
        _, told = self.rest("/v1/models/affine/metadata")
        signature = told["metadata"]["signature_def"]["signature_def"]["serving_default"]
        self.assertEqual(sorted(signature["inputs"]), ["scale", "x"])
        self.assertEqual(signature["outputs"]["y"]["dtype"], "DT_FLOAT")
        _, told = self.rest("/v1/models/reader")
        line = told["model_version_status"][0]
        self.assertNotEqual(line["state"], "AVAILABLE")
        self.assertIn("ReadFile", line["status"]["error_message"])
        status, told = self.rest("/v1/models/affine:predict", {"inputs": {"x": [[1, 2, 3]], "scale": [[1]]}})
        self.assertEqual(status, 400)
        self.assertIn("shape", told["error"])
        self.assertNotIn("Restoring SavedModel", self.tfs.log())


if __name__ == "__main__":
    unittest.main()
