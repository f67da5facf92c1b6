"""The broker's decision: it appraises the evidence, commits one audit row, and only then releases the key.

The steps of a request, in order (1, 2 and 15 are in `sealserve.broker.server`):

 1. TLS handshake: the peer presents a certificate and proves that it holds the certificate's private key.
 2. The request is exactly the request of the secret provisioning protocol.
 3. The certificate carries evidence: a quote and its binding to the certificate's key.
 4. The quote parses, and its length is exact.
 5. The quote's report data is bound to the certificate's key.
 6. The measurement claimed by the quote selects the release. The release's signed platform kind selects the root
    certificate for the verification.
 7. The release is active, or draining before its deadline.
 8. The quote is from the kind of platform that the release is for, its certificates end at that root, and the enclave
    is not in debug mode. Nothing is fetched before this step passes, so that unauthenticated clients cannot trigger
    collateral downloads.
 9. The broker fetches the collateral.
10. The quote and the collateral verify. The collateral is not older than any collateral accepted before.
11. The broker stores the evaluation number of the collateral.
12. The verified claims satisfy the reference values and the policy of the release.
13. The broker loads the key from the keystore.
14. One writing transaction repeats steps 7 and 12 and appends the audit row. The repetition is necessary, because the
    owner may meanwhile have revoked the release, changed its policy or withdrawn the platform. The transaction commits.
15. The broker sends the key.

The broker does not interpret evidence. Steps 4, 8, 9 and 10, and the reference values in step 12, belong to the
verifier (`sealserve.attestation.evidence`).

A failure of any step is a refusal. These records are written:

- Each released key has its own audit row, committed before the key is sent. If the row cannot be written, the broker
  does not send the key.
- A refusal at step 5 or later has a quote and produces an audit row with its code. So that unauthenticated clients
  cannot fill the disk, each network has a limited number of rows. Further refusals are only counted. A row with the
  code ``several`` contains the number of refusals for each code. One such row is written before the next row
  of any peer. When the broker stops, it writes all outstanding rows.
- A refusal before step 5 (TLS, request, certificate) also produces a row, because it may come from an honest enclave.
  Any client can cause such refusals just by connecting. Therefore these rows have a separate, much lower limit, and
  they never use up the limit of the rows above. Silent, slow and disconnected peers, and refusals because the broker
  is busy, appear only in the log.
- Each refusal also produces a log line, limited and counted in the same way.
"""

import contextlib
import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection

from sealserve.attestation.claims import Claims
from sealserve.attestation.evidence import Evidence, Verifier
from sealserve.attestation.policy import appraise
from sealserve.attestation.ra_tls import check_binding, parse_certificate
from sealserve.broker import audit, platforms, releases
from sealserve.broker.audit import Decision, Entry, Head
from sealserve.broker.database import Database, reading
from sealserve.broker.keystore import Keystore
from sealserve.broker.limiter import Limiter, Rate, Tally
from sealserve.broker.metrics import Decisions, Outcome
from sealserve.broker.standing import check_standing
from sealserve.errors import SealserveError, UnavailableError
from sealserve.secret import SecretBytes
from sealserve.terms import PlatformKind

_LOG: Final = logging.getLogger(__name__)
_ROWS_PER_HEAD: Final = 64

SEVERAL: Final = "several"
"""The code of an audit row that summarizes several refusals. Its detail contains their number, network and codes."""

ROWS_OF_EACH: Final = Rate(burst=60, seconds=60)
ROWS_OF_ALL: Final = Rate(burst=600, seconds=5)  # at most about 17,000 rows a day, or 15 MB
EARLY_ROWS_OF_EACH: Final = Rate(burst=10, seconds=600)
EARLY_ROWS_OF_ALL: Final = Rate(burst=100, seconds=60)  # at most 1,540 rows a day
"""Limit for refusals without a quote, which any client can cause."""

LINES_OF_EACH: Final = Rate(burst=60, seconds=10)
LINES_OF_ALL: Final = Rate(burst=600, seconds=1)


class BrokerInternalError(SealserveError):
    """An unexpected error inside the broker. The broker's log contains the traceback."""

    code = "internal"


@dataclass(slots=True)
class _Trace:
    """The facts known so far about a request, for its audit row."""

    peer: str
    platform: PlatformKind | None = None
    release: releases.Release | None = None
    quote_digest: str | None = None
    evidence: Evidence | None = None
    claims: Claims | None = None

    def entry(self, time: datetime, decision: Decision, code: str, detail: str = "") -> Entry:
        return Entry(
            time=time,
            peer=self.peer,
            decision=decision,
            code=code,
            detail=detail,
            release_id=self.release.release_id if self.release else None,
            platform=self.platform,
            mr_enclave=self.evidence.measurement.hex() if self.evidence else None,
            mr_signer=self.evidence.signer.hex() if self.evidence else None,
            platform_id=self.claims.platform_id if self.claims else None,
            tcb_status=self.claims.tcb_status if self.claims else None,
            advisories=",".join(sorted(self.claims.advisory_ids)) if self.claims else None,
            quote_digest=self.quote_digest,
        )


def _judge(claims: Claims, match: releases.Match, enrolled: frozenset[str]) -> None:
    # Is this the enclave that the owner built? The measurement alone would also accept the same code in debug mode.
    with reading("reference_values"):
        claims.check_reference(match.reference.values)
    # Does the owner's policy accept the enclave and its platform?
    appraise(claims, match.release.policy, enrolled=enrolled)


def _next_owed(owed: contextlib.ExitStack, limiter: Limiter) -> Tally | None:
    return owed.enter_context(limiter.owed())


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Broker:
    """Decides on requests for release keys. Several threads may use it at the same time.

    Args:
        database: The database with releases, keys and the audit log.
        keystore: Decrypts the release keys.
        verifier: Verifies evidence.
        signer: Signs the head of the audit log periodically. `None` leaves signing to `sealserve broker log`.
        keep: Called with each signed head, to store it outside the database. A failure is logged and otherwise ignored.
        clock: Returns the time on the owner's clock.
    """

    def __init__(
        self,
        *,
        database: Database,
        keystore: Keystore,
        verifier: Verifier,
        signer: Ed25519PrivateKey | None = None,
        keep: Callable[[Head], None] | None = None,
        clock: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._database = database
        self._keystore = keystore
        self._verifier = verifier
        self._signer = signer
        self._keep = keep
        self._keeping = threading.Lock()
        self._clock = clock
        self.decisions = Decisions()
        """The number of decisions so far, by outcome and code."""
        self._rows = Limiter(each=ROWS_OF_EACH, together=ROWS_OF_ALL)
        self._early_rows = Limiter(each=EARLY_ROWS_OF_EACH, together=EARLY_ROWS_OF_ALL)
        self._lines = Limiter(each=LINES_OF_EACH, together=LINES_OF_ALL)

    def release_key(self, certificate: bytes, *, peer: str) -> SecretBytes:
        """Appraise the evidence of a peer, record the decision in the audit log, and return the release key.

        Args:
            certificate: The peer's RA-TLS certificate, DER. TLS has proved that the peer holds its private key.
            peer: The peer's address and port.

        Raises:
            SealserveError: The broker refuses the request. The module's docstring lists the records of a refusal.
        """
        trace = _Trace(peer)
        try:
            return self._appraise(certificate, trace)
        except SealserveError as error:
            self._refuse(trace, error)
            raise
        except Exception as error:
            _LOG.exception("internal error while appraising the evidence of %s", peer)
            internal = BrokerInternalError(
                f"The broker failed with an internal error ({type(error).__name__}).",
                hint="Read the broker's log for the traceback.",
            )
            self._refuse(trace, internal)
            raise internal from error

    def turn_away(self, error: SealserveError, *, peer: str) -> None:
        """Record that ``peer`` got no key because of ``error``, which occurred before its evidence was read."""
        self._refuse(_Trace(peer), error)

    def settle(self) -> None:
        """Write all counted but unwritten refusals and sign the audit log's head. Called before the broker ends."""
        # Write the outstanding counts as log lines.
        while self._log_owed():
            pass
        # Write the outstanding counts as audit rows, in one transaction. If it fails, the counts are restored.
        with contextlib.ExitStack() as owed:
            tallies = [
                tally
                for limiter in (self._rows, self._early_rows)
                for tally in iter(partial(_next_owed, owed, limiter), None)
            ]
            with self._transaction() as log:
                for tally in tallies:
                    log.append(_tally_entry(tally, self._clock()))
        self.sign_head()

    def sign_head(self) -> None:
        """Sign the head of the audit log, if a signer is configured."""
        if self._signer is not None:
            with self._database.write() as connection:
                head = audit.sign_head(connection, self._signer, now=self._clock())
            self._keep_head(head)

    def _appraise(self, certificate: bytes, trace: _Trace) -> SecretBytes:
        # 3. Read the evidence in the certificate. The digest is recorded even if the quote does not parse.
        carried = parse_certificate(certificate)
        trace.quote_digest = hashlib.sha256(carried.quote).hexdigest()
        # 4. Parse the quote once for all steps.
        trace.evidence = evidence = self._verifier.read(carried.quote)
        # 5. Reject a quote that was copied from another certificate.
        check_binding(carried, evidence.report_data)
        # 6. Find the release.
        with self._database.read() as connection:
            match = releases.lookup(connection, evidence.measurement)
            enrolled = platforms.enrolled(connection, match.release.platform)
        trace.release, trace.platform = release, platform = match.release, match.release.platform
        # 7. Check the state of the release before any expensive step.
        check_standing(release.state, release.deadline, self._clock())
        # 8. Run all checks that need no network.
        screened = evidence.screen(platform)
        # 9. Fetch the collateral.
        endorsed = screened.endorse()
        # 10. Read the floor after the download, because another request may have raised it meanwhile. Then verify.
        with self._database.read() as connection:
            floor = platforms.evaluation_floor(connection, screened.root)
        trace.claims = claims = endorsed.verify(now=self._clock(), minimum_evaluation_number=floor)
        # 11. Store the evaluation number of the genuine collateral, independently of the policy's result.
        if (number := claims.tcb_evaluation_data_number) > floor:
            with self._database.write() as connection:
                platforms.raise_evaluation_floor(connection, screened.root, platform, number, now=self._clock())
        # 12. Check the reference values and the policy.
        _judge(claims, match, enrolled)
        # 13. Load the key.
        with self._database.read() as connection:
            key = self._keystore.load(connection, release.key_id)
        # 14. Commit the audit row. On failure the key is wiped. The caller performs step 15.
        try:
            self._grant(trace, claims)
        except BaseException:
            key.wipe()
            raise
        return key

    def _grant(self, trace: _Trace, claims: Claims) -> None:
        with self._writing(trace.peer, self._rows) as log:
            # Writing transactions do not overlap, so these checks still hold when the row is committed.
            now = self._clock()
            current = releases.lookup(log.connection, claims.measurement)
            release = current.release
            check_standing(release.state, release.deadline, now)
            _judge(claims, current, platforms.enrolled(log.connection, release.platform))
            log.append(trace.entry(now, Decision.RELEASED, "ok"))
        self.decisions.count(Outcome.RELEASED)
        _LOG.info(
            "released the key of %s (%s, %s) to %s", release.name, release.release_id[:12], release.platform, trace.peer
        )

    def _refuse(self, trace: _Trace, error: SealserveError) -> None:
        self.decisions.count(Outcome.REFUSED if trace.evidence else Outcome.TURNED_AWAY, error.code)
        self._log_refusal(trace.peer, error)
        if trace.evidence is None and isinstance(error, UnavailableError):
            return  # the peer is silent or gone, for example a port scan
        # Any client can cause a refusal without evidence, so such rows have a separate, much lower limit.
        limiter = self._early_rows if trace.evidence is None else self._rows
        if not limiter.admit(trace.peer, error.code, self._clock()):
            return
        try:
            with self._writing(trace.peer, limiter) as log:
                log.append(trace.entry(self._clock(), Decision.REFUSED, error.code, error.message))
        except SealserveError as failure:  # the refusal stands; the log line above is then its only record
            _LOG.error("the refusal of %s could not be written to the audit log: %s", trace.peer, failure.message)

    def _log_refusal(self, peer: str, error: SealserveError) -> None:
        if self._lines.admit(peer, error.code, self._clock()):
            self._log_owed(peer)
            _LOG.warning("refused %s: [%s] %s", peer, error.code, audit.clean(error.message))

    def _log_owed(self, peer: str | None = None) -> bool:
        with self._lines.owed(peer) as tally:
            if tally is not None:
                _LOG.warning("%s", tally)
            return tally is not None

    @contextlib.contextmanager
    def _writing(self, peer: str, limiter: Limiter) -> Iterator["_Log"]:
        with limiter.owed(peer) as tally, self._transaction() as log:
            if tally is not None:
                log.append(_tally_entry(tally, self._clock()))
            yield log

    @contextlib.contextmanager
    def _transaction(self) -> Iterator["_Log"]:
        with self._database.write() as connection:
            log = _Log(connection, self._signer)
            yield log
        if log.head is not None:  # after the commit, so that the chain certainly has this end
            self._keep_head(log.head)

    def _keep_head(self, head: Head) -> None:
        if self._keep is None:
            return
        try:
            with self._keeping:
                self._keep(head)
        except (SealserveError, OSError) as error:  # the log itself is intact: the broker continues
            _LOG.error(
                "the head of the audit log at row %d could not be stored outside the database: %s", head.seq, error
            )


class _Log:
    """The audit log in one writing transaction, and the head that was signed in it, if any."""

    def __init__(self, connection: Connection, signer: Ed25519PrivateKey | None) -> None:
        self.connection = connection
        self.head: Head | None = None
        self._signer = signer

    def append(self, entry: Entry) -> None:
        row = audit.append(self.connection, entry)
        if self._signer is not None and row.seq % _ROWS_PER_HEAD == 0:
            self.head = audit.sign_head(self.connection, self._signer, now=entry.time)


def _tally_entry(tally: Tally, now: datetime) -> Entry:
    return Entry(time=now, peer=tally.network, decision=Decision.REFUSED, code=SEVERAL, detail=str(tally))
