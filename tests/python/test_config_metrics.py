"""What the server is told and what it tells: settings from flags, environment and file; metrics; the log."""

import collections
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest
import unittest.mock
import urllib.request

import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

import oip_models
import product

_SAMPLE = re.compile(r'^([a-z_]+)(?:\{(.*)\})? (\S+)$')
_LABEL = re.compile(r'([a-z_]+)="([^"]*)"')


def _serve(arguments, environment=None):
    """One run of `packhorse serve` that does not start a server: (exit code, standard output, standard error)."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PACKHORSE_")}
    done = subprocess.run([product.BINARY, "serve", *arguments], capture_output=True, text=True, check=False,
                          env=inherited | (environment or {}))
    return done.returncode, done.stdout, done.stderr


class Settings(unittest.TestCase):
    """`packhorse serve --check` starts nothing and needs no store."""

    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="packhorse-config-")))

    def _file(self, text):
        path = self.folder / "serve.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    def test_every_value_and_where_it_came_from(self):
        path = self._file('store = "models"\nqueue-capacity = 3\ngrace = 4\n')
        environment = {"PACKHORSE_CONFIG": path, "PACKHORSE_QUEUE_CAPACITY": "2", "PACKHORSE_STREAMS_MAX": "9"}
        code, out, _ = _serve(["--check", "--json", "--queue-capacity", "1"], environment)
        self.assertEqual(code, 0)
        told = json.loads(out)
        expected = {
            "store": ("models", f"file {path}, line 1"),
            "queue-capacity": (1, "flag --queue-capacity"),
            "grace-s": (4.0, f"file {path}, line 3"),
            "streams-max": (9, "environment PACKHORSE_STREAMS_MAX"),
            "http": ("127.0.0.1:8080", "default"),
            "shared-memory": (None, "default"),
        }
        for name, (value, source) in expected.items():
            with self.subTest(name):
                self.assertEqual(told[name], {"value": value, "source": source})

    def test_the_table_is_for_people(self):
        code, out, said = _serve(["--check", "--store", "models"])
        self.assertEqual((code, out), (0, ""))
        self.assertRegex(said, r"store +models +flag --store")
        self.assertRegex(said, "(?s)would not start here: models: .*packhorse pack")

    def test_what_is_wrong_is_named(self):
        unknown = self._file('store = "models"\nqueue-capcity = 3\n')
        for name, arguments, environment, says in (
            ("unknown key", ["--config", unknown], {}, ["line 2", "queue-capcity", "'queue-capacity'"]),
            ("wrong value", ["--store", "s"], {"PACKHORSE_GRACE_S": "soon"},
             ["grace-s", "soon", "PACKHORSE_GRACE_S", "0 to 86400"]),
            ("unknown flag", ["--store", "s", "--htpt", "1"], {}, ["--htpt", "--http"]),
            ("no file", ["--config", str(self.folder / "none.toml")], {}, ["none.toml", "--config"]),
            ("no store", [], {}, ["store", "PACKHORSE_STORE"]),
        ):
            for check in ([], ["--check"]):
                with self.subTest(name, check=check):
                    code, out, said = _serve([*check, *arguments], environment)
                    self.assertEqual((code, out), (2, ""), said)
                    for part in says:
                        self.assertIn(part, said)


class Scrape:
    """What one scrape told."""

    def __init__(self, server):
        with urllib.request.urlopen(f"http://{server.admin}/metrics", timeout=product.START_SECONDS_MAX) as answer:
            self.kind, self.text = answer.headers["content-type"], answer.read().decode()
        self.samples = collections.defaultdict(dict)
        for line in self.text.splitlines():
            if not line.startswith("#"):
                name, labels, value = _SAMPLE.match(line).groups()
                self.samples[name][frozenset(_LABEL.findall(labels or ""))] = float(value)

    def sum(self, name, **labels):
        """The sum of the series of a family that have these labels."""
        wanted = set(labels.items())
        return sum(value for labels, value in self.samples[name].items() if wanted <= labels)

    def families(self):
        """Name -> type, names as docs/metrics.md writes them."""
        found = re.findall(r"^# TYPE (\S+) (\S+)$", self.text, re.MULTILINE)
        return {f"{name}_total" if kind == "counter" else name: kind for name, kind in found}


def _ask(client, module, model, count):
    tensor = module.InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 4), np.float32))
    for _ in range(count):
        client.infer(model, [tensor])


class Metrics(unittest.TestCase):
    """A server that was configured by a file, after a known number of requests."""

    HTTP, GRPC, REFUSED = 7, 5, 3

    @classmethod
    def setUpClass(cls):
        folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="packhorse-config-")))
        path = folder / "serve.toml"
        path.write_text('log-format = "json"\nlog-level = "debug"\nbody-bytes-max = 100_000\n', encoding="utf-8")
        with unittest.mock.patch.dict(os.environ, {"PACKHORSE_CONFIG": str(path)}):
            cls.server = cls.enterClassContext(product.Server(oip_models.store()))
        http = tritonclient.http.InferenceServerClient(cls.server.http, network_timeout=product.START_SECONDS_MAX)
        cls.addClassCleanup(http.close)
        grpc = tritonclient.grpc.InferenceServerClient(cls.server.grpc)
        cls.addClassCleanup(grpc.close)
        _ask(http, tritonclient.http, "linear", cls.HTTP)
        _ask(grpc, tritonclient.grpc, "linear", cls.GRPC)
        for _ in range(cls.REFUSED):
            try:
                _ask(http, tritonclient.http, "nobody", 1)
            except InferenceServerException:
                continue
            raise AssertionError("a model that is not there answered")
        cls.scrape = Scrape(cls.server)

    def test_counts_add_up(self):
        scrape, asked = self.scrape, self.HTTP + self.GRPC
        self.assertTrue(self.scrape.kind.startswith("application/openmetrics-text"))
        for name, labels, want in (
            ("packhorse_requests_answered_total", {}, asked),
            ("packhorse_requests_refused_total", {"reason": "not_found"}, self.REFUSED),
            ("packhorse_requests_refused_total", {}, self.REFUSED),
            ("packhorse_requests_queued", {}, 0),
            ("packhorse_request_queue_seconds_count", {}, asked),
            ("packhorse_request_compute_seconds_count", {}, asked),
            ("packhorse_models", {}, len(oip_models.files())),
            ("packhorse_model_requests_total", {"model": "linear", "outcome": "ok"}, asked),
            ("packhorse_model_requests_total", {}, asked),
            ("packhorse_model_items_total", {}, asked),
            ("packhorse_batch_items_sum", {}, asked),
            ("packhorse_batch_items_count", {}, scrape.sum("packhorse_model_runs_total")),
            ("packhorse_program_loads_total", {"outcome": "ready"}, 1),
        ):
            with self.subTest(name, **labels):
                self.assertEqual(scrape.sum(name, **labels), want)

    def test_times_and_memory(self):
        scrape = self.scrape
        busy = scrape.sum("packhorse_lane_busy_seconds_total")
        self.assertGreater(busy, 0)
        self.assertLess(busy, product.START_SECONDS_MAX * scrape.sum("packhorse_lanes"))
        self.assertGreaterEqual(len(scrape.samples["packhorse_lane_busy_seconds_total"]), 1)
        self.assertGreater(scrape.sum("packhorse_model_compute_seconds_total", model="linear"), 0)
        self.assertGreater(scrape.sum("process_cpu_seconds_total"), 0)
        self.assertGreater(scrape.sum("process_private_memory_bytes"), 1 << 20)
        self.assertGreater(scrape.sum("process_resident_memory_bytes"), scrape.sum("process_private_memory_bytes"))

    def test_no_sum_shrinks(self):
        later = Scrape(self.server)
        for name, kind in self.scrape.families().items():
            if kind == "counter":
                for labels, value in self.scrape.samples[name].items():
                    self.assertGreaterEqual(later.samples[name][labels], value, f"{name} {labels}")

    def test_the_page_names_what_is_scraped(self):
        page = (product.ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
        documented = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", page, re.MULTILINE))
        # The node's cache is there for stores in buckets alone, and what a worker asks of others in a worker.
        elsewhere = ("packhorse_cache_", "packhorse_worker_", "packhorse_remote_")
        documented = {name: kind for name, kind in documented.items() if not name.startswith(elsewhere)}
        self.assertEqual(self.scrape.families(), documented)

    @unittest.skipUnless(shutil.which("promtool"), "promtool is not installed")
    def test_promtool_finds_nothing(self):
        # It reads the older text form, in which a counter's own name has the suffix and no unit is told.
        older = re.sub(r"^# (HELP|TYPE) (\S+) (.*)$", lambda line: "# {} {} {}".format(
            line[1], line[2] + ("_total" if f"{line[2]}_total" in self.scrape.families() else ""), line[3]),
            self.scrape.text, flags=re.MULTILINE)
        done = subprocess.run(["promtool", "check", "metrics"], input=older, capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))

    def test_the_log_is_an_object_a_line(self):
        lines = product.json_lines(self.server.log())
        for line in lines:
            self.assertLessEqual({"timestamp", "level", "target", "fields"}, line.keys())
        messages = [line["fields"].get("message") for line in lines]
        self.assertIn("program ready", messages)
        refused = [line for line in lines if "nobody" in line["fields"].get("error", "")]
        self.assertEqual({line["level"] for line in refused}, {"DEBUG"})

    def test_the_limits_of_the_file_hold(self):
        body = urllib.request.Request(f"http://{self.server.http}/v2/models/linear/infer", data=b"x" * 100_001)
        with self.assertRaises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(body, timeout=product.START_SECONDS_MAX)
        self.assertEqual(refused.exception.code, 413)


if __name__ == "__main__":
    unittest.main()
