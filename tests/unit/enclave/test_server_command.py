from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sealserve import deployment
from sealserve.deployment import Deployment
from sealserve.enclave.server_command import command, threads_of
from sealserve.serving.command_line.options import ServerOptions, parse

CONFIGURATION = ("--model_config_file=/release/config/models.config",)


def described(**sections: Any) -> Deployment:
    return deployment.parse(deployment.write_example({"model": {"name": "resnet50", "path": "m.pb"}, **sections}))


@pytest.mark.parametrize(
    ("owners_key", "module", "settings"),
    [(False, "sealserve.attester", "clients.cfg"), (True, "sealserve.serving", "ssl.cfg")],
)
def test_the_embedded_server_understands_all_of_its_command_line(owners_key: bool, module: str, settings: str) -> None:
    server = {"threads": 3, "max_connection_age_seconds": 7, "dangerous_owner_tls_key": owners_key}
    flags = command(
        described(server=server),
        program="/p/python",
        port=8517,
        bytecode=True,
        configuration=CONFIGURATION,
    )
    assert flags[:5] == ("/p/python", "-I", "-B", "-m", module)
    options = parse(flags[5:], attested=not owners_key)
    assert isinstance(options, ServerOptions)
    assert (options.flags.port, options.flags.bind_address) == (8517, "127.0.0.1")
    assert (options.intra_op_threads, options.inter_op_threads, options.flags.grpc_max_threads) == (3, 3, 12)
    assert str(options.ssl_config_file) == f"/release/tls/{settings}"
    assert str(options.file_list) == "/release/files.json"
    assert options.channel_arguments == (
        ("grpc.max_connection_age_ms", 7000),
        ("grpc.http2.min_ping_interval_without_data_ms", 5000),
        ("grpc.keepalive_permit_without_calls", 1),
    )


@pytest.mark.parametrize(("tls", "settings"), [("two-way", "/release/tls/clients.cfg"), ("one-way", None)])
def test_an_attested_server_gets_its_tls_key_from_no_file(tls: str, settings: str | None) -> None:
    flags = command(
        described(service={"tls": tls}),
        program="/p/python",
        port=8517,
        bytecode=True,
        configuration=CONFIGURATION,
    )
    assert flags[:5] == ("/p/python", "-I", "-B", "-m", "sealserve.attester")
    options = parse(flags[5:], attested=True)
    assert isinstance(options, ServerOptions)
    assert options.ssl_config_file == (None if settings is None else Path(settings))
    assert not any("ssl.cfg" in flag for flag in flags)


def test_allowed_operations_are_flags_of_an_attested_server_only() -> None:
    def flags(kind: str = "embedded", *, owners_key: bool = False, **model: Any) -> list[str]:
        models = [{"name": "a", "path": "m.pb", **model}, {"name": "b", "path": "m.pb", **model}]
        server = {"kind": kind, "dangerous_owner_tls_key": owners_key}
        made = described(model=models, server=server)
        line = command(made, program="/p/python", port=1, bytecode=True, configuration=CONFIGURATION)
        return [flag for flag in line if "dangerous" in flag]

    allowed = ("PyFunc", "Assign")
    assert flags(dangerous_operations=allowed) == ["--dangerous_operations=Assign,PyFunc"]
    assert flags() == []
    assert flags(owners_key=True, dangerous_operations=allowed) == []
    assert flags("tensorflow-serving", dangerous_operations=allowed) == []  # it does not have the flag


def test_only_files_in_memory_are_emptied_once_they_are_loaded() -> None:
    make = partial(command, described(), program="/p/python", port=1, bytecode=False, configuration=())
    assert "--empty_files_after_load" in make(files_in_memory=True)
    assert "--empty_files_after_load" not in make(files_in_memory=False), "in Gramine they are the sealed ones"


def test_elsewhere_than_on_this_machine_it_listens_on_every_address() -> None:
    flags = command(
        described(target={"kind": "kubernetes"}),
        program="/p/python",
        port=8500,
        bytecode=True,
        configuration=CONFIGURATION,
    )
    assert not any(flag.startswith("--bind_address") for flag in flags)


def test_bytecode_that_is_not_measured_has_no_say() -> None:
    flags = command(described(), program="/p/python", port=1, bytecode=False, configuration=())
    assert flags[3:5] == ("-X", "pycache_prefix=/release/scratch/no-bytecode")


def test_tensorflow_serving_has_no_plaintext_port_no_profiler_and_no_polling() -> None:
    flags = command(
        described(server={"kind": "tensorflow-serving", "threads": 2}),
        program="/bin/tfs",
        port=8500,
        bytecode=True,
        configuration=CONFIGURATION,
    )
    assert flags[0] == "/bin/tfs"
    assert set(flags[1:]) == {
        "--port=8500",
        "--rest_api_port=0",
        "--ssl_config_file=/release/tls/ssl.cfg",
        "--model_config_file=/release/config/models.config",
        "--model_config_file_poll_wait_seconds=0",
        "--file_system_poll_wait_seconds=0",
        "--max_num_load_retries=0",
        "--flush_filesystem_caches=false",
        "--enable_profiler=false",
        "--enable_grpc_healthcheck_service=true",
        "--tensorflow_intra_op_parallelism=2",
        "--tensorflow_inter_op_parallelism=2",
        "--grpc_max_threads=8",
        (
            "--grpc_channel_arguments=grpc.max_connection_age_ms=60000,"
            "grpc.http2.min_ping_interval_without_data_ms=5000,grpc.keepalive_permit_without_calls=1"
        ),
    }


@pytest.mark.parametrize(("kind", "unbounded"), [("embedded", 64), ("tensorflow-serving", 128)])
def test_all_threads_follow_from_the_command_line(kind: str, unbounded: int) -> None:
    threads = threads_of(described(server={"kind": kind, "threads": 4}))
    assert (threads.tensorflow, threads.requests, threads.unbounded) == (4, 16, unbounded)
    assert threads.inter_op == (17 if kind == "embedded" else 4)  # a thread for each run, so that it can be stopped
    assert threads.all == 4 + threads.inter_op + 16 + unbounded + 4


@pytest.mark.parametrize(("target", "expected"), [("kubernetes", ["--monitoring_port=9464"]), ("local", [])])
def test_metrics_have_a_port_where_each_replica_has_an_address(target: str, expected: list[str]) -> None:
    flags = command(
        described(target={"kind": target}, server={"metrics_port": 9464}),
        program="/p/python",
        port=8500,
        bytecode=True,
        configuration=CONFIGURATION,
    )
    assert [flag for flag in flags if "monitoring" in flag] == expected


@pytest.mark.parametrize(("port", "rest"), [(8500, 8501), (8517, 8518), (65535, 65534)])
def test_rest_has_the_port_beside_grpcs_and_the_same_tls_and_age(port: int, rest: int) -> None:
    flags = command(
        described(server={"rest": True, "threads": 3, "max_connection_age_seconds": 7}),
        program="/p/python",
        port=port,
        bytecode=True,
        configuration=CONFIGURATION,
    )
    options = parse(flags[5:], attested=True)
    assert isinstance(options, ServerOptions)
    assert options.flags.rest_api_port == rest
    assert options.http.ssl_config_file == options.ssl_config_file == Path("/release/tls/clients.cfg")
    assert (options.flags.rest_api_num_threads, options.flags.rest_api_max_connection_age_seconds) == (12, 7)
    assert not options.flags.dangerous_plaintext_rest
    assert options.concurrent_requests == 24


def test_rest_takes_threads_of_its_own_only_where_it_is_on() -> None:
    off, on = (threads_of(described(server={"threads": 4, "rest": rest})) for rest in (False, True))
    assert (off.rest, on.rest, on.inter_op) == (0, 16, 33)
    assert on.all == off.all + 32


def test_traces_are_measured_and_off_by_default() -> None:
    def flags(**settings: object) -> list[str]:
        made = command(
            described(server={"traces": settings}), program="/p/python", port=8500, bytecode=True,
            configuration=CONFIGURATION,
        )  # fmt: skip
        return [flag for flag in made if "traces" in flag]

    assert flags() == []
    assert flags(endpoint="https://collector:4317", percent=7, per_second=9) == [
        "--traces_endpoint=https://collector:4317", "--traces_percent=7", "--traces_per_second=9",
    ]  # fmt: skip
    assert "--dangerous_plaintext_traces=true" in flags(endpoint="http://collector", dangerous_plaintext=True)
