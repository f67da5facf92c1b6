"""The messages and the service of the Open Inference Protocol are those of its specification."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from google.protobuf import descriptor_pb2

from sealserve.serving.open_inference import open_inference_grpc_pb2

pytestmark = pytest.mark.tensorflow

VECTOR: Final = Path(__file__).parent / "open-inference" / "schema.json"
_FIELD: Final = descriptor_pb2.FieldDescriptorProto


def described(file: descriptor_pb2.FileDescriptorProto) -> dict[str, Any]:
    """Return everything in a file that decides about the bytes of its messages, and the paths of its methods."""
    return {
        "package": file.package,
        "syntax": file.syntax,
        "messages": dict(sorted(_messages(file.package, file.message_type))),
        "services": {
            f"{file.package}.{service.name}": {
                method.name: [method.input_type, method.output_type, method.client_streaming, method.server_streaming]
                for method in service.method
            }
            for service in file.service
        },
    }


def _messages(prefix: str, messages: Any) -> Iterator[tuple[str, list[str]]]:
    for message in messages:
        name = f"{prefix}.{message.name}"
        yield name, [_field(message, field) for field in sorted(message.field, key=lambda field: int(field.number))]
        yield from _messages(name, message.nested_type)


def _field(message: Any, field: Any) -> str:
    kind = field.type_name or _FIELD.Type.Name(field.type).removeprefix("TYPE_").lower()
    label = "repeated " if field.label == _FIELD.LABEL_REPEATED else ""
    oneof = f" of {message.oneof_decl[field.oneof_index].name}" if field.HasField("oneof_index") else ""
    return f"{field.number} {label}{kind} {field.name}{oneof}"


def test_names_numbers_and_types_are_those_of_the_specification() -> None:
    ours = descriptor_pb2.FileDescriptorProto()
    open_inference_grpc_pb2.DESCRIPTOR.CopyToProto(ours)
    assert described(ours) == json.loads(VECTOR.read_text(encoding="utf-8"))
