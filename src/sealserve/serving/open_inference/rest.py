"""The REST resources of the Open Inference Protocol, below ``/v2``.

A query in the path is ignored, because clients can add one for proxies.

Source: kserve/open-inference-protocol d49cc23, ``inference_rest.md`` and ``open_inference_rest.yaml``.
"""

import json
import logging
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any, Final

from sealserve.serving.http.memory import Loan, give_up
from sealserve.serving.http.rest import HTTP_STATUS, Answer, Headers, decoded, error_body
from sealserve.serving.open_inference import json_request, json_response
from sealserve.serving.open_inference.service import (
    EXTENSIONS,
    NAME,
    PLATFORM,
    VERSION,
    InferenceRequest,
    OpenInference,
    model_spec,
)
from sealserve.serving.request_errors import RequestCode, RequestError, Status
from sealserve.serving.runtime.protos import ModelSpec
from sealserve.serving.wire.allowance import Allowance
from sealserve.serving_interface import BINARY_HEADER

logger = logging.getLogger(__name__)

_INFER: Final = "infer"
_SERVER: Final = re.compile(r"/v2(?:/health/(live|ready))?", re.ASCII)
_MODEL: Final = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(?:/(ready|infer))?", re.ASCII)
_SIZE: Final = re.compile(r"[0-9]{1,19}", re.ASCII)
_SHOWN: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    """What a request contains besides its path.

    Args:
        body: The body.
        headers: The headers.
        deadline: The latest time for the answer, on the clock of `time.monotonic`; None for no deadline.
        loan: The memory that the request borrows, including its body.
    """

    body: bytes | bytearray
    headers: Headers
    deadline: float | None
    loan: Loan


class OpenInferenceRest:
    """The resources.

    Args:
        service: The operations.
    """

    def __init__(self, service: OpenInference) -> None:
        self._service = service
        self._metrics = service.metrics

    @staticmethod
    def knows(path: str) -> bool:
        """Return whether ``path`` (with its query) belongs to this API."""
        return path.partition("?")[0] == "/v2" or path.startswith("/v2/")

    def answer(
        self,
        method: str,
        path: str,
        body: bytes | bytearray,
        deadline: float | None,
        loan: Loan | None = None,
        *,
        headers: Headers = (),
    ) -> Answer:
        """Return the answer to a request.

        Args:
            method: GET, POST, ...
            path: The path as it was sent, including its query.
            body: The body, without its content encoding. A `bytearray` is emptied when it has been read.
            deadline: The latest time for the answer, on the clock of `time.monotonic`; None for no deadline.
            loan: The memory that the request borrows, including its body; None for no limit.
            headers: The headers of the request.
        """
        started = time.monotonic()
        model, verb, status = "", "", Status.OK
        borrowed = loan if loan is not None else Loan(Allowance(sys.maxsize))
        try:
            resource = path.partition("?")[0]
            server, found = _SERVER.fullmatch(resource), _MODEL.fullmatch(resource)
            if server is not None and method == "GET":
                answer = self._server(server[1])
            elif found is not None and method == ("POST" if found[3] == _INFER else "GET"):
                spec, verb = model_spec(decoded(found[1]), decoded(found[2] or "")), found[3] or "metadata"
                model = spec.name
                answer = self._model(spec, verb, _Content(body=body, headers=headers, deadline=deadline, loan=borrowed))
            else:
                unknown = unknown_resource(method, resource)
                answer, status = _refused(unknown), unknown.status
        except RequestError as error:
            status, answer = error.status, _refused(error)
        except Exception:
            logger.exception("a request failed with an unexpected error")
            status, answer = Status.INTERNAL, Answer(HTTP_STATUS[Status.INTERNAL], error_body("internal"))
        self._metrics.request(model, status)
        if status is Status.OK:
            self._metrics.request_latency(model, verb, "REST", time.monotonic() - started)
        return answer

    def _server(self, probe: str | None) -> Answer:
        if probe is None:
            return _document({"name": NAME, "version": VERSION, "extensions": EXTENSIONS})
        if probe == "live":
            return _document({"live": True})
        is_ready = self._service.is_ready()
        return _document({"ready": is_ready}, HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE)

    def _model(self, spec: ModelSpec, verb: str, content: _Content) -> Answer:
        if verb == _INFER:
            return self._infer(spec, content)
        if verb == "ready":
            is_ready = self._service.is_model_ready(spec)
            status = HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE
            return _document({"name": spec.name, "ready": is_ready}, status)
        found = self._service.model_metadata(spec)
        return _document(
            {
                "name": found.name,
                "versions": found.versions,
                "platform": PLATFORM,
                "inputs": [asdict(tensor) for tensor in found.inputs],
                "outputs": [asdict(tensor) for tensor in found.outputs],
            }
        )

    def _infer(self, spec: ModelSpec, content: _Content) -> Answer:
        body, loan = content.body, content.loan
        size = _json_size(content.headers, len(body))
        if size is None:
            request = json_request.read_request(body, None, loan.take)
            give_up(body, loan)
        else:
            loan.take(size)
            request = json_request.read_request(body[:size], memoryview(body)[size:], loan.take)
        outputs = [output.name for output in request.outputs]
        wanted = InferenceRequest(spec=spec, signature=request.signature, inputs=request.inputs, outputs=outputs)
        inference = self._service.infer(wanted, content.deadline)
        chosen = {output.name: output.is_binary for output in request.outputs}
        text, json_size = json_response.render(
            inference, request.identifier, lambda name: chosen.get(name, request.is_binary)
        )
        if json_size is None:
            return Answer(HTTPStatus.OK, text)
        form = {BINARY_HEADER: str(json_size), "Content-Type": "application/octet-stream"}
        return Answer(HTTPStatus.OK, text, headers=form)


def unknown_resource(method: str, resource: str) -> RequestError:
    """Return the error for a resource that does not exist, or does not support the method."""
    return RequestCode.OPEN_INFERENCE_PATH.error(
        f"The Open Inference Protocol does not have {method} {resource[:_SHOWN]}."
    )


def _refused(error: RequestError) -> Answer:
    return Answer(HTTP_STATUS[error.status], error_body(error.message))


def _json_size(headers: Headers, size: int) -> int | None:
    """Return the size of the JSON before binary tensors, or None if the body is only JSON.

    Raises:
        RequestError: `request.open-inference-form`: The header is not a number of at most the size of the body.
    """
    values = [value for name, value in headers if name.lower() == BINARY_HEADER.lower()]
    if not values:
        return None
    if len(values) > 1 or _SIZE.fullmatch(values[0]) is None or int(values[0]) > size:
        raise RequestCode.OPEN_INFERENCE_FORM.error(
            f"The header {BINARY_HEADER} is invalid: expected a number of at most {size} bytes, the size of the body."
        )
    return int(values[0])


def _document(members: Mapping[str, Any], status: HTTPStatus = HTTPStatus.OK) -> Answer:
    return Answer(status, json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode())
