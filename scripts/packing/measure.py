"""What is measured of a server as a process: its answers, its memory, its CPU time, and the page cache under it."""

import json
import mmap
import os
import pathlib
import subprocess
import time
import urllib.request

import numpy

SERVE = ["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-level", "error"]
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def memory(process):
    """Resident bytes of a process, and those of them that no file backs."""
    text = pathlib.Path(f"/proc/{process}/smaps_rollup").read_text()
    lines = [line.split() for line in text.splitlines()]
    kib = {line[0]: int(line[1]) for line in lines if line[-1] == "kB"}
    return kib["Rss:"] * 1024, kib["Anonymous:"] * 1024


def cpu_s(process):
    """CPU seconds of a process and its threads."""
    fields = pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


class Server:
    """`packhorse serve` on free ports, until the block ends; its models are hot where there is a folder for that."""

    def __init__(self, packhorse, store, hot="off"):
        started = time.monotonic()
        command = [packhorse, "serve", "--store", store, "--hot-cache", hot, *SERVE]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        bound = json.loads(self.process.stdout.readline())
        self.address, self.admin = bound["http"], bound["admin"]
        self.start_s = time.monotonic() - started
        self.id = self.process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def hot_models(self):
        """How many have a session of their own."""
        with urllib.request.urlopen(f"http://{self.admin}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("packhorse_models_hot "))


def body_of(inputs):
    """A request's body, as JSON."""
    kinds = {"int64": "INT64", "float32": "FP32"}
    told = [
        {"name": name, "datatype": kinds[str(values.dtype)], "shape": values.shape, "data": values.ravel().tolist()}
        for name, values in inputs.items()
    ]
    return json.dumps({"inputs": told}).encode()


def ask(address, model, body):
    """The first output of `model`, over REST and JSON."""
    with urllib.request.urlopen(f"http://{address}/v2/models/{model}/infer", body) as answer:
        output = json.load(answer)["outputs"][0]
    return numpy.array(output["data"], numpy.float32).reshape(output["shape"])


class Load:
    """What `packhorse load` is called with: the bodies and names are files of a folder that goes at the end."""

    def __init__(self, packhorse, folder, inputs):
        self.packhorse, self.folder = packhorse, folder
        (folder / "v2").write_bytes(body_of(inputs))
        (folder / "predictions").write_text(json.dumps({"inputs": {name: v.tolist() for name, v in inputs.items()}}))

    def run(self, address, models, *flags, path=None):
        """Its report."""
        (self.folder / "names").write_text("\n".join(models) + "\n")
        body = ["--body", self.folder / ("predictions" if path else "v2")] + (["--path", path] if path else [])
        kind = ["--header", "Content-Type: application/json"]
        command = [self.packhorse, "load", address, "--models", self.folder / "names", *body, *kind, *flags]
        report = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        assert not report.get("failed") and not report.get("refused"), f"not all were answered: {report}"
        return report

    def each(self, address, models):
        """Milliseconds of one request to each, in turn."""
        return numpy.array(self.run(address, models, "--each")["took_ms"])


def files(store):
    """Everything in a store that is mapped or read when a model is made ready."""
    return [file for folder in ("segments", "weights") for file in (store / folder).iterdir()]


def warm(store):
    """Reads all of it, so that it is in the page cache as far as there is room, in pages of whatever size reading gives."""
    for file in files(store):
        with open(file, "rb", buffering=0) as data:
            while data.read(1 << 22):
                pass


def warm_in_large_pages(store):
    """As `warm`, of a store that was chilled, in pages of up to 2 MiB as far as kernel and file system have them."""
    for file in files(store):
        with open(file, "rb") as data, mmap.mmap(data.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            mapped.madvise(mmap.MADV_HUGEPAGE)
            # Every one is touched, as `warm` does.
            mapped[:: mmap.PAGESIZE]


def chill(store):
    """Has the kernel drop all of it from the page cache, which it does while nobody has it mapped."""
    os.sync()
    for file in files(store):
        handle = os.open(file, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def disk_bytes_per_s(store, count):
    """How fast whole segments that are not in the page cache are read, one after the other."""
    largest = sorted((store / "segments").iterdir(), key=lambda file: -file.stat().st_size)[:count]
    begun, total = time.monotonic(), 0
    for file in largest:
        with open(file, "rb", buffering=0) as data:
            while part := data.read(1 << 22):
                total += len(part)
    return total / (time.monotonic() - begun)


def bytes_on_disk(store):
    """What the store takes, as the file system counts it."""
    return sum(file.stat().st_blocks * 512 for file in store.rglob("*"))


def p(values, percent):
    """A percentile that was measured."""
    return float(numpy.percentile(values, percent, method="lower"))
