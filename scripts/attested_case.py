"""A case of the test vectors: evidence with one wrong value."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from scripts.attested_example import FIRST_TIME, Example

from sealserve.canonical_document import canonical_json

GENUINE = Path(__file__).resolve().parent.parent / "tests" / "conformance" / "quotes"
DAY = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A bundle that must be refused.

    Args:
        name: The fault.
        bundle: The bundle.
        policy: The user's policy, TOML.
        seconds: The time of the verification, in seconds after the time of the evidence.
        step: The step that fails.
        code: The code of the error.
    """

    name: str
    bundle: bytes
    policy: str
    seconds: int
    step: int
    code: str


class CaseBuilder:
    """Builds cases from valid evidence.

    Args:
        folder: An empty folder.
        example: The service whose evidence is valid.
    """

    def __init__(self, folder: Path, example: Example) -> None:
        self.folder = folder
        self.example = example
        self.base: dict[str, Any] = json.loads(example.bundle().to_bytes())

    def case(
        self,
        name: str,
        step: int,
        code: str,
        *,
        policy: str | None = None,
        seconds: int = FIRST_TIME,
        bundle: Mapping[str, Any] | None = None,
        **evidence: Any,
    ) -> Case:
        """Return a case: the valid bundle with changed members."""
        document = copy.deepcopy(self.base) | dict(bundle or {})
        document["evidence"] = {**document["evidence"], **evidence}
        return Case(
            name=name,
            bundle=canonical_json(document),
            policy=self.example.policy_file if policy is None else policy,
            seconds=seconds,
            step=step,
            code=code,
        )

    def pinning(self, **changes: Any) -> str:
        """Return a policy that pins the enclave and no owner key, so that no statement is necessary."""
        values = self.example.reference_values
        pin = {
            "mr_enclave": values.mr_enclave.hex(),
            "mr_signer": values.mr_signer.hex(),
            "isv_prod_id": values.isv_prod_id,
            "isv_svn": values.isv_svn,
        } | changes
        root = self.example.policy_file[self.example.policy_file.index("dangerous_simulated_root") :]
        lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in pin.items())
        return f"version = 1\n{root}\n[[enclaves]]\n{lines}"


def raw_signature(key: ec.EllipticCurvePrivateKey, content: bytes) -> bytes:
    """Return an ECDSA signature as raw r and s, 64 bytes."""
    r, s = decode_dss_signature(key.sign(content, ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")
