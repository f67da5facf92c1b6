import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import text_format
from tests.harness.errors import raises
from tests.harness.tiny_model import saved_model

from sealserve.pki.authority import Authority, AuthorityKind
from sealserve.pki.ssl_config import SslConfig
from sealserve.serving.admin import AdminPort, ReloadConfigError
from sealserve.serving.codes import ServingCode
from sealserve.serving.command_line import options as flags
from sealserve.serving.command_line.options import AdminOptions
from sealserve.serving.lifecycle.models import Models
from sealserve.serving.request_errors import Status
from sealserve.serving.runtime.protos import ModelServerConfig, ReloadConfigRequest, ReloadConfigResponse
from sealserve.serving.servables import Servable, Servables

pytestmark = pytest.mark.tensorflow

RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
NAME = "grpc.tf-serving.service.com"


class Running:
    """A model, and the admin address at which it can be replaced."""

    def __init__(self, folder: Path, *, poll_seconds: int = 0) -> None:
        saved_model(folder / "m/1")
        chosen = flags.parse(
            [
                *("--dangerous_plaintext", "--model_name=m", f"--model_base_path={folder}/m"),
                *(f"--file_system_poll_wait_seconds={poll_seconds}", "--max_num_load_retries=0"),
            ]
        )
        assert isinstance(chosen, flags.ServerOptions)
        self.table = Servables()
        self.models = Models(chosen, None, self.table)
        self.models.start()
        self.ports: list[AdminPort] = []

    def open(self, options: AdminOptions) -> str:
        port = AdminPort(options, None, self.table, self.models)
        self.ports.append(port)
        return port.start()


@pytest.fixture
def running(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Running]:
    made = Running(tmp_path, poll_seconds=getattr(request, "param", 0))
    yield made
    for port in made.ports:
        assert port.stop(30.0)
    made.models.close()


def request(text: str, *metrics: str) -> bytes:
    config = text_format.Parse(f"model_config_list {{ {text} }}", ModelServerConfig()) if text else ModelServerConfig()
    return bytes(ReloadConfigRequest(config=config, metric_names=metrics).SerializeToString())


def model(name: str, path: Path) -> str:
    return f'config {{ name: "{name}" base_path: "{path}" model_platform: "tensorflow" }}'


def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    return error.code(), error.details()


def test_operators_reload_the_models(running: Running, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "m/1", tmp_path / "n/7")
    address = running.open(AdminOptions(address=f"unix:{tmp_path}/admin.sock", ssl_config_file=None))
    assert address == f"unix:{tmp_path}/admin.sock"
    with grpc.insecure_channel(address) as channel:
        reload: Any = channel.unary_unary(RELOAD)
        running.table.metrics.request("m", Status.OK)
        both = model("m", tmp_path / "m") + model("n", tmp_path / "n")
        answer = ReloadConfigResponse.FromString(
            reload(request(both, "/tensorflow/serving/request_count", "/unknown"), timeout=60)
        )
        assert (answer.status.error_code, answer.status.error_message) == (0, "")
        assert [(metric.name, metric.int64_value_increase) for metric in answer.metric] == [
            ("/tensorflow/serving/request_count", 0),
            ("/unknown", 0),
        ]
        assert running.models.names == ("m", "n")
        status: Any = channel.unary_unary(STATUS)
        assert status(b"\n\x03\n\x01n", timeout=60)
        health: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert health(b"", timeout=60) == b"\x08\x01"


def test_models_that_cannot_be_served_are_refused(running: Running, tmp_path: Path) -> None:
    address = running.open(AdminOptions(address=f"unix:{tmp_path}/admin.sock", ssl_config_file=None))
    (tmp_path / "broken/1").mkdir(parents=True)
    with grpc.insecure_channel(address) as channel:
        reload: Any = channel.unary_unary(RELOAD)
        for content, code, message in (
            (b"\xff", grpc.StatusCode.INVALID_ARGUMENT, "The request is not a valid ReloadConfigRequest message."),
            (
                request(""),
                grpc.StatusCode.INVALID_ARGUMENT,
                (
                    "ServerModelConfig type not supported by HandleReloadConfigRequest."
                    " Only ModelConfigList is currently supported"
                ),
            ),
            (
                request('config { name: "n" }'),
                grpc.StatusCode.INVALID_ARGUMENT,
                "Expected model n to have an absolute path or URI; got base_path()=",
            ),
            (request(model("n", tmp_path / "no")), grpc.StatusCode.FAILED_PRECONDITION, "The folder "),
            (
                request(model("b", tmp_path / "broken")),
                grpc.StatusCode.NOT_FOUND,
                f"{tmp_path}/broken/1 cannot be loaded",
            ),
        ):
            found, details = refused(lambda content=content: reload(content, timeout=60))
            assert found is code
            assert details.startswith(message)
    assert ReloadConfigError.code == "request.reload-config"


@pytest.mark.parametrize("running", [3600], indirect=True)
def test_a_reload_that_waits_or_cannot_be_served_blocks_no_other_call(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = running.open(AdminOptions(address=f"unix:{tmp_path}/admin.sock", ssl_config_file=None))
    shutil.copytree(tmp_path / "m/1", tmp_path / "slow/1")
    loading, held = threading.Event(), threading.Event()
    load = running.models._manager._load_version

    def slowly(*arguments: Any) -> Servable:
        loading.set()
        assert held.wait(60)
        return load(*arguments)

    monkeypatch.setattr(running.models._manager, "_load_version", slowly)
    with grpc.insecure_channel(address) as channel:
        reload: Any = channel.unary_unary(RELOAD)
        code, details = refused(lambda: reload(request(model("zz", tmp_path / "nowhere")), timeout=60))
        assert (code, details) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            f"The folder {tmp_path}/nowhere of the model does not exist.",
        )
        both = request(model("m", tmp_path / "m") + model("slow", tmp_path / "slow"))
        waiting = reload.future(both)
        assert loading.wait(60)
        status: Any = channel.unary_unary(STATUS)
        assert status(b"\n\x03\n\x01m", timeout=60)
        assert refused(lambda: reload(request(""), timeout=60))[0] is grpc.StatusCode.INVALID_ARGUMENT
        # A rollback takes effect while the reloads that it replaces still wait.
        assert reload(request(model("m", tmp_path / "m")), timeout=60) == b"\n\x00"
        code, details = refused(lambda: waiting.result(60))
        assert (code, details) == (
            grpc.StatusCode.UNKNOWN,
            "The reload failed: a later configuration removed slow before it was available.",
        )
        assert refused(lambda: reload(both, timeout=0.05))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    assert running.ports[0].stop(30.0)
    held.set()


def certificates(now: datetime) -> tuple[Authority, Authority]:
    return (
        Authority.create(AuthorityKind.SERVICE, names=[NAME], simulated=True, now=now),
        Authority.create(AuthorityKind.USERS, names=["operator.x"], simulated=True, now=now),
    )


def settings(service: Authority, operators: Authority | None, now: datetime) -> bytes:
    issued = service.issue_server([NAME], now=now)
    config = SslConfig(
        server_key=issued.key_pem,
        server_cert=issued.chain_pem,
        custom_ca=operators.certificate_pem if operators else None,
        client_verify=operators is not None,
    )
    return config.render().reveal()


def test_a_port_asks_operators_for_a_certificate(running: Running, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    service, operators = certificates(now)
    (tmp_path / "admin.cfg").write_bytes(settings(service, operators, now))
    address = running.open(AdminOptions(address="127.0.0.1:0", ssl_config_file=tmp_path / "admin.cfg"))
    client = operators.issue_client("operator.x", now=now)
    for key, chain, allowed in ((client.key_pem.reveal(), client.chain_pem, True), (None, None, False)):
        credentials = grpc.ssl_channel_credentials(service.certificate_pem, key, chain)
        with grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", NAME)]) as channel:
            reload: Any = channel.unary_unary(RELOAD)
            content = request(model("m", tmp_path / "m"))
            if allowed:
                assert reload(content, timeout=60) == b"\n\x00"
            else:
                assert refused(lambda reload=reload, content=content: reload(content, timeout=60))[0] is (
                    grpc.StatusCode.UNAVAILABLE
                )


def test_a_renewed_authority_of_operators_applies_to_new_connections(running: Running, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    service, former = certificates(now)
    _, new = certificates(now)
    path = tmp_path / "admin.cfg"
    path.write_bytes(settings(service, former, now))
    address = running.open(AdminOptions(address="127.0.0.1:0", ssl_config_file=path))

    def answers(operators: Authority) -> bool:
        client = operators.issue_client("operator.x", now=now)
        credentials = grpc.ssl_channel_credentials(service.certificate_pem, client.key_pem.reveal(), client.chain_pem)
        with grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", NAME)]) as channel:
            status: Any = channel.unary_unary(STATUS)
            try:
                return bool(status(b"\n\x03\n\x01m", timeout=60))
            except grpc.RpcError:
                return False

    assert (answers(former), answers(new)) == (True, False)
    (tmp_path / "next").write_bytes(settings(service, new, now))
    (tmp_path / "next").rename(path)
    assert (answers(former), answers(new)) == (False, True)


@pytest.mark.parametrize(
    ("address", "config", "message"),
    [
        ("127.0.0.1:0", False, "is a port, which requires --admin_ssl_config_file"),
        ("127.0.0.1:0", True, "does not ask for client certificates"),
        ("nonsense", False, "expected HOST:PORT or unix:PATH, got 'nonsense'"),
    ],
)
def test_a_port_that_would_let_everybody_in(
    running: Running, tmp_path: Path, address: str, config: bool, message: str
) -> None:
    now = datetime.now(UTC)
    (tmp_path / "admin.cfg").write_bytes(settings(certificates(now)[0], None, now))
    options = AdminOptions(address=address, ssl_config_file=tmp_path / "admin.cfg" if config else None)
    with raises(ServingCode.SERVER_ADMIN_TLS, match=message) as caught:
        running.open(options)
    assert caught.value.code == "server.admin-tls"
