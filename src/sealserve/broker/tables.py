"""The tables of the broker's database.

Tables and statements use portable SQL, so that the database can be SQLite or PostgreSQL. Times are ISO 8601 text in
UTC, and measurements are lower-case hex. `sealserve.broker.migration` upgrades the tables of an older database.

To change a table, change it here and add a revision to ``migrations/versions``. A test compares the two.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
)  # fmt: skip

METADATA: Final = MetaData()

REVISION: Final = Table(  # Alembic's own table, in its form
    "alembic_version",
    METADATA,
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)

SCHEMA: Final = Table(  # sealserve 0.2 and earlier read this number, and reject a database with another number
    "schema",
    METADATA,
    Column("version", Integer, primary_key=True, autoincrement=False),
)

KEYS: Final = Table(
    "keys",
    METADATA,
    Column("key_id", String(32), primary_key=True),
    Column("wrapper", String(192), nullable=False),  # the id of the key that encrypted it
    Column("format", Integer, nullable=False),  # see `sealserve.broker.stored_key`
    Column("wrapped", LargeBinary, nullable=False),
    Column("created", String(32), nullable=False),
)

RELEASES: Final = Table(
    "releases",
    METADATA,
    Column("release_id", String(64), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("platform", String(16), nullable=False),
    Column("key_id", String(32), ForeignKey("keys.key_id"), nullable=False, index=True),
    Column("state", String(16), nullable=False),
    Column("deadline", String(32)),
    Column("policy", Text, nullable=False),  # JSON of AppraisalPolicy
    Column("created", String(32), nullable=False),
    Column("changed", Integer),  # the audit row of the newest change: see `sealserve.broker.row_authentication`
    Column("tag", String(64)),
    Column("secret_form", String(16)),  # a value of SecretForm; no value means raw
)

REFERENCE_VALUES: Final = Table(
    "reference_values",
    METADATA,
    Column("measurement", String(128), primary_key=True),  # hexadecimal; up to SHA-512
    Column("release_id", String(64), ForeignKey("releases.release_id"), nullable=False, index=True),
    Column("label", String(64), nullable=False),
    Column("reference", Text, nullable=False),  # JSON, in the format of its kind of evidence
    Column("changed", Integer),  # the audit row of the newest change: see `sealserve.broker.row_authentication`
    Column("tag", String(64)),
)

PLATFORMS: Final = Table(
    "platforms",
    METADATA,
    Column("platform", String(16), primary_key=True),
    Column("platform_id", String(64), primary_key=True),
    Column("label", String(64), nullable=False),
    Column("enrolled", String(32), nullable=False),
    Column("changed", Integer),  # the audit row of the newest change: see `sealserve.broker.row_authentication`
    Column("tag", String(64)),
)

EVALUATION_FLOOR: Final = Table(
    "evaluation_floor",
    METADATA,
    Column("anchor", String(64), primary_key=True),  # SHA-256 of the root certificate
    Column("platform", String(16), nullable=False),
    Column("number", Integer, nullable=False),
    Column("seen", String(32), nullable=False),
    Column("changed", Integer),  # the audit row of the newest change: see `sealserve.broker.row_authentication`
    Column("tag", String(64)),
)

APPROVALS: Final = Table(
    "approvals",
    METADATA,
    Column("release_id", String(64), ForeignKey("releases.release_id"), primary_key=True),
    Column("platform_id", String(64), primary_key=True),
    Column("approved", String(32), nullable=False),
    Column("until", String(32), nullable=False),
    Column("changed", Integer),  # the audit row of the newest change: see `sealserve.broker.row_authentication`
    Column("tag", String(64)),
)

STATEMENTS: Final = Table(
    "statements",
    METADATA,
    Column("release_id", String(64), ForeignKey("releases.release_id"), primary_key=True),
    Column("content", Text, nullable=False),  # the signed document: see `sealserve.attested.release_statement`
    Column("signature", String(128), nullable=False),  # hexadecimal
    Column("changed", Integer),  # the audit row of the newest change: see `sealserve.broker.row_authentication`
    Column("tag", String(64)),
)

AUDIT: Final = Table(
    "audit",
    METADATA,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("format", Integer, nullable=False),
    Column("content", LargeBinary, nullable=False),  # the whole row: see `sealserve.broker.audit_entry`
    Column("hash", String(64), nullable=False),
    # Copies of values in the content, for queries. The verification of the chain compares them with the content.
    Column("time", String(32), nullable=False),
    Column("decision", String(16), nullable=False),
    Column("code", String(64), nullable=False, index=True),
    Column("release_id", String(64), index=True),
    Column("platform_id", String(64)),
    # The number of changes up to the row, and the row's tag: see `sealserve.broker.row_authentication`.
    Column("changes", Integer),
    Column("tag", String(64)),
    Index("ix_audit_decision_seq", "decision", "seq"),
    Index("ix_audit_platform_id_time", "platform_id", "time"),
)

AUDIT_HEADS: Final = Table(
    "audit_heads",
    METADATA,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("hash", String(64), nullable=False),
    Column("time", String(32), nullable=False),
    Column("signature", String(128), nullable=False),
)


# PostgreSQL's `Integer` has 32 bits, and SQLite's has 64. PostgreSQL's order of texts depends on the server's locale,
# except in the collation "C", which compares bytes, as SQLite does.
for _column in (column for table in METADATA.tables.values() for column in table.columns):
    match _column.type:
        case Text():
            pass  # never compared
        case String(length=length):
            _column.type = _column.type.with_variant(String(length, collation="C"), "postgresql")
        case Integer():
            _column.type = _column.type.with_variant(BigInteger(), "postgresql")
