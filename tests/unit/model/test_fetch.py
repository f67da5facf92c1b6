import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from tests.harness.errors import raises

from sealserve.atomic_file import OutputExistsError
from sealserve.model.codes import ModelCode
from sealserve.model.fetch import FetchedFile, fetch

CONTENT = bytes(range(256)) * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    redirects: ClassVar = {"/moved": "/model.pb", "/loop": "/loop", "/out": "http://203.0.113.1/model.pb"}

    def do_GET(self) -> None:  # http.server's name
        path = self.path.partition("?")[0]
        if path in self.redirects:
            self.send_response(302)
            self.send_header("Location", self.redirects[path])
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif path in ("/model.pb", "/cut", "/unsized"):
            self.send_response(200)
            if path == "/unsized":
                self.send_header("Connection", "close")
            else:
                self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[:1000] if path == "/cut" else CONTENT)
            self.close_connection = path != "/model.pb"
        else:
            self.send_error(404)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize("path", ["/model.pb", "/moved", "/unsized"])
def test_a_file_with_the_pinned_digest_arrives(server: str, tmp_path: Path, path: str) -> None:
    seen: list[tuple[int, int | None]] = []
    target = tmp_path / "model.pb"
    fetched = fetch(server + path, target, sha256=SHA256.upper(), progress=lambda done, all_: seen.append((done, all_)))
    assert fetched == FetchedFile(path=target, size=len(CONTENT), downloaded=True)
    assert target.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), None if path == "/unsized" else len(CONTENT))
    assert [each.name for each in tmp_path.iterdir()] == ["model.pb"]


def test_a_file_that_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "model.pb").write_bytes(CONTENT)
    fetched = fetch("https://example.invalid/model.pb", tmp_path / "model.pb", sha256=SHA256)
    assert not fetched.downloaded


def test_another_file_that_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "model.pb").write_bytes(b"mine")
    with pytest.raises(OutputExistsError, match=f"expected SHA-256 {SHA256}"):
        fetch("https://example.invalid/model.pb", tmp_path / "model.pb", sha256=SHA256)
    assert (tmp_path / "model.pb").read_bytes() == b"mine"


def test_another_digest_leaves_no_file(server: str, tmp_path: Path) -> None:
    with raises(ModelCode.FETCH_DIGEST_MISMATCH, match=f"expected SHA-256 {'0' * 64}, got {SHA256}") as caught:
        fetch(f"{server}/model.pb", tmp_path / "model.pb", sha256="0" * 64)
    assert caught.value.code == "fetch.digest-mismatch"
    assert caught.value.exit_status == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["/model.pb", "/unsized"])
def test_a_file_that_is_too_large_is_cut_off(server: str, tmp_path: Path, path: str) -> None:
    with raises(ModelCode.FETCH_TOO_LARGE, match="is too large: it has more than 1,000 bytes") as caught:
        fetch(server + path, tmp_path / "model.pb", sha256=SHA256, largest=1000)
    assert caught.value.code == "fetch.too-large"
    assert list(tmp_path.iterdir()) == []


def test_a_connection_that_breaks_leaves_no_file(server: str, tmp_path: Path) -> None:
    with raises(ModelCode.FETCH_UNREACHABLE, match=r"/cut failed: .*received 1000 bytes, expected") as caught:
        fetch(f"{server}/cut", tmp_path / "model.pb", sha256=SHA256)
    assert caught.value.code == "fetch.unreachable"
    assert caught.value.exit_status == 4
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there_is_unreachable(server: str, tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as closed:
        port = closed.server_port
    with raises(ModelCode.FETCH_UNREACHABLE, match=rf"127\.0\.0\.1:{port}/model\.pb failed: "):
        fetch(f"http://127.0.0.1:{port}/model.pb", tmp_path / "model.pb", sha256=SHA256)
    assert server


def test_an_error_of_the_server_is_named_without_the_secrets_of_the_address(server: str, tmp_path: Path) -> None:
    address = server.replace("http://", "http://user:password@") + "/nowhere?token=secret#part"
    with raises(ModelCode.FETCH_REFUSED) as caught:
        fetch(address, tmp_path / "model.pb", sha256=SHA256)
    assert caught.value.code == "fetch.refused"
    assert caught.value.message == f"The download of {server}/nowhere failed: the server answered 404 Not Found."


def test_redirects_end(server: str, tmp_path: Path) -> None:
    with raises(ModelCode.FETCH_REFUSED, match="more than 5 redirects"):
        fetch(f"{server}/loop", tmp_path / "model.pb", sha256=SHA256)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/model.pb",
        "http://127.0.0.1.example.com/model.pb",
        "ftp://example.com/model.pb",
        "file:///etc/passwd",
        "model.pb",
        "https://",
    ],
)
def test_only_https_is_fetched(url: str, tmp_path: Path) -> None:
    with raises(ModelCode.FETCH_INSECURE_URL, match="cannot be fetched: it is not an https URL") as caught:
        fetch(url, tmp_path / "model.pb", sha256=SHA256)
    assert caught.value.code == "fetch.insecure-url"


def test_what_is_no_url_is_refused(tmp_path: Path) -> None:
    with raises(ModelCode.FETCH_INSECURE_URL, match="is not a valid URL"):
        fetch("https://[::1", tmp_path / "model.pb", sha256=SHA256)


def test_a_redirect_away_from_https_is_refused(server: str, tmp_path: Path) -> None:
    with raises(
        ModelCode.FETCH_INSECURE_URL, match=r"http://203\.0\.113\.1/model\.pb cannot be fetched: it is not an https URL"
    ):
        fetch(f"{server}/out", tmp_path / "model.pb", sha256=SHA256)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("digest", ["", "abc", "g" * 64, "sha256:" + "0" * 64])
def test_what_is_no_digest_is_refused(digest: str, tmp_path: Path) -> None:
    with raises(ModelCode.FETCH_INVALID_DIGEST, match="is not a SHA-256") as caught:
        fetch("https://example.invalid/", tmp_path / "model.pb", sha256=digest)
    assert caught.value.code == "fetch.invalid-digest"
