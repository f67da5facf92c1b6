"""Where a service is that is verified by its evidence, from the options of the verbs that connect to it."""

from pathlib import Path
from typing import NamedTuple

from sealserve.cli import connection
from sealserve.cli.context import Place
from sealserve.cli.deferred_imports import deferred

with deferred:
    from sealserve.client.attested import EndpointTls
    from sealserve.client.credentials import parse_endpoint
    from sealserve.regular_file import read_regular
    from sealserve.workspace import WorkspaceMissingError


class EvidenceEndpoint(NamedTuple):
    """Addresses and TLS settings of a service.

    Args:
        address: ``host:port`` of gRPC, or of the API that the user named.
        rest: ``host:port`` of REST, or None if it is unknown.
        tls: The TLS settings.
    """

    address: str
    rest: str | None
    tls: EndpointTls


def find_endpoint(
    place: Place,
    address: str | None,
    *,
    bundle: Path | None,
    server_name: str | None,
    ca: Path | None,
    certificate: Path | None,
    key: Path | None,
) -> EvidenceEndpoint:
    """Return where the service is. Without a bundle, a workspace and --ca, no CA is checked.

    Raises:
        SealserveError: As `sealserve.cli.connection.find_access`.
    """
    try:
        reach = connection.find_access(
            place, target=address, server_name=server_name, ca=ca, certificate=certificate, key=key, bundle=bundle
        )
    except WorkspaceMissingError:
        if address is None or (key is not None and certificate is None):
            raise
        pair = None if certificate is None or key is None else connection.read_pair(certificate, key)
        tls = EndpointTls(
            server_name=server_name or parse_endpoint(address).host,
            ca=None if ca is None else read_regular(ca),
            certificate=None if pair is None else pair.chain_pem,
            key=None if pair is None else pair.key_pem,
        )
        return EvidenceEndpoint(address, None, tls)
    tls = EndpointTls(server_name=reach.server_name, ca=reach.ca, certificate=reach.certificate, key=reach.key)
    return EvidenceEndpoint(reach.target, reach.rest, tls)
