"""``sealserve enclave token``: request an attestation result for a simulated enclave."""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer

from sealserve.cli import console, options
from sealserve.cli.codes import CliCode
from sealserve.cli.context import Place
from sealserve.cli.dangerous_options import dangerous_options
from sealserve.cli.deferred_imports import deferred
from sealserve.enclave.findings import Danger

with deferred:
    from sealserve.attestation.result_request import ResultRequest
    from sealserve.attestation.strict_encoding import decode_base64url
    from sealserve.enclave.launch.simulator import load_simulator
    from sealserve.owner import releases
    from sealserve.owner.simulation import quoting_socket


@dangerous_options
def token(
    place: Place,
    audience: Annotated[
        str, typer.Option("--audience", help="Relying party that the result is for; printable ASCII without spaces")
    ],
    name: Annotated[str, typer.Option("--name", "-n", help="Name of the enclave")] = "replica-0",
    release: options.Release = None,
    nonce: Annotated[
        str | None,
        typer.Option(
            "--nonce",
            help="Nonce of the relying party, 8 to 64 bytes in base64url without padding",
            show_default="without a nonce",
        ),
    ] = None,
    socket: Annotated[
        Path | None,
        typer.Option(
            "--quoting-socket",
            help="Unix socket of the simulated quoting service",
            show_default="the simulated platform's socket",
        ),
    ] = None,
    *,
    dangerous: Collection[Danger],
) -> None:
    """Request an attestation result for a simulated enclave from the broker, and print it as a token.

    The broker appraises the enclave and releases no key. An enclave on SGX requests its result without this command.
    """
    workspace = place.workspace
    try:
        chosen = None if nonce is None else decode_base64url(nonce)
    except ValueError as error:
        raise CliCode.USAGE_ARGUMENTS.error(
            f"--nonce is not base64url without padding: {error}.", hint="Encode 8 to 64 random bytes."
        ) from error
    request = ResultRequest(audience=audience, nonce=chosen)
    folder = releases.find(workspace.host.releases, release)
    requested = load_simulator().attestation_result(
        folder, name, request, quoting_socket=socket or quoting_socket(workspace), dangerous=dangerous
    )
    console.out.print(requested, soft_wrap=True)
