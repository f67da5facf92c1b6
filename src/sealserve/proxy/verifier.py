"""Verifies replicas: each TLS key once, until its attestation result expires.

A connection is *verified* if its TLS certificate has the key of a verified enclave. The evidence may arrive on another
connection, because its keyset names the TLS key, and only the enclave has this key.
"""

import asyncio
import logging
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sealserve.attested.evidence_conversation import PresentedService
from sealserve.attested.user_policy import UserPolicy
from sealserve.attested.verification import VerifiedService
from sealserve.client.attested import evidence_end
from sealserve.daemon_thread import in_thread
from sealserve.errors import VerificationError
from sealserve.log_line import fields
from sealserve.x509_errors import X509_ERRORS

_LOG: Final = logging.getLogger(__name__)
_REFRESH_BEFORE: Final = timedelta(minutes=10)
_REFUSED_SECONDS: Final = 5.0
"""How long a refusal is repeated without new evidence. A client that reconnects in a loop costs nothing."""
_MOST_REFUSED: Final = 256
_MOST_VERIFIED: Final = 4096
_PARALLEL: Final = 4


class EvidenceSource(Protocol):
    """Requests the evidence of a replica."""

    def __call__(self, certificate: bytes, /) -> PresentedService:
        """Return the evidence of the replica whose TLS connection presented a certificate. It may block for seconds.

        Args:
            certificate: The certificate of the connection that must be verified, DER.

        Returns:
            Evidence for a fresh nonce, as if it had arrived on that connection. Nothing in it is verified.

        Raises:
            SealserveError: The replica was not reached, or returned no evidence.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """A verified replica.

    Args:
        service: The verified enclave.
        until: When connections to it must be verified again, UTC.
    """

    service: VerifiedService
    until: datetime

    def needs_refresh(self, now: datetime) -> bool:
        """Whether new evidence should be requested, so that open connections can continue after ``until``."""
        return now >= self.until - _REFRESH_BEFORE


class ReplicaVerifier:
    """Verifies the certificates of connections. Use it in one event loop.

    Args:
        policy: The user's policy.
        clock: Returns the user's time, with a time zone.
    """

    def __init__(self, policy: UserPolicy, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._policy = policy
        self._clock = clock
        self._verified: dict[bytes, Verification] = {}
        self._refused: dict[bytes, tuple[float, VerificationError]] = {}
        self._locks: weakref.WeakValueDictionary[bytes, asyncio.Lock] = weakref.WeakValueDictionary()
        self._parallel = asyncio.Semaphore(_PARALLEL)

    async def verify(
        self, certificate: bytes, source: EvidenceSource, *, newer_than: Verification | None = None
    ) -> Verification:
        """Verify the peer of a connection. Nothing may be sent on the connection before.

        1. *Known key.* If the key was verified and its result has not expired, perform only the sixth step.
        2. *Single flight.* Connections to one replica wait for one verification.
        3. *Refused key.* A refusal of the last seconds is repeated.
        4. *Evidence.* Request it, and perform all six steps with the certificate of this connection.

        Args:
            certificate: The certificate of the connection, DER.
            source: Requests the evidence.
            newer_than: Ignore this verification, because it expires soon.

        Raises:
            StepFailedError: One of the six steps failed.
            SealserveError: The replica returned no valid evidence.
        """
        key = key_of(certificate)
        if (known := self._known(key, certificate, newer_than)) is not None:  # 1
            return known
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:  # 2
            if (known := self._known(key, certificate, newer_than)) is not None:
                return known
            self._repeat_refusal(key)  # 3
            try:
                async with self._parallel:  # 4
                    service = await in_thread(lambda: self._perform(certificate, source))
            except VerificationError as error:
                self._note_refusal(key, error)
                raise
            return self._note(key, service)

    def _known(self, key: bytes, certificate: bytes, newer_than: Verification | None) -> Verification | None:
        found = self._verified.get(key)
        if found is None or found is newer_than or self._clock() >= found.until:
            return None
        found.service.check_connection(certificate, now=self._clock())
        return found

    def _perform(self, certificate: bytes, source: EvidenceSource) -> VerifiedService:
        presented = replace(source(certificate), certificate=certificate)
        return presented.verify(self._policy, now=self._clock())

    def _note(self, key: bytes, service: VerifiedService) -> Verification:
        now = self._clock()
        until = evidence_end(service, now=now)
        for old in [old for old, known in self._verified.items() if now >= known.until]:
            del self._verified[old]
        if len(self._verified) >= _MOST_VERIFIED:
            del self._verified[next(iter(self._verified))]
        self._verified[key] = verification = Verification(service=service, until=until)
        _LOG.info(
            "verified a replica of release %s until %s%s",
            service.keyset.release_id,
            f"{until:%Y-%m-%d %H:%M:%S} UTC",
            ": SIMULATED, it protects nothing" if service.simulated else "",
            extra=fields(
                release=service.keyset.release_id,
                mr_enclave=service.quote.measurement.hex(),
                keyset=service.keyset.digest.hex(),
                tls_key=service.keyset.tls_key_sha256,
                until=until.isoformat(),
            ),
        )
        return verification

    def _note_refusal(self, key: bytes, error: VerificationError) -> None:
        self._verified.pop(key, None)
        if len(self._refused) >= _MOST_REFUSED:
            self._refused.clear()
        self._refused[key] = time.monotonic(), error

    def _repeat_refusal(self, key: bytes) -> None:
        refused = self._refused.get(key)
        if refused is None:
            return
        if time.monotonic() - refused[0] < _REFUSED_SECONDS:
            raise refused[1]
        del self._refused[key]


def key_of(certificate: bytes) -> bytes:
    """Return the public key of a certificate (DER), so that a renewed certificate counts as the same replica.

    A malformed certificate is returned itself. The sixth step rejects it later.
    """
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
        return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except X509_ERRORS:
        return certificate
