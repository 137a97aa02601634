"""A node whose disk is full below the cache of a store in a bucket: what does not fit is refused with the reason, what
is there is served on or gives way to what is asked for, and with room again everything is served."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
import unittest
import unittest.mock

import product
import services
from whole_numbers import Model

SECONDS_MAX = product.START_SECONDS_MAX
STORE = "s3://fleet/models"
MB = 1 << 20
DISK_BYTES = 8 * MB

# A model takes 512 bytes for each of its width: the first two three megabytes each, and the large one nearly five.
ONE, OTHER, LARGE = Model("one", 6000, 1), Model("other", 6016, 1), Model("large", 9600, 1)
SMALL = Model("small", 64, 1)


class Disk:
    """A small file system, mounted in a namespace that goes with the process that holds it, however a test ends."""

    def __init__(self, folder):
        mount = folder / "mount"
        mount.mkdir()
        script = 'mount -t tmpfs -o size="$0" tmpfs "$1" && echo mounted && exec cat'
        command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, str(DISK_BYTES), str(mount)]
        self._holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self._holder.stdout.readline() != "mounted\n":
            self.close()
            raise unittest.SkipTest("no small disk can be mounted here")
        self.root = pathlib.Path(f"/proc/{self._holder.pid}/root{mount}")

    def close(self):
        self._holder.kill()
        self._holder.communicate()

    def free_bytes(self):
        room = os.statvfs(self.root)
        return room.f_bavail * room.f_frsize

    def fill_but(self, bytes_left):
        """Somebody else's file takes all the room there is, but for so many bytes."""
        with open(self.root / "ballast", "wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, self.free_bytes() - bytes_left)

    def clear(self):
        """That file goes."""
        (self.root / "ballast").unlink()


class FullCache(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="packhorse-full-")))
        cls.disk = Disk(folder)
        cls.addClassCleanup(cls.disk.close)
        sources = folder / "files"
        sources.mkdir()
        for model in (ONE, OTHER, LARGE, SMALL):
            model.save(sources)
        product.packhorse("pack", sources, "--store", folder / "store")
        aws = cls.enterClassContext(services.MiniStack())
        # The budget is larger than the disk, which is therefore what there is too little of.
        settings = {"AWS_ENDPOINT_URL_S3": aws.url, "PACKHORSE_CACHE_BYTES_MAX": str(1 << 30)}
        cls.enterClassContext(unittest.mock.patch.dict(os.environ, services.ENVIRONMENT | settings))
        aws.client("s3").create_bucket(Bucket="fleet")
        product.packhorse("push", folder / "store", STORE)

    @contextlib.contextmanager
    def served(self):
        """A server with a cache of its own on the disk, which holds no part of a file in the end."""
        self.cache = self.disk.root / self._testMethodName
        with unittest.mock.patch.dict(os.environ, PACKHORSE_CACHE=str(self.cache)), product.Server(STORE) as server:
            yield server
            self.assertEqual(server.drain(SECONDS_MAX), 0)
        self.assertEqual([path.name for path in self.cache.rglob(".part-*")], [])
        shutil.rmtree(self.cache)

    def check_refused(self, server, model):
        """That there is no room for the model, and that it says so."""
        refusal = model.ask(server)
        self.assertIsNotNone(refusal, f"{model.name} was served")
        status, error = refusal
        self.assertEqual(status, 429, error)
        for says in (f"model '{model.name}' version 1 cannot be fetched: ", str(self.cache),
                     "No space left on device", "free space on that disk and try again"):
            self.assertIn(says, error)

    def check_served(self, server, *models):
        for model in models:
            self.assertIsNone(model.ask(server), model.name)
        self.assertEqual(server.get("/v2/health/ready"), 200)

    def wait_for(self, server, model):
        """Waits until there is room for the model again."""
        deadline = time.monotonic() + SECONDS_MAX
        while refusal := model.ask(server):
            self.assertLess(time.monotonic(), deadline, refusal)
            time.sleep(0.1)

    def test_a_disk_that_fills_up_costs_what_is_not_there_yet(self):
        with self.served() as server:
            self.check_served(server, ONE, SMALL)
            self.disk.fill_but(MB)
            for _ in range(3):
                self.check_refused(server, LARGE)
                self.check_served(server, ONE, SMALL)
            # There is no room for both, so each gives way to the other.
            for model in (OTHER, ONE, OTHER):
                self.check_served(server, model, SMALL)
            self.disk.clear()
            self.wait_for(server, LARGE)
            self.check_served(server, OTHER, SMALL, LARGE)

    def test_a_disk_without_a_byte_left_keeps_no_server_from_starting(self):
        self.disk.fill_but(0)
        with self.served() as server:
            self.check_refused(server, ONE)
            self.check_refused(server, SMALL)
            self.assertEqual(server.get("/v2/health/ready"), 200)
            self.disk.clear()
            self.wait_for(server, ONE)
            self.wait_for(server, SMALL)
            self.check_served(server, ONE, SMALL)


if __name__ == "__main__":
    unittest.main()
