"""What a user has without this: plain sessions in one process, and models behind FastAPI.

peers.py plain MODEL.onnx BUDGET_BYTES    sessions until they take so much, then a line of JSON
peers.py cycle MODEL.onnx BUDGET_BYTES    the same, and then what they do a second, one of them and all by Zipf's law
peers.py serve PORT MODEL.onnx...         POST /predictions/N and /raw/N, blocking, every model in memory from the start
"""

import concurrent.futures
import itertools
import json
import os
import pathlib
import sys
import time

CYCLES, CYCLE_S = 3, 4
# What ONNX Runtime calls the datatypes of the models that are asked here.
TYPES = {"tensor(float)": "float32", "tensor(int64)": "int64"}


def private_bytes():
    """Memory of this process that no file backs."""
    status = pathlib.Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:"))


def sessions_of(path, budget_bytes, **settings):
    """One session after the other, as many as `budget_bytes` hold, and the seconds that each took. They are of one file, which
    costs what as many files cost: a plain session shares nothing."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    for name, value in settings.items():
        setattr(options, name, value)
    sessions, took = [], []
    while private_bytes() < budget_bytes:
        begun = time.monotonic()
        sessions.append(InferenceSession(path, options, providers=["CPUExecutionProvider"]))
        took.append(time.monotonic() - begun)
    return sessions, took


def plain(path, budget_bytes):
    """What sessions take."""
    before = private_bytes()
    sessions, took = sessions_of(path, budget_bytes)
    each = (private_bytes() - before) / len(sessions)
    print(json.dumps({"sessions": len(sessions), "bytes_each": each, "load_ms": sorted(took)[len(took) // 2] * 1e3}))


def cycle(path, budget_bytes):
    """What asking many models instead of one costs the bare runtime: a thread a core, each in a loop, no server."""
    import numpy

    import models

    sessions = sessions_of(path, budget_bytes, intra_op_num_threads=1)[0]
    inputs, cores = models.question(), sorted(os.sched_getaffinity(0))
    weights = 1 / numpy.arange(1, len(sessions) + 1)
    orders = {"one": numpy.zeros(1 << 16, int),
              "zipf": numpy.random.default_rng(5).choice(len(sessions), 1 << 16, p=weights / weights.sum())}
    rates, spent = {way: [] for way in orders}, {way: [] for way in orders}

    def runs(order, core):
        os.sched_setaffinity(0, {core})
        count, until = 0, time.monotonic() + CYCLE_S
        for index in itertools.cycle(order[core % 2 * (len(order) // 2):]):
            sessions[index].run(None, inputs)
            count += 1
            if time.monotonic() >= until:
                return count / CYCLE_S

    with concurrent.futures.ThreadPoolExecutor(len(cores)) as pool:
        for _ in range(CYCLES + 1):
            for way, order in orders.items():
                before = time.process_time()
                rates[way].append(sum(pool.map(lambda core: runs(order, core), cores)))
                spent[way].append((time.process_time() - before) / (rates[way][-1] * CYCLE_S) * 1e3)
    # The first round is for the arenas.
    one, zipf = (numpy.array(rates[way][1:]) for way in ("one", "zipf"))
    print(json.dumps({"sessions": len(sessions), "one": numpy.median(one), "zipf": numpy.median(zipf),
                      "ratio": numpy.median(zipf / one), "cpu_ms": {way: numpy.median(each[1:]) for way, each in spent.items()}}))


def serve(port, paths):
    """A route per model is what the system replaced had; one with the model's number comes to the same."""
    import fastapi
    import numpy
    import pydantic
    import uvicorn
    from onnxruntime import InferenceSession

    sessions = [InferenceSession(path, providers=["CPUExecutionProvider"]) for path in paths]
    app = fastapi.FastAPI()

    class Question(pydantic.BaseModel):
        """Tensors by name, as lists: flat, or nested as deep as there are dimensions."""

        inputs: dict[str, list]

    def tensor(known, values):
        """What the model takes: of the values' own shape, or of the model's with a batch of as many as there are values for."""
        values = numpy.asarray(values, TYPES[known.type])
        return values.reshape([-1, *known.shape[1:]]) if values.ndim == 1 < len(known.shape) else values

    @app.post("/predictions/{model}")
    async def predict(model: int, question: Question):
        given = {known.name: tensor(known, question.inputs[known.name]) for known in sessions[model].get_inputs()}
        return {"outputs": [output.tolist() for output in sessions[model].run(None, given)]}

    @app.post("/raw/{model}")
    async def raw(model: int, request: fastapi.Request):
        """The bytes of the model's one input; those of its outputs."""
        known, = sessions[model].get_inputs()
        given = tensor(known, numpy.frombuffer(await request.body(), TYPES[known.type]))
        outputs = sessions[model].run(None, {known.name: given})
        return fastapi.Response(b"".join(output.tobytes() for output in outputs), media_type="application/octet-stream")

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


if __name__ == "__main__":
    if sys.argv[1] in ("plain", "cycle"):
        {"plain": plain, "cycle": cycle}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
    else:
        serve(int(sys.argv[2]), sys.argv[3:])
