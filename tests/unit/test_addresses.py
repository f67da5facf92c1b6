import socket

import pytest

from sealserve.addresses import is_ip_address, is_loopback, usable_address


def test_every_address_is_that_of_ipv4_where_the_kernel_has_no_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    assert usable_address("::") == "0.0.0.0"  # noqa: S104  # nothing listens here
    assert usable_address("::1") == "::1"
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: True)
    assert usable_address("::") == "::"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("192.0.2.7", True), ("2001:db8::7", True), ("broker.example.com", False), ("192.0.2.0/24", False), ("", False)],
)
def test_what_is_an_ip_address(text: str, expected: bool) -> None:
    assert is_ip_address(text) is expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("192.0.2.7", False),
        ("0.0.0.0", False),  # noqa: S104  # nothing listens here
        ("localhost.example.com", False),
        ("", False),
    ],
)
def test_which_hosts_are_this_machine(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
