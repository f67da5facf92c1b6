"""The conversation of ``sealserve-attest/1`` after the TLS handshake: challenge, evidence, appraisal, grant.

The steps are numbered as in `sealserve.broker.decision`, and the limits are the same as for Gramine's protocol. The
enclave gets its quote after the challenge, so its message has the time limit of a request that waits for a quote.
"""

import contextlib
import hashlib
import logging
from collections.abc import Callable
from typing import Final, Protocol

from sealserve.attestation.attest_conversation import BrokerSession, PresentedEvidence, refusal
from sealserve.attestation.attest_messages import incoming_evidence
from sealserve.attestation.session_binding import new_nonce
from sealserve.broker.attest_issuer import AttestIssuer
from sealserve.broker.codes import BrokerCode
from sealserve.broker.decision import Downloading
from sealserve.broker.stage_times import RequestTimes, Stage
from sealserve.broker.tls import HandshakeError, PeerGoneError, PeerTimeoutError, TlsSession
from sealserve.broker.token_conversation import receive
from sealserve.errors import SealserveError, UnavailableError, VerificationError
from sealserve.log_line import fields
from sealserve.secret import SecretBytes

_LOG: Final = logging.getLogger(__name__)
_DIGITS: Final = 16
_CAN_CHANGE: Final = frozenset({BrokerCode.POLICY_APPROVAL_PENDING, BrokerCode.POLICY_LIMIT})
_OF_THE_BROKER: Final = (
    "attest.collateral", "audit.", "broker.", "certificate-chain.", "certificate.", "collateral.", "keystore.",
)  # fmt: skip
"""The beginnings of codes of causes outside of the evidence: the broker's own files, and the vendor's documents."""


class Appraising(Protocol):
    """Runs an appraisal in the peer's place among the appraisals."""

    def __call__(self, step: Callable[[Callable[[], Downloading], Callable[[], None]], SecretBytes]) -> SecretBytes:
        """Call ``step`` with its context for downloads and with the end of its place, and return its result.

        Raises:
            SealserveError: No place became free in time, or ``step`` failed. The refusal is recorded.
        """


def answer(
    session: TlsSession,
    *,
    issuer: AttestIssuer,
    peer: str,
    appraising: Appraising,
    turn_away: Callable[[SealserveError], None],
    times: RequestTimes,
    request_seconds: float,
    send_seconds: float,
) -> None:
    """Challenge an enclave, appraise its evidence, and send it the grant or a refusal.

    Args:
        session: The TLS 1.3 session, in which ALPN selected the protocol.
        issuer: Appraises and answers.
        peer: The peer's address and port.
        appraising: Runs the appraisal.
        turn_away: Records a refusal before the appraisal.
        times: Measures the stages of the request.
        request_seconds: The maximum duration from the challenge to the end of the evidence.
        send_seconds: The maximum time for the peer to receive a message.
    """
    # 2. Send the challenge, and receive the complete evidence before any expensive step.
    times.begin(Stage.REQUEST)
    try:
        presented = _present(session, request_seconds=request_seconds, send_seconds=send_seconds)
    except SealserveError as error:
        turn_away(error)
        if not isinstance(error, UnavailableError | HandshakeError):  # otherwise the peer is silent or gone
            _refuse(session, error, reference=None, seconds=send_seconds)
        return
    # 4 to 14. The reason of a refusal is not sent to the peer, which may be an attacker.
    times.begin(Stage.QUEUE)
    try:
        messages = appraising(
            lambda downloading, appraised: issuer.answer(
                presented, peer=peer, downloading=downloading, appraised=appraised, times=times
            )
        )
    except SealserveError as error:
        reference = f"quote-{hashlib.sha256(presented.quote).hexdigest()[:_DIGITS]}"
        _refuse(session, error, reference=reference, seconds=send_seconds)
        return
    # 15. Send everything once, and wipe the memory of the key even if the connection fails.
    times.begin(Stage.SEND)
    with messages:
        try:
            session.send(messages.reveal(), seconds=send_seconds)
        except (HandshakeError, PeerGoneError, PeerTimeoutError) as error:
            extra = fields(peer=peer, code=error.code)
            _LOG.warning("the grant could not be delivered to %s: %s", peer, error.message, extra=extra)
        else:
            times.succeed()


def is_final(error: SealserveError) -> bool:
    """Return whether a repetition of the same request cannot succeed.

    It can succeed if the broker was not able to decide, or if a person, the time or a new document changes the
    decision. Then the enclave tries again later.
    """
    if error.code in _CAN_CHANGE or error.code.startswith(_OF_THE_BROKER):
        return False
    return isinstance(error, VerificationError)


def _present(session: TlsSession, *, request_seconds: float, send_seconds: float) -> PresentedEvidence:
    nonce = new_nonce()
    broker = BrokerSession(nonce=nonce, exporter=session.exporter(nonce))
    session.send(broker.challenge(), seconds=send_seconds)
    message = incoming_evidence()
    receive(session, message, seconds=request_seconds)
    return broker.receive(message.content)


def _refuse(session: TlsSession, error: SealserveError, *, reference: str | None, seconds: float) -> None:
    with contextlib.suppress(HandshakeError, PeerGoneError, PeerTimeoutError):  # the refusal is recorded already
        session.send(refusal(final=is_final(error), reference=reference), seconds=seconds)
