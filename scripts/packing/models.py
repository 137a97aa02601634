"""Models for `make bench-packing`, all of them from seeds, and what the bare runtime answers to them."""

import gzip
import json
import subprocess

import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

WIDTH, OUT = 768, 2
# Of both shapes of BERT here, the cased one.
VOCABULARY = 28996
BATCH = 50
TOKENS = 32
CHECKED = 200


def bare(model, threads=1):
    """A plain session, as `onnxruntime.InferenceSession` gives it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])


def question(tokens=TOKENS):
    """The inputs that every model of text is asked about: made-up tokens, the same for all."""
    random = numpy.random.default_rng(7)
    ids = random.integers(1000, VOCABULARY, (1, tokens), dtype=numpy.int64)
    return {"input_ids": ids, "attention_mask": numpy.ones_like(ids), "token_type_ids": numpy.zeros_like(ids)}


def pack(packhorse, folder, store):
    """Packs every file in `folder` into `store`."""
    command = [packhorse, "pack", folder, "--store", store, "--target", "native"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def chosen(count):
    """The models whose answers are checked."""
    return sorted(numpy.random.default_rng(3).choice(count, min(CHECKED, count), replace=False).tolist())


class Tiny:
    """bert-tiny, its matrices seeded anew for each model; everything else of the file stays."""

    def __init__(self, path):
        self.bytes = bytearray(path.read_bytes())
        self.places = []
        for tensor in onnx.load(path).graph.initializer:
            raw = tensor.raw_data
            if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2 and len(raw) >= 1024:
                at = self.bytes.find(raw)
                assert self.bytes.count(raw[:1024]) == 1, "one place in the file holds these numbers"
                values = numpy.frombuffer(raw, numpy.float32)
                self.places.append((at, values.size, values.std()))

    def model(self, seed):
        """The file of model `seed`."""
        random = numpy.random.default_rng(seed + 1)
        for at, size, deviation in self.places:
            values = random.standard_normal(size, numpy.float32) * deviation
            self.bytes[at : at + 4 * size] = values.tobytes()
        return bytes(self.bytes)


def make_tiny(packhorse, template, store, scratch, count):
    """`count` models of bert-tiny's shape, each with its own numbers; the answers of the bare runtime to some of them."""
    tiny, checked, answers = Tiny(template), set(chosen(count)), {}
    for first in range(0, count, BATCH):
        scratch.mkdir(parents=True)
        for seed in range(first, min(first + BATCH, count)):
            model = tiny.model(seed)
            (scratch / f"tiny{seed:05}.onnx").write_bytes(model)
            if seed in checked:
                answers[f"tiny{seed:05}"] = bare(model).run(None, question())[0][0]
        pack(packhorse, scratch, store)
        for file in scratch.iterdir():
            file.unlink()
        scratch.rmdir()
    return answers


class Base:
    """BERT-base's shape with heads of its own: the trunk of the file, and for each model the last matrix and bias."""

    def __init__(self, path):
        self.proto = onnx.load(path)
        found = {tuple(tensor.dims): tensor for tensor in self.proto.graph.initializer if OUT in tensor.dims[-1:]}
        self.matrix, self.bias = found[(WIDTH, OUT)], found[(OUT,)]

    def heads(self, count):
        """The file's own head, and then those of all others: FP32, the matrix and then the bias."""
        random = numpy.random.default_rng(11)
        heads = random.normal(0, 0.02, (count, (WIDTH + 1) * OUT)).astype(numpy.float32)
        heads[0] = numpy.concatenate([numpy_helper.to_array(part).ravel() for part in (self.matrix, self.bias)])
        return heads

    def with_head(self, head):
        """The whole file with another head."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        for tensor in proto.graph.initializer:
            if tensor.name == self.matrix.name:
                tensor.raw_data = head[: WIDTH * OUT].tobytes()
            if tensor.name == self.bias.name:
                tensor.raw_data = head[WIDTH * OUT :].tobytes()
        return proto

    def answers(self, heads, chosen_ones):
        """What the bare runtime answers with each of these heads: one session, whose head is given with the question."""
        graph = self.proto.graph
        for tensor in (self.matrix, self.bias):
            graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims))
            graph.initializer.remove(tensor)
        session = bare(self.proto.SerializeToString(), threads=2)
        answers = {}
        for index in chosen_ones:
            head = heads[index]
            given = {self.matrix.name: head[: WIDTH * OUT].reshape(WIDTH, OUT), self.bias.name: head[WIDTH * OUT :]}
            answers[index] = session.run(None, question() | given)[0][0]
        return answers


def make_base(packhorse, template, store, scratch, count):
    """`count` models of BERT-base's shape on one trunk; the first is packed from its file, one more of them a second time, to
    see that packing a file comes to the same as what makes the others."""
    scratch.mkdir(parents=True)
    base = Base(template)
    heads = base.heads(count)
    (scratch / "heads").write_bytes(heads.tobytes())
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([packhorse, "pack", template, "--store", store, "--name", "base"], **quiet)
    subprocess.run([packhorse, "bench", "--variants", store, "base", scratch / "heads"], check=True)
    onnx.save(base.with_head(heads[1]), scratch / "file.onnx")
    subprocess.run([packhorse, "pack", scratch / "file.onnx", "--store", store, "--name", "base-by-file"], **quiet)
    for file in scratch.iterdir():
        file.unlink()
    scratch.rmdir()
    name = lambda index: f"base{index:05}" if index else "base"
    answers = {name(index): answer for index, answer in base.answers(heads, {1, *chosen(count)}).items()}
    return answers | {"base-by-file": answers[name(1)]}


def make_apart(packhorse, template, store, scratch):
    """The model of the file, as `base`, and one of its shape that shares no weight with it, as `apart`."""
    scratch.mkdir(parents=True)
    proto = onnx.load(template)
    for tensor in proto.graph.initializer:
        # Single numbers are the graph's own: what an operator is fused from is known by them.
        if tensor.data_type == TensorProto.FLOAT and tensor.dims:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * numpy.float32(0.99), tensor.name))
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    answers = {}
    onnx.save(proto, scratch / "apart.onnx")
    for name, file in (("base", template), ("apart", scratch / "apart.onnx")):
        subprocess.run([packhorse, "pack", file, "--store", store, "--name", name], **quiet)
        answers[name] = bare(file, threads=2).run(None, question())[0][0]
    programs = {json.loads((store / "models" / name / "1.json").read_text())["program"]["hash"] for name in answers}
    assert len(programs) == 1, "they were to have one program"
    (scratch / "apart.onnx").unlink()
    scratch.rmdir()
    return answers


def digits(path):
    """UCI's handwritten digits: what is learnt from and what is asked about, each with 64 numbers from 0 to 1 and a label."""
    with gzip.open(path, "rt") as lines:
        table = numpy.loadtxt(lines, delimiter=",", dtype=numpy.float32)
    order = numpy.random.default_rng(0).permutation(len(table))
    table = table[order]
    pixels, labels = table[:, :64] / 16, table[:, 64].astype(int)
    return (pixels[:1300], labels[:1300]), (pixels[1300:], labels[1300:])


def learnt(seed, pixels, labels):
    """A perceptron 64-64-10: a hidden layer from the seed, and the output layer that fits best (ridge regression)."""
    random = numpy.random.default_rng(seed)
    w1 = random.normal(0, 0.3, (64, 64)).astype(numpy.float32)
    b1 = random.normal(0, 0.3, 64).astype(numpy.float32)
    hidden = numpy.maximum(pixels @ w1 + b1, 0)
    hidden = numpy.concatenate([hidden, numpy.ones((len(hidden), 1), numpy.float32)], 1)
    wanted = numpy.eye(10, dtype=numpy.float32)[labels]
    fitted = numpy.linalg.solve(hidden.T @ hidden + 0.1 * numpy.eye(65), hidden.T @ wanted).astype(numpy.float32)
    weights = {"w1": w1, "b1": b1, "w2": fitted[:64], "b2": fitted[64]}
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("Gemm", ["a", "w2", "b2"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 10])]
    tensors = [numpy_helper.from_array(numpy.ascontiguousarray(values), name) for name, values in weights.items()]
    body = helper.make_graph(nodes, "digits", inputs, outputs, tensors)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def make_digits(packhorse, table, store, scratch, count):
    """`count` perceptrons that know digits, and how many of the digits that they never saw each gets right in the bare
    runtime."""
    (pixels, labels), (unseen, wanted) = digits(table)
    right = {}
    for first in range(0, count, 10 * BATCH):
        scratch.mkdir(parents=True)
        for seed in range(first, min(first + 10 * BATCH, count)):
            model = learnt(seed, pixels, labels)
            (scratch / f"digits{seed:05}.onnx").write_bytes(model)
            answers = bare(model).run(None, {"x": unseen})[0]
            right[f"digits{seed:05}"] = int((answers.argmax(1) == wanted).sum())
        pack(packhorse, scratch, store)
        for file in scratch.iterdir():
            file.unlink()
        scratch.rmdir()
    return right
