"""The OpenAPI description of the administration API, from the table of operations and their documents.

Source: OpenAPI Specification 3.1.1 (spec.openapis.org/oas/v3.1.1).
"""

from typing import Any

from pydantic.json_schema import models_json_schema

from sealserve import __version__
from sealserve.broker.administration.documents import RELEASE_PATTERN
from sealserve.broker.administration.operations import OPERATIONS, Operation
from sealserve.broker.administration.problem import MEDIA_TYPE, ProblemReply
from sealserve.broker.administration.roles import PERMITTED

_REFERENCE = "#/components/schemas/{model}"


def document() -> dict[str, Any]:
    """Return the description as JSON values."""
    validated = [(kind, "validation") for item in OPERATIONS if (kind := item.body) is not None]
    serialized = [(kind, "serialization") for kind in (*(item.reply for item in OPERATIONS), ProblemReply)]
    _, schemas = models_json_schema([*validated, *serialized], ref_template=_REFERENCE)  # type: ignore[list-item]
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "Administration API of the broker",
            "summary": "Administration of releases and platforms, and reading the audit log",
            "description": (
                "Written by scripts/openapi.py: run `make openapi`. HTTP/1.1 over TLS 1.3 with client certificates. "
                "Each connection serves one request. How to turn the API on: docs/how-to/remote-administration.md."
            ),
            "version": __version__,
            "license": {"name": "Apache License 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [
            {
                "url": "https://{name}:{port}",
                "variables": {
                    "name": {"default": "attestation.service.com", "description": "`broker.name` in sealserve.toml"},
                    "port": {"default": "4434", "description": "`broker.admin_port` in sealserve.toml"},
                },
            }
        ],
        "security": [{"administratorCertificate": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "administratorCertificate": {
                    "type": "mutualTLS",
                    "description": "a certificate that `sealserve broker admin issue` wrote",
                }
            },
            "responses": {
                "Problem": {
                    "description": "The operation failed. `code` is the stable code of the error.",
                    "content": {MEDIA_TYPE: {"schema": {"$ref": _REFERENCE.format(model=ProblemReply.__name__)}}},
                }
            },
            "schemas": dict(sorted(schemas["$defs"].items())),
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    roles = ", ".join(sorted(PERMITTED.get(operation.name, ())))
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": f"Roles: {roles}.",
    }
    if parameters := [*_path_parameters(operation), *_query_parameters(operation)]:
        described["parameters"] = parameters
    if operation.body is not None:
        reference = {"$ref": _REFERENCE.format(model=operation.body.__name__)}
        needed = bool(operation.body.model_json_schema().get("required"))
        described["requestBody"] = {"required": needed, "content": {"application/json": {"schema": reference}}}
    reply = {"$ref": _REFERENCE.format(model=operation.reply.__name__)}
    described["responses"] = {
        "200": {"description": "The result", "content": {"application/json": {"schema": reply}}},
        "default": {"$ref": "#/components/responses/Problem"},
    }
    return described


def _path_parameters(operation: Operation) -> list[dict[str, Any]]:
    if "{release}" not in operation.path:
        return []
    return [
        {
            "name": "release",
            "in": "path",
            "required": True,
            "description": "The release's name, its id, or the beginning of its id (at least 6 digits)",
            "schema": {"type": "string", "pattern": RELEASE_PATTERN},
        }
    ]


def _query_parameters(operation: Operation) -> list[dict[str, Any]]:
    if operation.query is None:
        return []
    properties: dict[str, dict[str, Any]] = operation.query.model_json_schema()["properties"]
    return [
        {"name": name, "in": "query", "required": False, "description": schema.pop("description", ""),
         "schema": _without_null(schema)}
        for name, schema in properties.items()
    ]  # fmt: skip


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a query parameter. A parameter is absent instead of null."""
    choices = [choice for choice in schema.get("anyOf", []) if choice != {"type": "null"}]
    return choices[0] if len(choices) == 1 else schema
