"""Verified connections to the service."""

import asyncio
import contextlib
import os
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from sealserve.attested.evidence_conversation import PresentedService
from sealserve.client.connection_fault import (
    DIAGNOSIS_SECONDS,
    HTTP1,
    HTTP2,
    UnreachableError,
    connection_failure,
    find_fault,
    other_protocol,
)
from sealserve.client.credentials import Endpoint
from sealserve.client.noted_connection import EndpointTls, noted_connection
from sealserve.daemon_thread import in_thread
from sealserve.errors import SealserveError
from sealserve.proxy.codes import ProxyCode
from sealserve.proxy.first_bytes import Protocol
from sealserve.proxy.verifier import EvidenceSource, ReplicaVerifier, Verification, key_of

CHUNK: Final = 256 * 1024
"""Bytes that are read at once. Each direction of a connection buffers a few times as many."""
_CONNECT_SECONDS: Final = 10.0
_TOTAL_SECONDS: Final = 40.0
_SHUTDOWN_SECONDS: Final = 2.0
_MOST_CONNECTIONS: Final = 16
"""How many connections are held to find a replica again. NGINX gives a new one to the replica with the fewest."""
_ROUNDS: Final = 3
_ALPN: Final[Mapping[Protocol, bytes]] = {Protocol.HTTP2: HTTP2, Protocol.HTTP1: HTTP1}


@dataclass(slots=True, kw_only=True, eq=False)
class Upstream:
    """A verified connection.

    Args:
        reader: Bytes from the service.
        writer: Bytes to the service.
        certificate: The certificate of the connection, DER.
        source: Requests the replica's evidence again.
        verification: The verification of the replica. It is replaced before it expires.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    certificate: bytes = field(repr=False)
    source: EvidenceSource = field(repr=False)
    verification: Verification


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The addresses of the service, and how connections to it are verified.

    Args:
        grpc: Address of the gRPC port.
        rest: Address of the REST port, or `None`.
        tls: The TLS settings.
        verifier: The verifier.
    """

    grpc: Endpoint
    rest: Endpoint | None
    tls: EndpointTls
    verifier: ReplicaVerifier

    async def open(self, protocol: Protocol) -> Upstream:
        """Return a verified connection. No byte of a client was sent on it.

        Raises:
            InputError: `proxy.rest-unknown`: The client needs REST, but its address is unknown.
            VerificationError: The replica is not verified, or the TLS handshake failed.
            UnavailableError: The service is not reachable, or does not answer in time.
        """
        if (endpoint := self.grpc if protocol is Protocol.HTTP2 else self.rest) is None:
            raise ProxyCode.REST_UNKNOWN.error(
                "The client uses HTTP/1.1, but the address of the service's REST API is unknown.",
                hint="Start the proxy with --rest-address HOST:PORT, or with a client bundle that has a REST address.",
            )
        try:
            async with asyncio.timeout(_TOTAL_SECONDS):
                return await self._open(endpoint, _ALPN[protocol])
        except TimeoutError as error:
            raise ProxyCode.SERVICE_LATE.error(
                f"The service at {endpoint} was not verified within {_TOTAL_SECONDS:.0f} s.", hint="Try again."
            ) from error

    async def _open(self, endpoint: Endpoint, alpn: bytes) -> Upstream:
        source = ReplicaEvidence(endpoint=endpoint, tls=self.tls, alpn=alpn)
        for left in reversed(range(_ROUNDS)):
            # Nothing is sent on the connection before its replica is verified.
            reader, writer, certificate = await self._connect(endpoint, alpn)
            try:
                verification = await self.verifier.verify(certificate, source)
            except BaseException as error:
                writer.transport.abort()
                # The replica went away in the meantime. Another replica may be there.
                if isinstance(error, SealserveError) and error.code == ProxyCode.REPLICA_AWAY and left:
                    continue
                raise
            return Upstream(
                reader=reader, writer=writer, certificate=certificate, source=source, verification=verification
            )
        raise AssertionError("the last round returns or raises")

    async def _connect(
        self, endpoint: Endpoint, alpn: bytes
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
        context = self.tls.context(datetime.now(UTC))
        context.set_alpn_protocols([alpn.decode()])
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                reader, writer = await asyncio.open_connection(
                    endpoint.host,
                    endpoint.port,
                    ssl=context,
                    server_hostname=self.tls.server_name,
                    ssl_shutdown_timeout=_SHUTDOWN_SECONDS,
                    limit=CHUNK,
                )
        except TimeoutError as error:
            raise UnreachableError(
                f"Connecting to {endpoint} failed: no answer within {_CONNECT_SECONDS:.0f} s.",
                hint="Check the address, and that the service is running.",
            ) from error
        except OSError as error:
            raise await self._explain(endpoint, alpn, error) from error
        encrypted: ssl.SSLObject = writer.get_extra_info("ssl_object")
        certificate = encrypted.getpeercert(binary_form=True)
        if not certificate or not _accepted(encrypted.selected_alpn_protocol(), alpn):
            writer.transport.abort()
            raise other_protocol(endpoint, alpn)
        with contextlib.suppress(OSError):  # a peer that vanished must not keep the connection forever
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return reader, writer, certificate

    async def _explain(self, endpoint: Endpoint, alpn: bytes, error: OSError) -> SealserveError:
        """Return the reason for a failed connection."""
        fault = None
        if isinstance(error, ssl.SSLError) and (credentials := self.tls.authority()) is not None:
            fault = await in_thread(lambda: find_fault(endpoint, credentials, timeout=DIAGNOSIS_SECONDS, protocol=alpn))
        if error.errno is not None and not isinstance(error, ssl.SSLError | socket.gaierror):
            error = OSError(error.errno, os.strerror(error.errno))  # asyncio's texts are for programmers
        return fault or connection_failure(endpoint, error)


def _accepted(selected: str | None, alpn: bytes) -> bool:
    return selected == alpn.decode() or (selected is None and alpn == HTTP1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaEvidence:
    """Requests evidence on a separate connection to the same replica. It implements `EvidenceSource`.

    gRPC's bytes of a client cannot follow another call on one connection. Behind a load balancer, a new connection may
    reach another replica. Such connections stay open until the replica is found, so that the load balancer chooses it.

    Args:
        endpoint: The address.
        tls: The TLS settings.
        alpn: The protocol.
    """

    endpoint: Endpoint
    tls: EndpointTls
    alpn: bytes

    def __call__(self, certificate: bytes) -> PresentedService:
        """Return the evidence of the replica with a certificate.

        Raises:
            UnavailableError: `proxy.replica-away`: All connections reached other replicas.
            SealserveError: As `noted_connection` and `NotedConnection.request_evidence`.
        """
        wanted = key_of(certificate)
        deadline = time.monotonic() + _CONNECT_SECONDS
        with ExitStack() as held:
            for _ in range(_MOST_CONNECTIONS):
                if (left := deadline - time.monotonic()) <= 0:
                    break
                connection = held.enter_context(
                    noted_connection(self.endpoint, self.tls, timeout=left, protocols=(self.alpn,))
                )
                if key_of(connection.certificate) == wanted:
                    return replace(connection.request_evidence(), certificate=certificate)
        raise ProxyCode.REPLICA_AWAY.error(
            f"A replica of the service at {self.endpoint} was not verified: {_MOST_CONNECTIONS} further connections "
            "reached only other replicas.",
            hint="Try again. If the error persists, check that the load balancer distributes connections.",
        )
