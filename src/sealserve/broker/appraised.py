"""The results of the broker's decisions (`sealserve.broker.decision`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sealserve.attestation.attest_conversation import BoundEvidence
from sealserve.attestation.claims import Claims
from sealserve.attestation.strict_document import SignedContent
from sealserve.broker import releases
from sealserve.errors import SealserveError
from sealserve.secret import SecretBytes


class BrokerInternalError(SealserveError):
    """An unexpected error inside the broker. The broker's log contains the traceback."""

    code = "internal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Appraised:
    """An enclave whose evidence the broker appraised, and the basis of the appraisal.

    Args:
        time: The time of the decision.
        release: The release, with the policy that the claims satisfy.
        claims: The claims from the evidence.
        quote_digest: SHA-256 of the quote, as hex.
        public_key_digest: SHA-256 of the SubjectPublicKeyInfo that the evidence is bound to.
    """

    time: datetime
    release: releases.Release
    claims: Claims
    quote_digest: str
    public_key_digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Provisioned:
    """An enclave with its own TLS key that the broker appraised. The audit row is committed.

    Args:
        appraised: The enclave.
        evidence: The evidence, bound to the TLS session and the keyset.
        collateral: The collateral of the appraisal.
        statement: The release statement, or `None` if the owner signed none.
        key: The key of the release, 16 bytes, with the purpose ``start``. Otherwise `None`.
    """

    appraised: Appraised
    evidence: BoundEvidence
    collateral: Mapping[str, str] = field(repr=False)
    statement: SignedContent | None = field(repr=False)
    key: SecretBytes | None
