"""The rotation of the key that signs attestation results, with its row in the audit log."""

from datetime import datetime

from sealserve.attestation.json_web_keys import JsonWebKeySet
from sealserve.broker import audit
from sealserve.broker.admin import OWNER, Actor
from sealserve.broker.audit_entry import Decision, Entry
from sealserve.broker.database import Database
from sealserve.owner import release_statements
from sealserve.owner.owner import Owner
from sealserve.owner.token_keys import rotate_token_key
from sealserve.workspace import Workspace


def rotate_recorded(
    workspace: Workspace, database: Database, *, compromised: bool, now: datetime, actor: Actor = OWNER
) -> JsonWebKeySet:
    """Replace the token signing key, and append a row to the audit log. Return the new set of public keys.

    The release statements are signed again with the new key. Enclaves receive them with their next certificate.

    Two rotations at the same time happen one after the other, because writing transactions do not overlap.

    Args:
        workspace: The owner's workspace.
        database: The broker's database.
        compromised: As in `rotate_token_key`.
        now: The current time.
        actor: Who rotates the key.

    Raises:
        SealserveError: As `rotate_token_key`, or the row cannot be written. Then the key is not replaced.
    """
    with database.write() as connection:

        def record(key_id: str) -> None:
            kept = "; former keys are removed" if compromised else ""
            entry = Entry(
                time=now,
                peer=actor.peer,
                actor=actor.name,
                decision=Decision.TOKEN_KEY_ROTATED,
                code="ok",
                detail=f"to the key {key_id}{kept}",
            )
            audit.append(connection, entry)

        # Users accept only results with keys in the release statement. Without the key that signs statements, no file
        # changes.
        signer = Owner.open(workspace).index_signer() if release_statements.any_stated(connection) else None
        keys = rotate_token_key(workspace, compromised=compromised, record=record)
        if signer is not None:
            release_statements.restate(connection, keys, signer, now=now, actor=actor)
        return keys
