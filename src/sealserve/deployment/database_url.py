"""The URL of a PostgreSQL database in ``sealserve.toml``, parsed without a database driver.

The form is ``postgresql://USER@HOST[:PORT][,HOST[:PORT]...]/NAME[?KEY=VALUE&...]``. Only the parameters
of `_PARAMETERS` are accepted: others could turn off a protection (``options``, ``sslrootcert``) or name a password.

Source: PostgreSQL 15 documentation, section 34.1.1.2, "Connection URIs", and 34.1.2, "Parameter Key Words".
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated, Final
from urllib.parse import parse_qsl, unquote

from pydantic import AfterValidator

from sealserve.tcp_ports import LARGEST_PORT

SCHEME: Final = "postgresql://"
VERIFIED: Final = "verify-full"
"""The only ``sslmode`` in which the server's certificate and name are verified."""

_PARAMETERS: Final = frozenset({"host", "port", "passfile", "sslcert", "sslkey", "sslmode", "target_session_attrs"})
_AUTHORITY: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]*)(?::([0-9]{1,5}))?")
_EXAMPLE: Final = "expected postgresql://USER@HOST/NAME"


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresqlUrl:
    """A parsed URL. It contains no password.

    Args:
        user: The role that connects.
        hosts: Host names, IP addresses, or absolute folders of Unix sockets.
        ports: One port for each host, or an empty text for the default port.
        database: The name of the database.
        parameters: The other parameters.
    """

    user: str
    hosts: tuple[str, ...]
    ports: tuple[str, ...]
    database: str
    parameters: Mapping[str, str]

    @property
    def is_local(self) -> bool:
        """Whether the connection stays on this machine: a Unix socket or a loopback address."""
        return all(host.startswith("/") or host == "localhost" or _is_loopback(host) for host in self.hosts)

    @property
    def is_verified(self) -> bool:
        """Whether the server's certificate and name are verified. This is the default for another machine."""
        default = "prefer" if self.is_local else VERIFIED
        return self.parameters.get("sslmode", default) == VERIFIED

    def __str__(self) -> str:
        """Return the name for messages: user, hosts and database."""
        places = (
            f"{f'[{host}]' if ':' in host else host}{port and f':{port}'}"
            for host, port in zip(self.hosts, self.ports, strict=True)
        )
        return f"{SCHEME}{self.user}@{','.join(places)}/{self.database}"


def parse_database_url(text: str) -> PostgresqlUrl:
    """Parse the URL of a PostgreSQL database.

    Raises:
        ValueError: The URL is malformed, contains a password, or has a parameter that is not accepted. The message
            never contains the URL, because it may contain a password.
    """
    rest = text.removeprefix(SCHEME)
    if rest == text or not text.isprintable() or "#" in text or " " in text:
        raise ValueError(_EXAMPLE)
    authority, _, after = rest.partition("/")
    database, _, query = after.partition("?")
    user, at, places = authority.rpartition("@")
    if ":" in user:
        raise ValueError("a password in the URL is not accepted: use database.password_file")
    if not at or not user or not database:
        raise ValueError(f"{_EXAMPLE}: the user or the name of the database is missing")
    parameters = _parameters(query)
    found = list(_places(places)) if places else []
    if "host" in parameters:
        if found:
            raise ValueError("expected one host: before the name of the database, or in the parameter 'host'")
        found = [(parameters.pop("host"), parameters.pop("port", ""))]
    if not found or any(not host for host, _ in found):
        raise ValueError("expected a host, or the folder of a Unix socket: ?host=/run/postgresql")
    if any(port and not (port.isascii() and port.isdigit() and 0 < int(port) <= LARGEST_PORT) for _, port in found):
        raise ValueError(f"expected a port from 1 to {LARGEST_PORT}")
    if "port" in parameters:
        raise ValueError("expected the port after the host: HOST:PORT")
    return PostgresqlUrl(
        user=unquote(user),
        hosts=tuple(host for host, _ in found),
        ports=tuple(port for _, port in found),
        database=unquote(database),
        parameters=parameters,
    )


def _parameters(query: str) -> dict[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a parameter of the URL occurs twice")
    for name in found:
        if name not in _PARAMETERS:
            raise ValueError(f"the parameter {name!r:.40} is not accepted: expected {', '.join(sorted(_PARAMETERS))}")
    if any("\0" in value for value in found.values()):
        raise ValueError(_EXAMPLE)
    return found


def _places(text: str) -> Iterator[tuple[str, str]]:
    for place in text.split(","):
        match = _AUTHORITY.fullmatch(place)
        if match is None:
            raise ValueError("expected HOST or HOST:PORT, with brackets around an IPv6 address")
        yield unquote(match[1].strip("[]")), match[2] or ""


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _checked(text: str) -> str:
    parse_database_url(text)
    return text


DatabaseUrl = Annotated[str, AfterValidator(_checked)]
"""The URL of a PostgreSQL database, without a password."""
