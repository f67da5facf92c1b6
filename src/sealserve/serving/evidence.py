"""Requests for evidence, over gRPC and HTTP: the form of the request, and limits for the rate.

The quote was created at the start. So a request costs one signature and a few hundred microseconds, and never uses the
quoting service. The limits apply to both protocols together, because the time is taken from inference.
"""

import re
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from typing import Final

from google.protobuf.message import DecodeError

from sealserve.attested.evidence_service_pb2 import EvidenceRequest, EvidenceResponse
from sealserve.serving.attested import AttestedIdentity
from sealserve.serving.rate_limit import Rate, RateLimit
from sealserve.serving.request_errors import RequestCode
from sealserve.serving_interface import EVIDENCE_PARAMETER

NONCE_SIZE: Final = 32
_LONGEST_REQUEST: Final = 256
"""Maximum bytes of the gRPC message. A nonce needs 34 bytes."""
_QUERY: Final = re.compile(rf"{EVIDENCE_PARAMETER}=([A-Za-z0-9_-]{{43}})", re.ASCII)
TOTAL: Final = Rate(per_second=50, burst=100)
"""All clients together. At 0.3 ms for each answer, this is less than 2 % of one core."""
PEER: Final = Rate(per_second=5, burst=20)
"""One connection, or one client certificate over gRPC. A user needs evidence once for each replica and certificate."""


class Evidence:
    """Answers requests for evidence.

    Args:
        identity: The identity of the server.
        clock: Returns the time, as `time.monotonic`.
    """

    def __init__(self, identity: AttestedIdentity, clock: Callable[[], float] = time.monotonic) -> None:
        self._identity = identity
        self._clock = clock
        self._limit = RateLimit(total=TOTAL, peer=PEER)

    def admit(self, peer: bytes) -> None:
        """Count a request.

        Args:
            peer: An identifier of the client.

        Raises:
            RequestError: `request.evidence-rate`: There were too many requests. The error states when to retry.
        """
        wait = self._limit.take(peer, self._clock())
        if wait:
            error = RequestCode.EVIDENCE_RATE.error("The server is busy: too many requests for evidence.")
            error.retry_after = wait
            raise error

    def answer_message(self, content: bytes, _deadline: float | None = None) -> bytes:
        """Return the message `EvidenceResponse` for a message `EvidenceRequest`.

        Raises:
            RequestError: `request.evidence-malformed`: The message or the nonce is invalid.
        """
        if len(content) > _LONGEST_REQUEST:
            raise RequestCode.EVIDENCE_MALFORMED.error(
                f"The request for evidence is invalid: expected at most {_LONGEST_REQUEST} bytes, got {len(content)}."
            )
        try:
            nonce = EvidenceRequest.FromString(content).nonce
        except DecodeError as error:
            raise RequestCode.MALFORMED.error("The request is not a valid EvidenceRequest message.") from error
        if len(nonce) != NONCE_SIZE:
            raise RequestCode.EVIDENCE_MALFORMED.error(
                f"The request for evidence is invalid: expected a nonce of {NONCE_SIZE} bytes, got {len(nonce)}."
            )
        return EvidenceResponse(evidence=self._identity.evidence(nonce)).SerializeToString()

    def answer_query(self, query: str) -> bytes:
        """Return the evidence for the query of an HTTP request.

        Raises:
            RequestError: `request.evidence-malformed`: The query is not exactly one nonce in base64url.
        """
        found = _QUERY.fullmatch(query)
        nonce = urlsafe_b64decode(f"{found[1]}=") if found is not None else b""
        # The last character has two unused bits. They must be zero, so that a nonce has only one form.
        if found is None or urlsafe_b64encode(nonce).rstrip(b"=").decode() != found[1]:
            raise RequestCode.EVIDENCE_MALFORMED.error(
                f"The request for evidence is invalid: expected the query {EVIDENCE_PARAMETER}= with {NONCE_SIZE} "
                "bytes in base64url without padding."
            )
        return self._identity.evidence(nonce)
