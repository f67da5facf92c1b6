"""The broker's certificate and private key, which can be replaced while the broker runs.

A new pair replaces the former pair only after these checks:

1. The private key matches the certificate. A replacement writes two files, so a reader can find a new key beside an
   old certificate.
2. The certificate is valid now, and so is its issuer, if the chain contains it. Enclaves reject an expired certificate.
3. Each certificate of the chain is issued by the next one. A chain in another order fails in mbedTLS, which Gramine's
   client uses.
4. The certificate is for TLS servers, and contains the names and addresses by which enclaves reach the broker.
5. A TLS handshake in memory succeeds with it, because OpenSSL rejects some keys only when they are used.

A connection keeps the pair with which its handshake began.
"""

import ipaddress
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from OpenSSL import SSL

from sealserve.broker.codes import BrokerCode
from sealserve.broker.reloaded import Reloaded
from sealserve.broker.tls import sends_session_tickets, server_context
from sealserve.pki.certificate import CertificateInfo, CertifiedKey, describe, parse_chain
from sealserve.pki.tls_material import check_chain

_LOG: Final = logging.getLogger(__name__)
_SOURCE: Final = "the broker's certificate"
_EXPIRES_SOON: Final = timedelta(days=14)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerCertificate:
    """The broker's certificate in the workspace, as a running broker checks it.

    Args:
        ends: The expiry time, UTC. `None` if the certificate cannot be used.
        problem: Why a running broker keeps its former certificate. `None` if it accepts this certificate.
    """

    ends: datetime | None
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Presented:
    """The certificate that the broker presents.

    Args:
        context: The server's TLS context with the certificate and its key.
        chain_pem: The certificate chain, PEM.
        ends: The expiry time of the certificate, UTC.
        tickets: Whether the server sends TLS 1.3 session tickets, which Gramine 1.8's client does not support.
        identity: The certificate chain and its key, for another server of the same process.
    """

    context: SSL.Context
    chain_pem: bytes
    ends: datetime
    tickets: bool
    identity: CertifiedKey = field(repr=False)

    def check(self, now: datetime) -> None:
        """Check that enclaves can accept the certificate at ``now``. See `sealserve.pki.tls_material.check_chain`."""
        check_chain(self.chain_pem, now, source=_SOURCE)

    def warn(self, now: datetime) -> None:
        """Log the properties of the certificate that will need attention."""
        for outside in check_chain(self.chain_pem, now, source=_SOURCE):
            _LOG.warning("the broker's certificate chain contains a certificate that is not valid now: %s", outside)
        if self.ends - now < _EXPIRES_SOON:
            _LOG.warning("the broker's certificate expires on %s: renew it", f"{self.ends:%Y-%m-%d %H:%M} UTC")
        if self.tickets:
            _LOG.warning("TLS 1.3 session tickets are enabled: Gramine 1.8's client will fail (see openssl_settings)")


class ServerIdentity(Reloaded[Presented]):
    """The newest valid certificate of the broker.

    Args:
        read: Reads the certificate chain and the private key.
        files: The files that ``read`` reads.
        names: The names and IP addresses that a new certificate must contain.
        protocols: The protocols that a client can select by ALPN.
        clock: Returns the time on the owner's clock.

    Raises:
        SealserveError: The first certificate cannot be used. Its dates are not checked.
    """

    def __init__(
        self,
        read: Callable[[], CertifiedKey],
        *,
        files: Iterable[Path] = (),
        names: Sequence[str] = (),
        protocols: Sequence[bytes] = (),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        first = True

        def load() -> Presented:
            nonlocal first
            if first:  # `BrokerServer.start` checks its dates, when the owner sees the error
                first = False
                return _presented(read(), protocols)
            presented = check_replacement(read(), names, clock(), protocols=protocols)
            presented.warn(clock())
            return presented

        super().__init__(load, what="certificate", files=files)

    @classmethod
    def fixed(cls, identity: CertifiedKey, protocols: Sequence[bytes] = ()) -> "ServerIdentity":
        """Return an identity that never changes."""
        return cls(lambda: identity, protocols=protocols)


def check_replacement(
    identity: CertifiedKey, names: Sequence[str], now: datetime, *, protocols: Sequence[bytes] = ()
) -> Presented:
    """Check that a running broker accepts a new certificate and key (steps 1 to 5 of the module).

    Args:
        identity: The new pair.
        names: The names and IP addresses that the certificate must contain.
        now: The time of the check.
        protocols: The protocols that a client can select by ALPN.

    Raises:
        SealserveError: The broker keeps its former certificate.
    """
    # 1. Does the private key match?
    presented = _presented(identity, protocols)
    # 2. Is the chain valid now?
    presented.check(now)
    # 3. Is the chain in order?
    chain = parse_chain(identity.chain_pem, source=_SOURCE)
    for certificate, issuer in pairwise(chain):
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
            raise BrokerCode.CERTIFICATE_UNUSABLE.error(
                f"The chain of the broker's certificate is broken: {certificate.subject.rfc4514_string()} is not issued"
                f" by the next certificate, {issuer.subject.rfc4514_string()}.",
                hint="Write the certificate first, and each certificate's issuer after it.",
            ) from error
    # 4. Will enclaves accept it as the broker's certificate?
    info = describe(identity.chain_pem, source=_SOURCE)[0]
    if info.authority or (info.purposes and "server" not in info.purposes):
        raise BrokerCode.CERTIFICATE_UNUSABLE.error(
            f"The certificate {info.subject} is not for a TLS server.",
            hint="Run `sealserve certs renew` to issue the broker's certificate again.",
        )
    if missing := [name for name in names if not _covers(info, name)]:
        raise BrokerCode.CERTIFICATE_UNUSABLE.error(
            f"The certificate {info.subject} does not contain a name of the broker: expected {', '.join(missing)}.",
            hint="Run `sealserve certs renew`. If broker.name or broker.address changed, restart the broker.",
        )
    return presented


def _presented(identity: CertifiedKey, protocols: Sequence[bytes]) -> Presented:
    try:
        context = server_context(identity, protocols=protocols)
        # 5. Does a handshake succeed? It also shows whether the server sends session tickets.
        tickets = sends_session_tickets(context)
    except SSL.Error as error:
        raise BrokerCode.CERTIFICATE_UNUSABLE.error(
            "OpenSSL cannot use the broker's certificate and key.",
            hint="Run `sealserve certs renew` to issue the broker's certificate again.",
        ) from error
    ends = describe(identity.chain_pem, source=_SOURCE)[0].not_after
    return Presented(context=context, chain_pem=identity.chain_pem, ends=ends, tickets=tickets, identity=identity)


def _covers(info: CertificateInfo, name: str) -> bool:
    try:
        return ipaddress.ip_address(name.strip("[]")) in info.addresses
    except ValueError:
        wanted, known = name.lower().rstrip("."), {known.lower() for known in info.names}
        # A wildcard stands for one label (RFC 6125, section 6.4.3).
        return wanted in known or f"*.{wanted.partition('.')[2]}" in known
