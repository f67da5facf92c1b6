"""NGINX's configuration: it passes TLS through to the replicas, selected by the server name in the ClientHello.

NGINX reads the server name (SNI) from a connection's first message, and forwards the connection unchanged. It holds no
key and cannot decrypt requests. It closes a connection that names a different service or no service.

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
"""Path of the module for TCP connections in Debian's package libnginx-mod-stream, which the images contain."""

_MAP_KEYWORDS = ("default", "hostnames", "include", "volatile")

CONFIG_FILE: Final = "nginx.conf"
ERROR_LOG: Final = "nginx-error.log"


@dataclass(frozen=True, slots=True)
class Upstream:
    """A replica.

    Args:
        host: Its IP address, or a DNS name, which NGINX resolves when it loads its configuration.
        port: Its port for gRPC or for REST, over TLS.
    """

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RestRoute:
    """The second port of a service: REST. Limits, timeouts and the PROXY protocol are the same as for gRPC.

    Args:
        port: The port to listen on.
        upstreams: The replicas with REST. During a roll-out that changes the REST setting, other replicas lack it.
    """

    port: int
    upstreams: Sequence[Upstream]


@dataclass(frozen=True, slots=True)
class WorkerUser:
    """The account of NGINX's workers, if its master runs as root."""

    name: str
    group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NginxConfig:
    """NGINX's settings for one service.

    Attributes:
        listen: The IP address to listen on. ``::`` accepts IPv4 connections too.
        port: The port to listen on for gRPC.
        service_name: The accepted server name, which is the name in the service's certificate.
        upstreams: The replicas. A new connection goes to the replica with the fewest connections.
        run_folder: Absolute path of an existing folder for NGINX's configuration and process ID.
        log_folder: Absolute path of an existing folder for its logs. None for standard output and error.
        stream_module: Path of the stream module, if it is loaded at run time.
        user: The account of the workers. Only for a master that runs as root.
        workers: Number of worker processes. None for one per processor.
        worker_connections: Maximum number of connections of one worker. Each client needs two.
        connect_timeout: Seconds until NGINX tries the next replica, if a replica does not accept a connection.
        fail_timeout: Seconds in which NGINX does not use such a replica. 0 if another load balancer chooses the
            replica: NGINX must not stop using its address because of one replica.
        idle_timeout: Seconds after which a connection without traffic is closed. gRPC channels are kept open.
        drain_timeout: Seconds in which existing connections continue after a reload or a graceful stop.
        proxy_protocol: Whether each connection begins with a PROXY protocol header, in which a load balancer sends the
            client's address. NGINX logs that address, and does not forward the header to the replicas. It closes
            connections without the header.
        rest: The port for REST and its replicas. None if REST is off. NGINX does not listen without replicas.
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
        """Path of the rendered configuration."""
        return self.run_folder / CONFIG_FILE

    @property
    def pid_file(self) -> Path:
        """Path of the file with the master's process ID."""
        return self.run_folder / "nginx.pid"

    @property
    def error_log(self) -> Path:
        """Path of NGINX's own messages."""
        return self.log_folder / ERROR_LOG if self.log_folder else Path("/dev/stderr")

    @property
    def access_log(self) -> Path:
        """Path of the connection log: one JSON line per ended connection, with names, addresses, sizes and times."""
        return self.log_folder / "nginx-access.log" if self.log_folder else Path("/dev/stdout")


def render(config: NginxConfig) -> str:
    """Return the text of NGINX's configuration file.

    Raises:
        InputError: `ingress.invalid-value` if a value is out of range, or has a different meaning in NGINX's syntax.
    """
    client = "$proxy_protocol_addr:$proxy_protocol_port" if config.proxy_protocol else "$remote_addr:$remote_port"
    if not config.upstreams:
        raise IngressCode.INVALID_VALUE.error(
            "NGINX cannot be configured without a replica to forward to.", hint="Start a replica first."
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
    """Return the blocks of one port: the accepted server name, the replicas, and the listener."""
    listen = _address(_ip(config.listen), port)
    if _ip(config.listen) == EVERY_ADDRESS:
        listen += " ipv6only=off"
    listen += " so_keepalive=on"
    if config.proxy_protocol:
        listen += " proxy_protocol"
    service = _dns(config.service_name)
    if service in _MAP_KEYWORDS:  # escape a name that is a keyword of the map directive
        service = f"\\{service}"
    fail = f"max_fails=1 fail_timeout={_number(config.fail_timeout)}s" if config.fail_timeout else "max_fails=0"
    servers = "\n".join(
        f"        server {_address(_host(upstream.host), upstream.port)} {fail};" for upstream in upstreams
    )
    return f"""    # Connections with a different server name, or without one, are closed.
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
    """Return the configuration of an NGINX that forwards every connection to one peer, byte for byte.

    Args:
        listen_port: The port to listen on, at every address.
        upstream: The peer. NGINX resolves a DNS name when it loads its configuration.
        run_folder: Absolute path of an existing folder for the process ID.
        stream_module: Path of the stream module, if it is loaded at run time.

    Raises:
        InputError: `ingress.invalid-value` if a value is out of range, or has a different meaning in NGINX's syntax.
    """
    load = f"load_module {_path(stream_module)};\n" if stream_module is not None else ""
    listen = _address("0.0.0.0", listen_port)  # noqa: S104  # in a container on the deployment's private networks
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
        if "%" not in text:  # reject a scope, which may contain any text
            return str(address)
    raise IngressCode.INVALID_VALUE.error(
        f"NGINX cannot use {text!r}: expected an IP address.", hint="Set an address such as 127.0.0.1."
    )


def _host(text: str) -> str:
    if text == "unix":  # NGINX interprets "unix:..." as the path of a socket
        raise IngressCode.INVALID_VALUE.error(
            "NGINX cannot use 'unix' as the host name of a replica.", hint="Use the replica's IP address."
        )
    return _ip(text) if ":" in text or text.replace(".", "").isdecimal() else _dns(text)


def _dns(text: str) -> str:
    try:
        return _DNS_NAME.validate_python(text)
    except ValidationError as error:
        raise IngressCode.INVALID_VALUE.error(
            f"NGINX cannot use {text!r}: expected a DNS name in lower case.", hint="Set a name such as a.example.com."
        ) from error


def _address(host: str, port: int) -> str:
    if not 1 <= port <= LARGEST_PORT:
        raise IngressCode.INVALID_VALUE.error(
            f"NGINX cannot use port {port}: expected 1 to {LARGEST_PORT}.", hint=f"Set a port from 1 to {LARGEST_PORT}."
        )
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _number(value: int) -> int:
    if not 1 <= value <= 10**6:
        raise IngressCode.INVALID_VALUE.error(
            f"NGINX cannot use {value}: expected a number from 1 to 1000000.", hint="Set a number in this range."
        )
    return value


def _account(name: str) -> str:
    if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
        raise IngressCode.INVALID_VALUE.error(
            f"NGINX cannot use the account {name!r}: expected letters, digits, '-' and '_'.",
            hint="Use an account such as www-data.",
        )
    return name


def _path(path: Path) -> str:
    text = str(path)
    if not path.is_absolute() or not text.isprintable() or "$" in text:  # NGINX's syntax cannot escape a dollar sign
        raise IngressCode.INVALID_VALUE.error(
            f"NGINX cannot use the path {text!r}: expected an absolute path without dollar signs or line breaks.",
            hint="Move the workspace to a folder with an ordinary name.",
        )
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
