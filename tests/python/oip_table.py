"""What a client of the Open Inference Protocol may ask and what it must be told: one table, run over HTTP and over gRPC."""

import dataclasses

import numpy as np

import oip_models

# Token ids of bert_tiny_qa.onnx.
VOCABULARY = 28996


@dataclasses.dataclass(frozen=True)
class Question:
    """A request that must be answered as ONNX Runtime itself answers it."""

    name: str
    model: str
    inputs: dict
    # Named outputs, in the order asked for; none asks for all.
    outputs: tuple = ()
    # Largest difference allowed; nothing but the very bits where it is 0. Packing may reorder sums, so products get some.
    tolerance: float = 0.0
    # False where JSON has no form for the values.
    json: bool = True


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A request that must be refused, with the protocol's own code on either wire."""

    name: str
    http: int
    grpc: str
    model: str = "arithmetic"
    version: str = ""
    inputs: tuple = ()
    outputs: tuple = ()


def _samples(datatype):
    """A [2, 3] array with the datatype's extremes."""
    numpy_type = oip_models.DATATYPES[datatype][1]
    if datatype == "BOOL":
        values = [True, False, True, True, False, False]
    elif datatype == "BYTES":
        values = ["", "plain", 'quote " and \\', "two\nlines", "naïve ☂ 🐎", "x" * 300]
    elif np.issubdtype(numpy_type, np.integer):
        limits = np.iinfo(numpy_type)
        values = [limits.min, limits.max, 0, 1, limits.max - 1, 42]
    else:
        values = [0.0, -0.0, 1 / 3, -2.5, 1e-5, 300.5]
    return np.array(values, dtype=numpy_type).reshape(2, 3)


def _text(batch, length):
    random = np.random.default_rng(7)
    return {"input_ids": random.integers(0, VOCABULARY, (batch, length)),
            "attention_mask": np.ones((batch, length), np.int64),
            "token_type_ids": np.zeros((batch, length), np.int64)}


def _picture():
    return {"input_1:0": np.random.default_rng(8).standard_normal((1, 3, 416, 416)).astype(np.float32)}


def _identities():
    for datatype, (_, numpy_type) in oip_models.DATATYPES.items():
        model = f"identity_{datatype.lower()}"
        # JSON numbers stand for halves in no agreed way, so the protocol keeps both kinds to the binary form.
        json = datatype not in ("FP16", "BF16")
        yield Question(f"{model}", model, {"x": _samples(datatype)}, json=json)
        yield Question(f"{model}_with_no_elements", model, {"x": np.empty((0, 3), numpy_type)}, json=json)


def _vectors():
    left = np.arange(12, dtype=np.float32).reshape(4, 3)
    return {"left": left, "right": np.array([0.5, 2.0, -8.0], np.float32)}


QUESTIONS = [
    *_identities(),
    Question("extreme_singles", "identity_fp32",
             {"x": np.array([[3.4028235e38, 1.1754944e-38, 1e-45, -1e-45, 16777217, 0.1]], np.float32)}),
    Question("extreme_doubles", "identity_fp64", {"x": np.array([[1.7976931348623157e308, 5e-324, 0.1, 2**53 + 2]])}),
    Question("not_numbers", "identity_fp32", {"x": np.array([[np.nan, np.inf, -np.inf]], np.float32)}, json=False),
    Question("scalar", "scalar", {"x": np.array(1.25, np.float32)}),
    Question("two_inputs", "arithmetic", _vectors()),
    Question("inputs_in_another_order", "arithmetic", dict(reversed(_vectors().items()))),
    Question("one_output_of_two", "arithmetic", _vectors(), ("difference",)),
    Question("outputs_in_another_order", "arithmetic", _vectors(), ("difference", "sum")),
    Question("no_rows", "arithmetic", {**_vectors(), "left": np.empty((0, 3), np.float32)}),
    Question("weights", "linear", {"x": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)}, tolerance=1e-6),
    Question("text", "bert", _text(2, 24), tolerance=1e-4),
    Question("text_of_another_length", "bert", _text(1, 128), ("end_logits",), tolerance=1e-4),
    Question("picture", "nanodet", _picture(), tolerance=1e-3, json=False),
]


def _input(name, datatype, shape, data):
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


_LEFT = _input("left", "FP32", [1, 3], [1.0, 2.0, 3.0])
_RIGHT = _input("right", "FP32", [3], [1.0, 2.0, 3.0])
_GOOD = (_LEFT, _RIGHT)


def _bad(name, left, **more):
    """A mistake in the first input."""
    return Mistake(name, 400, "INVALID_ARGUMENT", inputs=(left, _RIGHT), **more)


MISTAKES = [
    Mistake("unknown_model", 404, "NOT_FOUND", model="nobody", inputs=_GOOD),
    Mistake("unknown_version", 404, "NOT_FOUND", version="99", inputs=_GOOD),
    Mistake("unknown_input", 400, "INVALID_ARGUMENT", inputs=(*_GOOD, _input("middle", "FP32", [1], [1.0]))),
    Mistake("missing_input", 400, "INVALID_ARGUMENT", inputs=(_LEFT,)),
    Mistake("input_given_twice", 400, "INVALID_ARGUMENT", inputs=(*_GOOD, _LEFT)),
    Mistake("unknown_output", 400, "INVALID_ARGUMENT", inputs=_GOOD, outputs=("quotient",)),
    _bad("wrong_datatype", _input("left", "INT64", [1, 3], [1, 2, 3])),
    _bad("datatype_that_is_none", _input("left", "FP31", [1, 3], [1.0, 2.0, 3.0])),
    _bad("wrong_rank", _input("left", "FP32", [1, 1, 3], [1.0, 2.0, 3.0])),
    _bad("wrong_fixed_dimension", _input("left", "FP32", [1, 2], [1.0, 2.0])),
    _bad("negative_dimension", _input("left", "FP32", [-1, 3], [1.0, 2.0, 3.0])),
    _bad("too_little_data", _input("left", "FP32", [2, 3], [1.0, 2.0, 3.0])),
    _bad("too_much_data", _input("left", "FP32", [1, 3], [1.0, 2.0, 3.0, 4.0])),
    _bad("shape_product_that_overflows", _input("left", "FP32", [2**62, 3], [1.0, 2.0, 3.0])),
    _bad("huge_shape_with_no_data", _input("left", "FP32", [2**28 // 3, 3], [])),
]


def tests(rows, check):
    """Gives a TestCase one method a row, so that each is counted, named and run alone."""
    def give(case):
        for row in rows:
            def method(self, row=row):
                check(self, row)
            setattr(case, f"test_{check.__name__}_{row.name}", method)
        return case
    return give


def compare(test, question, answers):
    """Fails unless `answers` (output name -> array) are ONNX Runtime's own, within the question's tolerance."""
    expected = oip_models.plain(question.model, question.inputs, list(question.outputs))
    test.assertEqual(set(expected), set(answers))
    for name, want in expected.items():
        got = answers[name]
        test.assertEqual(np.shape(want), np.shape(got), name)
        if want.dtype == np.object_:
            test.assertEqual(_utf8(want), _utf8(got), name)
        elif question.tolerance == 0:
            test.assertEqual(want.dtype, got.dtype, name)
            test.assertEqual(want.tobytes(), got.tobytes(), f"{name}: {want} became {got}")
        else:
            np.testing.assert_allclose(got, want, rtol=question.tolerance, atol=question.tolerance, err_msg=name)


def _utf8(array):
    return [item if isinstance(item, bytes) else str(item).encode() for item in array.ravel()]
