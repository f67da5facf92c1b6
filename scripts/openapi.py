"""Write the OpenAPI descriptions in docs/reference, or check that the committed files are up to date.

``openapi.json`` describes the REST API of the model server. ``administration-openapi.json`` describes the API of the
broker's administration, from the table of its operations.

Source: OpenAPI Specification 3.1.1 (spec.openapis.org/oas/v3.1.1); tensorflow/serving, ``g3doc/api_rest.md``. A test
compares the description with the server's answers.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from scripts import openapi_v2
from scripts.generated_files import write_or_check

from sealserve import __version__
from sealserve.broker.administration.description import document as administration_document
from sealserve.serving.http.api import HTTP_STATUS
from sealserve.serving.request_errors import Status
from sealserve.serving_flags import BY_NAME, MEBIBYTE
from sealserve.serving_interface import (
    DEFAULT_SIGNATURE,
    EVIDENCE_PARAMETER,
    EVIDENCE_PATH,
    RECEIPT_HEADER,
    RECEIPT_WANTED,
)
from sealserve.tcp_ports import REST_PORT
from sealserve.terms import LARGEST_VERSION

_FOLDER: Final = Path(__file__).resolve().parent.parent / "docs" / "reference"
FILE: Final = _FOLDER / "openapi.json"
ADMINISTRATION_FILE: Final = _FOLDER / "administration-openapi.json"
_LARGEST_BODY: Final = int(BY_NAME["rest_api_max_body_bytes"].default) // MEBIBYTE
_SERVICE: Final = "grpc.tf-serving.service.com"
_FLOAT_TEXT: Final = "a number; `NaN`, `Infinity` and `-Infinity` are written without quotation marks, unlike in JSON"

_WHERE: Final = {"": (), "/versions/{version}": ("version",), "/labels/{label}": ("label",)}
"""The part of a path after the model's name, and its parameters."""
_CALLS: Final = {
    "predict": "Run a signature of the model on tensors",
    "classify": "Classify examples (`tf.Example`)",
    "regress": "Compute a regression of examples (`tf.Example`)",
}
_ERRORS: Final = {
    400: "The request does not match the model's signature, or is not valid JSON.",
    404: "The model, the version or the label is not served, or the path does not belong to this API.",
    413: f"The body is larger than {_LARGEST_BODY} MiB after decompression.",
    429: "Too many requests run or wait, or the memory for requests is full. Retry later.",
    503: "The version is loading or was unloaded. Retry later.",
    504: "The answer took too long.",
}


def render() -> str:
    """Return the description as indented JSON."""
    return _text(_document())


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, sort_keys=False) + "\n"


def _document() -> dict[str, Any]:
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "REST API of sealserve's model server",
            "summary": "TensorFlow Serving's API and the Open Inference Protocol, over TLS that ends in an enclave",
            "description": (
                "Written by scripts/openapi.py: run `make openapi`. HTTP/1.1 over TLS 1.2 or later; the server name "
                "(SNI) must be the name in the service's certificate. With two-way TLS, clients present a certificate. "
                "How to turn the API on and call it: docs/how-to/rest.md."
            ),
            "version": __version__,
            "license": {"name": "Apache License 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [
            {
                "url": "https://{name}:{port}",
                "variables": {
                    "name": {"default": _SERVICE, "description": "`service.name` in sealserve.toml"},
                    "port": {"default": str(REST_PORT), "description": "`service.rest_port` in sealserve.toml"},
                },
            }
        ],
        "security": [{"clientCertificate": []}, {}],
        "tags": [
            {"name": "inference", "description": "Calls that run a model"},
            {"name": "models", "description": "Served models"},
            {"name": openapi_v2.TAG, "description": "The Open Inference Protocol, version 2"},
            {"name": "attested serving", "description": "Evidence of an enclave"},
        ],
        "paths": dict(_paths()),
        "components": {
            "securitySchemes": {
                "clientCertificate": {
                    "type": "mutualTLS",
                    "description": 'required if `service.tls` is "two-way", as for gRPC',
                }
            },
            "parameters": {**_parameters(), **openapi_v2.parameters()},
            "responses": dict(_error_responses()),
            "schemas": {**_schemas(), **openapi_v2.schemas()},
        },
    }


def _paths() -> Iterator[tuple[str, dict[str, Any]]]:
    yield EVIDENCE_PATH, {"get": _evidence()}
    for where, names in _WHERE.items():
        path = f"/v1/models/{{model}}{where}"
        parameters = [_reference("parameters", name) for name in ("model", *names)]
        suffix = f"_of_{names[0]}" if names else ""
        for call, summary in _CALLS.items():
            yield f"{path}:{call}", {"parameters": parameters, "post": _call(call, summary, suffix)}
        status = _look("status", "Return the state of the model's versions", "ModelStatus", suffix)
        yield path, {"parameters": parameters, "get": status}
        metadata = _look("metadata", "Return the model's signatures", "ModelMetadata", suffix)
        yield f"{path}/metadata", {"parameters": parameters, "get": metadata}
    errors = {str(code): _reference("responses", _response_name(code)) for code in _ERRORS}
    for path, item in openapi_v2.paths({**errors, "default": _reference("responses", "Error")}):
        yield path, {**item, "post": _with_receipt_header(item["post"])} if "post" in item else item


def _evidence() -> dict[str, Any]:
    nonce = {
        "name": EVIDENCE_PARAMETER,
        "in": "query",
        "required": True,
        "description": "32 random bytes in base64url without padding, used once",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{43}$"},
    }
    document = {"application/json": {"schema": {"type": "object"}}}
    return {
        "operationId": "evidence",
        "summary": "Return the evidence of an attested server: docs/reference/attestation-protocol.md",
        "tags": ["attested serving"],
        "parameters": [nonce],
        "responses": {
            "200": {"description": "The evidence, a document of type `sealserve.evidence`", "content": document},
            "404": {"description": "The server is not attested."},
            **{str(code): _reference("responses", _response_name(code)) for code in (400, 429)},
            "default": _reference("responses", "Error"),
        },
    }


def _call(call: str, summary: str, suffix: str) -> dict[str, Any]:
    name = call.capitalize()
    return {
        "operationId": f"{call}{suffix}",
        "summary": summary,
        "tags": ["inference"],
        "parameters": [_reference("parameters", "receipt")],
        "requestBody": {
            "required": True,
            "description": "The content type is not checked. The body may be compressed (`Content-Encoding: gzip`).",
            "content": _json(f"{name}Request"),
        },
        "responses": _with_receipt(_responses(f"{name}Response", _ERRORS)),
    }


def _with_receipt_header(operation: dict[str, Any]) -> dict[str, Any]:
    return {**operation, "responses": _with_receipt(operation["responses"])}


def _with_receipt(responses: dict[str, Any]) -> dict[str, Any]:
    header = {
        "description": "The receipt that the request asked for, a JSON web signature",
        "schema": {"type": "string"},
    }
    headers = {**responses["200"].get("headers", {}), RECEIPT_HEADER.title(): header}
    return {**responses, "200": {**responses["200"], "headers": headers}}


def _look(name: str, summary: str, schema: str, suffix: str) -> dict[str, Any]:
    found = [code for code in _ERRORS if code in {400, 404, 429}]
    return {
        "operationId": f"{name}{suffix}",
        "summary": summary,
        "tags": ["models"],
        "responses": _responses(schema, found),
    }


def _responses(schema: str, errors: Any) -> dict[str, Any]:
    return {
        "200": {"description": "The answer", "content": _json(schema)},
        **{str(code): _reference("responses", _response_name(code)) for code in errors},
        "default": _reference("responses", "Error"),
    }


def _error_responses() -> Iterator[tuple[str, dict[str, Any]]]:
    for code, description in _ERRORS.items():
        yield _response_name(code), {"description": description, "content": _json("Error")}
    others = sorted({code for status, code in HTTP_STATUS.items() if status is not Status.OK})
    text = ", ".join(map(str, others))
    description = f"An error. The status follows from TensorFlow Serving's code: {text}, or another HTTP status."
    yield "Error", {"description": description, "content": _json("Error")}


def _response_name(code: int) -> str:
    return f"Error{code}"


def _parameters() -> dict[str, Any]:
    def path(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
        return {"name": name, "in": "path", "required": True, "description": description, "schema": schema}

    number = {"type": "integer", "format": "int64", "minimum": 0, "maximum": LARGEST_VERSION}
    text = {"type": "string", "pattern": "^[^/:]+$"}
    return {
        "model": path("model", text, "the model's name: `model.name` in sealserve.toml"),
        "version": path("version", number, "a version of the model; by default the newest one answers"),
        "receipt": {
            "name": RECEIPT_HEADER.title(),
            "in": "header",
            "description": "asks an attested server for a receipt; other servers refuse the request",
            "schema": {"type": "string", "const": RECEIPT_WANTED},
        },
        "label": path("label", text, "a label of a version: `model.labels` in sealserve.toml"),
    }


def _schemas() -> dict[str, Any]:
    signature = {
        "type": "string",
        "default": DEFAULT_SIGNATURE,
        "description": "the name of one of the model's signatures",
    }
    feature = {"oneOf": [_reference("schemas", "FeatureValue"), _list(_reference("schemas", "FeatureValue"))]}
    example = {"type": "object", "additionalProperties": feature}
    examples = {
        "type": "object",
        "required": ["examples"],
        "properties": {
            "signature_name": signature,
            "context": {**example, "description": "features that are added to all examples"},
            "examples": {**_list(example), "minItems": 1},
        },
    }
    tensor = _reference("schemas", "Tensor")
    version_state = ["UNKNOWN", "START", "LOADING", "AVAILABLE", "UNLOADING", "END"]
    return {
        "Error": _object({"error": {"type": "string", "description": "the message; it does not quote the request"}}),
        "Binary": {
            **_object({"b64": {"type": "string", "contentEncoding": "base64"}}),
            "description": "bytes, for tensors and features of type string",
            "additionalProperties": False,
        },
        "Tensor": {
            "description": f"a value, or nested lists of values of the same length: {_FLOAT_TEXT}",
            "oneOf": [
                {"type": ["number", "string", "boolean"]},
                _reference("schemas", "Binary"),
                _list(tensor),
            ],
        },
        "Named": {
            "description": "a tensor for each name; or the tensor itself if the signature has a single one",
            "anyOf": [tensor, {"type": "object", "additionalProperties": tensor}],
        },
        "PredictRequest": {
            "oneOf": [
                {
                    "type": "object",
                    "title": "row format",
                    "required": ["instances"],
                    "not": {"required": ["inputs"]},
                    "properties": {
                        "signature_name": signature,
                        "instances": {**_list(_reference("schemas", "Named")), "minItems": 1},
                    },
                },
                {
                    "type": "object",
                    "title": "columnar format",
                    "required": ["inputs"],
                    "not": {"required": ["instances"]},
                    "properties": {"signature_name": signature, "inputs": _reference("schemas", "Named")},
                },
            ],
            "examples": [{"instances": [1.0, 2.0, 5.0]}],
        },
        "PredictResponse": {
            "oneOf": [
                {**_object({"predictions": _list(_reference("schemas", "Named"))}), "title": "row format"},
                {**_object({"outputs": _reference("schemas", "Named")}), "title": "columnar format"},
            ],
            "examples": [{"predictions": [2.5, 3.0, 4.5]}],
        },
        "FeatureValue": {
            "oneOf": [{"type": ["number", "string", "boolean"]}, _reference("schemas", "Binary")],
        },
        "ClassifyRequest": examples,
        "ClassifyResponse": _object({
            "results": {
                "type": "array",
                "description": "for each example, its classes",
                "items": _list({
                    "type": "array",
                    "description": "label and score",
                    "prefixItems": [{"type": "string"}, {"type": ["number", "string"]}],
                    "items": False,
                    "minItems": 2,
                }),
            }
        }),
        "RegressRequest": examples,
        "RegressResponse": _object({
            "results": {"type": "array", "description": "a value for each example", "items": {"type": "number"}}
        }),
        "ModelStatus": _object({
            "model_version_status": _list(
                _object({
                    "version": {"type": "string", "pattern": "^[0-9]+$"},
                    "state": {"type": "string", "enum": version_state},
                    "status": _object({"error_code": {"type": "string"}, "error_message": {"type": "string"}}),
                })
            )
        }),
        "ModelMetadata": _object({
            "model_spec": _object({
                "name": {"type": "string"},
                "signature_name": {"type": "string"},
                "version": {"type": "string", "pattern": "^[0-9]+$"},
            }),
            "metadata": _object({
                "signature_def": _object({
                    "signature_def": {
                        "type": "object",
                        "description": "TensorFlow's SignatureDef of each signature, in the JSON form of protobuf",
                        "additionalProperties": {"type": "object"},
                    }
                })
            }),
        }),
    }  # fmt: skip


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an object in which these properties are required."""
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": _reference("schemas", schema)}}


def _reference(kind: str, name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/{kind}/{name}"}


def main() -> None:
    """Write the files, or compare them with ``--check``."""
    files = {FILE: render, ADMINISTRATION_FILE: lambda: _text(administration_document())}
    write_or_check(files, description=__doc__, target="openapi")


if __name__ == "__main__":
    main()
