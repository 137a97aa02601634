"""Measures a server with ten thousand models.

Usage: bench_fleet.py PACKHORSE MODEL.onnx [MODELS]

MODEL takes one FP32 input `x` [N,64]. Prints a table in Markdown. Memory is the server's own, from /proc: private is
what no file backs.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.request

BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": [0.5] * 64}]}).encode()
FREE = ["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-level", "error",
        "--lame-duck-s", "0"]


class Server:
    """`packhorse serve` on free ports, until the block ends."""

    def __init__(self, packhorse, store):
        started = time.monotonic()
        command = [packhorse, "serve", "--store", store, *FREE]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.addresses = json.loads(self.process.stdout.readline())
        self.start_s = time.monotonic() - started

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def ask(self, path, body=None, listener="http"):
        """POST with a body, else GET; the answer's bytes."""
        url = f"http://{self.addresses[listener]}{path}"
        with urllib.request.urlopen(urllib.request.Request(url, data=body)) as answer:
            return answer.read()

    def best_ms(self, *question):
        """The fastest of five."""
        times = []
        for _ in range(5):
            begun = time.monotonic()
            self.ask(*question)
            times.append(time.monotonic() - begun)
        return f"{min(times) * 1e3:.1f}"

    def private_mb(self):
        """Memory that no file backs."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        kib = next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon:"))
        return f"{int(kib) * 1024 / 1e6:.1f}"


def table(header, rows):
    """Markdown."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    print("\n".join(f"| {' | '.join(line)} |" for line in lines), end="\n\n", flush=True)


def many(packhorse, store, models):
    """A store of `models` names for one pack: every manifest is read, every model has weights of its own to map."""
    manifest = json.loads((store / "models/m/1.json").read_text())
    for index in range(models):
        manifest["name"] = f"m{index:05}"
        folder = store / "models" / manifest["name"]
        folder.mkdir()
        (folder / "1.json").write_text(json.dumps(manifest))
    with Server(packhorse, store) as server:
        rows = [["start, until it answers, s", f"{server.start_s:.2f}"], ["private MB, all cold", server.private_mb()]]
        begun = time.monotonic()
        for index in range(models):
            server.ask(f"/v2/models/m{index:05}/infer", BODY)
        first_ms = (time.monotonic() - begun) * 1e3 / models
        rows += [
            ["first request of a model, ms, one after the other", f"{first_ms:.2f}"],
            ["private MB, all ready", server.private_mb()],
            ["repository index, ms", server.best_ms("/v2/repository/index", b"")],
            ["metrics, ms", server.best_ms("/metrics", None, "admin")],
        ]
    table([f"{models} models", ""], rows)


def main():
    """On a store of its own."""
    packhorse, model = sys.argv[1:3]
    models = int(sys.argv[3]) if len(sys.argv) > 3 else 10000
    with tempfile.TemporaryDirectory() as folder:
        store = pathlib.Path(folder) / "store"
        pack = [packhorse, "pack", model, "--store", store, "--name", "m"]
        subprocess.run(pack, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        many(packhorse, store, models)


if __name__ == "__main__":
    main()
