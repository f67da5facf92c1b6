"""The check of a broker's database on a PostgreSQL server."""

from sealserve.deployment import DatabaseSection
from sealserve.doctor.finding import Finding, Machine, Verdict
from sealserve.errors import SealserveError
from sealserve.owner.broker_database import open_database
from sealserve.workspace import Workspace

_NAME = "database server"


def server(workspace: Workspace, settings: DatabaseSection) -> Finding:
    """Connect to the server, and check its version, its encoding and that it stores committed rows on its disk.

    Args:
        workspace: The owner's workspace. Nothing in it, and no table on the server, is created.
        settings: The settings of the database. They name a server.
    """
    try:
        with open_database(workspace, create=False) as database:
            risks = database.risks()
    except ModuleNotFoundError:
        return Finding(machine=Machine.OWNER, name=_NAME, verdict=Verdict.MISSING,
                       found="the driver psycopg is not installed",
                       remedy="install the extra: `pip install 'sealserve[postgresql]'`")  # fmt: skip
    except SealserveError as error:
        return Finding(machine=Machine.OWNER, name=_NAME, verdict=Verdict.MISSING,
                       found=error.message.rstrip("."), remedy=error.hint or "")  # fmt: skip
    if risks:
        return Finding(machine=Machine.OWNER, name=_NAME, verdict=Verdict.NOTE,
                       found=f"{settings.parsed}: {'; '.join(risks)}",
                       remedy="see docs/how-to/postgresql.md")  # fmt: skip
    return Finding(machine=Machine.OWNER, name=_NAME, verdict=Verdict.OK, found=f"{settings.parsed} answers")
