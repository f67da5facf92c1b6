"""The public Python API of sealserve: connect to a service, request predictions, and measure load.

The names in `__all__` are the public API. They change only with a new minor version, and CHANGELOG.md names each
change. All other modules of sealserve are internal. The client does not import TensorFlow, and a client in another
language can take its place: the service speaks TensorFlow Serving's gRPC API.

Example:
    The owner of the service gives each user a client bundle (``sealserve client bundle --for NAME``)::

        import numpy as np

        from sealserve.client import Client

        with Client.from_bundle("ann.json") as client:
            print(client.metadata().signatures["serving_default"].inputs["x"].dtype)
            prediction = client.predict({"x": np.array([1.0, 2.0], np.float32)})
            print(prediction.version, prediction["y"])

Example:
    The same request without a bundle, with separate files. For one-way TLS, leave out ``certificate`` and ``key``::

        from pathlib import Path

        import numpy as np

        from sealserve.client import Predictor, SecretBytes, open_channel

        user = Path(".sealserve/user")
        with open_channel(
            "127.0.0.1:8500",
            server_name="grpc.tf-serving.service.com",
            ca=(user / "service-ca.pem").read_bytes(),
            certificate=(user / "client.pem").read_bytes(),
            key=SecretBytes((user / "client.key").read_bytes()),
        ) as channel:
            predictor = Predictor([channel])
            signature = predictor.metadata("half_plus_two").signatures["serving_default"]
            print(signature.inputs["x"].dtype)
            prediction = predictor.predict("half_plus_two", {"x": np.array([1.0, 2.0], np.float32)})
            print(prediction.version, prediction["y"])

Example:
    A service with attested serving proves that an enclave answers. The client verifies each replica before it sends an
    input to it. ``policy.toml`` is the user's own file (``sealserve user trust``)::

        from pathlib import Path

        from sealserve.client import Client, read_policy

        with Client.from_bundle("ann.json", attested=read_policy(Path("policy.toml"))) as client:
            print(client.metadata().version)

Errors are subclasses of `SealserveError`. Their ``code``, their family (`InputError`, `VerificationError`,
`UnavailableError`) and the error classes in `__all__` are stable. Messages may change.
"""

import importlib
from typing import TYPE_CHECKING, Any

from sealserve.client.bundle import BundledModel, ClientBundle
from sealserve.client.call import DeadlineError, RequestRefusedError, ServiceFailedError
from sealserve.client.channel import ServiceChannel, open_channel
from sealserve.client.connection_fault import UnreachableError
from sealserve.client.credentials import TlsError
from sealserve.client.examples import serialize as serialize_example
from sealserve.client.load import Latency, LoadReport, Request, run_load
from sealserve.client.predict import (
    ModelMetadata,
    Prediction,
    Predictor,
    ReceivedReceipt,
    Signature,
    TensorSpec,
    VersionState,
    VersionStatus,
)
from sealserve.client.service import Client
from sealserve.errors import InputError, SealserveError, UnavailableError, VerificationError
from sealserve.secret import SecretBytes

if TYPE_CHECKING:
    from sealserve.client.attested import (
        AttestedPolicy,
        EndpointTls,
        StepFailedError,
        VerifiedEndpoint,
        read_policy,
        verify_endpoint,
    )

_ATTESTED = frozenset({
    "AttestedPolicy", "EndpointTls", "StepFailedError", "VerifiedEndpoint", "read_policy", "verify_endpoint",
})  # fmt: skip

__all__ = [
    "AttestedPolicy",
    "BundledModel",
    "Client",
    "ClientBundle",
    "DeadlineError",
    "EndpointTls",
    "InputError",
    "Latency",
    "LoadReport",
    "ModelMetadata",
    "Prediction",
    "Predictor",
    "ReceivedReceipt",
    "Request",
    "RequestRefusedError",
    "SealserveError",
    "SecretBytes",
    "ServiceChannel",
    "ServiceFailedError",
    "Signature",
    "StepFailedError",
    "TensorSpec",
    "TlsError",
    "UnavailableError",
    "UnreachableError",
    "VerificationError",
    "VerifiedEndpoint",
    "VersionState",
    "VersionStatus",
    "open_channel",
    "read_policy",
    "run_load",
    "serialize_example",
    "verify_endpoint",
]


def __getattr__(name: str) -> Any:
    """Import the verification of evidence only for programs that use it, because it takes longer than the client."""
    if name in _ATTESTED:
        return getattr(importlib.import_module("sealserve.client.attested"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
