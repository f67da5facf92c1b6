"""``sealserve broker import``: move the broker's database from the workspace's file to a PostgreSQL server."""

from sealserve.cli.context import Context
from sealserve.cli.deferred_imports import deferred

with deferred:
    from sealserve.owner.broker_database import import_database
    from sealserve.owner.owner import Owner
    from sealserve.owner.row_key import authenticate_file
    from sealserve.owner.token_keys import create_token_key


def import_rows(context: Context) -> None:
    """Copy the broker's SQLite file into the empty PostgreSQL database that sealserve.toml names.

    Stop the broker first. The audit log is verified, and all rows are copied in one transaction. Then the file is
    renamed, so that no broker continues with it. If the command fails, neither database changes.
    """
    owner = Owner.open(context.workspace)
    owner.create_audit_key()  # a workspace of an earlier version may lack a key that each broker needs
    create_token_key(context.workspace)
    authenticate_file(context.workspace)
    done = import_database(context.workspace, owner.audit_keys())
    context.show(
        {"database": done.database, "rows": done.rows, "audit_rows": done.audit_rows, "former": str(done.former)},
        f"Copied {done.rows} rows to {done.database}. The audit log of {done.audit_rows} rows verifies.",
    )
    context.say(f"Next: start the broker. The former file is {done.former.name}; keep it until the next backup.")
