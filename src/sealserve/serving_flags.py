"""The flags of the model servers, described in one place: TensorFlow Serving's flags and sealserve's own flags.

Each of TensorFlow Serving's flags is either supported, or rejected with a reason. `sealserve.serving` parses its
command line with this table, and `sealserve.enclave` checks the command lines in manifests with it. Neither imports the
other, so the table is in a layer below both: docs/decisions/0069-flags-are-described-once.md.

Source: tensorflow/serving 9d981c5c, ``tensorflow_serving/model_servers/main.cc`` (names) and ``server.h`` (defaults).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

MEBIBYTE: Final = 2**20

_CPU_ONLY: Final = "this server computes only on the CPU"
_TPU: Final = "enclaves cannot use a TPU"
_TFLITE: Final = "this server serves only SavedModels"

Value = bool | int | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One flag.

    Args:
        name: The name without the dashes.
        default: The default value. Its type is the type of the flag.
        help: The help text.
        minimum: The minimum of an integer flag.
        maximum: The maximum of an integer flag.
        ours: Whether the flag exists only in sealserve's model server, not in TensorFlow Serving.
        reads: Whether the value is a file or folder that the server reads.
        theirs: The default in TensorFlow Serving, if it differs.
        refused: The reason why sealserve's model server rejects the flag. `None` if it supports the flag.
        harmless: For a rejected flag, the values that request the server's fixed behavior and are therefore accepted.
    """

    name: str
    default: Value
    help: str = ""
    minimum: int = 0
    maximum: int = 2**31 - 1
    ours: bool = False
    reads: bool = False
    theirs: Value | None = None
    refused: str | None = None
    harmless: tuple[Value, ...] = ()


def _flag(default: Value, help_text: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": help_text, **more})


def _threads() -> int:
    return 4 * len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFlags:
    """The values of all supported flags. Each field is a flag with its name, type, default, help text and limits."""

    port: int = _flag(8500, "TCP port for gRPC; 0 selects a free port and logs it", maximum=65535)
    grpc_socket_path: str = _flag(
        "", "Unix socket for gRPC, with the same TLS settings; with --port=0 it is the only gRPC address"
    )
    model_name: str = _flag("default", "name of the model in client requests")
    model_base_path: str = _flag("", "folder of the model; its version folders have integer names", reads=True)
    model_config_file: str = _flag(
        "", "models to serve (ModelServerConfig in protobuf text format), instead of --model_name", reads=True
    )
    model_config_file_poll_wait_seconds: int = _flag(
        0, "interval in seconds for re-reading --model_config_file; 0 reads it once"
    )
    file_system_poll_wait_seconds: int = _flag(1, "interval in seconds for detecting new versions; 0 checks once")
    allow_version_labels_for_unavailable_models: bool = _flag(
        False, "permit a new label for a version that is not available yet"
    )
    resource_preserving_policy: bool = _flag(
        False,
        "unload an old version before loading the new version; by default the new version loads first, without a gap in"
        " service",
        ours=True,
    )
    num_load_threads: int = _flag(0, "number of versions to load concurrently; 0 means 1", maximum=4096)
    num_unload_threads: int = _flag(0, "number of versions to unload concurrently; 0 means 1", maximum=4096)
    max_num_load_retries: int = _flag(
        5, "maximum number of retries of a failed load; no retries with --file_list, which fixes the files"
    )
    load_retry_interval_micros: int = _flag(
        60_000_000, "delay in microseconds before each retry", minimum=-(2**63), maximum=2**63 - 1
    )
    enable_model_warmup: bool = _flag(
        True, "run the requests in a version's assets.extra/tf_serving_warmup_requests before it becomes available"
    )
    num_request_iterations_for_warmup: int = _flag(0, "number of times to run each warm-up request; 0 means 1")
    enable_signature_method_name_check: bool = _flag(
        False, "require the matching method_name in the signature for Classify and Regress"
    )
    saved_model_tags: str = _flag("serve", "comma-separated tags of the meta graph to load")
    ssl_config_file: str = _flag(
        "",
        "TLS settings (SSLConfig in protobuf text format): server_key, server_cert, custom_ca, client_verify",
        reads=True,
    )
    grpc_channel_arguments: str = _flag(
        "", "comma-separated gRPC server arguments, such as grpc.max_connection_age_ms=300000"
    )
    grpc_max_threads: int = _flag(
        _threads(), "number of threads that handle requests; further requests wait", minimum=1, maximum=4096
    )
    enable_serialization_as_tensor_content: bool = _flag(
        False, "return Predict outputs as bytes (tensor_content) instead of typed fields (such as float_val)"
    )
    admin_address: str = _flag(
        "", "HOST:PORT or unix:PATH for operators to reload models; by default reloading is off", ours=True
    )
    admin_ssl_config_file: str = _flag(
        "", "TLS settings of the admin port, which must require client certificates", ours=True, reads=True
    )
    enable_batching: bool = _flag(False, "combine requests for the same signature into batches")
    batching_parameters_file: str = _flag(
        "", "batching parameters (BatchingParameters in protobuf text format)", reads=True
    )
    enable_per_model_batching_parameters: bool = _flag(
        False,
        "read each version's batching parameters from its batching_params.pbtxt; versions without this file are not"
        " batched",
    )
    rest_api_port: int = _flag(0, "TCP port for the REST API; 0 turns it off", maximum=65535)
    rest_api_num_threads: int = _flag(
        _threads(), "number of threads for the REST API; further requests wait", minimum=1, maximum=4096
    )
    rest_api_timeout_in_ms: int = _flag(30_000, "time limit of a REST API request in milliseconds; 0 means no limit")
    rest_api_enable_cors_support: bool = _flag(False, "permit web pages of other origins to use the REST API (CORS)")
    rest_api_ssl_config_file: str = _flag(
        "",
        "TLS settings of the REST API and the metrics page; the default is --ssl_config_file",
        ours=True,
        reads=True,
    )
    dangerous_plaintext_rest: bool = _flag(False, "serve the REST API and the metrics page without TLS", ours=True)
    rest_api_max_body_bytes: int = _flag(
        32 * MEBIBYTE,
        "maximum size in bytes of a REST API request body after decompression; JSON needs many times that memory",
        minimum=1024,
        ours=True,
    )
    rest_api_max_connection_age_seconds: int = _flag(
        0,
        "maximum age in seconds of an HTTP connection, to balance the load; from half this age on it closes after its"
        " next response; 0 means no limit",
        maximum=10**6,
        ours=True,
    )
    rest_api_enable_gzip_responses: bool = _flag(
        False, "compress REST API responses for clients that accept compression", ours=True
    )
    monitoring_config_file: str = _flag(
        "", "metrics page on or off, and its path (MonitoringConfig in protobuf text format)", reads=True
    )
    monitoring_port: int = _flag(
        0, "separate TCP port for the metrics page; 0 uses --rest_api_port", maximum=65535, ours=True
    )
    traces_endpoint: str = _flag(
        "",
        "https://HOST:PORT of the OpenTelemetry collector that receives traces, with OTLP over gRPC; by default traces"
        " are off",
        ours=True,
    )
    traces_ca_file: str = _flag(
        "",
        "CA certificates of the trace collector (PEM); by default the CAs in gRPC's package",
        ours=True,
        reads=True,
    )
    traces_percent: int = _flag(
        1, "percentage of the requests without a trace context that are traced", maximum=100, ours=True
    )
    traces_per_second: int = _flag(
        100, "maximum number of traced requests per second", minimum=1, maximum=100_000, ours=True
    )
    dangerous_plaintext_traces: bool = _flag(
        False,
        "send traces to an http:// collector, without TLS: anyone on the network can read and change them",
        ours=True,
    )
    tensorflow_session_parallelism: int = _flag(
        0, "number of threads in each of TensorFlow's two pools; 0 lets TensorFlow decide"
    )
    tensorflow_intra_op_parallelism: int = _flag(0, "number of threads for one operation; 0 lets TensorFlow decide")
    tensorflow_inter_op_parallelism: int = _flag(0, "number of concurrent operations; 0 lets TensorFlow decide")
    tensorflow_session_config_file: str = _flag(
        "", "TensorFlow settings (ConfigProto in protobuf text format); the thread flags take precedence", reads=True
    )
    version: bool = _flag(False, "print the versions and exit")
    help: bool = _flag(False, "print this help and exit", ours=True)
    file_list: str = _flag(
        "",
        "JSON list of the permitted files with their sizes and SHA-256; paths are relative to the folder of the list",
        ours=True,
        reads=True,
    )
    dangerous_operations: str = _flag(
        "",
        "comma-separated operations that a model may contain although `sealserve model lint` rejects them; only an"
        " attested server checks operations",
        ours=True,
    )
    dangerous_shared_batches: bool = _flag(
        False,
        "allow --enable_batching for an attested server; the model then gets the inputs of several users together, and"
        " can answer one user with another's input",
        ours=True,
    )
    empty_files_after_load: bool = _flag(
        False,
        "empty the files of a version after loading, to free memory on tmpfs; the version cannot be loaded again",
        ours=True,
    )
    bind_address: str = _flag("", "IP address to listen on; by default all addresses", ours=True)
    drain_grace_seconds: int = _flag(30, "time in seconds for running requests to finish after SIGTERM", ours=True)
    max_message_bytes: int = _flag(
        256 * MEBIBYTE,
        "maximum size in bytes of a request and of a decompressed input tensor; all clients together are limited to"
        " eight times this size",
        minimum=1024,
        ours=True,
    )
    transfer_timeout_seconds: int = _flag(
        120,
        "time limit in seconds for sending a request to the server, and for a client to read its response",
        minimum=1,
        ours=True,
    )
    run_timeout_seconds: int = _flag(
        300,
        "time limit in seconds of one model run, even if the client sets no deadline; then DEADLINE_EXCEEDED",
        minimum=1,
        ours=True,
    )
    max_queued_requests: int = _flag(
        2048,
        "maximum number of waiting requests; beyond it, a request of the client with the most waiting requests gets"
        " RESOURCE_EXHAUSTED",
        ours=True,
    )
    dangerous_plaintext: bool = _flag(
        False, "serve without TLS: anyone on the network can read inputs and outputs", ours=True
    )


_DEFAULTS: Final = ServerFlags()
HONOURED: Final = tuple(
    Flag(name=entry.name, default=getattr(_DEFAULTS, entry.name), **entry.metadata) for entry in fields(ServerFlags)
)
REFUSED: Final = (
    Flag(
        name="flush_filesystem_caches",
        default=True,
        harmless=(True, False),
        refused="file system caches are not flushed: local file systems have none that TensorFlow could flush",
    ),
    Flag(name="use_alts_credentials", default=False, harmless=(False,), refused="ALTS works only on Google's machines"),
    Flag(
        name="platform_config_file",
        default="",
        harmless=("",),
        refused="TensorFlow is the only supported platform",
        reads=True,
    ),
    Flag(name="per_process_gpu_memory_fraction", default="", harmless=("", "0", "0.0"), refused=_CPU_ONLY),
    Flag(
        name="remove_unused_fields_from_bundle_metagraph",
        default=True,
        harmless=(True,),
        refused="this server keeps only the signatures of the meta graph",
    ),
    Flag(name="prefer_tflite_model", default=False, harmless=(False,), refused=_TFLITE),
    Flag(name="num_tflite_pools", default=0, refused=_TFLITE),
    Flag(name="num_tflite_interpreters_per_pool", default=0, refused=_TFLITE),
    Flag(name="xla_cpu_compilation_enabled", default=False, harmless=(False,), refused="XLA compilation is off"),
    Flag(name="xla_gpu_compilation_enabled", default=False, harmless=(False,), refused=_CPU_ONLY),
    Flag(
        name="enable_profiler",
        default=False,
        harmless=(False,),
        refused="a profile would show enclave activity to any client that reaches the port",
        theirs=True,
    ),
    Flag(
        name="thread_pool_factory_config_file",
        default="",
        harmless=("",),
        refused="it selects code that is compiled into TensorFlow Serving; use the thread flags instead",
        reads=True,
    ),
    Flag(
        name="mixed_precision",
        default="",
        harmless=("",),
        refused="a model is served in the precision of its SavedModel",
    ),
    Flag(name="skip_initialize_tpu", default=False, harmless=(True, False), refused=_TPU),
    Flag(
        name="enable_grpc_healthcheck_service",
        default=True,
        harmless=(True,),
        refused="the health service is always on, because probes need it",
    ),
)
FLAGS: Final = HONOURED + REFUSED
BY_NAME: Final[Mapping[str, Flag]] = {flag.name: flag for flag in FLAGS}


def argument(name: str, value: Value) -> str:
    """Return a flag in command-line form, for either server.

    Raises:
        KeyError: The flag does not exist.
    """
    return f"--{BY_NAME[name].name}={str(value).lower() if isinstance(value, bool) else value}"
