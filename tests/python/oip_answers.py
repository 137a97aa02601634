"""People's questions by public clients of the Open Inference Protocol that know a model's name and read all else of the server."""

import json

import numpy as np
import tritonclient.grpc
import tritonclient.http


def clients(server):
    """Each public library with a client of `server`; closed when the next is asked for."""
    for library, address in ((tritonclient.http, server.http), (tritonclient.grpc, server.grpc)):
        client = library.InferenceServerClient(address)
        yield library, client
        client.close()


def told(library, client, model):
    """Metadata and configuration of `model` as objects."""
    if library is tritonclient.http:
        return client.get_model_metadata(model), client.get_model_config(model)
    return client.get_model_metadata(model, as_json=True), client.get_model_config(model, as_json=True)["config"]


def ask(library, client, model, columns, **options):
    """What `model` answers, an object an item: the inputs that its metadata lists, taken out of `columns`, and the outputs
    that it lists; what its configuration calls optional may be missing in `columns`. `options` go along as parameters of the request."""
    metadata, config = told(library, client, model)
    optional = {row["name"] for row in config["input"] if row.get("optional")}
    inputs = []
    for row in metadata["inputs"]:
        if row["name"] in optional and row["name"] not in columns:
            continue
        values = np.array(columns[row["name"]], dtype=object)
        shape = [int(size) for size in row["shape"]]
        if len(shape) != values.ndim or any(size not in (-1, given) for size, given in zip(shape, values.shape)):
            raise AssertionError(f"{row} is not what {values.shape} fits")
        inputs.append(library.InferInput(row["name"], values.shape, row["datatype"]))
        inputs[-1].set_data_from_numpy(values)
    outputs = [library.InferRequestedOutput(row["name"]) for row in metadata["outputs"]]
    answer = client.infer(model, inputs, outputs=outputs, parameters=options or None)
    given = answer.get_response()
    name = given["model_name"] if library is tritonclient.http else given.model_name
    if name != model:
        raise AssertionError(f"{model} was asked, and {name} answers")
    [row] = metadata["outputs"]
    return [json.loads(text) for text in answer.as_numpy(row["name"])]
