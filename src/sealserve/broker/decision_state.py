"""The rows that decide on the requests of one enclave, and a cache of the rows of former requests.

An enclave's request is appraised with cached rows, so that it needs no reading transaction. Cached rows never cause a
key release. The transaction that writes the audit row reads all rows again, and repeats the checks with them. It
rejects the request if a row that the appraisal used has changed (`StateChangedError`).

Cached rows never cause a refusal either. After a refusal, the broker reads the rows, and appraises the request again
if they have changed. So a change of the owner, of another process or of another broker takes effect for the next
decision.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self, TypeVar

from sqlalchemy import Connection

from sealserve.attestation.claims import Measurement
from sealserve.attestation.evidence import Evidence
from sealserve.broker import platforms, releases, row_authentication, stored_key
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import Database
from sealserve.broker.platforms import Floors
from sealserve.broker.releases import Match
from sealserve.broker.stored_key import StoredKey
from sealserve.errors import SealserveError

_MAXIMUM: Final = 256
_MOST_ROWS: Final = 256  # with more enrolled platforms, each request reads them
_ATTEMPTS: Final = 3
Result = TypeVar("Result")


class StateChangedError(Exception):
    """A row that the appraisal used has changed before the audit row was written. The request is appraised again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionState:
    """The rows that decide on the requests of one enclave, as one transaction read them.

    Args:
        match: The release and the reference values.
        enrolled: The ids of the enrolled platforms, if the policy requires enrollment.
        floors: The evaluation floors.
        found: The encrypted key of the release, or the error of its search. Step 13 raises the error, in its order.
        rows: The rows of the platforms and of the floors.
        changes: The changes that the transaction read from the audit log.
    """

    match: Match
    enrolled: Collection[str] = field(compare=False)
    floors: Floors = field(compare=False)
    found: StoredKey | SealserveError
    rows: tuple[Mapping[str, Any], Mapping[str, Any]]
    changes: object = field(compare=False)

    @classmethod
    def read(cls, connection: Connection, measurement: Measurement, product: Measurement) -> Self:
        """Read the rows in a transaction.

        Raises:
            VerificationError: `policy.mr-enclave-unknown` if no registered release has this measurement.
        """
        match = releases.lookup(connection, measurement, product)
        enrolled: Collection[str] = frozenset()
        rows: Mapping[str, Any] = {}
        # Only a policy that requires enrollment reads the platforms.
        if match.release.policy.enrolled_platforms_only:
            enrolled = found_platforms = platforms.enrolled(connection, match.release.platform)
            rows = found_platforms.rows
        floors = platforms.floors(connection)
        found: StoredKey | SealserveError
        try:
            found = stored_key.find(connection, match.release.key_id)
        except SealserveError as error:
            found = error
        session = row_authentication.of(connection)
        return cls(
            match=match,
            enrolled=enrolled,
            floors=floors,
            found=found,
            rows=(rows, floors.rows),
            changes=None if session is None else session.newest_changes,
        )

    @property
    def key(self) -> StoredKey:
        """The encrypted key of the release.

        Raises:
            InputError: `keystore.unknown-key` if the keystore does not contain the key.
            VerificationError: `broker.database-content` if the row has content that sealserve never writes.
        """
        if isinstance(self.found, SealserveError):
            raise self.found
        return self.found

    def check_used(self, used: "DecisionState", *, with_key: bool) -> None:
        """Check that an appraisal with the state ``used`` is also valid with this state, which is newer.

        The caller repeats all checks of the policy with this state. This method compares the values that selected the
        root certificate, the key and its form.

        Raises:
            StateChangedError: A value has changed. The request must be appraised again.
        """
        now, then = self.match.release, used.match.release
        same = (now.release_id, now.platform, now.key_id, now.secret_form) == (
            then.release_id,
            then.platform,
            then.key_id,
            then.secret_form,
        )
        if not same or (with_key and self.found != used.found):
            raise StateChangedError


class DecisionStates:
    """Reads the states of enclaves, and remembers them. Several threads may use it.

    Only an enclave that received a key or an attestation result is remembered, so that clients cannot fill the memory.

    Args:
        database: The database.
        maximum: The maximum number of remembered states. The least recently used state is removed first.
    """

    def __init__(self, database: Database, maximum: int = _MAXIMUM) -> None:
        self._database = database
        self._maximum = maximum
        self._states: OrderedDict[tuple[Measurement, Measurement], DecisionState] = OrderedDict()
        self._changes: object = None
        self._lock = threading.Lock()

    def perform(
        self,
        evidence: Evidence,
        steps: Callable[[DecisionState], tuple[Result, DecisionState]],
        *,
        reset: Callable[[], None] = lambda: None,
    ) -> Result:
        """Appraise a request of an enclave, with the remembered state if possible.

        Args:
            evidence: The evidence of the enclave, which selects the rows.
            steps: Appraises the request and commits its audit row. It returns the result, and the state that the
                committed transaction read, which is then remembered. It is called again if the state has changed.
            reset: Called if the enclave's release is no longer known after a former appraisal.

        Raises:
            SealserveError: The request is refused.
        """
        subject = evidence.measurement, evidence.product
        # 1. Use the rows of an earlier request, if there are any. A refusal is valid only if they are still the same.
        refusal: SealserveError | StateChangedError | None = None
        if (used := self._remembered(subject)) is not None:
            try:
                result, newest = steps(used)
            except (SealserveError, StateChangedError) as error:
                refusal = error
            else:
                self._remember(subject, newest)
                return result
        # 2. Read the rows. A change between this read and the commit is rare, so few attempts are sufficient.
        for _ in range(_ATTEMPTS):
            try:
                with self._database.read() as connection:
                    state = DecisionState.read(connection, *subject)
            except SealserveError:
                self.forget(evidence)
                reset()
                raise
            # A forged quote must not make the broker forget the rows of the genuine enclave.
            if refusal is not None and not isinstance(refusal, StateChangedError) and state == used:
                raise refusal
            self.forget(evidence)
            try:
                result, newest = steps(state)
            except StateChangedError as error:
                refusal, used = error, state
            else:
                self._remember(subject, newest)
                return result
        raise BrokerCode.BUSY.error("The broker is busy: the release changed while the broker appraised its enclave.")

    def forget(self, evidence: Evidence) -> None:
        """Forget the state of an enclave."""
        with self._lock:
            self._states.pop((evidence.measurement, evidence.product), None)

    def _remembered(self, subject: tuple[Measurement, Measurement]) -> DecisionState | None:
        with self._lock:
            if (state := self._states.get(subject)) is not None:
                self._states.move_to_end(subject)
            return state

    def _remember(self, subject: tuple[Measurement, Measurement], state: DecisionState) -> None:
        if sum(map(len, state.rows)) > _MOST_ROWS:
            return
        with self._lock:
            # States refer to the changes that the log records, which are many. Keep one version of them.
            if state.changes is not self._changes:
                self._states.clear()
                self._changes = state.changes
            self._states[subject] = state
            self._states.move_to_end(subject)
            while len(self._states) > self._maximum:
                self._states.popitem(last=False)
