"""Keys encrypted by the transit engine of Vault or OpenBao: the master key never leaves the key management service.

Source: OpenBao's documentation, "Transit secrets engine (API)" (website/content/api-docs/secret/transit.mdx: encrypt,
decrypt) and "HTTP API" (headers, status codes), which are Vault's as well.
"""

import base64
import binascii
import json
import re
import ssl
from pathlib import Path
from typing import Final, Self, TypeVar

import httpx
from pydantic import BaseModel, SecretStr, ValidationError

from sealserve.addresses import is_loopback
from sealserve.broker.codes import BrokerCode
from sealserve.broker.key_wrapper import TRANSIT_PREFIX, KeyUnwrapError
from sealserve.errors import SealserveError
from sealserve.http_answer import HttpEncodingError, HttpFailedError, HttpSizeError, HttpSlowError, request
from sealserve.private_file import read_private
from sealserve.regular_file import InputFileError, read_regular
from sealserve.secret import SecretBytes

_Answer = TypeVar("_Answer", bound=BaseModel)

_TIMEOUT: Final = httpx.Timeout(10, connect=5)
_ATTEMPTS: Final = 2  # of connecting
_LONGEST_TOKEN: Final = 4096
_LARGEST_ANSWER: Final = 64 * 2**10
_LONGEST_ANSWER: Final = 20.0  # seconds, until the last byte
_NAME = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"
_MOUNT = rf"{_NAME}(/{_NAME})*"


class _Encrypted(BaseModel):
    ciphertext: str


class _Decrypted(BaseModel):
    plaintext: SecretStr


class TransitKey:
    """A key of the transit engine, as a `KeyWrapper`.

    Contexts are bound as associated data, so the key must have an authenticated type: ``aes256-gcm96`` (the default),
    ``aes128-gcm96`` or ``chacha20-poly1305``.

    Args:
        url: Of the server: ``https://HOST:PORT``; ``http`` on this machine only.
        mount: Where the engine is mounted.
        key: The key's name.
        token_file: A file, 0600, with a token that may encrypt and decrypt with this key.
        ca_file: The authority that signs the server's certificate, PEM; by default those of the system.
        namespace: Of the key, where the server has namespaces.

    Raises:
        InputError: `keystore.transit-settings`: ``url``, ``mount`` or ``key`` cannot be used, or a file not be read.
    """

    def __init__(
        self,
        url: str,
        *,
        mount: str,
        key: str,
        token_file: Path,
        ca_file: Path | None = None,
        namespace: str | None = None,
    ) -> None:
        _check_url(url)
        if not re.fullmatch(_MOUNT, mount) or not re.fullmatch(_NAME, key):
            raise BrokerCode.KEYSTORE_TRANSIT_SETTINGS.error(
                f"{mount!r} and {key!r} cannot be a mount and a key of the transit engine."
            )
        self._name = f"the key {key!r} of {url}"
        self._mount, self._key = mount, key
        self._token_file = token_file
        headers = {"X-Vault-Request": "true"}
        if namespace:
            headers["X-Vault-Namespace"] = namespace
        self._http = httpx.Client(
            base_url=f"{url.rstrip('/')}/v1/",
            headers=headers,
            timeout=_TIMEOUT,
            follow_redirects=False,  # the token is for this server
            trust_env=False,
            transport=httpx.HTTPTransport(verify=_trust(ca_file), retries=_ATTEMPTS - 1, trust_env=False),
        )

    def wrap(self, secret: SecretBytes, *, context: bytes) -> bytes:
        """See `KeyWrapper`.

        Raises:
            InputError: `keystore.transit-refused`: The token may not, or there is no such key.
            UnavailableError: `keystore.transit-unavailable`: The service does not answer.
        """
        body = {"plaintext": _text(secret.reveal()), "associated_data": _text(context)}
        answer = self._call("encrypt", body, _Encrypted)
        if not answer.ciphertext.startswith(TRANSIT_PREFIX.decode()):
            raise BrokerCode.KEYSTORE_TRANSIT_UNAVAILABLE.error(f"{self._name}: the answer holds no ciphertext.")
        return answer.ciphertext.encode()

    def unwrap(self, wrapped: bytes, *, context: bytes) -> SecretBytes:
        """See `KeyWrapper`.

        Raises:
            InputError: `keystore.transit-refused`: The token may not, or there is no such key.
            UnavailableError: `keystore.transit-unavailable`: The service does not answer.
        """
        body = {"ciphertext": wrapped.decode("ascii", "replace"), "associated_data": _text(context)}
        answer = self._call("decrypt", body, _Decrypted)
        try:
            return SecretBytes(base64.b64decode(answer.plaintext.get_secret_value(), validate=True))
        except binascii.Error as error:
            raise BrokerCode.KEYSTORE_TRANSIT_UNAVAILABLE.error(
                f"{self._name}: the answer holds no plaintext."
            ) from error

    def wrapped_here(self, wrapped: bytes) -> bool:
        """See `KeyWrapper`."""
        return wrapped.startswith(TRANSIT_PREFIX)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return self._name

    def _call(self, action: str, body: dict[str, str], kind: type[_Answer]) -> _Answer:
        answer = self._post(f"{self._mount}/{action}/{self._key}", body)
        try:
            return kind.model_validate(json.loads(answer)["data"])
        except (ValueError, KeyError, TypeError, RecursionError, ValidationError):
            pass  # without its cause, which may quote what was decrypted
        raise BrokerCode.KEYSTORE_TRANSIT_UNAVAILABLE.error(
            f"{self._name}: the answer is none of the transit engine's."
        )

    def _post(self, path: str, body: dict[str, str]) -> bytes:
        with read_private(self._token_file, what="token", limit=_LONGEST_TOKEN) as token:
            headers = {"X-Vault-Token": token.reveal().decode("ascii", "replace")}
            try:
                with request(self._http, "POST", path, json=body, headers=headers, seconds=_LONGEST_ANSWER) as answer:
                    status, content = answer.status, answer.body(_LARGEST_ANSWER, gunzip=True)
            except HttpFailedError as error:
                raise BrokerCode.KEYSTORE_TRANSIT_UNAVAILABLE.error(
                    f"{self._name} cannot be reached: {error.message}",
                    hint="Is the service up, and does ca_file fit it?",
                ) from None  # the cause would hold the request with its token
            except HttpSizeError:
                raise self._odd(f"the answer has more than {_LARGEST_ANSWER} bytes.") from None
            except (HttpSlowError, HttpEncodingError) as error:
                raise self._odd(error.message) from None
        if httpx.codes.is_success(status):
            return content
        said = _errors(content)
        if status == httpx.codes.BAD_REQUEST and path.startswith(f"{self._mount}/decrypt/"):
            raise KeyUnwrapError(
                f"A stored release key does not decrypt with {self._name}: {said}.",
                hint="Use the key that encrypted it, or restore the database from its backup.",
            )
        if status in (httpx.codes.BAD_REQUEST, httpx.codes.FORBIDDEN, httpx.codes.NOT_FOUND):
            raise BrokerCode.KEYSTORE_TRANSIT_REFUSED.error(
                f"{self._name} is refused with status {status}: {said}.",
                hint="The token's policy must allow update on encrypt/KEY and decrypt/KEY of the transit mount.",
            )
        raise BrokerCode.KEYSTORE_TRANSIT_UNAVAILABLE.error(f"{self._name}: the service answers {status}: {said}.")

    def _odd(self, reason: str) -> SealserveError:
        return BrokerCode.KEYSTORE_TRANSIT_UNAVAILABLE.error(
            f"{self._name}: {reason}", hint="Check that transit_url is the address of Vault or OpenBao."
        )


def _errors(content: bytes) -> str:
    """Return what the service says went wrong; it is told only of requests, and repeats no plaintext."""
    try:
        errors = json.loads(content)["errors"]
        said = "; ".join(" ".join(str(error).split()) for error in errors)[:500].rstrip(".")
    except (ValueError, KeyError, TypeError, RecursionError):
        said = ""
    return said or "no reason is given"


def _check_url(url: str) -> None:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise BrokerCode.KEYSTORE_TRANSIT_SETTINGS.error(f"{url!r} is no address of a server: {error}.") from error
    if parsed.scheme not in ("https", "http") or not parsed.host or parsed.query or parsed.userinfo:
        raise BrokerCode.KEYSTORE_TRANSIT_SETTINGS.error(
            f"{url!r} is no address of a server.", hint="Write https://HOST:PORT."
        )
    if parsed.scheme == "http" and not is_loopback(parsed.host):
        raise BrokerCode.KEYSTORE_TRANSIT_SETTINGS.error(
            f"{url!r} has no TLS: keys and the token would travel in clear.", hint="Use https, or http on this machine."
        )


def _trust(ca_file: Path | None) -> ssl.SSLContext:
    if ca_file is None:
        return ssl.create_default_context()
    try:
        # An empty text would stand for the system's authorities.
        return ssl.create_default_context(cadata=read_regular(ca_file).decode("ascii", "replace") or "-")
    except InputFileError as error:
        raise BrokerCode.KEYSTORE_TRANSIT_SETTINGS.error(
            f"The authority {ca_file} cannot be read: {error.reason}."
        ) from error
    except ssl.SSLError as error:
        raise BrokerCode.KEYSTORE_TRANSIT_SETTINGS.error(f"{ca_file} holds no certificate in PEM: {error}.") from error


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
