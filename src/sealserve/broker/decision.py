"""The broker's decision: evidence in, appraisal, one audit row, and only then a key.

The steps of a request, in order (1, 2 and 15 are in `sealserve.broker.server`):

 1. TLS handshake: the peer shows a certificate, and proves that it holds its key.
 2. The request is exactly that of the secret provisioning protocol.
 3. The certificate carries evidence: a quote, and what binds it to the certificate's key.
 4. The quote parses, with exact length.
 5. The quote's report data binds the certificate's key.
 6. The measurement that the quote claims selects the release, whose signed mark selects the root to verify against.
 7. The release is active, or draining before its deadline.
 8. The quote is from the kind of platform that the release is for, its certificates end at that root, and it is not of
    a debug enclave. Nothing is fetched before this step passes, so that unauthenticated clients cannot trigger
    collateral downloads.
 9. The collateral is fetched.
10. The quote and the collateral verify; the collateral is not older than any seen before.
11. The broker remembers how new the collateral was.
12. The verified claims satisfy the reference values and the policy of the release.
13. The key is taken from the keystore.
14. In one writing transaction: steps 7 and 12 again, since the owner may have revoked the release, changed its policy
    or withdrawn the platform meanwhile; and the audit row. The transaction is committed.
15. The key is sent.

The broker does not read evidence itself: steps 4, 8, 9, 10 and the reference values in 12 belong to the verifier
(`sealserve.attestation.evidence`).

Whatever fails refuses. What is written of it:

- A key that is released is always a row of its own, before the key leaves. If it cannot be written, no key leaves.
- A refusal from step 5 on, when there is a quote, is a row with its code. So that strangers cannot fill the disk, each
  network has so many rows and the others are counted: a row of code ``several`` says how many refusals of which codes
  it stands for. One such row goes before the next row that is written, whoever's, and all when the broker stops.
- A refusal before that (TLS, request, certificate) is a row too, since it may be an honest enclave's. Any stranger can
  cause such a refusal with a connection alone, so these rows have their own, much lower limit: they never take the
  places of the rows above. A peer that is silent, slow or gone, and a broker that is busy, are only in the log.
- The log has a line for each of them, limited and counted in the same way.
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
"""The code of an audit row that stands for several refusals; its detail says how many, whose and why."""

ROWS_OF_EACH: Final = Rate(burst=60, seconds=60)
ROWS_OF_ALL: Final = Rate(burst=600, seconds=5)  # at most some 17,000 a day, or 15 MB
EARLY_ROWS_OF_EACH: Final = Rate(burst=10, seconds=600)
EARLY_ROWS_OF_ALL: Final = Rate(burst=100, seconds=60)  # at most 1,540 a day
"""For refusals without a quote: anybody can cause them."""

LINES_OF_EACH: Final = Rate(burst=60, seconds=10)
LINES_OF_ALL: Final = Rate(burst=600, seconds=1)


class BrokerInternalError(SealserveError):
    """Something that the broker did not foresee; the log has it."""

    code = "internal"


@dataclass(slots=True)
class _Trace:
    """What is known so far, for the audit row."""

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
    # Is this the enclave that the owner built? A measurement alone would also admit the same code in debug mode.
    with reading("reference_values"):
        claims.check_reference(match.reference.values)
    # Does the owner's policy accept the enclave and its platform?
    appraise(claims, match.release.policy, enrolled=enrolled)


def _next_owed(owed: contextlib.ExitStack, limiter: Limiter) -> Tally | None:
    return owed.enter_context(limiter.owed())


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Broker:
    """Decides on requests for keys. Several threads may use it at once.

    Args:
        database: Releases, keys, audit log.
        keystore: The keys.
        verifier: Verifies evidence.
        signer: Signs the audit log's head from time to time; None leaves that to `sealserve broker log`.
        keep: Called with each signed head, to keep it outside the database. Its failure is logged and changes nothing.
        clock: The time on the owner's clock.
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
        """How it decided so far."""
        self._rows = Limiter(each=ROWS_OF_EACH, together=ROWS_OF_ALL)
        self._early_rows = Limiter(each=EARLY_ROWS_OF_EACH, together=EARLY_ROWS_OF_ALL)
        self._lines = Limiter(each=LINES_OF_EACH, together=LINES_OF_ALL)

    def release_key(self, certificate: bytes, *, peer: str) -> SecretBytes:
        """Return the release key for a peer, after its evidence was appraised and the decision is in the audit log.

        Args:
            certificate: The peer's RA-TLS certificate, DER; TLS has shown that the peer holds its key.
            peer: The peer's address and port.

        Raises:
            SealserveError: The refusal; what is written of it, see above.
        """
        trace = _Trace(peer)
        try:
            return self._appraise(certificate, trace)
        except SealserveError as error:
            self._refuse(trace, error)
            raise
        except Exception as error:
            _LOG.exception("an internal error while appraising %s", peer)
            internal = BrokerInternalError(f"An internal error ({type(error).__name__}); the broker's log has it.")
            self._refuse(trace, internal)
            raise internal from error

    def turn_away(self, error: SealserveError, *, peer: str) -> None:
        """Write down that ``peer`` got no key because of ``error``, which happened before its evidence was read."""
        self._refuse(_Trace(peer), error)

    def settle(self) -> None:
        """Write what is counted and not written yet, and sign the audit log's head: before the broker ends."""
        # The log lines that are counted and not written yet.
        while self._log_owed():
            pass
        # The audit rows, all in one transaction: a count that cannot be written stays owed.
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
        """Sign the audit log's head, if there is a signer."""
        if self._signer is not None:
            with self._database.write() as connection:
                head = audit.sign_head(connection, self._signer, now=self._clock())
            self._keep_head(head)

    def _appraise(self, certificate: bytes, trace: _Trace) -> SecretBytes:
        # 3. The evidence in the certificate. The digest is known even if the quote does not parse.
        carried = parse_certificate(certificate)
        trace.quote_digest = hashlib.sha256(carried.quote).hexdigest()
        # 4. The quote, parsed once for all steps.
        trace.evidence = evidence = self._verifier.read(carried.quote)
        # 5. A quote that was copied from another certificate ends here.
        check_binding(carried, evidence.report_data)
        # 6. The release.
        with self._database.read() as connection:
            match = releases.lookup(connection, evidence.measurement)
            enrolled = platforms.enrolled(connection, match.release.platform)
        trace.release, trace.platform = release, platform = match.release, match.release.platform
        # 7. Its standing, before anything costly.
        check_standing(release.state, release.deadline, self._clock())
        # 8. All checks that need no network.
        screened = evidence.screen(platform)
        # 9. The collateral.
        endorsed = screened.endorse()
        # 10. The floor is read after the download: another request may have raised it meanwhile.
        with self._database.read() as connection:
            floor = platforms.evaluation_floor(connection, screened.root)
        trace.claims = claims = endorsed.verify(now=self._clock(), minimum_evaluation_number=floor)
        # 11. The number of genuine collateral counts, whatever the policy decides.
        if (number := claims.tcb_evaluation_data_number) > floor:
            with self._database.write() as connection:
                platforms.raise_evaluation_floor(connection, screened.root, platform, number, now=self._clock())
        # 12. The reference values and the policy.
        _judge(claims, match, enrolled)
        # 13. The key.
        with self._database.read() as connection:
            key = self._keystore.load(connection, release.key_id)
        # 14. The audit row. Without it the key does not leave; the caller does step 15.
        try:
            self._grant(trace, claims)
        except BaseException:
            key.wipe()
            raise
        return key

    def _grant(self, trace: _Trace, claims: Claims) -> None:
        with self._writing(trace.peer, self._rows) as log:
            # Writing transactions do not overlap, so what holds here still holds when the row is committed.
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
            return  # the peer is silent or gone: a port scan or a probe, and nothing to judge
        # Anybody can cause a refusal without evidence, so such rows have a much lower limit of their own.
        limiter = self._early_rows if trace.evidence is None else self._rows
        if not limiter.admit(trace.peer, error.code, self._clock()):
            return
        try:
            with self._writing(trace.peer, limiter) as log:
                log.append(trace.entry(self._clock(), Decision.REFUSED, error.code, error.message))
        except SealserveError as failure:  # the refusal stands; the log above is all there is of it
            _LOG.error("the refusal of %s is not in the audit log: %s", trace.peer, failure.message)

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
        if log.head is not None:  # only now it is certain that the chain has this end
            self._keep_head(log.head)

    def _keep_head(self, head: Head) -> None:
        if self._keep is None:
            return
        try:
            with self._keeping:
                self._keep(head)
        except (SealserveError, OSError) as error:  # the log itself is whole: keys go on being released
            _LOG.error("the audit log's head at row %d is not kept outside the database: %s", head.seq, error)


class _Log:
    """The audit log in one writing transaction; the head that was signed in it, if any."""

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
