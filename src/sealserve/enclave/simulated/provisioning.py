"""The enclave's way to its key: the stand-in for Gramine's ``libsecret_prov_attest.so``.

It reads the same measured variables, ``SECRET_PROVISION_SERVERS`` and ``SECRET_PROVISION_CA_CHAIN_PATH``, and goes the
same way: connect to the first server of the list that accepts, make the quotes, shake hands, ask, take 16 bytes.

Source: Gramine 1.9, ``tools/sgx/ra-tls/secret_prov_attest.c``. Unlike there, connecting has a time limit.
"""

import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives import serialization

from sealserve.attestation.ra_tls import RaTlsKeyPair, make_certificate
from sealserve.attestation.secret_provisioning import REQUEST, ProvisioningClient
from sealserve.enclave.codes import EnclaveCode
from sealserve.errors import SealserveError
from sealserve.secret import SecretBytes

_RECORD: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class BrokerConnection:
    """A connection that a broker accepted: the socket, and the broker's measured name and port."""

    socket: socket.socket
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def connect(brokers: list[tuple[str, int]], *, timeout: float) -> BrokerConnection:
    """Connect to the first broker that accepts.

    Args:
        brokers: Hosts and ports.
        timeout: Seconds for each.

    Raises:
        UnavailableError: `provisioning.unreachable`: None does.
    """
    reasons = []
    for host, port in brokers:
        try:
            return BrokerConnection(socket.create_connection((host, port), timeout=timeout), host, port)
        except OSError as error:
            reasons.append(f"{host}:{port}: {error.strerror or error}")
    raise EnclaveCode.PROVISIONING_UNREACHABLE.error(
        f"The broker is down or cannot be reached ({'; '.join(reasons)}).",
        hint="Start it (`sealserve broker run`), or check the address: it is measured into the enclave.",
    )


def fetch_key(
    broker: BrokerConnection,
    *,
    broker_ca: bytes,
    quote_for: Callable[[bytes], bytes],
    now: datetime,
    timeout: float,
) -> SecretBytes:
    """Attest over a fresh connection to a broker, and return the key, 16 bytes.

    Steps: (1) make a key and have it quoted; (2) TLS handshake: the broker's certificate must be issued by
    ``broker_ca`` for its measured name, a name or an address; (3) ask, and take the secret.

    Args:
        broker: From `connect`. It is closed at the end.
        broker_ca: Certificates in PEM form, the only ones that are trusted.
        quote_for: Returns a quote with the given report data.
        now: For the certificate's dates.
        timeout: Seconds to wait for each answer; the broker may fetch collateral meanwhile.

    Raises:
        VerificationError: `provisioning.broker-certificate`: (1) (2) ``broker_ca`` is no certificate, or the broker
            shows another one.
        VerificationError: `provisioning.refused`: (2) (3) The broker turned the evidence down.
        UnavailableError: `provisioning.connection`: (2) (3) The connection broke, or there is no broker.
        SealserveError: What ``quote_for`` and `ProvisioningClient` raise.
    """
    with broker.socket as connection:
        context = _context(broker_ca, make_certificate(quote_for, now))  # (1)
        connection.settimeout(timeout)
        try:
            with context.wrap_socket(connection, server_hostname=broker.host) as session:  # (2)
                session.sendall(REQUEST)  # (3)
                return _receive(session, broker)
        except ssl.SSLCertVerificationError as error:
            raise EnclaveCode.PROVISIONING_BROKER_CERTIFICATE.error(
                f"The certificate of the broker at {broker} does not verify: {error.verify_message}.",
                hint="It must be issued by the measured broker CA, for this very name or address.",
            ) from error
        except ssl.SSLError as error:
            if "ALERT" in (error.reason or ""):
                raise _refusal(broker) from error
            raise EnclaveCode.PROVISIONING_CONNECTION.error(
                f"At {broker} there is no broker: {error.reason or error}."
            ) from error
        except TimeoutError as error:
            raise EnclaveCode.PROVISIONING_CONNECTION.error(
                f"The broker at {broker} did not answer in {timeout:g} s."
            ) from error
        except OSError as error:
            raise EnclaveCode.PROVISIONING_CONNECTION.error(
                f"The connection to the broker at {broker} broke: {error.strerror}."
            ) from error


def _receive(session: ssl.SSLSocket, broker: BrokerConnection) -> SecretBytes:
    client = ProvisioningClient()
    while data := session.recv(_RECORD):
        if client.receive(data):
            break
    if not client.started:
        raise _refusal(broker)
    return client.secret()


def _refusal(broker: BrokerConnection) -> SealserveError:
    return EnclaveCode.PROVISIONING_REFUSED.error(
        f"The broker at {broker} refused this enclave: it closed the connection after it had seen the evidence.",
        hint="Why is in the broker's audit log: `sealserve broker log`.",
    )


def _context(broker_ca: bytes, pair: RaTlsKeyPair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=broker_ca.decode("ascii", "replace"))
    except ssl.SSLError as error:
        raise EnclaveCode.PROVISIONING_BROKER_CERTIFICATE.error(
            "The measured broker CA is no certificate in PEM form."
        ) from error
    with _unlinked(pair) as path:
        context.load_cert_chain(path)
    return context


@contextlib.contextmanager
def _unlinked(pair: RaTlsKeyPair) -> Iterator[str]:
    """Yield a path to certificate and key in memory: the ssl module reads them from files only."""
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
