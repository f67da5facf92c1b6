"""The command line of each model server. The command line is measured, so the host cannot change it.

Every pool of threads has a fixed size here. By default, a pool's size follows the number of processors, which the host
chooses, while ``sgx.max_threads`` is fixed. The command line has no plaintext port, no profiler, and no polling for
other versions. The REST port has the TLS settings of the gRPC port.

Source: tensorflow/serving 9d981c5c, ``tensorflow_serving/model_servers/main.cc`` (flags), ``server.h`` (defaults) and
``server.cc``, BuildAndStart (what listens, which pools there are).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sealserve.deployment import Deployment
from sealserve.enclave.server_program import ATTESTER_MODULE
from sealserve.pki.client_settings import CLIENT_SETTINGS_PATH
from sealserve.pki.ssl_config import SSL_CONFIG_PATH
from sealserve.serving_flags import argument
from sealserve.tcp_ports import rest_port_beside
from sealserve.terms import ServerKind, TlsMode

PORT_FLAG: Final = "--port="
REST_PORT_FLAG: Final = "--rest_api_port="
CHANNEL_FLAG: Final = "--grpc_channel_arguments="
CONNECTION_AGE: Final = "grpc.max_connection_age_ms"
PRIVATE_ROOT: Final = "/release"
SCRATCH: Final = f"{PRIVATE_ROOT}/scratch"
# Gramine 1.9, manifest-syntax.rst, "Number of threads": main, IPC, async and one TLS-handshake thread.
GRAMINE_THREADS: Final = 4
_REQUESTS_PER_THREAD: Final = 4  # the default of both servers, per processor
# Threads that no flag limits: gRPC's (at most 16 in reserve in its pool, timers, one for each busy poll) and Python's.
_EMBEDDED_THREADS: Final = 64
# The same, TensorFlow Serving's loaders and watchers, and threads of gRPC's synchronous server between requests.
_SERVING_THREADS: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Threads:
    """The numbers of threads that a server may have.

    Args:
        tensorflow: Threads of TensorFlow's pool for the work inside an operation.
        inter_op: Threads of TensorFlow's pool for operations. sealserve's server needs a thread for each run and one
            thread for a load.
        requests: Threads that handle requests over gRPC.
        rest: Threads that handle requests over REST; 0 if REST is off.
        unbounded: Allowance for threads that no flag limits.
    """

    tensorflow: int
    inter_op: int
    requests: int
    rest: int
    unbounded: int

    @property
    def all(self) -> int:
        """The value of ``sgx.max_threads``: all threads, including Gramine's own."""
        return self.tensorflow + self.inter_op + self.requests + self.rest + self.unbounded + GRAMINE_THREADS


def threads_of(deployment: Deployment) -> Threads:
    """Return the numbers of threads that the deployment's server may have."""
    pool = deployment.server.threads
    requests = _REQUESTS_PER_THREAD * pool
    rest = requests if deployment.server.rest else 0
    embedded = deployment.server.kind is ServerKind.EMBEDDED
    return Threads(
        tensorflow=pool,
        inter_op=requests + rest + 1 if embedded else pool,
        requests=requests,
        rest=rest,
        unbounded=_EMBEDDED_THREADS if embedded else _SERVING_THREADS,
    )


def command(
    deployment: Deployment,
    *,
    program: str,
    port: int,
    bytecode: bool,
    configuration: Iterable[str],
    files_in_memory: bool = False,
) -> tuple[str, ...]:
    """Return a server's complete command line.

    Args:
        deployment: The deployment that the server belongs to.
        program: The path of the server's binary, or of Python.
        port: The gRPC port.
        bytecode: Whether Python may use the bytecode beside the modules. Allowed only if all bytecode is measured.
        configuration: The flags that name the configuration files in the release.
        files_in_memory: Whether the release's files are stored decrypted in memory, as in the simulated enclave. They
            can then be emptied after loading. In Gramine, the files are the sealed files themselves.
    """
    threads = threads_of(deployment)
    common = (
        argument("port", port),
        argument("rest_api_port", rest_port_beside(port) if deployment.server.rest else 0),
        *configuration,
        *_tls(deployment),
        argument("file_system_poll_wait_seconds", 0),
        argument("tensorflow_intra_op_parallelism", threads.tensorflow),
        argument("tensorflow_inter_op_parallelism", threads.tensorflow),
        argument("grpc_max_threads", threads.requests),
        argument("grpc_channel_arguments", _channel_arguments(deployment)),
    )
    if deployment.server.kind is ServerKind.TENSORFLOW_SERVING:
        return (
            program,
            *common,
            argument("model_config_file_poll_wait_seconds", 0),
            argument("max_num_load_retries", 0),
            argument("flush_filesystem_caches", value=False),
            argument("enable_profiler", value=False),
            argument("enable_grpc_healthcheck_service", value=True),
        )
    return (
        program,
        *isolation(bytecode=bytecode),
        "-m",
        ATTESTER_MODULE if deployment.server.attested else "sealserve.serving",
        *common,
        argument("file_list", f"{PRIVATE_ROOT}/files.json"),
        *(["--empty_files_after_load"] if files_in_memory else []),
        *_rest(deployment, threads),
        *_metrics(deployment),
        *_traces(deployment),
        *_dangerous_operations(deployment),
        # On the local target, only NGINX on the same machine connects to the server.
        *([argument("bind_address", "127.0.0.1")] if deployment.target.kind == "local" else []),
    )


def _tls(deployment: Deployment) -> tuple[str, ...]:
    """Return the flag of the sealed TLS settings. An attested server has them only for client certificates."""
    if not deployment.server.attested:
        return (argument("ssl_config_file", f"{PRIVATE_ROOT}/{SSL_CONFIG_PATH}"),)
    if deployment.service.tls is TlsMode.ONE_WAY:
        return ()
    return (argument("ssl_config_file", f"{PRIVATE_ROOT}/{CLIENT_SETTINGS_PATH}"),)


def _channel_arguments(deployment: Deployment) -> str:
    """Return the settings of gRPC's connections: their maximum age, and how often a client may ping to keep one open.

    gRPC's default limit is one ping in five minutes, and no ping without a call. It ends a connection that exceeds the
    limit with ``too_many_pings``. Usual clients ping more often, to keep a connection open through load balancers.

    Source: grpc/grpc, ``include/grpc/impl/channel_arg_names.h`` and
    ``ext/transport/chttp2/transport/ping_abuse_policy.cc``.
    """
    server = deployment.server
    return ",".join((
        f"{CONNECTION_AGE}={server.max_connection_age_seconds * 1000}",
        f"grpc.http2.min_ping_interval_without_data_ms={server.min_ping_seconds * 1000}",
        "grpc.keepalive_permit_without_calls=1",
    ))  # fmt: skip


def _rest(deployment: Deployment, threads: Threads) -> tuple[str, ...]:
    """Return the flags of the REST API: its threads, and the maximum age of connections, equal to gRPC's.

    The REST server closes a connection at this age at the latest. gRPC adds up to 10 %.
    """
    if not deployment.server.rest:
        return ()
    return (
        argument("rest_api_num_threads", threads.rest),
        argument("rest_api_max_connection_age_seconds", deployment.server.max_connection_age_seconds),
    )


def _metrics(deployment: Deployment) -> tuple[str, ...]:
    """Return the flag of the metrics port, which uses the same TLS and client certificates as the other ports.

    On the local target the flag is omitted: the replicas share an address, and a measured port cannot differ between
    replicas.
    """
    port = deployment.server.metrics_port
    return () if port is None or deployment.target.kind == "local" else (argument("monitoring_port", port),)


def _traces(deployment: Deployment) -> tuple[str, ...]:
    """Return the flags of the traces. They are measured, so that the host cannot turn traces on or receive them."""
    traces = deployment.server.traces
    if traces.endpoint is None:
        return ()
    return (
        argument("traces_endpoint", traces.endpoint),
        argument("traces_percent", traces.percent),
        argument("traces_per_second", traces.per_second),
        *([argument("dangerous_plaintext_traces", value=True)] if traces.dangerous_plaintext else []),
    )


def _dangerous_operations(deployment: Deployment) -> tuple[str, ...]:
    """Return the flag of the operations that models may contain although the check in an attested server rejects them.

    The flag is measured, so the owner cannot allow an operation without another measurement.
    """
    allowed = {name for model in deployment.models for name in model.dangerous_operations}
    if not deployment.server.attested or not allowed:
        return ()
    return (argument("dangerous_operations", ",".join(sorted(allowed))),)


def isolation(*, bytecode: bool) -> tuple[str, ...]:
    """Return Python options that make it ignore the user's environment and unmeasured bytecode.

    Python writes no bytecode (-B). If bytecode beside the modules is not measured, Python searches for it in a private
    folder that does not exist. Otherwise a ``__pycache__`` file would be used that matches a module only in size and
    time. Gramine opens only measured files, so there bytecode may be used. It saves most of Python's start-up time.

    Source: Python documentation, "Command line and environment", -I, -B and -X pycache_prefix.
    """
    return ("-I", "-B") if bytecode else ("-I", "-B", "-X", f"pycache_prefix={SCRATCH}/no-bytecode")
