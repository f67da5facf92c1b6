"""Signed HTTP requests to one receiver, in the form of the specification "Standard Webhooks".

Source: standard-webhooks/standard-webhooks, ``spec/standard-webhooks.md``, version 1.0.0: "Signature scheme"
(symmetric, ``v1``) and "Webhook headers".
"""

import base64
import binascii
import hmac
import math
import ssl
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Final, Self

import httpx

from sealserve.addresses import is_loopback
from sealserve.broker.audit_entry import clean
from sealserve.broker.codes import BrokerCode
from sealserve.broker.reloaded import Reloaded
from sealserve.ca_file import trust_only
from sealserve.errors import SealserveError, UnavailableError
from sealserve.http_answer import HttpFailedError, HttpSlowError, no_cookies, request
from sealserve.private_file import read_private
from sealserve.regular_file import InputFileError
from sealserve.secret import SecretBytes

PREFIX: Final = "whsec_"
"""The prefix of a signing secret in its file."""
SHORTEST: Final = 24
LONGEST: Final = 64
"""The limits on the length of a secret, in bytes, from the specification."""
SECRET: Final = "signing secret"  # noqa: S105  # not a secret
"""The name of the secrets in the log and in the metrics."""
_MOST_SECRETS: Final = 4
_LONGEST_SECONDS: Final = 9  # digits of a Retry-After, about 30 years
_LONGEST_DATE: Final = 64
_LARGEST_FILE: Final = 1024
_SECONDS: Final = 10.0  # of one attempt, until the headers of the reply are complete
_RETRIED: Final = frozenset({httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_EARLY, httpx.codes.TOO_MANY_REQUESTS})


class NotDeliveredError(UnavailableError):
    """The receiver of the broker's notifications is unreachable, or did not accept a notification."""

    code = "broker.notification-not-delivered"
    retry: bool = True
    """Whether a later attempt may succeed."""
    retry_after: float | None = None
    """The seconds until the receiver accepts the next attempt, if its reply states them. The number has no limit."""


class Receiver:
    """The receiver of signed requests. One thread may use it.

    Args:
        url: An ``https`` URL without user information. ``http`` is permitted only for a loopback address.
        secret_file: A file with mode 0600. Each line is a secret. Each request has a signature for each secret, so that
            a secret can be replaced without an interruption. `secrets` loads the file again if it changes.
        ca_file: The CA certificate for the receiver's certificate, PEM. `None` means the system's CA certificates.
        seconds: The time limit of a request.
        clock: Returns the current time.

    Raises:
        InputError: `broker.notification-settings` if the URL, the content of a file or the CA certificate is invalid.
        PrivateFileExposedError: Other users can read or write ``secret_file``.
        PrivateFileUnreadableError: ``secret_file`` cannot be read.
    """

    def __init__(
        self,
        url: str,
        *,
        secret_file: Path,
        ca_file: Path | None = None,
        seconds: float = _SECONDS,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._url = _checked(url)
        self._name = f"{self._url.scheme}://{self._url.netloc.decode('ascii')}"  # a path may contain a credential
        self._seconds, self._clock = seconds, clock
        context = _trust(ca_file)
        self.secrets: Final = Reloaded(partial(read_secrets, secret_file), what=SECRET, files=(secret_file,))
        """The newest valid secrets. The caller polls it."""
        self._http = httpx.Client(
            timeout=seconds,
            follow_redirects=False,  # never send a notification to another server
            trust_env=not is_loopback(self._url.host),  # use the proxies of the environment
            verify=context,
            cookies=no_cookies(),
            headers={"User-Agent": "sealserve"},
        )

    def send(self, message_id: str, body: bytes) -> int:
        """Send one message, and return the HTTP status of the reply. The body of the reply is never read.

        Args:
            message_id: The id of the message, the same for each attempt. Must not contain a full stop.
            body: A JSON document.

        Raises:
            NotDeliveredError: The receiver is unreachable, or replied with a status that is not 2xx.
        """
        # The timestamp is the time of the attempt, so that a receiver can reject a replayed request.
        timestamp = int(self._clock().timestamp())
        headers = {
            "Content-Type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(self.secrets.value, message_id, timestamp, body),
        }
        try:
            with request(self._http, "POST", self._url, content=body, headers=headers, seconds=self._seconds) as answer:
                status, retry_after = answer.status, answer.headers.get("Retry-After", "")
        except (HttpFailedError, HttpSlowError) as error:
            raise NotDeliveredError(
                f"{self._name} did not accept a notification: {clean(error.message)}",
                hint="Check that the receiver is running, and that ca_file is the CA of its certificate.",
            ) from None  # the cause would contain the request
        if not httpx.codes.is_success(status):
            failed = NotDeliveredError(
                f"{self._name} did not accept a notification: expected an HTTP status from 200 to 299, got {status}.",
                hint="Check the URL and the signing secret, and read the receiver's log.",
            )
            failed.retry = httpx.codes.is_server_error(status) or status in _RETRIED
            failed.retry_after = seconds_until(retry_after, now=self._clock())
            raise failed
        return status

    def close(self) -> None:
        """Close the HTTP client, and wipe the secrets."""
        self._http.close()
        for secret in self.secrets.value:
            secret.wipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return self._name


def seconds_until(text: str, *, now: datetime) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks for, or `None` if it is invalid. See RFC 9110, 10.2.3.

    Args:
        text: The value: a number of seconds, or an HTTP date.
        now: The time of the reply.
    """
    if text.isascii() and text.isdecimal():
        return float(int(text)) if len(text) <= _LONGEST_SECONDS else math.inf
    if len(text) > _LONGEST_DATE:
        return None
    try:
        moment = parsedate_to_datetime(text)
        aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
        return max(0.0, (aware - now).total_seconds())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def sign(secrets: Sequence[SecretBytes], message_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of ``webhook-signature``: one HMAC-SHA-256 for each secret.

    Args:
        secrets: The secrets.
        message_id: The id of the message, without a full stop, because full stops separate the signed parts.
        timestamp: The time of the attempt, in seconds since 1970.
        body: The body of the request.
    """
    if "." in message_id:
        raise ValueError("the id of a message contains a full stop")
    signed = f"{message_id}.{timestamp}.".encode() + body
    codes = [hmac.digest(secret.reveal(), signed, "sha256") for secret in secrets]
    return " ".join(f"v1,{base64.b64encode(code).decode('ascii')}" for code in codes)


def read_secrets(path: Path) -> tuple[SecretBytes, ...]:
    """Return the secrets in a file, one for each line.

    Raises:
        InputError: `broker.notification-settings` if a line is not a secret. The message does not repeat the line.
    """
    with read_private(path, what=SECRET, limit=_LARGEST_FILE) as content:
        lines = content.reveal().decode("ascii", "replace").splitlines()
    if len(lines) > _MOST_SECRETS:
        raise _unusable(path, f"expected at most {_MOST_SECRETS} lines, got {len(lines)}.")
    return tuple(_secret(path, number, line.strip()) for number, line in enumerate(lines, start=1))


def _secret(path: Path, number: int, line: str) -> SecretBytes:
    try:
        value = base64.b64decode(line.removeprefix(PREFIX), validate=True) if line.startswith(PREFIX) else b""
    except (binascii.Error, ValueError):
        value = b""
    if not SHORTEST <= len(value) <= LONGEST:
        raise _unusable(path, f"expected {PREFIX} and {SHORTEST} to {LONGEST} bytes in base64 in line {number}.")
    return SecretBytes(value)


def _unusable(path: Path, reason: str) -> SealserveError:
    return BrokerCode.NOTIFICATION_SETTINGS.error(
        f"The signing secret in {path} is invalid: {reason}",
        hint=f"Write a new secret to the file: `{PREFIX}`, followed by the output of `openssl rand -base64 32`.",
    )


def _checked(text: str) -> httpx.URL:
    # The messages do not repeat the URL, because it may contain a credential.
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, UnicodeError):
        raise BrokerCode.NOTIFICATION_SETTINGS.error(
            "broker.notifications.url is not a valid URL.", hint="Use https://HOST/PATH."
        ) from None
    if url.scheme not in ("https", "http") or not url.host or not 0 < (url.port or 443) < 2**16:
        raise BrokerCode.NOTIFICATION_SETTINGS.error(
            "broker.notifications.url is invalid: expected https://HOST/PATH.", hint="Correct it in sealserve.toml."
        )
    if url.userinfo or url.fragment:
        raise BrokerCode.NOTIFICATION_SETTINGS.error(
            f"broker.notifications.url for {url.host} contains a user name, a password or a fragment.",
            hint="Remove it. The signature authenticates each notification.",
        )
    if url.scheme == "http" and not is_loopback(url.host):
        raise BrokerCode.NOTIFICATION_SETTINGS.error(
            f"broker.notifications.url for {url.host} does not use TLS, which would expose the broker's decisions.",
            hint="Use https. Plain http is permitted only for a loopback address.",
        )
    return url


def _trust(ca_file: Path | None) -> ssl.SSLContext:
    if ca_file is None:
        return ssl.create_default_context()
    try:
        return trust_only(ca_file)
    except InputFileError as error:
        raise BrokerCode.NOTIFICATION_SETTINGS.error(
            f"The CA certificate {ca_file} of the receiver of notifications cannot be read: {error.reason}."
        ) from error
    except (ssl.SSLError, ValueError) as error:
        raise BrokerCode.NOTIFICATION_SETTINGS.error(
            f"{ca_file} does not contain a PEM certificate: {error}.",
            hint="Set broker.notifications.ca_file to the CA certificate of the receiver.",
        ) from error
