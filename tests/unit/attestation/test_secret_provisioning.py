import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.errors import raises

from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.secret_provisioning import (
    KEY_SIZE,
    MAXIMUM_SECRET,
    REQUEST,
    RESPONSE,
    ProvisioningClient,
    ProvisioningServer,
    SecretForm,
    in_form,
)
from sealserve.errors import VerificationError
from sealserve.secret import SecretBytes

KEY = SecretBytes(bytes(range(100, 116)))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in itertools.pairwise(bounds)]


def test_the_bytes_are_gramines() -> None:
    assert len(REQUEST) == 35
    assert len(RESPONSE) == 37
    server = ProvisioningServer()
    assert server.receive(REQUEST)

    response = server.respond(KEY).reveal()

    assert response == b"SECRET_PROVISION_RA_TLS_RESPONSE_V1:\0\0\0\0\x10" + KEY.reveal()


@given(st.lists(st.integers(0, 100), max_size=8), st.lists(st.integers(0, 100), max_size=8))
def test_record_boundaries_do_not_matter(request_cuts: list[int], response_cuts: list[int]) -> None:
    server, client = ProvisioningServer(), ProvisioningClient()

    complete = [server.receive(part) for part in cut(REQUEST, request_cuts)]
    assert complete == [False] * (len(complete) - 1) + [True]
    complete = [client.receive(part) for part in cut(server.respond(KEY).reveal(), response_cuts)]
    assert complete == [False] * (len(complete) - 1) + [True]

    assert client.secret() == KEY


def test_application_data_after_the_secret_is_not_part_of_it() -> None:
    client = ProvisioningClient()

    assert client.receive(RESPONSE + (16).to_bytes(4, "big") + KEY.reveal() + b"more")
    assert client.receive(b"and more")

    assert client.secret() == KEY


def test_a_secret_is_taken_once() -> None:
    client = ProvisioningClient()
    client.receive(RESPONSE + (16).to_bytes(4, "big") + KEY.reveal())
    client.secret()

    with raises(
        AttestationCode.PROVISIONING_TRUNCATED,
        match="The secret provisioning response is incomplete: the server closed the session after 0 "
        "bytes, before the secret was complete",
    ):
        client.secret()


def test_a_client_knows_whether_the_server_said_anything() -> None:
    silent, answered = ProvisioningClient(), ProvisioningClient()
    answered.receive(RESPONSE[:1])

    assert [silent.started, answered.started] == [False, True]


def test_a_string_secret_may_have_another_length() -> None:
    server = ProvisioningServer()
    server.receive(REQUEST)
    text = SecretBytes(b"a secret\0")
    client = ProvisioningClient(secret_size=None)

    assert client.receive(server.respond(text).reveal())
    assert client.secret() == text


@pytest.mark.parametrize(
    "received",
    [b"GET / HTTP/1.1\r\n", b"SECRET_PROVISION_RA_TLS_REQUEST_V2\0", REQUEST[:-1] + b"1", REQUEST + b"x", b"\0"],
)
def test_another_request_is_refused(received: bytes) -> None:
    with raises(
        AttestationCode.PROVISIONING_REQUEST,
        match=r"The secret provisioning request is invalid: expected "
        r"b'SECRET_PROVISION_RA_TLS_REQUEST_V1\\x00', got",
    ) as caught:
        ProvisioningServer().receive(received)

    assert caught.value.code == "provisioning.request"


def test_a_wrong_request_is_refused_at_its_first_wrong_byte() -> None:
    server = ProvisioningServer()
    assert not server.receive(b"SECRET_")

    with raises(AttestationCode.PROVISIONING_REQUEST, match="SECRET_X"):
        server.receive(b"X")


def test_no_secret_leaves_before_the_request_is_complete() -> None:
    server = ProvisioningServer()
    server.receive(REQUEST[:-1])

    for act in (server.end, lambda: server.respond(KEY)):
        with raises(
            AttestationCode.PROVISIONING_TRUNCATED,
            match="The secret provisioning request is incomplete: expected 35 bytes, but the client closed "
            "the session after 34",
        ):
            act()


@pytest.mark.parametrize("size", [0, MAXIMUM_SECRET + 1])
def test_the_server_sends_no_absurd_secret(size: int) -> None:
    server = ProvisioningServer()
    server.receive(REQUEST)

    with raises(AttestationCode.PROVISIONING_LENGTH, match=f"expected 1 to 4096 bytes, got {size}"):
        server.respond(SecretBytes(bytes(size)))


@pytest.mark.parametrize(
    ("length", "secret_size", "message"),
    [
        (0, KEY_SIZE, "exactly 16 bytes, got 0"),
        (15, KEY_SIZE, "exactly 16 bytes, got 15"),
        (17, KEY_SIZE, "exactly 16 bytes, got 17"),
        (0x10000000, KEY_SIZE, "exactly 16 bytes, got 268435456"),
        (0, None, "1 to 4096 bytes, got 0"),
        (4097, None, "1 to 4096 bytes, got 4097"),
        (0xFFFFFFFF, None, "1 to 4096 bytes, got 4294967295"),
    ],
)
def test_the_client_refuses_another_length_before_the_secret_came(
    length: int, secret_size: int | None, message: str
) -> None:
    client = ProvisioningClient(secret_size=secret_size)

    with raises(AttestationCode.PROVISIONING_LENGTH, match=message) as caught:
        client.receive(RESPONSE + length.to_bytes(4, "big") + KEY.reveal())

    assert caught.value.code == "provisioning.length"
    assert KEY.reveal() not in bytes(client._received)


@given(st.integers(0, 37 + 4 + 15))
def test_a_server_that_closes_early_is_noticed(size: int) -> None:
    client = ProvisioningClient()
    assert not client.receive((RESPONSE + (16).to_bytes(4, "big") + KEY.reveal())[:size])

    for act in (client.end, client.secret):
        with raises(
            AttestationCode.PROVISIONING_TRUNCATED, match=f"the server closed the session after {size} bytes"
        ) as caught:
            act()
        assert caught.value.code == "provisioning.truncated"


@given(st.binary(min_size=1, max_size=100))
def test_another_response_is_refused(received: bytes) -> None:
    client = ProvisioningClient()
    if received == RESPONSE[: len(received)]:
        return

    with raises(
        AttestationCode.PROVISIONING_RESPONSE,
        match=r"The secret provisioning response is invalid: expected "
        r"b'SECRET_PROVISION_RA_TLS_RESPONSE_V1:\\x00', got other bytes",
    ) as caught:
        client.receive(received)

    assert caught.value.code == "provisioning.response"


def test_an_error_does_not_show_what_came_in_the_secrets_place() -> None:
    client = ProvisioningClient()

    with pytest.raises(VerificationError) as caught:
        client.receive(b"X" + KEY.reveal())

    assert KEY.reveal().decode("ascii") not in str(caught.value)


def test_a_key_as_a_string_ends_with_a_nul() -> None:
    """Gramine's library passes such a secret to the program, and rejects a string without a NUL at the end."""
    key = SecretBytes(bytes(range(16)))
    assert in_form(key, SecretForm.RAW) is key
    text = in_form(key, SecretForm.STRING)
    assert text.reveal() == b"000102030405060708090a0b0c0d0e0f\0"
    assert len(key) == 0  # wiped
    server, client = ProvisioningServer(), ProvisioningClient(secret_size=33)
    assert server.receive(REQUEST)
    assert client.receive(server.respond(text).reveal())
    assert client.secret() == text
