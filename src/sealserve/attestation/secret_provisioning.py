"""Gramine's secret provisioning protocol, version 1: both sides, bytes only, no socket.

It runs inside a TLS session (the client shows an RA-TLS certificate, the server an ordinary one), on port 4433:

1. the client sends `REQUEST`: 34 characters and a NUL;
2. the server sends `RESPONSE` (36 characters and a NUL), the secret's length (4 bytes, big-endian), the secret;
3. application data may follow on the same session; the client closes it.

TLS records may cut these bytes anywhere, so both sides here take whatever came and say when they have enough.

Source: Gramine 1.9, ``tools/sgx/ra-tls/secret_prov.h``, ``secret_prov_attest.c``, ``secret_prov_verify.c``. (The
header's comment "8B secret size follows" is wrong: the code sends 4 bytes.)
"""

from typing import Final

from sealserve.attestation.codes import AttestationCode
from sealserve.secret import SecretBytes

SPEC_VERSION: Final = "Gramine 1.9, SECRET_PROVISION_RA_TLS_*_V1"
REQUEST: Final = b"SECRET_PROVISION_RA_TLS_REQUEST_V1\0"
RESPONSE: Final = b"SECRET_PROVISION_RA_TLS_RESPONSE_V1:\0"
LENGTH_SIZE: Final = 4
KEY_SIZE: Final = 16
MAXIMUM_SECRET: Final = 4096
"""PATH_MAX, the longest secret that Gramine's library takes as a string."""


class ProvisioningServer:
    """The side that holds the secret.

    Feed it with `receive` until that says True; appraise the client; then send what `respond` returns.
    """

    def __init__(self) -> None:
        self._received = bytearray()

    def receive(self, data: bytes) -> bool:
        """Take bytes from the client, and say whether the request is complete.

        Raises:
            VerificationError: `provisioning.request`: These bytes do not belong to the request, or more follow it.
        """
        self._received += data
        if self._received[: len(REQUEST)] != REQUEST[: len(self._received)] or len(self._received) > len(REQUEST):
            raise AttestationCode.PROVISIONING_REQUEST.error(
                f"Secret provisioning: expected the request {REQUEST!r}, got {bytes(self._received[:64])!r}."
            )
        return len(self._received) == len(REQUEST)

    def end(self) -> None:
        """Note that the client closed its side.

        Raises:
            VerificationError: `provisioning.truncated`: The request is not complete.
        """
        if len(self._received) < len(REQUEST):
            raise AttestationCode.PROVISIONING_TRUNCATED.error(
                f"Secret provisioning: the client closed after {len(self._received)} of the request's "
                f"{len(REQUEST)} bytes."
            )

    def respond(self, secret: SecretBytes) -> SecretBytes:
        """Return the bytes of the response. They contain the secret: send them, then wipe them.

        Raises:
            VerificationError: `provisioning.truncated`: The request is not complete: nothing may be sent yet.
            VerificationError: `provisioning.length`: The secret is empty, or too long for any client.
        """
        self.end()
        if not 0 < len(secret) <= MAXIMUM_SECRET:
            raise AttestationCode.PROVISIONING_LENGTH.error(
                f"Secret provisioning: a secret has 1 to {MAXIMUM_SECRET} bytes, this one has {len(secret)}."
            )
        return SecretBytes(RESPONSE + len(secret).to_bytes(LENGTH_SIZE, "big") + secret.reveal())


class ProvisioningClient:
    """The side that asks: send `REQUEST`, then feed it with `receive` until that says True; then take `secret`.

    Args:
        secret_size: The one length that is accepted; None accepts any up to `MAXIMUM_SECRET`. A key for encrypted
            files (``SECRET_PROVISION_SET_KEY``) has exactly 16 bytes.
    """

    def __init__(self, *, secret_size: int | None = KEY_SIZE) -> None:
        self._secret_size = secret_size
        self._received = bytearray()
        self._needed: int | None = None

    def receive(self, data: bytes) -> bool:
        """Take bytes from the server, and say whether the secret is complete. What follows it is ignored.

        Raises:
            VerificationError: `provisioning.response`: These bytes do not belong to the response.
            VerificationError: `provisioning.length`: The announced length is not acceptable; nothing of the secret is
                kept.
        """
        self._received += data
        if self._received[: len(RESPONSE)] != RESPONSE[: len(self._received)]:
            raise AttestationCode.PROVISIONING_RESPONSE.error(
                f"Secret provisioning: expected the response {RESPONSE!r}, got another."
            )
        start = len(RESPONSE) + LENGTH_SIZE
        if len(self._received) < start:
            return False
        if self._needed is None:
            self._needed = self._accept(int.from_bytes(self._received[len(RESPONSE) : start], "big"))
        del self._received[start + self._needed :]
        return len(self._received) == start + self._needed

    def end(self) -> None:
        """Note that the server closed its side.

        Raises:
            VerificationError: `provisioning.truncated`: The secret is not complete.
        """
        if self._needed is None or len(self._received) < len(RESPONSE) + LENGTH_SIZE + self._needed:
            raise AttestationCode.PROVISIONING_TRUNCATED.error(
                f"Secret provisioning: the server closed after {len(self._received)} bytes, before the secret was "
                "complete."
            )

    @property
    def started(self) -> bool:
        """Whether the server has sent anything."""
        return bool(self._received)

    def secret(self) -> SecretBytes:
        """Return the secret, and wipe the buffer that it came in.

        Raises:
            VerificationError: `provisioning.truncated`: It is not complete.
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
            f"Secret provisioning: expected a secret of {expected} bytes, got {length}."
        )
