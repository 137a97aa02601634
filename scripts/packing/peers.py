"""What a user has without this: plain sessions in one process, and models behind FastAPI.

peers.py plain MODEL.onnx BUDGET_BYTES    sessions until they take so much, then a line of JSON
peers.py serve PORT MODEL.onnx...         POST /predictions/N, blocking, every model in memory from the start
"""

import json
import pathlib
import sys
import time


def private_bytes():
    """Memory of this process that no file backs."""
    status = pathlib.Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:"))


def plain(path, budget_bytes):
    """One session after the other, as many as `budget_bytes` hold. They are of one file, which costs what as many files cost:
    a plain session shares nothing."""
    from onnxruntime import InferenceSession

    before, sessions, took = private_bytes(), [], []
    while private_bytes() < budget_bytes:
        begun = time.monotonic()
        sessions.append(InferenceSession(path, providers=["CPUExecutionProvider"]))
        took.append(time.monotonic() - begun)
    each = (private_bytes() - before) / len(sessions)
    print(json.dumps({"sessions": len(sessions), "bytes_each": each, "load_ms": sorted(took)[len(took) // 2] * 1e3}))


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
        """Tensors by name, as nested lists."""

        inputs: dict[str, list[list[int]]]

    @app.post("/predictions/{model}")
    async def predict(model: int, question: Question):
        given = {name: numpy.array(values, numpy.int64) for name, values in question.inputs.items()}
        return {"outputs": [output.tolist() for output in sessions[model].run(None, given)]}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


if __name__ == "__main__":
    if sys.argv[1] == "plain":
        plain(sys.argv[2], int(sys.argv[3]))
    else:
        serve(int(sys.argv[2]), sys.argv[3:])
