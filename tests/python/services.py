"""Services of Amazon's that start here, and what the tests ask of them as any client would."""

import json
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


def use_libraries():
    """Makes the libraries of the services' own environment known, behind everything of this one."""
    libraries = next((BIN.parent / "lib").glob("python3*/site-packages"))
    if str(libraries) not in sys.path:
        sys.path.append(str(libraries))


class Service:
    """A program of the services' environment on a port that is free; gone when left."""

    def __init__(self, name, arguments, variables):
        # Held as long as the service is there: whoever takes any port is given none that is bound, and a server, which
        # asks for this one, may share it with whoever does not listen.
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", 0))
        self.address = self._held.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}"
        self._name, self._arguments, self._variables = name, arguments, variables
        self._folder = tempfile.TemporaryDirectory(prefix="packhorse-services-")

    def __enter__(self):
        place, port = pathlib.Path(self._folder.name), str(self.address[1])
        self._log = open(place / "log", "w+", encoding="utf-8")
        variables = {name: value.format(port=port) for name, value in self._variables.items()}
        command = [BIN / self._name, *(argument.format(port=port) for argument in self._arguments)]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, cwd=place,
                                         env={**os.environ, **variables, "HOME": str(place), "TMPDIR": str(place)})
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                socket.create_connection(self.address, timeout=1).close()
                return self
            except OSError as error:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    self.__exit__()
                    raise AssertionError(f"{self._name} does not start") from error
                time.sleep(0.05)

    def __exit__(self, *_):
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._held.close()
        self._log.close()
        self._folder.cleanup()

    def client(self, service):
        """botocore's client of the service."""
        use_libraries()
        import botocore.session
        session = botocore.session.Session()
        session.set_credentials(ENVIRONMENT["AWS_ACCESS_KEY_ID"], ENVIRONMENT["AWS_SECRET_ACCESS_KEY"])
        return session.create_client(service, region_name="us-east-1", endpoint_url=self.url)

    def queue(self, name, receives_max=10):
        """Makes a queue with one for dead letters, and gives the URLs of both."""
        sqs = self.client("sqs")
        dead = sqs.create_queue(QueueName=f"{name}-dead")["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": receives_max})
        return sqs.create_queue(QueueName=name, Attributes={"RedrivePolicy": policy})["QueueUrl"], dead


def MiniStack():  # Named as a class, which it stands for.
    """S3, SQS and the rest."""
    return Service("ministack", [],
                   {"BIND_HOST": "127.0.0.1", "MINISTACK_HOST": "127.0.0.1", "GATEWAY_PORT": "{port}"})


def Moto():  # Likewise.
    """The same by others, with Auto Scaling that heeds protection."""
    return Service("moto_server", ["-H", "127.0.0.1", "-p", "{port}"], {})
