"""The registered releases, their reference values, and their states: active, draining, revoked.

The functions take the connection of a transaction that the caller opened. A change and its audit row are therefore one
transaction.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, NewType, Self

from sqlalchemy import Connection, Row, insert, select, update

from sealserve.attestation.claims import Measurement
from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.evidence import ReferenceValues
from sealserve.attestation.policy import AppraisalPolicy
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import KEYS, REFERENCE_VALUES, RELEASES, from_text, reading, to_text
from sealserve.broker.keystore import KeyId
from sealserve.broker.standing import ReleaseState
from sealserve.errors import InputError
from sealserve.terms import PlatformKind

ReleaseId = NewType("ReleaseId", str)
"""SHA-256 of a release's index, as hex."""

_RELEASE_ID: Final = re.compile(r"[0-9a-f]{64}")
_SHORTEST_PREFIX: Final = 6


class ReleaseUnknownError(InputError):
    """No release with this name or id is registered with the broker."""

    code = "broker.release-unknown"


class ReleaseAmbiguousError(InputError):
    """The given name or id prefix matches several registered releases."""

    code = "broker.release-ambiguous"


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A registered release.

    Args:
        release_id: The digest of the release's index.
        name: The release's name.
        platform: The kind of platform: SGX, or simulated. It selects the root certificate that verifies the quotes.
        key_id: The id of the release's key in the keystore.
        policy: The rules that an enclave and its platform must satisfy to receive the key.
        created: The time of the first registration.
        state: The release's state.
        deadline: The end of draining. `None` unless the release is draining.
    """

    release_id: ReleaseId
    name: str
    platform: PlatformKind
    key_id: KeyId
    policy: AppraisalPolicy
    created: datetime
    state: ReleaseState = ReleaseState.ACTIVE
    deadline: datetime | None = None

    def __post_init__(self) -> None:
        if not _RELEASE_ID.fullmatch(self.release_id):
            raise ReleaseUnknownError(
                f"The release id is invalid: expected 64 lower-case hex digits, got {self.release_id!r}."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The reference values of one enclave of a release, and the label of that enclave (``replica-0``).

    Args:
        label: The enclave's label.
        measurement: The enclave's measurement. `lookup` finds the release with it.
        values: The values as JSON. Only the code for their kind of evidence reads them: `Claims.check_reference`.
    """

    label: str
    measurement: Measurement
    values: str

    @classmethod
    def of(cls, label: str, values: ReferenceValues) -> Self:
        """Return reference values in the form that the database stores."""
        return cls(label=label, measurement=values.measurement, values=values.to_json())


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A release found by a measurement, and the reference values of the enclave with that measurement."""

    release: Release
    reference: Reference


def allow(
    connection: Connection,
    release: Release,
    references: Mapping[str, ReferenceValues],
    *,
    reactivate: bool = False,
    keep_policy: bool = False,
) -> Release:
    """Permit the enclaves in ``references`` to receive the key of ``release``.

    If the release is already registered, the new reference values are added. Its state and policy do not change.

    Args:
        connection: A writing transaction.
        release: The release, in the active state.
        references: Reference values by the enclave's label.
        reactivate: Make a registered, draining release active again, with the policy of ``release``.
        keep_policy: Require that the policy equals the registered policy.

    Returns:
        The release in its new state.

    Raises:
        InputError: `policy.empty` if ``references`` is empty.
        InputError: `keystore.unknown-key` if the keystore does not contain the release's key.
        InputError: `broker.release-conflict` if the release is registered with a different name, platform or key, or if
            an MRENCLAVE belongs to another release.
        InputError: `broker.release-policy` if the release is registered with a different policy and ``reactivate`` is
            `False` or ``keep_policy`` is `True`.
        InputError: `broker.release-final` if the release is revoked, or if a revoked release has the same key.
    """
    if not references:
        raise AttestationCode.POLICY_EMPTY.error(
            f"The release {release.name} cannot be registered: it lists no enclaves that could receive its key."
        )
    if connection.execute(select(KEYS.c.key_id).where(KEYS.c.key_id == release.key_id)).scalar() is None:
        raise BrokerCode.KEYSTORE_UNKNOWN_KEY.error(
            f"The keystore does not contain the key {release.key_id} of the release {release.name}."
        )
    row = connection.execute(select(RELEASES).where(RELEASES.c.release_id == release.release_id)).first()
    if row is None:
        if (revoked := _revoked_with(connection, release.key_id)) is not None:
            raise BrokerCode.RELEASE_FINAL.error(
                f"The release {release.name} ({release.release_id}) cannot be registered: its key {release.key_id} "
                f"also belongs to the release {revoked}, which is revoked.",
                hint="Run `sealserve release build` to build a new release with its own key.",
            )
        connection.execute(insert(RELEASES).values(_release_row(release)))
    else:
        known = _release(row)
        _check_same(known, release)
        if keep_policy or not reactivate:
            _check_policy(known, release)
        if reactivate:
            changes = {"state": ReleaseState.ACTIVE, "deadline": None, "policy": release.policy.to_json()}
            connection.execute(update(RELEASES).where(RELEASES.c.release_id == release.release_id).values(changes))
    for label, values in references.items():
        _put_reference(connection, release, Reference.of(label, values))
    return get(connection, release.release_id)


def drain(connection: Connection, release_id: ReleaseId, *, deadline: datetime, now: datetime) -> Release:
    """Let a release expire at ``deadline``. Until then, the broker still releases its key for restarts and roll-backs.

    Raises:
        InputError: `broker.deadline` if ``deadline`` is not in the future.
        ReleaseUnknownError: The release is not registered.
        InputError: `broker.release-final` if the release is revoked.
    """
    if deadline <= now:
        raise BrokerCode.DEADLINE.error(
            f"The deadline {deadline.isoformat()} is in the past (the time is {now.isoformat(timespec='seconds')}).",
            hint="Specify a time in the future, or run `sealserve broker revoke` to end the release immediately.",
        )
    _check_not_final(get(connection, release_id))
    changes = {"state": ReleaseState.DRAINING, "deadline": to_text(deadline)}
    connection.execute(update(RELEASES).where(RELEASES.c.release_id == release_id).values(changes))
    return get(connection, release_id)


def revoke(connection: Connection, release_id: ReleaseId) -> Release:
    """Revoke a release permanently. Enclaves no longer receive its key. Running enclaves retain the key they have.

    Raises:
        ReleaseUnknownError: The release is not registered.
    """
    get(connection, release_id)
    changes = {"state": ReleaseState.REVOKED, "deadline": None}
    connection.execute(update(RELEASES).where(RELEASES.c.release_id == release_id).values(changes))
    return get(connection, release_id)


@reading("releases")
def lookup(connection: Connection, measurement: Measurement) -> Match:
    """Return the release of the enclave with this measurement, in any state.

    The release also counts as revoked if another release with the same key is revoked: revocation applies to the key.

    Raises:
        VerificationError: `policy.mr-enclave-unknown` if no registered release has this measurement.
    """
    query = (
        select(RELEASES, *(column for column in REFERENCE_VALUES.c if column.name != "release_id"))
        .join(REFERENCE_VALUES, REFERENCE_VALUES.c.release_id == RELEASES.c.release_id)
        .where(REFERENCE_VALUES.c.measurement == measurement.hex())
    )
    row = connection.execute(query).first()
    if row is None:
        raise AttestationCode.POLICY_MR_ENCLAVE_UNKNOWN.error(
            f"No registered release has an enclave with MRENCLAVE {measurement.hex()}.",
            hint="Run `sealserve broker releases` and compare. A changed manifest or release changes the MRENCLAVE.",
        )
    release = _release(row)
    if _revoked_with(connection, release.key_id) is not None:
        release = replace(release, state=ReleaseState.REVOKED, deadline=None)
    return Match(release=release, reference=_reference(row))


def _revoked_with(connection: Connection, key_id: KeyId) -> str | None:
    """Return the name of a revoked release with this key, or `None`."""
    query = select(RELEASES.c.name).where(RELEASES.c.key_id == key_id, RELEASES.c.state == ReleaseState.REVOKED)
    name: str | None = connection.execute(query.limit(1)).scalar()
    return name


@reading("releases")
def get(connection: Connection, release_id: ReleaseId) -> Release:
    """Return the release with exactly this id.

    Raises:
        ReleaseUnknownError: The release is not registered.
    """
    row = connection.execute(select(RELEASES).where(RELEASES.c.release_id == release_id)).first()
    if row is None:
        raise _unknown(release_id)
    return _release(row)


def is_known(connection: Connection, release_id: ReleaseId) -> bool:
    """Return whether a release with this id is registered."""
    query = select(RELEASES.c.release_id).where(RELEASES.c.release_id == release_id)
    return connection.execute(query).first() is not None


@reading("releases")
def find(connection: Connection, name_or_id: str) -> Release:
    """Return the release with this name, id or id prefix (at least 6 digits).

    Raises:
        ReleaseUnknownError: No release matches.
        ReleaseAmbiguousError: Several releases match.
    """
    condition = (RELEASES.c.release_id == name_or_id) | (RELEASES.c.name == name_or_id)
    if len(name_or_id) >= _SHORTEST_PREFIX:
        condition |= RELEASES.c.release_id.startswith(name_or_id, autoescape=True)
    rows = connection.execute(select(RELEASES).where(condition).order_by(RELEASES.c.release_id).limit(2)).all()
    if not rows:
        raise _unknown(name_or_id)
    if len(rows) > 1:
        raise ReleaseAmbiguousError(
            f"{name_or_id!r} matches several releases, for example {rows[0].release_id}.",
            hint="Specify more digits of the id.",
        )
    return _release(rows[0])


@reading("releases")
def every(connection: Connection) -> list[Release]:
    """Return all releases, oldest first."""
    rows = connection.execute(select(RELEASES).order_by(RELEASES.c.created, RELEASES.c.release_id))
    return [_release(row) for row in rows]


@reading("releases")
def references_of(connection: Connection, release_id: ReleaseId) -> list[Reference]:
    """Return the reference values of a release, sorted by label."""
    query = select(REFERENCE_VALUES).where(REFERENCE_VALUES.c.release_id == release_id)
    rows = connection.execute(query.order_by(REFERENCE_VALUES.c.label, REFERENCE_VALUES.c.measurement))
    return [_reference(row) for row in rows]


def _unknown(name_or_id: str) -> ReleaseUnknownError:
    return ReleaseUnknownError(
        f"The release {name_or_id!r} is not registered with the broker.",
        hint="Run `sealserve broker releases` to list the registered releases.",
    )


def _put_reference(connection: Connection, release: Release, reference: Reference) -> None:
    row = {
        "measurement": reference.measurement.hex(),
        "release_id": release.release_id,
        "label": reference.label,
        "reference": reference.values,
    }
    where = REFERENCE_VALUES.c.measurement == row["measurement"]
    known = connection.execute(select(REFERENCE_VALUES).where(where)).mappings().first()
    if known is None:
        connection.execute(insert(REFERENCE_VALUES).values(row))
    elif known["release_id"] == release.release_id:
        if dict(known) != row:  # rewriting an equal row would still change the database file
            connection.execute(update(REFERENCE_VALUES).where(where).values(row))
    else:
        raise BrokerCode.RELEASE_CONFLICT.error(
            f"MRENCLAVE {row['measurement']} already belongs to the release {known['release_id']}.",
            hint="Build the enclaves of this release. The release id is measured, so releases cannot share enclaves.",
        )


def _check_same(known: Release, wanted: Release) -> None:
    _check_not_final(known)
    for field in ("name", "platform", "key_id"):
        if getattr(known, field) != getattr(wanted, field):
            raise BrokerCode.RELEASE_CONFLICT.error(
                f"The release {known.release_id} is registered with {field} {getattr(known, field)}, "
                f"but now has {field} {getattr(wanted, field)}.",
                hint="Build a new release. The name, platform and key of a registered release cannot change.",
            )


def _check_policy(known: Release, wanted: Release) -> None:
    if known.policy != wanted.policy:
        raise BrokerCode.RELEASE_POLICY.error(
            f"The release {known.name} is registered with {known.policy}, but now has {wanted.policy}.",
            hint="Run `sealserve broker allow --reactivate` to change the policy. It also ends draining.",
        )


def _check_not_final(release: Release) -> None:
    if release.state is ReleaseState.REVOKED:
        raise BrokerCode.RELEASE_FINAL.error(
            f"The release {release.name} ({release.release_id}) is revoked. Revocation is permanent.",
            hint="Run `sealserve release build` to build a new release with its own key.",
        )


def _release_row(release: Release) -> dict[str, Any]:
    return {
        "release_id": release.release_id,
        "name": release.name,
        "platform": release.platform,
        "key_id": release.key_id,
        "state": release.state,
        "deadline": None if release.deadline is None else to_text(release.deadline),
        "policy": release.policy.to_json(),
        "created": to_text(release.created),
    }


def _release(row: Row[Any]) -> Release:
    with reading("releases"):
        return Release(
            release_id=ReleaseId(row.release_id),
            name=row.name,
            platform=PlatformKind(row.platform),
            key_id=KeyId(row.key_id),
            policy=AppraisalPolicy.from_json(row.policy),
            created=from_text(row.created),
            state=ReleaseState(row.state),
            deadline=None if row.deadline is None else from_text(row.deadline),
        )


def _reference(row: Row[Any]) -> Reference:
    with reading("reference_values"):
        if not isinstance(row.reference, str) or not isinstance(json.loads(row.reference), dict):
            raise TypeError("reference values must be a JSON object")
        measurement = Measurement(bytes.fromhex(row.measurement))
        return Reference(label=row.label, measurement=measurement, values=row.reference)
