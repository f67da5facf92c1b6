"""The options of the verbs that reach the service, and the channels that they give."""

import contextlib
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

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

Target = Annotated[
    str | None, typer.Option("--address", "-a", metavar="HOST:PORT", show_default="that of sealserve.toml")
]
ServerName = Annotated[
    str | None,
    typer.Option("--server-name", help="The name in its certificate.", show_default="that of sealserve.toml"),
]
ServiceCa = Annotated[
    Path | None, typer.Option("--ca", help="The service's authority.", show_default="user/service-ca.pem")
]
ClientCertificate = Annotated[Path | None, typer.Option("--cert", help="Two-way TLS.", show_default="user/client.pem")]
BundleFile = Annotated[
    Path | None,
    typer.Option(
        "--bundle",
        help="The file that the owner of the service sent you: address, names, certificates and key.",
        show_default="none",
    ),
]
Rest = Annotated[
    bool, typer.Option("--rest", help="Use the REST API instead of gRPC; with --address, at that address.")
]
ClientKey = Annotated[Path | None, typer.Option("--key", help="Two-way TLS.", show_default="user/client.key")]


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
    """Return how to reach the service: what the options say, else what the bundle or the workspace says.

    Raises:
        InputError: `client.options`: The options contradict each other.
        WorkspaceMissingError: The options do not say everything, and there is neither a bundle nor a workspace.
    """
    if bundle is not None:
        if any(option is not None for option in (server_name, ca, certificate, key)):
            raise CliCode.CLIENT_OPTIONS.error(
                "--bundle was given with --server-name, --ca, --cert or --key: expected either.",
                hint="Leave the others out: the bundle has the names and certificates.",
            )
        return _from_bundle(bundle, target)
    if (certificate is None) != (key is None):
        raise CliCode.CLIENT_OPTIONS.error("Two-way TLS needs both --cert and --key.")
    pair = None
    if certificate and key:
        pair = CertifiedKey.read(certificate=certificate, key=key, missing="Check the paths of --cert and --key.")
    if key is not None:
        _warn_if_exposed(key)
    authority = None if ca is None else read_regular(ca)
    if target and server_name and authority is not None:
        reach = Access(target=target, server_name=server_name, ca=authority)
        return replace(reach, certificate=pair.chain_pem, key=pair.key_pem) if pair else reach
    try:
        found = place.workspace
    except WorkspaceMissingError as error:
        raise WorkspaceMissingError(
            error.message,
            hint="Give the file that the owner of the service sent you: --bundle FILE. Without such a file, give "
            "--address, --server-name and --ca, and for two-way TLS --cert and --key.",
        ) from error
    reach = access(found, place.deployment, ca=authority, pair=pair)
    return replace(reach, target=target or reach.target, server_name=server_name or reach.server_name)


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
        console.warn(f"{path} is not its owner's alone: chmod 600 {path}")


def channels(reach: Access, count: int, *, timeout: float) -> AbstractContextManager[list[ServiceChannel]]:
    """Return a context manager of ``count`` connections; see `open_channels`."""
    return open_channels(
        count,
        reach.target,
        server_name=reach.server_name,
        ca=reach.ca,
        certificate=reach.certificate,
        key=reach.key,
        timeout=timeout,
    )


@contextlib.contextmanager
def predictor(reach: Access, *, rest: bool, address: str | None, timeout: float) -> Iterator[Predictor | RestPredictor]:
    """Open one connection, and yield the client that uses it.

    Args:
        reach: How to reach the service.
        rest: Whether to use REST instead of gRPC.
        address: The address that the user gave, or None.
        timeout: Seconds to wait for the connection.

    Raises:
        InputError: `client.rest-off`: REST is off, or its address is not known.
        SealserveError: There is no connection.
    """
    if not rest:
        with channels(reach, 1, timeout=timeout) as opened:
            yield Predictor(opened)
        return
    target = address or reach.rest
    if target is None:
        raise CliCode.CLIENT_REST_OFF.error(
            "The service has no REST API: expected server.rest = true in sealserve.toml, or an address.",
            hint="Leave out --rest to use gRPC, or give the address of the REST API: --address HOST:PORT.",
        )
    with RestPredictor(
        target, server_name=reach.server_name, ca=reach.ca, certificate=reach.certificate, key=reach.key
    ) as opened_rest:
        yield opened_rest
