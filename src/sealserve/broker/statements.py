"""The release statements: one signed document for each release, which the broker passes to the release's enclaves.

The broker neither signs nor reads a statement: users verify it with the owner's key. The table is authenticated like
its siblings, so that another program cannot replace a statement by an older statement with a replaced token key.

The caller appends the audit row of a change first, because the tag of the changed row names it
(`sealserve.broker.row_authentication`).
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, bindparam, select

from sealserve.attestation.attest_messages import MAXIMUM_STATEMENT
from sealserve.attestation.strict_document import SignedContent
from sealserve.broker import audit, prepared, row_authentication
from sealserve.broker.admin import OWNER, Actor
from sealserve.broker.audit_entry import Decision, Entry
from sealserve.broker.database import reading
from sealserve.broker.prepared import Prepared
from sealserve.broker.releases import Release, ReleaseId
from sealserve.broker.state_comparison import fingerprint
from sealserve.broker.tables import STATEMENTS
from sealserve.broker.wanted_row import check_wanted

_STATEMENT: Final = Prepared(select(STATEMENTS).where(STATEMENTS.c.release_id == bindparam("release_id")))


def find(connection: Connection, release_id: ReleaseId) -> SignedContent | None:
    """Return the newest statement of a release, or `None`. It is not verified.

    Raises:
        VerificationError: `broker.database-authentication` if another program wrote the row.
        VerificationError: `broker.database-content` if the row has content that sealserve never writes.
    """
    row = prepared.first(connection, _STATEMENT, release_id=release_id)
    if row is None:
        row_authentication.verify_absence(connection, STATEMENTS, {"release_id": release_id})
        return None
    check_wanted(STATEMENTS, row, release_id=release_id)
    row_authentication.verify(connection, STATEMENTS, row)
    with reading("statements"):
        signed = SignedContent(content=row["content"].encode(), signature=bytes.fromhex(row["signature"]))
        if not 0 < len(signed.content) <= MAXIMUM_STATEMENT:
            raise ValueError("another size")
        return signed


def put(
    connection: Connection, release: Release, statement: SignedContent, *, now: datetime, actor: Actor = OWNER
) -> None:
    """Store a statement and its audit row. It replaces an earlier statement of the release.

    Args:
        connection: A writing transaction.
        release: The registered release.
        statement: The statement with the owner's signature.
        now: The time on the owner's clock.
        actor: Who makes the change, for the audit log.
    """
    content = statement.content.decode()
    entry = Entry(
        time=now,
        peer=actor.peer,
        actor=actor.name,
        decision=Decision.STATED,
        code="ok",
        release_id=release.release_id,
        platform=release.platform,
        claims={"content SHA-256": fingerprint(content)},
    )
    audit.append(connection, entry)
    row = {"release_id": release.release_id, "content": content, "signature": statement.signature.hex()}
    row_authentication.put(connection, STATEMENTS, row)


def releases_with_one(connection: Connection) -> Iterator[ReleaseId]:
    """Yield the ids of the releases that have a statement."""
    yield from map(ReleaseId, connection.execute(select(STATEMENTS.c.release_id)).scalars().all())
