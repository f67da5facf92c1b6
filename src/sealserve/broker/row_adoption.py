"""The single time at which rows without a tag are accepted: when the key that authenticates rows is created.

An earlier version of sealserve wrote such rows. The key is in a file outside of the database. If the file exists, rows
without a tag are rejected, so a program that can only write to the database cannot repeat this step.
"""

from datetime import datetime

from sqlalchemy import Connection, select, update

from sealserve.broker import audit, platforms, prepared, row_authentication
from sealserve.broker.audit_entry import Decision, Entry
from sealserve.broker.database import reading
from sealserve.broker.row_authentication import TABLES, History
from sealserve.broker.row_key import RowKey
from sealserve.broker.standing import ReleaseState
from sealserve.broker.tables import EVALUATION_FLOOR, RELEASES


def adopt(connection: Connection, key: RowKey, *, now: datetime, record: bool = False) -> None:
    """Accept all rows of the database as genuine, and give them tags. An empty database stays empty.

    Args:
        connection: A writing transaction of a database that was opened without a key.
        key: Authenticates the rows from now on.
        now: The time on the owner's clock.
        record: Append the audit row of this step even to an empty database. It shows other machines that a key exists.
    """
    seq, digest = audit.head(connection)
    filled = [table for table in TABLES if connection.execute(select(1).select_from(table).limit(1)).first()]
    if seq == 0 and not filled and not record:
        return
    session = History(key).session()
    session.start_here(seq, digest)
    with_key = connection.execution_options(**{row_authentication.OPTION: session})
    # 1. Record the step. All tags refer to this audit row.
    audit.append(
        with_key,
        Entry(
            time=now,
            peer="owner",
            decision=Decision.AUTHENTICATED,
            code="ok",
            detail="all existing rows of the database were accepted as genuine",
        ),
    )
    # 2. A revocation applies to the key. Also revoke the other releases with the key of a revoked release, so that no
    #    decision depends on a row of another release.
    revoked = select(RELEASES.c.key_id).where(RELEASES.c.state == ReleaseState.REVOKED)
    others = select(RELEASES.c.release_id).where(
        RELEASES.c.key_id.in_(revoked), RELEASES.c.state != ReleaseState.REVOKED
    )
    for other in connection.execute(others).scalars().all():
        audit.append(
            with_key,
            Entry(
                time=now,
                peer="owner",
                decision=Decision.REVOKED,
                code="ok",
                detail="a revoked release has the same key",
                release_id=other,
            ),
        )
        connection.execute(
            update(RELEASES).where(RELEASES.c.release_id == other).values(state=ReleaseState.REVOKED, deadline=None)
        )
    # 3. Record each evaluation floor, because an earlier version did not. Otherwise nothing would show its deletion.
    for floor in prepared.rows(connection, select(EVALUATION_FLOOR).order_by(EVALUATION_FLOOR.c.anchor)):
        with reading("evaluation_floor"):
            audit.append(with_key, platforms.floor_entry(floor["anchor"], floor["platform"], floor["number"], now=now))
    # 4. Give each row its tag.
    for table in filled:
        for row in prepared.rows(connection, select(table)):
            row_authentication.put(with_key, table, row)
