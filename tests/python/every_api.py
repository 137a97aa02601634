"""The same texts or pictures, put to a model by every API that takes them: a name for each way, and its answers."""

import base64
import json
import urllib.parse

import numpy as np

import oip_answers

BOUNDARY = "a-line-that-is-in-no-picture"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
URL_ENCODED = "application/x-www-form-urlencoded"


def multipart(fields, picture=None):
    """A form of texts by name, and a file where there is one (RFC 7578)."""
    parts = [f'content-disposition: form-data; name="{name}"\r\n\r\n{value}'.encode() for name, value in fields.items()]
    if picture is not None:
        parts.append(b'content-disposition: form-data; name="image"; filename="street.png"\r\n'
                     b"content-type: image/png\r\n\r\n" + picture)
    line = f"--{BOUNDARY}".encode()
    return b"".join(line + b"\r\n" + part + b"\r\n" for part in parts) + line + b"--\r\n"


def _said(answer, key):
    status, told = answer
    if status != 200:
        raise AssertionError(f"{status}: {told}")
    return told[key]


def _words(options):
    """Options as a query or a form has them."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in options.items()}


def _by_tensors(server, model, columns, options):
    """By the Open Inference Protocol: by the name that lists what people give, and by the model's own, where options
    mean nothing. Texts may be JSON as well as bytes."""
    is_text = not any(isinstance(value, bytes) for column in columns.values() for value in column)
    for library, client in oip_answers.clients(server):
        rest = library.__name__.endswith("http")
        name = f"{model}:answers"
        yield f"{library.__name__}, {name}", oip_answers.ask(library, client, name, columns, **options)
        for binary in () if options else (True, False) if rest and is_text else (True,):
            more = [binary] if rest else []
            inputs = [library.InferInput(name, [len(column)], "BYTES") for name, column in columns.items()]
            for tensor, column in zip(inputs, columns.values(), strict=True):
                tensor.set_data_from_numpy(np.array(column, dtype=object), *more)
            outputs = [library.InferRequestedOutput("answers", *more)]
            answers = client.infer(model, inputs, outputs=outputs).as_numpy("answers")
            yield f"{library.__name__}, {model}, binary: {binary}", [json.loads(answer) for answer in answers]


def texts(server, model, rows, **options):
    """What each way makes of `rows`, each of which holds the same texts by name."""
    path, words = f"/predictions/{model}", _words(options)
    query = urllib.parse.urlencode(words)
    alone = {
        "GET": lambda row: server.ask(f"{path}?{urllib.parse.urlencode(row | words)}"),
        "POST of names": lambda row: server.ask(path, row | options),
        "POST of one input": lambda row: server.ask(path, {"inputs": row, "parameters": options}),
        "POST with a query": lambda row: server.ask(f"{path}?{query}", row),
        "form": lambda row: server.ask(path, urllib.parse.urlencode(row | words).encode(), URL_ENCODED),
        "multipart form": lambda row: server.ask(path, multipart(row | words), FORM),
    }
    if rows[0].keys() == {"text"}:
        alone["plain text"] = lambda row: server.ask(f"{path}?{query}", row["text"].encode(), "text/plain")
        alone["POST of a bare text"] = lambda row: server.ask(f"{path}?{query}", row["text"])
    for way, ask in alone.items():
        yield f"/predictions, {way}", [_said(ask(row), "detail") for row in rows]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    beside = {"parameters": options} if options else {}
    yield "/predictions, list", _said(server.ask(path, {"inputs": rows} | beside), "detail")
    predict = f"/v1/models/{model}:predict"
    yield ":predict, rows", _said(server.ask(predict, {"instances": rows} | beside), "predictions")
    yield ":predict, columns", _said(server.ask(predict, {"inputs": columns} | beside), "outputs")
    if rows[0].keys() == {"text"}:
        yield ":predict, bare texts", _said(server.ask(predict, {"instances": columns["text"]} | beside), "predictions")
    yield from _by_tensors(server, model, columns, options)


def pictures(server, model, files, **options):
    """What each way makes of `files`, which are bytes of PNG."""
    path, words = f"/predictions/{model}", _words(options)
    asked = f"{path}?{urllib.parse.urlencode(words)}"
    coded = [base64.b64encode(file).decode() for file in files]
    bodies = {
        "body": lambda at: server.ask(asked, files[at], "image/png"),
        "body of any kind": lambda at: server.ask(asked, files[at], "application/octet-stream"),
        "multipart form": lambda at: server.ask(path, multipart(words, files[at]), FORM),
        "base64": lambda at: server.ask(path, {"image": coded[at]} | options),
    }
    for way, ask in bodies.items():
        yield f"/predictions, {way}", [_said(ask(at), "detail") for at in range(len(files))]
    beside = {"parameters": options} if options else {}
    yield "/predictions, list", _said(server.ask(path, {"inputs": coded} | beside), "detail")
    instances = {"bare": [{"b64": code} for code in coded], "named": [{"image_bytes": {"b64": code}} for code in coded]}
    for way, rows in instances.items():
        answer = server.ask(f"/v1/models/{model}:predict", {"instances": rows} | beside)
        yield f":predict, {way}", _said(answer, "predictions")
    yield from _by_tensors(server, model, {"image": files}, options)
