"""Measures texts of mixed lengths: each as long as it is, beside rows that are all filled up to 128 tokens.

Usage: bench_text.py PACKHORSE MINILM_FOLDER

One server, one model (all-MiniLM-L6-v2, with all 512 of its positions), the same tokens. The first way sends texts to
/predictions, so it pays for tokenising too; the second sends token ids to /v2 as binary tensors, a text of more than 128 tokens
as several rows in one request, as a server with a fixed length has to. Clients ask in a closed loop, the ways take turns, and the
best of the turns counts. Prints a table in Markdown.
"""

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

FIXED = 128
MODEL = "minilm"
TURNS = 3
TURN_S = 6
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
        data = [b"".join(struct.pack(f"<{FIXED}q", *row) for row in tensor) for tensor in (filled, masks)]
        data.append(bytes(len(data[0])))
        inputs = [{"name": name, "datatype": "INT64", "shape": shape, "parameters": {"binary_data_size": len(tensor)}}
                  for name, tensor in zip(INPUTS, data, strict=True)]
        head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
        self.rows = head + b"".join(data), "application/octet-stream", len(head)


def ask(connection, way, question):
    """One answer's head and bytes."""
    body, kind, head_bytes = question.text if way == "text" else question.rows
    path = f"/predictions/{MODEL}" if way == "text" else f"/v2/models/{MODEL}/infer"
    headers = {"content-type": kind} | ({} if head_bytes is None else {"inference-header-content-length": str(head_bytes)})
    connection.request("POST", path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise AssertionError(f"{answer.status}: {content[:300]}")
    return answer.headers, content


def turn(address, way, questions, clients):
    """Answers a second of `clients` that ask `questions` one after the other."""
    end = time.monotonic() + TURN_S
    counts = [0] * clients

    def client(index):
        connection = http.client.HTTPConnection(address)
        at = index
        while time.monotonic() < end:
            ask(connection, way, questions[at % len(questions)])
            counts[index] += 1
            at += clients
        connection.close()

    threads = [threading.Thread(target=client, args=(index,)) for index in range(clients)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.monotonic() - started)


def check_same(address, question):
    """Both ways give one vector."""
    connection = http.client.HTTPConnection(address)
    told = json.loads(ask(connection, "text", question)[1])["detail"]
    headers, content = ask(connection, "rows", question)
    head = int(headers["inference-header-content-length"])
    vector = struct.unpack(f"<{len(told)}f", content[head:head + 4 * len(told)])
    off = max(abs(a - b) for a, b in zip(told, vector, strict=True))
    if off > 1e-4:
        raise AssertionError(f"the two ways differ by {off}")


def main():
    packhorse, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    clients = 2 * len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="packhorse-bench-") as place:
        # Its authors cut texts at 256 tokens; without their word all positions are there.
        whole = shutil.copytree(folder, f"{place}/{MODEL}", ignore=shutil.ignore_patterns("sentence_bert_config.json"))
        subprocess.run([packhorse, "pack", whole, "--store", f"{place}/store"], check=True, stdout=subprocess.DEVNULL)
        free = "127.0.0.1:0"
        command = [packhorse, "serve", "--store", f"{place}/store", "--http", free, "--grpc", free, "--admin", free,
                   "--log-level", "error", "--lame-duck-s", "0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            address = json.loads(server.stdout.readline())["http"]
            check_same(address, Question(40, vocabulary))
            print("| lengths | mean | as long as it is, texts/s | filled up to 128, texts/s | times |\n|---|---:|---:|---:|---:|")
            for name, draw in MIXES.items():
                source = random.Random(7)
                questions = [Question(draw(source), vocabulary) for _ in range(256)]
                best = {"text": 0.0, "rows": 0.0}
                for way in [*best] * TURNS:
                    best[way] = max(best[way], turn(address, way, questions, clients))
                mean = sum(question.length for question in questions) / len(questions)
                times = best["text"] / best["rows"]
                print(f"| {name} | {mean:.0f} | {best['text']:.1f} | {best['rows']:.1f} | {times:.2f} |", flush=True)
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
