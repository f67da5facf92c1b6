import pytest

from sealserve.errors import InputError
from sealserve.serving.codes import ServingCode
from sealserve.serving.command_line.flags import parse
from sealserve.serving_flags import FLAGS, HONOURED, REFUSED, Flag, ServerFlags, argument

THEIRS = """
port grpc_socket_path rest_api_port rest_api_num_threads rest_api_timeout_in_ms rest_api_enable_cors_support
enable_batching allow_version_labels_for_unavailable_models batching_parameters_file
enable_per_model_batching_parameters model_config_file model_config_file_poll_wait_seconds model_name model_base_path
num_load_threads num_unload_threads max_num_load_retries load_retry_interval_micros file_system_poll_wait_seconds
flush_filesystem_caches tensorflow_session_parallelism tensorflow_session_config_file tensorflow_intra_op_parallelism
tensorflow_inter_op_parallelism use_alts_credentials ssl_config_file platform_config_file
per_process_gpu_memory_fraction saved_model_tags grpc_channel_arguments grpc_max_threads enable_model_warmup
num_request_iterations_for_warmup version monitoring_config_file remove_unused_fields_from_bundle_metagraph
prefer_tflite_model num_tflite_pools num_tflite_interpreters_per_pool enable_signature_method_name_check
xla_cpu_compilation_enabled xla_gpu_compilation_enabled enable_profiler thread_pool_factory_config_file
mixed_precision skip_initialize_tpu enable_grpc_healthcheck_service enable_serialization_as_tensor_content
"""
"""The flags of tensorflow/serving 9d981c5c, ``model_servers/main.cc``, in its order."""


def test_every_flag_of_tensorflow_serving_is_known_and_none_is_invented() -> None:
    assert {flag.name for flag in FLAGS if not flag.ours} == set(THEIRS.split())


def test_names_are_unique() -> None:
    assert len({flag.name for flag in FLAGS}) == len(FLAGS)


def test_a_flag_is_explained_or_refused() -> None:
    assert all(flag.help and flag.refused is None for flag in HONOURED)
    assert all(flag.refused and not flag.ours for flag in REFUSED)
    assert all(isinstance(value, type(flag.default)) for flag in REFUSED for value in flag.harmless)


@pytest.mark.parametrize("flag", REFUSED, ids=lambda flag: flag.name)
def test_each_refused_flag_is_refused_by_name_with_its_reason(flag: Flag) -> None:
    values = ("true", "false") if isinstance(flag.default, bool) else ("77", "78")
    refused = []
    for value in values:
        try:
            parse([f"--{flag.name}={value}"], FLAGS)
        except InputError as error:
            if error.code != ServingCode.FLAGS_REFUSED:
                raise
            refused.append(error.message)
    assert refused or flag.harmless == (True, False)
    assert set(refused) <= {f"--{flag.name} is not supported by this server: {flag.refused}."}


def test_the_values_of_the_command_line_have_the_kinds_of_the_flags() -> None:
    values = ServerFlags(**parse(["--port=1", "--version", "--model_name=n"], FLAGS))  # type: ignore[arg-type]  # each has its kind
    assert (values.port, values.version, values.model_name) == (1, True, "n")
    assert all(type(getattr(values, flag.name)) is type(flag.default) for flag in HONOURED)


def test_a_command_line_is_made_of_flags_that_exist() -> None:
    assert argument("enable_profiler", value=False) == "--enable_profiler=false"
    assert argument("port", 8500) == "--port=8500"
    with pytest.raises(KeyError):
        argument("prot", 8500)
