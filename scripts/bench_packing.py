"""Thousands of models on this machine, beside what a user has without this.

Usage: bench_packing.py PACKHORSE FOLDER [--only PART]... [--keep] [--gb GB]

Parts: base (3,000 heads on one trunk of BERT-base's shape), disk (one of that shape whose weights are all on disk),
tiny (as many different bert-tiny as GB of disk hold, at most 3,000), digits (10,000 perceptrons), peers (plain
sessions, and FastAPI). The stores are made in FOLDER from seeds, and go at the end unless they are to be kept. Prints
tables in Markdown.
"""

import argparse
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import numpy

from packing import measure, models
from packing.measure import Load, Server, p

ROOT = pathlib.Path(__file__).resolve().parent.parent
TINY, BASE = ROOT / "assets/bert_tiny_qa.onnx", ROOT / ".cache/bench/bert_base_qa.onnx"
DIGITS = ROOT / ".cache/digits/digits.csv.gz"
MODELS, PERCEPTRONS, ROUNDS = 3000, 10000, 3
# Turns of a caller after which a model has long been hot.
HOT_WITHIN = 40
TURN_S = "5"
TINY_BYTES = 16.9e6
# How far an answer may be off the bare runtime's: the order of sums differs between kernels.
TOLERANCE = 1e-4
# What plain sessions may take before they are counted.
PLAIN_BYTES = {"bert-tiny": 2 << 30, "BERT-base": 6 << 30}
FASTAPI_MODELS = 40


def table(header, rows):
    """Markdown."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    print("\n".join(f"| {' | '.join(map(str, line))} |" for line in lines), end="\n\n", flush=True)


def say(text):
    """For people."""
    print(text, file=sys.stderr, flush=True)


class Bench:
    """What every part stands on."""

    def __init__(self, arguments, scratch):
        self.packhorse, self.folder, self.scratch = arguments.packhorse, arguments.folder, scratch
        self.tiny_count = min(MODELS, int(arguments.gb * 1e9 / TINY_BYTES))

    def made(self, name, make):
        """The store called `name` and what `make` found of its models, made unless it is there."""
        store, found = self.folder / name, self.folder / f"{name}.json"
        if not found.exists():
            say(f"making the models: {name}")
            shutil.rmtree(store, ignore_errors=True)
            shutil.rmtree(self.folder / "making", ignore_errors=True)
            begun = time.monotonic()
            answers = make(store, self.folder / "making")
            answers = {model: numpy.asarray(answer).tolist() for model, answer in answers.items()}
            found.write_text(json.dumps({"took_s": time.monotonic() - begun, "answers": answers}))
        return store, json.loads(found.read_text())

    def tiny(self):
        """As `made`, the models of bert-tiny's shape."""
        make = lambda store, scratch: models.make_tiny(self.packhorse, TINY, store, scratch, self.tiny_count)
        return self.made("tiny", make)

    def ready_all(self, store):
        """`bench --ready-all`, in a process of its own."""
        command = [self.packhorse, "bench", "--ready-all", store]
        return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def check(server, answers):
    """Every one of these models answers its own values. Gives the largest difference, and the smallest between two models."""
    known = {model: numpy.array(answer, numpy.float32) for model, answer in answers.items()}
    worst, body = 0.0, measure.body_of(models.question())
    for model, wanted in known.items():
        got = measure.ask(server.address, model, body).ravel()
        off = float(numpy.abs(got - wanted).max())
        assert off <= TOLERANCE, f"{model} answers something else: {off}"
        worst = max(worst, off)
    apart = list({tuple(answer) for answer in known.values()})
    apart = numpy.array(apart)
    nearest = min(float(numpy.abs(apart[index + 1 :] - one).max(1).min()) for index, one in enumerate(apart[:-1]))
    return worst, nearest


def memory_bytes():
    """What this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def fleet(bench, title, made, tokens):
    """All figures of one store of models of text, asked about so many tokens."""
    store, found = made
    names = sorted(model.name for model in (store / "models").iterdir() if model.name != "base-by-file")
    load, rows = Load(bench.packhorse, bench.scratch, models.question(tokens)), []
    size, memory = measure.bytes_on_disk(store), memory_bytes()
    where = "weights in the page cache" if size < memory * 0.8 else f"of more weights than {memory / 1e9:.0f} GB of memory hold"
    say(f"{title}: making {len(names)} models ready")
    measure.chill(store)
    rate = measure.disk_bytes_per_s(store, 20)
    measure.chill(store)
    cold = bench.ready_all(store)
    measure.warm(store)
    ready = bench.ready_all(store)
    rows += [
        ["bytes on disk, GB", f"{size / 1e9:.2f}"],
        ["time to list, ms", f"{ready['list_ms']:.0f}"],
        ["ready, page cache warm, ms: p50 / p99", f"{ready['ready_ms_p50']:.3f} / {ready['ready_ms_p99']:.3f}"],
        ["ready, page cache cold, ms: p50 / p99", f"{cold['ready_ms_p50']:.3f} / {cold['ready_ms_p99']:.3f}"],
        ["private KB a ready model", f"{ready['private_bytes'] / ready['models'] / 1e3:.1f}"],
    ]
    with Server(bench.packhorse, store) as server:
        load.run(server.address, names[-1:], "--each")
        say(f"{title}: first answers, then the same again")
        before = measure.memory(server.id)[1]
        first = load.each(server.address, names[:-1])
        some = models.chosen(len(names) - 1)
        again = load.each(server.address, [names[index] for index in some])
        resident, private = measure.memory(server.id)
        worst, nearest = check(server, found["answers"])
        rows += [
            ["server start, until it answers, s", f"{server.start_s:.2f}"],
            ["server private MB, all cold / all ready", f"{before / 1e6:.0f} / {private / 1e6:.0f}"],
            ["server resident MB, mapped weights too", f"{resident / 1e6:.0f}"],
            [f"first answer, {where}, ms: p50 / p99", f"{p(first, 50):.2f} / {p(first, 99):.2f}"],
            [f"second answer of {len(some)} of them, ms: p50 / p99", f"{p(again, 50):.2f} / {p(again, 99):.2f}"],
            ["first to second answer, median of those", f"{numpy.median(first[some] / again):.2f}"],
            [f"answers of {len(found['answers'])} models, off the bare runtime at most", f"{worst:.1e}"],
            ["the same, between two models at least", f"{nearest:.1e}"],
        ]
        rows += traffic(load, server, names)
    measure.chill(store)
    with Server(bench.packhorse, store) as server:
        load.run(server.address, names[-1:], "--each")
        some = [names[index] for index in models.chosen(len(names) - 1)]
        first = load.each(server.address, some)
        alone_bytes = found_bytes(store, names[0] if title.startswith("bert-tiny") else names[1])
        rows += [
            ["first answer, weights on disk alone, ms: p50 / p99", f"{p(first, 50):.1f} / {p(first, 99):.1f}"],
            ["the disk's time for as many bytes, ms", f"{alone_bytes / rate * 1e3:.1f} ({rate / 1e6:.0f} MB/s)"],
        ]
    table([f"{len(names)} models, {title}; {tokens} tokens", ""], rows)


def in_large_pages(bench, title, store):
    """First answers once more, of models whose weights lie in large pages of the page cache, where all have room in it."""
    if measure.bytes_on_disk(store) > memory_bytes() * 0.8:
        return
    say(f"{title}: first answers from large pages")
    names = sorted(model.name for model in (store / "models").iterdir())
    load = Load(bench.packhorse, bench.scratch, models.question())
    measure.chill(store)
    measure.warm_in_large_pages(store)
    with Server(bench.packhorse, store) as server:
        load.run(server.address, names[-1:], "--each")
        first, again = load.each(server.address, names[:-1]), load.each(server.address, names[:-1])
    row = [len(first), f"{p(first, 50):.2f}", f"{p(again, 50):.2f}", f"{numpy.median(first / again):.2f}"]
    table([f"{title}, weights in large pages: models", "first answer, ms", "second answer, ms", "ratio, median"], [row])


def found_bytes(store, model):
    """Bytes that only this model needs."""
    manifest = json.loads((store / "models" / model / "1.json").read_text())
    return manifest["weights"]["segments"][-1]["used_bytes"]


def traffic(load, server, names):
    """Throughput and latency, one model beside all of them, in turns. Requests for one model are put together when they wait,
    which makes each cheaper, so throughput is measured with more callers than lanes and with as many."""
    ways = {"one model alone": (names[:1], "0"), "all, Zipf(1.0)": (names, "1"), "all, uniform": (names, "0")}
    crowds = {"8 callers": "8", "a caller a lane": str(len(os.sched_getaffinity(0)))}
    most, cpu = ({(way, crowd): [] for way in ways for crowd in crowds} for _ in range(2))
    late, pace = {way: [] for way in ways}, None
    for turn in range(ROUNDS):
        say(f"traffic, round {turn + 1} of {ROUNDS}")
        for crowd, callers in crowds.items():
            for way, (asked, zipf) in ways.items():
                before = measure.cpu_s(server.id)
                report = load.run(server.address, asked, "--zipf", zipf, "--callers", callers, "--seconds", TURN_S)
                most[way, crowd].append(report["answered_per_second"])
                cpu[way, crowd].append((measure.cpu_s(server.id) - before) / report["answered"] * 1e3)
        pace = pace or most["one model alone", "8 callers"][0] / 2
        for way, (asked, zipf) in ways.items():
            flags = ["--per-second", f"{pace:.1f}", "--callers", "64", "--seconds", TURN_S]
            late[way].append(load.run(server.address, asked, "--zipf", zipf, *flags))
    rows = []
    for (way, crowd), seconds in most.items():
        ratio = numpy.median(numpy.array(seconds) / numpy.array(most["one model alone", crowd]))
        told = f"{numpy.median(seconds):.0f} / {ratio:.2f} / {numpy.median(cpu[way, crowd]):.2f}"
        rows.append([f"{way}, {crowd}: requests a second / of one alone / CPU ms each", told])
    for way in ways:
        times = " / ".join(f"{numpy.median([r[q] for r in late[way]]):.2f}" for q in ("p50_ms", "p90_ms", "p99_ms"))
        rows.append([f"{way}, {pace:.0f} a second: ms, p50 / p90 / p99", times])
    return rows


def alone(bench, title, path, model):
    """One model through the server, ready and hot, beside a plain session of its file, one request at a time, in turns."""
    rows, store = [], bench.folder / ("tiny" if path == TINY else "base")
    session = models.bare(path)
    hot_cache = bench.folder / "hot"
    with Server(bench.packhorse, store) as ready, Server(bench.packhorse, store, hot_cache) as hot:
        for tokens in (8, 32, 128, 384):
            say(f"{title}: one request at a time, {tokens} tokens")
            inputs = models.question(tokens)
            load, plain, served = Load(bench.packhorse, bench.scratch, inputs), [], {ready: [], hot: []}
            ask = lambda server: load.run(server.address, [model], "--callers", "1", "--seconds", "1.5")["p50_ms"]
            for _ in range(HOT_WITHIN):
                if hot.hot_models():
                    break
                ask(hot)
            else:
                raise SystemExit(f"{model} is not hot after {HOT_WITHIN} turns; is there memory to spare?")
            for _ in range(ROUNDS):
                until = time.monotonic() + 1.5
                while time.monotonic() < until:
                    begun = time.monotonic()
                    session.run(None, inputs)
                    plain.append((time.monotonic() - begun) * 1e3)
                for server, times in served.items():
                    times.append(ask(server))
            bare = p(plain, 50)
            medians = [float(numpy.median(times)) for times in served.values()]
            told = [text for ms in medians for text in (f"{ms:.2f}", f"{ms / bare:.2f}")]
            rows.append([tokens, f"{bare:.2f}", *told])
    header = ["plain session, ms", "through the server, ready, ms", "ratio", "hot, ms", "ratio "]
    table([f"{title}, tokens", *header], rows)


def from_disk(bench):
    """First answers of a model of BERT-base's shape whose weights are all on disk, its program being in memory."""
    store, found = bench.made("apart", lambda store, scratch: models.make_apart(bench.packhorse, BASE, store, scratch))
    load, first, again, disk = Load(bench.packhorse, bench.scratch, models.question(8)), [], [], []
    size = found_bytes(store, "apart")
    for turn in range(ROUNDS):
        say(f"BERT-base's shape from disk, round {turn + 1} of {ROUNDS}")
        measure.chill(store)
        disk.append(size / measure.disk_bytes_per_s(store, 1) * 1e3)
        with Server(bench.packhorse, store) as server:
            load.run(server.address, ["base"], "--each")
            measure.chill(store)
            first += load.each(server.address, ["apart"]).tolist()
            again += load.each(server.address, ["apart"]).tolist()
            check(server, found["answers"])
    ratio = numpy.median(numpy.array(first) / numpy.array(disk))
    row = [f"{size / 1e6:.0f} MB", *(f"{numpy.median(ms):.0f}" for ms in (disk, first, again)), f"{ratio:.2f}"]
    header = ["the disk's time for its bytes, ms", "first answer, ms", "second answer, ms", "first answer to disk"]
    table(["BERT-base's shape, every weight on disk", *header], [row])


def base(bench):
    """Heads on one trunk."""
    make = lambda store, scratch: models.make_base(bench.packhorse, BASE, store, scratch, MODELS)
    fleet(bench, "BERT-base's shape, one trunk, own heads", bench.made("base", make), 8)
    alone(bench, "BERT-base's shape", BASE, "base")


def tiny(bench):
    """Models that share nothing but their program."""
    made = bench.tiny()
    fleet(bench, "bert-tiny, all weights their own", made, models.TOKENS)
    in_large_pages(bench, "bert-tiny", made[0])
    alone(bench, "bert-tiny", TINY, "tiny00000")


def digits(bench):
    """The accuracy of each through the server, and outside it."""
    make = lambda store, scratch: models.make_digits(bench.packhorse, DIGITS, store, scratch, PERCEPTRONS)
    store, found = bench.made("digits", make)
    (unseen, wanted), ready = models.digits(DIGITS)[1], bench.ready_all(store)
    different, body = 0, measure.body_of({"x": unseen})
    with Server(bench.packhorse, store) as server:
        before = measure.memory(server.id)[1]
        for model, right in found["answers"].items():
            answers = measure.ask(server.address, model, body)
            different += int((answers.argmax(1) == wanted).sum()) != right
        private = measure.memory(server.id)[1]
        shares = numpy.array(list(found["answers"].values())) / len(wanted)
        rows = [
            ["bytes on disk, MB", f"{measure.bytes_on_disk(store) / 1e6:.0f}"],
            ["time to list, ms", f"{ready['list_ms']:.0f}"],
            ["server start, until it answers, s", f"{server.start_s:.2f}"],
            ["ready, page cache warm, ms: p50 / p99", f"{ready['ready_ms_p50']:.3f} / {ready['ready_ms_p99']:.3f}"],
            ["server private MB, all cold / all ready", f"{before / 1e6:.0f} / {private / 1e6:.0f}"],
            ["accuracy of the models, from / to", f"{shares.min():.3f} / {shares.max():.3f}"],
            ["models with another accuracy than outside", different],
        ]
    table([f"{len(found['answers'])} perceptrons that know digits", ""], rows)
    assert not different, "answers are not the models' own"


def peers(bench):
    """What a user has without this, with the same questions: plain sessions, and FastAPI."""
    load = Load(bench.packhorse, bench.scratch, models.question())
    python, script = sys.executable, ROOT / "scripts/packing/peers.py"
    rows = []
    for name, path in (("bert-tiny", TINY), ("BERT-base", BASE)):
        say(f"plain sessions of {name}")
        command = [python, script, "plain", path, str(PLAIN_BYTES[name])]
        plain = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        told = f"plain sessions of {name} ({plain['sessions']} of them)"
        each = plain["bytes_each"]
        rows.append([told, f"{each / 1e6:.1f}", "", f"{(1 << 30) / each:.1f}", "", "", "", ""])
    say("plain sessions of bert-tiny, one and all")
    command = [python, script, "cycle", TINY, str(PLAIN_BYTES["bert-tiny"])]
    cycled = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    cpu_ms = cycled["cpu_ms"]
    table(["plain sessions of bert-tiny in a loop, a thread a core", "runs a second", "of one", "CPU ms each"], [
        ["one of them", f"{cycled['one']:.0f}", "1.00", f"{cpu_ms['one']:.2f}"],
        [f"{cycled['sessions']} of them, Zipf(1.0)", f"{cycled['zipf']:.0f}", f"{cycled['ratio']:.2f}", f"{cpu_ms['zipf']:.2f}"],
    ])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([python, script, "serve", str(port), *[TINY] * FASTAPI_MODELS])
    try:
        store = bench.tiny()[0]
        address = f"127.0.0.1:{port}"
        while not answers(address):
            time.sleep(0.2)
        with Server(bench.packhorse, store) as server:
            names = sorted(model.name for model in (store / "models").iterdir())
            sides = {
                "fastapi": (process.pid, address, list(map(str, range(FASTAPI_MODELS))), "/predictions/{model}"),
                "packhorse": (server.id, server.address, names, None),
            }
            load.each(server.address, names)
            figures = {side: [] for side in sides}
            for turn in range(ROUNDS):
                say(f"FastAPI and packhorse, round {turn + 1} of {ROUNDS}")
                for side, (process_id, where, asked, path) in sides.items():
                    before = measure.cpu_s(process_id)
                    flags = ["--zipf", "1", "--callers", "8", "--seconds", TURN_S]
                    report = load.run(where, asked, *flags, path=path)
                    cpu = (measure.cpu_s(process_id) - before) / report["answered"] * 1e3
                    figures[side].append((report["answered_per_second"], cpu, report["p50_ms"], report["p99_ms"]))
            for side, (process_id, _, asked, _) in sides.items():
                resident, private = measure.memory(process_id)
                second, cpu, p50, p99 = numpy.median(numpy.array(figures[side]), 0)
                told = {"fastapi": "FastAPI and onnxruntime, bert-tiny", "packhorse": "packhorse, bert-tiny"}[side]
                rows.append([
                    f"{told} ({len(asked)} models)", f"{private / len(asked) / 1e6:.2f}",
                    f"{resident / len(asked) / 1e6:.2f}", f"{len(asked) / private * (1 << 30):.0f}", f"{second:.0f}", f"{cpu:.2f}", f"{p50:.2f}", f"{p99:.2f}",
                ])
    finally:
        process.kill()
        process.wait()
    header = ["Zipf(1.0), 8 callers, 32 tokens", "private MB a model", "resident MB a model", "models a private GiB",
              "requests a second", "CPU ms each", "p50 ms", "p99 ms"]
    table(header, rows)


def answers(address):
    """Whether something answers there, whatever it says."""
    try:
        urllib.request.urlopen(f"http://{address}/docs").close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


PARTS = {"base": base, "disk": from_disk, "tiny": tiny, "digits": digits, "peers": peers}


def main():
    """The parts that were asked for, in order."""
    parser = argparse.ArgumentParser()
    parser.add_argument("packhorse")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--only", action="append", choices=PARTS)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--gb", type=float, default=12)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(arguments, pathlib.Path(scratch))
        for name, part in PARTS.items():
            if not arguments.only or name in arguments.only:
                part(bench)
    if not arguments.keep:
        shutil.rmtree(arguments.folder)


if __name__ == "__main__":
    main()
