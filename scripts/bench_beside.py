"""Measures a small model while another one's texts are tokenised and another one's pictures are decoded.

Usage: bench_beside.py PACKHORSE MLP.onnx CLASSIFIER.onnx TEXT_FIXTURES

One server. `mlp` gets requests at an even pace from `packhorse load`, whatever becomes of earlier ones. In turns it is alone, or
beside texts of half a megabyte for a tiny classifier, of which the first 512 tokens are run, or beside JPEG files of 12
megapixels for a classifier that runs for two milliseconds, or beside both; these come one after the other, at most so many a
second. So nearly all that they take is tokenising and decoding. First everybody shares all cores, then the server has one and
those who ask it the others, so that none of these waits for the server, which would count as the server's own. At last a second
server has the texts and pictures, all of it as nice as can be: what two processes that know nothing of each other make of the
same work on the same cores, which is the floor. Prints the p99 of each in Markdown: the median, lowest and highest of the turns,
and the median of the ratios to the turn alone of the same round. 1.2 is wanted at most.
"""

import contextlib
import http.client
import io
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import numpy
import PIL.Image

ROUNDS = 5
TURN_S = 8
PACE = 400
CALLERS = 8
TEXTS_PER_S = 2
PICTURES_PER_S = 2
TEXT_BYTES = 500_000
PICTURE = (4000, 3000)


def picture():
    """A JPEG file of soft noise, which is as much work as a photograph."""
    width, height = PICTURE
    small = numpy.random.default_rng(5).integers(0, 256, (height // 8, width // 8, 3), dtype=numpy.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(small).resize(PICTURE, PIL.Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def send(address, question, per_s, stop, told):
    """Asks `question` over and over until `stop`, at most so often; adds up answers and their seconds in `told`."""
    path, body, kind = question
    connection = http.client.HTTPConnection(address)
    due = time.monotonic()
    while not stop.wait(max(0.0, due - time.monotonic())):
        begun = time.monotonic()
        connection.request("POST", path, body, {"content-type": kind})
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise AssertionError(f"{path}: {answer.status}: {content[:300]}")
        told.append(time.monotonic() - begun)
        due = max(due + 1 / per_s, time.monotonic())
    connection.close()


def turn(packhorse, address, place, beside, neighbour=None):
    """The p99 of `mlp` at `address` in ms, and the answers that others got a second, there or at their `neighbour`."""
    stop, told = threading.Event(), [[] for _ in beside]
    threads = [threading.Thread(target=send, args=(neighbour or address, question, per_s, stop, answers))
               for (question, per_s), answers in zip(beside, told, strict=True)]
    for thread in threads:
        thread.start()
    command = [packhorse, "load", address, "--body", place / "body.json", "--models", place / "models.txt",
               "--callers", str(CALLERS), "--per-second", str(PACE), "--seconds", str(TURN_S)]
    done = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    stop.set()
    for thread in threads:
        thread.join()
    if done["failed"] or done["refused"]:
        raise AssertionError(done)
    return done["p99_ms"], sum(len(answers) for answers in told) / TURN_S


def main():
    packhorse, mlp, classifier, fixtures = sys.argv[1], *map(pathlib.Path, sys.argv[2:])
    with tempfile.TemporaryDirectory(prefix="packhorse-bench-") as folder:
        place = pathlib.Path(folder)
        text = shutil.copytree(fixtures / "models/bert-sequence", place / "text")
        shutil.copytree(fixtures / "tokenizers/wordpiece", text, dirs_exist_ok=True)
        means = ["--task", "image-classification", "--preprocess", "imagenet", "--scores", "softmax"]
        for path, name, more in [(mlp, "mlp", []), (classifier, "picture", means), (text, "text", ["--copy"])]:
            subprocess.run([packhorse, "pack", path, "--store", place / "store", "--name", name, *more], check=True, capture_output=True)
        one = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": [0.5] * 64}]}
        (place / "body.json").write_text(json.dumps(one), encoding="utf-8")
        (place / "models.txt").write_text("mlp\n", encoding="utf-8")
        words = json.dumps({"text": "carries " * (TEXT_BYTES // 8), "truncate": True}).encode()
        texts = ("/predictions/text", words, "application/json"), TEXTS_PER_S
        pictures = ("/predictions/picture", picture(), "image/jpeg"), PICTURES_PER_S
        ways = {"alone": [], "beside texts": [texts], "beside pictures": [pictures], "beside both": [texts, pictures]}
        first, *others = sorted(os.sched_getaffinity(0))
        measure(packhorse, place, ways, "shared cores")
        if others:
            measure(packhorse, place, ways, "own cores", {first}, set(others))
            os.sched_setaffinity(0, {first, *others})
        with serving(packhorse, place, ["nice", "-n", "19"]) as neighbour:
            measure(packhorse, place, ways, "a server of their own", neighbour=neighbour)


@contextlib.contextmanager
def serving(packhorse, place, by=()):
    """The address of a server."""
    free = "127.0.0.1:0"
    command = [*by, packhorse, "serve", "--store", place / "store", "--http", free, "--grpc", free, "--admin", free,
               "--log-level", "error", "--lame-duck-s", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        yield json.loads(server.stdout.readline())["http"]
    finally:
        server.terminate()
        server.wait()


def measure(packhorse, place, ways, title, servers=None, askers=None, neighbour=None):
    """Prints what becomes of `mlp` in each of `ways`, with the server and those who ask it on the cores that are given, or with a
    `neighbour` that has the others."""
    if servers:
        # Whoever is started inherits the cores of who starts it.
        os.sched_setaffinity(0, servers)
    with serving(packhorse, place) as address:
        if askers:
            os.sched_setaffinity(0, askers)
        turn(packhorse, address, place, ways["beside both"], neighbour)
        rounds = [{way: turn(packhorse, address, place, beside, neighbour) for way, beside in ways.items()} for _ in range(ROUNDS)]
        print(f"| {title} | p99 ms | lowest and highest | others answered a second | ratio |\n|---|---:|---:|---:|---:|")
        for way in ways:
            times = [told[way][0] for told in rounds]
            ratio = statistics.median(told[way][0] / told["alone"][0] for told in rounds)
            others = statistics.median(told[way][1] for told in rounds)
            print(f"| {way} | {statistics.median(times):.2f} | {min(times):.2f} to {max(times):.2f} | {others:.1f} | {ratio:.2f} |")
        print()


if __name__ == "__main__":
    main()
