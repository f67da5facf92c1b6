"""What the command line asks of the server, checked as a whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sealserve.serving.base_path import read_base_path
from sealserve.serving.codes import ServingCode
from sealserve.serving.command_line import flags
from sealserve.serving_flags import FLAGS, ServerFlags

_LONGEST_SOCKET_PATH: Final = 107
"""Bytes; unix(7), ``sun_path``."""

ChannelArgument = tuple[str, int | str]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions:
    """The REST API and the page of metrics.

    Args:
        timeout: Seconds that an answer may take; None for any.
        ssl_config_file: TLS settings, or None for plaintext.
        monitoring_config_file: Whether there is a page of metrics, and where; None for no such file.
    """

    timeout: float | None
    ssl_config_file: Path | None
    monitoring_config_file: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchingFlags:
    """Whether requests are run together.

    Args:
        parameters_file: How, or None for TensorFlow Serving's defaults.
        per_model: Whether each version says how by itself, in its ``batching_params.pbtxt``.
    """

    parameters_file: Path | None
    per_model: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminOptions:
    """The address for operators.

    Args:
        address: ``HOST:PORT`` or ``unix:PATH``.
        ssl_config_file: TLS settings of a port.
    """

    address: str
    ssl_config_file: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """One run of the server.

    Args:
        flags: The flags as they are given. What is below is what they mean, where that is more than their value.
        model_base_path: The folder with its version folders.
        model_config_file: The models to serve instead of that one, or None.
        load_threads: How many versions load at once.
        unload_threads: How many versions are freed at once.
        load_retry_interval: Seconds before each.
        warmup_iterations: How often each warm-up request is run; 0 runs none.
        saved_model_tags: Tags of the meta graph to load.
        ssl_config_file: TLS settings, or None for plaintext.
        file_list: The list of the files that may be loaded, or None to load what is there.
        session_config_file: TensorFlow's settings (ConfigProto in protobuf text format), or None.
        socket_path: A Unix socket to listen on as well, or None.
        channel_arguments: Arguments of the gRPC server, in order.
        intra_op_threads: TensorFlow's threads for one operation; 0 lets it decide.
        inter_op_threads: TensorFlow's threads for operations beside each other; 0 lets it decide.
        http: The REST API and the page of metrics.
        batching: Whether and how requests are run together; None for each by itself.
        admin: The address for operators, or None.
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

    @property
    def concurrent_requests(self) -> int:
        """How many requests are handled at once, over gRPC and REST."""
        flags = self.flags
        return flags.grpc_max_threads + (flags.rest_api_num_threads if flags.rest_api_port else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The command line asks for text, not for a server.

    Args:
        version: The versions; else the help.
    """

    version: bool


def parse(arguments: Sequence[str]) -> ServerOptions | Question:
    """Return what the command line ``arguments`` (without the program's name) asks for.

    Raises:
        InputError: A flag that is unknown, refused or missing, a value that cannot be used, or two that conflict.
    """
    values = ServerFlags(**flags.parse(arguments, FLAGS))  # type: ignore[arg-type]  # each has its flag's kind
    if values.help or values.version:
        return Question(version=not values.help)
    base_path = read_base_path(text) if (text := values.model_base_path) else None
    config_file = _path(values.model_config_file)
    if base_path is None and config_file is None:
        raise ServingCode.FLAGS_MISSING.error(
            "--model_base_path is missing.",
            hint="It is the folder with the model's versions; --model_config_file names several models.",
        )
    if not values.model_name:
        raise ServingCode.FLAGS_INVALID_VALUE.error("--model_name: expected a name, got nothing.")
    _check_tls(values.ssl_config_file, plaintext=values.dangerous_plaintext)
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
    )


def parse_channel_arguments(text: str) -> tuple[ChannelArgument, ...]:
    """Return the arguments of ``key=value,key=value``; a value that is an integer becomes one.

    Raises:
        InputError: `flags.invalid-value`: A part without a key or a value.
    """
    arguments: list[ChannelArgument] = []
    for part in filter(None, text.split(",")):
        key, _, value = part.partition("=")
        if not key or not value:
            raise ServingCode.FLAGS_INVALID_VALUE.error(
                f"--grpc_channel_arguments: expected key=value, got {part!r}.",
                hint="For example grpc.max_connection_age_ms=300000,grpc.max_concurrent_streams=100.",
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
            f"--grpc_socket_path: a socket's path has at most {_LONGEST_SOCKET_PATH} bytes: {path}."
        )
    return path


def _check_tls(ssl_config_file: str, *, plaintext: bool) -> None:
    if ssl_config_file and plaintext:
        raise ServingCode.FLAGS_CONFLICT.error(
            "--ssl_config_file and --dangerous_plaintext are both given.", hint="Leave one of them out."
        )
    if not ssl_config_file and not plaintext:
        raise ServingCode.FLAGS_PLAINTEXT_REFUSED.error(
            "There is no --ssl_config_file, and this server does not serve in plaintext.",
            hint="Give the TLS settings, or --dangerous_plaintext where nobody else can listen.",
        )


def _admin(values: ServerFlags) -> AdminOptions | None:
    address, settings = values.admin_address, _path(values.admin_ssl_config_file)
    if address:
        return AdminOptions(address=address, ssl_config_file=settings)
    if settings is not None:
        raise ServingCode.FLAGS_CONFLICT.error(
            "--admin_ssl_config_file is given without --admin_address.", hint="Give both, or neither."
        )
    return None


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
            "--port, --rest_api_port and --monitoring_port are not all different.", hint="Give each a port of its own."
        )
    settings, plaintext = _path(values.rest_api_ssl_config_file), values.dangerous_plaintext_rest
    if settings is not None and plaintext:
        raise ServingCode.FLAGS_CONFLICT.error(
            "--rest_api_ssl_config_file and --dangerous_plaintext_rest are both given.", hint="Leave one of them out."
        )
    return HttpOptions(
        timeout=values.rest_api_timeout_in_ms / 1000 or None,
        ssl_config_file=None if plaintext else settings or _path(values.ssl_config_file),
        monitoring_config_file=_path(values.monitoring_config_file),
    )


def _parallelism(values: ServerFlags) -> tuple[int, int]:
    """Return the two pool sizes (intra, inter), as ``server.cc`` (Server::BuildAndStart) chooses them."""
    session = values.tensorflow_session_parallelism
    intra, inter = values.tensorflow_intra_op_parallelism, values.tensorflow_inter_op_parallelism
    if session and intra and inter:
        raise ServingCode.FLAGS_CONFLICT.error(
            "--tensorflow_session_parallelism and both of --tensorflow_intra_op_parallelism and"
            " --tensorflow_inter_op_parallelism are given.",
            hint="Set the first one, or the other two.",
        )
    return (intra, inter) if intra or inter else (session, session)
