"""Ask the service over REST: TensorFlow Serving's JSON over HTTP/1.1 and TLS.

Source: tensorflow/serving, ``g3doc/api_rest.md``. The API is described in ``docs/reference/openapi.json``.
"""

import base64
import http.client
import json
import socket
import ssl
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any, Final, Self
from urllib.parse import quote

import numpy as np
from google.protobuf import json_format

from sealserve.client.call import DeadlineError, RequestRefusedError, ServiceFailedError
from sealserve.client.codes import ClientCode
from sealserve.client.connection_fault import HTTP1, UnreachableError, client_fault, find_fault
from sealserve.client.credentials import Credentials, Endpoint, parse_endpoint, printable
from sealserve.client.examples import bytes_from_json
from sealserve.client.predict import ModelMetadata, Prediction, Signature, TensorSpec, signatures_of
from sealserve.client.tensors import MAX_BYTES, Array, TensorTypeError
from sealserve.client.wire.get_model_metadata_pb2 import SignatureDefMap
from sealserve.errors import SealserveError
from sealserve.memory_file import memory_file
from sealserve.pki.tls_material import ordered_authorities, ordered_chain
from sealserve.secret import SecretBytes
from sealserve.serving_interface import DEFAULT_SIGNATURE

_DIAGNOSIS_SECONDS: Final = 3.0
_IDLE_CLOSED: Final = (
    http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError, ssl.SSLEOFError, ssl.SSLZeroReturnError,
)  # fmt: skip
_OK: Final = 200
_CALLERS_FAULT: Final = frozenset({400, 401, 403, 404, 409, 413, 501})
_UNAVAILABLE: Final = 503
_LATE: Final = 504


class _Connection(http.client.HTTPSConnection):
    """A connection to an address that expects the service's name, whatever the address is. No proxy is used."""

    def __init__(self, endpoint: Endpoint, context: ssl.SSLContext, *, server_name: str, timeout: float) -> None:
        super().__init__(server_name, endpoint.port, timeout=timeout, context=context)
        self._endpoint, self._tls, self._server_name = endpoint, context, server_name

    def connect(self) -> None:
        """Connect to the endpoint, and verify that its certificate has the service's name."""
        opened = socket.create_connection((self._endpoint.host, self._endpoint.port), timeout=self.timeout)
        try:
            self.sock = self._tls.wrap_socket(opened, server_hostname=self._server_name)
        except BaseException:
            opened.close()
            raise


class RestPredictor:
    """A client of the REST API over one connection, for one thread. Close it, or use it in a ``with`` statement.

    Args:
        target: Where to connect to, ``host:port``.
        server_name: The service's name: sent as SNI, and required in its certificate, whatever ``target`` says.
        ca: The certificate of the authority that signs the service's certificates, PEM.
        certificate: The client's certificate chain for two-way TLS, PEM.
        key: The client's private key for two-way TLS, PEM.

    Raises:
        InputError: `client.target`: ``target`` is not an address.
        VerificationError: `certificate.expired`: The client's certificate is outside its dates.
        SealserveError: As `Credentials`.
    """

    def __init__(
        self,
        target: str,
        *,
        server_name: str,
        ca: bytes,
        certificate: bytes | None = None,
        key: SecretBytes | None = None,
    ) -> None:
        self._endpoint = parse_endpoint(target)
        self._credentials = Credentials(server_name=server_name, ca=ca, certificate=certificate, key=key)
        now = datetime.now(UTC)
        self._credentials.check_dates(now)
        self._connection = _Connection(
            self._endpoint, _context(self._credentials, now), server_name=server_name, timeout=_DIAGNOSIS_SECONDS
        )
        self._known: dict[str, ModelMetadata] = {}

    def predict(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        signature: str = DEFAULT_SIGNATURE,
        version: int | None = None,
        label: str | None = None,
        timeout: float = 60.0,
    ) -> Prediction:
        """Run a model. As `Predictor.predict`; the version that answers is the one whose metadata was read.

        Raises:
            TensorTypeError: An input cannot be written as JSON.
            UnavailableError: `client.tensor-malformed`: An output is not what the signature says.
            SealserveError: The call failed; see `_ask`.
        """
        found = self.metadata(model, version=version, label=label, timeout=timeout)
        called = found.signatures.get(signature)
        document = {"signature_name": signature, "inputs": {name: _to_json(value) for name, value in inputs.items()}}
        path = f"{_path(model, found.version, None)}:predict"
        answer = self._ask("POST", path, json.dumps(document).encode(), timeout=timeout)
        return Prediction(
            outputs=_outputs(answer.get("outputs"), called),
            model=model,
            version=found.version,
            signature=signature,
            instance=None,
            channel=0,
        )

    def metadata(
        self, model: str, *, version: int | None = None, label: str | None = None, timeout: float = 60.0
    ) -> ModelMetadata:
        """Return the signatures of a served model. They are read once for each version or label.

        Raises:
            UnavailableError: `client.metadata-missing`: The answer has no signatures.
            SealserveError: The call failed; see `_ask`.
        """
        path = _path(model, version, label)
        if path not in self._known:
            answer = self._ask("GET", f"{path}/metadata", None, timeout=timeout)
            try:
                number = int(answer["model_spec"]["version"])
                definitions = json_format.ParseDict(
                    answer["metadata"]["signature_def"], SignatureDefMap(), ignore_unknown_fields=True
                )
            except (LookupError, TypeError, ValueError, json_format.Error) as error:
                raise ClientCode.METADATA_MISSING.error(
                    f"The service at {self._endpoint} sent no signatures of {model!r} that can be read.",
                    hint="Check that it is TensorFlow Serving, or sealserve's model server.",
                ) from error
            self._known[path] = ModelMetadata(model, number, signatures_of(definitions))
        return self._known[path]

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, method: str, path: str, body: bytes | None, *, timeout: float) -> Any:
        """Send one request, and return the JSON object of its answer.

        Raises:
            DeadlineError: No answer within ``timeout``.
            UnreachableError: No connection, or it broke, or the version is not ready.
            TlsError: The two sides do not agree on TLS; the subclass says why.
            RequestRefusedError: The status says that the request is wrong.
            ServiceFailedError: The status says anything else, or the answer is not JSON.
        """
        try:
            try:
                status, content = self._exchange(method, path, body, timeout=timeout)
            except _IDLE_CLOSED:
                # The service closes a connection that was idle for long. No call changes anything there: send it again.
                status, content = self._exchange(method, path, body, timeout=timeout)
        except TimeoutError as error:
            raise DeadlineError(
                f"No answer from {self._endpoint} within {timeout:.3g} s.",
                hint="Give it more time, or fewer requests at once.",
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise self._fault(error) from error
        document = _parsed(content)
        if status == _OK and document is not None:
            return document
        raise _explained(status, document, self._endpoint)

    def _exchange(self, method: str, path: str, body: bytes | None, *, timeout: float) -> tuple[int, bytes]:
        """Send one request over the open connection, or over a new one, and return the answer's status and body."""
        self._connection.timeout = timeout
        if self._connection.sock is not None:
            self._connection.sock.settimeout(timeout)
        try:
            self._connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            response = self._connection.getresponse()
            return response.status, response.read(MAX_BYTES)
        except BaseException:
            self._connection.close()  # so that the next request makes a new one
            raise

    def _fault(self, error: Exception) -> SealserveError:
        """Return why there is no answer."""
        fault = find_fault(self._endpoint, self._credentials, timeout=_DIAGNOSIS_SECONDS, protocol=HTTP1)
        if fault is None and isinstance(error, ssl.SSLError):  # a client that the service refuses sees it in TLS 1.3
            fault = client_fault((error.reason or "").lower().replace("_", " "), self._credentials)
        return fault or UnreachableError(
            f"The connection to {self._endpoint} broke: {printable(str(error)) or type(error).__name__}.",
            hint="Try again, with a new connection.",
        )


def _context(credentials: Credentials, now: datetime) -> ssl.SSLContext:
    """Return the TLS settings. As gRPC, they accept an intermediate authority, and no authority of the system."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags = ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN
    context.set_alpn_protocols([HTTP1.decode()])
    context.load_verify_locations(cadata=ordered_authorities(credentials.ca, now).decode("ascii"))
    if credentials.certificate is not None and credentials.key is not None:
        with ExitStack() as files:
            chain = files.enter_context(memory_file(ordered_chain(credentials.certificate, now)))
            key = files.enter_context(memory_file(credentials.key.reveal()))
            context.load_cert_chain(chain, key, password=lambda: b"")
    return context


def _path(model: str, version: int | None, label: str | None) -> str:
    path = f"/v1/models/{quote(model, safe='')}"
    if version is not None:
        return f"{path}/versions/{version}"
    return path if label is None else f"{path}/labels/{quote(label, safe='')}"


def _parsed(content: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _explained(status: int, document: Mapping[str, Any] | None, endpoint: Endpoint) -> SealserveError:
    message = document.get("error") if document is not None else None
    details = printable(message).rstrip(".") if isinstance(message, str) and message else "no details"
    if status == _UNAVAILABLE:
        return UnreachableError(
            f"The service at {endpoint} is not available: {details}.", hint="Try again, with a new connection."
        )
    if status == _LATE:
        return DeadlineError(
            f"The service at {endpoint} gave up: {details}.", hint="Give it more time, or fewer requests at once."
        )
    if status in _CALLERS_FAULT:
        return RequestRefusedError(
            f"The service at {endpoint} refused the request (status {status}): {details}.",
            hint="Compare the model's name, version and inputs with its signature.",
        )
    return ServiceFailedError(
        f"The service at {endpoint} failed (status {status}): {details}.",
        hint="See the model server's log: `sealserve logs` on its machine.",
    )


def _to_json(value: Array) -> Any:
    """Return an array as JSON: nested lists, and bytes as ``{"b64": ...}``.

    Raises:
        TensorTypeError: JSON has no such values.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "biufOSUTV" or (array.dtype.kind == "V" and array.dtype.name != "bfloat16"):
        raise TensorTypeError(
            f"An array of {array.dtype} cannot be sent over REST: JSON has no such values.", hint="Use gRPC."
        )
    if array.dtype.kind == "V":
        array = array.astype(np.float32)
    return _plain(array.tolist())


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode("ascii")}
    return value


def _outputs(found: Any, called: Signature | None) -> Mapping[str, Array]:
    """Return the outputs by name; the only output of a signature comes without its name.

    Raises:
        UnavailableError: `client.tensor-malformed`: They are not what the signature says.
    """
    specs = called.outputs if called is not None else {}
    named = {next(iter(specs)): found} if len(specs) == 1 else found
    if not isinstance(named, Mapping) or set(named) != set(specs):
        raise ClientCode.TENSOR_MALFORMED.error(
            f"The reply has other outputs than the signature: expected {printable(', '.join(sorted(specs)))}."
        )
    return {name: _from_json(name, value, specs[name]) for name, value in named.items()}


def _from_json(name: str, value: Any, spec: TensorSpec) -> Array:
    try:
        if spec.dtype != "string":
            return np.array(value, dtype=np.float32 if spec.dtype == "bfloat16" else spec.dtype)
        strings = np.array(_strings(value), dtype=object)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ClientCode.TENSOR_MALFORMED.error(
            f"The output {printable(repr(name), 80)} in the reply is not a tensor of type {spec.dtype}."
        ) from error
    return strings


def _strings(value: Any) -> Any:
    if isinstance(value, list):
        return [_strings(item) for item in value]
    if isinstance(value, str):
        return value.encode()
    if (content := bytes_from_json(value)) is None:
        raise TypeError("neither text nor bytes")
    return content
