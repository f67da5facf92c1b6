"""The registration of a release and of its enclaves, so that these enclaves can receive the release's key.

As in `sealserve.broker.releases`, the caller opened the transaction and has already appended the audit row.
"""

from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection, bindparam, delete, select

from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.evidence import ReferenceValues
from sealserve.broker import prepared, releases, row_authentication, stored_key
from sealserve.broker.codes import BrokerCode
from sealserve.broker.keystore import KeyId
from sealserve.broker.releases import PRODUCT_LABEL, Reference, Release
from sealserve.broker.standing import ReleaseState
from sealserve.broker.tables import REFERENCE_VALUES, RELEASES
from sealserve.broker.wanted_row import check_wanted

_REVOKED_WITH_KEY: Final = (
    select(RELEASES.c.name)
    .where(RELEASES.c.key_id == bindparam("key_id"), RELEASES.c.state == ReleaseState.REVOKED)
    .limit(1)
)


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
    if not stored_key.is_release_key(connection, release.key_id):
        raise BrokerCode.KEYSTORE_UNKNOWN_KEY.error(
            f"The keystore does not contain the key {release.key_id} of the release {release.name}."
        )
    row = releases.row_of(connection, release.release_id)
    values = releases.to_row(release)
    if row is None:
        if (revoked := _revoked_with(connection, release.key_id)) is not None:
            raise BrokerCode.RELEASE_FINAL.error(
                f"The release {release.name} ({release.release_id}) cannot be registered: its key {release.key_id} "
                f"also belongs to the release {revoked}, which is revoked.",
                hint="Run `sealserve release build` to build a new release with its own key.",
            )
    else:
        known = releases.from_row(row)
        _check_same(known, release)
        if keep_policy or not reactivate:
            _check_policy(known, release)
            _check_secret_form(known, release)
        # Keep the columns that this call does not change.
        changed = ("state", "deadline", "policy", "secret_form") if reactivate else ()
        values = {**row, **{name: values[name] for name in changed}}
    fresh = [
        reference
        for label, given in references.items()
        if not _is_registered(connection, release, reference := Reference.of(label, given))
    ]
    if row is None or reactivate or fresh:  # rewriting an equal row would still change the database file
        row_authentication.put(connection, RELEASES, values)
    if reactivate and PRODUCT_LABEL not in references:  # the new policy replaces the acceptance of a product
        own = REFERENCE_VALUES.c.release_id == release.release_id
        connection.execute(delete(REFERENCE_VALUES).where(own, REFERENCE_VALUES.c.label == PRODUCT_LABEL))
    for reference in fresh:
        row_authentication.put(connection, REFERENCE_VALUES, releases.reference_to_row(release, reference))
    return releases.get(connection, release.release_id)


def _revoked_with(connection: Connection, key_id: KeyId) -> str | None:
    """Return the name of a revoked release with this key, or `None`."""
    name: str | None = connection.execute(_REVOKED_WITH_KEY, {"key_id": key_id}).scalar()
    return name


def _is_registered(connection: Connection, release: Release, reference: Reference) -> bool:
    """Return whether exactly these reference values are registered for the release."""
    row = releases.reference_to_row(release, reference)
    query = select(REFERENCE_VALUES).where(REFERENCE_VALUES.c.measurement == row["measurement"])
    known = prepared.first(connection, query)
    if known is None:
        return False
    check_wanted(REFERENCE_VALUES, known, measurement=row["measurement"])
    # A product belongs to the release that was registered last. Roll-outs register a release with the same product.
    if known["release_id"] != release.release_id and not reference.label == known["label"] == PRODUCT_LABEL:
        raise BrokerCode.RELEASE_CONFLICT.error(
            f"MRENCLAVE {row['measurement']} already belongs to the release {known['release_id']}.",
            hint="Build the enclaves of this release. The release id is measured, so releases cannot share enclaves.",
        )
    return all(known[name] == value for name, value in row.items())


def _check_same(known: Release, wanted: Release) -> None:
    releases.require_not_final(known)
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


def _check_secret_form(known: Release, wanted: Release) -> None:
    if known.secret_form != wanted.secret_form:
        raise BrokerCode.RELEASE_CONFLICT.error(
            f"The release {known.name} is registered with the secret form {known.secret_form}, but now has "
            f"{wanted.secret_form}.",
            hint="Run `sealserve broker allow --reactivate` to change the form. It also ends draining.",
        )
