"""The registered releases, their reference values, and their states: active, draining, revoked.

The functions take the connection of a transaction that the caller opened. A change and its audit row are therefore one
transaction. The caller appends the audit row first, because the tag of a changed row names it
(`sealserve.broker.row_authentication`).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, NewType, Self

from sqlalchemy import Connection, bindparam, exists, select

from sealserve.attestation.claims import Measurement
from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.evidence import ReferenceValues
from sealserve.attestation.policy import AppraisalPolicy
from sealserve.attestation.secret_provisioning import SecretForm
from sealserve.broker import prepared, row_authentication
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import reading
from sealserve.broker.keystore import KeyId
from sealserve.broker.prepared import Prepared
from sealserve.broker.standing import ReleaseState
from sealserve.broker.stored_time import from_text, to_text
from sealserve.broker.tables import REFERENCE_VALUES, RELEASES
from sealserve.broker.wanted_row import check_wanted
from sealserve.errors import InputError, VerificationError
from sealserve.terms import PlatformKind

ReleaseId = NewType("ReleaseId", str)
"""SHA-256 of a release's index, as hex."""

PRODUCT_LABEL: Final = "dangerous-signer"
"""The label of reference values that accept each enclave of a product."""

_RELEASE_ID: Final = re.compile(r"[0-9a-f]{64}")
_SHORTEST_PREFIX: Final = 6
_IN_BOTH_TABLES: Final = frozenset({"changed", "tag"})


def _in_join(column: str) -> str:
    """Return the name of a column of the reference values in the result of `lookup`."""
    return f"reference_{column}" if column in _IN_BOTH_TABLES else column


_REFERENCE_COLUMNS: Final = tuple((column.name, _in_join(column.name)) for column in REFERENCE_VALUES.c)


class ReleaseUnknownError(InputError):
    """No release with this name or id is registered with the broker."""

    code = "broker.release-unknown"


class ReleaseAmbiguousError(InputError):
    """The given name or id prefix matches several registered releases."""

    code = "broker.release-ambiguous"


# The statements of each key release. They are built once, because building one takes longer than its execution.
_SAME_KEY: Final = RELEASES.alias()
_BY_MEASUREMENT: Final = Prepared(
    select(
        RELEASES,
        *(column.label(_in_join(column.name)) for column in REFERENCE_VALUES.c if column.name != "release_id"),
        exists()
        .where(_SAME_KEY.c.key_id == RELEASES.c.key_id, _SAME_KEY.c.state == ReleaseState.REVOKED)
        .label("key_revoked"),
    )
    .join(REFERENCE_VALUES, REFERENCE_VALUES.c.release_id == RELEASES.c.release_id)
    .where(REFERENCE_VALUES.c.measurement == bindparam("measurement"))
)


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
        secret_form: The form in which enclaves receive the key.
    """

    release_id: ReleaseId
    name: str
    platform: PlatformKind
    key_id: KeyId
    policy: AppraisalPolicy
    created: datetime
    state: ReleaseState = ReleaseState.ACTIVE
    deadline: datetime | None = None
    secret_form: SecretForm = SecretForm.RAW

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
    row = _known_row(connection, release_id)
    require_not_final(from_row(row))
    row_authentication.put(connection, RELEASES, {**row, "state": ReleaseState.DRAINING, "deadline": to_text(deadline)})
    return get(connection, release_id)


def revoke(connection: Connection, release_id: ReleaseId) -> Release:
    """Revoke a release permanently. Enclaves no longer receive its key. Running enclaves retain the key they have.

    Raises:
        ReleaseUnknownError: The release is not registered.
    """
    row = _known_row(connection, release_id)
    row_authentication.put(connection, RELEASES, {**row, "state": ReleaseState.REVOKED, "deadline": None})
    return get(connection, release_id)


def with_same_key(connection: Connection, release: Release) -> list[Release]:
    """Return the other releases with the key of ``release`` that are not revoked."""
    query = select(RELEASES).where(RELEASES.c.key_id == release.key_id, RELEASES.c.release_id != release.release_id)
    found = [_verified(connection, row) for row in prepared.rows(connection, query)]
    return [other for other in map(from_row, found) if other.state is not ReleaseState.REVOKED]


@reading("releases")
def lookup(connection: Connection, measurement: Measurement, product: Measurement | None = None) -> Match:
    """Return the release of the enclave with this measurement, in any state.

    If no release has this measurement, return the release that accepts each enclave of ``product``, if there is one.

    The release also counts as revoked if another release with the same key is revoked: revocation applies to the key.

    Raises:
        VerificationError: `policy.mr-enclave-unknown` if no registered release has this measurement.
    """
    row = prepared.first(connection, _BY_MEASUREMENT, measurement=measurement.hex())
    if row is None and product is not None:
        return _lookup_product(connection, measurement, product)
    if row is None:
        raise AttestationCode.POLICY_MR_ENCLAVE_UNKNOWN.error(
            f"No registered release has an enclave with MRENCLAVE {measurement.hex()}.",
            hint="Run `sealserve broker releases` and compare. A changed manifest or release changes the MRENCLAVE.",
        )
    _verified(connection, row)
    reference = {name: row[in_join] for name, in_join in _REFERENCE_COLUMNS}
    check_wanted(REFERENCE_VALUES, reference, measurement=measurement.hex())
    row_authentication.verify(connection, REFERENCE_VALUES, reference)
    release = from_row(row)
    if row["key_revoked"]:
        release = replace(release, state=ReleaseState.REVOKED, deadline=None)
    return Match(release=release, reference=_reference(reference))


def _lookup_product(connection: Connection, measurement: Measurement, product: Measurement) -> Match:
    try:
        match = lookup(connection, product)
    except VerificationError as error:
        if error.code == BrokerCode.DATABASE_AUTHENTICATION:
            raise
        return lookup(connection, measurement)  # the error names the enclave's own measurement
    if match.reference.label != PRODUCT_LABEL:  # a measurement that has the form of a product
        return lookup(connection, measurement)
    return match


@reading("releases")
def get(connection: Connection, release_id: ReleaseId) -> Release:
    """Return the release with exactly this id.

    Raises:
        ReleaseUnknownError: The release is not registered.
    """
    return from_row(_known_row(connection, release_id))


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
    query = select(RELEASES).where(condition).order_by(RELEASES.c.release_id).limit(2)
    rows = prepared.rows(connection, query)
    if not rows:
        raise unknown(name_or_id)
    if len(rows) > 1:
        raise ReleaseAmbiguousError(
            f"{name_or_id!r} matches several releases, for example {rows[0]['release_id']}.",
            hint="Specify more digits of the id.",
        )
    found = rows[0]
    if found["name"] != name_or_id and not str(found["release_id"]).startswith(name_or_id):
        check_wanted(RELEASES, found, name=name_or_id)
    return from_row(_verified(connection, found))


@reading("releases")
def every(connection: Connection) -> list[Release]:
    """Return all releases, oldest first."""
    rows = prepared.rows(connection, select(RELEASES).order_by(RELEASES.c.created, RELEASES.c.release_id))
    return [from_row(_verified(connection, row)) for row in rows]


@reading("releases")
def references_of(connection: Connection, release_id: ReleaseId) -> list[Reference]:
    """Return the reference values of a release, sorted by label."""
    query = select(REFERENCE_VALUES).where(REFERENCE_VALUES.c.release_id == release_id)
    query = query.order_by(REFERENCE_VALUES.c.label, REFERENCE_VALUES.c.measurement)
    rows = prepared.rows(connection, query)
    for row in rows:
        check_wanted(REFERENCE_VALUES, row, release_id=release_id)
        row_authentication.verify(connection, REFERENCE_VALUES, row)
    return [_reference(row) for row in rows]


def unknown(name_or_id: str) -> ReleaseUnknownError:
    """Return the error for a release that is not registered."""
    return ReleaseUnknownError(
        f"The release {name_or_id!r} is not registered with the broker.",
        hint="Run `sealserve broker releases` to list the registered releases.",
    )


def row_of(connection: Connection, release_id: str) -> dict[str, Any] | None:
    """Return the verified row of a release, or None if it is not registered."""
    row = prepared.first(connection, select(RELEASES).where(RELEASES.c.release_id == release_id))
    if row is None:
        return None
    check_wanted(RELEASES, row, release_id=release_id)
    return _verified(connection, row)


def _known_row(connection: Connection, release_id: ReleaseId) -> dict[str, Any]:
    if (row := row_of(connection, release_id)) is None:
        raise unknown(release_id)
    return row


def _verified(connection: Connection, row: dict[str, Any]) -> dict[str, Any]:
    row_authentication.verify(connection, RELEASES, row)
    return row


def reference_to_row(release: Release, reference: Reference) -> dict[str, Any]:
    """Return the columns of reference values, without their authentication."""
    return {
        "measurement": reference.measurement.hex(),
        "release_id": release.release_id,
        "label": reference.label,
        "reference": reference.values,
    }


def require_not_final(release: Release) -> None:
    """Check that a release is not revoked.

    Raises:
        InputError: `broker.release-final`: It is revoked.
    """
    if release.state is ReleaseState.REVOKED:
        raise BrokerCode.RELEASE_FINAL.error(
            f"The release {release.name} ({release.release_id}) is revoked. Revocation is permanent.",
            hint="Run `sealserve release build` to build a new release with its own key.",
        )


def to_row(release: Release) -> dict[str, Any]:
    """Return the columns of a release, without their authentication."""
    return {
        "release_id": release.release_id,
        "name": release.name,
        "platform": release.platform,
        "key_id": release.key_id,
        "state": release.state,
        "deadline": None if release.deadline is None else to_text(release.deadline),
        "policy": release.policy.to_json(),
        "created": to_text(release.created),
        "secret_form": None if release.secret_form is SecretForm.RAW else release.secret_form,
    }


def from_row(row: Mapping[str, Any]) -> Release:
    """Return the release in a row that was verified."""
    with reading("releases"):
        return Release(
            release_id=ReleaseId(row["release_id"]),
            name=row["name"],
            platform=PlatformKind(row["platform"]),
            key_id=KeyId(row["key_id"]),
            policy=AppraisalPolicy.from_json(row["policy"]),
            created=from_text(row["created"]),
            state=ReleaseState(row["state"]),
            deadline=None if row["deadline"] is None else from_text(row["deadline"]),
            secret_form=SecretForm(row["secret_form"] or SecretForm.RAW),
        )


def _reference(row: Mapping[str, Any]) -> Reference:
    with reading("reference_values"):
        if not isinstance(row["reference"], str) or not isinstance(json.loads(row["reference"]), dict):
            raise TypeError("reference values must be a JSON object")
        measurement = Measurement(bytes.fromhex(row["measurement"]))
        return Reference(label=row["label"], measurement=measurement, values=row["reference"])
