"""Signed requests: the signature of the specification, and receivers that misbehave."""

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from tests.harness.errors import raises
from tests.harness.webhook_receiver import SECRET, Handler, WebhookReceiver, status, write_secret

from sealserve.broker.codes import BrokerCode
from sealserve.broker.webhook import NotDeliveredError, Receiver, read_secrets, seconds_until, sign
from sealserve.private_file import PrivateFileExposedError
from sealserve.secret import SecretBytes

BODY = b'{"type":"notification.test"}'


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    return write_secret(tmp_path / "webhook.secret")


def test_the_vector_of_the_reference_implementation(tmp_path: Path) -> None:
    # Source: standard-webhooks/standard-webhooks 449485c, libraries/go/webhook_test.go, TestWebhookSign.
    path = tmp_path / "secret"
    path.touch(mode=0o600)
    path.write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
    signature = sign(read_secrets(path), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_request_is_signed_with_each_secret(tmp_path: Path) -> None:
    new, other = b"n" * 24, b"o" * 24
    path = write_secret(tmp_path / "secrets", new, SECRET)
    now = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
    with WebhookReceiver() as server, Receiver(server.url, secret_file=path, clock=lambda: now) as receiver:
        assert receiver.send("audit-1-ab", BODY) == 204
        request = server.next()
    assert (request.path, request.body) == ("/hook", BODY)
    assert request.headers["webhook-id"] == "audit-1-ab"
    assert request.headers["webhook-timestamp"] == str(int(now.timestamp()))
    assert request.headers["content-type"] == "application/json"
    assert request.verifies()
    assert request.verifies(new)
    assert not request.verifies(other)


def reloaded(receiver: Receiver) -> Exception | None:
    """Look at the file as often as the broker needs for a change, and return the error of the last attempt."""
    for _ in range(3):
        receiver.secrets.poll()
    return receiver.secrets.problem


def test_a_new_secret_is_used_without_a_restart(tmp_path: Path) -> None:
    new = b"n" * 24
    path = write_secret(tmp_path / "secret")
    with WebhookReceiver() as server, Receiver(server.url, secret_file=path) as receiver:
        path.write_text("hunter2")  # an invalid file leaves the former secret in place
        problem = reloaded(receiver)
        assert problem is not None
        assert "hunter2" not in str(problem)
        receiver.send("m1", BODY)
        assert server.next().verifies()
        write_secret(path, new)
        assert reloaded(receiver) is None
        receiver.send("m2", BODY)
        request = server.next()
    assert request.verifies(new)
    assert not request.verifies()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", None), ("0", 0.0), ("120", 120.0), ("9" * 9, 999999999.0), ("9" * 5000, float("inf")), ("-1", None),
        ("1.5", None), ("soon", None), ("\u0661", None), ("nan", None), ("x" * 10**6, None), ("1 2", None),
        ("Mon, 23 Nov 2026 12:02:00 GMT", 120.0), ("Mon, 23 Nov 2026 11:00:00 GMT", 0.0),
        ("Mon, 23 Nov 9999 23:59:59 -2359", None), ("Mon, 99 Nov 2026 12:02:00 GMT", None),
        ("Mon, 23 Nov 2026 12:02:00", 120.0),
    ],
)  # fmt: skip
def test_the_time_of_the_next_attempt_is_parsed(text: str, seconds: float | None) -> None:
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)
    found = seconds_until(text, now=now)
    assert found == seconds or (found is not None and found > 10**9)


def test_a_receiver_can_ask_for_a_later_attempt(secret_file: Path) -> None:
    with WebhookReceiver() as server, Receiver(server.url, secret_file=secret_file) as receiver:
        for code in (429, 503):
            server.answers.append(status(code, Retry_After="7"))
            with pytest.raises(NotDeliveredError) as caught:
                receiver.send("m", BODY)
            assert (caught.value.retry, caught.value.retry_after) == (True, 7.0)


def test_an_id_cannot_shift_the_signed_parts() -> None:
    with pytest.raises(ValueError, match="full stop"):
        sign([SecretBytes(SECRET)], "a.b", 0, b"")


@pytest.mark.parametrize(
    ("code", "retry"),
    [(200, None), (299, None), (301, False), (307, False), (400, False), (401, False), (410, False), (408, True),
     (425, True), (429, True), (500, True), (503, True)],
)  # fmt: skip
def test_the_status_decides_on_a_retry(secret_file: Path, code: int, retry: bool | None) -> None:
    with WebhookReceiver() as server, Receiver(server.url, secret_file=secret_file) as receiver:
        server.answers.append(status(code))
        if retry is None:
            assert receiver.send("m", BODY) == code
        else:
            with pytest.raises(NotDeliveredError, match=f"from 200 to 299, got {code}") as caught:
                receiver.send("m", BODY)
            assert caught.value.retry is retry


def test_a_redirect_is_not_followed(secret_file: Path) -> None:
    with WebhookReceiver() as server, WebhookReceiver() as other:
        server.answers.append(status(307, Location=other.url))
        with Receiver(server.url, secret_file=secret_file) as receiver, pytest.raises(NotDeliveredError):
            receiver.send("m", BODY)
        assert other.received.empty()


def test_a_body_without_end_is_not_read(secret_file: Path) -> None:
    closed = threading.Event()

    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(2**30))
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(bytes(2**16))
        finally:
            closed.set()

    with WebhookReceiver() as server, Receiver(server.url, secret_file=secret_file) as receiver:
        server.answers.append(endless)
        assert receiver.send("m", BODY) == 200
        assert closed.wait(60)  # the client closed the connection, and the server could not write more


def test_a_receiver_that_hangs_or_drips_or_closes_is_retried(secret_file: Path) -> None:
    def close(handler: Handler) -> None:
        handler.connection.shutdown(socket.SHUT_RDWR)

    def drip(handler: Handler) -> None:
        while True:
            handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            handler.wfile.flush()

    def hang(handler: Handler) -> None:
        handler.connection.recv(1)

    with WebhookReceiver() as server, Receiver(server.url, secret_file=secret_file, seconds=0.2) as receiver:
        for answer in (close, drip, hang):
            server.answers.append(answer)
            with pytest.raises(NotDeliveredError, match="did not accept a notification") as caught:
                receiver.send("m", BODY)
            assert caught.value.retry
        assert caught.value.__cause__ is None


def test_a_receiver_stores_no_cookies(secret_file: Path) -> None:
    with WebhookReceiver() as server, Receiver(server.url, secret_file=secret_file) as receiver:
        server.answers.append(status(200, Set_Cookie="track=1"))
        for _ in range(2):
            receiver.send("m", BODY)
        assert not any("cookie" in server.next().headers for _ in range(2))


def test_hostile_text_of_a_receiver_does_not_reach_the_log(secret_file: Path) -> None:
    def escape(handler: Handler) -> None:
        handler.wfile.write(b"\x1b[2J\r\n\r\n")

    with WebhookReceiver() as server, Receiver(server.url, secret_file=secret_file) as receiver:
        server.answers.append(escape)
        with pytest.raises(NotDeliveredError) as caught:
            receiver.send("m", BODY)
    assert "\x1b" not in caught.value.message


def _tls(folder: Path, name: str) -> tuple[ssl.SSLContext, Path]:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain, private = folder / f"{name}.pem", folder / f"{name}.key"
    chain.write_bytes(certificate.public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, private)
    return context, chain


def test_a_wrong_certificate_receives_nothing(tmp_path: Path, secret_file: Path) -> None:
    context, right = _tls(tmp_path, "right")
    _, wrong = _tls(tmp_path, "wrong")
    with WebhookReceiver(context) as server:
        for ca_file in (None, wrong):
            with (
                Receiver(server.url, secret_file=secret_file, ca_file=ca_file) as receiver,
                pytest.raises(NotDeliveredError, match="CERTIFICATE_VERIFY_FAILED"),
            ):
                receiver.send("m", BODY)
        assert server.received.empty()
        with Receiver(server.url, secret_file=secret_file, ca_file=right) as receiver:
            receiver.send("m", BODY)
        assert server.next().verifies()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://siem.example.org/hook", "for siem.example.org does not use TLS"),
        ("https://user:hunter2@siem.example.org/", "for siem.example.org contains a user name, a password"),
        ("https://siem.example.org/#hunter2", "contains a user name, a password or a fragment"),
        ("ftp://siem.example.org/hunter2", "is invalid: expected https://HOST/PATH"),
        ("https:///hunter2", "is invalid: expected https://HOST/PATH"),
        ("siem.example.org", "is invalid: expected https://HOST/PATH"),
        ("https://siem.example.org:65536/hunter2", "is invalid: expected https://HOST/PATH"),
        ("https://siem.example.org:hunter2/", "is not a valid URL"),
        ("", "is invalid: expected"),
    ],
)
def test_an_invalid_url_is_rejected_and_not_repeated(secret_file: Path, url: str, message: str) -> None:
    with raises(BrokerCode.NOTIFICATION_SETTINGS, match=message) as caught:
        Receiver(url, secret_file=secret_file)
    assert "hunter2" not in str(caught.value)


def test_the_path_of_the_url_and_the_secret_are_not_shown(secret_file: Path) -> None:
    with Receiver("http://127.0.0.1:1/hunter2?token=hunter2", secret_file=secret_file) as receiver:
        with pytest.raises(NotDeliveredError) as caught:
            receiver.send("m", BODY)
        shown = f"{receiver!r} {caught.value} {caught.value.hint} {receiver.secrets!r} {receiver.secrets.value!r}"
    assert "hunter2" not in shown
    assert SECRET.decode() not in shown
    assert repr(receiver) == "http://127.0.0.1:1"


@pytest.mark.parametrize(
    "content",
    ["hunter2", "whsec_", "whsec_!!!!", "whsec_c2hvcnQ=", f"whsec_{'QUFB' * 30}", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
     "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n\nhunter2", "whsk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "\udcff"],
)  # fmt: skip
def test_an_invalid_secret_is_rejected_and_not_repeated(tmp_path: Path, content: str) -> None:
    path = tmp_path / "secret"
    path.touch(mode=0o600)
    path.write_bytes(content.encode(errors="surrogateescape"))
    with raises(BrokerCode.NOTIFICATION_SETTINGS, match=r"24 to 64 bytes in base64 in line \d") as caught:
        read_secrets(path)
    assert "hunter2" not in str(caught.value)
    assert "MfKQ" not in str(caught.value)


def test_a_secret_that_others_can_read_is_rejected(secret_file: Path) -> None:
    secret_file.chmod(0o640)
    with pytest.raises(PrivateFileExposedError):
        Receiver("https://siem.example.org/", secret_file=secret_file)


def test_too_many_secrets_are_rejected(tmp_path: Path) -> None:
    path = write_secret(tmp_path / "secrets", *[SECRET] * 5)
    with raises(BrokerCode.NOTIFICATION_SETTINGS, match="expected at most 4 lines, got 5"):
        read_secrets(path)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be read"), (b"", "a PEM certificate"), (b"x", "a PEM certificate")]
)
def test_an_invalid_ca_file_is_rejected(tmp_path: Path, secret_file: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with raises(BrokerCode.NOTIFICATION_SETTINGS, match=message):
        Receiver("https://siem.example.org/", secret_file=secret_file, ca_file=path)
