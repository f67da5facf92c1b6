"""The demo's user: her policy, the verification of the service, and her requests.

She has the service's CA, her client certificate, and two facts over a trusted channel: the owner's public key, and the
root certificate of the simulated vendor. She trusts no certificate of the service.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt
from cryptography.hazmat.primitives.serialization import Encoding

from sealserve.atomic_file import write_file
from sealserve.attested.receipt import ReceiptClaims
from sealserve.cli.access import Access
from sealserve.cli.demo.comparison import Reference
from sealserve.cli.demo.evidence import short, shortened
from sealserve.cli.demo.screen import Screen
from sealserve.client.attested import AttestedPolicy, EndpointTls, VerifiedEndpoint, read_policy, verify_endpoint
from sealserve.client.channel import ServiceChannel
from sealserve.client.policy_file import trusting
from sealserve.client.predict import Predictor, ReceivedReceipt
from sealserve.client.receipts import verify_received
from sealserve.client.tensors import to_proto
from sealserve.client.wire.model_pb2 import ModelSpec
from sealserve.client.wire.predict_pb2 import PredictRequest
from sealserve.owner import simulation
from sealserve.owner.owner import Owner
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


def request_message(model: str, inputs: Mapping[str, npt.NDArray[Any]], *, signature: str) -> bytes:
    """Return the bytes of a Predict request."""
    return PredictRequest(
        model_spec=ModelSpec(name=model, signature_name=signature),
        inputs={name: to_proto(array) for name, array in inputs.items()},
    ).SerializeToString()


def show_verification(screen: Screen, verified: Sequence[VerifiedEndpoint]) -> None:
    """Show the six steps of the verification."""
    screen.step(
        0,
        "A user verifies the service before she sends an input",
        "She pinned two facts in her own policy: the owner's public key, and the vendor's root certificate. Each "
        "enclave answers her random nonce with its evidence. She checks six steps, and trusts neither the owner nor "
        "the host for them. Only an enclave with the stated code has the key of the connection.",
        *(
            (f"{report.step.number} {report.step.title}", shortened(report.text))
            for report in verified[0].service.reports
        ),
        ("replicas", f"{len(verified)} verified, each with a TLS key of its own"),
    )


def ask_for_receipt(
    opened: Sequence[ServiceChannel], model: str, reference: Reference
) -> tuple[ReceivedReceipt, ReceiptClaims] | None:
    """Send one more request, which asks for a receipt, and verify the receipt.

    Args:
        opened: Connections to verified replicas. Without evidence, there are no receipts.
        model: Name of the model.
        reference: The inputs.
    """
    verified = [item.attested for item in opened if item.attested is not None]
    if not verified:
        return None
    answer = Predictor(opened).predict(
        model, reference.inputs[0], signature=reference.signature, receipt=True, channel=0
    )
    assert answer.receipt is not None  # noqa: S101  # `predict` raises if the service sent none
    claims, _ = verify_received(answer.receipt, verified[0].replicas.current(now=datetime.now(UTC)))
    return answer.receipt, claims


def show_receipt(screen: Screen, received: ReceivedReceipt, claims: ReceiptClaims) -> None:
    """Show a verified receipt."""
    screen.step(
        0,
        "The user asks for a receipt, and verifies it",
        "The enclave signs the digests of request and response, and the model that computed the response. Later, the "
        "user can prove which model of which release answered her.",
        ("receipt", f"number {claims.sequence} of keyset {short(claims.keyset_sha256)}"),
        ("model", f"{claims.model} version {claims.model_version}"),
        ("model digest", f"{short(claims.model_sha256)}, as in the owner's statement"),
        ("request", f"SHA-256 {short(claims.request_sha256)}, {len(received.request)} bytes"),
        ("response", f"SHA-256 {short(claims.response_sha256)}, {len(received.response)} bytes"),
        seconds=0.0,
    )
