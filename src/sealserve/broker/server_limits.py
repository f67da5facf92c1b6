"""The limits that the broker's server sets to the resources of its peers."""

from dataclasses import dataclass, replace
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits on the resources of peers. Times are in seconds.

    Args:
        connections: The maximum number of connections that have sent a byte. Each one occupies a thread.
        silent: The maximum number of connections that have not sent a byte yet. They occupy no thread. At the limit, a
            new connection replaces one of them, so that a flood of up to ``silent / quoting`` new connections per
            second disconnects no enclave.
        quoting: How long an enclave is silent while it generates its quote. Under a flood, an admitted peer is replaced
            before this time only if all silent peers are younger.
        appraisals: The maximum number of concurrent appraisals.
        downloads: The maximum number of requests that wait for a download of collateral. They occupy no appraisal.
        first_byte: How long a peer may be silent after connecting. Gramine's client generates its quotes in this time.
        handshake: The maximum duration of the TLS handshake from its first byte.
        request: The maximum duration of the request. An enclave that gets its quote in this time has ``quoting`` more.
        queue: How long a request may wait for its appraisal to begin.
        send: The maximum time for the peer to receive its key.
        linger: How long to wait for the peer to close the connection.
        stop: How long appraisals in progress may take when the server stops.
    """

    connections: int = 128
    silent: int = 4096
    quoting: float = 3
    appraisals: int = 4
    downloads: int = 32
    first_byte: float = 60
    handshake: float = 15
    request: float = 15
    queue: float = 30
    send: float = 15
    linger: float = 5
    stop: float = 10

    def divided(self, processes: int) -> Self:
        """Return the limits of one of several processes, so that the broker as a whole keeps to these limits.

        The supervisor holds the silent connections of all processes. Appraisals are bound by the processor time of a
        process, so each process has their full number.
        """
        return replace(
            self, connections=max(self.connections // processes, 1), downloads=max(self.downloads // processes, 1)
        )
