"""The enclave's request for its key: the stand-in for Gramine's ``libsecret_prov_attest.so``.

`fetch_result` requests an attestation result and no key. It uses a protocol of sealserve's own, selected by ALPN.

It reads the same measured variables, ``SECRET_PROVISION_SERVERS`` and ``SECRET_PROVISION_CA_CHAIN_PATH``, and takes the
same steps. It connects to the first server of the list that accepts, creates the quote, and completes the TLS
handshake. Then it sends the request, and receives 16 bytes.

Source: Gramine 1.9, ``tools/sgx/ra-tls/secret_prov_attest.c``. Unlike there, a connection attempt has a time limit.
"""

import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

from cryptography.hazmat.primitives import serialization

from sealserve.attestation.ra_tls import RaTlsKeyPair, make_certificate
from sealserve.attestation.result_request import PROTOCOL, ResultClient, ResultRequest
from sealserve.attestation.secret_provisioning import REQUEST, ProvisioningClient
from sealserve.enclave.codes import EnclaveCode
from sealserve.errors import SealserveError
from sealserve.secret import SecretBytes

_RECORD: Final = 16 * 1024
_Client = TypeVar("_Client", ProvisioningClient, ResultClient)


@dataclass(frozen=True, slots=True)
class BrokerConnection:
    """A connection that a broker accepted: the socket, and the broker's measured host and port."""

    socket: socket.socket
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def connect(brokers: list[tuple[str, int]], *, timeout: float) -> BrokerConnection:
    """Connect to the first broker that accepts a connection.

    Args:
        brokers: Hosts and ports, in order of preference.
        timeout: Maximum seconds for each attempt.

    Raises:
        UnavailableError: `provisioning.unreachable`: No broker accepts a connection.
    """
    reasons = []
    for host, port in brokers:
        try:
            return BrokerConnection(socket.create_connection((host, port), timeout=timeout), host, port)
        except OSError as error:
            reasons.append(f"{host}:{port}: {error.strerror or error}")
    raise EnclaveCode.PROVISIONING_UNREACHABLE.error(
        f"No broker accepts a connection: {'; '.join(reasons)}.",
        hint="Start the broker with `sealserve broker run`, or check its address, which is measured into the enclave.",
    )


def fetch_key(
    broker: BrokerConnection,
    *,
    broker_ca: bytes,
    quote_for: Callable[[bytes], bytes],
    now: datetime,
    timeout: float,
) -> SecretBytes:
    """Attest to a broker over a new connection, and return the key of 16 bytes.

    Steps:

    1. Create a key pair, and have it quoted.
    2. Complete the TLS handshake. ``broker_ca`` must have issued the broker's certificate for the broker's measured
       host, which is a name or an address.
    3. Send the request, and receive the secret.

    Args:
        broker: The connection that `connect` returned. It is closed at the end.
        broker_ca: Certificates in PEM form. No others are trusted.
        quote_for: Returns a quote with the given report data.
        now: The current time, for the dates in the enclave's certificate.
        timeout: Maximum seconds to wait for each answer. The broker may download collateral during this time.

    Raises:
        VerificationError: `provisioning.broker-certificate`: (1) (2) ``broker_ca`` is not a certificate, or did not
            issue the broker's certificate.
        VerificationError: `provisioning.refused`: (2) (3) The broker rejected the evidence.
        UnavailableError: `provisioning.connection`: (2) (3) The connection broke, or the server is not a broker.
        SealserveError: The errors of ``quote_for`` and `ProvisioningClient`.
    """
    pair = make_certificate(quote_for, now)  # (1)
    with _attested_session(broker, pair, broker_ca=broker_ca, timeout=timeout) as session:  # (2)
        session.sendall(REQUEST)  # (3)
        return _receive(session, broker, ProvisioningClient()).secret()


def fetch_result(
    broker: BrokerConnection,
    request: ResultRequest,
    *,
    broker_ca: bytes,
    quote_for: Callable[[bytes], bytes],
    now: datetime,
    timeout: float,
) -> str:
    """Attest to a broker over a new connection, and return an attestation result as a token.

    The token is not verified: the enclave does not have the broker's keys. The steps, arguments and errors are the same
    as for `fetch_key`, with the protocol of `sealserve.attestation.result_request`.

    Args:
        broker: As in `fetch_key`.
        request: The audience and the nonce of the result.
        broker_ca: As in `fetch_key`.
        quote_for: As in `fetch_key`.
        now: As in `fetch_key`.
        timeout: As in `fetch_key`.
    """
    pair = make_certificate(quote_for, now)
    with _attested_session(broker, pair, broker_ca=broker_ca, timeout=timeout, protocol=PROTOCOL) as session:
        session.sendall(request.to_bytes())
        return _receive(session, broker, ResultClient()).token()


@contextlib.contextmanager
def _attested_session(
    broker: BrokerConnection, pair: RaTlsKeyPair, *, broker_ca: bytes, timeout: float, protocol: bytes | None = None
) -> Iterator[ssl.SSLSocket]:
    """Yield a TLS session with the broker. Errors of the session and of its use are mapped; see `fetch_key`."""
    with broker.socket as connection:
        context = _context(broker_ca, pair)
        if protocol is not None:  # Gramine's client sends no ALPN extension
            context.set_alpn_protocols([protocol.decode()])
        connection.settimeout(timeout)
        try:
            with context.wrap_socket(connection, server_hostname=broker.host) as session:
                if protocol is not None and session.selected_alpn_protocol() != protocol.decode():
                    raise _unsupported(broker, protocol)
                yield session
        except ssl.SSLCertVerificationError as error:
            raise EnclaveCode.PROVISIONING_BROKER_CERTIFICATE.error(
                f"The certificate of the broker at {broker} does not verify: {error.verify_message}.",
                hint="Check the broker's address and certificate: the measured broker CA must have issued the "
                "certificate for exactly this host name or address.",
            ) from error
        except ssl.SSLError as error:
            # Python has no name for this alert, so its reason may be missing.
            if protocol is not None and "no application protocol" in str(error).replace("_", " ").lower():
                raise _unsupported(broker, protocol) from error
            if "ALERT" in (error.reason or ""):
                raise _refusal(broker) from error
            raise EnclaveCode.PROVISIONING_CONNECTION.error(
                f"The server at {broker} is not a broker: the TLS handshake failed: {error.reason or error}.",
                hint="Check the broker's address, and start the broker with `sealserve broker run`.",
            ) from error
        except TimeoutError as error:
            raise EnclaveCode.PROVISIONING_CONNECTION.error(
                f"The broker at {broker} did not answer within {timeout:g} s.",
                hint="Check the broker's log: it may be downloading collateral slowly.",
            ) from error
        except OSError as error:
            raise EnclaveCode.PROVISIONING_CONNECTION.error(
                f"The connection to the broker at {broker} broke: {error.strerror}.",
                hint="Check that the broker runs, and start the enclave again.",
            ) from error


def _receive(session: ssl.SSLSocket, broker: BrokerConnection, client: _Client) -> _Client:
    while data := session.recv(_RECORD):
        if client.receive(data):
            break
    if not client.started:
        raise _refusal(broker)
    client.end()
    return client


def _refusal(broker: BrokerConnection) -> SealserveError:
    return EnclaveCode.PROVISIONING_REFUSED.error(
        f"The broker at {broker} rejected this enclave: it closed the connection after it received the evidence.",
        hint="Read the reason in the broker's audit log: run `sealserve broker log` on the owner's machine.",
    )


def _unsupported(broker: BrokerConnection, protocol: bytes) -> SealserveError:
    return EnclaveCode.PROVISIONING_CONNECTION.error(
        f"The broker at {broker} does not support the protocol {protocol.decode()}.",
        hint="Install the current version of sealserve on the owner's machine.",
    )


def _context(broker_ca: bytes, pair: RaTlsKeyPair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=broker_ca.decode("ascii", "replace"))
    except ssl.SSLError as error:
        raise EnclaveCode.PROVISIONING_BROKER_CERTIFICATE.error(
            "The measured broker CA cannot be read: expected certificates in PEM form.",
            hint="Build the enclave again with the broker's CA certificate.",
        ) from error
    with _unlinked(pair) as path:
        context.load_cert_chain(path)
    return context


@contextlib.contextmanager
def _unlinked(pair: RaTlsKeyPair) -> Iterator[str]:
    """Yield a path to the certificate and key in memory, because the module ``ssl`` reads them only from files."""
    key = pair.private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    descriptor = os.memfd_create("ra-tls", os.MFD_CLOEXEC)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as stream:
            stream.write(key + ssl.DER_cert_to_PEM_cert(pair.certificate).encode())
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.ftruncate(descriptor, 0)
        os.close(descriptor)
