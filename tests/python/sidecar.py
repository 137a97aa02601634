"""The sidecar of old, played by a plain ONNX Runtime: one detector behind TensorFlow Serving's gRPC and REST, as its public
stubs and documentation say them. Shares no code with the product."""

import concurrent.futures
import http.server
import json
import ssl
import threading

import grpc
import numpy as np

import reference_nanodet
import reference_odapi
import tfs_stubs

predict_pb2 = tfs_stubs.api("predict_pb2")
metadata_pb2 = tfs_stubs.api("get_model_metadata_pb2")

NAME, VERSION, SIGNATURE = "ssd", 7, "serving_default"
# Signature's name -> graph's, type, shape as the exporter writes it: not as the model of the store calls them.
INPUT = {"inputs": ("image_tensor:0", "DT_UINT8", [-1, -1, -1, 3])}
OUTPUTS = {name.removesuffix(":0"): (name, "DT_FLOAT", None) for name in reference_odapi.OUTPUTS}
MESSAGE_BYTES_MAX = 64 << 20


class Sidecar:
    """Serving when entered, gone when left. `answered` counts answers by API, `busy` refuses so many first. With `tls`, files
    with a certificate and its key, it is behind TLS; with `entry`, whoever asks has to show that."""

    def __init__(self, busy=0, tls=None, entry=None):
        self.answered = {"grpc": 0, "http": 0}
        self.busy, self.tls, self.entry = busy, tls, entry
        self._lock = threading.Lock()
        self._session = reference_nanodet.session(reference_odapi.MODEL)

    def __enter__(self):
        self._grpc = grpc.server(concurrent.futures.ThreadPoolExecutor(2), options=[
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX)])
        self._grpc.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", {
            "Predict": grpc.unary_unary_rpc_method_handler(
                self._predict, predict_pb2.PredictRequest.FromString, predict_pb2.PredictResponse.SerializeToString),
            "GetModelMetadata": grpc.unary_unary_rpc_method_handler(
                self._metadata, metadata_pb2.GetModelMetadataRequest.FromString,
                metadata_pb2.GetModelMetadataResponse.SerializeToString),
        })])
        self._http = _Http(("127.0.0.1", 0), _handler(self))
        if self.tls is None:
            port = self._grpc.add_insecure_port("127.0.0.1:0")
        else:
            certificate, key = self.tls
            pair = (key.read_bytes(), certificate.read_bytes())
            port = self._grpc.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self.grpc = f"127.0.0.1:{port}"
        self._grpc.start()
        self.http = f"127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._http.server_close()
        self._grpc.stop(None).wait()

    def run(self, pictures, api):
        """Outputs by their names in the signature."""
        arrays = self._session.run(reference_odapi.OUTPUTS, {"image_tensor:0": pictures})
        with self._lock:
            self.answered[api] += 1
        return dict(zip(OUTPUTS, arrays))

    def refuses(self):
        """Whether this one is refused."""
        with self._lock:
            self.busy -= 1
            return self.busy >= 0

    def _let_in(self, context):
        if self.entry is not None and dict(context.invocation_metadata()).get("authorization") != self.entry:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "who asks?")

    def _predict(self, request, context):
        self._let_in(context)
        if request.model_spec.name != NAME or request.model_spec.version.value not in (0, VERSION):
            context.abort(grpc.StatusCode.NOT_FOUND, "no such servable")
        if self.refuses():
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no room in the queue")
        tensor = request.inputs["inputs"]
        shape = [dim.size for dim in tensor.tensor_shape.dim]
        outputs = self.run(np.frombuffer(tensor.tensor_content, np.uint8).reshape(shape), "grpc")
        response = predict_pb2.PredictResponse()
        response.model_spec.name = NAME
        response.model_spec.version.value = VERSION
        for name, array in outputs.items():
            if request.output_filter and name not in request.output_filter:
                continue
            made = response.outputs[name]
            made.dtype = tfs_stubs.DataType["DT_FLOAT"].number
            for size in array.shape:
                made.tensor_shape.dim.add(size=size)
            # Where TensorFlow Serving puts them.
            made.float_val.extend(array.ravel().tolist())
        return response

    def _metadata(self, request, context):
        self._let_in(context)
        response = metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = VERSION
        made = metadata_pb2.SignatureDefMap()
        for side, tensors in (("inputs", INPUT), ("outputs", OUTPUTS)):
            for name, (graph, dtype, shape) in tensors.items():
                info = getattr(made.signature_def[SIGNATURE], side)[name]
                info.name, info.dtype = graph, tfs_stubs.DataType[dtype].number
                info.tensor_shape.unknown_rank = shape is None
                for size in shape or []:
                    info.tensor_shape.dim.add(size=size)
        response.metadata["signature_def"].Pack(made)
        return response

    def rest(self, path, body, entry):
        """Status and answer."""
        if self.entry is not None and entry != self.entry:
            return 401, {"error": "who asks?"}
        base = f"/v1/models/{NAME}"
        if body is None and path in (f"{base}/metadata", f"{base}/versions/{VERSION}/metadata"):
            def shape(sizes):
                return {"dim": [{"size": str(size), "name": ""} for size in sizes or []], "unknown_rank": sizes is None}

            signature = {side: {name: {"dtype": dtype, "name": graph, "tensor_shape": shape(sizes)}
                                for name, (graph, dtype, sizes) in tensors.items()}
                         for side, tensors in (("inputs", INPUT), ("outputs", OUTPUTS))}
            return 200, {"model_spec": {"name": NAME, "signature_name": "", "version": str(VERSION)},
                         "metadata": {"signature_def": {"signature_def": {SIGNATURE: signature}}}}
        if body is not None and path in (f"{base}:predict", f"{base}/versions/{VERSION}:predict"):
            if self.refuses():
                return 503, {"error": "no room in the queue"}
            outputs = self.run(np.array(json.loads(body)["instances"], np.uint8), "http")
            rows = [dict(zip(outputs, row)) for row in zip(*(array.tolist() for array in outputs.values()))]
            return 200, {"predictions": rows}
        return 404, {"error": f"no such path {path}"}


class _Http(http.server.ThreadingHTTPServer):
    """Says nothing of clients that leave when they see who answers."""

    def handle_error(self, request, client_address):
        """It is their right."""


def _handler(sidecar):
    class Handler(http.server.BaseHTTPRequestHandler):
        """One request after the other on a connection."""

        protocol_version = "HTTP/1.1"

        def _answer(self, body):
            status, answer = sidecar.rest(self.path, body, self.headers.get("authorization"))
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            if status == 503:
                self.send_header("retry-after", "0")
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):  # The name is http.server's.
            self._answer(None)

        def do_POST(self):  # The name is http.server's.
            self._answer(self.rfile.read(int(self.headers["content-length"])))

        def log_message(self, *_):
            pass

    return Handler
