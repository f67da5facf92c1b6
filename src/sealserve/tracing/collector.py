"""The address of an OpenTelemetry collector.

Source: open-telemetry/opentelemetry-proto 1.10.0, ``docs/specification.md``, "OTLP/gRPC" (default port).
"""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from sealserve.addresses import is_loopback, with_port
from sealserve.errors import SealserveError
from sealserve.tcp_ports import LARGEST_PORT
from sealserve.tracing.codes import TracingCode

DEFAULT_PORT: Final = 4317
_HOST: Final = re.compile(r"[0-9A-Za-z]([0-9A-Za-z.-]{0,251}[0-9A-Za-z])?|[0-9a-f:]{2,39}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Collector:
    """A collector.

    Args:
        host: Its DNS name or IP address.
        port: Its port for OTLP over gRPC.
        tls: Whether the connection uses TLS.
    """

    host: str
    port: int = DEFAULT_PORT
    tls: bool = True

    @classmethod
    def parse(cls, text: str) -> "Collector":
        """Return the collector with an address: ``https://HOST[:PORT]``, or ``http://...`` without TLS.

        Raises:
            InputError: `traces.endpoint`: The address is invalid. The message does not repeat a user name or password.
        """
        try:
            url = urlsplit(text)
            host, port = url.hostname or "", DEFAULT_PORT if url.port is None else url.port
        except ValueError:
            raise _invalid("expected https://HOST:PORT.") from None
        if url.scheme not in ("https", "http") or not _HOST.fullmatch(host) or not 0 < port <= LARGEST_PORT:
            raise _invalid("expected https://HOST:PORT.")
        if url.username is not None or url.path not in ("", "/") or url.query or url.fragment:
            raise _invalid("expected only a scheme, a host and a port. OTLP over gRPC has no path or user name.")
        return cls(host=host, port=port, tls=url.scheme == "https")

    @property
    def address(self) -> str:
        """The host and the port."""
        return with_port(self.host, self.port)

    @property
    def is_on_this_machine(self) -> bool:
        """Whether the host is a loopback address."""
        return is_loopback(self.host)


def _invalid(reason: str) -> SealserveError:
    return TracingCode.TRACES_ENDPOINT.error(
        f"The address of the trace collector is invalid: {reason}",
        hint="Give the address of an OTLP receiver over gRPC, such as https://collector.example.com:4317.",
    )
