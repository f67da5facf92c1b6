"""The server's TLS: read from ``ssl.cfg``, as TensorFlow Serving reads it.

Source: tensorflow/serving, ``model_servers/server.cc`` (``BuildServerCredentials``).
"""

import logging
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import grpc

from sealserve.errors import SealserveError
from sealserve.pki import ssl_config
from sealserve.pki.certificate import CertificateNotYetValidError, check_dates, parse_chain
from sealserve.pki.ssl_config import SslConfig
from sealserve.pki.tls_material import check_chain, ordered_authorities, ordered_chain
from sealserve.regular_file import InputFileError, read_regular
from sealserve.secret import SecretBytes
from sealserve.serving.codes import ServingCode
from sealserve.serving.file_list import FileList
from sealserve.serving.wire.peers import PeerCheck
from sealserve.serving.wire.tls_libraries import check_both

logger = logging.getLogger(__name__)

_UNKNOWN: Final[tuple[int, ...]] = ()
"""In the place of a file's identity: not looked at yet."""


def read_tls_settings(path: Path, files: FileList | None, *, now: datetime) -> SslConfig:
    """Return the TLS settings in the file ``path``.

    Args:
        path: The file.
        files: The list of the files that may be loaded. Below its folder, the file must be listed and match.
        now: The time at which the certificate must be valid.

    Raises:
        InputError: `server.tls-settings-missing`: There is no such file.
        SealserveError: It is not the listed one, cannot be parsed, its certificate is not valid now, or OpenSSL or
            BoringSSL cannot use it.
    """
    if files is not None and files.relative(path) is not None:
        content = SecretBytes(files.read_file(path))
    else:
        try:
            content = SecretBytes(read_regular(path))
        except InputFileError as error:
            raise ServingCode.SERVER_TLS_SETTINGS_MISSING.error(
                f"The TLS settings {path} cannot be read: {error.reason}."
            ) from error
    settings = ssl_config.parse(content, source=str(path))
    content.wipe()
    source = f"the server's certificate in {path}"
    for outside in check_chain(settings.server_cert, now, source=source):
        logger.warning("the chain in %s has a certificate that is not valid now: %s", path, outside)
    custom_ca = settings.custom_ca
    if custom_ca:
        custom_ca = ordered_authorities(custom_ca, now)
        for authority in parse_chain(custom_ca):
            try:
                check_dates(authority, now, source="custom_ca")
            except SealserveError as error:
                logger.warning("of the authorities that sign users' certificates, one is not valid: %s", error)
    settings = replace(settings, server_cert=ordered_chain(settings.server_cert, now), custom_ca=custom_ca)
    check_both(settings, source=source)
    return settings


def server_credentials(settings: SslConfig) -> grpc.ServerCredentials:
    """Return gRPC's form of the settings; with ``client_verify``, a client without a certificate is turned away."""
    return grpc.ssl_server_credentials(
        [_pair(settings)], root_certificates=settings.custom_ca, require_client_auth=settings.client_verify
    )


def followed_credentials(
    path: Path, files: FileList | None, settings: SslConfig, check: PeerCheck
) -> grpc.ServerCredentials:
    """Return gRPC's form of the settings that were read from ``path``, which follow the file if it can change.

    Args:
        path: The file.
        files: The list of the files that may be loaded. A file that it lists is part of a sealed release: immutable.
        settings: What was read from the file.
        check: The check of clients' certificates. It gets the newer revocation lists of the file.
    """
    listed = files is not None and files.relative(path) is not None
    return server_credentials(settings) if listed else FollowedSettings(path, settings, check).credentials()


class FollowedSettings:
    """TLS settings that follow their file: a renewed certificate serves new connections, and open ones stay.

    Newer revocation lists reach open connections too, by the check. What cannot be used leaves the former settings in
    force, with one line in the log. Whether clients show a certificate stays as it was at the start.

    Args:
        path: The file. A link is followed, as Kubernetes renews a mounted secret.
        settings: What was read from it.
        check: What gets newer revocation lists, or None.
    """

    def __init__(self, path: Path, settings: SslConfig, check: PeerCheck | None = None) -> None:
        self._path = path
        self._check = check
        self._settings = settings
        self._news: SslConfig | None = None
        self._seen: tuple[int, ...] | None = _UNKNOWN  # the file may have changed since it was read
        self._rejected: tuple[int, ...] | None = _UNKNOWN
        self._lock = threading.Lock()
        if check is not None:
            check.look = self.look

    def credentials(self) -> grpc.ServerCredentials:
        """Return gRPC's form of the settings, which asks for newer ones at each handshake."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._settings),
            self.newer,  # type: ignore[arg-type]  # "or None if no change", says grpc.dynamic_ssl_server_credentials
            require_client_authentication=self._settings.client_verify,
        )

    def newer(self) -> grpc.ServerCertificateConfiguration | None:
        """Return `newer_settings` as gRPC takes them. It raises nothing."""
        settings = self.newer_settings()
        return None if settings is None else _configuration(settings)

    def newer_settings(self) -> SslConfig | None:
        """Return the settings of the file if they changed since the last call, else None. It raises nothing."""
        with self._lock:
            self._look()
            news, self._news = self._news, None
            return news

    def look(self) -> None:
        """Give the check the newer revocation lists of the file, if it changed. It raises nothing.

        Otherwise the check would get them with the next handshake only. `newer_settings` still returns what is new.
        """
        with self._lock:
            self._look()

    def _look(self) -> None:
        identity = _identity(self._path)
        if identity == self._seen:
            return
        try:
            settings = read_tls_settings(self._path, None, now=datetime.now(UTC))
        except SealserveError as error:
            if identity != self._rejected:
                logger.error("the former TLS settings stay: %s", error.message)  # noqa: TRY400  # one line
            self._rejected = identity
            if not isinstance(error, CertificateNotYetValidError):  # that error ends without a new file
                self._seen = identity
            return
        except Exception:
            logger.exception("the former TLS settings stay: %s cannot be read for an unknown reason", self._path)
            self._seen = identity
            return
        self._seen = identity
        if settings == self._settings:
            return
        if settings.client_verify != self._settings.client_verify:
            logger.error("the former TLS settings stay: client_verify cannot change while the server runs")
            return
        self._settings = self._news = settings
        if self._check is not None:
            self._check.use(settings.revoked)
        logger.info("the TLS settings in %s are new: they serve new connections", self._path)


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _pair(settings: SslConfig) -> tuple[bytes, bytes]:
    return settings.server_key.reveal(), settings.server_cert


def _configuration(settings: SslConfig) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([_pair(settings)], root_certificates=settings.custom_ca)
