"""Measures texts of mixed lengths: each as long as it is, beside rows that are all filled up to 128 tokens.

Usage: bench_text.py PACKHORSE MINILM_FOLDER

One server, one model (all-MiniLM-L6-v2, with all 512 of its positions), the same tokens. Texts go to /predictions, so they pay for
tokenising too: once to the model as it is, whose requests are put together by length, and once to the same under another name
whose settings forbid that. Rows of 128 token ids go to /v2 as binary tensors, a text of more than 128 tokens as several rows
in one request, as a server with a fixed length has to; they are put together too. Clients ask in a closed loop, the ways take
turns, and the best of the turns counts.

The floor is ONNX Runtime's Python package on the same program and weights, a thread and a session a core, one text after the
other: what of a mix's ratio is arithmetic, and what the server adds. Prints a table in Markdown.
"""

import contextlib
import functools
import http.client
import json
import math
import os
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time

import numpy
import onnxruntime

FIXED = 128
MODEL = "minilm"
ALONE = "alone"
TURNS = 3
TURN_S = 5
CLIENTS_PER_CORE = 8
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
MIXES = {
    "10 to 40 tokens": lambda source: source.randint(10, 40),
    "10 to 512, as many of each doubling": lambda source: round(math.exp(source.uniform(math.log(10), math.log(512)))),
    "10 to 512, as many of each": lambda source: source.randint(10, 512),
}


class Question:
    """A text of `length` tokens, the marks of its beginning and end among them, in both forms."""

    def __init__(self, length, ids):
        words = length - 2
        self.length = length
        self.text = json.dumps({"text": " ".join(["horse"] * words)}).encode(), "application/json", None
        rows = [min(FIXED - 2, words - begun) for begun in range(0, words, FIXED - 2)]
        filled = [[ids["[CLS]"]] + [ids["horse"]] * row + [ids["[SEP]"]] + [ids["[PAD]"]] * (FIXED - row - 2) for row in rows]
        masks = [[1] * (row + 2) + [0] * (FIXED - row - 2) for row in rows]
        shape = [len(rows), FIXED]
        self.own = [numpy.array([row], "int64") for row in (
            [ids["[CLS]"]] + [ids["horse"]] * words + [ids["[SEP]"]], [1] * length, [0] * length)]
        self.filled = [numpy.array(tensor, "int64") for tensor in (filled, masks, [[0] * FIXED for _ in rows])]
        data = [b"".join(struct.pack(f"<{FIXED}q", *row) for row in tensor) for tensor in (filled, masks)]
        data.append(bytes(len(data[0])))
        inputs = [{"name": name, "datatype": "INT64", "shape": shape, "parameters": {"binary_data_size": len(tensor)}}
                  for name, tensor in zip(INPUTS, data, strict=True)]
        head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
        self.rows = head + b"".join(data), "application/octet-stream", len(head)


def ask(connection, way, question):
    """One answer's head and bytes."""
    body, kind, head_bytes = question.rows if way == "rows" else question.text
    path = f"/v2/models/{MODEL}/infer" if way == "rows" else f"/predictions/{way}"
    headers = {"content-type": kind} | ({} if head_bytes is None else {"inference-header-content-length": str(head_bytes)})
    connection.request("POST", path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise AssertionError(f"{answer.status}: {content[:300]}")
    return answer.headers, content


def turn(questions, answering):
    """Answers a second of callers that ask `questions` one after the other; `answering` opens one each."""
    end = time.monotonic() + TURN_S
    counts = [0] * len(answering)

    def caller(index):
        with answering[index]() as answer:
            at = index
            while time.monotonic() < end:
                answer(questions[at % len(questions)])
                counts[index] += 1
                at += len(answering)

    threads = [threading.Thread(target=caller, args=(index,)) for index in range(len(answering))]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.monotonic() - started)


@contextlib.contextmanager
def client(address, way):
    """Asks the server that way, over one connection."""
    connection = http.client.HTTPConnection(address)
    yield lambda question: ask(connection, way, question)
    connection.close()


class Bare:
    """The packed program with its weights, in plain sessions."""

    def __init__(self, store, cores):
        manifest = json.loads((store / f"models/{MODEL}/1.json").read_text(encoding="utf-8"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        program = str(store / f"programs/{manifest['program']['hash']}.onnx")
        self.sessions = [onnxruntime.InferenceSession(program, options) for _ in range(cores)]
        names = [value.name for value in self.sessions[0].get_inputs()][len(INPUTS):]
        value = onnxruntime.OrtValue.ortvalue_from_numpy
        self.weights = {name: value(weight) for name, weight in zip(names, weights(store, manifest["weights"]), strict=True)}

    @contextlib.contextmanager
    def caller(self, core, form):
        """Runs one question after the other on a core: its own tensors, or those filled up."""
        session = self.sessions[core]
        names = [value.name for value in session.get_inputs()][:len(INPUTS)]
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[core]})
        value = onnxruntime.OrtValue.ortvalue_from_numpy

        def run(question):
            own = {name: value(tensor) for name, tensor in zip(names, getattr(question, form), strict=True)}
            return session.run_with_ort_values(None, self.weights | own)

        yield run


def weights(store, told):
    """The weights in the order of the program's inputs; docs of the table are in crates/store/src/table.rs."""
    segments = [numpy.memmap(segment["external"]["path"], "uint8", "r") for segment in told["segments"]]
    table = (store / f"weights/{told['table']}.tbl").read_bytes()
    at = 8
    while at < len(table):
        rank, segment, offset = struct.unpack_from("<xBHQ", table, at)
        shape = struct.unpack_from(f"<{rank}Q", table, at + 12)
        at += 12 + 8 * rank
        yield segments[segment][offset:offset + 4 * math.prod(shape)].view("float32").reshape(shape)


def check_same(address, question):
    """Both ways give one vector."""
    connection = http.client.HTTPConnection(address)
    told = json.loads(ask(connection, MODEL, question)[1])["detail"]
    headers, content = ask(connection, "rows", question)
    head = int(headers["inference-header-content-length"])
    vector = struct.unpack(f"<{len(told)}f", content[head:head + 4 * len(told)])
    off = max(abs(a - b) for a, b in zip(told, vector, strict=True))
    if off > 1e-4:
        raise AssertionError(f"the two ways differ by {off}")


def main():
    packhorse, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="packhorse-bench-") as place:
        # Its authors cut texts at 256 tokens; without their word all positions are there.
        whole = shutil.copytree(folder, f"{place}/whole", ignore=shutil.ignore_patterns("sentence_bert_config.json"))
        for name in (MODEL, ALONE):
            command = [packhorse, "pack", whole, "--store", f"{place}/store", "--name", name]
            subprocess.run(command, check=True, capture_output=True)
        pathlib.Path(f"{place}/packhorse.toml").write_text(f"[model.{ALONE}]\nmax-batch-size = 0\n", encoding="utf-8")
        free = "127.0.0.1:0"
        command = [packhorse, "serve", "--store", f"{place}/store", "--http", free, "--grpc", free, "--admin", free,
                   "--log-level", "error", "--lame-duck-s", "0", "--config", f"{place}/packhorse.toml"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE)
        bare = Bare(pathlib.Path(f"{place}/store"), cores)
        try:
            address = json.loads(server.stdout.readline())["http"]
            check_same(address, Question(40, vocabulary))
            clients = {way: [functools.partial(client, address, way)] * CLIENTS_PER_CORE * cores for way in (MODEL, ALONE, "rows")}
            plain = {form: [functools.partial(bare.caller, core, form) for core in range(cores)] for form in ("own", "filled")}
            ways = clients | plain
            print("| lengths | mean | by length, texts/s | one at a time, texts/s | filled up to 128, texts/s | times "
                  "| bare, texts/s | bare, filled up, texts/s | times |\n|---|" + "---:|" * 8)
            for name, draw in MIXES.items():
                source = random.Random(7)
                questions = [Question(draw(source), vocabulary) for _ in range(256)]
                best = dict.fromkeys(ways, 0.0)
                for way in [*best] * TURNS:
                    best[way] = max(best[way], turn(questions, ways[way]))
                mean = sum(question.length for question in questions) / len(questions)
                times, floor = best[MODEL] / best["rows"], best["own"] / best["filled"]
                print(f"| {name} | {mean:.0f} | {best[MODEL]:.1f} | {best[ALONE]:.1f} | {best['rows']:.1f} | {times:.2f} "
                      f"| {best['own']:.1f} | {best['filled']:.1f} | {floor:.2f} |", flush=True)
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
