"""The certificate of the owner's issuing CA for attested serving: ``owner/issuing/``.

The service's CA signs the issuing CA. Its private key is in the keystore (`sealserve.owner.issuing_rotation`). The
base installation, without the keystore, imports this module to report when certificates expire.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sealserve.deployment import Deployment
from sealserve.errors import SealserveError
from sealserve.pki import expiry
from sealserve.pki.authority import CERTIFICATE_FILE, Authority
from sealserve.pki.certificate import CertificateMissingError
from sealserve.pki.issuing import IssuingCertificate
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
            hint="On the owner's machine, run `sealserve certs rotate-issuing` to create the issuing CA. To another "
            "machine with a broker, copy owner/issuing/ from the owner's machine: see docs/how-to/two-brokers.md.",
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
    return not found.is_issued_by(service) or sorted(found.names) != sorted(names_of(deployment))


def names_of(deployment: Deployment) -> Sequence[str]:
    """Return the names that the issuing CA may sign for: the names of the service."""
    return (deployment.service.name,)
