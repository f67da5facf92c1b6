"""NGINX's configuration: TLS passed through by the name in the ClientHello, untouched, to the replicas.

NGINX reads the server name (SNI) of a connection's first message and forwards the connection as it came; it holds no
key and sees no request. A connection that names another service, or none, is closed.

Source: nginx.org/en/docs/stream (ngx_stream_core, _ssl_preread, _map, _upstream, _proxy, _log), 1.18 to 1.26.
"""

import contextlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from sealserve.ingress.codes import IngressCode
from sealserve.names import DnsName
from sealserve.tcp_ports import LARGEST_PORT
from sealserve.terms import EVERY_ADDRESS

_DNS_NAME: TypeAdapter[str] = TypeAdapter(DnsName)
STREAM_MODULE: Final = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
"""Where Debian's libnginx-mod-stream, which the images have, puts the module for TCP connections."""

_MAP_KEYWORDS = ("default", "hostnames", "include", "volatile")


@dataclass(frozen=True, slots=True)
class Upstream:
    """A replica.

    Args:
        host: Its IP address, or a DNS name, which NGINX resolves when it reads its configuration.
        port: Its port for gRPC, or for REST, over TLS.
    """

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RestRoute:
    """The second port of a service: REST. Limits, timeouts and the PROXY protocol are those of the first one.

    Args:
        port: The port to listen on.
        upstreams: The replicas that have REST: the others, in a roll-out that turns it on or off, are left out.
    """

    port: int
    upstreams: Sequence[Upstream]


@dataclass(frozen=True, slots=True)
class WorkerUser:
    """The account of NGINX's workers, where its master runs as root."""

    name: str
    group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NginxConfig:
    """What NGINX does for one service.

    Attributes:
        listen: The IP address to listen on; ``::`` takes IPv4 connections as well.
        port: The port to listen on for gRPC.
        service_name: The server name that is let through; the service's certificate has it.
        upstreams: The replicas; a new connection goes to the one that has the fewest.
        run_folder: Absolute path of an existing folder for NGINX's configuration and process id.
        log_folder: Absolute path of an existing folder for its logs; None for its standard output and error.
        stream_module: Where its stream module is, if that is loaded at run time.
        user: Who the workers are; for a master that runs as root only.
        workers: How many worker processes; None for one per processor.
        worker_connections: How many connections one worker holds; each client takes two.
        connect_timeout: Seconds until a replica that does not accept a connection is passed over.
        fail_timeout: Seconds that such a replica is left alone.
        idle_timeout: Seconds after which a connection without traffic is closed. gRPC channels are kept open.
        drain_timeout: Seconds that connections outlive a reload or a graceful stop.
        proxy_protocol: Whether each connection begins with a PROXY protocol header: a load balancer in front of NGINX
            tells the client's address in it. NGINX logs that address, and does not pass the header to the replicas.
            Connections without the header are closed.
        rest: The port for REST and its replicas; None if REST is off. If it has no replica, NGINX does not listen.
    """

    listen: str
    port: int
    service_name: str
    upstreams: Sequence[Upstream]
    run_folder: Path
    log_folder: Path | None
    stream_module: Path | None = None
    user: WorkerUser | None = None
    workers: int | None = None
    worker_connections: int = 4096
    connect_timeout: int = 2
    fail_timeout: int = 5
    idle_timeout: int = 3600
    drain_timeout: int = 600
    proxy_protocol: bool = False
    rest: RestRoute | None = None

    @property
    def ports(self) -> tuple[int, ...]:
        """The ports that NGINX listens on, gRPC's first."""
        return (self.port, *([self.rest.port] if self.rest is not None and self.rest.upstreams else []))

    @property
    def config_file(self) -> Path:
        """Where the rendered configuration goes."""
        return self.run_folder / "nginx.conf"

    @property
    def pid_file(self) -> Path:
        """Where NGINX writes the process id of its master."""
        return self.run_folder / "nginx.pid"

    @property
    def error_log(self) -> Path:
        """NGINX's own messages."""
        return self.log_folder / "nginx-error.log" if self.log_folder else Path("/dev/stderr")

    @property
    def access_log(self) -> Path:
        """One line of JSON for each connection that ended. It has names, addresses, sizes and times; no contents."""
        return self.log_folder / "nginx-access.log" if self.log_folder else Path("/dev/stdout")


def render(config: NginxConfig) -> str:
    """Return the text of NGINX's configuration file.

    Raises:
        InputError: `ingress.invalid-value`: A value is out of range, or would mean something else to NGINX.
    """
    client = "$proxy_protocol_addr:$proxy_protocol_port" if config.proxy_protocol else "$remote_addr:$remote_port"
    if not config.upstreams:
        raise IngressCode.INVALID_VALUE.error(
            "NGINX needs at least one replica to forward to.", hint="Start one first."
        )
    routes = [_route(config, "replicas", config.port, config.upstreams)]
    if config.rest is not None and config.rest.upstreams:
        routes.append(_route(config, "rest_replicas", config.rest.port, config.rest.upstreams))
    servers = "\n\n".join(routes)
    head = [
        "daemon off;",
        f"pid {_path(config.pid_file)};",
        f"lock_file {_path(config.run_folder / 'nginx.lock')};",
        f"error_log {_path(config.error_log)} warn;",
        f"worker_processes {'auto' if config.workers is None else _number(config.workers)};",
        f"worker_rlimit_nofile {2 * _number(config.worker_connections) + 64};",
        f"worker_shutdown_timeout {_number(config.drain_timeout)}s;",
    ]
    if config.user is not None:
        head.append(f"user {_account(config.user.name)} {_account(config.user.group)};")
    if config.stream_module is not None:
        head.insert(0, f"load_module {_path(config.stream_module)};")
    return (
        "\n".join(head)
        + f"""

events {{
    worker_connections {config.worker_connections};
}}

stream {{
    log_format connection escape=json
        '{{"time":"$time_iso8601","client":"{client}","server_name":"$ssl_preread_server_name","port":$server_port,'
        '"replica":"$upstream_addr","status":$status,"seconds":$session_time,'
        '"bytes_from_client":$bytes_received,"bytes_to_client":$bytes_sent}}';
    access_log {_path(config.access_log)} connection;

{servers}
}}
"""
    )


def _route(config: NginxConfig, name: str, port: int, upstreams: Sequence[Upstream]) -> str:
    """Return the blocks of one port: the server names that are let through, the replicas, and the listener."""
    listen = _address(_ip(config.listen), port)
    if _ip(config.listen) == EVERY_ADDRESS:
        listen += " ipv6only=off"
    listen += " so_keepalive=on"
    if config.proxy_protocol:
        listen += " proxy_protocol"
    service = _dns(config.service_name)
    if service in _MAP_KEYWORDS:  # to the map directive, not a name
        service = f"\\{service}"
    fail = f"max_fails=1 fail_timeout={_number(config.fail_timeout)}s"
    servers = "\n".join(
        f"        server {_address(_host(upstream.host), upstream.port)} {fail};" for upstream in upstreams
    )
    return f"""    # Any other name, or none, goes nowhere: the connection is closed.
    map $ssl_preread_server_name ${name} {{
        default "";
        {service} sealserve_{name};
    }}

    upstream sealserve_{name} {{
        zone sealserve_{name} 128k;
        least_conn;
{servers}
    }}

    server {{
        listen {listen};
        ssl_preread on;
        preread_timeout 10s;
        proxy_pass ${name};
        proxy_connect_timeout {_number(config.connect_timeout)}s;
        proxy_timeout {_number(config.idle_timeout)}s;
        proxy_socket_keepalive on;
        proxy_buffer_size 64k;
    }}"""


def render_relay(listen_port: int, upstream: Upstream, *, run_folder: Path, stream_module: Path | None) -> str:
    """Return the configuration of an NGINX that passes every connection on to one peer, byte for byte.

    Args:
        listen_port: Where it listens, at every address.
        upstream: The peer; a DNS name is resolved when NGINX reads its configuration.
        run_folder: Absolute path of an existing folder for its process id.
        stream_module: Where its stream module is, if that is loaded at run time.

    Raises:
        InputError: `ingress.invalid-value`: A value is out of range, or would mean something else to NGINX.
    """
    load = f"load_module {_path(stream_module)};\n" if stream_module is not None else ""
    listen = _address("0.0.0.0", listen_port)  # noqa: S104  # in a container, whose networks are its own
    return f"""{load}daemon off;
pid {_path(run_folder / "nginx.pid")};
lock_file {_path(run_folder / "nginx.lock")};
error_log /dev/stderr warn;
worker_processes 1;

events {{
    worker_connections 1024;
}}

stream {{
    access_log off;

    server {{
        listen {listen} so_keepalive=on;
        proxy_pass {_address(_host(upstream.host), upstream.port)};
        proxy_connect_timeout 10s;
        proxy_timeout 120s;
    }}
}}
"""


def _ip(text: str) -> str:
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(text)
        if "%" not in text:  # a scope, which may be any text
            return str(address)
    raise IngressCode.INVALID_VALUE.error(f"{text!r} is not an IP address.", hint="Example: 127.0.0.1.")


def _host(text: str) -> str:
    if text == "unix":  # "unix:..." would be a socket's path
        raise IngressCode.INVALID_VALUE.error("A replica's host cannot be called 'unix'.", hint="Give its address.")
    return _ip(text) if ":" in text or text.replace(".", "").isdecimal() else _dns(text)


def _dns(text: str) -> str:
    try:
        return _DNS_NAME.validate_python(text)
    except ValidationError as error:
        raise IngressCode.INVALID_VALUE.error(
            f"{text!r} is not a DNS name in lower case.", hint="Example: a.example.com."
        ) from error


def _address(host: str, port: int) -> str:
    if not 1 <= port <= LARGEST_PORT:
        raise IngressCode.INVALID_VALUE.error(f"{port} is not a port.", hint=f"Use 1 to {LARGEST_PORT}.")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _number(value: int) -> int:
    if not 1 <= value <= 10**6:
        raise IngressCode.INVALID_VALUE.error(
            f"{value} is out of range for NGINX's configuration.", hint="Use 1 to 1000000."
        )
    return value


def _account(name: str) -> str:
    if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
        raise IngressCode.INVALID_VALUE.error(f"{name!r} is not an account's name.", hint="Example: www-data.")
    return name


def _path(path: Path) -> str:
    text = str(path)
    if not path.is_absolute() or not text.isprintable() or "$" in text:  # NGINX has no way to write a dollar sign
        raise IngressCode.INVALID_VALUE.error(
            f"NGINX cannot use the path {text!r}.", hint="Use an absolute path without dollar signs or line breaks."
        )
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
