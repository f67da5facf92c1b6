"""The part of the REST API's OpenAPI description for the Open Inference Protocol."""

from collections.abc import Iterator
from typing import Any, Final

from sealserve.serving.open_inference.datatypes import DATATYPES
from sealserve.serving.open_inference.parameters import (
    BINARY_DATA,
    BINARY_DATA_OUTPUT,
    BINARY_DATA_SIZE,
    SIGNATURE_NAME,
)
from sealserve.serving_interface import BINARY_HEADER, DEFAULT_SIGNATURE

TAG: Final = "open inference protocol"
_WHERE: Final = {"": (), "/versions/{version_or_label}": ("version_or_label",)}
_NOT_FOUND: Final = "404"
_UNAVAILABLE: Final = "503"


def paths(errors: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the paths.

    Args:
        errors: The responses for errors, by status.
    """
    probes = {code: errors[code] for code in ("429", "default")}
    yield "/v2", {"get": _get("v2_server", "Describe the server", "V2Server", probes)}
    yield "/v2/health/live", {"get": _get("v2_live", "Return whether the server is alive", "V2Live", probes)}
    draining = {_UNAVAILABLE: {"description": "The server drains.", "content": _json("V2Ready")}}
    ready = _get("v2_ready", "Return whether the server accepts requests", "V2Ready", {**probes, **draining})
    yield "/v2/health/ready", {"get": ready}
    looks = {code: errors[code] for code in ("400", _NOT_FOUND, "429", "default")}
    for where, names in _WHERE.items():
        path, suffix = f"/v2/models/{{model}}{where}", "_of_version" if names else ""
        parameters = [_reference("parameters", name) for name in ("model", *names)]
        metadata = _get(f"v2_metadata{suffix}", "Return the inputs and outputs of a model", "V2Metadata", looks)
        yield path, {"parameters": parameters, "get": metadata}
        loading = {_UNAVAILABLE: {"description": "The model is not available.", "content": _json("V2ModelReady")}}
        is_ready = _get(
            f"v2_model_ready{suffix}", "Return whether a model is available", "V2ModelReady", {**looks, **loading}
        )
        yield f"{path}/ready", {"parameters": parameters, "get": is_ready}
        yield f"{path}/infer", {"parameters": parameters, "post": _infer(f"v2_infer{suffix}", errors)}


def _get(name: str, summary: str, schema: str, errors: dict[str, Any]) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": summary,
        "tags": [TAG],
        "responses": {"200": {"description": "The answer", "content": _json(schema)}, **errors},
    }


def _infer(name: str, errors: dict[str, Any]) -> dict[str, Any]:
    size = {"type": "integer", "minimum": 0}
    header = {"description": "the size of the JSON, if binary data follows it", "schema": size}
    binary = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    return {
        "operationId": name,
        "summary": "Run a signature of the model on tensors",
        "tags": [TAG],
        "parameters": [
            _reference("parameters", "receipt"),
            {"name": BINARY_HEADER, "in": "header", **header},
        ],
        "requestBody": {
            "required": True,
            "description": (
                "JSON. Binary data of inputs can follow it. The content type is not checked. The body may be compressed"
                " (`Content-Encoding: gzip`)."
            ),
            "content": {**_json("V2InferRequest"), **binary},
        },
        "responses": {
            "200": {
                "description": "The answer: JSON, and binary data of outputs if the request asks for it",
                "headers": {BINARY_HEADER: header},
                "content": {**_json("V2InferResponse"), **binary},
            },
            **errors,
        },
    }


def parameters() -> dict[str, Any]:
    """Return the parameters of the paths, besides the parameters of TensorFlow Serving's API."""
    return {
        "version_or_label": {
            "name": "version_or_label",
            "in": "path",
            "required": True,
            "description": "a version of the model, or a label of a version; by default the newest version answers",
            "schema": {"type": "string", "pattern": "^[^/]+$"},
        }
    }


def schemas() -> dict[str, Any]:
    """Return the schemas of the bodies."""
    text, flag = {"type": "string"}, {"type": "boolean"}
    shape = {"type": "array", "items": {"type": "integer", "minimum": 0}}
    datatype = {"type": "string", "enum": list(DATATYPES)}
    declared = {"type": "array", "items": {"type": "integer", "minimum": -1}, "description": "-1: any size"}
    described = {"type": "array", "items": _object({"name": text, "datatype": datatype, "shape": declared})}
    data = {
        "type": "array",
        "description": "the elements row by row, or lists that are nested like the shape",
        "items": {"type": ["number", "string", "boolean", "array"]},
    }
    size = _parameters({BINARY_DATA_SIZE: {"type": "integer", "minimum": 0}})
    has_data = [{"required": ["data"]}, {"required": ["parameters"]}]
    tensor = {**_object({"name": text, "datatype": datatype, "shape": shape}), "oneOf": has_data}
    tensor["properties"] = {**tensor["properties"], "data": data, "parameters": size}
    wanted = {**_object({"name": text}), "title": "requested output"}
    wanted["properties"] = {**wanted["properties"], "parameters": _parameters({BINARY_DATA: flag})}
    signature = {"type": "string", "default": DEFAULT_SIGNATURE, "description": "the name of a signature"}
    request = _object({"inputs": {"type": "array", "items": _reference("schemas", "V2Tensor")}})
    request["properties"] |= {
        "id": text,
        "parameters": _parameters({SIGNATURE_NAME: signature, BINARY_DATA_OUTPUT: flag}),
        "outputs": {"type": "array", "items": wanted, "description": "by default all outputs"},
    }
    response = _object(
        {
            "model_name": text,
            "model_version": text,
            "outputs": {"type": "array", "items": _reference("schemas", "V2Tensor")},
        }
    )
    response["properties"] |= {"id": text}
    return {
        "V2Server": _object({"name": text, "version": text, "extensions": {"type": "array", "items": text}}),
        "V2Live": _object({"live": flag}),
        "V2Ready": _object({"ready": flag}),
        "V2ModelReady": _object({"name": text, "ready": flag}),
        "V2Metadata": _object(
            {
                "name": text,
                "versions": {"type": "array", "items": text},
                "platform": text,
                "inputs": described,
                "outputs": described,
            }
        ),
        "V2Tensor": tensor,
        "V2InferRequest": {
            **request,
            "examples": [{"inputs": [{"name": "x", "datatype": "FP32", "shape": [3], "data": [1.0, 2.0, 5.0]}]}],
        },
        "V2InferResponse": response,
    }


def _parameters(known: dict[str, Any]) -> dict[str, Any]:
    values = {"type": ["string", "number", "boolean", "null"]}
    return {"type": "object", "properties": known, "additionalProperties": values}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an object in which these properties are required."""
    return {"type": "object", "required": list(properties), "properties": properties}


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": _reference("schemas", schema)}}


def _reference(kind: str, name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/{kind}/{name}"}
