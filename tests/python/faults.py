"""A proxy before a service that does what networks do: refuses, stalls, and loses answers to requests that were done."""

import random
import socket
import socketserver
import threading
import time

READ_SECONDS_MAX = 60


class Faults(socketserver.ThreadingTCPServer):
    """Forwards HTTP to `upstream`, (host, port). `share` of the requests go wrong, a third of them each way; `seed`
    decides which. Each connection carries one request, so that a fault is of that request alone."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256

    def __init__(self, upstream, share, stall_seconds, seed):
        super().__init__(("127.0.0.1", 0), _Request)
        self.upstream, self.share, self.stall_seconds = upstream, share, stall_seconds
        self._random, self._lock, self.counts = random.Random(seed), threading.Lock(), {}
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    @property
    def url(self):
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def choose(self):
        """What happens to the next request; None for nothing. Counted."""
        with self._lock:
            fault = None
            if self._random.random() < self.share:
                fault = self._random.choice(("refused", "stalled", "answer lost"))
            self.counts[fault] = self.counts.get(fault, 0) + 1
            return fault

    def handle_error(self, request, client_address):
        """A client that was killed leaves in the middle of things."""


class _Request(socketserver.BaseRequestHandler):
    """One connection."""

    def handle(self):
        self.request.settimeout(READ_SECONDS_MAX)
        head, body = self._read()
        if head is None:
            return
        fault = self.server.choose()
        if fault == "refused":
            self.request.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        if fault == "stalled":
            time.sleep(self.server.stall_seconds)
        with socket.create_connection(self.server.upstream, timeout=READ_SECONDS_MAX) as upstream:
            upstream.sendall(head + body)
            while piece := upstream.recv(1 << 16):
                if fault == "answer lost":
                    return
                self.request.sendall(piece)

    def _read(self):
        """Head and body of the request, the head asking for one answer alone; None for a connection without one."""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = self.request.recv(1 << 16)
            if not piece:
                return None, None
            data += piece
        head, body = data.split(b"\r\n\r\n", 1)
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith((b"connection:", b"expect:"))]
        length = next((int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length:")), 0)
        while len(body) < length:
            body += self.request.recv(1 << 16)
        return b"\r\n".join([*lines, b"Connection: close"]) + b"\r\n\r\n", body
