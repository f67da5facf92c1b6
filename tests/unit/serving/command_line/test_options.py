from pathlib import Path

import pytest
from tests.harness.errors import raises

from sealserve.serving.codes import ServingCode
from sealserve.serving.command_line.options import Question, ServerOptions, parse, parse_channel_arguments

BASE = ("--model_base_path=/m", "--ssl_config_file=/ssl.cfg")


def options(*flags: str) -> ServerOptions:
    parsed = parse([*BASE, *flags])
    assert isinstance(parsed, ServerOptions)
    return parsed


def test_the_defaults_are_tensorflow_servings_where_it_has_them() -> None:
    chosen = options()
    assert (chosen.flags.port, chosen.flags.model_name, chosen.saved_model_tags) == (8500, "default", ("serve",))
    assert (chosen.model_base_path, chosen.ssl_config_file, chosen.file_list) == (Path("/m"), Path("/ssl.cfg"), None)
    assert (chosen.intra_op_threads, chosen.inter_op_threads) == (0, 0)
    assert chosen.flags.grpc_max_threads >= 4
    assert (chosen.flags.drain_grace_seconds, chosen.flags.max_message_bytes) == (30, 2**28)


def test_help_and_version_are_questions() -> None:
    assert parse(["--version"]) == Question(version=True)
    assert parse(["--help", "--version"]) == Question(version=False)


def test_a_model_must_be_given() -> None:
    with raises(ServingCode.FLAGS_MISSING, match="--model_base_path is missing") as caught:
        parse(["--ssl_config_file=x"])
    assert caught.value.code == "flags.missing"
    with raises(ServingCode.FLAGS_INVALID_VALUE, match="--model_name is invalid: expected a name"):
        options("--model_name=")


def test_plaintext_must_be_asked_for_by_its_name() -> None:
    with raises(ServingCode.FLAGS_PLAINTEXT_REFUSED, match="plaintext is not enabled") as caught:
        parse(["--model_base_path=/m"])
    assert caught.value.code == "flags.plaintext-refused"
    chosen = parse(["--model_base_path=/m", "--dangerous_plaintext"])
    assert isinstance(chosen, ServerOptions)
    assert chosen.ssl_config_file is None


def test_an_attested_server_batches_only_if_that_is_allowed_by_name() -> None:
    flags = ["--model_base_path=/m", "--enable_batching"]
    with raises(ServingCode.FLAGS_CONFLICT, match="could answer one user with the input of another"):
        parse(flags, attested=True)
    chosen = parse([*flags, "--dangerous_shared_batches"], attested=True)
    assert isinstance(chosen, ServerOptions)
    assert chosen.batching is not None
    for flag in ("--dangerous_shared_batches", "--dangerous_operations=Print"):
        with raises(ServingCode.FLAGS_CONFLICT, match="only an attested server"):
            parse([*BASE, flag])


def test_an_attested_server_has_tls_on_each_port_and_no_key_in_a_file() -> None:
    chosen = parse(["--model_base_path=/m", "--rest_api_port=8501"], attested=True)
    assert isinstance(chosen, ServerOptions)
    assert (chosen.ssl_config_file, chosen.http.ssl_config_file) == (None, None)
    chosen = parse([*BASE, "--rest_api_port=8501"], attested=True)
    assert isinstance(chosen, ServerOptions)
    assert chosen.http.ssl_config_file == Path("/ssl.cfg")
    for flag in ("--dangerous_plaintext", "--dangerous_plaintext_rest", "--rest_api_ssl_config_file=/x"):
        name = flag.partition("=")[0]
        with raises(ServingCode.FLAGS_CONFLICT, match=f"{name} is given, but the server is attested"):
            parse(["--model_base_path=/m", "--rest_api_port=8501", flag], attested=True)


def test_tls_and_plaintext_exclude_each_other() -> None:
    with raises(ServingCode.FLAGS_CONFLICT, match="both given") as caught:
        options("--dangerous_plaintext")
    assert caught.value.code == "flags.conflict"


@pytest.mark.parametrize(
    ("flags", "pools"),
    [
        (["session=3"], (3, 3)),
        (["intra_op=2"], (2, 0)),
        (["intra_op=2", "inter_op=1"], (2, 1)),
        (["session=3", "inter_op=1"], (0, 1)),
    ],
)
def test_thread_pools_are_sized_as_tensorflow_serving_sizes_them(flags: list[str], pools: tuple[int, int]) -> None:
    chosen = options(*("--tensorflow_" + flag.replace("=", "_parallelism=") for flag in flags))
    assert (chosen.intra_op_threads, chosen.inter_op_threads) == pools


def test_all_three_pool_flags_conflict() -> None:
    with raises(ServingCode.FLAGS_CONFLICT, match="--tensorflow_session_parallelism and both of"):
        options(*(f"--tensorflow_{pool}_parallelism=1" for pool in ("session", "intra_op", "inter_op")))


def test_channel_arguments_are_integers_where_they_can_be() -> None:
    assert parse_channel_arguments("") == ()
    assert parse_channel_arguments("grpc.max_connection_age_ms=300,a=b") == (
        ("grpc.max_connection_age_ms", 300),
        ("a", "b"),
    )


@pytest.mark.parametrize("text", ["grpc.max_connection_age_ms", "=3", "a="])
def test_channel_arguments_need_a_key_and_a_value(text: str) -> None:
    with raises(ServingCode.FLAGS_INVALID_VALUE, match="--grpc_channel_arguments is invalid: expected key=value"):
        parse_channel_arguments(text)


def test_models_and_loading_have_tensorflow_servings_defaults() -> None:
    chosen = options()
    assert (
        chosen.flags.file_system_poll_wait_seconds,
        chosen.flags.model_config_file_poll_wait_seconds,
        chosen.flags.max_num_load_retries,
    ) == (1, 0, 5)
    assert (chosen.load_retry_interval, chosen.load_threads, chosen.warmup_iterations) == (60.0, 1, 1)
    assert options("--enable_model_warmup=false", "--num_request_iterations_for_warmup=3").warmup_iterations == 0
    assert options("--num_request_iterations_for_warmup=3").warmup_iterations == 3
    assert options("--load_retry_interval_micros=-1").load_retry_interval == 0
    parsed = parse(["--model_config_file=/models.config", "--dangerous_plaintext"])
    assert isinstance(parsed, ServerOptions)
    assert parsed.model_config_file == Path("/models.config")


def test_http_is_off_unless_a_port_is_given_and_has_grpcs_tls() -> None:
    http = options().http
    assert http.timeout == 30.0
    flags = options().flags
    assert (flags.rest_api_port, flags.monitoring_port, flags.rest_api_enable_cors_support) == (0, 0, False)
    assert http.ssl_config_file == Path("/ssl.cfg")
    assert options("--rest_api_ssl_config_file=/rest.cfg").http.ssl_config_file == Path("/rest.cfg")
    assert options("--dangerous_plaintext_rest").http.ssl_config_file is None
    assert options("--rest_api_timeout_in_ms=0").http.timeout is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port=1", "--rest_api_port=1"], "--port, --rest_api_port and --monitoring_port are not all different"),
        (["--rest_api_port=1", "--monitoring_port=1"], "are not all different"),
        (["--rest_api_ssl_config_file=/a", "--dangerous_plaintext_rest"], "are both given"),
    ],
)
def test_http_flags_that_conflict(flags: list[str], message: str) -> None:
    with raises(ServingCode.FLAGS_CONFLICT, match=message):
        options(*flags)


def test_a_sockets_path_must_fit() -> None:
    assert options("--grpc_socket_path=/run/s").socket_path == Path("/run/s")
    with raises(ServingCode.FLAGS_INVALID_VALUE, match="is too long: expected at most 107 bytes"):
        options(f"--grpc_socket_path=/{'s' * 107}")


def test_batching_must_be_enabled() -> None:
    assert options().batching is None
    batching = options("--enable_batching", "--batching_parameters_file=/b").batching
    assert batching is not None
    assert (batching.parameters_file, batching.per_model) == (Path("/b"), False)
    for flag in ("--batching_parameters_file=/b", "--enable_per_model_batching_parameters"):
        with raises(ServingCode.FLAGS_CONFLICT, match="is set without setting --enable_batching to true"):
            options(flag)


def test_the_admin_address_is_off_unless_it_is_given() -> None:
    assert options().admin is None
    admin = options("--admin_address=unix:/run/admin.sock").admin
    assert admin is not None
    assert (admin.address, admin.ssl_config_file) == ("unix:/run/admin.sock", None)
    with raises(ServingCode.FLAGS_CONFLICT, match="--admin_ssl_config_file is given without --admin_address"):
        options("--admin_ssl_config_file=/x")


def test_traces_are_off_unless_a_collector_is_given() -> None:
    assert options().traces is None
    for flag in ("--traces_ca_file=/ca.pem", "--dangerous_plaintext_traces"):
        with raises(ServingCode.FLAGS_CONFLICT, match="without --traces_endpoint"):
            options(flag)
    traces = options(
        "--traces_endpoint=https://collector:4317", "--traces_ca_file=/ca.pem", "--traces_percent=5"
    ).traces
    assert traces is not None
    assert (traces.collector.address, traces.ca_file, traces.ratio) == ("collector:4317", Path("/ca.pem"), 0.05)
    assert traces.per_second == 100
    with raises(ServingCode.FLAGS_INVALID_VALUE, match="--traces_endpoint is invalid"):
        options("--traces_endpoint=collector:4317")


def test_traces_need_tls_unless_plaintext_is_allowed_by_name() -> None:
    plain = "--traces_endpoint=http://collector:4317"
    with raises(ServingCode.FLAGS_PLAINTEXT_REFUSED, match="does not use TLS"):
        options(plain)
    traces = options(plain, "--dangerous_plaintext_traces").traces
    assert traces is not None
    assert not traces.collector.tls
    with raises(ServingCode.FLAGS_CONFLICT, match="does not use TLS"):
        options(plain, "--dangerous_plaintext_traces", "--traces_ca_file=/ca.pem")
    with raises(ServingCode.FLAGS_CONFLICT, match="uses TLS"):
        options("--traces_endpoint=https://collector", "--dangerous_plaintext_traces")
