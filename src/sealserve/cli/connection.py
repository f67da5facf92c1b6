"""Options of the verbs that call the service, and the connections that these options describe."""

import contextlib
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sealserve.cli import console
from sealserve.cli.codes import CliCode
from sealserve.cli.context import Place
from sealserve.cli.deferred_imports import deferred

with deferred:
    from sealserve.cli.access import Access, access
    from sealserve.client.bundle import ClientBundle
    from sealserve.client.channel import ServiceChannel, open_channels
    from sealserve.client.predict import Predictor
    from sealserve.client.rest import RestPredictor
    from sealserve.pki.certificate import CertifiedKey
    from sealserve.regular_file import read_regular
    from sealserve.workspace import WorkspaceMissingError

if TYPE_CHECKING:
    from sealserve.client.attested import AttestedPolicy  # imported only for commands that verify evidence

Target = Annotated[
    str | None,
    typer.Option(
        "--address",
        "-a",
        metavar="HOST:PORT",
        help="Address of the service",
        show_default="from --bundle or sealserve.toml",
    ),
]
ServerName = Annotated[
    str | None,
    typer.Option(
        "--server-name", help="Name in the service's certificate", show_default="service.name in sealserve.toml"
    ),
]
ServiceCa = Annotated[
    Path | None,
    typer.Option("--ca", help="CA certificate of the service (PEM)", show_default="user/service-ca.pem"),
]
ClientCertificate = Annotated[
    Path | None,
    typer.Option("--cert", help="Client certificate for two-way TLS (PEM)", show_default="user/client.pem"),
]
BundleFile = Annotated[
    Path | None,
    typer.Option(
        "--bundle",
        help="Client bundle from the owner of the service: addresses, names, certificates and key in one file",
        show_default="none",
    ),
]
Rest = Annotated[
    bool, typer.Option("--rest", help="Use the REST API instead of gRPC; --address is then the address of the REST API")
]
ClientKey = Annotated[
    Path | None,
    typer.Option("--key", help="Private key of the client certificate (PEM)", show_default="user/client.key"),
]


def find_access(
    place: Place,
    *,
    target: str | None,
    server_name: str | None,
    ca: Path | None,
    certificate: Path | None,
    key: Path | None,
    bundle: Path | None = None,
) -> Access:
    """Return how to reach the service. Options take precedence over the bundle and the workspace.

    Raises:
        InputError: `client.options`: The options contradict each other.
        WorkspaceMissingError: The options are incomplete, and neither a bundle nor a workspace supplies the rest.
    """
    if bundle is not None:
        if any(option is not None for option in (server_name, ca, certificate, key)):
            raise CliCode.CLIENT_OPTIONS.error(
                "--bundle cannot be used together with --server-name, --ca, --cert or --key.",
                hint="Leave out the other options: the bundle contains the names and certificates.",
            )
        return _from_bundle(bundle, target)
    if (certificate is None) != (key is None):
        given, missing = ("--key", "--cert") if certificate is None else ("--cert", "--key")
        raise CliCode.CLIENT_OPTIONS.error(
            f"The client certificate is incomplete: expected --cert and --key, got only {given}.",
            hint=f"Add {missing}, or leave out both options.",
        )
    pair = None
    if certificate and key:
        pair = read_pair(certificate, key)
    authority = None if ca is None else read_regular(ca)
    if target and server_name and authority is not None:
        reach = Access(target=target, server_name=server_name, ca=authority)
        return replace(reach, certificate=pair.chain_pem, key=pair.key_pem) if pair else reach
    try:
        found = place.workspace
    except WorkspaceMissingError as error:
        raise WorkspaceMissingError(
            error.message,
            hint="Give the client bundle that the owner of the service sent you: --bundle FILE. Without a bundle, give "
            "the address, --server-name and --ca, and for two-way TLS also --cert and --key.",
        ) from error
    reach = access(found, place.deployment, ca=authority, pair=pair)
    return replace(reach, target=target or reach.target, server_name=server_name or reach.server_name)


def read_pair(certificate: Path, key: Path) -> CertifiedKey:
    """Return the client's certificate and key in files. The command warns if other users can read the key."""
    pair = CertifiedKey.read(certificate=certificate, key=key, missing="Check the paths of --cert and --key.")
    _warn_if_exposed(key)
    return pair


def _from_bundle(path: Path, target: str | None) -> Access:
    found = ClientBundle.read(path)
    if found.key is not None:
        _warn_if_exposed(path)
    return Access(
        target=target or found.grpc,
        server_name=found.server_name,
        ca=found.ca,
        certificate=found.certificate,
        key=found.key,
        model=found.model,
        rest=found.rest,
    )


def _warn_if_exposed(path: Path) -> None:
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        console.warn(f"{path} contains a private key, and other users can access it. Run `chmod 600 {path}`.")


def channels(
    reach: Access, count: int, *, timeout: float, attested: "AttestedPolicy | None" = None
) -> AbstractContextManager[list[ServiceChannel]]:
    """Return a context manager that opens ``count`` connections; see `open_channels`."""
    return open_channels(
        count,
        reach.target,
        server_name=reach.server_name,
        ca=reach.ca,
        certificate=reach.certificate,
        key=reach.key,
        timeout=timeout,
        attested=attested,
    )


@contextlib.contextmanager
def predictor(
    reach: Access, *, rest: bool, address: str | None, timeout: float, attested: "AttestedPolicy | None" = None
) -> Iterator[Predictor | RestPredictor]:
    """Open one connection, and yield a client that uses it.

    Args:
        reach: How to reach the service.
        rest: Use REST instead of gRPC.
        address: The address that the user gave, or None.
        timeout: Seconds to wait for the connection.
        attested: The user's policy, which each replica must satisfy before it receives an input, or None.

    Raises:
        InputError: `client.rest-off`: REST is off, or its address is unknown.
        SealserveError: The connection failed.
    """
    if not rest:
        with channels(reach, 1, timeout=timeout, attested=attested) as opened:
            yield Predictor(opened)
        return
    target = address or reach.rest
    if target is None:
        raise CliCode.CLIENT_REST_OFF.error(
            "The REST API cannot be used: expected server.rest = true in sealserve.toml, a bundle with a REST address, "
            "or --address.",
            hint="Leave out --rest to use gRPC, or give the address of the REST API: --address HOST:PORT.",
        )
    with RestPredictor(
        target,
        server_name=reach.server_name,
        ca=reach.ca,
        certificate=reach.certificate,
        key=reach.key,
        attested=attested,
    ) as opened_rest:
        yield opened_rest
