"""Unreachable and invalid clusters: each causes a single clear error."""

import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from kubernetes.dynamic.exceptions import ResourceNotFoundError
from tests.harness.errors import raises

from kubernetes import config, dynamic
from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.kubernetes.cluster_client import (
    ClusterClient,
    ClusterUnreachableError,
    KindUnknownError,
    ObjectName,
    tidy,
)
from sealserve.cluster.logs.selection import LogSelection

SECRET = ObjectName("v1", "Secret", "n", "x")


def kubeconfig(folder: Path, port: int) -> str:
    path = folder / "kubeconfig"
    path.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }))  # fmt: skip
    return str(path)


@dataclass(slots=True)
class Api:
    """A small API server with fixed answers, which records the requested paths."""

    port: int
    answers: dict[str, Any]
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def api() -> Iterator[Api]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append(self.path)
            answer = made.answers.get(self.path.partition("?")[0], {})
            if callable(answer):
                answer(self)
                return
            body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    secret = {"name": "secrets", "kind": "Secret", "namespaced": True, "verbs": ["get"], "singularName": ""}
    group = {"groupVersion": "apps/v1", "version": "v1"}
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made = Api(server.server_port, {
            "/version": {"gitVersion": "v1.34.0"},
            "/apis": {"kind": "L", "groups": [{"name": "apps", "versions": [group], "preferredVersion": group}]},
            "/api/v1": {"kind": "L", "resources": [secret]},
            "/apis/apps/v1": {"kind": "L", "resources": []},
            "/api/v1/namespaces/n/secrets/x": {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}},
        })  # fmt: skip
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()


def test_no_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ClusterUnreachableError, match="kubeconfig file is not usable") as caught:
        ClusterClient(str(tmp_path / "none"))
    assert caught.value.code == "kubernetes.unreachable"


def test_the_environments_kubeconfig_is_that_of_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2):
        path = tmp_path / f"kubeconfig-{number}"
        path.write_text("{")
        monkeypatch.setenv("KUBECONFIG", str(path))
        with pytest.raises(ClusterUnreachableError, match="ParserError"):  # and not: the file does not exist
            ClusterClient()
        path.unlink()


@pytest.mark.parametrize("text", ["{", "[]", "text", "\0", "clusters: 1\ncurrent-context: c\n", "{a: secret-token"])
def test_a_file_that_is_no_kubeconfig_is_not_quoted(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(ClusterUnreachableError, match="kubeconfig file is not usable") as caught:
        ClusterClient(str(path))
    assert "secret-token" not in str(caught.value)


def test_an_api_server_that_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(ClusterUnreachableError, match="does not answer"):
        ClusterClient(kubeconfig(tmp_path, 1))


def test_a_silent_api_server_causes_a_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sealserve.cluster.kubernetes.cluster_client._SECONDS", 0.1)
    accepted = 0
    with socket.create_server(("127.0.0.1", 0)) as server:
        with pytest.raises(ClusterUnreachableError, match="does not answer"):
            ClusterClient(kubeconfig(tmp_path, server.getsockname()[1]))
        server.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                server.accept()[0].close()
                accepted += 1
    assert accepted == 2  # one retry


@pytest.mark.parametrize("answer", [b"<html>", b"\xff", [], {"groups": 1}])
@pytest.mark.parametrize("path", ["/version", "/apis"])
def test_servers_that_are_not_api_servers(api: Api, tmp_path: Path, path: str, answer: Any) -> None:
    api.answers = {"/version": {"gitVersion": "v1.34.0"}} | {path: answer}
    with pytest.raises(
        ClusterUnreachableError, match=f"The server at http://127.0.0.1:{api.port} is not a Kubernetes API server"
    ):
        ClusterClient(kubeconfig(tmp_path, api.port))


def test_a_page_in_place_of_an_object(api: Api, tmp_path: Path) -> None:
    client = ClusterClient(kubeconfig(tmp_path, api.port))
    api.answers["/api/v1/namespaces/n/secrets/x"] = api.answers["/api/v1/namespaces/n/secrets"] = b"<html>log in"
    with pytest.raises(ClusterUnreachableError, match="its answer is not JSON"):
        client.get(SECRET)
    with pytest.raises(ClusterUnreachableError, match="its answer is not JSON"):
        client.find("v1", "Secret", "n", "a=b")


def test_the_shared_cache_of_kinds_is_not_used(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "tmp"
    shared.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(shared))
    file = kubeconfig(tmp_path, api.port)
    dynamic.DynamicClient(config.new_client_from_config(file)).resources.get(api_version="v1", kind="Secret")
    (known,) = shared.iterdir()
    planted = known.read_text().replace('"secrets"', '"configmaps"')
    assert planted != known.read_text()
    known.write_text(planted)
    api.asked.clear()
    assert ClusterClient(file).get(SECRET) == api.answers["/api/v1/namespaces/n/secrets/x"]
    assert api.asked == ["/version", "/apis", "/api/v1", "/api/v1/namespaces/n/secrets/x"]
    assert known.read_text() == planted


def test_the_feature_gates_of_a_kubelet(api: Api, tmp_path: Path) -> None:
    client = ClusterClient(kubeconfig(tmp_path, api.port))
    settings = {"kubeletconfig": {"featureGates": {"A": True, "B": False, "C": "true"}}}
    api.answers["/api/v1/nodes/a/proxy/configz"] = settings
    assert client.kubelet_feature_gates("a") == {"A": True, "B": False, "C": False}
    api.answers["/api/v1/nodes/a/proxy/configz"] = {"kubeletconfig": {}}
    assert client.kubelet_feature_gates("a") == {}
    assert client.kubelet_feature_gates("b/../../../../../n?a") is None
    assert api.asked[-1] == "/api/v1/nodes/b%2F..%2F..%2F..%2F..%2F..%2Fn%3Fa/proxy/configz"


@pytest.mark.parametrize("answer", [
    b"", b"<html>", b"\xff", b"[]", b"7", b"null", b'{"kubeletconfig": 7}', b'{"kubeletconfig": {"featureGates": 7}}',
    b'{"kubeletconfig": {"featureGates": ["A"]}}', b"[" * 100_000,
])  # fmt: skip
def test_a_kubelet_may_answer_anything(api: Api, tmp_path: Path, answer: bytes) -> None:
    client = ClusterClient(kubeconfig(tmp_path, api.port))
    api.answers["/api/v1/nodes/a/proxy/configz"] = answer
    assert client.kubelet_feature_gates("a") is None


def test_an_api_server_that_goes_away_while_logs_are_read(api: Api, tmp_path: Path) -> None:
    client = ClusterClient(kubeconfig(tmp_path, api.port))
    client._core.api_client.configuration.host = "http://127.0.0.1:1"
    with pytest.raises(ClusterUnreachableError, match="reading the log of p failed: the API server does not answer"):
        client.log("n", "p", "c", last=1)


def test_unread_logs_use_bounded_memory() -> None:
    told = 0

    class Stream:
        headers: ClassVar[dict[str, str]] = {}

        def read1(self, *_: Any, **__: Any) -> bytes:
            nonlocal told
            told += 1
            return b"line\n" if told <= 10_000 else b""

    class Core:
        def read_namespaced_pod_log(self, *_: Any, **__: Any) -> Stream:
            return Stream()

    client = object.__new__(ClusterClient)
    client._streams = Core()
    lines = client.follow("n", {"p": ("replica-0", "c")}, LogSelection(last=1, follow=True))
    assert next(lines).text == "line"
    threading.Event().wait(0.2)
    assert told < 2000
    assert sum(1 for _ in lines) == 9_999


def test_the_client_library_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with raises(ClusterCode.KUBERNETES_CLIENT_MISSING, match="not installed") as caught:
        ClusterClient()
    assert caught.value.code == "kubernetes.client-missing"
    assert "sealserve[kubernetes]" in str(caught.value)


def test_server_fields_are_omitted_from_a_diff() -> None:
    made = {"kind": "X", "status": {"a": 1}, "metadata": {"name": "x", "uid": "1", "managedFields": []}}
    assert tidy(made) == {"kind": "X", "metadata": {"name": "x"}}


def test_a_kind_that_the_cluster_does_not_have() -> None:
    client = object.__new__(ClusterClient)
    client._errors = ()  # type: ignore[assignment]  # no API server exists here that could reject a request
    with (
        pytest.raises(KindUnknownError, match="listing TLSRoute failed: the cluster does not support") as caught,
        client._explained("listing TLSRoute"),
    ):
        raise ResourceNotFoundError
    assert caught.value.code == "kubernetes.unknown-kind"
