"""A release fetched from a web server: it appears whole and verified, or not at all."""

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness.errors import raises
from tests.harness.workspaces import Site

from sealserve.errors import SealserveError
from sealserve.owner import release_store
from sealserve.owner.codes import OwnerCode
from sealserve.owner.owner import Owner
from sealserve.sealing import archive


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def store(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    folder = tmp_path / "store"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def packed(ready: Site, store: tuple[Path, str]) -> tuple[str, str]:
    """A release's name and the address of its archive."""
    release = ready.build_release().folder
    archive.pack(release, store[0] / f"{release.name}.tar")
    return release.name, f"{store[1]}/{release.name}.tar"


def test_a_release_is_fetched_once(ready: Site, packed: tuple[str, str], store: tuple[Path, str]) -> None:
    name, address = packed
    verified = release_store.fetch(ready.workspace, address, Owner.create(ready.workspace).public_key())
    assert verified.folder == ready.workspace.host.releases / name
    (store[0] / f"{name}.tar").unlink()
    again = release_store.fetch(ready.workspace, f"{address}?signature=x", Owner.create(ready.workspace).public_key())
    assert again.id == verified.id


def test_a_tampered_release_leaves_nothing(ready: Site, packed: tuple[str, str], store: tuple[Path, str]) -> None:
    tar = store[0] / f"{packed[0]}.tar"
    content = bytearray(tar.read_bytes())
    content[-20_000] ^= 1
    tar.write_bytes(content)
    with pytest.raises(SealserveError):
        release_store.fetch(ready.workspace, packed[1], Owner.create(ready.workspace).public_key())
    assert list(ready.workspace.host.releases.iterdir()) == []


def test_one_that_is_there_and_was_tampered_with_is_refused(ready: Site, packed: tuple[str, str]) -> None:
    verified = release_store.fetch(ready.workspace, packed[1], Owner.create(ready.workspace).public_key())
    (verified.folder / "tls" / "ssl.cfg").write_bytes(b"other")
    with pytest.raises(SealserveError, match=r"ssl\.cfg"):
        release_store.fetch(ready.workspace, packed[1], Owner.create(ready.workspace).public_key())


def test_a_store_without_it_is_named_without_its_signature(ready: Site, store: tuple[Path, str]) -> None:
    with raises(OwnerCode.RELEASE_STORE_REFUSED, match=r"answered with the status 404") as caught:
        release_store.fetch(
            ready.workspace, f"{store[1]}/a.tar?signature=secret", Owner.create(ready.workspace).public_key()
        )
    assert caught.value.code == "release.store-refused"
    assert "secret" not in str(caught.value)
    assert list(ready.workspace.host.releases.iterdir()) == []


def test_a_store_that_is_down_is_unreachable(ready: Site) -> None:
    with raises(OwnerCode.RELEASE_STORE_UNREACHABLE, match=r"127\.0\.0\.1") as caught:
        release_store.fetch(ready.workspace, "http://127.0.0.1:1/a.tar", Owner.create(ready.workspace).public_key())
    assert caught.value.code == "release.store-unreachable"


def test_an_answer_without_end_leaves_nothing(
    ready: Site, packed: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release_store, "_LARGEST", 1000)
    with raises(OwnerCode.RELEASE_STORE_REFUSED, match=r"more than 1,000 bytes"):
        release_store.fetch(ready.workspace, packed[1], Owner.create(ready.workspace).public_key())
    assert list(ready.workspace.host.releases.iterdir()) == []


@pytest.mark.parametrize("address", ["a.tar", "ftp://example.com/a.tar", "https:///a.tar", "http://x:y/a.tar"])
def test_no_web_address(ready: Site, address: str) -> None:
    with raises(OwnerCode.RELEASE_STORE_ADDRESS, match=r"The address of the release is invalid: ") as caught:
        release_store.fetch(ready.workspace, address, Owner.create(ready.workspace).public_key())
    assert caught.value.code == "release.store-address"
