"""Services of Amazon's that start here, and what the tests ask of them as any client would."""

import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

from product import ROOT

BIN = ROOT / ".cache" / "venv-services" / "bin"
START_SECONDS_MAX = 120
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "AKIAPACKHORSETESTKEY", "AWS_SECRET_ACCESS_KEY": "packhorse/test+secret",
               "AWS_REGION": "us-east-1"}


class MiniStack:
    """MiniStack on a port that is free: S3, SQS and the rest; gone when left."""

    def __init__(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = free.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}"
        self._folder = tempfile.TemporaryDirectory(prefix="packhorse-services-")

    def __enter__(self):
        place = pathlib.Path(self._folder.name)
        self._log = open(place / "log", "w+", encoding="utf-8")
        variables = {"BIND_HOST": "127.0.0.1", "MINISTACK_HOST": "127.0.0.1", "GATEWAY_PORT": str(self.address[1]),
                     "HOME": str(place), "TMPDIR": str(place)}
        self._process = subprocess.Popen([BIN / "ministack"], stdin=subprocess.DEVNULL, stdout=self._log,
                                         stderr=self._log, cwd=place, env={**os.environ, **variables})
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                socket.create_connection(self.address, timeout=1).close()
                return self
            except OSError as error:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    self.__exit__()
                    raise AssertionError("MiniStack does not start") from error
                time.sleep(0.05)

    def __exit__(self, *_):
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        self._folder.cleanup()

    def client(self, service):
        """botocore's client of the service."""
        # Of the services' own environment, behind everything of this one.
        libraries = next((BIN.parent / "lib").glob("python3*/site-packages"))
        if str(libraries) not in sys.path:
            sys.path.append(str(libraries))
        import botocore.session
        session = botocore.session.Session()
        session.set_credentials(ENVIRONMENT["AWS_ACCESS_KEY_ID"], ENVIRONMENT["AWS_SECRET_ACCESS_KEY"])
        return session.create_client(service, region_name="us-east-1", endpoint_url=self.url)
