"""The releases that the broker knows, their reference values, and their life: active, draining, revoked.

Functions here take the connection of a transaction that the caller opened, so that a change and its audit row are
one transaction.
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
    """The broker knows no such release."""

    code = "broker.release-unknown"


class ReleaseAmbiguousError(InputError):
    """A name or the beginning of an id fits several releases."""

    code = "broker.release-ambiguous"


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What the broker knows of a release.

    Args:
        release_id: The digest of its index.
        name: What people call it.
        platform: Its mark: for SGX machines, or simulated. It decides which root its quotes are verified against.
        key_id: Its key's name in the keystore.
        policy: The rules that an enclave and its platform must satisfy to get its key.
        created: When it was allowed first.
        state: Where it is in its life.
        deadline: The end of draining.
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
            raise ReleaseUnknownError(f"{self.release_id!r} is no release id: that is 64 lower-case hex digits.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The reference values of one enclave of a release, and what that enclave is called (``replica-0``).

    Args:
        label: The enclave's label.
        measurement: The measurement by which `lookup` finds the release.
        values: The values as JSON. Only the code of their kind of evidence reads them: `Claims.check_reference`.
    """

    label: str
    measurement: Measurement
    values: str

    @classmethod
    def of(cls, label: str, values: ReferenceValues) -> Self:
        """Return reference values as the database stores them."""
        return cls(label=label, measurement=values.measurement, values=values.to_json())


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """The release that a measurement belongs to, and the reference values of the enclave that has it."""

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
    """Let the enclaves described by ``references`` have the key of ``release``.

    A release that is known gets the further reference values; its state stays as it is, and so does its policy.

    Args:
        connection: A writing transaction.
        release: The release, active.
        references: Reference values by the enclave's label.
        reactivate: Make a known release active again if it is draining, with the policy of ``release``.
        keep_policy: That must be the policy that it is known with.

    Returns:
        The release as it is now.

    Raises:
        InputError: `policy.empty`: There are no reference values.
        InputError: `keystore.unknown-key`: The keystore does not hold its key.
        InputError: `broker.release-conflict`: It is known with another key or mark, or an MRENCLAVE belongs to another
            release.
        InputError: `broker.release-policy`: It is known with another policy, and is not to be re-activated with this
            one.
        InputError: `broker.release-final`: It is revoked, or a release that is revoked has the same key.
    """
    if not references:
        raise AttestationCode.POLICY_EMPTY.error(
            f"The release {release.name} names no enclave: nothing could have its key."
        )
    if connection.execute(select(KEYS.c.key_id).where(KEYS.c.key_id == release.key_id)).scalar() is None:
        raise BrokerCode.KEYSTORE_UNKNOWN_KEY.error(
            f"The keystore has no key {release.key_id}, which the release {release.name} names."
        )
    row = connection.execute(select(RELEASES).where(RELEASES.c.release_id == release.release_id)).first()
    if row is None:
        if (revoked := _revoked_with(connection, release.key_id)) is not None:
            raise BrokerCode.RELEASE_FINAL.error(
                f"The release {release.name} ({release.release_id}) names the key {release.key_id} of the release "
                f"{revoked}, which is revoked.",
                hint="Build a new release; it has a key of its own.",
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
    """Let a release end at ``deadline``: until then restarts and a roll-back still get its key.

    Raises:
        InputError: `broker.deadline`: ``deadline`` is not in the future.
        ReleaseUnknownError: There is no such release.
        InputError: `broker.release-final`: It is revoked.
    """
    if deadline <= now:
        raise BrokerCode.DEADLINE.error(
            f"The deadline {deadline.isoformat()} is over (it is {now.isoformat(timespec='seconds')}).",
            hint="Give a time in the future, or revoke the release.",
        )
    _check_not_final(get(connection, release_id))
    changes = {"state": ReleaseState.DRAINING, "deadline": to_text(deadline)}
    connection.execute(update(RELEASES).where(RELEASES.c.release_id == release_id).values(changes))
    return get(connection, release_id)


def revoke(connection: Connection, release_id: ReleaseId) -> Release:
    """End a release for good: no enclave gets its key from now on. Running ones keep what they have.

    Raises:
        ReleaseUnknownError: There is no such release.
    """
    get(connection, release_id)
    changes = {"state": ReleaseState.REVOKED, "deadline": None}
    connection.execute(update(RELEASES).where(RELEASES.c.release_id == release_id).values(changes))
    return get(connection, release_id)


@reading("releases")
def lookup(connection: Connection, measurement: Measurement) -> Match:
    """Return the release that has an enclave with this measurement, whatever its state.

    It is revoked as well if another release with the same key is: what is revoked is the key.

    Raises:
        VerificationError: `policy.mr-enclave-unknown`: There is none.
    """
    query = (
        select(RELEASES, *(column for column in REFERENCE_VALUES.c if column.name != "release_id"))
        .join(REFERENCE_VALUES, REFERENCE_VALUES.c.release_id == RELEASES.c.release_id)
        .where(REFERENCE_VALUES.c.measurement == measurement.hex())
    )
    row = connection.execute(query).first()
    if row is None:
        raise AttestationCode.POLICY_MR_ENCLAVE_UNKNOWN.error(
            f"No release has an enclave with MRENCLAVE {measurement.hex()}.",
            hint="Compare it with `sealserve broker releases`; a changed manifest or release changes it.",
        )
    release = _release(row)
    if _revoked_with(connection, release.key_id) is not None:
        release = replace(release, state=ReleaseState.REVOKED, deadline=None)
    return Match(release=release, reference=_reference(row))


def _revoked_with(connection: Connection, key_id: KeyId) -> str | None:
    """Return the name of a revoked release that has this key, if there is one."""
    query = select(RELEASES.c.name).where(RELEASES.c.key_id == key_id, RELEASES.c.state == ReleaseState.REVOKED)
    name: str | None = connection.execute(query.limit(1)).scalar()
    return name


@reading("releases")
def get(connection: Connection, release_id: ReleaseId) -> Release:
    """Return the release with exactly this id.

    Raises:
        ReleaseUnknownError: There is none.
    """
    row = connection.execute(select(RELEASES).where(RELEASES.c.release_id == release_id)).first()
    if row is None:
        raise _unknown(release_id)
    return _release(row)


def is_known(connection: Connection, release_id: ReleaseId) -> bool:
    """Return whether there is a release with this id."""
    query = select(RELEASES.c.release_id).where(RELEASES.c.release_id == release_id)
    return connection.execute(query).first() is not None


@reading("releases")
def find(connection: Connection, name_or_id: str) -> Release:
    """Return the release with this id, beginning of an id (at least 6 digits), or name.

    Raises:
        ReleaseUnknownError: There is none.
        ReleaseAmbiguousError: There are several.
    """
    condition = (RELEASES.c.release_id == name_or_id) | (RELEASES.c.name == name_or_id)
    if len(name_or_id) >= _SHORTEST_PREFIX:
        condition |= RELEASES.c.release_id.startswith(name_or_id, autoescape=True)
    rows = connection.execute(select(RELEASES).where(condition).order_by(RELEASES.c.release_id).limit(2)).all()
    if not rows:
        raise _unknown(name_or_id)
    if len(rows) > 1:
        raise ReleaseAmbiguousError(
            f"{name_or_id!r} fits several releases, {rows[0].release_id} among them.", hint="Give more of the id."
        )
    return _release(rows[0])


@reading("releases")
def every(connection: Connection) -> list[Release]:
    """Return all releases, oldest first."""
    rows = connection.execute(select(RELEASES).order_by(RELEASES.c.created, RELEASES.c.release_id))
    return [_release(row) for row in rows]


@reading("releases")
def references_of(connection: Connection, release_id: ReleaseId) -> list[Reference]:
    """Return a release's reference values, by label."""
    query = select(REFERENCE_VALUES).where(REFERENCE_VALUES.c.release_id == release_id)
    rows = connection.execute(query.order_by(REFERENCE_VALUES.c.label, REFERENCE_VALUES.c.measurement))
    return [_reference(row) for row in rows]


def _unknown(name_or_id: str) -> ReleaseUnknownError:
    return ReleaseUnknownError(
        f"The broker knows no release {name_or_id!r}.", hint="`sealserve broker releases` lists them."
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
        if dict(known) != row:  # a row that is written anew is another database, even if it says the same
            connection.execute(update(REFERENCE_VALUES).where(where).values(row))
    else:
        raise BrokerCode.RELEASE_CONFLICT.error(
            f"MRENCLAVE {row['measurement']} belongs to the release {known['release_id']} already.",
            hint="Each release has enclaves of its own: its id is measured. Build the enclave of this one.",
        )


def _check_same(known: Release, wanted: Release) -> None:
    _check_not_final(known)
    for field in ("name", "platform", "key_id"):
        if getattr(known, field) != getattr(wanted, field):
            raise BrokerCode.RELEASE_CONFLICT.error(
                f"The release {known.release_id} is known with {field} {getattr(known, field)}, "
                f"now it has {getattr(wanted, field)}.",
                hint="A release never changes. Build a new one.",
            )


def _check_policy(known: Release, wanted: Release) -> None:
    if known.policy != wanted.policy:
        raise BrokerCode.RELEASE_POLICY.error(
            f"The release {known.name} is known with {known.policy}, now it has {wanted.policy}.",
            hint="`sealserve broker allow --reactivate` changes it, and makes the release active if it is draining.",
        )


def _check_not_final(release: Release) -> None:
    if release.state is ReleaseState.REVOKED:
        raise BrokerCode.RELEASE_FINAL.error(
            f"The release {release.name} ({release.release_id}) is revoked, which is final.",
            hint="Build a new release; it has a key of its own.",
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
            raise TypeError("reference values are a JSON object")
        measurement = Measurement(bytes.fromhex(row.measurement))
        return Reference(label=row.label, measurement=measurement, values=row.reference)
