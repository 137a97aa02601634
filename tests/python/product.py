"""Drives the binary under test as a user would: by its command line, its standard output and its signals."""

import contextlib
import json
import os
import pathlib
import re
import select
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
ASSETS = ROOT / "assets"
BINARY = os.environ.get("PACKHORSE_BINARY", str(ROOT / "target" / "debug" / "packhorse"))
START_SECONDS_MAX = 60


def packhorse(*arguments):
    """Runs one command to its end and returns its standard output; raises with its words when it fails."""
    done = subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"packhorse {arguments[0]} left with {done.returncode}:\n{done.stderr}")
    return done.stdout


def at_once(call, count):
    """Calls `call(number)` for each number below `count`, each on a thread of its own, and waits for all."""
    threads = [threading.Thread(target=call, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def json_lines(text):
    """Each line of `text` as an object."""
    return [json.loads(line) for line in text.splitlines() if line.strip()]


class Server:
    """A running `packhorse serve`, ready when entered, gone when left."""

    def __init__(self, store):
        self._log = tempfile.NamedTemporaryFile("w+", prefix="packhorse-serve-", suffix=".log")
        anywhere = "127.0.0.1:0"
        self.process = subprocess.Popen(
            [BINARY, "serve", "--store", str(store), "--http", anywhere, "--grpc", anywhere, "--admin", anywhere,
             "--lame-duck-s", "0"],
            stdout=subprocess.PIPE, stderr=self._log, text=True)

    def __enter__(self):
        try:
            if not select.select([self.process.stdout], [], [], START_SECONDS_MAX)[0]:
                raise AssertionError("no line with the bound addresses")
            line = self.process.stdout.readline()
            if not line:
                raise AssertionError("it ended before it printed its addresses")
            bound = json.loads(line)
            self.http, self.grpc, self.admin, self.manage = (bound.get(name) for name in
                                                             ("http", "grpc", "admin", "manage"))
            self._wait_until_ready()
        except Exception as error:
            self.__exit__()
            raise AssertionError(f"packhorse serve did not start: {error}\n{self.log()}") from error
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def log(self):
        """What the server has told a person so far."""
        return pathlib.Path(self._log.name).read_text(encoding="utf-8")

    def get(self, path, address=None):
        """Status code of a GET; `address` is the public one unless given."""
        try:
            with urllib.request.urlopen(f"http://{address or self.http}{path}", timeout=START_SECONDS_MAX) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def ask(self, path, body=None, kind="application/json"):
        """Status and JSON of a GET, or of a POST of `body`, bytes as they are and all else as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.http}{path}", data, {"content-type": kind})
        try:
            with urllib.request.urlopen(request, timeout=START_SECONDS_MAX) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def metric(self, name, label=""):
        """The sum of the series of this name that have this among their labels."""
        with urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=START_SECONDS_MAX) as answer:
            series = re.findall(rf"^{name}({{[^}}]*}})? (\S+)$", answer.read().decode(), re.MULTILINE)
        values = [float(value) for labels, value in series if label in labels]
        if not values:
            raise AssertionError(f"there is no {name} {label}")
        return sum(values)

    def peak_bytes(self):
        """The most memory that the server has had so far."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)[1]) * 1024

    @contextlib.contextmanager
    def growing_at_most(self, bytes_max):
        """What is asked of the server meanwhile makes it grow by no more than that."""
        before = self.peak_bytes()
        yield
        grown = self.peak_bytes() - before
        if grown > bytes_max:
            raise AssertionError(f"it grew by {grown >> 20} MiB from {before >> 20} MiB, and {bytes_max >> 20} MiB are enough")

    def drain(self, seconds_max):
        """Asks for a graceful end and returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds_max)

    def _wait_until_ready(self):
        deadline = time.monotonic() + START_SECONDS_MAX
        while self.get("/v2/health/ready") != 200:
            if time.monotonic() > deadline:
                raise AssertionError("it listens but does not get ready")
            time.sleep(0.02)
