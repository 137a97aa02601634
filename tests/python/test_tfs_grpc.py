"""TensorFlow Serving's gRPC services, as the public stubs speak to them."""

import unittest

import grpc
import numpy as np

import oip_models
import product
import tfs_models
import tfs_stubs

predict_pb2 = tfs_stubs.api("predict_pb2")
model_pb2 = tfs_stubs.api("model_pb2")
input_pb2 = tfs_stubs.api("input_pb2")
classification_pb2 = tfs_stubs.api("classification_pb2")
regression_pb2 = tfs_stubs.api("regression_pb2")
inference_pb2 = tfs_stubs.api("inference_pb2")
metadata_pb2 = tfs_stubs.api("get_model_metadata_pb2")
status_pb2 = tfs_stubs.api("get_model_status_pb2")
management_pb2 = tfs_stubs.api("model_management_pb2")

SECONDS_MAX = product.START_SECONDS_MAX

# Our datatype -> (TensorFlow's, the list that holds it).
TYPES = {
    "FP32": ("DT_FLOAT", "float_val"), "FP64": ("DT_DOUBLE", "double_val"), "INT32": ("DT_INT32", "int_val"),
    "INT16": ("DT_INT16", "int_val"), "INT8": ("DT_INT8", "int_val"), "UINT8": ("DT_UINT8", "int_val"),
    "UINT16": ("DT_UINT16", "int_val"), "UINT32": ("DT_UINT32", "uint32_val"), "UINT64": ("DT_UINT64", "uint64_val"),
    "INT64": ("DT_INT64", "int64_val"), "BOOL": ("DT_BOOL", "bool_val"), "FP16": ("DT_HALF", "half_val"),
    "BF16": ("DT_BFLOAT16", "half_val"), "BYTES": ("DT_STRING", "string_val"),
}


def shaped(datatype, shape):
    tensor = tfs_stubs.message("TensorProto")(dtype=tfs_stubs.DataType[TYPES[datatype][0]].number)
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    return tensor


def floats(array):
    tensor = shaped("FP32", array.shape)
    tensor.tensor_content = np.ascontiguousarray(array, np.float32).tobytes()
    return tensor


def spec(name, **rest):
    made = model_pb2.ModelSpec(name=name, signature_name=rest.get("signature_name", ""))
    if "version" in rest:
        made.version.value = rest["version"]
    if "label" in rest:
        made.version_label = rest["label"]
    return made


def examples(rows, name="x"):
    made = input_pb2.Input()
    for row in rows:
        made.example_list.examples.add().features.feature[name].float_list.value.extend(row)
    return made


class Grpc(unittest.TestCase):
    """One server, one channel."""

    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(product.Server(tfs_models.store()))
        channel = cls.enterClassContext(grpc.insecure_channel(cls.server.grpc))
        cls.prediction = tfs_stubs.api("prediction_service_pb2_grpc").PredictionServiceStub(channel)
        cls.models = tfs_stubs.api("model_service_pb2_grpc").ModelServiceStub(channel)

    def predict(self, model, inputs, outputs=(), **which):
        request = predict_pb2.PredictRequest(model_spec=spec(model, **which), output_filter=outputs)
        for name, tensor in inputs.items():
            request.inputs[name].CopyFrom(tensor)
        return self.prediction.Predict(request, timeout=SECONDS_MAX)

    def refused(self, code, says, call, *arguments, **named):
        with self.assertRaises(grpc.RpcError) as refused:
            call(*arguments, **named)
        self.assertEqual(refused.exception.code(), code, refused.exception.details())
        self.assertIn(says, refused.exception.details())

    def test_predict(self):
        x = np.random.default_rng(10).standard_normal((3, tfs_models.MLP_INPUTS)).astype(np.float32)
        answer = self.predict("mlp", {"x": floats(x)})
        self.assertEqual((answer.model_spec.version.value, answer.model_spec.signature_name), (1, "serving_default"))
        scores = answer.outputs["scores"]
        shape = [dim.size for dim in scores.tensor_shape.dim]
        self.assertEqual(shape, [3, tfs_models.MLP_CLASSES])
        np.testing.assert_allclose(np.reshape(scores.float_val, shape), tfs_models.mlp(x), rtol=1e-3, atol=1e-5)

    def test_every_type_as_values_and_as_content(self):
        self.assertEqual(set(TYPES), set(oip_models.DATATYPES))
        for datatype, (_, field) in TYPES.items():
            values = {"BOOL": [True, False], "BYTES": [b"", b"\xff\n"], "FP16": [0x3E00, 0xC000], "BF16": [0x3F80, 0xC000]}
            values = values.get(datatype, [0, 100])
            with self.subTest(datatype):
                tensor = shaped(datatype, [1, 2])
                getattr(tensor, field).extend(values)
                answer = self.predict(f"identity_{datatype.lower()}", {"x": tensor}).outputs["y"]
                self.assertEqual((answer.dtype, list(getattr(answer, field))), (tensor.dtype, values))
                if datatype == "BYTES":
                    continue
                content = shaped(datatype, [1, 2])
                kind = np.uint16 if field == "half_val" else oip_models.DATATYPES[datatype][1]
                content.tensor_content = np.asarray(values, kind).tobytes()
                self.assertEqual(self.predict(f"identity_{datatype.lower()}", {"x": content}).outputs["y"], answer)

    def test_a_short_list_repeats_its_last_value(self):
        tensor = shaped("FP32", [2, 3])
        tensor.float_val.extend([1, 2])
        self.assertEqual(list(self.predict("identity_fp32", {"x": tensor}).outputs["y"].float_val), [1, 2, 2, 2, 2, 2])
        huge = shaped("FP32", [1 << 20, 1 << 20])
        huge.float_val.append(1)
        self.refused(grpc.StatusCode.INVALID_ARGUMENT, "larger than", self.predict, "identity_fp32", {"x": huge})

    def test_aliases_and_filter(self):
        row, bias = floats(np.asarray([[1, 2, 3]])), floats(np.asarray([0.5]))
        for names, outputs, expected in [(("row", "bias"), (), {"sum", "many"}), (("row:0", "bias"), ["sum"], {"sum"}),
                                         (("row", "bias:0"), ["many:0", "sum"], {"many:0", "sum"})]:
            answer = self.predict("pair", dict(zip(names, (row, bias))), outputs)
            self.assertEqual(set(answer.outputs), expected)
            self.assertEqual(list(answer.outputs["sum"].float_val), [6.0])
        self.refused(grpc.StatusCode.INVALID_ARGUMENT, "no output 'else'", self.predict, "pair", {"row": row, "bias": bias}, ["else"])
        self.refused(grpc.StatusCode.INVALID_ARGUMENT, "missing", self.predict, "pair", {"row": row})

    def test_the_detector(self):
        picture = np.random.default_rng(11).integers(0, 256, (1, 360, 640, 3), dtype=np.uint8)
        tensor = shaped("UINT8", picture.shape)
        tensor.tensor_content = picture.tobytes()
        answer = self.predict("default", {"image_tensor": tensor})
        self.assertEqual(set(answer.outputs), {"num_detections", "detection_classes", "detection_scores", "detection_boxes"})
        self.assertEqual(len(answer.outputs["detection_boxes"].float_val) % 4, 0)

    def test_versions(self):
        one = floats(np.asarray([[3]]))
        answer = self.predict("two", {"x": one}, version=1)
        self.assertEqual((answer.model_spec.version.value, list(answer.outputs["outputs"].float_val)), (1, [3.0]))
        self.refused(grpc.StatusCode.NOT_FOUND, "no version 3", self.predict, "two", {"x": one}, version=3)
        self.refused(grpc.StatusCode.NOT_FOUND, "no labels", self.predict, "two", {"x": one}, label="stable")
        self.refused(grpc.StatusCode.INVALID_ARGUMENT, "no signature", self.predict, "two", {"x": one}, signature_name="b")
        self.refused(grpc.StatusCode.NOT_FOUND, "nobody", self.predict, "nobody", {"x": one})

    def test_classify_regress_and_both(self):
        x = np.random.default_rng(12).standard_normal((2, tfs_models.MLP_INPUTS)).astype(np.float32)
        request = classification_pb2.ClassificationRequest(model_spec=spec("mlp"), input=examples(x))
        answer = self.prediction.Classify(request, timeout=SECONDS_MAX)
        rows = answer.result.classifications
        scores = [[item.score for item in row.classes] for row in rows]
        np.testing.assert_allclose(scores, tfs_models.mlp(x), rtol=1e-3, atol=1e-5)
        self.assertEqual([item.label for item in rows[0].classes], [str(label) for label in range(10)])

        request = regression_pb2.RegressionRequest(model_spec=spec("number"), input=examples([[2.5], [1]]))
        answer = self.prediction.Regress(request, timeout=SECONDS_MAX)
        self.assertEqual([item.value for item in answer.result.regressions], [2.5, 1.0])

        request = inference_pb2.MultiInferenceRequest(input=examples([[4]]))
        for method in ("classify", "regress"):
            request.tasks.add(model_spec=spec("number"), method_name=f"tensorflow/serving/{method}")
        answer = self.prediction.MultiInference(request, timeout=SECONDS_MAX)
        self.assertEqual(answer.results[0].classification_result.classifications[0].classes[0].score, 4.0)
        self.assertEqual(answer.results[1].regression_result.regressions[0].value, 4.0)

    def test_metadata(self):
        request = metadata_pb2.GetModelMetadataRequest(model_spec=spec("default"), metadata_field=["signature_def"])
        answer = self.prediction.GetModelMetadata(request, timeout=SECONDS_MAX)
        self.assertEqual(answer.model_spec.version.value, 1)
        signatures = metadata_pb2.SignatureDefMap()
        self.assertTrue(answer.metadata["signature_def"].Unpack(signatures))
        picture = signatures.signature_def["serving_default"].inputs["image_tensor"]
        self.assertEqual((picture.name, picture.dtype), ("image_tensor:0", tfs_stubs.DataType["DT_UINT8"].number))
        del request.metadata_field[:]
        self.refused(grpc.StatusCode.INVALID_ARGUMENT, "metadata_field", self.prediction.GetModelMetadata, request)

    def test_status_and_reload(self):
        answer = self.models.GetModelStatus(status_pb2.GetModelStatusRequest(model_spec=spec("two")), timeout=SECONDS_MAX)
        states = [(row.version, row.state, row.status.error_code) for row in answer.model_version_status]
        available = status_pb2.ModelVersionStatus.AVAILABLE
        self.assertEqual(states, [(2, available, 0), (1, available, 0)])
        request = status_pb2.GetModelStatusRequest(model_spec=spec("nobody"))
        self.refused(grpc.StatusCode.NOT_FOUND, "nobody", self.models.GetModelStatus, request)
        request = management_pb2.ReloadConfigRequest()
        request.config.model_config_list.config.add(name="mlp", base_path="/models/mlp", model_platform="tensorflow")
        self.refused(grpc.StatusCode.UNIMPLEMENTED, "--control explicit", self.models.HandleReloadConfigRequest, request)


if __name__ == "__main__":
    unittest.main()
