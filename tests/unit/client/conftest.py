"""A service's certificates, and small servers that speak TensorFlow Serving's protocol with them."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import numpy as np
import pytest
from tests.harness.served import transport  # noqa: F401  # a fixture

from sealserve.client.channel import ServiceChannel, open_channel
from sealserve.client.tensors import from_proto, to_proto
from sealserve.client.wire.get_model_metadata_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    SignatureDef,
    SignatureDefMap,
    TensorInfo,
)
from sealserve.client.wire.get_model_status_pb2 import (
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelVersionStatus,
)
from sealserve.client.wire.predict_pb2 import PredictRequest, PredictResponse
from sealserve.client.wire.tensor_shape_pb2 import TensorShapeProto
from sealserve.client.wire.types_pb2 import DT_FLOAT, DT_STRING
from sealserve.pki.authority import Authority, AuthorityKind
from sealserve.pki.certificate import CertifiedKey
from sealserve.secret import SecretBytes

SERVICE = "grpc.tf-serving.service.com"
CLIENT = "client.tf-serving.service.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """The certificates of one service, and some that do not belong to it."""

    service: Authority
    users: Authority
    server: CertifiedKey
    other_server: CertifiedKey
    client: CertifiedKey
    stranger_ca: Authority
    stranger: CertifiedKey
    expired_server: CertifiedKey
    expired_client: CertifiedKey


@pytest.fixture(scope="session")
def material() -> Material:
    now = datetime.now(UTC)
    past = now - timedelta(days=40)

    def authority(kind: AuthorityKind) -> Authority:
        return Authority.create(kind, names=["service.com"], simulated=True, now=past)

    service, users, stranger_ca = (
        authority(AuthorityKind.SERVICE),
        authority(AuthorityKind.USERS),
        authority(AuthorityKind.USERS),
    )
    return Material(
        service=service,
        users=users,
        server=service.issue_server([SERVICE], now=now),
        other_server=service.issue_server(["other.service.com"], now=now),
        client=users.issue_client(CLIENT, now=now),
        stranger_ca=authority(AuthorityKind.SERVICE),
        stranger=stranger_ca.issue_client(CLIENT, now=now),
        expired_server=service.issue_server([SERVICE], now=past, days=3),
        expired_client=users.issue_client(CLIENT, now=past, days=3),
    )


@dataclass(slots=True)
class Behaviour:
    """The behavior of a test server, and the requests that it received.

    Attributes:
        instance: What it sends as x-sealserve-instance; None to send nothing, as TensorFlow Serving does.
        abort: A status to end every call with.
        hold: While this is clear, requests wait.
    """

    instance: str | None = None
    abort: tuple[grpc.StatusCode, str] | None = None
    hold: threading.Event = field(default_factory=threading.Event)
    requests: list[Any] = field(default_factory=list)
    sent: list[tuple[str, str | bytes]] = field(default_factory=list)
    authorities: list[str] = field(default_factory=list)
    peers: set[str] = field(default_factory=set)
    metadata: GetModelMetadataResponse | None = None

    def __post_init__(self) -> None:
        self.hold.set()


class Service(grpc.GenericRpcHandler):
    """Doubles what it gets, and tells of a model `toy` with versions 1 and 2."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        methods: dict[str, tuple[type[Any], Callable[[Any], Any]]] = {
            "/tensorflow.serving.PredictionService/Predict": (PredictRequest, self._predict),
            "/tensorflow.serving.PredictionService/GetModelMetadata": (GetModelMetadataRequest, self._metadata),
            "/tensorflow.serving.ModelService/GetModelStatus": (GetModelStatusRequest, self._status),
        }
        if handler_call_details.method not in methods:
            return None
        request_type, answer = methods[handler_call_details.method]

        def handle(request: Any, context: Any) -> Any:
            self._behaviour.requests.append(request)
            self._behaviour.peers.add(context.peer())
            self._behaviour.sent += context.invocation_metadata()
            self._behaviour.hold.wait(30)
            if self._behaviour.instance is not None:
                context.set_trailing_metadata((("x-sealserve-instance", self._behaviour.instance),))
            if self._behaviour.abort is not None:
                context.abort(*self._behaviour.abort)
            return answer(request)

        return grpc.unary_unary_rpc_method_handler(
            handle, request_deserializer=request_type.FromString, response_serializer=lambda m: m.SerializeToString()
        )

    def _predict(self, request: PredictRequest) -> PredictResponse:
        reply = PredictResponse(
            outputs={name: to_proto(from_proto(tensor) * 2) for name, tensor in request.inputs.items()}
        )
        reply.model_spec.CopyFrom(request.model_spec)
        if not request.model_spec.HasField("version"):
            reply.model_spec.version.value = 2
        return reply

    def _metadata(self, request: GetModelMetadataRequest) -> GetModelMetadataResponse:
        if self._behaviour.metadata is not None:
            return self._behaviour.metadata
        image = TensorInfo(name="input:0", dtype=DT_FLOAT, tensor_shape=TensorShapeProto())
        image.tensor_shape.dim.add(size=-1)
        image.tensor_shape.dim.add(size=3)
        label = TensorInfo(name="label:0", dtype=DT_STRING, tensor_shape=TensorShapeProto(unknown_rank=True))
        signature = SignatureDef(
            inputs={"input": image}, outputs={"label": label}, method_name="tensorflow/serving/predict"
        )
        signatures = SignatureDefMap(
            signature_def={"serving_default": signature, "__saved_model_init_op": SignatureDef()}
        )
        reply = GetModelMetadataResponse()
        reply.model_spec.name = request.model_spec.name
        reply.model_spec.version.value = 2
        packed = reply.metadata["signature_def"]
        packed.type_url = "type.googleapis.com/tensorflow.serving.SignatureDefMap"
        packed.value = signatures.SerializeToString()
        return reply

    def _status(self, _: GetModelStatusRequest) -> GetModelStatusResponse:
        reply = GetModelStatusResponse()
        old = reply.model_version_status.add(version=1, state=ModelVersionStatus.END)
        old.status.error_code = 8
        old.status.error_message = "no memory\nleft"
        reply.model_version_status.add(version=2, state=ModelVersionStatus.AVAILABLE)
        return reply


class Serve:
    """Starts servers on free ports of 127.0.0.1.

    Args:
        material: Their certificates.
        stack: What stops them.
    """

    def __init__(self, material: Material, stack: ExitStack) -> None:
        self._material = material
        self._stack = stack
        self._servers: list[grpc.Server] = []

    def __call__(
        self, behaviour: Behaviour, *, identity: CertifiedKey | None = None, two_way: bool = True, port: int = 0
    ) -> int:
        shown = identity or self._material.server
        server = grpc.server(self._stack.enter_context(ThreadPoolExecutor(4)), handlers=[Service(behaviour)])
        credentials = grpc.ssl_server_credentials(
            [(shown.key_pem.reveal(), shown.chain_pem)],
            root_certificates=self._material.users.certificate_pem if two_way else None,
            require_client_auth=two_way,
        )
        bound = server.add_secure_port(f"127.0.0.1:{port}", credentials)
        server.start()
        self._servers.append(server)
        return bound

    def stop(self) -> None:
        for server in self._servers:
            server.stop(None).wait()


@pytest.fixture
def serve(material: Material) -> Iterator[Serve]:
    with ExitStack() as stack:
        server = Serve(material, stack)
        stack.callback(server.stop)
        yield server
        server.stop()


Connect = Callable[..., ServiceChannel]


@pytest.fixture
def connect(material: Material) -> Iterator[Connect]:
    """Open a channel as the service's client; each may be overridden."""
    with ExitStack() as stack:

        def start(port: int, **overrides: Any) -> ServiceChannel:
            arguments: dict[str, Any] = {
                "server_name": SERVICE,
                "ca": material.service.certificate_pem,
                "certificate": material.client.chain_pem,
                "key": SecretBytes(material.client.key_pem.reveal()),
            } | overrides
            return stack.enter_context(open_channel(f"127.0.0.1:{port}", **arguments))

        yield start


@pytest.fixture
def pictures() -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).standard_normal((2, 3, 4), dtype=np.float32)
