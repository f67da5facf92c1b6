"""Reads the schema of a server by gRPC reflection, calls Predict with it, and prints the result as JSON.

    python reflection.py GRPC_ADDRESS

The model ``m`` is the one of ``tests/harness/model_server.py``.
"""

import json
import sys
from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


def messages(descriptor: Any, found: set[str]) -> None:
    """Add the names of a message, and of all messages that its fields use."""
    if descriptor.full_name not in found:
        found.add(descriptor.full_name)
        for field in descriptor.fields:
            if field.message_type is not None:
                messages(field.message_type, found)


def main() -> None:
    """Print the services with their methods, the number of messages, and the answer of the model."""
    with grpc.insecure_channel(sys.argv[1]) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(database)
        services = {name: pool.FindServiceByName(name) for name in database.get_services()}
        found: set[str] = set()
        for service in services.values():
            for method in service.methods:
                messages(method.input_type, found)
                messages(method.output_type, found)
        predict = services["tensorflow.serving.PredictionService"].FindMethodByName("Predict")
        request: Any = GetMessageClass(predict.input_type)()
        request.model_spec.name = "m"
        request.inputs["x"].dtype = 1
        request.inputs["x"].tensor_shape.dim.add(size=3)
        request.inputs["x"].float_val.extend([1.0, 2.0, 5.0])
        call: Any = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        answer: Any = GetMessageClass(predict.output_type).FromString(call(request.SerializeToString()))
    print(
        json.dumps(
            {
                "services": {name: [method.name for method in service.methods] for name, service in services.items()},
                "messages": len(found),
                "files": sorted({pool.FindMessageTypeByName(name).file.name for name in found}),
                "answer": list(answer.outputs["y"].float_val),
            }
        )
    )


if __name__ == "__main__":
    main()
