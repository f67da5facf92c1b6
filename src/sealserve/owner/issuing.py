"""The owner's issuing CA for attested serving: the certificate in ``owner/issuing/``, the private key in the keystore.

The broker issues certificates for the TLS keys of enclaves with it (`sealserve.pki.issuing`). The service's CA signs
it.
"""

import contextlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from sealserve.atomic_file import write_file
from sealserve.broker import audit
from sealserve.broker.admin import OWNER, Actor
from sealserve.broker.audit_entry import Decision, Entry
from sealserve.broker.keystore import KeyId, discard_issuing
from sealserve.deployment import Deployment
from sealserve.errors import SealserveError
from sealserve.owner.owner import Owner
from sealserve.pki import expiry
from sealserve.pki.authority import CERTIFICATE_FILE, Authority
from sealserve.pki.certificate import CertificateMissingError
from sealserve.pki.issuing import IssuingCertificate, create_issuing
from sealserve.regular_file import InputFileMissingError, read_regular
from sealserve.workspace import Workspace

ROLE: Final = expiry.ISSUING
"""The name of its certificate, among the certificates of the workspace."""


def certificate_file(workspace: Workspace) -> Path:
    """Return the file of the certificate, whether it exists or not."""
    return workspace.owner.issuing / CERTIFICATE_FILE


def exists(workspace: Workspace) -> bool:
    """Return whether the workspace has an issuing CA."""
    return certificate_file(workspace).is_file()


def read_certificate(workspace: Workspace) -> IssuingCertificate:
    """Return the certificate of the issuing CA.

    Raises:
        CertificateMissingError: The workspace has no issuing CA.
        InputError: `authority.unreadable` or `certificate.unreadable`: The file was changed.
    """
    path = certificate_file(workspace)
    try:
        return IssuingCertificate.parse(read_regular(path), source=str(path))
    except InputFileMissingError as error:
        raise CertificateMissingError(
            f"The certificate of the issuing CA, {path}, does not exist.",
            hint="Run `sealserve certs rotate-issuing` to create the issuing CA.",
        ) from error


def is_needed(workspace: Workspace, deployment: Deployment, service: Authority) -> bool:
    """Return whether an attested deployment needs a new issuing CA.

    It does if there is none, or if the present one does not fit: its file is damaged, another service CA signed it, or
    it is for other names.
    """
    if not deployment.server.attested:
        return False
    try:
        found = read_certificate(workspace)
    except SealserveError:
        return True
    return not found.is_issued_by(service) or sorted(found.names) != sorted(_names(deployment))


def ensure(workspace: Workspace, deployment: Deployment, service: Authority, *, now: datetime) -> bool:
    """Create the issuing CA if the deployment needs a new one. Return whether it was created.

    Args:
        workspace: The owner's workspace.
        deployment: The names of the service.
        service: The service's CA.
        now: The current time.

    Raises:
        SealserveError: As `rotate`.
    """
    if not is_needed(workspace, deployment, service):
        return False
    rotate(workspace, deployment, service, now=now)
    return True


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
    certificate, key = create_issuing(service, _names(deployment), now=now)
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
            write_certificate(workspace, certificate)
    return certificate


def write_certificate(workspace: Workspace, certificate: IssuingCertificate) -> None:
    """Write the certificate to ``owner/issuing/``."""
    path = certificate_file(workspace)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    write_file(path, certificate.pem)


def _names(deployment: Deployment) -> Sequence[str]:
    return (deployment.service.name,)
