"""API servers, or proxies in front of them, that send endless, huge, slow or compressed answers."""

import contextlib
import gzip
import json
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sealserve.cluster.kubernetes import bounded_api
from sealserve.cluster.kubernetes.cluster_client import (
    ClusterClient,
    ClusterRefusedError,
    ClusterUnreachableError,
    ObjectName,
)
from sealserve.cluster.logs.selection import LogSelection
from sealserve.http_cutoff import Cutoff

SECRET = ObjectName("v1", "Secret", "n", "x")
PATH = "/api/v1/namespaces/n/secrets/x"
LOG = "/api/v1/namespaces/n/pods/p/log"
BOMB = gzip.compress(gzip.compress(bytes(64 << 20), mtime=0), mtime=0)

Answering = Callable[[BaseHTTPRequestHandler], None]


def sent(content: bytes, *, status: int = 200, **headers: str) -> Answering:
    """Answer with a body and headers."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def endless(part: bytes, **headers: str) -> Answering:
    """Answer with the same part repeatedly, until the client disconnects."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        with contextlib.suppress(OSError):
            while True:
                handler.wfile.write(part)

    return answer


def dripping(beginning: bytes) -> Answering:
    """Answer with single bytes and pauses after a point of the answer."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        with contextlib.suppress(OSError):
            handler.wfile.write(beginning)
            while True:
                handler.wfile.write(b"0")
                time.sleep(0.01)

    return answer


@contextlib.contextmanager
def cluster(folder: Path, answers: dict[str, Answering], asked: list[str] | None = None) -> Iterator[ClusterClient]:
    """Start an API server that supports Secrets, and yield a client for it."""
    resource = {"name": "secrets", "kind": "Secret", "namespaced": True, "verbs": ["get"], "singularName": ""}
    known: dict[str, Any] = {
        "/version": {"gitVersion": "v1.34.0"},
        "/apis": {"kind": "L", "groups": []},
        "/api/v1": {"kind": "L", "resources": [resource]},
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if asked is not None:
                asked.append(path)
            sent_here = answers.get(path) or sent(json.dumps(known.get(path, {})).encode())
            sent_here(self)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
            "users": [{"name": "u", "user": {"token": "bearer-secret"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }))  # fmt: skip
        try:
            yield ClusterClient(str(kubeconfig))
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def memory(limit: int) -> Iterator[None]:
    """Check that the block never allocates more than ``limit`` bytes."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("status", [200, 403, 404, 500])
@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip", "deflate", "GZIP", "identity, gzip"])
def test_a_compressed_answer_is_refused(tmp_path: Path, encoding: str, status: int) -> None:
    answers = {PATH: sent(BOMB, status=status, Content_Encoding=encoding)}
    with (
        cluster(tmp_path, answers) as client,
        memory(8 << 20),
        pytest.raises(ClusterUnreachableError, match=r"reading Secret x failed: .*The reply is compressed") as caught,
    ):
        client.get(SECRET)
    assert "bearer-secret" not in str(caught.value)


def test_a_compressed_list_of_kinds_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ClusterUnreachableError, match="does not answer: The reply is compressed"),
        cluster(tmp_path, {"/version": sent(BOMB, Content_Encoding="gzip, gzip")}),
    ):
        pass


@pytest.mark.parametrize(
    "answer",
    [
        endless(bytes(4096)),
        endless(b"1000\r\n" + bytes(4096) + b"\r\n", Transfer_Encoding="chunked"),
        endless(bytes(4096), Content_Length=str(1 << 40)),
    ],
    ids=["until the connection ends", "chunked", "announced"],
)
def test_an_endless_answer_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Answering) -> None:
    monkeypatch.setattr(bounded_api, "MAX_ANSWER", 1 << 20)
    with (
        cluster(tmp_path, {PATH: answer}) as client,
        memory(8 << 20),
        pytest.raises(ClusterUnreachableError, match=r"reading Secret x failed: .*more than 1,048,576 bytes"),
    ):
        client.get(SECRET)


def test_a_chunk_length_without_an_end_is_cut_off(tmp_path: Path) -> None:
    with (
        cluster(tmp_path, {PATH: endless(b"0" * 4096, Transfer_Encoding="chunked")}) as client,
        memory(8 << 20),
        pytest.raises(ClusterUnreachableError, match="reading Secret x"),
    ):
        client.get(SECRET)


@pytest.mark.parametrize(
    "beginning",
    [
        b"HTTP/1.1 200 ",
        b"HTTP/1.1 200 OK\r\nX: ",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
    ids=["status", "headers", "body", "body of a known length", "chunk length"],
)
def test_a_slow_answer_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beginning: bytes) -> None:
    with cluster(tmp_path, {PATH: dripping(beginning)}) as client:
        client._resource("v1", "Secret")
        monkeypatch.setattr(bounded_api, "Cutoff", lambda _: Cutoff(0.3))
        with pytest.raises(ClusterUnreachableError, match=r"reading Secret x failed: .*not complete within 0.3 s"):
            client.get(SECRET)


def test_a_busy_server_cannot_make_the_client_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_api, "_LONGEST_PAUSE", 0.01)
    asked: list[str] = []
    for pause in ("86400", "9" * 5000, "Fri, 31 Dec 9999 23:59:59 GMT", "soon"):
        with (
            cluster(tmp_path, {PATH: sent(b'{"message": "busy"}', status=429, Retry_After=pause)}, asked) as client,
            pytest.raises((ClusterRefusedError, ClusterUnreachableError), match="reading Secret x"),
        ):
            client.get(SECRET)


def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    asked: list[str] = []
    with (
        cluster(tmp_path, {PATH: sent(b"", status=307, Location="/elsewhere")}, asked) as client,
        pytest.raises(ClusterRefusedError, match="reading Secret x failed: the API server rejects"),
    ):
        client.get(SECRET)
    assert "/elsewhere" not in asked


@pytest.mark.parametrize("answer", [b"[" * 1_000_000, b"\xff"], ids=["deep", "not UTF-8"])
def test_an_answer_that_is_not_json(tmp_path: Path, answer: bytes) -> None:
    with (
        cluster(tmp_path, {PATH: sent(answer)}) as client,
        pytest.raises(
            ClusterUnreachableError, match="reading Secret x failed: the API server's answer is not valid JSON"
        ),
    ):
        client.get(SECRET)


@pytest.mark.parametrize(
    "answer",
    [b'{"message": "' + b"x" * 1_000_000 + b'"}', b"{}", b"[" * 1_000_000, b"\xff", b""],
    ids=["long", "without a message", "deep", "not UTF-8", "empty"],
)
def test_the_reason_of_a_refusal_is_short(tmp_path: Path, answer: bytes) -> None:
    with (
        cluster(tmp_path, {PATH: sent(answer, status=403)}) as client,
        pytest.raises((ClusterRefusedError, ClusterUnreachableError), match="reading Secret x") as caught,
    ):
        client.get(SECRET)
    assert len(str(caught.value)) < 3000


def test_a_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_api, "MAX_ANSWER", 1 << 20)
    with (
        cluster(tmp_path, {LOG: endless(b"line\n")}) as client,
        memory(8 << 20),
        pytest.raises(ClusterUnreachableError, match=r"reading the log of p failed: .*more than"),
    ):
        client.log("n", "p", "c", last=1)


def test_a_log_that_is_followed(tmp_path: Path) -> None:
    long = b"x" * (bounded_api.MAX_LINE + 10)
    with cluster(tmp_path, {LOG: sent(b"one\n\xff\n" + long + b"\nlast")}) as client:
        found = [line.text for line in client.follow("n", {"p": ("replica-0", "c")}, LogSelection(last=1, follow=True))]
    assert found == ["one", "\ufffd", "x" * bounded_api.MAX_LINE, "x" * 10, "last"]


def test_a_followed_log_without_line_ends_takes_no_memory(tmp_path: Path) -> None:
    with cluster(tmp_path, {LOG: endless(b"x" * 65536)}) as client, memory(300 * bounded_api.MAX_LINE):
        lines = client.follow("n", {"p": ("replica-0", "c")}, LogSelection(last=1, follow=True))
        for _ in range(2000):
            assert len(next(lines).text) == bounded_api.MAX_LINE


@pytest.mark.parametrize("status", [200, 500])
def test_a_followed_log_that_is_compressed_ends(tmp_path: Path, status: int) -> None:
    answers = {LOG: sent(BOMB, status=status, Content_Encoding="gzip, gzip")}
    with cluster(tmp_path, answers) as client, memory(8 << 20):
        assert list(client.follow("n", {"p": ("replica-0", "c")}, LogSelection(last=1, follow=True))) == []
