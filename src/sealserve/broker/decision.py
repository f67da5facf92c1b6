"""The broker's decision: it appraises the evidence, commits one audit row, and only then releases the key.

The steps of a request, in order (1, 2 and 15 are in `sealserve.broker.server`):

 1. TLS handshake: the peer presents a certificate and proves that it holds the certificate's private key.
 2. The request is exactly the request of the secret provisioning protocol.
 3. The certificate carries evidence: a quote and its binding to the certificate's key.
 4. The quote parses, and its length is exact.
 5. The quote's report data is bound to the certificate's key.
 6. The measurement claimed by the quote selects the release. The release's signed platform kind selects the root
    certificate for the verification. The rows may come from an earlier request: `sealserve.broker.decision_state`
    explains why they never decide.
 7. The release is active, or draining before its deadline.
 8. The quote is from the kind of platform that the release is for, its certificates end at that root, and the enclave
    is not in debug mode. Nothing is fetched before this step passes, so that unauthenticated clients cannot trigger
    collateral downloads.
 9. The broker takes the collateral from its cache. Otherwise the request leaves its place among the appraisals during
    the download, so that a slow service delays only the requests that need it.
10. The quote and the collateral verify. The collateral is not older than any collateral accepted before.
11. The broker stores the evaluation number of the collateral.
12. The verified claims satisfy the reference values and the policy of the release. If the release requires manual
    approval, the owner has approved the platform (`sealserve.broker.approvals`).
13. The broker loads the key from the keystore. It leaves the broker in the form that the release requires.
14. One writing transaction reads the rows again, repeats steps 7 and 12 and appends the audit row. The repetition is
    necessary, because the owner may meanwhile have revoked the release, changed its policy or withdrawn the platform.
    If a row has changed that the other steps used, the request is appraised again. The transaction commits. Concurrent
    decisions share a transaction (`sealserve.broker.group_commit`).
15. The broker sends the key.

A request for an attestation result (`Broker.attest`) takes the same steps. It omits the approval and step 13, because
no key is loaded, and sends the signed result in step 15.

An enclave with its own TLS key (`Broker.provision`) takes the same steps with these differences:

 1. The peer presents no certificate.
 2. The broker sends a nonce, and receives a quote, a keyset and a certificate request for the TLS key
    (`sealserve.attestation.attest_conversation`).
 3. There is no certificate to read.
 5. The report data covers the broker's nonce, this TLS session and the keyset. The keyset names the release of step 6.
    The check is repeated after step 10, when the quote is verified.
13. The broker also loads the private key of the issuing CA. With the purpose ``renewal``, it loads no release key.
14. The row contains the digest of the keyset. The transaction also reads the release statement.
15. The broker sends the certificate, the attestation result, the collateral, the statement, and then the key.

The broker does not interpret evidence. Steps 4, 8, 9 and 10, and the reference values in step 12, belong to the
verifier (`sealserve.attestation.evidence`).

A failure of any step is a refusal. `sealserve.broker.decision_records` describes its records.
"""

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealserve.attestation.attest_conversation import PresentedEvidence
from sealserve.attestation.attest_messages import check_collateral
from sealserve.attestation.claims import Claims
from sealserve.attestation.evidence import Evidence, Verifier
from sealserve.attestation.policy import appraise
from sealserve.attestation.ra_tls import check_binding, parse_certificate
from sealserve.attestation.secret_provisioning import in_form
from sealserve.attestation.strict_document import SignedContent
from sealserve.broker import approvals, audit, platforms, statements
from sealserve.broker.appraised import Appraised, BrokerInternalError, Provisioned
from sealserve.broker.audit import AuditRow, Head
from sealserve.broker.audit_entry import Decision, Entry
from sealserve.broker.current_keystore import KeySource
from sealserve.broker.database import Database, reading
from sealserve.broker.decision_records import DecisionRecords, LogTransaction
from sealserve.broker.decision_state import DecisionState, DecisionStates, StateChangedError
from sealserve.broker.decision_trace import Trace
from sealserve.broker.limits import PlatformLimit, PlatformLimiter
from sealserve.broker.metrics import Decisions, Outcome, new_stage_times
from sealserve.broker.releases import Release
from sealserve.broker.stage_times import RequestTimes, Stage
from sealserve.broker.standing import check_standing
from sealserve.errors import SealserveError
from sealserve.log_line import fields
from sealserve.secret import SecretBytes

_LOG: Final = logging.getLogger(__name__)
Downloading = contextlib.AbstractContextManager[object]
"""A context in which a request waits for downloads. It may raise a `SealserveError` if too many requests wait."""


def _judge(claims: Claims, state: DecisionState) -> None:
    # Is this the enclave that the owner built? The measurement alone would also accept the same code in debug mode.
    with reading("reference_values"):
        claims.check_reference(state.match.reference.values)
    # Does the owner's policy accept the enclave and its platform?
    appraise(claims, state.match.release.policy, enrolled=state.enrolled)


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
        limit: The maximum numbers of keys and attestation results for a platform. `None` means no limit.
        clock: Returns the time on the owner's clock.
        name: The broker's name in its audit rows, which differs between brokers that share a database.
        notify: Called with each row after its commit, in order. It must neither wait nor raise an error.
        parts: The number of processes that share the limits on the records of refusals.
    """

    def __init__(
        self,
        *,
        database: Database,
        keystore: KeySource,
        verifier: Verifier,
        signer: Ed25519PrivateKey | None = None,
        keep: Callable[[Head], None] | None = None,
        limit: PlatformLimit | None = None,
        clock: Callable[[], datetime] = _utc_now,
        name: str | None = None,
        notify: Callable[[AuditRow], None] = lambda _: None,
        parts: int = 1,
    ) -> None:
        self._name = name
        self._database = database
        self._keystore = keystore
        self._verifier = verifier
        self._limiter = None if limit is None else PlatformLimiter(limit)
        self._clock = clock
        self.decisions = Decisions()
        """The number of decisions so far, by outcome and code."""
        self.stages = new_stage_times()
        """The durations of the stages of all requests."""
        self._states = DecisionStates(database)
        self._records = DecisionRecords(
            database=database, signer=signer, keep=keep, notify=notify, clock=clock, name=name, parts=parts
        )

    def release_key(
        self,
        certificate: bytes,
        *,
        peer: str,
        downloading: Callable[[], Downloading] = contextlib.nullcontext,
        appraised: Callable[[], None] = lambda: None,
        times: RequestTimes | None = None,
    ) -> SecretBytes:
        """Appraise the evidence of a peer, record the decision in the audit log, and return the release key.

        Args:
            certificate: The peer's RA-TLS certificate, DER. TLS has proved that the peer holds its private key.
            peer: The peer's address and port.
            downloading: Returns a context in which the request waits for downloads of collateral.
            appraised: Called when only the decision's row remains to be written. It may be called twice.
            times: Measures the stages of the request. The caller records them.

        Raises:
            SealserveError: The broker refuses the request. The module's docstring lists the records of a refusal.
        """
        trace = Trace(peer, times or self.stages.request(), self._name)
        with self._refusing(trace, appraised):
            return self._release(certificate, trace, downloading, appraised)

    def attest(
        self,
        certificate: bytes,
        *,
        peer: str,
        purpose: str,
        downloading: Callable[[], Downloading] = contextlib.nullcontext,
        appraised: Callable[[], None] = lambda: None,
    ) -> Appraised:
        """Appraise the evidence of a peer and record the decision in the audit log. No key is loaded.

        Args:
            certificate: The peer's RA-TLS certificate, as in `release_key`.
            peer: The peer's address and port.
            purpose: The detail of the audit row.
            downloading: As in `release_key`.
            appraised: As in `release_key`.

        Raises:
            SealserveError: The broker refuses the request. The module's docstring lists the records of a refusal.
        """
        trace = Trace(peer, self.stages.request(), self._name)
        with self._refusing(trace, appraised):
            evidence = self._read(certificate, trace)

            def steps(state: DecisionState) -> tuple[Appraised, DecisionState]:
                claims = self._appraise(evidence, state, trace, downloading)
                appraised()
                time, newest = self._grant(trace, claims, state, Decision.ATTESTED, detail=purpose)
                return trace.result(time, newest.match.release, claims), newest

            return self._states.perform(evidence, steps, reset=trace.reset)

    def provision(
        self,
        presented: PresentedEvidence,
        *,
        peer: str,
        detail: str,
        ready: Callable[[], None],
        downloading: Callable[[], Downloading] = contextlib.nullcontext,
        appraised: Callable[[], None] = lambda: None,
        times: RequestTimes | None = None,
    ) -> Provisioned:
        """Appraise an enclave with its own TLS key, and record the decision in the audit log.

        Args:
            presented: The evidence of the enclave.
            peer: The peer's address and port.
            detail: The detail of the audit row.
            ready: Called before the row is written. It raises an error if no certificate can be issued.
            downloading: As in `release_key`.
            appraised: As in `release_key`.
            times: As in `release_key`.

        Raises:
            SealserveError: The broker refuses the request. The module's docstring lists the records of a refusal.
        """
        trace = Trace(peer, times or self.stages.request(), self._name)
        with self._refusing(trace, appraised):
            # 4. Parse the quote. The digests are recorded even if it does not parse.
            trace.times.begin(Stage.CERTIFICATE)
            trace.quote_digest = hashlib.sha256(presented.quote).hexdigest()
            trace.public_key_digest = presented.keyset.tls_key_digest
            trace.evidence = evidence = self._verifier.read(presented.quote)
            trace.times.begin(Stage.DATABASE)

            def steps(state: DecisionState) -> tuple[Provisioned, DecisionState]:
                # 5, 6. Reject a quote of another session before any expensive step.
                trace.release = state.match.release
                presented.bind(report_data=evidence.report_data, release_id=state.match.release.release_id)
                claims = self._appraise(evidence, state, trace, downloading)
                return self._provide(
                    presented,
                    state,
                    trace,
                    evidence=evidence,
                    claims=claims,
                    detail=detail,
                    ready=ready,
                    appraised=appraised,
                )

            return self._states.perform(evidence, steps, reset=trace.reset)

    def _provide(
        self,
        presented: PresentedEvidence,
        state: DecisionState,
        trace: Trace,
        *,
        evidence: Evidence,
        claims: Claims,
        detail: str,
        ready: Callable[[], None],
        appraised: Callable[[], None],
    ) -> tuple[Provisioned, DecisionState]:
        """Perform steps 12 to 14 for an enclave with its own TLS key."""
        release, starts = state.match.release, presented.purpose == "start"
        # 5, 6. The quote is verified now, so its report data is the enclave's.
        bound = presented.bind(report_data=evidence.report_data, release_id=release.release_id)
        assert trace.endorsed is not None  # noqa: S101  # step 9 has set it
        collateral = check_collateral(trace.endorsed.collateral_members)
        # 12. Check the approval before a key is decrypted. A certificate also needs it, because it lets users in.
        trace.times.begin(Stage.KEYSTORE)
        self._check_approval(release, claims)
        # 13. Load the keys. No transaction is open while a key service decrypts them.
        ready()
        key = self._keystore.decrypt(state.key) if starts else None
        trace.times.begin(Stage.DATABASE)
        # 14. Commit the audit row. On failure the key is wiped. The caller performs step 15.
        found: list[SignedContent | None] = []

        def read(log: LogTransaction, current: Release) -> None:
            found.append(statements.find(log.connection, current.release_id))

        try:
            appraised()
            decision = Decision.RELEASED if starts else Decision.ATTESTED
            time, newest = self._grant(trace, claims, state, decision, approved=True, detail=detail, read=read)
        except BaseException:
            if key is not None:
                key.wipe()
            raise
        result = trace.result(time, newest.match.release, claims)
        provisioned = Provisioned(appraised=result, evidence=bound, collateral=collateral, statement=found[-1], key=key)
        return provisioned, newest

    @contextlib.contextmanager
    def _refusing(self, trace: Trace, appraised: Callable[[], None]) -> Iterator[None]:
        """Record each error as a refusal. An unexpected exception becomes a `BrokerInternalError`."""
        try:
            yield
        except SealserveError as error:
            appraised()
            self._refuse(trace, error)
            raise
        except Exception as error:
            appraised()
            _LOG.exception(
                "internal error while appraising the evidence of %s", trace.peer, extra=fields(peer=trace.peer)
            )
            internal = BrokerInternalError(
                f"The broker failed with an internal error ({type(error).__name__}).",
                hint="Read the broker's log for the traceback.",
            )
            self._refuse(trace, internal)
            raise internal from error

    def turn_away(self, error: SealserveError, *, peer: str) -> None:
        """Record that ``peer`` got no key because of ``error``, which occurred before its evidence was read."""
        self._refuse(Trace(peer, self.stages.request(), self._name), error)

    def settle(self) -> None:
        """Write all counted but unwritten refusals and sign the audit log's head. Called before the broker ends."""
        self._records.settle()

    def sign_head(self) -> None:
        """Sign the head of the audit log, if a signer is configured."""
        self._records.sign_head()

    def check_database(self) -> None:
        """Check that the database answers. The check is a read: it never delays the audit row of a key release.

        Raises:
            UnavailableError: `broker.database` if the database failed.
        """
        with self._database.read() as connection:
            audit.head(connection)

    def _release(
        self,
        certificate: bytes,
        trace: Trace,
        downloading: Callable[[], Downloading],
        appraised: Callable[[], None],
    ) -> SecretBytes:
        evidence = self._read(certificate, trace)

        def steps(state: DecisionState) -> tuple[SecretBytes, DecisionState]:
            release, claims = state.match.release, self._appraise(evidence, state, trace, downloading)
            trace.times.begin(Stage.KEYSTORE)
            # 12. Check the approval before the key is decrypted.
            self._check_approval(release, claims)
            # 13. Load the key. No transaction is open while a key service decrypts it.
            key = self._keystore.decrypt(state.key)
            trace.times.begin(Stage.DATABASE)
            # 14. Commit the audit row. On failure the key is wiped. The caller performs step 15.
            try:
                appraised()
                _, newest = self._grant(trace, claims, state, Decision.RELEASED, approved=True)
            except BaseException:
                key.wipe()
                raise
            return in_form(key, release.secret_form), newest

        return self._states.perform(evidence, steps, reset=trace.reset)

    def _read(self, certificate: bytes, trace: Trace) -> Evidence:
        """Perform steps 3 to 5."""
        trace.times.begin(Stage.CERTIFICATE)
        # 3. Read the evidence in the certificate. The digest is recorded even if the quote does not parse.
        carried = parse_certificate(certificate)
        trace.quote_digest = hashlib.sha256(carried.quote).hexdigest()
        trace.public_key_digest = carried.public_key_digest
        # 4. Parse the quote once for all steps.
        trace.evidence = evidence = self._verifier.read(carried.quote)
        # 5. Reject a quote that was copied from another certificate.
        check_binding(carried, evidence.report_data)
        trace.times.begin(Stage.DATABASE)
        return evidence

    def _appraise(
        self, evidence: Evidence, state: DecisionState, trace: Trace, downloading: Callable[[], Downloading]
    ) -> Claims:
        """Perform steps 7 to 12."""
        trace.reset()
        floors = state.floors
        trace.release, trace.platform = release, platform = state.match.release, state.match.release.platform
        # 7. Check the state of the release before any expensive step.
        check_standing(release.state, release.deadline, self._clock())
        # 8. Run all checks that need no network.
        trace.times.begin(Stage.CERTIFICATE)
        screened = evidence.screen(platform)
        trace.times.begin(Stage.COLLATERAL)
        # 9. Use cached collateral. Wait for a download only in the context for downloads.
        if (endorsed := screened.endorse_from_cache()) is None:
            with downloading():
                endorsed = screened.endorse()
            # Another request may have raised the floor during the download.
            with self._database.read() as connection:
                floors = platforms.floors(connection)
        trace.times.begin(Stage.VERIFICATION)
        trace.endorsed = endorsed
        # 10. Verify the quote, and reject collateral that is older than collateral seen before.
        trace.series = screened.series
        floor = floors.of(trace.series)
        trace.claims = claims = endorsed.verify(now=self._clock(), minimum_evaluation_number=floor)
        trace.times.begin(Stage.DATABASE)
        # 11. Store the evaluation number of the genuine collateral, independently of the policy's result.
        if (number := claims.tcb_evaluation_data_number) > floor:
            with self._database.write() as connection:
                platforms.raise_evaluation_floor(
                    connection, trace.series, platform, number, now=self._clock(), peer=trace.peer
                )
        # 12. Check the reference values and the policy.
        trace.times.begin(Stage.VERIFICATION)
        _judge(claims, state)
        return claims

    def _check_approval(self, release: Release, claims: Claims) -> None:
        """Check the approval of the platform, if the policy requires one, in a separate transaction."""
        if release.policy.manual_approval:
            with self._database.read() as connection:
                approvals.check(connection, release, claims.platform_id, now=self._clock())

    def _grant(
        self,
        trace: Trace,
        claims: Claims,
        used: DecisionState,
        decision: Decision,
        *,
        approved: bool = False,
        detail: str = "",
        read: Callable[[LogTransaction, Release], None] = lambda _log, _release: None,
    ) -> tuple[datetime, DecisionState]:
        """Perform step 14. Return the time of the decision, and the state as it was then.

        With ``approved``, the platform needs an approval, if the release's policy requires one. ``read`` reads further
        rows in the transaction. It may raise an error.
        """
        granted: list[tuple[datetime, DecisionState]] = []

        def prepare(log: LogTransaction) -> Entry:
            # Writing transactions do not overlap, so these checks still hold when the row is committed.
            now = self._clock()
            current = log.state(claims.measurement, claims.product)
            release = current.match.release
            check_standing(release.state, release.deadline, now)
            _judge(claims, current)
            if approved:
                approvals.check(log.connection, release, claims.platform_id, now=now)
            read(log, release)
            if self._limiter is not None:
                self._limiter.check(log.connection, claims.platform_id, now=now, decision=decision)
            # The appraisal used rows that were read before. Are they still valid?
            current.check_used(used, with_key=decision is Decision.RELEASED)
            if claims.tcb_evaluation_data_number < current.floors.of(trace.series):
                raise StateChangedError
            granted.append((now, current))
            return trace.entry(now, decision, "ok", detail)

        self._records.grant(trace.peer, prepare)
        now, newest = granted[0]
        if self._limiter is not None:
            self._limiter.note(claims.platform_id, decision, now=now)
        release = newest.match.release
        self.decisions.count(Outcome(decision))
        what = "released the key" if decision is Decision.RELEASED else "issued an attestation result"
        _LOG.info(
            "%s of %s (%s, %s) to %s",
            what,
            release.name,
            release.release_id[:12],
            release.platform,
            trace.peer,
            extra=fields(peer=trace.peer, code="ok", release=release.name, release_id=release.release_id),
        )
        return now, newest

    def _refuse(self, trace: Trace, error: SealserveError) -> None:
        self.decisions.count(Outcome.REFUSED if trace.evidence else Outcome.TURNED_AWAY, error.code)
        self._records.refuse(
            trace.peer,
            error,
            lambda now: trace.entry(now, Decision.REFUSED, error.code, error.message),
            evidence=trace.evidence is not None,
            release=trace.release,
        )
