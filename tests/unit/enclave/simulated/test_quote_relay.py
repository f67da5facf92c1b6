"""The quote relay and its client, with hostile peers on both sides. Both sides have their own implementation."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.harness.errors import raises

from sealserve.attestation.attest_messages import MAXIMUM_QUOTE
from sealserve.attester.codes import AttesterCode
from sealserve.attester.device import AttestationDevice
from sealserve.attester.quote_relay import relayed_quote
from sealserve.enclave.relay_address import LOOPBACK, RelayAddress
from sealserve.enclave.simulated.quote_relay import QuoteRelay
from sealserve.sgx.codes import SgxCode

REPORT_DATA = bytes(range(64))


@contextmanager
def relay(quote_for: Callable[[bytes], bytes] = lambda data: b"quote of " + data) -> Iterator[RelayAddress]:
    with QuoteRelay(quote_for, peer_timeout=0.2) as made:
        made.start()
        yield made.address


def ask(address: RelayAddress, request: bytes) -> bytes:
    """Send a request and the end of the connection, and return the complete response.

    The relay may close the connection before it has read all bytes. The system then resets the connection.
    """
    found = bytearray()
    with (
        socket.create_connection((LOOPBACK, address.port), timeout=10) as connection,
        contextlib.suppress(ConnectionResetError, BrokenPipeError),
    ):
        connection.sendall(request)
        with contextlib.suppress(OSError):  # the connection has ended already
            connection.shutdown(socket.SHUT_WR)
        while part := connection.recv(4096):
            found += part
    return bytes(found)


def test_a_device_without_files_for_quotes_gets_them_from_the_relay() -> None:
    with relay() as address:
        device = AttestationDevice(Path("/nothing"), relay=address)

        assert device.quote(REPORT_DATA) == b"quote of " + REPORT_DATA
        assert device.quote(bytes(64)) == b"quote of " + bytes(64)


def test_requests_wait_until_the_relay_starts() -> None:
    with QuoteRelay(lambda data: data) as made:
        found: list[bytes] = []
        asking = threading.Thread(target=lambda: found.append(relayed_quote(made.address, REPORT_DATA, limit=8192)))
        asking.start()
        made.start()
        asking.join(10)

    assert found == [REPORT_DATA]


def test_only_the_loopback_interface_is_reachable() -> None:
    with relay() as address, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", address.port), timeout=10).close()


@pytest.mark.parametrize(
    "change",
    [
        lambda token: bytes(len(token)),
        lambda token: token[:31] + bytes([token[31] ^ 1]),
        lambda token: token[:31],  # the first byte of report data takes the token's last place
        lambda token: token[:0],
    ],
)
def test_a_peer_without_the_token_gets_no_quote(change: Callable[[bytes], bytes]) -> None:
    asked: list[bytes] = []

    def quote_for(report_data: bytes) -> bytes:
        asked.append(report_data)
        return b"quote"

    with relay(quote_for) as address:
        assert ask(address, change(address.token) + REPORT_DATA) == b""
        assert ask(address, change(address.token) + REPORT_DATA + bytes(32)) == b""

    assert asked == []


def test_incomplete_and_slow_requests_end_without_a_quote() -> None:
    with relay() as address:
        assert ask(address, b"") == b""
        assert ask(address, address.token + REPORT_DATA[:63]) == b""
        with socket.create_connection((LOOPBACK, address.port), timeout=10) as silent:
            assert silent.recv(1) == b""  # the relay closes the connection
        assert relayed_quote(address, REPORT_DATA, limit=8192) == b"quote of " + REPORT_DATA


def test_an_error_of_the_quoting_service_is_logged_and_the_device_reports_no_quote(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(_: bytes) -> bytes:
        raise SgxCode.QUOTING_UNAVAILABLE.error("The quoting service is down.")

    with relay(refuse) as address, raises(AttesterCode.QUOTE, match="no usable quote: .* got 0"):
        AttestationDevice(Path("/nothing"), relay=address).quote(REPORT_DATA)

    assert "error[quoting.unavailable]: The quoting service is down." in caplog.text


def test_the_client_reads_no_more_than_its_limit() -> None:
    with (
        relay(lambda _: bytes(MAXIMUM_QUOTE * 3)) as address,
        raises(AttesterCode.QUOTE, match="got more"),
    ):
        AttestationDevice(Path("/nothing"), relay=address).quote(REPORT_DATA)


def test_a_relay_that_is_gone_or_silent_is_named_without_its_token() -> None:
    with QuoteRelay(lambda data: data) as made:  # it is bound, and never answers
        address = made.address
        with raises(AttesterCode.QUOTE, match=f"quote relay at 127.0.0.1:{address.port} did not return") as silent:
            relayed_quote(address, REPORT_DATA, limit=8192, timeout=0.1)
    with raises(AttesterCode.QUOTE, match="Connection refused") as gone:
        relayed_quote(address, REPORT_DATA, limit=8192)

    for caught in (silent, gone):
        assert address.token.hex() not in f"{caught.value} {caught.value.hint}"


def test_an_address_survives_its_variable_and_hides_its_token() -> None:
    address = RelayAddress.create(41234)

    assert RelayAddress.parse(address.variable) == address
    assert RelayAddress.create(41234) != address
    assert address.token.hex() not in repr(address) + str(address)


@pytest.mark.parametrize(
    "text",
    ["", "1234", f"0/{'a' * 64}", f"65536/{'a' * 64}", f"1/{'a' * 63}", f"1/{'A' * 64}", f"1/{'a' * 64}\n",
     f"127.0.0.1:1/{'a' * 64}", f"\u0661/{'a' * 64}"],
)  # fmt: skip
def test_other_text_is_no_address(text: str) -> None:
    assert RelayAddress.parse(text) is None
