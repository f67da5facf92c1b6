"""The REST API, without its wire: method, path and body in, status and body out.

Source: tensorflow/serving, ``model_servers/http_rest_api_handler.cc`` and ``http_rest_api_util.cc`` (paths, order,
messages), ``model_servers/http_server.cc`` (``ToHTTPStatusCode``), ``g3doc/api_rest.md``.
"""

import logging
import re
import time
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from google.protobuf import json_format

from sealserve.serving.api.examples import Call, classify, regress
from sealserve.serving.api.model_metadata import get_model_metadata
from sealserve.serving.api.model_status import get_model_status
from sealserve.serving.api.predict import DEFAULT_SIGNATURE, run_predict
from sealserve.serving.http.json_answers import render_columns, render_rows
from sealserve.serving.http.json_examples import fill_examples, render_classes, render_values
from sealserve.serving.http.json_tensors import fill_inputs
from sealserve.serving.http.json_text import JsonFormError, parse, quote, signature_name
from sealserve.serving.metrics import METRICS
from sealserve.serving.request_errors import RequestError, Status
from sealserve.serving.runtime.protos import (
    ClassificationRequest,
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelSpec,
    PredictRequest,
    RegressionRequest,
    SignatureDefMap,
)
from sealserve.serving.servables import Servables

logger = logging.getLogger(__name__)

_CALL: Final = re.compile(
    r"/v1/models/([^/:]+)(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?:(classify|regress|predict)",
    re.IGNORECASE | re.ASCII,
)
_LOOK: Final = re.compile(
    r"/v1/models(?:/([^/:]+))?(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?(?:/(metadata))?",
    re.IGNORECASE | re.ASCII,
)
_API: Final = re.compile(r"/v1/.*", re.IGNORECASE | re.DOTALL)
_GREATEST: Final = 2**63 - 1

HTTP_STATUS: Final = {
    Status.OK: 200,
    Status.CANCELLED: 499,
    Status.UNKNOWN: 500,
    Status.INVALID_ARGUMENT: 400,
    Status.DEADLINE_EXCEEDED: 504,
    Status.NOT_FOUND: 404,
    Status.ALREADY_EXISTS: 409,
    Status.PERMISSION_DENIED: 403,
    Status.RESOURCE_EXHAUSTED: 429,
    Status.FAILED_PRECONDITION: 400,
    Status.ABORTED: 409,
    Status.OUT_OF_RANGE: 400,
    Status.UNIMPLEMENTED: 501,
    Status.INTERNAL: 500,
    Status.UNAVAILABLE: 503,
    Status.DATA_LOSS: 500,
    Status.UNAUTHENTICATED: 401,
}


class RestPathError(RequestError):
    """There is no such resource, or not for this HTTP method."""

    code = "request.rest-path"


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back.

    Args:
        status: The HTTP status.
        body: JSON, or nothing.
    """

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class _Target:
    """What a path means."""

    spec: ModelSpec
    method: str


class Rest:
    """The resources under ``/v1/``.

    Args:
        servables: What is served.
        max_tensor_bytes: The largest input tensor.
    """

    def __init__(self, servables: Servables, *, max_tensor_bytes: int) -> None:
        self._servables = servables
        self._largest = max_tensor_bytes

    @staticmethod
    def knows(path: str) -> bool:
        """Whether ``path`` (with its query) belongs to this API."""
        return _API.fullmatch(path) is not None

    def answer(self, method: str, path: str, body: bytes, deadline: float | None) -> Answer:
        """Return the answer to a request.

        Args:
            method: GET, POST, ...
            path: The path as it was sent, with its query.
            body: The body, without its content encoding.
            deadline: When the answer is late, on the clock of `time.monotonic`; None for never.
        """
        started = time.monotonic()
        model, api, status = "", "", Status.OK
        try:
            target = _parse(method, path)
            model, api = target.spec.name, target.method
            content = self._run(target, body, Call(max_tensor_bytes=self._largest, deadline=deadline))
        except RequestError as error:
            status, content = error.status, error_body(error.message)
        except Exception:
            logger.exception("a request failed for a reason that is not the request's")
            status, content = Status.INTERNAL, error_body("internal")
        METRICS.request(model, status)
        if status is Status.OK:
            METRICS.request_latency(model, api, "REST", time.monotonic() - started)
        return Answer(HTTP_STATUS[status], content)

    def _run(self, target: _Target, body: bytes, call: Call) -> bytes:
        match target.method:
            case "predict":
                return self._predict(target.spec, body, call)
            case "classify":
                request = ClassificationRequest(model_spec=target.spec)
                self._fill_examples(request, body)
                with self._servables.use(request.model_spec) as servable:
                    return render_classes(classify(servable, request, call).result)
            case "regress":
                regression = RegressionRequest(model_spec=target.spec)
                self._fill_examples(regression, body)
                with self._servables.use(regression.model_spec) as servable:
                    return render_values(regress(servable, regression, call).result)
            case "metadata":
                return self._metadata(target.spec)
            case _:
                return self._status(target.spec)

    def _predict(self, spec: ModelSpec, body: bytes, call: Call) -> bytes:
        document = parse(body)
        request = PredictRequest(model_spec=spec)
        name = signature_name(document)
        request.model_spec.signature_name = name
        with self._servables.use(request.model_spec) as servable:
            definition = servable.definitions.get(name or DEFAULT_SIGNATURE)
            if definition is None:
                raise JsonFormError(f'Serving signature name: "{name or DEFAULT_SIGNATURE}" not found in signature def')
            if not definition.inputs:
                raise JsonFormError(f"Failed to get input map for signature: {name or 'DEFAULT'}")
            in_rows = fill_inputs(document, definition.inputs, request)
            response = run_predict(servable, request, max_tensor_bytes=call.max_tensor_bytes, deadline=call.deadline)
        render = render_rows if in_rows else render_columns
        return render(response.outputs)

    @staticmethod
    def _fill_examples(request: Any, body: bytes) -> None:
        document = parse(body)
        request.model_spec.signature_name = signature_name(document)
        fill_examples(document, request.input)

    def _status(self, spec: ModelSpec) -> bytes:
        request = GetModelStatusRequest(model_spec=spec)
        content = get_model_status(self._servables, request.SerializeToString())
        return _json(GetModelStatusResponse.FromString(content))

    def _metadata(self, spec: ModelSpec) -> bytes:
        request = GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])
        response = GetModelMetadataResponse.FromString(get_model_metadata(self._servables, request.SerializeToString()))
        signatures = SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return (
            b'{\n"model_spec":'
            + _json(response.model_spec, names=True)
            + b',\n"metadata": {"signature_def": '
            + _json(signatures, names=True)
            + b"}\n}\n"
        )


def error_body(message: str) -> bytes:
    """Return an error as the API's JSON."""
    return f'{{\n    "error": {quote(message)}\n}}'.encode("utf-8", "backslashreplace")


def _parse(method: str, path: str) -> _Target:
    pattern = {"POST": _CALL, "GET": _LOOK}.get(method)
    found = pattern.fullmatch(path) if pattern else None
    if found is None:
        raise RestPathError(f"Malformed request: {method} {path}")
    name, version, label, verb = found.groups(default="")
    spec = ModelSpec(name=_decoded(name))
    if version:
        if int(version[:20]) > _GREATEST:
            raise RestPathError(f"Failed to convert version: {version} to numeric.")
        spec.version.value = int(version)
    if label:
        spec.version_label = _decoded(label)
    if method == "POST":
        if verb not in {"classify", "regress", "predict"}:
            raise RestPathError(f"Malformed request: {method} {path}")
        return _Target(spec, verb)
    if not spec.name:
        raise RestPathError("Missing model name in request.")
    return _Target(spec, "metadata" if verb == "metadata" else "")


def _decoded(text: str) -> str:
    return unquote_to_bytes(text).decode("utf-8", "replace")


def _json(message: Any, *, names: bool = False) -> bytes:
    text: str = json_format.MessageToJson(
        message,
        always_print_fields_with_no_presence=True,
        preserving_proto_field_name=names,
        indent=1,
        ensure_ascii=False,
    )
    return f"{text}\n".encode()
