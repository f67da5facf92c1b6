"""Key encryption with the transit engine of Vault or OpenBao. The master key never leaves the key management service.

Source: OpenBao's documentation, "Transit secrets engine (API)" (website/content/api-docs/secret/transit.mdx: encrypt,
decrypt) and "HTTP API" (headers, status codes). Both apply to Vault as well.
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
from sealserve.broker.key_wrapper import LONGEST_WRAPPER_ID, KeyUnwrapError, WrapperId
from sealserve.ca_file import trust_only
from sealserve.errors import SealserveError
from sealserve.http_answer import HttpEncodingError, HttpFailedError, HttpSizeError, HttpSlowError, no_cookies, request
from sealserve.private_file import read_private
from sealserve.regular_file import InputFileError
from sealserve.secret import SecretBytes
from sealserve.tcp_ports import LARGEST_PORT

_Answer = TypeVar("_Answer", bound=BaseModel)

_PREFIX: Final = "vault:v"  # of each ciphertext, in Vault and in OpenBao
_TIMEOUT: Final = httpx.Timeout(10, connect=5)
_ATTEMPTS: Final = 2  # connection attempts
_LONGEST_TOKEN: Final = 4096
_LARGEST_ANSWER: Final = 64 * 2**10
_LONGEST_ANSWER: Final = 20.0  # seconds until the last byte of the reply
_NAME = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"
_MOUNT = rf"{_NAME}(/{_NAME})*"


class _Encrypted(BaseModel):
    ciphertext: str


class _Decrypted(BaseModel):
    plaintext: SecretStr


class TransitKey:
    """A `KeyWrapper` that uses a key of the transit engine.

    Contexts are bound as associated data. Therefore the key must have an authenticated type: ``aes256-gcm96`` (the
    default), ``aes128-gcm96`` or ``chacha20-poly1305``.

    Args:
        url: The server's URL: ``https://HOST:PORT``. ``http`` is permitted only for a loopback address.
        mount: The mount path of the engine.
        key: The key's name.
        token_file: A file with mode 0600 that contains a token with permission to encrypt and decrypt with this key.
        ca_file: The CA certificate for the server's certificate, PEM. `None` means the system's CA certificates.
        namespace: The namespace of the key, if the server uses namespaces.

    Raises:
        InputError: `keystore.transit-settings` if ``url``, ``mount`` or ``key`` is invalid, or a file cannot be read.
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
                f"The transit settings are invalid: {mount!r} is not a mount path, or {key!r} is not a key name.",
                hint="Correct the mount path and the key name in the [keystore] section of sealserve.toml.",
            )
        self._name = f"key {key!r} of {url}"
        self._mount, self._key = mount, key
        # The server's address is not part of the id: the keys stay readable when the service moves to another address.
        space = f"{namespace.strip('/')}/" if namespace else ""
        self._id = WrapperId(f"transit:{space}{mount}/{key}")
        if len(self._id) > LONGEST_WRAPPER_ID:
            raise BrokerCode.KEYSTORE_TRANSIT_SETTINGS.error(
                "The names in the transit settings are too long: "
                f"expected at most {LONGEST_WRAPPER_ID} characters, got {len(self._id)}.",
                hint="Use a shorter mount path or key name.",
            )
        self._token_file = token_file
        headers = {"X-Vault-Request": "true"}
        if namespace:
            headers["X-Vault-Namespace"] = namespace
        self._http = httpx.Client(
            base_url=f"{url.rstrip('/')}/v1/",
            headers=headers,
            timeout=_TIMEOUT,
            follow_redirects=False,  # never send the token to another server
            trust_env=False,
            cookies=no_cookies(),
            transport=httpx.HTTPTransport(verify=_trust(ca_file), retries=_ATTEMPTS - 1, trust_env=False),
        )

    @property
    def wrapper_id(self) -> WrapperId:
        """``transit:MOUNT/KEY``, where a namespace is the beginning of the mount path."""
        return self._id

    def wrap(self, secret: SecretBytes, *, context: bytes) -> bytes:
        """Encrypt a secret. See `KeyWrapper.wrap`.

        Raises:
            InputError: `keystore.transit-refused` if the token lacks permission or the key does not exist.
            UnavailableError: `keystore.transit-unavailable` if the service does not reply.
        """
        body = {"plaintext": _text(secret.reveal()), "associated_data": _text(context)}
        answer = self._call("encrypt", body, _Encrypted)
        if not answer.ciphertext.startswith(_PREFIX):
            raise BrokerCode.KEYSTORE_TRANSIT_UNAVAILABLE.error(
                f"The key management service did not encrypt with the {self._name}: its reply contains no ciphertext."
            )
        return answer.ciphertext.encode()

    def unwrap(self, wrapped: bytes, *, context: bytes) -> SecretBytes:
        """Decrypt a secret. See `KeyWrapper.unwrap`.

        Raises:
            InputError: `keystore.transit-refused` if the token lacks permission or the key does not exist.
            UnavailableError: `keystore.transit-unavailable` if the service does not reply.
        """
        body = {"ciphertext": wrapped.decode("ascii", "replace"), "associated_data": _text(context)}
        answer = self._call("decrypt", body, _Decrypted)
        try:
            return SecretBytes(base64.b64decode(answer.plaintext.get_secret_value(), validate=True))
        except binascii.Error as error:
            raise BrokerCode.KEYSTORE_TRANSIT_UNAVAILABLE.error(
                f"The key management service did not decrypt with the {self._name}: its reply contains no plaintext."
            ) from error

    def close(self) -> None:
        """Close the HTTP connections."""
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
            pass  # omit the cause, because it may contain decrypted data
        raise BrokerCode.KEYSTORE_TRANSIT_UNAVAILABLE.error(
            f"The reply for the {self._name} is not a valid reply of the transit engine."
        )

    def _post(self, path: str, body: dict[str, str]) -> bytes:
        with read_private(self._token_file, what="token", limit=_LONGEST_TOKEN) as token:
            headers = {"X-Vault-Token": token.reveal().decode("ascii", "replace")}
            try:
                with request(self._http, "POST", path, json=body, headers=headers, seconds=_LONGEST_ANSWER) as answer:
                    status, content = answer.status, answer.body(_LARGEST_ANSWER, gunzip=True)
            except HttpFailedError as error:
                raise BrokerCode.KEYSTORE_TRANSIT_UNAVAILABLE.error(
                    f"The key management service cannot be reached ({self._name}): {error.message}",
                    hint="Check that the service is running and that ca_file is the CA of its certificate.",
                ) from None  # the cause would contain the request with its token
            except HttpSizeError:
                raise self._odd(f"The reply has more than {_LARGEST_ANSWER} bytes.") from None
            except (HttpSlowError, HttpEncodingError) as error:
                raise self._odd(error.message) from None
        if httpx.codes.is_success(status):
            return content
        said = _errors(content)
        if status == httpx.codes.BAD_REQUEST and path.startswith(f"{self._mount}/decrypt/"):
            raise KeyUnwrapError(
                f"A stored release key cannot be decrypted with the {self._name}: {said}.",
                hint="Configure the key that encrypted it, or restore the database from a backup.",
            )
        if status in (httpx.codes.BAD_REQUEST, httpx.codes.FORBIDDEN, httpx.codes.NOT_FOUND):
            raise BrokerCode.KEYSTORE_TRANSIT_REFUSED.error(
                f"The key management service refused the use of the {self._name} with HTTP status {status}: {said}.",
                hint="Check the key's name, and permit update on encrypt/KEY and decrypt/KEY of the transit mount "
                "in the token's policy.",
            )
        raise BrokerCode.KEYSTORE_TRANSIT_UNAVAILABLE.error(
            f"The key management service replied with HTTP status {status} for the {self._name}: {said}."
        )

    def _odd(self, reason: str) -> SealserveError:
        return BrokerCode.KEYSTORE_TRANSIT_UNAVAILABLE.error(
            f"The reply for the {self._name} is invalid: {reason}",
            hint="Check that transit_url is the address of Vault or OpenBao.",
        )


def _errors(content: bytes) -> str:
    """Return the errors in a reply of the service. They describe only the request and never repeat plaintext."""
    try:
        errors = json.loads(content)["errors"]
        said = "; ".join(" ".join(str(error).split()) for error in errors)[:500].rstrip(".")
    except (ValueError, KeyError, TypeError, RecursionError):
        said = ""
    return said or "the reply contains no reason"


def _check_url(url: str) -> None:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise BrokerCode.KEYSTORE_TRANSIT_SETTINGS.error(
            f"The address of the key management service is not a valid URL: {url!r}: {error}.",
            hint="Use https://HOST:PORT.",
        ) from error
    is_port = parsed.port is None or 0 < parsed.port <= LARGEST_PORT
    if parsed.scheme not in ("https", "http") or not parsed.host or parsed.query or parsed.userinfo or not is_port:
        raise BrokerCode.KEYSTORE_TRANSIT_SETTINGS.error(
            f"The address of the key management service is invalid: expected https://HOST:PORT, got {url!r}.",
            hint="Correct keystore.transit_url in sealserve.toml.",
        )
    if parsed.scheme == "http" and not is_loopback(parsed.host):
        raise BrokerCode.KEYSTORE_TRANSIT_SETTINGS.error(
            f"The address of the key management service does not use TLS, which would expose keys: {url!r}.",
            hint="Use https. Plain http is permitted only for a loopback address.",
        )


def _trust(ca_file: Path | None) -> ssl.SSLContext:
    if ca_file is None:
        return ssl.create_default_context()
    try:
        return trust_only(ca_file)
    except InputFileError as error:
        raise BrokerCode.KEYSTORE_TRANSIT_SETTINGS.error(
            f"The CA certificate {ca_file} of the key management service cannot be read: {error.reason}."
        ) from error
    except ssl.SSLError as error:
        raise BrokerCode.KEYSTORE_TRANSIT_SETTINGS.error(
            f"{ca_file} does not contain a PEM certificate: {error}.",
            hint="Set keystore.transit_ca_file to the CA certificate of the key management service.",
        ) from error


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
