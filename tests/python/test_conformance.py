"""The ONNX project's own conformance cases through pack and serve: whatever ONNX Runtime answers, the server answers too.

The cases are Debian's package libonnx-testdata. Each is a model, its inputs and the outputs that the format's authors
expect. The bare runtime decides which cases count; then every model is packed, all of them in one go, served, and asked over
each wire with the public Triton client.
"""

import collections
import dataclasses
import pathlib
import subprocess
import tempfile
import unittest

import numpy as np
import onnx
import onnxruntime
import tritonclient.grpc
import tritonclient.http
from onnx import numpy_helper
from tritonclient.utils import np_to_triton_dtype

import product

DATA = pathlib.Path("/usr/share/libonnx-testdata/data")

# What there is in version 1.12, and how much of it the pinned runtime answers as the authors expect. Eight cases more need
# the locale en_US.UTF-8, which not every machine has.
CASES = 1072
PASSED_MIN = 959

# Two runs of the runtime itself differ on these, so only datatype and shape can be held against it.
RANDOM = frozenset("""
    test_bernoulli test_bernoulli_double test_bernoulli_double_expanded test_bernoulli_expanded test_bernoulli_seed
    test_bernoulli_seed_expanded test_training_dropout test_training_dropout_default test_training_dropout_default_mask
    test_training_dropout_mask
""".split())

# An input or output of these is a sequence or an optional, which the protocol cannot carry: packing must say so.
NOT_TENSORS = frozenset("""
    test_identity_opt test_identity_sequence test_if_opt test_if_seq test_loop13_seq test_loop16_seq_none
    test_optional_get_element test_optional_get_element_sequence test_optional_has_element test_optional_has_element_empty
    test_sequence_insert_at_back test_sequence_insert_at_front test_sequence_map_add_1_sequence_1_tensor
    test_sequence_map_add_1_sequence_1_tensor_expanded test_sequence_map_add_2_sequences
    test_sequence_map_add_2_sequences_expanded test_sequence_map_extract_shapes test_sequence_map_extract_shapes_expanded
    test_sequence_map_identity_1_sequence test_sequence_map_identity_1_sequence_1_tensor
    test_sequence_map_identity_1_sequence_1_tensor_expanded test_sequence_map_identity_1_sequence_expanded
    test_sequence_map_identity_2_sequences test_sequence_map_identity_2_sequences_expanded
""".split())

# What the ONNX project's own runner allows between two runtimes.
SUITE_RELATIVE, SUITE_ABSOLUTE = 1e-3, 1e-5
# Packing optimises a graph once and for all, which may put another kernel in place of a sum: of the largest value.
PACKED_RELATIVE = 1e-6


@dataclasses.dataclass(frozen=True)
class Case:
    """A model that the bare runtime answers: one set of inputs, and the runtime's own outputs."""

    name: str
    inputs: dict
    outputs: dict

    def has_halves(self):
        """Whether any tensor is of half precision, for which the protocol has no JSON."""
        return any(array.dtype == np.float16 for side in (self.inputs, self.outputs) for array in side.values())


def _tensor(path):
    proto = onnx.TensorProto()
    proto.ParseFromString(path.read_bytes())
    return numpy_helper.to_array(proto)


def _session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def _as_expected(got, expected):
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return False
    if got.dtype == object:
        return _bytes_of(got) == _bytes_of(expected)
    return np.allclose(got, expected, rtol=SUITE_RELATIVE, atol=SUITE_ABSOLUTE, equal_nan=True)


class Bare:
    """Every case of the suite, put to ONNX Runtime in this process on one thread."""

    def __init__(self):
        self.models = {model.parent.name: model for model in sorted(DATA.rglob("model.onnx"))}
        self.answered, self.passed, self.not_tensors, self.refused = [], set(), set(), set()
        for name, model in self.models.items():
            try:
                self._run(name, model)
            except Exception:  # The runtime's Python face has a class for each kind of refusal; none of them is ours.
                self.refused.add(name)

    def _run(self, name, model):
        session = _session(model)
        if any(not value.type.startswith("tensor(") for value in [*session.get_inputs(), *session.get_outputs()]):
            self.not_tensors.add(name)
            return
        # Files are numbered as the graph's inputs are, which before version 4 of the format list the constants as well.
        names = [value.name for value in onnx.load(model).graph.input]
        folder, = model.parent.glob("test_data_set_*")
        inputs = {names[index]: _tensor(folder / f"input_{index}.pb") for index in range(len(list(folder.glob("input_*"))))}
        outputs = dict(zip([value.name for value in session.get_outputs()], map(np.asarray, session.run(None, inputs))))
        self.answered.append(Case(name, inputs, outputs))
        expected = [_tensor(folder / f"output_{index}.pb") for index in range(len(outputs))]
        if all(map(_as_expected, outputs.values(), expected)):
            self.passed.add(name)


def _bytes_of(strings):
    return [text if isinstance(text, bytes) else text.encode() for text in strings.ravel()]


def _difference(got, want, lossless):
    """None when the two are the same to the bit, `close` when packing explains it, else what is wrong."""
    if got is None or got.shape != want.shape or got.dtype != want.dtype:
        return f"{want.dtype}{list(want.shape)} is answered as {None if got is None else (got.dtype, got.shape)}"
    if want.dtype == object:
        return None if _bytes_of(got) == _bytes_of(want) else "strings differ"
    if got.tobytes() == want.tobytes():
        return None
    if want.dtype.kind != "f":
        return "whole numbers differ"
    if not lossless and np.array_equal(got, want, equal_nan=True) and (np.signbit(got) == np.signbit(want))[want == want].all():
        # JSON has one not-a-number, without a sign and without a payload.
        return None
    finite = np.isfinite(want)
    if not np.array_equal(got[~finite], want[~finite], equal_nan=True):
        return "other values are infinite or not a number"
    wide, other = want[finite].astype(np.float64), got[finite].astype(np.float64)
    largest, off = np.abs(wide).max(), np.abs(wide - other).max()
    return "close" if off <= PACKED_RELATIVE * largest else f"off by {off} where the largest is {largest}"


def _pack(cases, folder):
    """The store, and what packing said of each model that it refused."""
    models = folder / "models"
    models.mkdir()
    for name, model in cases.items():
        (models / f"{name}.onnx").symlink_to(model)
    done = subprocess.run([product.BINARY, "pack", str(models), "--store", str(folder / "store")],
                          capture_output=True, text=True, check=False)
    packed = {line["name"] for line in product.json_lines(done.stdout)}
    said = {}
    for line in done.stderr.splitlines():
        path, colon, reason = line.removeprefix("packhorse: ").partition(".onnx: ")
        if colon and line.startswith("packhorse: "):
            said[pathlib.Path(path).name] = reason
    if packed | set(said) != set(cases) or done.returncode != (1 if said else 0):
        raise AssertionError(f"packing left with {done.returncode}:\n{done.stderr[-4000:]}")
    return folder / "store", said


class Conformance(unittest.TestCase):
    """One pack of everything, one server, three wires."""

    @classmethod
    def setUpClass(cls):
        if not DATA.is_dir():
            raise AssertionError(f"{DATA}: the cases are missing; 'scripts/setup.sh test' installs them")
        cls.bare = Bare()
        folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="packhorse-conformance-")))
        wanted = cls.bare.not_tensors | {case.name for case in cls.bare.answered}
        store, cls.refused = _pack({name: cls.bare.models[name] for name in wanted}, folder)
        cls.server = cls.enterClassContext(product.Server(store))
        print(f"\n{len(cls.bare.models)} cases: ONNX Runtime answers {len(cls.bare.answered)} in tensors, "
              f"{len(cls.bare.passed)} of them as expected; {len(cls.bare.not_tensors)} are not tensors, "
              f"{len(cls.bare.refused)} it refuses", flush=True)

    def test_every_case_is_there_and_the_runtime_passes_what_it_should(self):
        self.assertEqual(len(self.bare.models), CASES)
        self.assertGreaterEqual(len(self.bare.passed), PASSED_MIN)
        self.assertTrue(RANDOM <= {case.name for case in self.bare.answered})

    def test_what_is_no_tensor_is_refused_in_words(self):
        self.assertEqual(self.bare.not_tensors, NOT_TENSORS)
        self.assertEqual(set(self.refused), NOT_TENSORS)
        for name, reason in self.refused.items():
            self.assertIn("is no tensor", reason, name)

    def test_json(self):
        self._over_http("REST JSON", [case for case in self.bare.answered if not case.has_halves()], binary=False)

    def test_binary(self):
        self._over_http("REST binary", self.bare.answered, binary=True)

    def test_grpc(self):
        client = tritonclient.grpc.InferenceServerClient(self.server.grpc)
        self.addCleanup(client.close)

        def ask(case):
            return client.infer(case.name, [_given(tritonclient.grpc, *given) for given in case.inputs.items()])

        self._compare("gRPC", self.bare.answered, ask, lossless=True)

    def _over_http(self, wire, cases, binary):
        client = tritonclient.http.InferenceServerClient(self.server.http)
        self.addCleanup(client.close)

        def ask(case):
            outputs = [tritonclient.http.InferRequestedOutput(name, binary_data=binary) for name in case.outputs]
            inputs = [_given(tritonclient.http, *given, binary_data=binary) for given in case.inputs.items()]
            return client.infer(case.name, inputs, outputs=outputs)

        self._compare(wire, cases, ask, lossless=binary)

    def _compare(self, wire, cases, ask, lossless):
        counts, close, wrong = collections.Counter(), [], []
        for case in cases:
            try:
                result = ask(case)
                told = {name: result.as_numpy(name) for name in case.outputs}
            except Exception as error:  # One refusal must not hide the others.
                wrong.append(f"{case.name}: {error}")
                continue
            if case.name in RANDOM:
                same = all(told[name].shape == want.shape and told[name].dtype == want.dtype
                           for name, want in case.outputs.items())
                counts["by datatype and shape alone, being random"] += same
                wrong += [] if same else [f"{case.name}: another datatype or shape"]
                continue
            differences = {_difference(told[name], want, lossless) for name, want in case.outputs.items()} - {None}
            if not differences:
                counts["to the bit"] += 1
            elif differences == {"close"}:
                counts[f"within {PACKED_RELATIVE}"] += 1
                close.append(case.name)
            else:
                wrong.append(f"{case.name}: {', '.join(sorted(differences - {'close'}))}")
        told = ", ".join(f"{count} {how}" for how, count in counts.items())
        print(f"{wire}: {len(cases)} cases, {told}{': ' if close else ''}{' '.join(close)}", flush=True)
        self.assertEqual(wrong, [], f"{len(wrong)} of {len(cases)} cases over {wire}")


def _given(api, name, array, **how):
    return api.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)).set_data_from_numpy(array, **how)


if __name__ == "__main__":
    unittest.main()
