"""The public `tensorflow-serving-api` stubs without TensorFlow: `prediction`, `models` and the messages they take.

The stubs import a handful of TensorFlow's message modules. Those are made here from the descriptors that the server itself
was built from, under the files' public names; what a test sends and reads is framed by the public stubs.
"""

import importlib
import sys
import types

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

import product

DESCRIPTORS = product.ROOT / "crates" / "proto" / "src" / "generated" / "descriptors.bin"

# TensorFlow's file -> ours that holds what the stubs take from it.
FILES = {
    "tensorflow/core/framework/tensor.proto": "tensorflow.proto",
    "tensorflow/core/example/example.proto": "tensorflow.proto",
    "tensorflow/core/protobuf/meta_graph.proto": "tensorflow.proto",
    "tensorflow/core/protobuf/error_codes.proto": "tensorflow_error.proto",
}


def _stand_in():
    pool = descriptor_pool.Default()
    ours = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes())
    for file in ours.file:
        if file.name in FILES.values():
            pool.AddSerializedFile(file.SerializeToString())
    for public, own in FILES.items():
        forward = descriptor_pb2.FileDescriptorProto(name=public, dependency=[own], public_dependency=[0], syntax="proto3")
        pool.AddSerializedFile(forward.SerializeToString())
        path = public.removesuffix(".proto").replace("/", ".") + "_pb2"
        module = types.ModuleType(path)
        # The stubs look here for a file that TensorFlow's own module passes on.
        module.xla_dot_tsl_dot_protobuf_dot_error__codes__pb2 = None
        while "." in path:
            sys.modules[path] = module
            parent, _, name = path.rpartition(".")
            module, child = sys.modules.get(parent) or types.ModuleType(parent), module
            module.__path__ = getattr(module, "__path__", [])
            setattr(module, name, child)
            path = parent
        sys.modules[path] = module


def message(name):
    """The class of one of TensorFlow's own messages."""
    return message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(f"tensorflow.{name}"))


_stand_in()


def api(name):
    """A module of the stubs."""
    return importlib.import_module(f"tensorflow_serving.apis.{name}")


DataType = descriptor_pool.Default().FindEnumTypeByName("tensorflow.DataType").values_by_name
