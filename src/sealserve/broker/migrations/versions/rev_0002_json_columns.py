"""Reference values and appraisal policies as JSON: schema 2, the tables of sealserve 0.1 and 0.2.

Schema 1 had one column for each SGX reference value and for each rule of the appraisal policy. The audit log and the
keys do not change.
"""

import json

import sqlalchemy as sa
from alembic import op

from sealserve.broker.database import reading

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Rewrite the tables whose columns differ."""
    connection = op.get_bind()
    # Read all rows. The tables are small: one row per release, and one row per enclave of a release.
    releases = [dict(row) for row in connection.execute(sa.text("SELECT * FROM releases")).mappings()]
    references = [dict(row) for row in connection.execute(sa.text("SELECT * FROM reference_values")).mappings()]
    # Recreate the tables. The referring table is dropped first.
    op.drop_table("reference_values")
    op.drop_table("releases")
    new_releases = op.create_table(
        "releases",
        sa.Column("release_id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("platform", sa.String(16), nullable=False),
        sa.Column("key_id", sa.String(32), sa.ForeignKey("keys.key_id"), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("deadline", sa.String(32), nullable=True),
        sa.Column("policy", sa.Text, nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
    )
    new_references = op.create_table(
        "reference_values",
        sa.Column("measurement", sa.String(128), primary_key=True),
        sa.Column("release_id", sa.String(64), sa.ForeignKey("releases.release_id"), nullable=False, index=True),
        sa.Column("label", sa.String(64), nullable=False),
        sa.Column("reference", sa.Text, nullable=False),
    )
    # Convert the columns to JSON.
    with reading("releases"):
        for row in releases:
            tcb, enrolled_only = json.loads(row.pop("tcb_policy")), bool(row.pop("enrolled_platforms_only"))
            policy = {"version": 1, "tcb": tcb, "enrolled_platforms_only": enrolled_only}
            connection.execute(sa.insert(new_releases).values(**row, policy=_json(policy)))
        for row in references:
            place = {"measurement": row["mr_enclave"], "release_id": row.pop("release_id"), "label": row.pop("label")}
            connection.execute(sa.insert(new_references).values(**place, reference=_json(row)))
    connection.execute(sa.text("UPDATE schema SET version = 2"))


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
