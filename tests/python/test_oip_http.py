"""The Open Inference Protocol over HTTP, as the public Triton client speaks it, and what no client would send."""

import concurrent.futures
import dataclasses
import http.client
import json
import os
import unittest

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import np_to_triton_dtype

import oip_models
import oip_table
import product

SLOW_SECONDS_MAX = 120


def _tensor(name, array, binary):
    tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    return tensor.set_data_from_numpy(array, binary_data=binary)


def _ask(client, question, binary):
    """Output name -> array. Binary and unnamed outputs is the client's default; JSON must be asked for by name."""
    names = [name for name, _, _ in oip_models.signature(question.model)[1]]
    wanted = question.outputs or (() if binary else names)
    result = client.infer(question.model, [_tensor(name, array, binary) for name, array in question.inputs.items()],
                          outputs=[triton.InferRequestedOutput(name, binary_data=binary) for name in wanted] or None,
                          request_id=question.name)
    response = result.get_response()
    given = [output["name"] for output in response["outputs"]]
    if given != list(wanted or names) or response.get("id") != question.name:
        raise AssertionError(f"asked for {wanted or names} as {question.name}, got {given} as {response.get('id')}")
    return {name: result.as_numpy(name) for name in given}


def _raw(address, method, path, body=b"", headers=None):
    """(status, body) of one request on a connection of its own."""
    connection = http.client.HTTPConnection(address, timeout=SLOW_SECONDS_MAX)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class _Served(unittest.TestCase):
    """One server for all tests of a class."""

    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(product.Server(oip_models.store()))
        cls.client = triton.InferenceServerClient(cls.server.http, network_timeout=SLOW_SECONDS_MAX)
        cls.addClassCleanup(cls.client.close)


def binary(test, question):
    """Checks a question with tensors as raw bytes, the client's default."""
    oip_table.compare(test, question, _ask(test.client, question, binary=True))


def json_data(test, question):
    """Checks a question with tensors as JSON both ways."""
    oip_table.compare(test, question, _ask(test.client, question, binary=False))


@oip_table.tests(oip_table.QUESTIONS, binary)
@oip_table.tests([question for question in oip_table.QUESTIONS if question.json], json_data)
class Answers(_Served):
    """Every question of the table, and what the server says about itself."""

    def test_health_and_readiness(self):
        self.assertTrue(self.client.is_server_live())
        self.assertTrue(self.client.is_server_ready())
        self.assertTrue(self.client.is_model_ready("bert"))
        self.assertTrue(self.client.is_model_ready("bert", "1"))
        self.assertFalse(self.client.is_model_ready("nobody"))

    def test_server_metadata(self):
        told = self.client.get_server_metadata()
        self.assertEqual(told["name"], "packhorse")
        self.assertTrue(told["version"])
        self.assertIn("binary_tensor_data", told["extensions"])

    def test_model_metadata(self):
        for model in oip_models.files():
            with self.subTest(model):
                told = self.client.get_model_metadata(model)
                self.assertEqual((told["name"], told["versions"]), (model, ["1"]))
                self.assertTrue(told["platform"])
                for side, expected in zip(("inputs", "outputs"), oip_models.signature(model)):
                    given = [(tensor["name"], tensor["datatype"], tensor["shape"]) for tensor in told[side]]
                    self.assertEqual(given, expected)

    def test_version_in_the_path(self):
        result = self.client.infer("scalar", [_tensor("x", np.array(2, np.float32), True)], "1")
        self.assertEqual(result.get_response()["model_version"], "1")

    def test_binary_in_and_json_out(self):
        question = next(row for row in oip_table.QUESTIONS if row.name == "two_inputs")
        inputs = [_tensor(name, array, name == "left") for name, array in question.inputs.items()]
        outputs = [triton.InferRequestedOutput("sum", binary_data=False),
                   triton.InferRequestedOutput("difference", binary_data=True)]
        result = self.client.infer("arithmetic", inputs, outputs=outputs)
        oip_table.compare(self, question, {name: result.as_numpy(name) for name in ("sum", "difference")})


_INFER = "/v2/models/arithmetic/infer"
_SCALAR = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [],
                                  "parameters": {"binary_data_size": 4}}]}).encode()


@dataclasses.dataclass(frozen=True)
class _Broken:
    """One raw request and the status that refuses it."""

    name: str
    status: int
    method: str
    path: str
    body: bytes = b""
    headers: dict = dataclasses.field(default_factory=dict)


# What only HTTP can get wrong.
BROKEN = [_Broken(*row) for row in (
    ("json_cut_short", 400, "POST", _INFER, b'{"inputs": ['),
    ("json_that_is_a_list", 400, "POST", _INFER, b"[]"),
    ("json_nested_beyond_sense", 400, "POST", _INFER, b"[" * 100_000),
    ("no_body", 400, "POST", _INFER),
    ("no_inputs", 400, "POST", _INFER, b'{"inputs": []}'),
    ("data_of_the_wrong_kind", 400, "POST", _INFER,
     json.dumps({"inputs": [{"name": "left", "datatype": "FP32", "shape": [1, 3], "data": ["a", "b", "c"]}]}).encode()),
    ("header_length_beyond_the_body", 400, "POST", "/v2/models/scalar/infer", _SCALAR,
     {"Inference-Header-Content-Length": str(len(_SCALAR) + 1)}),
    ("header_length_that_is_no_number", 400, "POST", "/v2/models/scalar/infer", _SCALAR,
     {"Inference-Header-Content-Length": "many"}),
    ("header_length_below_zero", 400, "POST", "/v2/models/scalar/infer", _SCALAR,
     {"Inference-Header-Content-Length": "-1"}),
    ("binary_data_that_is_missing", 400, "POST", "/v2/models/scalar/infer", _SCALAR,
     {"Inference-Header-Content-Length": str(len(_SCALAR))}),
    ("binary_data_that_nobody_claims", 400, "POST", "/v2/models/scalar/infer", _SCALAR + bytes(5),
     {"Inference-Header-Content-Length": str(len(_SCALAR))}),
    ("get_of_infer", 405, "GET", _INFER),
    ("post_of_metadata", 405, "POST", "/v2/models/arithmetic", b"{}"),
    ("path_that_is_none", 404, "GET", "/v2/nothing"),
    ("metadata_of_an_unknown_model", 404, "GET", "/v2/models/nobody"),
)]


def mistake(test, row):
    """Checks that a bad request is refused by code and in words."""
    version = f"/versions/{row.version}" if row.version else ""
    body = {"inputs": row.inputs, "outputs": [{"name": name} for name in row.outputs]}
    if not row.outputs:
        del body["outputs"]
    path = f"/v2/models/{row.model}{version}/infer"
    refused(test, _Broken(row.name, row.http, "POST", path, json.dumps(body).encode()))


def refused(test, row):
    """Checks one raw request's refusal, and that the server has not been hurt by it."""
    status, text = _raw(test.server.http, row.method, row.path, row.body, row.headers)
    test.assertEqual(status, row.status, text)
    if status != 405:
        test.assertTrue(json.loads(text)["error"])
    test.assertTrue(test.client.is_server_live())


@oip_table.tests(oip_table.MISTAKES, mistake)
@oip_table.tests(BROKEN, refused)
class Refusals(_Served):
    """Every mistake of the table, and those that only HTTP can make."""


class Load(unittest.TestCase):
    """A server whose every lane is busy, and one that is told to go in the middle of its work."""

    _BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]}]})

    def _slow(self, server):
        status, body = _raw(server.http, "POST", "/v2/models/slow/infer", self._BODY)
        return status, json.loads(body).get("outputs", [{}])[0].get("data")

    def test_health_and_metrics_answer_while_every_lane_is_busy(self):
        requests = 2 * len(os.sched_getaffinity(0)) + 1
        with product.Server(oip_models.store()) as server, concurrent.futures.ThreadPoolExecutor(requests) as pool:
            answers = [pool.submit(self._slow, server) for _ in range(requests)]
            told = [server.get("/v2/health/live"), server.get("/v2/health/ready"), server.get("/metrics", server.admin)]
            self.assertEqual(told, [200, 200, 200])
            self.assertFalse(all(answer.done() for answer in answers), "the lanes were not busy: make `slow` slower")
            for answer in answers:
                self.assertEqual(answer.result(SLOW_SECONDS_MAX), (200, [1.0]))

    def test_drain_finishes_what_it_holds(self):
        with product.Server(oip_models.store()) as server, concurrent.futures.ThreadPoolExecutor(1) as pool:
            # The first answer builds the session, so that the second request is inside the run when the signal comes.
            self.assertEqual(self._slow(server), (200, [1.0]))
            answer = pool.submit(self._slow, server)
            # Each of these connects after the request above or beside it; together they outlast its few hundred bytes.
            for _ in range(20):
                self.assertEqual(server.get("/v2/health/live"), 200)
            self.assertFalse(answer.done(), "the request ended before the signal: make `slow` slower")
            self.assertEqual(server.drain(SLOW_SECONDS_MAX), 0, server.log())
            self.assertEqual(answer.result(SLOW_SECONDS_MAX), (200, [1.0]))
            with self.assertRaises(OSError):
                server.get("/v2/health/live")


if __name__ == "__main__":
    unittest.main()
