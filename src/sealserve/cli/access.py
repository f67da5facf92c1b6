"""Addresses and credentials with which the workspace's user reaches the service."""

from dataclasses import dataclass

from sealserve.deployment import Deployment
from sealserve.owner.certificates import missing_certificate_hint
from sealserve.pki.authority import AuthorityKind
from sealserve.pki.certificate import CertificateMissingError, CertifiedKey
from sealserve.regular_file import read_regular
from sealserve.secret import SecretBytes
from sealserve.terms import TlsMode
from sealserve.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Everything that a client needs to connect: addresses, the service's name and CA, and the user's certificate.

    Args:
        target: ``host:port`` of gRPC.
        server_name: The name in the service's certificate.
        ca: Certificate of the service's certificate authority, PEM.
        certificate: The user's certificate chain for two-way TLS, PEM, or None.
        key: The user's private key for two-way TLS, PEM, or None.
        model: The default model of a request, or None.
        rest: ``host:port`` of REST, or None if REST is off or its address is unknown.
    """

    target: str
    server_name: str
    ca: bytes
    certificate: bytes | None = None
    key: SecretBytes | None = None
    model: str | None = None
    rest: str | None = None


def access(
    workspace: Workspace, deployment: Deployment, *, ca: bytes | None = None, pair: CertifiedKey | None = None
) -> Access:
    """Return how to reach the service, from the deployment and the workspace's ``user/`` folder.

    Args:
        workspace: The workspace.
        deployment: The deployment that ``sealserve.toml`` describes.
        ca: Certificate of an authority (PEM), used instead of the one in ``user/``.
        pair: The user's certificate and key, used instead of the ones in ``user/``.

    Raises:
        CertificateMissingError: A certificate in ``user/`` does not exist yet.
    """
    user, service = workspace.user, deployment.service
    hint = missing_certificate_hint(workspace, AuthorityKind.USERS, service.tls)
    if ca is None:
        if not user.service_ca.is_file():
            raise CertificateMissingError(
                f"The service's CA certificate does not exist: expected the file {user.service_ca}.",
                hint=hint,
            )
        ca = read_regular(user.service_ca)
    if pair is None and service.tls is TlsMode.TWO_WAY:
        pair = CertifiedKey.read(certificate=user.certificate, key=user.key, missing=hint)
    return Access(
        target=service.endpoint,
        server_name=service.name,
        ca=ca,
        certificate=pair.chain_pem if pair else None,
        key=pair.key_pem if pair else None,
        model=deployment.model.name,
        rest=service.rest_endpoint if deployment.server.rest else None,
    )
