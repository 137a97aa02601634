"""Models whose weights are on disk alone: many that are asked for at once are read from it, each once, and each is answered
with its own numbers; what is in memory already is not read again."""

import os
import pathlib
import tempfile
import threading
import unittest

import product
from whole_numbers import Model

# Each has sixteen megabytes of its own, and all have as many in common: more than a kernel reads beside the table of contents
# at a file's end.
WIDTH = 1 << 16
MODELS = [Model(f"cold{own}", WIDTH, own) for own in range(1, 4)]
MATRIX_BYTES = WIDTH * 64 * 4
CALLERS = 3


def is_in_memory(file):
    """Whether the first page of a file is in the page cache."""
    handle = os.open(file, os.O_RDONLY)
    try:
        return os.preadv(handle, [bytearray(4096)], 0, os.RWF_NOWAIT) > 0
    except BlockingIOError:
        return False
    finally:
        os.close(handle)


class ColdDisk(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="packhorse-cold-")))
        cls.store = folder / "store"
        for model in MODELS:
            product.packhorse("pack", model.save(folder), "--store", cls.store, "--name", model.name)

    def chill(self):
        """Has the kernel drop every segment; skips where files are in memory alone."""
        segments = list((self.store / "segments").iterdir())
        for segment in segments:
            handle = os.open(segment, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)
        if any(map(is_in_memory, segments)):
            raise unittest.SkipTest("the kernel keeps these files in memory")

    def ask_all(self, server):
        """Several callers a model, all at once."""
        wrong, start = [], threading.Barrier(len(MODELS) * CALLERS)

        def call(model):
            start.wait()
            try:
                refusal = model.ask(server)
            except Exception as error:  # It would end in a thread that nobody asks.
                refusal = error
            if refusal is not None:
                wrong.append((model.name, refusal))

        threads = [threading.Thread(target=call, args=(model,)) for model in MODELS * CALLERS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])

    def test_each_is_read_once_and_answers_with_its_own_numbers(self):
        self.chill()
        with product.Server(self.store) as server:
            self.assertEqual(server.metric("packhorse_weights_read_bytes_total"), 0, "nobody has asked for anything")
            self.ask_all(server)
            read = server.metric("packhorse_weights_read_bytes_total")
            # Some of it the kernel has read with the tables of contents. The common matrix is read for whichever model comes
            # first, or for the first few at once.
            own = len(MODELS) * MATRIX_BYTES
            self.assertTrue(own // 4 <= read <= 2 * own, f"{read} bytes were read, of {own} and the common ones")
            self.ask_all(server)
            self.assertEqual(server.metric("packhorse_weights_read_bytes_total"), read, "all of it was there")
            self.assertEqual(server.drain(product.START_SECONDS_MAX), 0)
        with product.Server(self.store) as server:
            self.ask_all(server)
            self.assertEqual(server.metric("packhorse_weights_read_bytes_total"), 0, "the page cache outlives a server")


if __name__ == "__main__":
    unittest.main()
