"""``sealserve simulated``: the stand-ins for the processor's vendor and the platform, on a machine without SGX."""

import contextlib
import logging
from datetime import UTC, datetime
from typing import Annotated, Final
from urllib.parse import urlsplit

import typer

from sealserve.cli import console, options
from sealserve.cli.context import Place
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.verbs import Verbs
from sealserve.interruptions import interrupted_once
from sealserve.tcp_ports import LARGEST_PORT, SIMULATED_PCS_PORT

with deferred:
    from sealserve.enclave.launch.simulator import load_simulator
    from sealserve.owner import simulation
    from sealserve.pcs_address import pcs_url

_LOG: Final = logging.getLogger(__name__)

app = Verbs("Run simulated SGX services. Formats and signatures are genuine, but the host's root can read everything.")


@app.command()
def pcs(
    place: Place,
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=LARGEST_PORT,
            help="TCP port; 0 means a free port",
            show_default="the port of broker.collateral_url, or 8081",
        ),
    ] = None,
    listen: Annotated[str, typer.Option(help="IP address to listen on")] = "127.0.0.1",
    ready_file: options.ReadyFile = None,
) -> None:
    """Run a simulated PCS (the vendor's certificate service) until stopped.

    It serves the simulated vendor's certificates, TCB info and revocation lists over HTTP.
    """
    console.log_to_standard_error()
    vendor = simulation.open_vendor(place.workspace, now=datetime.now(UTC))
    configured = urlsplit(pcs_url(place.deployment)).port or SIMULATED_PCS_PORT
    server = load_simulator().pcs_server(vendor, listen, configured if port is None else port)
    _LOG.info("the simulated PCS listens at %s", server.url)
    console.mark_ready(ready_file)
    with contextlib.suppress(KeyboardInterrupt), interrupted_once():  # an interruption is the normal end: exit status 0
        try:
            server.serve_forever()
        finally:
            server.stop()


@app.command()
def platform(
    place: Place,
    create_only: Annotated[
        bool, typer.Option("--create-only", help="Create the platform for another host, but do not run it")
    ] = False,
    ready_file: options.ReadyFile = None,
) -> None:
    """Run a simulated SGX platform until stopped: it signs quotes for the enclaves of this host, at a Unix socket."""
    console.log_to_standard_error()
    workspace = place.workspace
    here = simulation.open_platform(workspace, now=datetime.now(UTC))
    if create_only:
        console.out.print(f"The simulated platform {here.platform_id} is in {workspace.host.platform}.")
        return
    server = load_simulator().quoting_server(here, simulation.quoting_socket(workspace))
    _LOG.info("the simulated platform %s signs quotes at %s", here.platform_id, simulation.quoting_socket(workspace))
    console.mark_ready(ready_file)
    with contextlib.suppress(KeyboardInterrupt), interrupted_once():  # an interruption is the normal end: exit status 0
        try:
            server.serve_forever()
        finally:
            server.stop()
