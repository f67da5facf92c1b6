"""``sealserve proxy``: forward unmodified clients to verified enclaves."""

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from sealserve.cli import connection, console, options
from sealserve.cli.attested_options import PolicyFile, find_policy
from sealserve.cli.context import Place
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.evidence_endpoint import find_endpoint
from sealserve.cli.verbs import Verbs
from sealserve.interruptions import SIGNALS
from sealserve.signal_pipe import signal_pipe
from sealserve.tcp_ports import SERVICE_PORT
from sealserve.terms import LogFormat

with deferred:
    import asyncio

    from sealserve.client.credentials import parse_endpoint
    from sealserve.errors import SealserveError
    from sealserve.proxy.event_loop import run_until_signalled
    from sealserve.proxy.first_bytes import Protocol
    from sealserve.proxy.listener import Listener, listen, parse_listen
    from sealserve.proxy.proxy import Limits, Proxy
    from sealserve.proxy.upstream import Service
    from sealserve.proxy.verifier import ReplicaVerifier

_LOG: Final = logging.getLogger(__name__)
_LONGEST_IDLE: Final = 7 * 24 * 3600

app = Verbs()


@app.command()
def proxy(
    place: Place,
    address: Annotated[
        str | None,
        typer.Argument(
            metavar="[ADDRESS]",
            help="Address of the service's gRPC port, HOST:PORT",
            show_default="from --bundle or sealserve.toml",
        ),
    ] = None,
    listen_at: Annotated[
        list[str] | None,
        typer.Option(
            "--listen",
            metavar="IP:PORT|unix:PATH",
            help="Address for clients, on this machine; can be repeated",
            show_default=f"127.0.0.1:{SERVICE_PORT}",
        ),
    ] = None,
    rest_address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Address of the service's REST API, for clients that use HTTP/1.1",
            show_default="from --bundle or sealserve.toml",
        ),
    ] = None,
    policy: PolicyFile = None,
    bundle: connection.BundleFile = None,
    server_name: connection.ServerName = None,
    ca: connection.ServiceCa = None,
    certificate: connection.ClientCertificate = None,
    key: connection.ClientKey = None,
    connections: Annotated[int, typer.Option(min=1, max=100_000, help="Maximum number of clients")] = 1024,
    idle_timeout: Annotated[
        float, typer.Option(min=1, max=_LONGEST_IDLE, help="Seconds without traffic until a connection is closed")
    ] = 3600,
    dangerous_listen_anywhere: Annotated[
        bool,
        typer.Option(
            "--dangerous-listen-anywhere", help="Allow addresses that other machines can reach, although without TLS"
        ),
    ] = False,
    ready_file: options.ReadyFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Log in JSON, one object in each line")] = False,
) -> None:
    """Forward clients on this machine to the service, after its enclave was verified.

    Clients connect without TLS, for example a stock gRPC client or curl. The proxy connects with TLS. It forwards the
    first byte of a client only after the six steps of `sealserve verify` succeeded for this connection. It runs until
    it is stopped. Example: `sealserve proxy --bundle ann.json --listen unix:model.sock`.
    """
    # 1. Where do clients connect, and which enclaves does the user accept?
    console.log_to_standard_error(LogFormat.JSON if as_json else LogFormat.TEXT)
    wanted = [
        parse_listen(text, dangerous_anywhere=dangerous_listen_anywhere)
        for text in listen_at or [f"127.0.0.1:{SERVICE_PORT}"]
    ]
    private = all(where.is_private for where in wanted)
    accepted = find_policy(policy)
    # 2. Where is the service?
    reach = find_endpoint(
        place, address, bundle=bundle, server_name=server_name, ca=ca, certificate=certificate, key=key
    )
    rest = rest_address or reach.rest
    service = Service(
        grpc=parse_endpoint(reach.address),
        rest=None if rest is None else parse_endpoint(rest),
        tls=reach.tls,
        verifier=ReplicaVerifier(accepted),
    )
    # 3. Listen and forward until Ctrl-C.
    if not private:
        _LOG.warning(
            "--dangerous-listen-anywhere: other machines can read inputs on their way to the proxy, and use it"
        )
    limits = Limits(connections=connections, idle_seconds=idle_timeout)
    with contextlib.suppress(KeyboardInterrupt), signal_pipe(SIGNALS) as signals, contextlib.ExitStack() as opened:
        listeners = [opened.enter_context(contextlib.closing(listen(where))) for where in wanted]
        if service.tls.key is not None and any(listener.address.path is None for listener in listeners):
            _LOG.warning("all users of this machine can use your client certificate; a Unix socket is only for you")
        serving = _serve(Proxy(service, limits=limits, check_hosts=private), service, listeners, ready_file)
        run_until_signalled(serving, signals)
    _LOG.info("stopped")


async def _serve(proxy: Proxy, service: Service, listeners: Sequence[Listener], ready_file: Path | None) -> None:
    def ready() -> None:
        for listener in listeners:
            _LOG.info("listening on %s, forwarding to verified replicas of %s", listener.address, service.grpc)
        console.mark_ready(ready_file)

    checking = asyncio.create_task(_check(service))
    try:
        await proxy.run(listeners, ready=ready)
    finally:
        checking.cancel()


async def _check(service: Service) -> None:
    """Verify a replica before the first client, so that the log shows mistakes at once. Failures are only logged."""
    try:
        (await service.open(Protocol.HTTP2)).writer.transport.abort()
    except SealserveError as error:
        _LOG.warning("the service is not verified yet: %s", error)
