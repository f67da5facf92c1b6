"""The messages of gRPC reflection, in both versions of the protocol, which differ only in the name of the package.

Each version has a separate descriptor pool. The official package ``grpcio-reflection`` registers the same names, and
can therefore be imported too.

Source: grpc/grpc-proto, ``grpc/reflection/v1/reflection.proto`` and ``grpc/reflection/v1alpha/reflection.proto``.
"""

from dataclasses import dataclass
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FileDescriptor

SERVICE: Final = "ServerReflection"
METHOD: Final = "ServerReflectionInfo"

_FIELD: Final = descriptor_pb2.FieldDescriptorProto
_STRING: Final = "string"
_ONEOFS: Final = {"ServerReflectionRequest": "message_request", "ServerReflectionResponse": "message_response"}
_MESSAGES: Final = {
    "ServerReflectionRequest": (
        (1, _STRING, "host", ""),
        (3, _STRING, "file_by_filename", "oneof"),
        (4, _STRING, "file_containing_symbol", "oneof"),
        (5, "ExtensionRequest", "file_containing_extension", "oneof"),
        (6, _STRING, "all_extension_numbers_of_type", "oneof"),
        (7, _STRING, "list_services", "oneof"),
    ),
    "ExtensionRequest": ((1, _STRING, "containing_type", ""), (2, "int32", "extension_number", "")),
    "ServerReflectionResponse": (
        (1, _STRING, "valid_host", ""),
        (2, "ServerReflectionRequest", "original_request", ""),
        (4, "FileDescriptorResponse", "file_descriptor_response", "oneof"),
        (5, "ExtensionNumberResponse", "all_extension_numbers_response", "oneof"),
        (6, "ListServiceResponse", "list_services_response", "oneof"),
        (7, "ErrorResponse", "error_response", "oneof"),
    ),
    "FileDescriptorResponse": ((1, "bytes", "file_descriptor_proto", "repeated"),),
    "ExtensionNumberResponse": (
        (1, _STRING, "base_type_name", ""),
        (2, "int32", "extension_number", "repeated"),
    ),
    "ListServiceResponse": ((1, "ServiceResponse", "service", "repeated"),),
    "ServiceResponse": ((1, _STRING, "name", ""),),
    "ErrorResponse": ((1, "int32", "error_code", ""), (2, _STRING, "error_message", "")),
}
"""For each message, its fields: the number, the type, the name, and whether the field is repeated or in the oneof."""
_SCALARS: Final = {_STRING: _FIELD.TYPE_STRING, "bytes": _FIELD.TYPE_BYTES, "int32": _FIELD.TYPE_INT32}


@dataclass(frozen=True, slots=True)
class Version:
    """A version of the protocol.

    Args:
        file: The descriptor of its file.
    """

    file: FileDescriptor

    @property
    def path(self) -> str:
        """The path of the gRPC method."""
        return f"/{self.file.package}.{SERVICE}/{METHOD}"

    @property
    def request(self) -> Any:
        """The class of requests."""
        return message_factory.GetMessageClass(self.file.message_types_by_name["ServerReflectionRequest"])

    @property
    def response(self) -> Any:
        """The class of responses."""
        return message_factory.GetMessageClass(self.file.message_types_by_name["ServerReflectionResponse"])


def _version(name: str) -> Version:
    package = f"grpc.reflection.{name}"
    file = descriptor_pb2.FileDescriptorProto(
        name=f"grpc/reflection/{name}/reflection.proto", package=package, syntax="proto3"
    )
    for message_name, fields in _MESSAGES.items():
        message = file.message_type.add(name=message_name)
        if message_name in _ONEOFS:
            message.oneof_decl.add(name=_ONEOFS[message_name])
        for number, kind, field_name, form in fields:
            field = message.field.add(name=field_name, number=number)
            field.label = _FIELD.LABEL_REPEATED if form == "repeated" else _FIELD.LABEL_OPTIONAL
            field.type = _SCALARS.get(kind, _FIELD.TYPE_MESSAGE)
            if kind not in _SCALARS:
                field.type_name = f".{package}.{kind}"
            if form == "oneof":
                field.oneof_index = 0
    file.service.add(name=SERVICE).method.add(
        name=METHOD,
        input_type=f".{package}.ServerReflectionRequest",
        output_type=f".{package}.ServerReflectionResponse",
        client_streaming=True,
        server_streaming=True,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return Version(pool.FindFileByName(file.name))


VERSIONS: Final = (_version("v1"), _version("v1alpha"))
