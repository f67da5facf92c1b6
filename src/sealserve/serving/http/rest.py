"""TensorFlow Serving's REST API, without a network.

Source: tensorflow/serving, ``model_servers/http_rest_api_handler.cc`` and ``http_rest_api_util.cc`` (paths, order,
messages), ``g3doc/api_rest.md``.
"""

import re
from http import HTTPStatus
from typing import Any, Final

from google.protobuf import json_format

from sealserve.serving.api.examples import Call, classify, regress
from sealserve.serving.api.model_metadata import get_model_metadata
from sealserve.serving.api.model_status import get_model_status
from sealserve.serving.api.predict import run_inputs
from sealserve.serving.http.api import Answer, Api, Content, Resource, decoded
from sealserve.serving.http.json_answers import Output, render_columns, render_rows
from sealserve.serving.http.json_errors import HIDDEN_VALUE, JsonFormError
from sealserve.serving.http.json_examples import fill_examples, render_classes, render_values
from sealserve.serving.http.json_nodes import JsonObject
from sealserve.serving.http.json_reader import SIGNATURE, read
from sealserve.serving.http.json_tensors import read_inputs
from sealserve.serving.http.memory import Loan, give_up
from sealserve.serving.request_errors import RequestCode, RequestError
from sealserve.serving.runtime.protos import (
    ClassificationRequest,
    DataType,
    GetModelMetadataRequest,
    GetModelStatusRequest,
    ModelSpec,
    RegressionRequest,
    SignatureDef,
    SignatureDefMap,
)
from sealserve.serving.servables import Servables
from sealserve.serving_interface import DEFAULT_SIGNATURE

_CALL: Final = re.compile(
    r"/v1/models/([^/:]+)(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?:(classify|regress|predict)",
    re.IGNORECASE | re.ASCII,
)
_LOOK: Final = re.compile(
    r"/v1/models(?:/([^/:]+))?(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?(?:/(metadata))?",
    re.IGNORECASE | re.ASCII,
)
_API: Final = re.compile(r"/v1/.*", re.IGNORECASE | re.DOTALL)
_DOUBLE: Final = DataType.Value("DT_DOUBLE")
_NAMED: Final = re.compile(rb'"signature_name"\s*+:\s*+"([^"\\]*+)"')
_NEAR: Final = 4096
"""Bytes from the beginning and the end of a document in which the signature's name is searched."""
_SIGNATURE: Final = SIGNATURE.encode()
_GREATEST: Final = 2**63 - 1
_DIGITS: Final = len(str(_GREATEST))


class Rest(Api):
    """The resources under ``/v1/``.

    Args:
        servables: The served models.
        max_tensor_bytes: The maximum size of an input tensor in bytes.
    """

    def __init__(self, servables: Servables, *, max_tensor_bytes: int) -> None:
        super().__init__(servables.metrics)
        self._servables = servables
        self._largest = max_tensor_bytes

    @staticmethod
    def knows(path: str) -> bool:
        """Return whether ``path`` (with its query) belongs to this API."""
        return _API.fullmatch(path) is not None

    def find(self, method: str, path: str) -> Resource:
        """Return the resource that a method and a path (with its query) select.

        Raises:
            RequestError: `request.rest-path`: There is none.
        """
        spec, verb = _parse(method, path)

        def answer(content: Content) -> Answer:
            return Answer(HTTPStatus.OK, self._run(spec, verb, content))

        return Resource(answer, spec.name, verb)

    def _run(self, spec: ModelSpec, verb: str, content: Content) -> bytes:
        body, loan = content.body, content.loan
        call = Call(max_tensor_bytes=self._largest, deadline=content.deadline)
        match verb:
            case "predict":
                return self._predict(spec, body, call, loan)
            case "classify":
                request = ClassificationRequest(model_spec=spec)
                self._fill_examples(request, body, loan)
                with self._servables.use(request.model_spec) as servable:
                    return render_classes(classify(servable, request, call).result)
            case "regress":
                regression = RegressionRequest(model_spec=spec)
                self._fill_examples(regression, body, loan)
                with self._servables.use(regression.model_spec) as servable:
                    return render_values(regress(servable, regression, call).result)
            case "metadata":
                return self._metadata(spec)
            case _:
                return self._status(spec)

    def _predict(self, spec: ModelSpec, body: bytes | bytearray, call: Call, loan: Loan) -> bytes:
        single = self._is_single(spec, body)
        document = read(body, loan.take, single=single)
        name = _signature_name(document)
        with self._servables.use(spec) as servable:
            definition = servable.definitions.get(name or DEFAULT_SIGNATURE)
            if definition is None:
                raise JsonFormError(f'Serving signature name: "{name or DEFAULT_SIGNATURE}" not found in signature def')
            if not definition.inputs:
                raise JsonFormError(f"Failed to get input map for signature: {name or 'DEFAULT'}")
            if single and _has_doubles(definition):  # the served version changed meanwhile
                document = read(body, loan.take)
            inputs, in_rows = read_inputs(document, definition.inputs, loan.take)
            del document  # its arrays are freed while the tensors are filled
            give_up(body, loan)
            results = run_inputs(servable, name, inputs, max_tensor_bytes=call.max_tensor_bytes, deadline=call.deadline)
        outputs = {alias: Output.of(tensor) for alias, tensor in results.items()}
        return render_rows(outputs) if in_rows else render_columns(outputs)

    def _is_single(self, spec: ModelSpec, body: bytes | bytearray) -> bool:
        """Return whether single precision is probably enough for each input. This is checked again after parsing."""
        try:
            definitions = self._servables.find(spec).definitions
        except RequestError:  # reported when the document has been parsed
            return False
        named = _NAMED.search(body[:_NEAR]) or _NAMED.search(body[-_NEAR:])
        name = named.group(1).decode("utf-8", "replace") if named else DEFAULT_SIGNATURE
        return name in definitions and not _has_doubles(definitions[name])

    @staticmethod
    def _fill_examples(request: Any, body: bytes | bytearray, loan: Loan) -> None:
        size = len(body)
        document = read(body, loan.take, single=True)
        give_up(body, loan)
        loan.take(2 * size)  # for the messages, and for the strings that TensorFlow parses
        request.model_spec.signature_name = _signature_name(document)
        fill_examples(document, request.input)

    def _status(self, spec: ModelSpec) -> bytes:
        return _json(get_model_status(self._servables, GetModelStatusRequest(model_spec=spec)))

    def _metadata(self, spec: ModelSpec) -> bytes:
        request = GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])
        response = get_model_metadata(self._servables, request)
        signatures = SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return (
            b'{\n"model_spec":'
            + _json(response.model_spec, names=True)
            + b',\n"metadata": {"signature_def": '
            + _json(signatures, names=True)
            + b"}\n}\n"
        )


def _has_doubles(definition: SignatureDef) -> bool:
    """Return whether a signature has an input of doubles."""
    return any(info.dtype == _DOUBLE for info in definition.inputs.values())


def _signature_name(document: JsonObject) -> str:
    """Return the signature's name in a request, or an empty string.

    Raises:
        JsonFormError: The name is not a string.
    """
    name = document.get(_SIGNATURE, b"")
    if not isinstance(name, bytes):
        raise JsonFormError(f"{HIDDEN_VALUE} not formatted correctly. '{SIGNATURE}' key must be a string value.")
    return name.decode("utf-8", "replace")


def _parse(method: str, path: str) -> tuple[ModelSpec, str]:
    """Return the model that a path names, and what is asked of it: empty for its status."""
    pattern = {"POST": _CALL, "GET": _LOOK}.get(method)
    found = pattern.fullmatch(path) if pattern else None
    if found is None:
        raise RequestCode.REST_PATH.error(f"Malformed request: {method} {path}")
    name, version, label, verb = found.groups(default="")
    spec = ModelSpec(name=decoded(name))
    if version:
        digits = version.lstrip("0")
        if len(digits) > _DIGITS or int(digits or "0") > _GREATEST:
            raise RequestCode.REST_PATH.error(f"Failed to convert version: {version} to numeric.")
        spec.version.value = int(digits or "0")
    if label:
        spec.version_label = decoded(label)
    if method == "POST":
        if verb not in {"classify", "regress", "predict"}:
            raise RequestCode.REST_PATH.error(f"Malformed request: {method} {path}")
        return spec, verb
    if not spec.name:
        raise RequestCode.REST_PATH.error("Missing model name in request.")
    return spec, "metadata" if verb == "metadata" else ""


def _json(message: Any, *, names: bool = False) -> bytes:
    text: str = json_format.MessageToJson(
        message,
        always_print_fields_with_no_presence=True,
        preserving_proto_field_name=names,
        indent=1,
        ensure_ascii=False,
    )
    return f"{text}\n".encode()
