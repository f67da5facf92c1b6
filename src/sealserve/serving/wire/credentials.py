"""The server's TLS settings, read from ``ssl.cfg`` in the same way as in TensorFlow Serving.

Source: tensorflow/serving, ``model_servers/server.cc`` (``BuildServerCredentials``).
"""

import abc
import logging
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Final

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
"""A placeholder for a file's identity: the file has not been checked yet."""


def read_tls_settings(path: Path, files: FileList | None, *, now: datetime) -> SslConfig:
    """Read and check the TLS settings in the file ``path``.

    Args:
        path: The file.
        files: The list of the files that may be loaded. Below its folder, the file must be listed and match.
        now: The time at which the certificate must be valid.

    Raises:
        InputError: `server.tls-settings-missing`: The file does not exist or cannot be read.
        SealserveError: The file differs from the listed one, cannot be parsed, or its certificate is not valid now. Or
            OpenSSL or BoringSSL cannot use the settings.
    """
    content = SecretBytes(read_listed(path, files))
    settings = ssl_config.parse(content, source=str(path))
    content.wipe()
    return usable(settings, source=f"the server's certificate in {path}", now=now)


def read_listed(path: Path, files: FileList | None) -> bytes:
    """Return the content of a file with TLS settings. See `read_tls_settings`."""
    if files is not None and files.relative(path) is not None:
        return files.read_file(path)
    try:
        return read_regular(path)
    except InputFileError as error:
        raise ServingCode.SERVER_TLS_SETTINGS_MISSING.error(
            f"The TLS settings in {path} cannot be read: {error.reason}."
        ) from error


def usable(settings: SslConfig, *, source: str, now: datetime) -> SslConfig:
    """Check that TLS settings can be used now, and return them with ordered certificates.

    Args:
        settings: The settings.
        source: The certificate's name in messages.
        now: The time at which the certificate must be valid.

    Raises:
        SealserveError: The certificate is not valid now. Or OpenSSL or BoringSSL cannot use the settings.
    """
    for outside in check_chain(settings.server_cert, now, source=source):
        logger.warning("the chain of %s contains a certificate that is not valid now: %s", source, outside)
    custom_ca = settings.custom_ca
    if custom_ca:
        custom_ca = ordered_authorities(custom_ca, now)
        for authority in parse_chain(custom_ca):
            try:
                check_dates(authority, now, source="custom_ca")
            except SealserveError as error:
                logger.warning("an authority for users' certificates is not valid: %s", error)
    settings = replace(settings, server_cert=ordered_chain(settings.server_cert, now), custom_ca=custom_ca)
    check_both(settings, source=source)
    return settings


def server_credentials(settings: SslConfig) -> grpc.ServerCredentials:
    """Return the settings in gRPC's form. With ``client_verify``, clients without a certificate are rejected."""
    return grpc.ssl_server_credentials(
        [_pair(settings)], root_certificates=settings.custom_ca, require_client_auth=settings.client_verify
    )


def followed_credentials(
    path: Path, files: FileList | None, settings: SslConfig, check: PeerCheck
) -> grpc.ServerCredentials:
    """Return the settings from ``path`` in gRPC's form. If the file can change, the credentials follow it.

    Args:
        path: The file.
        files: The list of the files that may be loaded. A listed file is part of a sealed release and never changes.
        settings: The settings that were read from the file.
        check: The check of clients' certificates, which gets newer revocation lists from the file.
    """
    if is_listed(path, files):
        return server_credentials(settings)
    return FollowedSettings(path, settings, check).credentials()


def is_listed(path: Path, files: FileList | None) -> bool:
    """Return whether a file is part of a sealed release. Such a file never changes."""
    return files is not None and files.relative(path) is not None


class Followed(abc.ABC):
    """TLS settings that follow their source. New connections use new settings, and open connections stay open.

    Invalid new settings are logged once, and the previous settings stay in force.

    Args:
        settings: The current settings.
        source: The source in the log.
        seen: The mark of the source (see `_mark`) when the settings were read.
    """

    affects_clients: ClassVar[bool] = True
    """Whether new settings can contain other authorities or revocation lists for client certificates."""
    unchanged: ClassVar[str] = "the previous TLS settings stay in force"
    """The beginning of a log line about new settings that are not used."""

    def __init__(self, settings: SslConfig, *, source: object, seen: object) -> None:
        self._settings = settings
        self._source = source
        self._seen = seen
        self._rejected = seen
        self._news: SslConfig | None = None
        self._lock = threading.Lock()

    def credentials(self) -> grpc.ServerCredentials:
        """Return the settings in gRPC's form. gRPC asks for newer settings at each handshake."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._settings),
            self.newer,  # type: ignore[arg-type]  # documented: "or None if no change"
            require_client_authentication=self._settings.client_verify,
        )

    def newer(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the result of `newer_settings` in gRPC's form. It raises no errors."""
        settings = self.newer_settings()
        return None if settings is None else _configuration(settings)

    def newer_settings(self) -> SslConfig | None:
        """Return the source's settings if they changed since the last call, else None. It raises no errors."""
        with self._lock:
            self._look()
            news, self._news = self._news, None
            return news

    def _look(self) -> None:
        """Look for new settings, and use them if there are any. It raises no errors."""
        # Get the mark before the settings. If the source changes in between, the next look reads it again.
        mark = self._mark()
        if mark == self._seen:
            return
        try:
            settings = self._read()
        except SealserveError as error:
            if mark != self._rejected:
                logger.error("%s: %s", self.unchanged, error.message)  # noqa: TRY400  # one line
            self._rejected = mark
            if not isinstance(error, CertificateNotYetValidError):  # that error ends without a change of the source
                self._seen = mark
            return
        except Exception:
            logger.exception("%s: reading %s failed unexpectedly", self.unchanged, self._source)
            self._seen = mark
            return
        self._seen = mark
        self._use(settings)

    @abc.abstractmethod
    def _mark(self) -> object:
        """Return a value that is different after each change of the source. It raises no errors."""

    @abc.abstractmethod
    def _read(self) -> SslConfig:
        """Return the source's settings.

        Raises:
            SealserveError: The settings cannot be used.
        """

    @abc.abstractmethod
    def _use(self, settings: SslConfig) -> None:
        """Replace ``_settings`` and ``_news`` by the settings that were read, if they may be used."""


class FollowedSettings(Followed):
    """TLS settings that follow their file. New connections use a renewed certificate, and open connections stay open.

    Newer revocation lists also affect open connections, through the check. If the new file is invalid, the previous
    settings stay in force, and one line is logged. Whether client certificates are required cannot change.

    Args:
        path: The file. Links are followed, because Kubernetes renews a mounted secret by changing a link.
        settings: The settings that were read from it.
        check: The check that gets newer revocation lists, or None.
    """

    def __init__(self, path: Path, settings: SslConfig, check: PeerCheck | None = None) -> None:
        super().__init__(settings, source=path, seen=_UNKNOWN)  # the file may have changed since it was read
        self._path = path
        self._check = check
        if check is not None:
            check.look = self.look

    def look(self) -> None:
        """Pass newer revocation lists of the file to the check, if the file changed. It raises no errors.

        Otherwise the check would get them only at the next handshake. `newer_settings` still returns the new settings.
        """
        with self._lock:
            self._look()

    def _mark(self) -> object:
        return _identity(self._path)

    def _read(self) -> SslConfig:
        return read_tls_settings(self._path, None, now=datetime.now(UTC))

    def _use(self, settings: SslConfig) -> None:
        if settings == self._settings:
            return
        if settings.client_verify != self._settings.client_verify:
            logger.error("%s: client_verify cannot change while the server runs", self.unchanged)
            return
        self._settings = self._news = settings
        if self._check is not None:
            self._check.use(settings.revoked)
        logger.info("loaded new TLS settings from %s for new connections", self._path)


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
