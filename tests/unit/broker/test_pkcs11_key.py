"""How the broker handles failures of the process that loads a PKCS#11 module."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.harness.errors import raises

from sealserve.broker import pkcs11_key
from sealserve.broker.codes import BrokerCode
from sealserve.broker.pkcs11_key import Pkcs11Key
from sealserve.broker.pkcs11_protocol import Failure, Message, Operation, TokenFailedError
from sealserve.secret import SecretBytes

SECRET = SecretBytes(b"0123456789abcdef")
Answer = Callable[[str, bytes], bytes]


class Processes:
    """Takes the place of the processes. Each process has a function that answers its requests."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.asked: list[str] = []
        self.killed = 0

    def __call__(self, _seconds: float) -> Any:
        return _Fake(self, self.answers.pop(0))


class _Fake:
    def __init__(self, processes: Processes, answer: Answer) -> None:
        self._processes = processes
        self._answer = answer

    def ask(self, header: dict[str, str], data: bytes) -> Message:
        self._processes.asked.append(header["operation"])
        return Message(header={}, data=self._answer(header["operation"], data))

    def kill(self) -> None:
        self._processes.killed += 1


def works(_operation: str, data: bytes) -> bytes:
    return bytes(reversed(data))


def fails(failure: Failure, *, at: Operation) -> Answer:
    def answer(operation: str, data: bytes) -> bytes:
        if operation == at:
            raise TokenFailedError(failure, "The token has a reason\x1b[2J")
        return works(operation, data)

    return answer


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    pytest.importorskip("pkcs11", reason="python-pkcs11 is missing: `make setup` installs it")
    made = Processes()
    monkeypatch.setattr(pkcs11_key, "_Process", made)
    return made


@pytest.fixture
def key(tmp_path: Path) -> Pkcs11Key:
    (tmp_path / "pin").touch(mode=0o600)
    (tmp_path / "pin").write_text("1234")
    return Pkcs11Key(tmp_path / "pin", token="owner", key="k", pin_file=tmp_path / "pin", seconds=1)


@pytest.mark.parametrize(
    ("failure", "code", "text"),
    [
        (Failure.SETTINGS, BrokerCode.KEYSTORE_PKCS11_SETTINGS, "Set keystore.pkcs11_module"),
        (Failure.TOKEN, BrokerCode.KEYSTORE_PKCS11_TOKEN, "Connect the token"),
        (Failure.KEY, BrokerCode.KEYSTORE_PKCS11_KEY, "Create the key"),
        (Failure.ATTRIBUTES, BrokerCode.KEYSTORE_PKCS11_KEY_ATTRIBUTES, "Create an AES key"),
        (Failure.PIN_WRONG, BrokerCode.KEYSTORE_PKCS11_PIN_WRONG, "Write the correct PIN"),
        (Failure.PIN_LOCKED, BrokerCode.KEYSTORE_PKCS11_PIN_LOCKED, "Log in once with the vendor's tool"),
        (Failure.FAILED, BrokerCode.KEYSTORE_PKCS11_UNAVAILABLE, "Check the token"),
        (Failure.TIMEOUT, BrokerCode.KEYSTORE_PKCS11_UNAVAILABLE, "Check the token"),
    ],
)
def test_a_failure_to_open_is_not_repeated(
    processes: Processes, key: Pkcs11Key, failure: Failure, code: BrokerCode, text: str
) -> None:
    processes.answers = [fails(failure, at=Operation.OPEN)]
    with raises(code, match=rf"The token has a reason.*\. {text}") as caught:
        key.unwrap(b"wrapped", context=b"")
    assert caught.value.code == code.value
    assert "\x1b" not in caught.value.message
    assert (processes.asked, processes.killed) == (["open"], 1)


def test_a_session_that_ended_is_replaced_once(processes: Processes, key: Pkcs11Key) -> None:
    ended = fails(Failure.FAILED, at=Operation.DECRYPT)
    processes.answers = [works, works]
    assert key.unwrap(b"ab", context=b"") == SecretBytes(b"ba")
    processes.answers = [works]
    key._process = _Fake(processes, ended)  # type: ignore[assignment]
    assert key.unwrap(b"ab", context=b"") == SecretBytes(b"ba")
    processes.answers = [ended]
    key._process = _Fake(processes, ended)  # type: ignore[assignment]
    with raises(BrokerCode.KEYSTORE_PKCS11_UNAVAILABLE):
        key.unwrap(b"ab", context=b"")
    assert processes.answers == []


def test_a_request_without_a_reply_is_not_repeated(processes: Processes, key: Pkcs11Key) -> None:
    processes.answers = [fails(Failure.TIMEOUT, at=Operation.DECRYPT)]
    with raises(BrokerCode.KEYSTORE_PKCS11_UNAVAILABLE):
        key.unwrap(b"ab", context=b"")
    assert processes.asked == ["open", "decrypt"]


@pytest.mark.parametrize("answer", [lambda _operation, data: data[:-1], fails(Failure.DATA, at=Operation.DECRYPT)])
def test_a_ciphertext_that_the_token_cannot_decrypt_is_not_stored(
    processes: Processes, key: Pkcs11Key, answer: Answer
) -> None:
    processes.answers = [answer]
    with raises(BrokerCode.KEYSTORE_PKCS11_UNAVAILABLE, match="cannot decrypt its own ciphertext"):
        key.wrap(SECRET, context=b"")
