"""The service's certificate of another CA, such as a public CA, and the certificates that users trust.

Only a deployment with a TLS key of the owner's can have it, because the CA issues the certificate to the owner. With
attested serving, the enclave creates the key, and the issuing authority issues the certificate.
"""

from datetime import datetime
from typing import Final

from sealserve.deployment import Deployment
from sealserve.pki.authority import Authority
from sealserve.pki.certificate import LARGEST_KEY, CertifiedKey, only_certificates
from sealserve.pki.service_chain import check_service_chain
from sealserve.private_file import read_private
from sealserve.regular_file import read_regular

_SETTING: Final = "service.tls_certificate_file"


def given_certificate(deployment: Deployment, *, now: datetime) -> CertifiedKey | None:
    """Read and check the certificate in ``service.tls_certificate_file``. Return None if the setting is not set.

    Raises:
        PrivateFileExposedError: Other users can read the file of the private key.
        SealserveError: A file cannot be read, or as `check_service_chain`.
    """
    service = deployment.service
    if service.tls_certificate_file is None or service.tls_key_file is None or service.tls_root_file is None:
        return None
    key = read_private(service.tls_key_file, what="TLS key (service.tls_key_file)", limit=LARGEST_KEY)
    source = f"{_SETTING} ({service.tls_certificate_file})"
    chain = only_certificates(read_regular(service.tls_certificate_file), source=source)
    pair = CertifiedKey(key_pem=key, chain_pem=chain)
    check_service_chain(
        pair,
        roots_pem=read_regular(service.tls_root_file),
        name=deployment.service.name,
        now=now,
        source=source,
    )
    return pair


def trusted_by_users(deployment: Deployment, authority: Authority) -> bytes:
    """Return the certificates that users trust for the service, PEM.

    Args:
        deployment: The deployment.
        authority: The service's authority of sealserve.

    Raises:
        SealserveError: ``service.tls_root_file`` cannot be read.
    """
    if (path := deployment.service.tls_root_file) is None:
        return authority.certificate_pem
    return only_certificates(read_regular(path), source=f"service.tls_root_file ({path})")
