"""Where a server's TLS settings come from: a file, or the identity of an attested server."""

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import grpc

from sealserve.pki.client_settings import ClientSettings, parse_client_settings
from sealserve.pki.ssl_config import SslConfig
from sealserve.serving.attested import AttestedIdentity
from sealserve.serving.file_list import FileList
from sealserve.serving.wire.credentials import (
    Followed,
    FollowedSettings,
    followed_credentials,
    is_listed,
    read_listed,
    read_tls_settings,
    usable,
)
from sealserve.serving.wire.peers import PeerCheck

logger = logging.getLogger(__name__)

_SOURCE = "the certificate of the enclave's TLS key"


class TlsSource(Protocol):
    """A source of TLS settings."""

    settings: SslConfig
    """The settings at the start."""

    def credentials(self, check: PeerCheck) -> grpc.ServerCredentials:
        """Return credentials for gRPC that follow the source. The check gets newer revocation lists."""

    def followed(self) -> Followed | None:
        """Return settings that follow the source, or None if they never change."""


def find_tls_source(path: Path | None, files: FileList | None, identity: AttestedIdentity | None) -> TlsSource | None:
    """Return the source of TLS settings, or None for plaintext.

    Args:
        path: The file with the TLS settings, or None. With an identity, it contains only the settings for client
            certificates, and without the file, the server accepts every client.
        files: The list of the files that may be loaded.
        identity: The identity of an attested server, or None.

    Raises:
        SealserveError: The settings cannot be used.
    """
    if identity is not None:
        return IdentityTls(identity, path, files)
    return None if path is None else FileTls(path, files)


class FileTls:
    """TLS settings in a file.

    Args:
        path: The file.
        files: The list of the files that may be loaded.

    Raises:
        SealserveError: See `read_tls_settings`.
    """

    def __init__(self, path: Path, files: FileList | None) -> None:
        self._path = path
        self._files = files
        self.settings = read_tls_settings(path, files, now=datetime.now(UTC))

    def credentials(self, check: PeerCheck) -> grpc.ServerCredentials:
        """Return credentials that follow the file."""
        return followed_credentials(self._path, self._files, self.settings, check)

    def followed(self) -> Followed | None:
        """Return settings that follow the file, or None for a listed file, which never changes."""
        return None if is_listed(self._path, self._files) else FollowedSettings(self._path, self.settings)


class IdentityTls:
    """TLS settings with the key and certificate of an identity. The settings for clients are read once.

    Args:
        identity: The identity.
        path: The file with the settings for client certificates, or None for one-way TLS.
        files: The list of the files that may be loaded.

    Raises:
        SealserveError: The settings cannot be used.
    """

    def __init__(self, identity: AttestedIdentity, path: Path | None, files: FileList | None) -> None:
        self._identity = identity
        self._clients = (
            ClientSettings() if path is None else parse_client_settings(read_listed(path, files), source=str(path))
        )
        self._renewals = identity.renewals
        self.settings = identity_settings(identity, self._clients)

    def credentials(self, check: PeerCheck) -> grpc.ServerCredentials:  # noqa: ARG002  # the lists do not change
        """Return credentials that follow the identity."""
        return self.followed().credentials()

    def followed(self) -> Followed:
        """Return settings that follow the identity."""
        return _FollowedIdentity(self._identity, self._clients, self.settings, self._renewals)


class _FollowedIdentity(Followed):
    """TLS settings that follow an identity. If a new certificate is invalid, the previous one stays in force."""

    affects_clients = False
    unchanged = "the previous certificate stays in force"

    def __init__(self, identity: AttestedIdentity, clients: ClientSettings, settings: SslConfig, renewals: int) -> None:
        super().__init__(settings, source="the new one", seen=renewals)
        self._identity = identity
        self._clients = clients

    def _mark(self) -> object:
        return self._identity.renewals

    def _read(self) -> SslConfig:
        return identity_settings(self._identity, self._clients)

    def _use(self, settings: SslConfig) -> None:
        self._settings = self._news = settings
        logger.info("new connections use the renewed certificate of the enclave's TLS key")


def identity_settings(identity: AttestedIdentity, clients: ClientSettings) -> SslConfig:
    """Return the current TLS settings of an identity.

    Args:
        identity: The identity.
        clients: The settings for client certificates.

    Raises:
        SealserveError: The certificate is not valid now, or is not for the TLS key. Or a library cannot use it.
    """
    settings = clients.with_key(identity.private_key_pem(), identity.certificate_chain)
    return usable(settings, source=_SOURCE, now=datetime.now(UTC))
