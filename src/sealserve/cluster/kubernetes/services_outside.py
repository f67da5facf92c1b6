"""The services that a broker in the cluster connects to: its database and its key service, if they are on servers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

from sealserve.addresses import is_loopback
from sealserve.cluster.kubernetes.render_context import NotRenderableError, RenderContext
from sealserve.deployment import Deployment

_POSTGRESQL_PORT: Final = 5432
_WEB_PORTS: Final = {"https": 443, "http": 80}
_FILE_PARAMETERS: Final = frozenset({"passfile", "sslcert", "sslkey"})


class Service(StrEnum):
    """The purpose of a service."""

    DATABASE = "database"
    KEYSTORE = "keystore"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The address of a service.

    Args:
        service: Its purpose.
        host: Its host name or IP address.
        port: Its port.
    """

    service: Service
    host: str
    port: int


def services_outside(described: Deployment) -> Sequence[Place]:
    """Return the services that the broker connects to. A database has one place for each of its hosts."""
    return [*_databases(described), *_key_services(described)]


def check_services(context: RenderContext) -> None:
    """Check that a broker in the cluster can use its database and its keystore.

    Raises:
        NotRenderableError: It cannot. The message states the reason, and the hint the required change.
    """
    database, keystore = context.deployment.database, context.deployment.keystore
    if keystore.kind == "pkcs11" or keystore.pkcs11_module is not None:
        raise NotRenderableError(
            "A broker in the cluster cannot use a PKCS#11 token: the token and the vendor's library are on the owner's "
            "machine, not on the cluster's nodes.",
            hint='Move the keys with keystore.kind = "transit" and `sealserve broker rotate-master`, then remove the '
            "settings pkcs11_*. Or run the broker on the owner's machine.",
        )
    if (parsed := database.parsed) is not None:
        if parsed.is_local:
            raise NotRenderableError(
                f"database.url is {parsed}: in a pod, this address refers to the pod itself.",
                hint="Set it to an address at which pods reach the server.",
            )
        if files := _FILE_PARAMETERS & parsed.parameters.keys():
            raise NotRenderableError(
                f"The broker's pod does not have the file that {min(files)} in database.url names.",
                hint="Use database.password_file to authenticate, or run the broker on the owner's machine.",
            )
    for place in _key_services(context.deployment):
        if is_loopback(place.host):
            raise NotRenderableError(
                f"keystore.transit_url is {keystore.transit_url}: in a pod, this address refers to the pod itself.",
                hint="Set it to an https URL at which pods reach Vault or OpenBao.",
            )


def _databases(described: Deployment) -> Iterator[Place]:
    if (parsed := described.database.parsed) is not None:
        for host, port in zip(parsed.hosts, parsed.ports, strict=True):
            yield Place(service=Service.DATABASE, host=host, port=int(port or _POSTGRESQL_PORT))


def _key_services(described: Deployment) -> Iterator[Place]:
    if (url := described.keystore.transit_url) is not None:
        try:
            parsed = urlsplit(url)
            host, port = parsed.hostname, parsed.port or _WEB_PORTS.get(parsed.scheme)
        except ValueError:
            host = port = None
        if host is None or port is None:
            raise NotRenderableError(
                f"keystore.transit_url is not valid: expected https://HOST:PORT, got {url!r:.200}.",
                hint="Correct keystore.transit_url in sealserve.toml.",
            )
        yield Place(service=Service.KEYSTORE, host=host, port=port)
