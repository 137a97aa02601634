"""Commands that keep a store are killed with -9 at random moments of their work: whatever they have done by then, every
model is whole and answers as ever, and the same command, run once more, does the rest and leaves nothing behind."""

import json
import os
import pathlib
import random
import shutil
import subprocess
import tempfile
import time
import typing
import unittest

import product
from whole_numbers import Model

MODELS = [Model(f"m{at:02}", width, at) for at, width in enumerate([320] * 15 + [384] * 15, 1)]
# The first of each width have the segments with what all of it share; gone, they leave these partly dead.
REMOVED = [model for model in MODELS if model.own % 3 == 1]
KEPT = [model for model in MODELS if model not in REMOVED]
VERSIONS = 300
GARBAGE = 1500
KILLS = 10
# So many have to come in the middle of the work, and there are more kills until they did. What is left by those after
# them is hashed, and not asked as well.
MIDWAY, TRIES_MAX = 4, 60


def manifests(store):
    """Every manifest there is, by its place."""
    return {path.relative_to(store): path.read_bytes() for path in (store / "models").glob("*/*.json")}


def files(store):
    """Every file but the lock."""
    return {path.relative_to(store) for path in store.rglob("*") if path.is_file() and path.name != ".lock"}


def with_versions(store):
    """One of the models gets many more versions, all alike."""
    first = store / "models" / KEPT[0].name / "1.json"
    manifest = json.loads(first.read_text(encoding="utf-8"))
    for version in range(2, VERSIONS + 1):
        (first.parent / f"{version}.json").write_text(json.dumps(manifest | {"version": version}), encoding="utf-8")


def with_garbage(store):
    """More of what no model needs, whole and not."""
    chance = random.Random(1)
    for at in range(GARBAGE):
        name = f"{chance.getrandbits(256):064x}.seg"
        (store / "segments" / (f".part-{at}" if at % 10 == 0 else name)).write_bytes(b"x")


class Work(typing.NamedTuple):
    """A command, what there is for it to do, and how much of that is undone in a store that had all of it `before`."""

    command: tuple
    prepare: typing.Callable
    left: typing.Callable


WORKS = {
    "compact": Work(("compact",), lambda store: None, lambda store, before: sum(
        before.get(place) == manifest for place, manifest in manifests(store).items())),
    "gc": Work(("gc", "--grace", "0"), with_garbage, lambda store, before: len(files(store))),
    "remove": Work(("remove", KEPT[0].name), with_versions, lambda store, before: len(manifests(store))),
}


class KilledUpkeep(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="packhorse-killed-")))
        sources = cls.folder / "files"
        sources.mkdir()
        for model in MODELS:
            model.save(sources)
        cls.packed = cls.folder / "store"
        product.packhorse("pack", sources, "--store", cls.packed)
        for model in REMOVED:
            product.packhorse("remove", model.name, "--store", cls.packed)

    def copy(self, store):
        """The store once more, of the same files, none of which is ever written again."""
        copy = self.folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(store, copy, copy_function=os.link)
        return copy

    def verify(self, store):
        self.assertEqual(product.packhorse("verify", "--store", store), "")

    def names(self, store):
        """The models that are listed."""
        return {line["name"] for line in product.json_lines(product.packhorse("models", "--store", store, "--json"))}

    def check_answers(self, store):
        """That a server over the store answers for every model that is listed with that model's own values."""
        names = self.names(store)
        self.assertLessEqual({model.name for model in KEPT[1:]}, names)
        with product.Server(store) as server:
            for model in KEPT:
                if model.name in names:
                    self.assertIsNone(model.ask(server))

    def check(self, name):
        work, store = WORKS[name], self.folder / name
        shutil.copytree(self.packed, store)
        work.prepare(store)
        before, copy = manifests(store), self.copy(store)
        begun = time.monotonic()
        product.packhorse(*work.command, "--store", copy)
        seconds = time.monotonic() - begun
        all_of_it, none_of_it = work.left(store, before), work.left(copy, before)
        self.assertLess(none_of_it, all_of_it, "there was nothing to do")
        chance, midway = random.Random(name), 0
        # Before the one nothing was done yet, after the other all of it was.
        early_s, late_s = 0.0, 2 * seconds
        for kill in range(TRIES_MAX):
            if kill >= KILLS and midway >= MIDWAY:
                break
            copy = self.copy(store)
            running = subprocess.Popen([product.BINARY, *work.command, "--store", copy],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if kill < KILLS:
                delay_s = seconds * (kill + chance.random()) / KILLS
            else:
                # As many as are wanted come in the middle of the work, however long it takes today.
                if late_s - early_s < 0.005:
                    # One that was held up has misled the search.
                    early_s, late_s = 0.0, 2 * seconds
                delay_s = chance.uniform(early_s, late_s)
            time.sleep(delay_s)
            running.kill()
            running.wait()
            with self.subTest(kill=kill):
                self.verify(copy)
                left = work.left(copy, before)
                if left == all_of_it:
                    early_s = min(max(early_s, delay_s), late_s)
                elif left == none_of_it:
                    late_s = max(min(late_s, delay_s), early_s)
                else:
                    midway += 1
                    if midway <= MIDWAY:
                        self.check_answers(copy)
                        self.check_the_rest(work, copy)
                    if midway == MIDWAY:
                        self.check_answers(copy)
        self.assertGreaterEqual(midway, MIDWAY, "the kills did not come in the middle of the work")

    def check_the_rest(self, work, copy):
        """That the same command goes on where it was killed, and what it leaves."""
        product.packhorse(*work.command, "--store", copy)
        self.verify(copy)
        product.packhorse("gc", "--store", copy, "--grace", "0")
        self.verify(copy)
        self.assertEqual(product.packhorse("gc", "--store", copy, "--grace", "0"), "")
        self.assertEqual([place for place in files(copy) if place.name.startswith(".part-")], [])
        self.assertEqual(self.names(copy), {model.name for model in KEPT} - set(work.command))

    def test_compact(self):
        self.check("compact")

    def test_gc(self):
        self.check("gc")

    def test_remove(self):
        self.check("remove")


if __name__ == "__main__":
    unittest.main()
