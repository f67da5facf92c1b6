"""Audit rows as canonical bytes.

Before, the hash of a row covered the columns of the table, so that no column could be added. Now the row contains the
bytes that its hash covers. The bytes of an earlier row (format 1) are computed from its columns exactly as its hash was
computed. Hashes and signed heads therefore stay valid. A row that was changed before the upgrade is still detected.
"""

import json

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_COVERED = (
    "seq", "time", "peer", "decision", "code", "detail", "release_id", "platform", "mr_enclave", "mr_signer",
    "platform_id", "tcb_status", "advisories", "quote_digest", "previous_hash",
)  # fmt: skip
_COPIED = ("seq", "hash", "time", "decision", "code", "release_id", "platform_id")
_AT_ONCE = 500


def upgrade() -> None:
    """Write each row in its new form to a new table, which replaces the old table."""
    connection = op.get_bind()
    # Keep the old table under another name. Its index has the name that the new index needs.
    op.drop_index("ix_audit_code", "audit")
    op.rename_table("audit", "audit_format_1")
    audit = op.create_table(
        "audit",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("format", sa.Integer, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("time", sa.String(32), nullable=False),
        sa.Column("decision", sa.String(16), nullable=False),
        sa.Column("code", sa.String(64), nullable=False, index=True),
        sa.Column("release_id", sa.String(64), index=True),
        sa.Column("platform_id", sa.String(64), index=True),
    )
    # Copy the rows in portions, because the log can be long.
    last = None
    while rows := _after(connection, last):
        values = [
            {"format": 1, "content": _canonical({name: row[name] for name in _COVERED}), **{n: row[n] for n in _COPIED}}
            for row in rows
        ]
        connection.execute(sa.insert(audit), values)
        last = rows[-1]["seq"]
    op.drop_table("audit_format_1")
    # Versions before this revision do not know Alembic's table. This number makes them reject the database.
    connection.execute(sa.text("UPDATE schema SET version = 3"))


def _after(connection: sa.Connection, last: int | None) -> list[sa.RowMapping]:
    condition = "" if last is None else "WHERE seq > :last"
    query = sa.text(f"SELECT * FROM audit_format_1 {condition} ORDER BY seq LIMIT {_AT_ONCE}")  # noqa: S608  # constants
    return list(connection.execute(query, {} if last is None else {"last": last}).mappings())


def _canonical(values: dict[str, object]) -> bytes:
    # ``default``: a value of an unexpected type (in a changed database) results in a different hash, not in a crash
    return json.dumps(values, sort_keys=True, separators=(",", ":"), default=repr).encode()
