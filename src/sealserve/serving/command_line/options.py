"""What the command line asks of the server, checked as a whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sealserve.errors import InputError
from sealserve.serving.base_path import read_base_path
from sealserve.serving.command_line import flags
from sealserve.serving.command_line.flag_table import FLAGS
from sealserve.serving.command_line.flags import FlagValueError

_LONGEST_SOCKET_PATH: Final = 107
"""Bytes; unix(7), ``sun_path``."""

ChannelArgument = tuple[str, int | str]


class MissingFlagError(InputError):
    """A flag that has no default was not given."""

    code = "flags.missing"


class PlaintextRefusedError(InputError):
    """Neither TLS settings nor the flag that does without them."""

    code = "flags.plaintext-refused"


class ConflictingFlagsError(InputError):
    """Two flags ask for different things."""

    code = "flags.conflict"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions:
    """The REST API and the page of metrics.

    Args:
        port: TCP port of the REST API; 0 for none.
        threads: How many requests are answered at once.
        timeout: Seconds that an answer may take; None for any.
        cors: Whether pages of other sites may ask.
        gzip: Whether answers are compressed for clients that accept it.
        max_body_bytes: The largest body of a request.
        ssl_config_file: TLS settings, or None for plaintext.
        monitoring_config_file: Whether there is a page of metrics, and where; None for no such file.
        monitoring_port: TCP port of the page of metrics; 0 for that of the REST API.
    """

    port: int
    threads: int
    timeout: float | None
    cors: bool
    gzip: bool
    max_body_bytes: int
    ssl_config_file: Path | None
    monitoring_config_file: Path | None
    monitoring_port: int


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
        port: TCP port for gRPC; 0 for a free one.
        bind_address: Address to listen on; empty for every one.
        model_name: The servable's name.
        model_base_path: The folder with its version folders.
        model_config_file: The models to serve instead of that one, or None.
        config_poll_seconds: Seconds between two looks at that file; 0 looks once.
        poll_seconds: Seconds between two looks for new versions; 0 looks once.
        allow_labels_for_unavailable: Whether a label may be given to a version that is not available yet.
        resource_preserving: Whether an old version goes before the new one comes.
        load_threads: How many versions load at once.
        unload_threads: How many versions are freed at once.
        load_retries: How often a load that failed is tried again.
        load_retry_interval: Seconds before each.
        warmup_iterations: How often each warm-up request is run; 0 runs none.
        check_method_names: Whether Classify and Regress insist on the signature's method name.
        saved_model_tags: Tags of the meta graph to load.
        ssl_config_file: TLS settings, or None for plaintext.
        file_list: The list of the files that may be loaded, or None to load what is there.
        session_config_file: TensorFlow's settings (ConfigProto in protobuf text format), or None.
        empty_files: Whether a version's files are emptied once they are loaded, where they lie in memory.
        socket_path: A Unix socket to listen on as well, or None.
        channel_arguments: Arguments of the gRPC server, in order.
        threads: How many requests are handled at once.
        queue: How many more may wait.
        intra_op_threads: TensorFlow's threads for one operation; 0 lets it decide.
        inter_op_threads: TensorFlow's threads for operations beside each other; 0 lets it decide.
        max_message_bytes: The largest request and the largest input tensor, in bytes.
        http: The REST API and the page of metrics.
        batching: Whether and how requests are run together; None for each by itself.
        admin: The address for operators, or None.
        tensor_content: Whether Predict's answers carry bytes (``tensor_content``), not typed fields.
        transfer_timeout: Seconds that a message may be on its way, in either direction.
        run_timeout: Seconds that one run of a model may take.
        drain_grace: Seconds that running requests have after SIGTERM.
    """

    port: int
    bind_address: str
    model_name: str
    model_base_path: Path
    model_config_file: Path | None
    config_poll_seconds: int
    poll_seconds: int
    allow_labels_for_unavailable: bool
    resource_preserving: bool
    load_threads: int
    unload_threads: int
    load_retries: int
    load_retry_interval: float
    warmup_iterations: int
    check_method_names: bool
    saved_model_tags: tuple[str, ...]
    ssl_config_file: Path | None
    file_list: Path | None
    session_config_file: Path | None
    empty_files: bool
    socket_path: Path | None
    channel_arguments: tuple[ChannelArgument, ...]
    threads: int
    queue: int
    intra_op_threads: int
    inter_op_threads: int
    max_message_bytes: int
    http: HttpOptions
    batching: BatchingFlags | None
    admin: AdminOptions | None
    tensor_content: bool
    transfer_timeout: int
    run_timeout: int
    drain_grace: int

    @property
    def concurrent_requests(self) -> int:
        """How many requests are handled at once, over gRPC and REST."""
        return self.threads + (self.http.threads if self.http.port else 0)


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
    values = flags.parse(arguments, FLAGS)
    if values.truth("help") or values.truth("version"):
        return Question(version=not values.truth("help"))
    base_path = read_base_path(text) if (text := values.text("model_base_path")) else None
    config_file = values.path("model_config_file")
    if base_path is None and config_file is None:
        raise MissingFlagError(
            "--model_base_path is missing.",
            hint="It is the folder with the model's versions; --model_config_file names several models.",
        )
    if not values.text("model_name"):
        raise FlagValueError("--model_name: expected a name, got nothing.")
    _check_tls(values.text("ssl_config_file"), plaintext=values.truth("dangerous_plaintext"))
    intra, inter = _parallelism(values)
    return ServerOptions(
        port=values.integer("port"),
        bind_address=values.text("bind_address"),
        model_name=values.text("model_name"),
        model_base_path=base_path or Path(),
        model_config_file=config_file,
        config_poll_seconds=values.integer("model_config_file_poll_wait_seconds"),
        poll_seconds=values.integer("file_system_poll_wait_seconds"),
        allow_labels_for_unavailable=values.truth("allow_version_labels_for_unavailable_models"),
        resource_preserving=values.truth("resource_preserving_policy"),
        load_threads=max(values.integer("num_load_threads"), 1),
        unload_threads=max(values.integer("num_unload_threads"), 1),
        load_retries=values.integer("max_num_load_retries"),
        load_retry_interval=max(values.integer("load_retry_interval_micros"), 0) / 1e6,
        warmup_iterations=(
            max(values.integer("num_request_iterations_for_warmup"), 1) if values.truth("enable_model_warmup") else 0
        ),
        check_method_names=values.truth("enable_signature_method_name_check"),
        saved_model_tags=tuple(tag for tag in values.text("saved_model_tags").split(",") if tag),
        ssl_config_file=values.path("ssl_config_file"),
        file_list=values.path("file_list"),
        session_config_file=values.path("tensorflow_session_config_file"),
        empty_files=values.truth("empty_files_after_load"),
        socket_path=_socket_path(values.path("grpc_socket_path")),
        channel_arguments=parse_channel_arguments(values.text("grpc_channel_arguments")),
        threads=values.integer("grpc_max_threads"),
        queue=values.integer("max_queued_requests"),
        intra_op_threads=intra,
        inter_op_threads=inter,
        max_message_bytes=values.integer("max_message_bytes"),
        http=_http(values),
        batching=_batching(values),
        admin=_admin(values),
        tensor_content=values.truth("enable_serialization_as_tensor_content"),
        transfer_timeout=values.integer("transfer_timeout_seconds"),
        run_timeout=values.integer("run_timeout_seconds"),
        drain_grace=values.integer("drain_grace_seconds"),
    )


def parse_channel_arguments(text: str) -> tuple[ChannelArgument, ...]:
    """Return the arguments of ``key=value,key=value``; a value that is an integer becomes one.

    Raises:
        FlagValueError: A part without a key or a value.
    """
    arguments: list[ChannelArgument] = []
    for part in filter(None, text.split(",")):
        key, _, value = part.partition("=")
        if not key or not value:
            raise FlagValueError(
                f"--grpc_channel_arguments: expected key=value, got {part!r}.",
                hint="For example grpc.max_connection_age_ms=300000,grpc.max_concurrent_streams=100.",
            )
        try:
            arguments.append((key, int(value)))
        except ValueError:
            arguments.append((key, value))
    return tuple(arguments)


def _socket_path(path: Path | None) -> Path | None:
    if path is not None and len(bytes(path)) > _LONGEST_SOCKET_PATH:
        raise FlagValueError(f"--grpc_socket_path: a socket's path has at most {_LONGEST_SOCKET_PATH} bytes: {path}.")
    return path


def _check_tls(ssl_config_file: str, *, plaintext: bool) -> None:
    if ssl_config_file and plaintext:
        raise ConflictingFlagsError(
            "--ssl_config_file and --dangerous_plaintext are both given.", hint="Leave one of them out."
        )
    if not ssl_config_file and not plaintext:
        raise PlaintextRefusedError(
            "There is no --ssl_config_file, and this server does not serve in plaintext.",
            hint="Give the TLS settings, or --dangerous_plaintext where nobody else can listen.",
        )


def _admin(values: flags.Values) -> AdminOptions | None:
    address, settings = values.text("admin_address"), values.path("admin_ssl_config_file")
    if address:
        return AdminOptions(address=address, ssl_config_file=settings)
    if settings is not None:
        raise ConflictingFlagsError(
            "--admin_ssl_config_file is given without --admin_address.", hint="Give both, or neither."
        )
    return None


def _batching(values: flags.Values) -> BatchingFlags | None:
    parameters_file = values.path("batching_parameters_file")
    per_model = values.truth("enable_per_model_batching_parameters")
    if values.truth("enable_batching"):
        return BatchingFlags(parameters_file=parameters_file, per_model=per_model)
    for name, given in (
        ("batching_parameters_file", parameters_file is not None),
        ("enable_per_model_batching_parameters", per_model),
    ):
        if given:
            raise ConflictingFlagsError(
                f"--{name} is set without setting --enable_batching to true.", hint="Give --enable_batching too."
            )
    return None


def _http(values: flags.Values) -> HttpOptions:
    port, monitoring = values.integer("rest_api_port"), values.integer("monitoring_port")
    ports = [number for number in (values.integer("port"), port, monitoring) if number]
    if len(set(ports)) != len(ports):
        raise ConflictingFlagsError(
            "--port, --rest_api_port and --monitoring_port are not all different.", hint="Give each a port of its own."
        )
    config = values.path("monitoring_config_file")
    settings, plaintext = values.path("rest_api_ssl_config_file"), values.truth("dangerous_plaintext_rest")
    if settings is not None and plaintext:
        raise ConflictingFlagsError(
            "--rest_api_ssl_config_file and --dangerous_plaintext_rest are both given.", hint="Leave one of them out."
        )
    return HttpOptions(
        port=port,
        threads=values.integer("rest_api_num_threads"),
        timeout=values.integer("rest_api_timeout_in_ms") / 1000 or None,
        cors=values.truth("rest_api_enable_cors_support"),
        gzip=values.truth("rest_api_enable_gzip_responses"),
        max_body_bytes=values.integer("rest_api_max_body_bytes"),
        ssl_config_file=None if plaintext else settings or values.path("ssl_config_file"),
        monitoring_config_file=config,
        monitoring_port=monitoring,
    )


def _parallelism(values: flags.Values) -> tuple[int, int]:
    """Return the two pool sizes (intra, inter), as ``server.cc`` (Server::BuildAndStart) chooses them."""
    session, intra, inter = (
        values.integer(f"tensorflow_{pool}_parallelism") for pool in ("session", "intra_op", "inter_op")
    )
    if session and intra and inter:
        raise ConflictingFlagsError(
            "--tensorflow_session_parallelism and both of --tensorflow_intra_op_parallelism and"
            " --tensorflow_inter_op_parallelism are given.",
            hint="Set the first one, or the other two.",
        )
    return (intra, inter) if intra or inter else (session, session)
