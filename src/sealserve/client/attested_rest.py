"""Verify the replica at the end of each connection of a REST client, on this connection itself."""

import ssl
import time
from datetime import UTC, datetime

from sealserve.client.attested import AttestedPolicy, VerifiedReplicas, verify_connection
from sealserve.client.credentials import Credentials, Endpoint
from sealserve.client.noted_connection import EndpointTls, noted


class RestVerifier:
    """Verifies the connections of one REST client. It is not thread-safe.

    Args:
        endpoint: The address of the service.
        credentials: The service's name and CA, and the client's certificate.
        policy: The user's policy.
    """

    def __init__(self, endpoint: Endpoint, credentials: Credentials, policy: AttestedPolicy) -> None:
        self._endpoint, self._policy = endpoint, policy
        self._tls = EndpointTls.of_credentials(credentials)
        self._replicas = VerifiedReplicas()
        self._certificate = b""

    def verify(self, stream: ssl.SSLSocket, timeout: float) -> None:
        """Verify the replica at the end of a new connection, unless it is known by its certificate.

        Args:
            stream: The connection, on which nothing was sent.
            timeout: Seconds for the evidence.

        Raises:
            SealserveError: As `verify_connection`.
        """
        connection = noted(stream, self._endpoint, self._tls, deadline=time.monotonic() + timeout)
        if self._replicas.find(connection.certificate, now=datetime.now(UTC)) is None:
            self._replicas.add(verify_connection(connection, self._policy))
        self._certificate = connection.certificate

    def has_expired(self) -> bool:
        """Return whether the last verified connection needs new evidence."""
        return self._replicas.find(self._certificate, now=datetime.now(UTC)) is None
