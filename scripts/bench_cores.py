"""Measures how what is answered grows with the cores that a server may have.

Usage: bench_cores.py PACKHORSE TEXT_MODEL.onnx PICTURE_MODEL.onnx [CORES...]

For each number of cores (1, 2, 4 and so on to all of them, unless they are said): the bare runtime in a loop, one
process for each core with a plain session, and then a server bound to these cores, asked in a closed loop for one
model of texts (rows of 64 tokens, four callers a core), for one of pictures (two callers a core), and for a hundred
fine-tunes of the model of texts by Zipf(1.0). Whoever asks has up to four of the cores that are left over, and the
server's own when there are none. Prints a table in Markdown: answers a second, which share of the bare runtime's that
is, and latencies. The model of texts is a BERT that takes input_ids, attention_mask and token_type_ids.
"""

import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import numpy
import onnx
import onnx.numpy_helper
import onnxruntime

SECONDS = 4
WARM_S = 1.5
STARTED_WITHIN_S = 120
TOKENS = 64
FINE_TUNES = 100
CALLERS_MAX = 4
DATATYPES = {"int64": "INT64", "float32": "FP32"}


def texts():
    """A row of tokens."""
    ids = numpy.random.default_rng(1).integers(1000, 20000, (1, TOKENS))
    return {"input_ids": ids, "attention_mask": numpy.ones_like(ids), "token_type_ids": numpy.zeros_like(ids)}


def pictures(file):
    """One input for the model in `file`."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    given, = session.get_inputs()
    shape = [1, *given.shape[1:]]
    return {given.name: numpy.random.default_rng(1).random(shape, dtype=numpy.float32)}


def loop(file, inputs, core, barrier, told):
    """Runs the model in `file` on `core` for some seconds; how often a second goes into `told`."""
    os.sched_setaffinity(0, {core})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    for _ in range(3):
        session.run(None, inputs)
    barrier.wait(STARTED_WITHIN_S)
    runs, begun = 0, time.monotonic()
    while time.monotonic() - begun < SECONDS:
        session.run(None, inputs)
        runs += 1
    told.put(runs / (time.monotonic() - begun))


def floor(file, inputs, cores):
    """What the bare runtime does a second on `cores` together."""
    context = multiprocessing.get_context("spawn")
    told, barrier = context.Queue(), context.Barrier(len(cores))
    loops = [context.Process(target=loop, args=(file, inputs, core, barrier, told)) for core in cores]
    for process in loops:
        process.start()
    total = sum(told.get(timeout=STARTED_WITHIN_S + 10 * SECONDS) for _ in loops)
    for process in loops:
        process.join()
    return total


def request(inputs, outputs, path):
    """Writes a request's body to `path`; returns its header that tells how much of it is JSON."""
    tensors = [{"name": name, "shape": list(value.shape), "datatype": DATATYPES[str(value.dtype)],
                "parameters": {"binary_data_size": value.nbytes}} for name, value in inputs.items()]
    wanted = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
    head = json.dumps({"inputs": tensors, "outputs": wanted}).encode()
    path.write_bytes(head + b"".join(value.tobytes() for value in inputs.values()))
    return f"inference-header-content-length: {len(head)}"


def write_fine_tunes(file, folder):
    """Models with other numbers in their smaller matrices, the larger shared, as `folder`'s files; their names."""
    model = onnx.load(file)
    chance = numpy.random.default_rng(5)
    changed = [weight for weight in model.graph.initializer
               if weight.data_type == onnx.TensorProto.FLOAT and len(weight.dims) == 2 and weight.dims[0] < 1000]
    names = [f"fine-tune-{number}" for number in range(FINE_TUNES)]
    for name in names:
        for weight in changed:
            noise = chance.normal(0, 0.01, weight.dims).astype(numpy.float32)
            moved = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) + noise, weight.name)
            weight.CopyFrom(moved)
        onnx.save(model, folder / f"{name}.onnx")
    return names


def bound(cores, *command):
    return ["taskset", "-c", ",".join(map(str, cores)), *map(str, command)]


def answered(packhorse, place, cores, turns):
    """What `packhorse load` tells of each of `turns`, against a server on `cores`."""
    everything = sorted(os.sched_getaffinity(0))
    others = [core for core in everything if core not in cores][-CALLERS_MAX:] or cores
    listen = ["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    server = subprocess.Popen(bound(cores, packhorse, "serve", "--store", place / "store", *listen), text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    told = []
    try:
        address = json.loads(server.stdout.readline())["http"]
        for names, body, header, callers, zipf in turns:
            models = place / "models.txt"
            models.write_text("".join(f"{name}\n" for name in names))
            for seconds in (WARM_S, SECONDS):
                load = bound(others, packhorse, "load", address, "--body", body, "--models", models, "--header", header,
                             "--callers", callers, "--seconds", seconds, "--zipf", zipf)
                ran = subprocess.run(load, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            told.append(json.loads(ran.stdout))
            if told[-1]["failed"] or told[-1]["refused"]:
                raise SystemExit(f"not everything was answered: {told[-1]}")
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
    return told


def main():
    packhorse, text_model, picture_model = (os.path.abspath(path) for path in sys.argv[1:4])
    everything = sorted(os.sched_getaffinity(0))
    doubled = [1 << power for power in range(len(everything).bit_length()) if 1 << power < len(everything)]
    counts = [int(count) for count in sys.argv[4:]] or [*doubled, len(everything)]
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        (place / "fine-tunes").mkdir()
        names = write_fine_tunes(text_model, place / "fine-tunes")
        for files in ([text_model, "--name", "texts"], [picture_model, "--name", "pictures"], [place / "fine-tunes"]):
            subprocess.run([packhorse, "pack", *files, "--store", place / "store"], check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        row, picture = texts(), pictures(picture_model)
        outputs = {file: [output.name for output in onnx.load(file, load_external_data=False).graph.output]
                   for file in (text_model, picture_model)}
        text_header = request(row, outputs[text_model], place / "text")
        picture_header = request(picture, outputs[picture_model][:1], place / "picture")
        print("| cores | asked for | bare runtime, a second | answers a second | of the floor | p50 ms | p99 ms |")
        print("|-------|-----------|------------------------|------------------|--------------|--------|--------|")
        for count in counts:
            cores = everything[:count]
            of_texts, of_pictures = floor(text_model, row, cores), floor(picture_model, picture, cores)
            turns = [(["texts"], place / "text", text_header, 4 * count, 0),
                     (names, place / "text", text_header, 4 * count, 1.0),
                     (["pictures"], place / "picture", picture_header, 2 * count, 0)]
            kinds = ["a model of texts", f"{FINE_TUNES} fine-tunes of it", "a model of pictures"]
            told = answered(packhorse, place, cores, turns)
            for kind, bare, load in zip(kinds, [of_texts, of_texts, of_pictures], told):
                a_second = load["answered_per_second"]
                late = f"{load['p50_ms']:.1f} | {load['p99_ms']:.1f}"
                print(f"| {count} | {kind} | {bare:.1f} | {a_second:.1f} | {a_second / bare:.2f} | {late} |", flush=True)


if __name__ == "__main__":
    main()
