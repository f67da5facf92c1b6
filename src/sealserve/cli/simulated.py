"""``sealserve simulated``: what stands in for the processor's vendor and for the platform on a machine without SGX."""

import contextlib
from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import urlsplit

import typer

from sealserve import deployment
from sealserve.cli import console
from sealserve.enclave.launch.simulator import load_simulator
from sealserve.owner import simulation
from sealserve.pcs_address import pcs_url
from sealserve.tcp_ports import LARGEST_PORT, SIMULATED_PCS_PORT

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Stand-ins for SGX. Every format and signature is genuine, and nothing is protected from the host's root.",
)


@app.command()
def pcs(
    port: Annotated[
        int | None, typer.Option(min=0, max=LARGEST_PORT, show_default="that of broker.collateral_url, or 8081")
    ] = None,
    listen: Annotated[str, typer.Option(help="The address it listens on.")] = "127.0.0.1",
    ready_file: console.ReadyFile = None,
    directory: console.Directory = console.HERE,
) -> None:
    """Serve the simulated vendor's certificates, TCB info and revocation lists over HTTP, until stopped."""
    workspace = console.find_workspace(directory)
    described = deployment.read(workspace.deployment_file)
    vendor = simulation.open_vendor(workspace, now=datetime.now(UTC))
    configured = urlsplit(pcs_url(described)).port or SIMULATED_PCS_PORT
    server = load_simulator().pcs_server(vendor, listen, configured if port is None else port)
    console.out.print(f"The simulated PCS answers at {server.url}.")
    console.mark_ready(ready_file)
    with contextlib.suppress(KeyboardInterrupt):  # a request to end is how it ends: status 0
        try:
            server.serve_forever()
        finally:
            server.stop()


@app.command()
def platform(ready_file: console.ReadyFile = None, directory: console.Directory = console.HERE) -> None:
    """Make quotes for the enclaves of this host, at a Unix socket, until stopped."""
    workspace = console.find_workspace(directory)
    here = simulation.open_platform(workspace, now=datetime.now(UTC))
    server = load_simulator().quoting_server(here, simulation.quoting_socket(workspace))
    console.out.print(
        f"The simulated platform {here.platform_id} makes quotes at {simulation.quoting_socket(workspace)}."
    )
    console.mark_ready(ready_file)
    with contextlib.suppress(KeyboardInterrupt):  # a request to end is how it ends: status 0
        try:
            server.serve_forever()
        finally:
            server.stop()
