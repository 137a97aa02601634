"""The Open Inference Protocol over gRPC, as the public Triton client speaks it: the same table as over HTTP."""

import unittest

import grpc
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype

import oip_models
import oip_table
import product

# Which list of InferTensorContents holds a datatype.
CONTENTS = {"FP32": "fp32_contents", "INT64": "int64_contents"}


def _tensor(name, array):
    return triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)).set_data_from_numpy(array)


def answer(test, question):
    """Checks a question with tensors as raw bytes, the client's only form."""
    outputs = [triton.InferRequestedOutput(name) for name in question.outputs] or None
    result = test.client.infer(question.model, [_tensor(name, array) for name, array in question.inputs.items()],
                               outputs=outputs, request_id=question.name)
    response = result.get_response()
    test.assertEqual((response.model_name, response.id), (question.model, question.name))
    given = [output.name for output in response.outputs]
    test.assertEqual(given, list(question.outputs) or [name for name, _, _ in oip_models.signature(question.model)[1]])
    oip_table.compare(test, question, {name: result.as_numpy(name) for name in given})


def mistake(test, row):
    """Checks that a bad request, with typed contents, is refused by code and in words."""
    request = service_pb2.ModelInferRequest(model_name=row.model, model_version=row.version)
    for given in row.inputs:
        tensor = request.inputs.add(name=given["name"], datatype=given["datatype"], shape=given["shape"])
        getattr(tensor.contents, CONTENTS.get(given["datatype"], "fp32_contents")).extend(given["data"])
    for name in row.outputs:
        request.outputs.add(name=name)
    with test.assertRaises(grpc.RpcError) as refused:
        test.stub.ModelInfer(request, timeout=product.START_SECONDS_MAX)
    test.assertEqual(refused.exception.code().name, row.grpc, refused.exception.details())
    test.assertTrue(refused.exception.details())
    test.assertTrue(test.client.is_server_live())


@oip_table.tests(oip_table.QUESTIONS, answer)
@oip_table.tests(oip_table.MISTAKES, mistake)
class Grpc(unittest.TestCase):
    """Both tables, and what the server says about itself."""

    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(product.Server(oip_models.store()))
        cls.client = triton.InferenceServerClient(cls.server.grpc)
        cls.addClassCleanup(cls.client.close)
        channel = cls.enterClassContext(grpc.insecure_channel(cls.server.grpc))
        cls.stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

    def test_health_and_readiness(self):
        self.assertTrue(self.client.is_server_live())
        self.assertTrue(self.client.is_server_ready())
        self.assertTrue(self.client.is_model_ready("bert"))
        self.assertTrue(self.client.is_model_ready("bert", "1"))

    def test_server_metadata(self):
        told = self.client.get_server_metadata()
        self.assertEqual(told.name, "packhorse")
        self.assertTrue(told.version)

    def test_model_metadata(self):
        for model in oip_models.files():
            with self.subTest(model):
                told = self.client.get_model_metadata(model)
                self.assertEqual((told.name, list(told.versions)), (model, ["1"]))
                for given, expected in zip((told.inputs, told.outputs), oip_models.signature(model)):
                    self.assertEqual([(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in given], expected)

    def test_typed_contents_are_read(self):
        request = service_pb2.ModelInferRequest(model_name="scalar")
        tensor = request.inputs.add(name="x", datatype="FP32", shape=[])
        tensor.contents.fp32_contents.append(2.5)
        reply = self.stub.ModelInfer(request, timeout=product.START_SECONDS_MAX)
        self.assertEqual(list(reply.outputs[0].contents.fp32_contents), [2.5])


if __name__ == "__main__":
    unittest.main()
