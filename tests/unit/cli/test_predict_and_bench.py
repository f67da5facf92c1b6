from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from tests.harness.command_line import CommandLine
from tests.harness.workspaces import Site, make_site
from tests.unit.client.conftest import Behaviour
from tests.unit.client.conftest import Service as Handler

from sealserve.operations.certificates import fresh_ssl_config

INSTANCE = "0123456789abcdef0123456789abcdef"


@dataclass(frozen=True, slots=True)
class Service:
    """A workspace whose service is a small server in this process."""

    site: Site
    behaviour: Behaviour
    address: str


@dataclass(frozen=True, slots=True)
class Served(Service):
    """The same, and the command line."""

    cli: CommandLine


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("served")
    site = make_site(folder)
    site.certify()
    tls = fresh_ssl_config(site.workspace, site.deployment, now=site.now)
    behaviour = Behaviour(instance=INSTANCE)
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, handlers=[Handler(behaviour)])
        credentials = grpc.ssl_server_credentials(
            [(tls.server_key.reveal(), tls.server_cert)], root_certificates=tls.custom_ca, require_client_auth=True
        )
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        site = make_site(folder, source=site.deployment.model.path, service={"port": port})
        try:
            yield Service(site, behaviour, f"127.0.0.1:{port}")
        finally:
            server.stop(None).wait()


@pytest.fixture
def served(service: Service, capsys: pytest.CaptureFixture[str]) -> Iterator[Served]:
    yield Served(service.site, service.behaviour, service.address, CommandLine(capsys, service.site.directory))
    service.behaviour.abort = None
    service.behaviour.requests = []


def test_one_request(served: Served) -> None:
    answer = served.cli.json("predict", "--input", "input=[[1, 2, 3]]")
    assert answer["outputs"] == {"input": [[2, 4, 6]]}
    assert (answer["model"], answer["version"]) == ("half-plus-two", 2)
    lines = served.cli.ok("predict", "--version", "7", "--batch", "2").splitlines()
    assert lines[0].startswith("half-plus-two version 7, ")
    assert lines[1] == "input: float32, 2 x 3"


def test_outputs_are_saved(served: Served, tmp_path: Path) -> None:
    served.cli.ok("predict", "-i", "input=[[1, 2, 3]]", "--save", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as saved:
        assert saved["input"].tolist() == [[2, 4, 6]]
    assert served.cli.error("predict", "--save", tmp_path / "out.npz")["code"] == "file.exists"
    served.cli.ok("predict", "--save", tmp_path / "out.npz", "--force")


def test_the_largest_of_many_are_shown(served: Served) -> None:
    row = ", ".join(str(number) for number in range(10))
    text = served.cli.ok("predict", "-i", f"input=[[{row}]]")
    assert "  largest: [9] 18, [8] 16, [7] 14, [6] 12, [5] 10" in text


def test_without_a_workspace(served: Served, tmp_path: Path) -> None:
    user = served.site.workspace.user
    options: list[str | Path] = ["--address", served.address, "--server-name", "grpc.tf-serving.service.com"]
    options += ["--ca", user.service_ca, "--cert", user.certificate, "--key", user.key]
    assert served.cli.bare("predict", *options, "--model", "toy", "--json").json["model"] == "toy"
    nameless = served.cli.bare("predict", *options)
    assert nameless.status == 2
    assert nameless.err == "error[predict.input]: Which model?\n  Name it with --model.\n"
    assert served.cli.bare("bench", *options, "--json").error["message"] == "Which model?"
    half = served.cli.bare("predict", *options[:-2], "--model", "toy", "--json")
    assert (half.error["code"], half.error["message"]) == ("client.options", "Two-way TLS needs both --cert and --key.")
    (tmp_path / "folder").mkdir()
    no_ca = served.cli.bare("predict", *options[:4], "--ca", tmp_path / "folder", "--model", "toy", "--json")
    assert no_ca.error["code"] in ("input-file.unreadable", "input-file.not-regular")


def test_inputs_and_signatures_that_the_model_does_not_have(served: Served) -> None:
    error = served.cli.error("predict", "--signature", "other")
    assert (error["code"], error["status"]) == ("predict.input", 2)
    assert error["message"] == "half-plus-two has no signature 'other'; it has serving_default."
    assert served.cli.error("bench", "--signature", "other")["message"] == error["message"]
    assert "(input)" in served.cli.error("predict", "--input", "x=1")["message"]


def test_many_requests(served: Served) -> None:
    report = served.cli.json("bench", "-n", "20", "-c", "3", "--connections", "2", "--batch", "4")
    assert (report["requests"], report["answered"], report["errors"]) == (20, 20, {})
    assert report["instances"] == {INSTANCE: 20}
    assert report["connections"] == [10, 10]
    assert set(report["latency_seconds"]) == {"mean", "p50", "p90", "p99", "maximum"}
    assert "error" not in report
    lines = served.cli.ok("bench", "--requests", "5").splitlines()
    assert lines[0].startswith("answered  5 of 5 in ")
    assert lines[-1].split() == ["replicas", "01234567:", "5"]


def test_requests_that_fail_are_counted_and_told_once(served: Served) -> None:
    class Requests(list[object]):
        def append(self, item: object) -> None:
            super().append(item)
            if len(self) == 4:  # the metadata, two requests, and the first that fails
                served.behaviour.abort = (grpc.StatusCode.UNAVAILABLE, "down")

    served.behaviour.requests = Requests()
    result = served.cli("bench", "-n", "10", "-c", "1", "--json")
    report = result.json
    assert report["answered"] == 2
    assert sum(report["errors"].values()) == 8
    assert report["error"]["code"] in report["errors"]
    assert result.status == 4
    text = served.cli("bench", "-n", "3")
    assert text.status != 0
    assert text.err.count("error[") == 1


def test_nobody_serves(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    site = make_site(tmp_path / "down", service={"port": 1})
    site.certify()
    error = CommandLine(capsys, site.directory).error("predict", "--timeout", "0.3")
    assert error["status"] == 4
    assert error["code"].startswith("client.")


def test_another_users_certificate_is_refused(served: Served, tmp_path: Path) -> None:
    stranger = make_site(tmp_path / "stranger")
    stranger.certify()
    user = stranger.workspace.user
    error = served.cli.error("predict", "--cert", user.certificate, "--key", user.key, "--timeout", "10")
    assert error["status"] in (3, 4)
    assert error["code"].startswith("client.")
    service = served.cli.error("predict", "--ca", user.service_ca, "--timeout", "10")
    assert service["status"] == 3
