"""The demo's user: her policy, the verification of the service, and her requests.

She has the service's CA, her client certificate, and two facts over a trusted channel: the owner's public key, and the
root certificate of the simulated vendor. She trusts no certificate of the service.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt
from cryptography.hazmat.primitives.serialization import Encoding

from sealserve.atomic_file import write_file
from sealserve.cli.access import Access
from sealserve.client.attested import AttestedPolicy, EndpointTls, VerifiedEndpoint, read_policy, verify_endpoint
from sealserve.client.policy_file import trusting
from sealserve.client.tensors import to_proto
from sealserve.client.wire.model_pb2 import ModelSpec
from sealserve.client.wire.predict_pb2 import PredictRequest
from sealserve.owner import simulation
from sealserve.owner.owner import Owner
from sealserve.serving_interface import DEFAULT_SIGNATURE
from sealserve.workspace import Workspace

POLICY_FILE: Final = "policy.toml"
PREDICT: Final = "/tensorflow.serving.PredictionService/Predict"
_ATTEMPTS_PER_REPLICA: Final = 8
_SECONDS: Final = 20.0


def write_policy(workspace: Workspace) -> AttestedPolicy:
    """Write the user's policy file, as `sealserve user trust` does, and return the policy."""
    vendor = simulation.open_vendor(workspace, now=datetime.now(UTC))
    content = trusting(
        None,
        owner_key=Owner.open(workspace).public_key().public_bytes_raw(),
        dangerous_simulated_root=vendor.root.certificate.public_bytes(Encoding.PEM).decode(),
    )
    path = policy_path(workspace)
    write_file(path, content, overwrite=True)
    return read_policy(path)


def policy_path(workspace: Workspace) -> Path:
    """Return the path of the user's policy file."""
    return workspace.user.root / POLICY_FILE


def tls_of(reach: Access, *, with_ca: bool = True) -> EndpointTls:
    """Return the user's TLS settings.

    Args:
        reach: How to reach the service.
        with_ca: Whether the service's CA must have signed the certificate of the connection.
    """
    tls = EndpointTls(server_name=reach.server_name, ca=reach.ca, certificate=reach.certificate, key=reach.key)
    return tls if with_ca else replace(tls, ca=None)


def verify_replicas(reach: Access, policy: AttestedPolicy, *, replicas: int) -> list[VerifiedEndpoint]:
    """Verify the service until each replica was verified. NGINX chooses a replica for each connection.

    Args:
        reach: How to reach the service.
        policy: The user's policy.
        replicas: Number of replicas. Fewer are returned if NGINX does not choose all of them soon.

    Raises:
        StepFailedError: A replica fails a step.
    """
    found: dict[bytes, VerifiedEndpoint] = {}
    for _ in range(_ATTEMPTS_PER_REPLICA * replicas):
        endpoint = verify_endpoint(reach.target, policy, tls=tls_of(reach), timeout=_SECONDS)
        found[endpoint.certificate] = endpoint
        if len(found) == replicas:
            break
    return list(found.values())


def request_message(model: str, inputs: Mapping[str, npt.NDArray[Any]], *, signature: str = DEFAULT_SIGNATURE) -> bytes:
    """Return the bytes of a Predict request."""
    return PredictRequest(
        model_spec=ModelSpec(name=model, signature_name=signature),
        inputs={name: to_proto(array) for name, array in inputs.items()},
    ).SerializeToString()
