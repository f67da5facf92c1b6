"""Comparison of the broker's tables with its audit log: the log is replayed, and each difference is reported.

The audit log must be verified first. Earlier versions did not record some facts: the policy of a release, the whole
reference values, and the evaluation floor. Such a fact is reported as not compared.
"""

import contextlib
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, Table, select

from sealserve.attestation.secret_provisioning import SecretForm
from sealserve.broker import audit, prepared, row_authentication
from sealserve.broker.audit import AuditRow
from sealserve.broker.audit_entry import Decision
from sealserve.broker.audited_subjects import CHANGES
from sealserve.broker.codes import BrokerCode
from sealserve.broker.standing import ReleaseState
from sealserve.broker.stored_key import RELEASE_KEYS
from sealserve.broker.stored_time import from_text, to_text
from sealserve.broker.tables import (
    APPROVALS,
    AUDIT,
    EVALUATION_FLOOR,
    KEYS,
    PLATFORMS,
    REFERENCE_VALUES,
    RELEASES,
    STATEMENTS,
)
from sealserve.errors import SealserveError

_DEADLINE: Final = re.compile(r"until ([^\s,]+)")
_SHOWN: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The result of a comparison.

    Args:
        differences: One sentence part for each difference, with its table and row.
        not_compared: The facts that the log of an earlier version does not contain.
    """

    differences: tuple[str, ...]
    not_compared: tuple[str, ...]

    def check(self) -> None:
        """Check that there is no difference.

        Raises:
            VerificationError: `audit.state` if there is one.
        """
        if self.differences:
            more = f"; and {left} more" if (left := len(self.differences) - _SHOWN) > 0 else ""
            raise BrokerCode.AUDIT_STATE.error(
                f"The broker's database differs from its audit log: {'; '.join(self.differences[:_SHOWN])}{more}.",
                hint="Find out which program changed the database. See docs/how-to/loss-and-theft.md.",
            )


def fingerprint(text: str) -> str:
    """Return SHA-256 of a stored text, as hex. The audit log records it instead of the text."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(slots=True)
class _Expected:
    """The columns that the log records, by the primary key of the row, and the audit row of the newest change."""

    columns: dict[str, dict[tuple[str, ...], dict[str, Any]]] = field(default_factory=dict)
    newest: dict[tuple[str, tuple[str, ...]], int] = field(default_factory=dict)

    def row(self, table: Table, *key: str, seq: int) -> dict[str, Any]:
        self.newest[table.name, key] = seq
        return self.columns.setdefault(table.name, {}).setdefault(key, {})


def compare(connection: Connection) -> Comparison:
    """Compare the tables with the log, and verify the tag of each row if the database was opened with a key."""
    expected = _replay(connection)
    differences: list[str] = []
    not_compared: list[str] = []
    for table in row_authentication.TABLES:
        recorded = dict(expected.columns.get(table.name, {}))
        for row in prepared.rows(connection, select(table)):
            key = tuple(str(row[column.name]) for column in table.primary_key)
            name = f"{table.name} {' '.join(key)[:100]}"
            # 1. Each row is recorded. Earlier versions did not record the evaluation floor.
            if (facts := recorded.pop(key, None)) is None:
                if table is EVALUATION_FLOOR and _is_earlier(connection, row):
                    not_compared.append(f"{name}: number")
                else:
                    differences.append(f"{name}: the log does not record this row")
                continue
            # 2. Each recorded fact agrees.
            seq = expected.newest[table.name, key]
            differences += [
                f"{name}: {column} is {_shown(found)}, but audit row {seq} records {_shown(wanted)}"
                for column, wanted in facts.items()
                if wanted is not None and (found := _fact(row, column)) != wanted
            ]
            not_compared += [f"{name}: {column}" for column, wanted in facts.items() if wanted is None]
            # 3. The row is authentic.
            try:
                row_authentication.verify(connection, table, row)
            except SealserveError as error:
                differences.append(f"{name}: {error.message.removesuffix('.')}")
        # 4. No recorded row is missing.
        differences += [
            f"{table.name} {' '.join(key)[:100]}: the row is missing, but audit row {expected.newest[table.name, key]} "
            "records it"
            for key in recorded
        ]
    # 5. The key of each registered release is there. Its content proves itself when it is decrypted.
    without_key = select(RELEASES.c.name, RELEASES.c.key_id).where(
        RELEASES.c.key_id.not_in(select(KEYS.c.key_id).where(RELEASE_KEYS)),
        RELEASES.c.state != ReleaseState.REVOKED.value,
    )
    differences += [
        f"keys {str(key_id)[:100]}: the key of release {str(name)[:100]} is missing"
        for name, key_id in connection.execute(without_key)
    ]
    return Comparison(differences=tuple(differences), not_compared=tuple(not_compared))


def _replay(connection: Connection) -> _Expected:
    """Return the state that the changes in the log lead to."""
    expected = _Expected()
    query = select(AUDIT).where(AUDIT.c.decision.in_(sorted(CHANGES))).order_by(AUDIT.c.seq)
    for row in audit.parsed(connection, query):
        _apply_to_releases(expected, row)
        _apply_to_platforms(expected, row)
    return expected


def _apply_to_releases(expected: _Expected, row: AuditRow) -> None:
    entry, seq, claims = row.entry, row.seq, row.entry.claims
    release_id = entry.release_id or ""
    match entry.decision:
        case Decision.ALLOWED:
            release = expected.row(RELEASES, release_id, seq=seq)
            release |= {"platform": entry.platform or "", "state": release.get("state", ReleaseState.ACTIVE.value)}
            release |= {name: claims.get(name) for name in ("name", "key_id", "policy SHA-256")}
            release["secret_form"] = claims.get("secret_form", SecretForm.RAW.value)
            reference = expected.row(REFERENCE_VALUES, entry.mr_enclave or "", seq=seq)
            reference |= {"release_id": release_id, "label": entry.detail}
            reference["reference SHA-256"] = claims.get("reference SHA-256")
            if "reference SHA-256" not in claims:
                reference["mr_signer"] = entry.mr_signer
        case Decision.REACTIVATED:
            release = expected.row(RELEASES, release_id, seq=seq)
            release |= {"state": ReleaseState.ACTIVE.value, "policy SHA-256": claims.get("policy SHA-256")}
            release["secret_form"] = claims.get("secret_form", SecretForm.RAW.value)
            release.pop("deadline", None)
        case Decision.DRAINING:
            release = expected.row(RELEASES, release_id, seq=seq)
            release |= {"state": ReleaseState.DRAINING.value, "deadline": _deadline(entry.detail)}
        case Decision.REVOKED:
            release = expected.row(RELEASES, release_id, seq=seq)
            release |= {"state": ReleaseState.REVOKED.value}
            release.pop("deadline", None)
        case Decision.STATED:
            statement = expected.row(STATEMENTS, release_id, seq=seq)
            statement["content SHA-256"] = claims.get("content SHA-256")
        case Decision.WITHDRAWN if entry.mr_enclave is not None:
            expected.columns.get(REFERENCE_VALUES.name, {}).pop((entry.mr_enclave,), None)


def _apply_to_platforms(expected: _Expected, row: AuditRow) -> None:
    entry, seq, claims = row.entry, row.seq, row.entry.claims
    release_id, platform = entry.release_id or "", entry.platform or ""
    match entry.decision:
        case Decision.ENROLLED:
            expected.row(PLATFORMS, platform, entry.platform_id or "", seq=seq)["label"] = entry.detail
        case Decision.WITHDRAWN if entry.mr_enclave is None:
            expected.columns.get(PLATFORMS.name, {}).pop((platform, entry.platform_id or ""), None)
        case Decision.APPROVED:
            approval = expected.row(APPROVALS, release_id, entry.platform_id or "", seq=seq)
            approval |= {"approved": to_text(entry.time), "until": claims.get("until")}
        case Decision.APPROVAL_REMOVED:
            expected.columns.get(APPROVALS.name, {}).pop((release_id, entry.platform_id or ""), None)
        case Decision.FLOOR_RAISED:
            floor = expected.row(EVALUATION_FLOOR, str(claims.get("series")), seq=seq)
            floor |= {"platform": platform, "number": claims.get("number")}


def _deadline(detail: str) -> str | None:
    with contextlib.suppress(ValueError):
        if (found := _DEADLINE.match(detail)) is not None:
            return to_text(from_text(found[1]))
    return None


def _fact(row: dict[str, Any], column: str) -> Any:
    """Return a value of a row, or a value that is computed from it."""
    try:
        if column.endswith(" SHA-256"):
            return fingerprint(row[column.removesuffix(" SHA-256")])
        if column == "mr_signer":
            return json.loads(row["reference"])["mr_signer"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return "invalid"
    if column == "secret_form":
        return row[column] or SecretForm.RAW.value
    return row[column]


def _shown(value: Any) -> str:
    return f"{value!s:.80}"


def _is_earlier(connection: Connection, row: dict[str, Any]) -> bool:
    """Return whether an earlier version wrote the row: the audit row that accepted such rows is its newest change."""
    query = select(AUDIT.c.seq).where(AUDIT.c.decision == Decision.AUTHENTICATED)
    accepted: set[int | None] = set(connection.execute(query).scalars())
    return row["changed"] in (accepted if row_authentication.of(connection) else accepted | {None})
