"""The server's TLS: read from ``ssl.cfg``, as TensorFlow Serving reads it.

Source: tensorflow/serving, ``model_servers/server.cc`` (``BuildServerCredentials``).
"""

import logging
from datetime import datetime
from pathlib import Path

import grpc

from sealserve.errors import InputError, SealserveError
from sealserve.pki import ssl_config
from sealserve.pki.certificate import check_certificate
from sealserve.pki.ssl_config import SslConfig
from sealserve.secret import SecretBytes
from sealserve.serving.file_list import FileList

logger = logging.getLogger(__name__)


class TlsSettingsMissingError(InputError):
    """The file with the TLS settings cannot be read."""

    code = "server.tls-settings-missing"


def read_tls_settings(path: Path, files: FileList | None, *, now: datetime) -> SslConfig:
    """Return the TLS settings in the file ``path``.

    Args:
        path: The file.
        files: The list of the files that may be loaded. Below its folder, the file must be listed and match.
        now: The time at which the certificate must be valid.

    Raises:
        TlsSettingsMissingError: There is no such file.
        SealserveError: It is not the listed one, cannot be parsed, or its certificate is not valid now.
    """
    if files is not None and files.relative(path) is not None:
        content = SecretBytes(files.read_file(path))
    else:
        try:
            content = SecretBytes(path.read_bytes())
        except OSError as error:
            raise TlsSettingsMissingError(f"The TLS settings {path} cannot be read: {error.strerror}.") from error
    settings = ssl_config.parse(content, source=str(path))
    content.wipe()
    check_certificate(settings.server_cert, now, source=f"the server's certificate in {path}")
    if settings.custom_ca:
        try:
            check_certificate(settings.custom_ca, now, source="custom_ca")
        except SealserveError as error:
            logger.warning("of the authorities that sign users' certificates, one is not valid: %s", error)
    return settings


def server_credentials(settings: SslConfig) -> grpc.ServerCredentials:
    """Return gRPC's form of the settings; with ``client_verify``, a client without a certificate is turned away."""
    return grpc.ssl_server_credentials(
        [(settings.server_key.reveal(), settings.server_cert)],
        root_certificates=settings.custom_ca,
        require_client_auth=settings.client_verify,
    )
