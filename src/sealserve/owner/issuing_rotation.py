"""The creation and the rotation of the issuing CA, whose private key is in the keystore."""

import contextlib
from datetime import datetime

from sealserve.atomic_file import write_file
from sealserve.broker import audit
from sealserve.broker.admin import OWNER, Actor
from sealserve.broker.audit_entry import Decision, Entry
from sealserve.broker.keystore import KeyId, discard_issuing
from sealserve.deployment import Deployment
from sealserve.errors import SealserveError
from sealserve.owner.issuing import certificate_file, names_of, read_certificate
from sealserve.owner.owner import Owner
from sealserve.pki.authority import Authority
from sealserve.pki.issuing import IssuingCertificate, create_issuing
from sealserve.workspace import Workspace


def rotate(
    workspace: Workspace,
    deployment: Deployment,
    service: Authority,
    *,
    now: datetime,
    compromised: bool = False,
    actor: Actor = OWNER,
) -> IssuingCertificate:
    """Replace the issuing CA, or create the first one, and append a row to the audit log.

    A running broker uses the new CA immediately. Certificates of the former CA stay valid until they expire.
    Interrupting the rotation is safe: the new key is stored before the certificate changes, and an unused key is
    deleted later.

    Args:
        workspace: The owner's workspace.
        deployment: The names of the service.
        service: The service's CA.
        now: The current time.
        compromised: Delete the former private key now. Otherwise the next rotation deletes it, so that a broker with a
            copy of the former certificate can continue until the owner has copied the new certificate.
        actor: Who replaces it, for the audit log.

    Returns:
        The new certificate.

    Raises:
        InputError: `authority.no-intermediate`: An earlier version of sealserve created the service's CA.
        SealserveError: The keystore cannot be opened, or the service's CA cannot sign.
    """
    certificate, key = create_issuing(service, names_of(deployment), now=now)
    kept = [certificate.key_id]
    with contextlib.suppress(SealserveError):  # there is no former certificate, or its file is damaged
        if not compromised:
            kept.append(read_certificate(workspace).key_id)
    with key, Owner.open(workspace).vault(create=True) as vault:
        vault.keystore.store_issuing(vault.database, KeyId(certificate.key_id), key, now=now)
        with vault.database.write() as connection:
            discard_issuing(connection, but=kept)
            entry = Entry(
                time=now,
                peer=actor.peer,
                actor=actor.name,
                decision=Decision.ISSUING_KEY_ROTATED,
                code="ok",
                detail=f"to the key {certificate.key_id}{'; the former key is deleted' if compromised else ''}",
            )
            audit.append(connection, entry)
            # The file changes before the commit: without the row, the rotation is repeated.
            _write(workspace, certificate)
    return certificate


def _write(workspace: Workspace, certificate: IssuingCertificate) -> None:
    path = certificate_file(workspace)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    write_file(path, certificate.pem)
