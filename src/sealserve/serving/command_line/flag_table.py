"""Every flag of TensorFlow Serving, honoured or refused with its reason, and our own.

Source: tensorflow/serving 9d981c5c, ``tensorflow_serving/model_servers/main.cc`` (names) and ``server.h`` (defaults).
"""

import os
from typing import Final

from sealserve.serving.command_line.flags import Flag

MEBIBYTE: Final = 2**20

_CPU_ONLY: Final = "this server computes on the CPU"
_TPU: Final = "there is no TPU inside an enclave"
_TFLITE: Final = "it serves SavedModels only"


def _threads() -> int:
    return 4 * len(os.sched_getaffinity(0))


HONOURED: Final = (
    Flag(name="port", default=8500, maximum=65535, help="TCP port for gRPC; 0 picks a free one, which the log names"),
    Flag(
        name="grpc_socket_path",
        default="",
        help="Unix socket for gRPC, with the same TLS settings; with --port=0 it is the only address",
    ),
    Flag(name="model_name", default="default", help="the servable's name, as clients ask for it"),
    Flag(name="model_base_path", default="", help="folder of the model; its version folders are named by integers"),
    Flag(
        name="model_config_file",
        default="",
        help="the models to serve (ModelServerConfig in protobuf text format) instead of --model_name",
    ),
    Flag(
        name="model_config_file_poll_wait_seconds",
        default=0,
        help="seconds between two looks at --model_config_file; 0 looks once",
    ),
    Flag(
        name="file_system_poll_wait_seconds",
        default=1,
        help="seconds between two looks for new versions; 0 looks once",
    ),
    Flag(
        name="allow_version_labels_for_unavailable_models",
        default=False,
        help="a label that is new may be given to a version that is not available yet",
    ),
    Flag(
        name="resource_preserving_policy",
        default=False,
        ours=True,
        help="an old version is unloaded before the new one loads; by default the other way round, so that one serves",
    ),
    Flag(name="num_load_threads", default=0, maximum=4096, help="versions that load at once; 0 is one"),
    Flag(name="num_unload_threads", default=0, maximum=4096, help="versions that are freed at once; 0 is one"),
    Flag(
        name="max_num_load_retries",
        default=5,
        help="how often a load that failed is tried again; never where --file_list fixes the files",
    ),
    Flag(
        name="load_retry_interval_micros",
        default=60_000_000,
        minimum=-(2**63),
        maximum=2**63 - 1,
        help="microseconds before each try",
    ),
    Flag(
        name="enable_model_warmup",
        default=True,
        help="run a version's assets.extra/tf_serving_warmup_requests before it is available",
    ),
    Flag(name="num_request_iterations_for_warmup", default=0, help="how often each warm-up request is run; 0 is once"),
    Flag(
        name="enable_signature_method_name_check",
        default=False,
        help="Classify and Regress insist on the signature's method_name",
    ),
    Flag(name="saved_model_tags", default="serve", help="comma-separated tags of the meta graph to load"),
    Flag(
        name="ssl_config_file",
        default="",
        help="TLS settings (SSLConfig in protobuf text format): server_key, server_cert, custom_ca, client_verify",
    ),
    Flag(
        name="grpc_channel_arguments",
        default="",
        help="comma-separated arguments of the gRPC server, such as grpc.max_connection_age_ms=300000",
    ),
    Flag(
        name="grpc_max_threads",
        default=_threads(),
        minimum=1,
        maximum=4096,
        help="threads that handle requests: so many run at once, the others wait",
    ),
    Flag(
        name="enable_serialization_as_tensor_content",
        default=False,
        help="Predict's answers carry bytes (tensor_content), not typed fields (float_val and so on)",
    ),
    Flag(
        name="admin_address",
        default="",
        ours=True,
        help="HOST:PORT or unix:PATH where operators may reload the models; by default nobody may",
    ),
    Flag(
        name="admin_ssl_config_file",
        default="",
        ours=True,
        help="TLS settings of an admin port, which must ask operators for a certificate",
    ),
    Flag(name="enable_batching", default=False, help="run requests to the same signature together"),
    Flag(
        name="batching_parameters_file",
        default="",
        help="how requests are run together (BatchingParameters in protobuf text format)",
    ),
    Flag(
        name="enable_per_model_batching_parameters",
        default=False,
        help="take the parameters of each version from its batching_params.pbtxt; a version without one is not batched",
    ),
    Flag(name="rest_api_port", default=0, maximum=65535, help="TCP port for the REST API; 0 leaves it off"),
    Flag(
        name="rest_api_num_threads",
        default=_threads(),
        minimum=1,
        maximum=4096,
        help="threads that answer the REST API: so many run at once, the others wait",
    ),
    Flag(name="rest_api_timeout_in_ms", default=30_000, help="how long an answer of the REST API may take; 0 for any"),
    Flag(name="rest_api_enable_cors_support", default=False, help="allow pages of other sites to ask the REST API"),
    Flag(
        name="rest_api_ssl_config_file",
        default="",
        ours=True,
        help="TLS settings of the REST API and the page of metrics; by default those of --ssl_config_file",
    ),
    Flag(
        name="dangerous_plaintext_rest",
        default=False,
        ours=True,
        help="serve the REST API and the page of metrics without TLS",
    ),
    Flag(
        name="rest_api_max_body_bytes",
        default=32 * MEBIBYTE,
        minimum=1024,
        ours=True,
        help="the largest body of a request to the REST API, once it is unpacked; as JSON it takes many times that",
    ),
    Flag(
        name="rest_api_enable_gzip_responses",
        default=False,
        ours=True,
        help="compress the REST API's answers for clients that accept it",
    ),
    Flag(
        name="monitoring_config_file",
        default="",
        help="whether there is a page of metrics, and its path (MonitoringConfig in protobuf text format)",
    ),
    Flag(
        name="monitoring_port",
        default=0,
        maximum=65535,
        ours=True,
        help="TCP port of its own for the page of metrics; 0 has it on --rest_api_port",
    ),
    Flag(
        name="tensorflow_session_parallelism",
        default=0,
        help="threads of each of TensorFlow's two pools; 0 lets TensorFlow decide",
    ),
    Flag(name="tensorflow_intra_op_parallelism", default=0, help="threads that share the work of one operation"),
    Flag(name="tensorflow_inter_op_parallelism", default=0, help="operations that run at the same time"),
    Flag(
        name="tensorflow_session_config_file",
        default="",
        help="TensorFlow's settings (ConfigProto in protobuf text format); the thread flags go before",
    ),
    Flag(name="version", default=False, help="print the versions and end"),
    Flag(name="help", default=False, ours=True, help="print this text and end"),
    Flag(
        name="file_list",
        default="",
        ours=True,
        help="JSON list of the files that may be loaded, with sizes and SHA-256; paths are relative to its folder",
    ),
    Flag(
        name="empty_files_after_load",
        default=False,
        ours=True,
        help="empty a version's files once they are loaded, where they lie in memory (tmpfs): they load never again",
    ),
    Flag(name="bind_address", default="", ours=True, help="address to listen on; by default every one"),
    Flag(
        name="drain_grace_seconds",
        default=30,
        ours=True,
        help="after SIGTERM, how long running requests may take to finish",
    ),
    Flag(
        name="max_message_bytes",
        default=256 * MEBIBYTE,
        minimum=1024,
        ours=True,
        help="the largest request, and the largest input tensor once it is unpacked; all clients together may take"
        " eight times that",
    ),
    Flag(
        name="transfer_timeout_seconds",
        default=120,
        minimum=1,
        ours=True,
        help="how long a request may be on its way to the server, and an answer to a client that does not read",
    ),
    Flag(
        name="run_timeout_seconds",
        default=300,
        minimum=1,
        ours=True,
        help="how long one run of a model may take, also for a client without a deadline; then DEADLINE_EXCEEDED",
    ),
    Flag(
        name="max_queued_requests",
        default=256,
        ours=True,
        help="requests that may wait for a thread; more are refused with RESOURCE_EXHAUSTED",
    ),
    Flag(
        name="dangerous_plaintext",
        default=False,
        ours=True,
        help="serve without TLS: anyone on the way reads inputs and answers",
    ),
)

REFUSED: Final = (
    Flag(
        name="flush_filesystem_caches",
        default=True,
        harmless=(True, False),
        refused="file system caches are left alone: local file systems have none that TensorFlow could flush",
    ),
    Flag(name="use_alts_credentials", default=False, harmless=(False,), refused="ALTS works on Google's machines only"),
    Flag(name="platform_config_file", default="", harmless=("",), refused="TensorFlow is the only platform"),
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
    ),
    Flag(
        name="thread_pool_factory_config_file",
        default="",
        harmless=("",),
        refused="it names code that is compiled into TensorFlow Serving; the thread flags set the threads",
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
