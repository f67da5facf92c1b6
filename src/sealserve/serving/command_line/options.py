"""The options of the server: the parsed command line, with checks of flags that depend on each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sealserve.errors import SealserveError
from sealserve.serving.base_path import read_base_path
from sealserve.serving.codes import ServingCode
from sealserve.serving.command_line import flags
from sealserve.serving_flags import FLAGS, ServerFlags
from sealserve.tracing.collector import Collector

_LONGEST_SOCKET_PATH: Final = 107
"""In bytes. Source: unix(7), ``sun_path``."""

ChannelArgument = tuple[str, int | str]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions:
    """The options of the REST API and the metrics page.

    Args:
        timeout: Maximum seconds for an answer; None for no limit.
        ssl_config_file: The file with the TLS settings, or None for plaintext.
        monitoring_config_file: The file that enables the metrics page and sets its path, or None.
    """

    timeout: float | None
    ssl_config_file: Path | None
    monitoring_config_file: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchingFlags:
    """The batching flags.

    Args:
        parameters_file: The file with the batching parameters, or None for TensorFlow Serving's defaults.
        per_model: Whether each version has its own parameters, in its ``batching_params.pbtxt``.
    """

    parameters_file: Path | None
    per_model: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminOptions:
    """The options of the admin address for operators.

    Args:
        address: ``HOST:PORT`` or ``unix:PATH``.
        ssl_config_file: The file with the TLS settings of a port.
    """

    address: str
    ssl_config_file: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TracesOptions:
    """The options of the traces.

    Args:
        collector: The collector that receives them.
        ca_file: The file with the collector's CA certificates, or None for the CAs in gRPC's package.
        ratio: The share of the requests without a trace context that are traced, from 0 to 1.
        per_second: Maximum number of traced requests per second.
    """

    collector: Collector
    ca_file: Path | None
    ratio: float
    per_second: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """The options of one run of the server.

    Args:
        flags: The flags as given. The other fields are derived from flags.
        model_base_path: The folder with the version folders.
        model_config_file: The file with the models to serve instead, or None.
        load_threads: Number of versions that load at the same time.
        unload_threads: Number of versions that are freed at the same time.
        load_retry_interval: Seconds before each retry of a load.
        warmup_iterations: Number of runs of each warm-up request; 0 runs none.
        saved_model_tags: Tags of the meta graph to load.
        ssl_config_file: The file with the TLS settings, or None for plaintext.
        file_list: The list of the files that may be loaded, or None to load any file.
        session_config_file: TensorFlow's settings (ConfigProto in protobuf text format), or None.
        socket_path: An additional Unix socket to listen on, or None.
        channel_arguments: Arguments of the gRPC server, in order.
        intra_op_threads: TensorFlow's threads within one operation; 0 for TensorFlow's default.
        inter_op_threads: TensorFlow's threads for parallel operations; 0 for TensorFlow's default.
        http: The options of the REST API and the metrics page.
        batching: The batching flags; None if each request runs separately.
        admin: The options of the admin address, or None.
        traces: The options of the traces, or None if they are off.
    """

    flags: ServerFlags
    model_base_path: Path
    model_config_file: Path | None
    load_threads: int
    unload_threads: int
    load_retry_interval: float
    warmup_iterations: int
    saved_model_tags: tuple[str, ...]
    ssl_config_file: Path | None
    file_list: Path | None
    session_config_file: Path | None
    socket_path: Path | None
    channel_arguments: tuple[ChannelArgument, ...]
    intra_op_threads: int
    inter_op_threads: int
    http: HttpOptions
    batching: BatchingFlags | None
    admin: AdminOptions | None
    traces: TracesOptions | None

    @property
    def dangerous_operations(self) -> tuple[str, ...]:
        """The operations that a model may contain although the check of an attested server rejects them."""
        return tuple(filter(None, self.flags.dangerous_operations.split(",")))

    @property
    def concurrent_requests(self) -> int:
        """Maximum number of requests that are handled at the same time, over gRPC and REST."""
        flags = self.flags
        return flags.grpc_max_threads + (flags.rest_api_num_threads if flags.rest_api_port else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A command line that asks for a text (help or version) and does not start a server.

    Args:
        version: Whether it asks for the versions; otherwise it asks for the help.
    """

    version: bool


def parse(arguments: Sequence[str], *, attested: bool = False) -> ServerOptions | Question:
    """Return the options that the command line ``arguments`` (without the program's name) sets.

    Args:
        arguments: The command line.
        attested: Whether the server gets its TLS key from an identity. Then every port has TLS, and the file of
            ``--ssl_config_file`` is optional and contains only the settings for client certificates.

    Raises:
        InputError: A flag is unknown, refused, missing or invalid, or two flags conflict.
    """
    values = ServerFlags(**flags.parse(arguments, FLAGS))  # type: ignore[arg-type]  # each value has its flag's type
    if values.help or values.version:
        return Question(version=not values.help)
    base_path = read_base_path(text) if (text := values.model_base_path) else None
    config_file = _path(values.model_config_file)
    if base_path is None and config_file is None:
        raise ServingCode.FLAGS_MISSING.error(
            "The model to serve is not given: --model_base_path is missing.",
            hint="Give --model_base_path, the folder with the model's versions, or --model_config_file.",
        )
    if not values.model_name:
        raise ServingCode.FLAGS_INVALID_VALUE.error(
            "--model_name is invalid: expected a name, got an empty text.", hint="Give the model's name, or omit it."
        )
    if attested:
        _check_attested(values)
    else:
        _check_tls(values.ssl_config_file, plaintext=values.dangerous_plaintext)
        for name in ("dangerous_operations", "dangerous_shared_batches"):
            if getattr(values, name):
                raise ServingCode.FLAGS_CONFLICT.error(
                    f"--{name} is given, but only an attested server checks what models can do with inputs.",
                    hint="Omit the flag.",
                )
    intra, inter = _parallelism(values)
    return ServerOptions(
        flags=values,
        model_base_path=base_path or Path(),
        model_config_file=config_file,
        load_threads=max(values.num_load_threads, 1),
        unload_threads=max(values.num_unload_threads, 1),
        load_retry_interval=max(values.load_retry_interval_micros, 0) / 1e6,
        warmup_iterations=(max(values.num_request_iterations_for_warmup, 1) if values.enable_model_warmup else 0),
        saved_model_tags=tuple(tag for tag in values.saved_model_tags.split(",") if tag),
        ssl_config_file=_path(values.ssl_config_file),
        file_list=_path(values.file_list),
        session_config_file=_path(values.tensorflow_session_config_file),
        socket_path=_socket_path(_path(values.grpc_socket_path)),
        channel_arguments=parse_channel_arguments(values.grpc_channel_arguments),
        intra_op_threads=intra,
        inter_op_threads=inter,
        http=_http(values),
        batching=_batching(values),
        admin=_admin(values),
        traces=_traces(values),
    )


def parse_channel_arguments(text: str) -> tuple[ChannelArgument, ...]:
    """Return the arguments in ``key=value,key=value``. An integer value is converted into a number.

    Raises:
        InputError: `flags.invalid-value`: A part has no key or no value.
    """
    arguments: list[ChannelArgument] = []
    for part in filter(None, text.split(",")):
        key, _, value = part.partition("=")
        if not key or not value:
            raise ServingCode.FLAGS_INVALID_VALUE.error(
                f"--grpc_channel_arguments is invalid: expected key=value, got {part!r}.",
                hint="Give for example grpc.max_connection_age_ms=300000,grpc.max_concurrent_streams=100.",
            )
        try:
            arguments.append((key, int(value)))
        except ValueError:
            arguments.append((key, value))
    return tuple(arguments)


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _socket_path(path: Path | None) -> Path | None:
    if path is not None and len(bytes(path)) > _LONGEST_SOCKET_PATH:
        raise ServingCode.FLAGS_INVALID_VALUE.error(
            f"--grpc_socket_path is too long: expected at most {_LONGEST_SOCKET_PATH} bytes, got {path}.",
            hint="Give a shorter path.",
        )
    return path


def _check_tls(ssl_config_file: str, *, plaintext: bool) -> None:
    if ssl_config_file and plaintext:
        raise ServingCode.FLAGS_CONFLICT.error(
            "--ssl_config_file and --dangerous_plaintext are both given.", hint="Omit one of them."
        )
    if not ssl_config_file and not plaintext:
        raise ServingCode.FLAGS_PLAINTEXT_REFUSED.error(
            "TLS is not configured: --ssl_config_file is missing, and plaintext is not enabled.",
            hint="Give --ssl_config_file. Use --dangerous_plaintext only if no other host can read the traffic.",
        )


def _check_attested(values: ServerFlags) -> None:
    for name, given in (
        ("dangerous_plaintext", values.dangerous_plaintext),
        ("dangerous_plaintext_rest", values.dangerous_plaintext_rest),
        ("rest_api_ssl_config_file", bool(values.rest_api_ssl_config_file)),
    ):
        if given:
            raise ServingCode.FLAGS_CONFLICT.error(
                f"--{name} is given, but the server is attested: all ports use the TLS key of the enclave.",
                hint="Omit the flag.",
            )
    # A model that gets the inputs of several users in one tensor can exchange their rows. No lint can exclude that.
    if values.enable_batching and not values.dangerous_shared_batches:
        raise ServingCode.FLAGS_CONFLICT.error(
            "--enable_batching is given, but the server is attested: a model could answer one user with the input of "
            "another user in the same batch.",
            hint="Omit the flag. If all users trust the model, give --dangerous_shared_batches too.",
        )


def _admin(values: ServerFlags) -> AdminOptions | None:
    address, settings = values.admin_address, _path(values.admin_ssl_config_file)
    if address:
        return AdminOptions(address=address, ssl_config_file=settings)
    if settings is not None:
        raise ServingCode.FLAGS_CONFLICT.error(
            "--admin_ssl_config_file is given without --admin_address.", hint="Give both flags, or neither."
        )
    return None


def _traces(values: ServerFlags) -> TracesOptions | None:
    ca_file, plaintext = _path(values.traces_ca_file), values.dangerous_plaintext_traces
    if not values.traces_endpoint:
        for name, given in (("traces_ca_file", ca_file is not None), ("dangerous_plaintext_traces", plaintext)):
            if given:
                raise ServingCode.FLAGS_CONFLICT.error(
                    f"--{name} is given without --traces_endpoint.", hint="Give both flags, or neither."
                )
        return None
    try:
        collector = Collector.parse(values.traces_endpoint)
    except SealserveError as error:
        raise ServingCode.FLAGS_INVALID_VALUE.error(
            f"--traces_endpoint is invalid. {error.message}", hint=error.hint
        ) from error
    if collector.tls and plaintext:
        raise ServingCode.FLAGS_CONFLICT.error(
            "--dangerous_plaintext_traces is given, but the address in --traces_endpoint uses TLS.",
            hint="Omit the flag.",
        )
    if not collector.tls and not plaintext:
        raise ServingCode.FLAGS_PLAINTEXT_REFUSED.error(
            "--traces_endpoint does not use TLS, and plaintext traces are not enabled.",
            hint="Give an https:// address. Use --dangerous_plaintext_traces only if no other host can read the "
            "traffic.",
        )
    if not collector.tls and ca_file is not None:
        raise ServingCode.FLAGS_CONFLICT.error(
            "--traces_ca_file is given, but the address in --traces_endpoint does not use TLS.", hint="Omit the flag."
        )
    return TracesOptions(
        collector=collector,
        ca_file=ca_file,
        ratio=values.traces_percent / 100,
        per_second=values.traces_per_second,
    )


def _batching(values: ServerFlags) -> BatchingFlags | None:
    parameters_file = _path(values.batching_parameters_file)
    per_model = values.enable_per_model_batching_parameters
    if values.enable_batching:
        return BatchingFlags(parameters_file=parameters_file, per_model=per_model)
    for name, given in (
        ("batching_parameters_file", parameters_file is not None),
        ("enable_per_model_batching_parameters", per_model),
    ):
        if given:
            raise ServingCode.FLAGS_CONFLICT.error(
                f"--{name} is set without setting --enable_batching to true.", hint="Give --enable_batching too."
            )
    return None


def _http(values: ServerFlags) -> HttpOptions:
    ports = [number for number in (values.port, values.rest_api_port, values.monitoring_port) if number]
    if len(set(ports)) != len(ports):
        raise ServingCode.FLAGS_CONFLICT.error(
            "--port, --rest_api_port and --monitoring_port are not all different.", hint="Give each a different port."
        )
    settings, plaintext = _path(values.rest_api_ssl_config_file), values.dangerous_plaintext_rest
    if settings is not None and plaintext:
        raise ServingCode.FLAGS_CONFLICT.error(
            "--rest_api_ssl_config_file and --dangerous_plaintext_rest are both given.", hint="Omit one of them."
        )
    return HttpOptions(
        timeout=values.rest_api_timeout_in_ms / 1000 or None,
        ssl_config_file=None if plaintext else settings or _path(values.ssl_config_file),
        monitoring_config_file=_path(values.monitoring_config_file),
    )


def _parallelism(values: ServerFlags) -> tuple[int, int]:
    """Return the sizes of the two pools (intra, inter), by the rule of ``server.cc`` (Server::BuildAndStart)."""
    session = values.tensorflow_session_parallelism
    intra, inter = values.tensorflow_intra_op_parallelism, values.tensorflow_inter_op_parallelism
    if session and intra and inter:
        raise ServingCode.FLAGS_CONFLICT.error(
            "--tensorflow_session_parallelism and both of --tensorflow_intra_op_parallelism and"
            " --tensorflow_inter_op_parallelism are given.",
            hint="Give --tensorflow_session_parallelism alone, or the other two.",
        )
    return (intra, inter) if intra or inter else (session, session)
