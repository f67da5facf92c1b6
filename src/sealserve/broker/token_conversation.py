"""The conversation of ``sealserve-token/1`` after the TLS handshake: request, appraisal, token.

The steps and limits are the same as for Gramine's protocol in `sealserve.broker.server`. Only the messages differ.
"""

import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

from sealserve.attestation.result_request import ResultServer
from sealserve.broker.decision import Downloading
from sealserve.broker.tls import HandshakeError, PeerGoneError, PeerTimeoutError, TlsSession
from sealserve.broker.token_issuer import TokenIssuer
from sealserve.errors import SealserveError

_LOG: Final = logging.getLogger(__name__)


class Appraising(Protocol):
    """Runs an appraisal in the peer's place among the appraisals."""

    def __call__(self, step: Callable[[Callable[[], Downloading]], str]) -> str:
        """Call ``step`` with its context for downloads, and return its result.

        Raises:
            SealserveError: No place became free in time, or ``step`` failed. The refusal is recorded.
        """


class Request(Protocol):
    """A message of the peer that arrives in pieces."""

    def receive(self, data: bytes) -> bool:
        """Process bytes from the peer. Return whether the message is complete."""

    def end(self) -> None:
        """Process the end of the peer's data."""


def receive(session: TlsSession, message: Request, *, seconds: float) -> None:
    """Receive a complete message.

    Args:
        session: The TLS session.
        message: The message to fill.
        seconds: The maximum duration.

    Raises:
        SealserveError: The peer sent another message, was too slow, or closed the connection.
    """
    deadline = time.monotonic() + seconds
    while not message.receive(data := session.receive(seconds=deadline - time.monotonic())):
        if not data:
            message.end()


def answer(
    session: TlsSession,
    certificate: bytes,
    *,
    issuer: TokenIssuer,
    peer: str,
    appraising: Appraising,
    turn_away: Callable[[SealserveError], None],
    request_seconds: float,
    send_seconds: float,
) -> None:
    """Receive the request of a peer, appraise its evidence and send the token.

    Args:
        session: The TLS session, in which ALPN selected the protocol.
        certificate: The peer's RA-TLS certificate, DER.
        issuer: Issues the token.
        peer: The peer's address and port.
        appraising: Runs the appraisal.
        turn_away: Records a refusal before the appraisal.
        request_seconds: The maximum duration of the request.
        send_seconds: The maximum time for the peer to receive the token.
    """
    protocol = ResultServer()
    # 2. Receive the complete request before any expensive step.
    try:
        receive(session, protocol, seconds=request_seconds)
        request = protocol.request()
    except SealserveError as error:
        turn_away(error)
        return
    # 3 to 14, without a key. The reason of a refusal is not sent to the peer, which may be an attacker.
    try:
        token = appraising(lambda downloading: issuer.issue(certificate, request, peer=peer, downloading=downloading))
    except SealserveError:
        return
    # 15. Send the token.
    try:
        session.send(protocol.respond(token), seconds=send_seconds)
    except (HandshakeError, PeerGoneError, PeerTimeoutError) as error:
        _LOG.warning("the attestation result could not be delivered to %s: %s", peer, error.message)
