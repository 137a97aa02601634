"""Stores that are damaged below a server: a model whose files are lost, cut, changed or lied about is refused by name
and with the reason, and never answered wrong; what is beside it goes on, and so does what is in memory."""

import json
import os
import pathlib
import shutil
import struct
import tempfile
import threading
import time
import typing
import unittest

import product
from whole_numbers import Model

# A refusal takes milliseconds; what takes this long hangs.
REFUSAL_SECONDS_MAX = 10
SECONDS_MAX = product.START_SECONDS_MAX
WIDTH, WIDTH_STEP = 256, 16
# What a segment of one tensor ends in: hash, offset and length of that, and the footer.
CONTENTS_BYTES = 48 + 16


class Files:
    """A packed model's files, for whoever damages them. What is written becomes a new file, as when a disk lost a block
    or another tool copied it: whoever mapped the old one keeps that."""

    def __init__(self, store, name):
        self.manifest_path = store / "models" / name / "1.json"
        self.manifest = json.loads(self.manifest_path.read_text(encoding="utf-8"))
        weights = self.manifest["weights"]
        self.segments = [store / "segments" / f"{segment['hash']}.seg" for segment in weights["segments"]]
        self.program = store / "programs" / f"{self.manifest['program']['hash']}.onnx"
        self.table = store / "weights" / f"{weights['table']}.tbl"

    @property
    def segment(self):
        """The one with its own matrix."""
        return self.segments[-1]

    @staticmethod
    def write(path, content):
        path.unlink()
        path.write_bytes(content)

    def write_manifest(self, manifest):
        self.write(self.manifest_path, json.dumps(manifest).encode())

    def write_manifest_of_format_1(self, lie):
        """As the first builds wrote it, with the table of weights in it, which no hash covers, and that `lie` about its
        own matrix."""
        rest, table = self.table.read_bytes().removeprefix(b"PHWTBL02"), []
        while rest:
            _, rank, segment, offset = struct.unpack_from("<BBHQ", rest)
            shape = list(struct.unpack_from(f"<{rank}Q", rest, 12))
            table.append({"segment": segment, "offset_bytes": offset, "datatype": "FP32", "shape": shape, "hash": ""})
            rest = rest[12 + 8 * rank:]
        table[-1].update(lie)
        kept = ("name", "version", "source", "program", "inputs", "outputs", "max_batch_size")
        self.write_manifest({"format": 1, "segments": [path.stem for path in self.segments], "weights": table}
                            | {key: self.manifest[key] for key in kept})


def lose(kind):
    """The file is gone."""
    return lambda files: getattr(files, kind).unlink()


def cut(kind, bytes_left):
    """The file ends early."""
    return lambda files: files.write(getattr(files, kind), getattr(files, kind).read_bytes()[:bytes_left])


def flip(kind):
    """The file has one bit wrong."""
    def damage(files):
        path = getattr(files, kind)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        files.write(path, bytes(content))
    return damage


def garbage(content):
    """That is the manifest."""
    return lambda files: files.write(files.manifest_path, content)


def claim(**lie):
    """The manifest says something else of the segment with its own matrix."""
    def damage(files):
        files.manifest["weights"]["segments"][-1].update(lie)
        files.write_manifest(files.manifest)
    return damage


def claim_the_first_segment_twice(files):
    claim(hash=files.segments[0].stem)(files)


def claim_no_weights(files):
    del files.manifest["weights"]
    files.write_manifest(files.manifest)


def place(**lie):
    """The manifest says something else of where its own matrix lies."""
    return lambda files: files.write_manifest_of_format_1(lie)


class Case(typing.NamedTuple):
    """What is done to a model of that name, and with which status and words it is refused then."""

    name: str
    damage: typing.Callable
    status: int
    says: tuple


def named(*says):
    """The words of a refusal that names the model, which is NAME."""
    return "model 'NAME' version 1: ", *says


AGAIN = "; pack the model again"
REMOVED = "if the model was removed from the store while it was still served, pack it again"
MANIFEST = ("models/NAME/1.json: ", "; remove it ('packhorse remove') and pack the model again")
NO_HASH = named("the manifest names '", "', which is no content hash")
PAST = named("a FP32 weight of shape [", "64] is said to be at byte ", " of a segment of ")
ELSEWHERE = (*PAST, "where there is no tensor of that size", AGAIN)

# This one takes away what is mapped already, as no command does to a store; the model's next run finds out.
CUT_IN_PLACE = Case("segment-cut-in-place", lambda files: os.truncate(files.segment, 40_000), 500,
                    named(".seg: it has 40000 bytes and had ", AGAIN))

# What a model needs when it is made ready.
OF_THE_MODEL = [
    CUT_IN_PLACE,
    Case("segment-lost", lose("segment"), 404, named(".seg: cannot be mapped: No such file", REMOVED)),
    Case("segment-cut", cut("segment", 40_000), 500, named(".seg: it has 40000 bytes and had ", AGAIN)),
    Case("segment-emptied", cut("segment", 0), 500, named(".seg: it has 0 bytes and had ", AGAIN)),
    Case("table-lost", lose("table"), 404, named(".tbl: cannot be read: No such file", REMOVED)),
    Case("table-cut", cut("table", 30), 500, named(".tbl: its bytes are not those of its hash", AGAIN)),
    Case("table-changed", flip("table"), 500, named(".tbl: its bytes are not those of its hash", AGAIN)),
]

# What all models of a program need, until it is in memory.
OF_THE_PROGRAM = [
    Case("program-lost", lose("program"), 404, named(".onnx: cannot be mapped: No such file", REMOVED)),
    Case("program-cut", cut("program", 50), 500, named("the program's bytes are not those of its hash", AGAIN)),
    Case("program-changed", flip("program"), 500, named("the program's bytes are not those of its hash", AGAIN)),
]

# What a server reads when it starts.
OF_THE_MANIFEST = [
    Case("garbage", garbage(b"\xff\xfe\x00 no JSON"), 500, MANIFEST),
    Case("half", garbage(b'{"format": 3, "name": "half", '), 500, MANIFEST),
    Case("empty", garbage(b""), 500, MANIFEST),
    Case("unknown-field", claim(shards=7), 500, MANIFEST),
    Case("newer", garbage(b'{"format": 9}'), 501, ("models/NAME/1.json: ", "format 9", "which reads up to 3")),
    Case("hash-short", claim(hash="ab" * 31), 500, NO_HASH),
    Case("hash-long", claim(hash="ab" * 33), 500, NO_HASH),
    Case("hash-path", claim(hash="../../../../etc/passwd"), 500, NO_HASH),
    Case("hash-of-a-longer-segment", claim_the_first_segment_twice, 500, named(".seg: it has ", AGAIN)),
    Case("length-of-all-memory", claim(bytes=2 ** 64 - 1), 500, named("and had 18446744073709551615", AGAIN)),
    Case("length-past-all-numbers", claim(bytes=2 ** 64), 500, MANIFEST),
    Case("no-weights", claim_no_weights, 500, named("its manifest is not of its program")),
    Case("other-datatype", place(datatype="INT32"), 500,
         named("its manifest is not of its program, for weight ", " is INT32 [", "and the program takes FP32 [")),
    Case("past-the-end", place(offset_bytes=1 << 30), 500, PAST),
    Case("past-the-end-by-a-byte", place(offset_bytes=CONTENTS_BYTES + 1), 500, PAST),
    Case("past-all-memory", place(offset_bytes=2 ** 64 - 4), 500, PAST),
    Case("over-the-contents", place(offset_bytes=CONTENTS_BYTES), 500, ELSEWHERE),
    Case("unaligned", place(offset_bytes=1), 500, ELSEWHERE),
    Case("overlapping", place(segment=0, offset_bytes=64), 500, ELSEWHERE),
    Case("negative", place(offset_bytes=-4096), 500, MANIFEST),
    Case("no-such-segment", place(segment=7), 500, named("no segment 7")),
    Case("larger-than-memory", place(shape=[2 ** 32] * 2), 500, ("models/NAME/1.json: ", "cannot be a FP32 tensor")),
]

CASES = OF_THE_MODEL + OF_THE_PROGRAM + OF_THE_MANIFEST
SOUND = Model("sound", WIDTH + WIDTH_STEP * len(CASES), 1)


def refusal(model, server):
    """Its status and reason; `None` when it is answered, right or wrong."""
    try:
        return model.ask(server)
    except AssertionError:
        return None


class Beside:
    """A sound model, asked over and over by a thread; at the end it has answered all the time."""

    def __init__(self, server):
        self._server, self._enough, self.wrong, self.answers = server, threading.Event(), [], 0
        self._thread = threading.Thread(target=self._ask)

    def _ask(self):
        try:
            while not self._enough.wait(0.005):
                if refusal := SOUND.ask(self._server):
                    self.wrong.append(refusal)
                self.answers += 1
        except Exception as error:
            self.wrong.append(error)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self._enough.set()
        self._thread.join()


class DamagedStores(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="packhorse-damage-")))
        cls.packed, files = cls.folder / "store", cls.folder / "files"
        files.mkdir()
        # Each case has a program of its own, with the damaged model and one that was packed before it.
        cls.models, cls.kin = {}, {}
        for at, case in enumerate(CASES):
            cls.kin[case.name] = Model(f"a-kin-of-{case.name}", WIDTH + WIDTH_STEP * at, 1)
            cls.models[case.name] = Model(case.name, WIDTH + WIDTH_STEP * at, 2)
        for model in (SOUND, *cls.kin.values(), *cls.models.values()):
            model.save(files)
        product.packhorse("pack", files, "--store", cls.packed)

    def setUp(self):
        self.store = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="packhorse-damage-"))) / "store"
        shutil.copytree(self.packed, self.store)

    def damage(self, cases):
        for case in cases:
            case.damage(Files(self.store, case.name))

    def mend(self):
        """Puts every file back as it was packed, in place of what may be there."""
        for whole in (path for path in self.packed.rglob("*") if path.is_file()):
            path = self.store / whole.relative_to(self.packed)
            if not path.exists() or path.read_bytes() != whole.read_bytes():
                shutil.copy(whole, path.with_suffix(".mended"))
                path.with_suffix(".mended").rename(path)

    def check(self, server, case, model=None):
        """That the model is refused as the case says, at once."""
        model, begun = model or self.models[case.name], time.monotonic()
        refusal = model.ask(server)
        self.assertLess(time.monotonic() - begun, REFUSAL_SECONDS_MAX, case.name)
        self.assertIsNotNone(refusal, f"{case.name}: {model.name} was answered")
        status, error = refusal
        self.assertEqual(status, case.status, f"{case.name}: {error}")
        for words in case.says:
            self.assertIn(words.replace("NAME", model.name), error, case.name)

    def check_the_rest(self, server, beside):
        """That the model beside them answered all the time and still does, and that the server is well to its end."""
        seen, deadline = beside.answers, time.monotonic() + SECONDS_MAX
        while beside.answers < seen + 3 and time.monotonic() < deadline:
            time.sleep(0.005)
        self.assertGreaterEqual(beside.answers, seen + 3)
        self.assertEqual([server.get(path) for path in ("/v2/health/live", "/v2/health/ready")], [200, 200])
        beside.stop()
        self.assertEqual(beside.wrong, [])
        self.assertEqual(server.drain(SECONDS_MAX), 0)

    def check_well(self, server, models, cases):
        """That those of `models` that the cases are about answer as ever."""
        for case in cases:
            self.assertIsNone(models[case.name].ask(server), case.name)

    def test_what_is_damaged_before_the_start_is_refused_and_nothing_else(self):
        self.damage(CASES)
        with product.Server(self.store) as server, Beside(server) as beside:
            for _ in range(2):
                for case in CASES:
                    with self.subTest(case.name):
                        self.check(server, case)
                for case in OF_THE_PROGRAM:
                    self.check(server, case, self.kin[case.name])
                self.check_well(server, self.kin, OF_THE_MODEL + OF_THE_MANIFEST)
            self.check_the_rest(server, beside)

    def test_what_is_damaged_while_it_is_served_is_refused_until_it_is_mended(self):
        with product.Server(self.store) as server, Beside(server) as beside:
            self.check_well(server, self.kin, OF_THE_MODEL + OF_THE_MANIFEST)
            self.check_well(server, self.models, [CUT_IN_PLACE])
            self.damage(CASES)
            for case in OF_THE_MODEL + OF_THE_PROGRAM:
                with self.subTest(case.name):
                    self.check(server, case)
            # Manifests were read at the start, and what they said then holds.
            self.check_well(server, self.models, OF_THE_MANIFEST)
            self.check_well(server, self.kin, OF_THE_MODEL + OF_THE_MANIFEST)
            self.mend()
            deadline = time.monotonic() + SECONDS_MAX
            for case in CASES:
                while refusal := self.models[case.name].ask(server):
                    self.assertLess(time.monotonic(), deadline, f"{case.name}: {refusal}")
                    time.sleep(0.1)
            self.check_the_rest(server, beside)

    def test_a_bit_that_a_disk_changed_in_weights_is_found_while_they_are_served(self):
        """Whoever asks before the server has come to it is answered with what the disk has: nobody waits for its looking."""
        cold, mapped = (self.models[name] for name in ("segment-lost", "segment-cut"))
        with product.Server(self.store) as server, Beside(server) as beside:
            self.assertIsNone(mapped.ask(server))
            self.until(lambda: server.metric("packhorse_weights_inspected_bytes_total") > 0)
            # What is mapped was looked through, and goes on when another file has its name; a start finds that one.
            for model in (cold, mapped):
                flip("segment")(Files(self.store, model.name))
            self.assertIsNone(mapped.ask(server))
            refused = Case("flipped", None, 500, named(".seg: its bytes are not those of its hash", AGAIN))
            self.until(lambda: refusal(cold, server))
            for _ in range(3):
                self.check(server, refused, cold)
            self.assertEqual(server.metric("packhorse_segments_damaged_total"), 1)
            self.check_well(server, self.kin, [*OF_THE_MODEL, *OF_THE_MANIFEST])
            # As packing it again does, too.
            self.mend()
            self.until(lambda: not refusal(cold, server))
            self.check_the_rest(server, beside)

    def until(self, holds):
        deadline = time.monotonic() + SECONDS_MAX
        while not holds():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)

    def test_models_that_are_ready_go_on_without_their_files(self):
        with product.Server(self.store) as server, Beside(server) as beside:
            self.check_well(server, self.models, CASES)
            self.damage(CASES)
            self.check(server, CUT_IN_PLACE)
            self.check_well(server, self.models, [case for case in CASES if case is not CUT_IN_PLACE])
            # Their programs are in memory, and their weights are mapped now.
            self.check_well(server, self.kin, OF_THE_PROGRAM)
            self.check_the_rest(server, beside)


if __name__ == "__main__":
    unittest.main()
