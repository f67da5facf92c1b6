"""The client of the transit engine, with replies that a real server rarely or never sends."""

import gzip
import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from tests.harness.errors import Expected, raises

from sealserve.broker.codes import BrokerCode
from sealserve.broker.key_wrapper import KeyUnwrapError
from sealserve.broker.transit import TransitKey
from sealserve.codes import SealserveCode
from sealserve.private_file import PrivateFileExposedError, PrivateFileUnreadableError
from sealserve.secret import SecretBytes

TOKEN = "s.0123456789abcdef"
SECRET = SecretBytes(b"sixteen byte key")
Answer = tuple[int, Any]


class Answering(ThreadingHTTPServer):
    """A server that sends the same reply to every request and records the requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer: Answer = (200, {})
        self.encoding = "identity"
        self.seen: list[tuple[str, dict[str, str], Any]] = []


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Answering)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, dict(self.headers), body))
        status, answer = self.server.answer
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Encoding", self.server.encoding)
        self.send_header("Set-Cookie", "session=tracked; Path=/")
        if status == 307:
            self.send_header("Location", "http://127.0.0.1:1/")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Answering]:
    with Answering() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_text(TOKEN + "\n")
    return path


@pytest.fixture
def make(server: Answering, token_file: Path) -> Iterator[Callable[..., TransitKey]]:
    made: list[TransitKey] = []

    def new(**more: Any) -> TransitKey:
        url = f"http://127.0.0.1:{server.server_port}"
        settings = {"mount": "keys/transit", "key": "sealserve", "token_file": token_file, **more}
        made.append(TransitKey(url, **settings))
        return made[-1]

    yield new
    for key in made:
        key.close()


def test_what_is_asked(server: Answering, make: Callable[..., TransitKey]) -> None:
    server.answer = 200, {"data": {"ciphertext": "vault:v3:abc", "key_version": 3}}
    key = make(namespace="team")
    assert key.wrap(SECRET, context=b"context") == b"vault:v3:abc"
    server.answer = 200, {"data": {"plaintext": "c2l4dGVlbiBieXRlIGtleQ=="}}
    assert key.unwrap(b"vault:v3:abc", context=b"context") == SECRET
    (path, headers, body), (second, _, asked) = server.seen
    assert path == "/v1/keys/transit/encrypt/sealserve"
    assert body == {"plaintext": "c2l4dGVlbiBieXRlIGtleQ==", "associated_data": "Y29udGV4dA=="}
    assert (headers["X-Vault-Token"], headers["X-Vault-Namespace"]) == (TOKEN, "team")
    assert headers["X-Vault-Request"] == "true"
    assert second == "/v1/keys/transit/decrypt/sealserve"
    assert asked == {"ciphertext": "vault:v3:abc", "associated_data": "Y29udGV4dA=="}
    assert key.wrapper_id == "transit:team/keys/transit/sealserve"


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (
            (403, {"errors": ["permission denied"]}),
            BrokerCode.KEYSTORE_TRANSIT_REFUSED,
            "HTTP status 403: permission denied",
        ),
        ((404, {"errors": []}), BrokerCode.KEYSTORE_TRANSIT_REFUSED, "HTTP status 404: the reply contains no reason"),
        (
            (400, {"errors": ["encryption key not found"]}),
            BrokerCode.KEYSTORE_TRANSIT_REFUSED,
            "encryption key not found",
        ),
        (
            (503, {"errors": ["Vault is sealed"]}),
            BrokerCode.KEYSTORE_TRANSIT_UNAVAILABLE,
            "HTTP status 503 for .*: Vault is sealed",
        ),
        (
            (500, b"<html>"),
            BrokerCode.KEYSTORE_TRANSIT_UNAVAILABLE,
            "HTTP status 500 for .*: the reply contains no reason",
        ),
        ((307, {}), BrokerCode.KEYSTORE_TRANSIT_UNAVAILABLE, "HTTP status 307"),  # redirects are not followed
        ((200, {"data": {}}), BrokerCode.KEYSTORE_TRANSIT_UNAVAILABLE, "is not a valid reply of the transit engine"),
        ((200, b"[" * 60_000), BrokerCode.KEYSTORE_TRANSIT_UNAVAILABLE, "is not a valid reply of the transit engine"),
        (
            (503, {"errors": 5}),
            BrokerCode.KEYSTORE_TRANSIT_UNAVAILABLE,
            "HTTP status 503 for .*: the reply contains no reason",
        ),
        ((200, b"not json"), BrokerCode.KEYSTORE_TRANSIT_UNAVAILABLE, "is not a valid reply of the transit engine"),
        ((200, []), BrokerCode.KEYSTORE_TRANSIT_UNAVAILABLE, "is not a valid reply of the transit engine"),
        (
            (200, {"data": {"ciphertext": "plain"}}),
            BrokerCode.KEYSTORE_TRANSIT_UNAVAILABLE,
            "its reply contains no ciphertext",
        ),
    ],
)
def test_answers_that_are_none(
    server: Answering, make: Callable[..., TransitKey], answer: Answer, error: Expected, message: str
) -> None:
    server.answer = answer
    with raises(error, match=message) as caught:
        make().wrap(SECRET, context=b"")
    assert TOKEN not in repr(caught.value) + str(caught.value)
    assert getattr(caught.value, "code", "").startswith("keystore.transit-")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((400, {"errors": ["invalid ciphertext: unable to decrypt"]}), KeyUnwrapError),
        ((200, {"data": {"plaintext": "***"}}), BrokerCode.KEYSTORE_TRANSIT_UNAVAILABLE),
        ((200, {"data": {"plaintext": 7}}), BrokerCode.KEYSTORE_TRANSIT_UNAVAILABLE),
    ],
)
def test_answers_to_decryption_that_are_none(
    server: Answering, make: Callable[..., TransitKey], answer: Answer, error: Expected
) -> None:
    server.answer = answer
    with raises(error):
        make().unwrap(b"vault:v1:x", context=b"")


@pytest.mark.parametrize("status", [200, 400, 503])
def test_an_answer_without_end_is_left(status: int, server: Answering, make: Callable[..., TransitKey]) -> None:
    server.answer = (status, b'{"data": {"ciphertext": "vault:v1:' + b"A" * 2**20 + b'"}}')
    with raises(
        BrokerCode.KEYSTORE_TRANSIT_UNAVAILABLE,
        match=r"The reply for the key 'sealserve' of .* is invalid: The reply has more than 65536 bytes",
    ) as caught:
        make().wrap(SECRET, context=b"id")
    assert caught.value.hint


@pytest.mark.parametrize("encoding", ["gzip, gzip", "br", "deflate"])
def test_an_answer_that_is_compressed_twice_is_not_inflated(
    encoding: str, server: Answering, make: Callable[..., TransitKey]
) -> None:
    server.encoding = encoding
    server.answer = (200, gzip.compress(gzip.compress(b"x" * 2**20)))
    with raises(
        BrokerCode.KEYSTORE_TRANSIT_UNAVAILABLE,
        match=r"The reply for the key 'sealserve' of .* is invalid: The reply is compressed .* although "
        r"the request accepts only identity",
    ) as caught:
        make().wrap(SECRET, context=b"id")
    assert TOKEN not in str(caught.value)
    assert caught.value.__cause__ is None


def test_an_answer_that_is_compressed_once_is_read(server: Answering, make: Callable[..., TransitKey]) -> None:
    server.encoding = "gzip"
    server.answer = (200, gzip.compress(json.dumps({"data": {"ciphertext": "vault:v1:x"}}).encode()))
    assert make().wrap(SECRET, context=b"id") == b"vault:v1:x"


def test_no_cookie_is_kept(server: Answering, make: Callable[..., TransitKey]) -> None:
    server.answer = (200, {"data": {"ciphertext": "vault:v1:abc"}})
    key = make()
    for _ in range(2):
        key.wrap(SECRET, context=b"")
    assert [headers.get("Cookie") for _, headers, _ in server.seen] == [None, None]


def test_a_service_that_is_not_there(token_file: Path) -> None:
    key = TransitKey("http://127.0.0.1:1", mount="transit", key="k", token_file=token_file)
    with key, raises(BrokerCode.KEYSTORE_TRANSIT_UNAVAILABLE, match="cannot be reached") as caught:
        key.wrap(SECRET, context=b"")
    assert caught.value.code == "keystore.transit-unavailable"
    assert caught.value.__cause__ is None
    assert repr(key) == "key 'k' of http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://vault.example.org:8200", "does not use TLS, which would expose keys"),
        ("ftp://127.0.0.1", "is invalid: expected https://HOST:PORT, got "),
        ("https://", "is invalid: expected https://HOST:PORT, got "),
        ("https://user:password@vault.example.org", "is invalid: expected https://HOST:PORT, got "),
        ("vault.example.org:8200", "is invalid: expected https://HOST:PORT, got "),
        ("https://vault.example.org:0", "is invalid: expected https://HOST:PORT, got "),
        ("https://vault.example.org:-1", "is invalid: expected https://HOST:PORT, got "),
        ("https://vault.example.org:65536", "is invalid: expected https://HOST:PORT, got "),
    ],
)
def test_addresses_that_cannot_be_used(url: str, message: str, token_file: Path) -> None:
    with raises(BrokerCode.KEYSTORE_TRANSIT_SETTINGS, match=message) as caught:
        TransitKey(url, mount="transit", key="k", token_file=token_file)
    assert caught.value.code == "keystore.transit-settings"


def test_names_that_the_database_cannot_store_are_refused(make: Callable[..., TransitKey]) -> None:
    with raises(BrokerCode.KEYSTORE_TRANSIT_SETTINGS, match="are too long: expected at most 192 characters, got 210"):
        make(key="k" * 189)


def test_settings_that_cannot_be_used(token_file: Path, tmp_path: Path) -> None:
    url = "https://127.0.0.1:1"
    with raises(
        BrokerCode.KEYSTORE_TRANSIT_SETTINGS,
        match=r"The transit settings are invalid: '\.\./sys' is not a mount path, or 'k' is not a key "
        r"name",
    ):
        TransitKey(url, mount="../sys", key="k", token_file=token_file)
    with raises(
        BrokerCode.KEYSTORE_TRANSIT_SETTINGS,
        match="The transit settings are invalid: 'transit' is not a mount path, or 'a/b' is not a key name",
    ):
        TransitKey(url, mount="transit", key="a/b", token_file=token_file)
    with raises(
        BrokerCode.KEYSTORE_TRANSIT_SETTINGS,
        match=r"token does not contain a PEM certificate: no start line: cadata does not contain a "
        r"certificate \(_ssl\.c:4020\)",
    ):
        TransitKey(url, mount="transit", key="k", token_file=token_file, ca_file=token_file)
    (tmp_path / "empty").touch()
    with raises(
        BrokerCode.KEYSTORE_TRANSIT_SETTINGS,
        match=r"empty does not contain a PEM certificate: no start line: cadata does not contain a "
        r"certificate \(_ssl\.c:4020\)",
    ):
        TransitKey(url, mount="transit", key="k", token_file=token_file, ca_file=tmp_path / "empty")
    with raises(
        BrokerCode.KEYSTORE_TRANSIT_SETTINGS,
        match=r"The CA certificate .*nowhere of the key management service cannot be read: No such file",
    ):
        TransitKey(url, mount="transit", key="k", token_file=token_file, ca_file=tmp_path / "nowhere")


def test_a_token_that_others_can_read_is_not_sent(
    server: Answering, make: Callable[..., TransitKey], token_file: Path, tmp_path: Path
) -> None:
    token_file.chmod(0o644)
    with pytest.raises(
        PrivateFileExposedError,
        match=r"Other users can access the token in .*token: expected mode 0600, got 0644\. Run `chmod "
        r"600 .*token`, and check who may have read the file",
    ) as caught:
        make().wrap(SECRET, context=b"")
    assert caught.value.code == "private-file.exposed"
    with pytest.raises(PrivateFileUnreadableError, match=r"The token in .*nowhere cannot be read") as unreadable:
        make(token_file=tmp_path / "nowhere").wrap(SECRET, context=b"")
    assert unreadable.value.code == "private-file.unreadable"
    (tmp_path / "empty").touch(mode=0o600)
    with raises(
        SealserveCode.PRIVATE_FILE_SIZE, match=r"The token in .*empty has an invalid size: expected 1 to 4096 bytes"
    ) as size:
        make(token_file=tmp_path / "empty").wrap(SECRET, context=b"")
    assert size.value.code == "private-file.size"
    assert server.seen == []
