"""The id of the key that encrypted each stored key, and the format of its context.

Before, the beginning of a ciphertext showed whether the master key file or the transit engine had encrypted it. The
settings of the transit engine are not in the database. The id of its keys is therefore ``transit`` without a name.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_WRAPPER = "CASE WHEN substr(wrapped, 1, 7) = {prefix} THEN 'transit' ELSE 'file' END"


def upgrade() -> None:
    """Add the columns."""
    if op.get_bind().dialect.name == "sqlite":
        _recreate()
        return
    op.add_column("keys", sa.Column("wrapper", sa.String(192)))
    op.add_column("keys", sa.Column("format", sa.Integer))
    wrapper = _WRAPPER.format(prefix="decode('7661756c743a76', 'hex')")
    op.execute(f"UPDATE keys SET wrapper = {wrapper}, format = 1")  # noqa: S608  # constants
    op.alter_column("keys", "wrapper", nullable=False)
    op.alter_column("keys", "format", nullable=False)


def _recreate() -> None:
    """Recreate the table. SQLite cannot add a column that is never NULL and has no default."""
    # Releases refer to the keys. The references are checked at the end of the transaction, when the keys exist again.
    op.execute("PRAGMA defer_foreign_keys = ON")
    op.execute("CREATE TABLE keys_format_1 AS SELECT key_id, wrapped, created FROM keys")
    op.drop_table("keys")
    op.create_table(
        "keys",
        sa.Column("key_id", sa.String(32), primary_key=True),
        sa.Column("wrapper", sa.String(192), nullable=False),
        sa.Column("format", sa.Integer, nullable=False),
        sa.Column("wrapped", sa.LargeBinary, nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
    )
    wrapper = _WRAPPER.format(prefix="x'7661756c743a76'")
    op.execute(
        f"INSERT INTO keys SELECT key_id, {wrapper}, 1, wrapped, created FROM keys_format_1"  # noqa: S608  # constants
    )
    op.drop_table("keys_format_1")
