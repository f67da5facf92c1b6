"""Which rows an entry of the audit log changes: each row has a name, its subject."""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Table

from sealserve.broker.audit_entry import Decision, Entry
from sealserve.broker.tables import APPROVALS, EVALUATION_FLOOR, PLATFORMS, REFERENCE_VALUES, RELEASES, STATEMENTS

CHANGES: Final = frozenset(
    {
        Decision.ALLOWED,
        Decision.REACTIVATED,
        Decision.DRAINING,
        Decision.REVOKED,
        Decision.ENROLLED,
        Decision.WITHDRAWN,
        Decision.FLOOR_RAISED,
        Decision.APPROVED,
        Decision.APPROVAL_REMOVED,
        Decision.STATED,
        Decision.AUTHENTICATED,
    }
)
"""The decisions that change a row of an authenticated table."""

KEPT: Final = CHANGES | {Decision.ISSUING_KEY_ROTATED, Decision.TOKEN_KEY_ROTATED}
"""The decisions after which the end of the log is stored outside of the database: all except those about a peer."""

_SUBJECTS: Final[Mapping[Table, tuple[str, ...]]] = {
    RELEASES: ("release", "release_id"),
    REFERENCE_VALUES: ("enclave", "measurement"),
    PLATFORMS: ("platform", "platform", "platform_id"),
    EVALUATION_FLOOR: ("floor", "anchor"),
    APPROVALS: ("approval", "release_id", "platform_id"),
    STATEMENTS: ("statement", "release_id"),
}
"""The first word of the subject of a row, and the columns that follow it."""


def subject_of(table: Table, row: Mapping[str, Any]) -> str:
    """Return the name under which the audit log records changes of a row."""
    word, *names = _SUBJECTS[table]
    return " ".join((word, *(f"{row[name]}" for name in names)))


def subjects_of(entry: Entry) -> list[str]:
    """Return the subjects whose rows an entry of the audit log changes."""
    match entry.decision:
        case Decision.ALLOWED | Decision.REACTIVATED | Decision.DRAINING | Decision.REVOKED:
            enclave = [f"enclave {entry.mr_enclave}"] if entry.decision is Decision.ALLOWED else []
            return [f"release {entry.release_id}", *enclave]
        case Decision.WITHDRAWN if entry.mr_enclave is not None:
            return [f"enclave {entry.mr_enclave}"]
        case Decision.ENROLLED | Decision.WITHDRAWN:
            return [f"platform {entry.platform} {entry.platform_id}"]
        case Decision.APPROVED | Decision.APPROVAL_REMOVED:
            return [f"approval {entry.release_id} {entry.platform_id}"]
    other = {
        Decision.STATED: f"statement {entry.release_id}",
        Decision.FLOOR_RAISED: f"floor {entry.claims.get('series')}",
    }
    return [other[entry.decision]] if entry.decision in other else []
