"""Gramine's secret provisioning protocol, version 1: both sides as state machines without sockets.

The protocol runs inside a TLS session on port 4433. The client presents an RA-TLS certificate, the server an ordinary
certificate.

1. The client sends `REQUEST`: 34 characters and a NUL.
2. The server sends `RESPONSE` (36 characters and a NUL), the secret's length (4 bytes, big-endian), and the secret.
3. Application data may follow on the same session. The client closes it.

TLS records may split these bytes at any position. Therefore both sides accept partial data and report when the message
is complete.

Source: Gramine 1.9, ``tools/sgx/ra-tls/secret_prov.h``, ``secret_prov_attest.c``, ``secret_prov_verify.c``. (The
header's comment "8B secret size follows" is wrong: the code sends 4 bytes.)
"""

import binascii
from enum import StrEnum
from typing import Final

from sealserve.attestation.codes import AttestationCode
from sealserve.secret import SecretBytes

SPEC_VERSION: Final = "Gramine 1.9, SECRET_PROVISION_RA_TLS_*_V1"
REQUEST: Final = b"SECRET_PROVISION_RA_TLS_REQUEST_V1\0"
RESPONSE: Final = b"SECRET_PROVISION_RA_TLS_RESPONSE_V1:\0"
LENGTH_SIZE: Final = 4
KEY_SIZE: Final = 16
MAXIMUM_SECRET: Final = 4096
"""PATH_MAX, the maximum length in bytes of a secret that Gramine's library accepts as a string."""


class SecretForm(StrEnum):
    """The form of a release's key in the response."""

    RAW = "raw"
    """The 16 bytes of the key. Gramine's library requires this form if ``SECRET_PROVISION_SET_KEY`` is set."""
    STRING = "string"
    """The key as 32 hexadecimal digits and a NUL. Without ``SECRET_PROVISION_SET_KEY``, Gramine's library requires a
    NUL at the end, and passes the string to the program in ``SECRET_PROVISION_SECRET_STRING``."""


def in_form(key: SecretBytes, form: SecretForm) -> SecretBytes:
    """Return ``key`` in the form that the response contains. In another form, ``key`` itself is wiped."""
    if form is SecretForm.RAW:
        return key
    with key:
        return SecretBytes(binascii.hexlify(key.reveal()) + b"\0")


class ProvisioningServer:
    """The server side, which holds the secret.

    Call `receive` until it returns `True`, appraise the client, and then send the bytes from `respond`.
    """

    def __init__(self) -> None:
        self._received = bytearray()

    def receive(self, data: bytes) -> bool:
        """Process bytes from the client. Return whether the request is complete.

        Raises:
            VerificationError: `provisioning.request` if the bytes are not the request, or more bytes follow it.
        """
        self._received += data
        if self._received[: len(REQUEST)] != REQUEST[: len(self._received)] or len(self._received) > len(REQUEST):
            raise AttestationCode.PROVISIONING_REQUEST.error(
                f"The secret provisioning request is invalid: expected {REQUEST!r}, got {bytes(self._received[:64])!r}."
            )
        return len(self._received) == len(REQUEST)

    def end(self) -> None:
        """Process the end of the client's data.

        Raises:
            VerificationError: `provisioning.truncated` if the request is incomplete.
        """
        if len(self._received) < len(REQUEST):
            raise AttestationCode.PROVISIONING_TRUNCATED.error(
                f"The secret provisioning request is incomplete: expected {len(REQUEST)} bytes, but the client closed "
                f"the session after {len(self._received)}."
            )

    def respond(self, secret: SecretBytes) -> SecretBytes:
        """Return the bytes of the response. They contain the secret. Send them, then wipe them.

        Raises:
            VerificationError: `provisioning.truncated` if the request is incomplete. Nothing may be sent yet.
            VerificationError: `provisioning.length` if the secret is empty or longer than `MAXIMUM_SECRET`.
        """
        self.end()
        if not 0 < len(secret) <= MAXIMUM_SECRET:
            raise AttestationCode.PROVISIONING_LENGTH.error(
                f"The secret has an invalid length: expected 1 to {MAXIMUM_SECRET} bytes, got {len(secret)}."
            )
        return SecretBytes(RESPONSE + len(secret).to_bytes(LENGTH_SIZE, "big") + secret.reveal())


class ProvisioningClient:
    """The client side. Send `REQUEST`, call `receive` until it returns `True`, then call `secret`.

    Args:
        secret_size: The required length of the secret in bytes. `None` accepts any length up to `MAXIMUM_SECRET`. A key
            for encrypted files (``SECRET_PROVISION_SET_KEY``) has exactly 16 bytes.
    """

    def __init__(self, *, secret_size: int | None = KEY_SIZE) -> None:
        self._secret_size = secret_size
        self._received = bytearray()
        self._needed: int | None = None

    def receive(self, data: bytes) -> bool:
        """Process bytes from the server. Return whether the secret is complete. Bytes after the secret are ignored.

        Raises:
            VerificationError: `provisioning.response` if the bytes are not the response.
            VerificationError: `provisioning.length` if the announced length is not accepted. The received bytes are
                wiped.
        """
        self._received += data
        if self._received[: len(RESPONSE)] != RESPONSE[: len(self._received)]:
            raise AttestationCode.PROVISIONING_RESPONSE.error(
                f"The secret provisioning response is invalid: expected {RESPONSE!r}, got other bytes."
            )
        start = len(RESPONSE) + LENGTH_SIZE
        if len(self._received) < start:
            return False
        if self._needed is None:
            self._needed = self._accept(int.from_bytes(self._received[len(RESPONSE) : start], "big"))
        del self._received[start + self._needed :]
        return len(self._received) == start + self._needed

    def end(self) -> None:
        """Process the end of the server's data.

        Raises:
            VerificationError: `provisioning.truncated` if the secret is incomplete.
        """
        if self._needed is None or len(self._received) < len(RESPONSE) + LENGTH_SIZE + self._needed:
            raise AttestationCode.PROVISIONING_TRUNCATED.error(
                f"The secret provisioning response is incomplete: the server closed the session after "
                f"{len(self._received)} bytes, before the secret was complete."
            )

    @property
    def started(self) -> bool:
        """Whether the server has sent any bytes."""
        return bool(self._received)

    def secret(self) -> SecretBytes:
        """Return the secret and wipe the receive buffer.

        Raises:
            VerificationError: `provisioning.truncated` if the secret is incomplete.
        """
        self.end()
        secret = SecretBytes(memoryview(self._received)[len(RESPONSE) + LENGTH_SIZE :])
        self._received[:] = bytes(len(self._received))
        self._received.clear()
        self._needed = None
        return secret

    def _accept(self, length: int) -> int:
        if self._secret_size is not None and length != self._secret_size:
            expected = f"exactly {self._secret_size}"
        elif not 0 < length <= MAXIMUM_SECRET:
            expected = f"1 to {MAXIMUM_SECRET}"
        else:
            return length
        self._received[:] = bytes(len(self._received))
        raise AttestationCode.PROVISIONING_LENGTH.error(
            f"The provisioned secret has an invalid length: expected {expected} bytes, got {length}."
        )
