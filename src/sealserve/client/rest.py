"""Call the service over REST: TensorFlow Serving's JSON API over HTTP/1.1 and TLS.

Source: tensorflow/serving, ``g3doc/api_rest.md``. The API is described in ``docs/reference/openapi.json``.
"""

import base64
import http.client
import json
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote

import numpy as np
from google.protobuf import json_format

from sealserve.client.call import DeadlineError, RequestRefusedError, ServiceFailedError
from sealserve.client.codes import ClientCode
from sealserve.client.connection_fault import DIAGNOSIS_SECONDS, HTTP1, UnreachableError, client_fault, find_fault
from sealserve.client.credentials import Credentials, Endpoint, parse_endpoint, printable
from sealserve.client.examples import bytes_from_json
from sealserve.client.predict import ModelMetadata, Prediction, Signature, TensorSpec, signatures_of
from sealserve.client.tensors import MAX_BYTES, Array, TensorTypeError
from sealserve.client.tls_context import tls_context
from sealserve.client.wire.get_model_metadata_pb2 import SignatureDefMap
from sealserve.errors import SealserveError
from sealserve.secret import SecretBytes
from sealserve.serving_interface import DEFAULT_SIGNATURE
from sealserve.tracing.trace_context import TRACEPARENT

if TYPE_CHECKING:  # the verification of evidence is imported only for programs that use it
    from sealserve.client.attested import AttestedPolicy
    from sealserve.client.attested_rest import RestVerifier as _Verifier

_IDLE_CLOSED: Final = (
    http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError, ssl.SSLEOFError, ssl.SSLZeroReturnError,
)  # fmt: skip
_OK: Final = 200
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
_CALLERS_FAULT: Final = frozenset({400, 401, 403, 404, 409, 413, 501})
_UNAVAILABLE: Final = 503
_LATE: Final = 504


class _Connection(http.client.HTTPSConnection):
    """A connection that verifies the service's name independently of the address. It does not use a proxy."""

    def __init__(
        self,
        endpoint: Endpoint,
        context: ssl.SSLContext,
        *,
        server_name: str,
        timeout: float,
        verify: Callable[[ssl.SSLSocket, float], None],
    ) -> None:
        super().__init__(server_name, endpoint.port, timeout=timeout, context=context)
        self._endpoint, self._tls, self._server_name, self._verify = endpoint, context, server_name, verify

    def connect(self) -> None:
        """Connect to the endpoint, and verify that its certificate contains the service's name, and its evidence."""
        opened = socket.create_connection((self._endpoint.host, self._endpoint.port), timeout=self.timeout)
        with ExitStack() as failed:
            failed.enter_context(opened)
            stream = failed.enter_context(self._tls.wrap_socket(opened, server_hostname=self._server_name))
            self._verify(stream, self.timeout or DIAGNOSIS_SECONDS)
            stream.settimeout(self.timeout)
            self.sock = stream
            failed.pop_all()


class RestPredictor:
    """A client of the REST API that uses one connection. It is not thread-safe.

    Close the client, or use it in a ``with`` statement.

    Args:
        target: Address of the service, ``host:port``.
        server_name: The service's name. It is sent as SNI and must be in the service's certificate, even if ``target``
            is another name or an IP address.
        ca: The certificate of the authority that signs the service's certificates, PEM.
        certificate: The client's certificate chain for two-way TLS, PEM.
        key: The client's private key for two-way TLS, PEM.
        attested: The user's policy. The evidence is requested on each new connection to an unknown replica, and must
            satisfy the policy before an input is sent. None means that the CA alone is trusted.

    Raises:
        StepFailedError: With ``attested``, `predict` and `metadata` raise it for a replica that fails a step.
        InputError: `client.target`: ``target`` is not a valid address.
        VerificationError: `certificate.expired`: The client's certificate has expired.
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
        attested: "AttestedPolicy | None" = None,
    ) -> None:
        self._endpoint = parse_endpoint(target)
        self._credentials = Credentials(server_name=server_name, ca=ca, certificate=certificate, key=key)
        now = datetime.now(UTC)
        self._credentials.check_dates(now)
        self._verifier: _Verifier | None = None
        if attested is not None:
            from sealserve.client.attested_rest import RestVerifier  # noqa: PLC0415  # only if it is used

            self._verifier = RestVerifier(self._endpoint, self._credentials, attested)
        self._connection = _Connection(
            self._endpoint,
            _context(self._credentials, now),
            server_name=server_name,
            timeout=DIAGNOSIS_SECONDS,
            verify=self._verifier.verify if self._verifier is not None else _trust,
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
        traceparent: str | None = None,
    ) -> Prediction:
        """Run a model, as `Predictor.predict` does. The request names the version whose metadata was read.

        Raises:
            TensorTypeError: An input cannot be represented in JSON.
            UnavailableError: `client.tensor-malformed`: An output does not match the signature.
            SealserveError: The call failed; see `_ask`.
        """
        found = self.metadata(model, version=version, label=label, timeout=timeout)
        called = found.signatures.get(signature)
        document = {"signature_name": signature, "inputs": {name: _to_json(value) for name, value in inputs.items()}}
        path = f"{_path(model, found.version, None)}:predict"
        traced = {} if traceparent is None else {TRACEPARENT: traceparent}
        answer = self._ask("POST", path, json.dumps(document).encode(), timeout=timeout, headers=traced)
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
        """Return the signatures of a served model. They are requested once for each version or label, and cached.

        Raises:
            UnavailableError: `client.metadata-missing`: The answer does not contain readable signatures.
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
                    f"The metadata of the model {model!r} from {self._endpoint} does not contain readable signatures.",
                    hint="Check that the service is TensorFlow Serving or sealserve's model server.",
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

    def _ask(
        self, method: str, path: str, body: bytes | None, *, timeout: float, headers: Mapping[str, str] = _NO_HEADERS
    ) -> Any:
        """Send one request, and return the JSON object of its answer.

        Raises:
            DeadlineError: The service did not answer within ``timeout``.
            UnreachableError: The connection failed or was lost, or the model version is not ready.
            TlsError: The TLS handshake failed. The subclass names the reason.
            RequestRefusedError: The HTTP status means that the request is wrong.
            ServiceFailedError: The service returned any other error status, or its answer is not JSON.
        """
        try:
            try:
                status, content = self._exchange(method, path, body, headers, timeout=timeout)
            except _IDLE_CLOSED:
                # The service closes an idle connection after some time. Retrying is safe, because no call changes
                # state.
                status, content = self._exchange(method, path, body, headers, timeout=timeout)
        except TimeoutError as error:
            raise DeadlineError(
                f"The service at {self._endpoint} did not answer within {timeout:.3g} s.",
                hint="Use a longer timeout, or send fewer requests at the same time.",
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise self._fault(error) from error
        document = _parsed(content)
        if status == _OK and document is not None:
            return document
        raise _explained(status, document, self._endpoint)

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], *, timeout: float
    ) -> tuple[int, bytes]:
        """Send one request over the open or a new connection, and return the status and body of the answer."""
        self._connection.timeout = timeout
        if self._verifier is not None and self._connection.sock is not None and self._verifier.has_expired():
            self._connection.close()  # the new connection requests new evidence
        if self._connection.sock is not None:
            self._connection.sock.settimeout(timeout)
        try:
            content_type = {"Content-Type": "application/json"} if body else {}
            self._connection.request(method, path, body, {**content_type, **headers})
            response = self._connection.getresponse()
            return response.status, response.read(MAX_BYTES)
        except BaseException:
            self._connection.close()  # the next request opens a new connection
            raise

    def _fault(self, error: Exception) -> SealserveError:
        """Return the reason for a failed request."""
        fault = find_fault(self._endpoint, self._credentials, timeout=DIAGNOSIS_SECONDS, protocol=HTTP1)
        if fault is None and isinstance(error, ssl.SSLError):  # with TLS 1.3, a refusal appears only here
            reason = (error.reason or "").lower().replace("_", " ")
            fault = client_fault(reason, server_name=self._credentials.server_name, chain=self._credentials.chain())
        return fault or UnreachableError(
            f"The connection to {self._endpoint} failed: {printable(str(error)) or type(error).__name__}.",
            hint="Try again with a new connection.",
        )


def _trust(_: ssl.SSLSocket, __: float) -> None:
    """Trust a connection because of the CA alone."""


def _context(credentials: Credentials, now: datetime) -> ssl.SSLContext:
    context = tls_context(credentials.ca, credentials.certificate, credentials.key, now)
    context.set_alpn_protocols([HTTP1.decode()])
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
            f"The service at {endpoint} is not available: {details}.", hint="Try again with a new connection."
        )
    if status == _LATE:
        return DeadlineError(
            f"The service at {endpoint} did not finish in time: {details}.",
            hint="Use a longer timeout, or send fewer requests at the same time.",
        )
    if status in _CALLERS_FAULT:
        return RequestRefusedError(
            f"The service at {endpoint} refused the request (status {status}): {details}.",
            hint="Check the model's name and version, and compare the inputs with the model's signature.",
        )
    return ServiceFailedError(
        f"The service at {endpoint} failed (status {status}): {details}.",
        hint="Read the model server's log: `sealserve logs` on its machine.",
    )


def _to_json(value: Array) -> Any:
    """Return an array as JSON: nested lists, and bytes as ``{"b64": ...}``.

    Raises:
        TensorTypeError: JSON cannot represent values of this type.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "biufOSUTV" or (array.dtype.kind == "V" and array.dtype.name != "bfloat16"):
        raise TensorTypeError(
            f"An array of {array.dtype} cannot be sent over REST: JSON cannot represent this type.", hint="Use gRPC."
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
    """Return the outputs by name. If a signature has only one output, the service sends it without its name.

    Raises:
        UnavailableError: `client.tensor-malformed`: The outputs do not match the signature.
    """
    specs = called.outputs if called is not None else {}
    named = {next(iter(specs)): found} if len(specs) == 1 else found
    if not isinstance(named, Mapping) or set(named) != set(specs):
        raise ClientCode.TENSOR_MALFORMED.error(
            f"The outputs in the reply do not match the signature: expected {printable(', '.join(sorted(specs)))}."
        )
    return {name: _from_json(name, value, specs[name]) for name, value in named.items()}


def _from_json(name: str, value: Any, spec: TensorSpec) -> Array:
    try:
        if spec.dtype != "string":
            return np.array(value, dtype=np.float32 if spec.dtype == "bfloat16" else spec.dtype)
        strings = np.array(_strings(value), dtype=object)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ClientCode.TENSOR_MALFORMED.error(
            f"The output {printable(repr(name), 80)} in the reply is invalid: expected a tensor of type {spec.dtype}."
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
