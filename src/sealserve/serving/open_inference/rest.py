"""The REST resources of the Open Inference Protocol, below ``/v2``.

A query in the path is ignored, because clients can add one for proxies.

Source: kserve/open-inference-protocol d49cc23, ``inference_rest.md`` and ``open_inference_rest.yaml``.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from http import HTTPStatus
from typing import Any, Final

from sealserve.serving.http.api import Answer, Api, Content, Headers, Resource, decoded
from sealserve.serving.http.memory import give_up
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
from sealserve.serving.request_errors import RequestCode, RequestError
from sealserve.serving.runtime.protos import ModelSpec
from sealserve.serving_interface import BINARY_HEADER

_INFER: Final = "infer"
_SERVER: Final = re.compile(r"/v2(?:/health/(live|ready))?", re.ASCII)
_MODEL: Final = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(?:/(ready|infer))?", re.ASCII)
_SIZE: Final = re.compile(r"[0-9]{1,19}", re.ASCII)
_SHOWN: Final = 256


class OpenInferenceRest(Api):
    """The resources.

    Args:
        service: The operations.
    """

    def __init__(self, service: OpenInference) -> None:
        super().__init__(service.metrics)
        self._service = service

    @staticmethod
    def knows(path: str) -> bool:
        """Return whether ``path`` (with its query) belongs to this API."""
        return path.partition("?")[0] == "/v2" or path.startswith("/v2/")

    def find(self, method: str, path: str) -> Resource:
        """Return the resource that a method and a path (with its query) select.

        Raises:
            RequestError: `request.open-inference-path`: There is none.
            RequestError: `request.open-inference-form`: The version of the model is invalid.
        """
        resource = path.partition("?")[0]
        server, model = _SERVER.fullmatch(resource), _MODEL.fullmatch(resource)
        if server is not None and method == "GET":
            return Resource(lambda _content: self._server(server[1]))
        if model is not None and method == ("POST" if model[3] == _INFER else "GET"):
            spec, verb = model_spec(decoded(model[1]), decoded(model[2] or "")), model[3] or "metadata"
            return Resource(lambda content: self._model(spec, verb, content), spec.name, verb)
        raise unknown_resource(method, resource)

    def _server(self, probe: str | None) -> Answer:
        if probe is None:
            return _document({"name": NAME, "version": VERSION, "extensions": EXTENSIONS})
        if probe == "live":
            return _document({"live": True})
        is_ready = self._service.is_ready()
        return _document({"ready": is_ready}, HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE)

    def _model(self, spec: ModelSpec, verb: str, content: Content) -> Answer:
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

    def _infer(self, spec: ModelSpec, content: Content) -> Answer:
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
