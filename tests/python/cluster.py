"""What a worker has around it in a cloud: an instance's metadata, a cluster's API server, a web server that can wait."""

import datetime
import http.client
import http.server
import ipaddress
import json
import ssl
import threading
import urllib.parse

import services


class _Server(http.server.ThreadingHTTPServer):
    """An HTTP server on a port that is free; gone when left."""

    daemon_threads = True

    def __init__(self, handler):
        super().__init__(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """A client that was killed leaves in the middle of things."""

    @property
    def url(self):
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    """What all of them have in common."""

    def log_message(self, *_):
        """Nobody reads it."""

    def answer(self, status, body=b"", **headers):
        """The whole answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Content-Length", len(body))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class Metadata(_Server):
    """The metadata service of an instance, version 2: `says` has what is told at which path."""

    def __init__(self, **says):
        self.says = {f"/latest/meta-data/{path}": text for path, text in says.items()}
        self.tokens, self.asked = {}, 0
        super().__init__(_Metadata)

    def tell(self, path, text):
        """From now on the path has this to say."""
        self.says[f"/latest/meta-data/{path}"] = text


class _Metadata(_Handler):
    """A token is good for three questions, so that every worker sees some end."""

    def do_PUT(self):  # The name is the library's.
        """Gives a token."""
        if self.path != "/latest/api/token" or not self.headers.get("x-aws-ec2-metadata-token-ttl-seconds"):
            self.answer(400)
            return
        token = f"token-{len(self.server.tokens)}"
        self.server.tokens[token] = 3
        self.answer(200, token.encode(), x_aws_ec2_metadata_token_ttl_seconds=21600)

    def do_GET(self):  # The name is the library's.
        """Answers whoever has one."""
        token = self.headers.get("x-aws-ec2-metadata-token")
        if self.server.tokens.get(token, 0) == 0:
            self.answer(401)
            return
        self.server.tokens[token] -= 1
        self.server.asked += 1
        said = self.server.says.get(self.path)
        self.answer(404 if said is None else 200, (said or "<html>Not Found</html>").encode())


class ApiServer(_Server):
    """A cluster's API server over TLS, which knows the annotations of pods and lets `token` change them. `account` is
    what a pod has of it: a folder."""

    def __init__(self, account, token="first"):
        self.account, self.token, self.pods, self.refused = account, token, {}, []
        account.mkdir()
        root, certificate, key = certificates()
        both = account.parent / f"{account.name}.pem"
        both.write_bytes(certificate + key)
        for name, content in (("ca.crt", root), ("namespace", b"videos"), ("token", token.encode())):
            (account / name).write_bytes(content)
        super().__init__(_ApiServer)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(both)
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def environment(self, pod):
        """What is told to every process of the pod."""
        self.pods.setdefault(pod, [{}])
        return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self.server_address[1]),
                "POD_NAME": pod, "PACKHORSE_SERVICE_ACCOUNT": str(self.account), "PACKHORSE_PROTECT": "pod"}

    def replace_token(self, token):
        """As the kubelet does every hour."""
        self.token = token
        (self.account / "token").write_text(token)

    def annotations(self, pod):
        """Those of a pod, as they are now."""
        return self.pods[pod][-1]


class _ApiServer(_Handler):
    """Takes a merge patch and nothing else."""

    def do_PATCH(self):  # The name is the library's.
        """Of a pod's metadata."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server, pod = self.server, self.path.split("?")[0].rsplit("/", 1)[1]
        wrong = None
        if self.headers.get("Authorization") != f"Bearer {server.token}":
            wrong = 401
        elif not self.path.startswith("/api/v1/namespaces/videos/pods/") or pod not in server.pods:
            wrong = 404
        elif self.headers.get("Content-Type") != "application/merge-patch+json":
            wrong = 415
        if wrong is not None:
            server.refused.append((wrong, self.path))
            self.answer(wrong, json.dumps({"kind": "Status", "message": "refused", "code": wrong}).encode())
            return
        annotations = dict(server.annotations(pod))
        for name, value in json.loads(body)["metadata"]["annotations"].items():
            if value is None:
                annotations.pop(name, None)
            else:
                annotations[name] = value
        server.pods[pod].append(annotations)
        self.answer(200, json.dumps({"metadata": {"annotations": annotations}}).encode())


class Between(_Server):
    """Stands before a service that is asked by forms: `asked` is called with every form, and then it is passed on."""

    def __init__(self, upstream, asked):
        self.upstream, self.asked = upstream, asked
        super().__init__(_Between)


class _Between(_Handler):
    """Passes on what came as it came."""

    def do_POST(self):  # The name is the library's.
        """A form."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked(dict(urllib.parse.parse_qsl(body.decode())))
        upstream = http.client.HTTPConnection(*self.server.upstream)
        upstream.request("POST", self.path, body, dict(self.headers))
        answer = upstream.getresponse()
        self.answer(answer.status, answer.read())


class Silent(_Server):
    """Takes every request and answers none; `asked` is set with the first."""

    def __init__(self):
        self.asked, self.over = threading.Event(), threading.Event()
        super().__init__(_Silent)

    def __exit__(self, *_):
        self.over.set()
        super().__exit__()


class _Silent(_Handler):
    """Waits for the end."""

    def handle(self):
        """Says nothing, whatever is asked."""
        self.rfile.read(1)
        self.server.asked.set()
        self.server.over.wait()


class Gate(_Server):
    """Gives one file at `/video.mp4`, once `open` is set: whoever asks before has to wait."""

    def __init__(self, content):
        self.content, self.open = content, threading.Event()
        super().__init__(_Gate)


class _Gate(_Handler):
    """Waits no longer than a client does."""

    def do_HEAD(self):  # The name is the library's.
        """Says what there is without waiting."""
        self.answer(200, self.server.content, ETag='"one"')

    def do_GET(self):  # The name is the library's.
        """The whole of it."""
        self.server.open.wait(60)
        self.answer(200, self.server.content, ETag='"one"')


def certificates():
    """An authority's certificate, one that it gave for this machine, and that one's key."""
    services.use_libraries()
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    now, day = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)

    def built(subject, issuer, key, extension):
        names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in (subject, issuer)]
        builder = x509.CertificateBuilder().subject_name(names[0]).issuer_name(names[1]).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        return builder.not_valid_before(now - day).not_valid_after(now + day).add_extension(extension, critical=False)

    authority, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    root = built("authority", "authority", authority, x509.BasicConstraints(ca=True, path_length=None))
    leaf = built("server", "authority", key, address)
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    signed = [builder.sign(authority, hashes.SHA256()).public_bytes(pem) for builder in (root, leaf)]
    return (*signed, key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
