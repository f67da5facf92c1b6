"""The flags of model servers, each described once: TensorFlow Serving's, honoured or refused with its reason, and ours.

`sealserve.serving` parses its command line by this table, and `sealserve.enclave` judges with it the command lines of
manifests. Neither imports the other, so the table is below both: docs/decisions/0069-flags-are-described-once.md.

Source: tensorflow/serving 9d981c5c, ``tensorflow_serving/model_servers/main.cc`` (names) and ``server.h`` (defaults).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

MEBIBYTE: Final = 2**20

_CPU_ONLY: Final = "this server computes on the CPU"
_TPU: Final = "there is no TPU inside an enclave"
_TFLITE: Final = "it serves SavedModels only"

Value = bool | int | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One flag.

    Args:
        name: Its name, without the dashes.
        default: What it is when it is not given; it also says the flag's kind.
        help: What it does.
        minimum: The smallest integer that makes sense.
        maximum: The greatest integer that makes sense.
        ours: Whether TensorFlow Serving lacks it.
        reads: Whether it names a file or a folder that the server reads.
        theirs: The default in TensorFlow Serving, where it differs.
        refused: Why our server does not honour it, or None where it does.
        harmless: Of a refused flag, the values that ask for what the server does anyway.
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
    """The values of all flags that our server honours. A field is a flag: its name, kind, default, text and limits."""

    port: int = _flag(8500, "TCP port for gRPC; 0 picks a free one, which the log names", maximum=65535)
    grpc_socket_path: str = _flag(
        "", "Unix socket for gRPC, with the same TLS settings; with --port=0 it is the only address"
    )
    model_name: str = _flag("default", "the servable's name, as clients ask for it")
    model_base_path: str = _flag("", "folder of the model; its version folders are named by integers", reads=True)
    model_config_file: str = _flag(
        "", "the models to serve (ModelServerConfig in protobuf text format) instead of --model_name", reads=True
    )
    model_config_file_poll_wait_seconds: int = _flag(
        0, "seconds between two looks at --model_config_file; 0 looks once"
    )
    file_system_poll_wait_seconds: int = _flag(1, "seconds between two looks for new versions; 0 looks once")
    allow_version_labels_for_unavailable_models: bool = _flag(
        False, "a label that is new may be given to a version that is not available yet"
    )
    resource_preserving_policy: bool = _flag(
        False,
        "an old version is unloaded before the new one loads; by default the other way round, so that one serves",
        ours=True,
    )
    num_load_threads: int = _flag(0, "versions that load at once; 0 is one", maximum=4096)
    num_unload_threads: int = _flag(0, "versions that are freed at once; 0 is one", maximum=4096)
    max_num_load_retries: int = _flag(
        5, "how often a load that failed is tried again; never where --file_list fixes the files"
    )
    load_retry_interval_micros: int = _flag(
        60_000_000, "microseconds before each try", minimum=-(2**63), maximum=2**63 - 1
    )
    enable_model_warmup: bool = _flag(
        True, "run a version's assets.extra/tf_serving_warmup_requests before it is available"
    )
    num_request_iterations_for_warmup: int = _flag(0, "how often each warm-up request is run; 0 is once")
    enable_signature_method_name_check: bool = _flag(
        False, "Classify and Regress insist on the signature's method_name"
    )
    saved_model_tags: str = _flag("serve", "comma-separated tags of the meta graph to load")
    ssl_config_file: str = _flag(
        "",
        "TLS settings (SSLConfig in protobuf text format): server_key, server_cert, custom_ca, client_verify",
        reads=True,
    )
    grpc_channel_arguments: str = _flag(
        "", "comma-separated arguments of the gRPC server, such as grpc.max_connection_age_ms=300000"
    )
    grpc_max_threads: int = _flag(
        _threads(), "threads that handle requests: so many run at once, the others wait", minimum=1, maximum=4096
    )
    enable_serialization_as_tensor_content: bool = _flag(
        False, "Predict's answers carry bytes (tensor_content), not typed fields (float_val and so on)"
    )
    admin_address: str = _flag(
        "", "HOST:PORT or unix:PATH where operators may reload the models; by default nobody may", ours=True
    )
    admin_ssl_config_file: str = _flag(
        "", "TLS settings of an admin port, which must ask operators for a certificate", ours=True, reads=True
    )
    enable_batching: bool = _flag(False, "run requests to the same signature together")
    batching_parameters_file: str = _flag(
        "", "how requests are run together (BatchingParameters in protobuf text format)", reads=True
    )
    enable_per_model_batching_parameters: bool = _flag(
        False,
        "take the parameters of each version from its batching_params.pbtxt; a version without one is not batched",
    )
    rest_api_port: int = _flag(0, "TCP port for the REST API; 0 leaves it off", maximum=65535)
    rest_api_num_threads: int = _flag(
        _threads(), "threads that answer the REST API: so many run at once, the others wait", minimum=1, maximum=4096
    )
    rest_api_timeout_in_ms: int = _flag(30_000, "how long an answer of the REST API may take; 0 for any")
    rest_api_enable_cors_support: bool = _flag(False, "allow pages of other sites to ask the REST API")
    rest_api_ssl_config_file: str = _flag(
        "",
        "TLS settings of the REST API and the page of metrics; by default those of --ssl_config_file",
        ours=True,
        reads=True,
    )
    dangerous_plaintext_rest: bool = _flag(False, "serve the REST API and the page of metrics without TLS", ours=True)
    rest_api_max_body_bytes: int = _flag(
        32 * MEBIBYTE,
        "the largest body of a request to the REST API, once it is unpacked; as JSON it takes many times that",
        minimum=1024,
        ours=True,
    )
    rest_api_max_connection_age_seconds: int = _flag(
        0,
        "seconds after which a client's HTTP connection is closed, so that load evens out: from half of them on with"
        " the next answer, then also without one; 0 for no limit",
        maximum=10**6,
        ours=True,
    )
    rest_api_enable_gzip_responses: bool = _flag(
        False, "compress the REST API's answers for clients that accept it", ours=True
    )
    monitoring_config_file: str = _flag(
        "", "whether there is a page of metrics, and its path (MonitoringConfig in protobuf text format)", reads=True
    )
    monitoring_port: int = _flag(
        0, "TCP port of its own for the page of metrics; 0 has it on --rest_api_port", maximum=65535, ours=True
    )
    tensorflow_session_parallelism: int = _flag(
        0, "threads of each of TensorFlow's two pools; 0 lets TensorFlow decide"
    )
    tensorflow_intra_op_parallelism: int = _flag(0, "threads that share the work of one operation")
    tensorflow_inter_op_parallelism: int = _flag(0, "operations that run at the same time")
    tensorflow_session_config_file: str = _flag(
        "", "TensorFlow's settings (ConfigProto in protobuf text format); the thread flags go before", reads=True
    )
    version: bool = _flag(False, "print the versions and end")
    help: bool = _flag(False, "print this text and end", ours=True)
    file_list: str = _flag(
        "",
        "JSON list of the files that may be loaded, with sizes and SHA-256; paths are relative to its folder",
        ours=True,
        reads=True,
    )
    empty_files_after_load: bool = _flag(
        False,
        "empty a version's files once they are loaded, where they lie in memory (tmpfs): they load never again",
        ours=True,
    )
    bind_address: str = _flag("", "address to listen on; by default every one", ours=True)
    drain_grace_seconds: int = _flag(30, "after SIGTERM, how long running requests may take to finish", ours=True)
    max_message_bytes: int = _flag(
        256 * MEBIBYTE,
        "the largest request, and the largest input tensor once it is unpacked; all clients together may take"
        " eight times that",
        minimum=1024,
        ours=True,
    )
    transfer_timeout_seconds: int = _flag(
        120,
        "how long a request may be on its way to the server, and an answer to a client that does not read",
        minimum=1,
        ours=True,
    )
    run_timeout_seconds: int = _flag(
        300,
        "how long one run of a model may take, also for a client without a deadline; then DEADLINE_EXCEEDED",
        minimum=1,
        ours=True,
    )
    max_queued_requests: int = _flag(
        256, "requests that may wait for a thread; more are refused with RESOURCE_EXHAUSTED", ours=True
    )
    dangerous_plaintext: bool = _flag(False, "serve without TLS: anyone on the way reads inputs and answers", ours=True)


_DEFAULTS: Final = ServerFlags()
HONOURED: Final = tuple(
    Flag(name=entry.name, default=getattr(_DEFAULTS, entry.name), **entry.metadata) for entry in fields(ServerFlags)
)
REFUSED: Final = (
    Flag(
        name="flush_filesystem_caches",
        default=True,
        harmless=(True, False),
        refused="file system caches are left alone: local file systems have none that TensorFlow could flush",
    ),
    Flag(name="use_alts_credentials", default=False, harmless=(False,), refused="ALTS works on Google's machines only"),
    Flag(
        name="platform_config_file", default="", harmless=("",), refused="TensorFlow is the only platform", reads=True
    ),
    Flag(name="per_process_gpu_memory_fraction", default="", harmless=("", "0", "0.0"), refused=_CPU_ONLY),
    Flag(
        name="remove_unused_fields_from_bundle_metagraph",
        default=True,
        harmless=(True,),
        refused="it keeps only the signatures of the meta graph",
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
        refused="a profile shows what runs inside the enclave to whoever reaches the port",
        theirs=True,
    ),
    Flag(
        name="thread_pool_factory_config_file",
        default="",
        harmless=("",),
        refused="it names code that is compiled into TensorFlow Serving; the thread flags set the threads",
        reads=True,
    ),
    Flag(name="mixed_precision", default="", harmless=("",), refused="a model is served as it was saved"),
    Flag(name="skip_initialize_tpu", default=False, harmless=(True, False), refused=_TPU),
    Flag(
        name="enable_grpc_healthcheck_service",
        default=True,
        harmless=(True,),
        refused="the health service is always on: probes need it",
    ),
)
FLAGS: Final = HONOURED + REFUSED
BY_NAME: Final[Mapping[str, Flag]] = {flag.name: flag for flag in FLAGS}


def argument(name: str, value: Value) -> str:
    """Return a flag as it stands on a command line of either server.

    Raises:
        KeyError: There is no such flag.
    """
    return f"--{BY_NAME[name].name}={str(value).lower() if isinstance(value, bool) else value}"
