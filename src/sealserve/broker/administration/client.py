"""The client of the administration API. It implements `Administration` over HTTPS.

An error of the broker is raised again with the same code, message and hint. The connection is TLS 1.3 from end to end:
a proxy is never used, and the broker's certificate must come from the CA in the administrator file.
"""

import os
import re
import ssl
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote, urlencode

import httpx
from pydantic import ValidationError

from sealserve.attestation.json_web_keys import JsonWebKeySet
from sealserve.attestation.secret_provisioning import SecretForm
from sealserve.broker.admin import KnownRelease, Status
from sealserve.broker.administration.administrator_file import AdministratorFile
from sealserve.broker.administration.documents import (
    RELEASE_PATTERN,
    AllPendingReply,
    ApprovedReply,
    PlatformReply,
    PlatformsReply,
    ReleaseReply,
    ReleasesReply,
    ReplyDocument,
    StatusReply,
)
from sealserve.broker.administration.interface import NamedPolicy, SentTest, TriedPolicy
from sealserve.broker.administration.log_documents import LogReply
from sealserve.broker.administration.policy_documents import LARGEST_POLICY, PolicyReply, TrialsReply
from sealserve.broker.administration.problem import ProblemReply
from sealserve.broker.administration.upkeep_documents import (
    CertificateReply,
    CollateralReply,
    SentTestReply,
    TokenKeysReply,
)
from sealserve.broker.approval_requests import Approved, Pending
from sealserve.broker.audit_selection import LogPage, Selection
from sealserve.broker.codes import BrokerCode
from sealserve.broker.platforms import EnrolledPlatform
from sealserve.broker.policy_trials import Trial
from sealserve.broker.releases import unknown
from sealserve.broker.server_identity import BrokerCertificate
from sealserve.broker.stored_collateral import StoredDocument
from sealserve.errors import SealserveError
from sealserve.http_answer import (
    HttpEncodingError,
    HttpFailedError,
    HttpSizeError,
    HttpSlowError,
    no_cookies,
    request,
)
from sealserve.memory_file import memory_file
from sealserve.pki.certificate import check_certificate
from sealserve.pki.codes import PkiCode
from sealserve.tcp_ports import LARGEST_PORT
from sealserve.terms import PlatformKind

_Reply = TypeVar("_Reply", bound=ReplyDocument)
_LARGEST: Final = 64 * 2**20
_SECONDS: Final = 660.0  # `allow` reads the whole release
_CONNECT: Final = 10.0
_PROXIES: Final = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


class RemoteAdministration:
    """The administration of a remote broker. Use it as a context manager.

    Args:
        url: ``https://HOST:PORT``.
        credentials: The administrator's credentials.
        now: The current time.

    Raises:
        InputError: `administration.url` if the URL is invalid.
        VerificationError: `certificate.expired` if the administrator's certificate has expired.
    """

    def __init__(self, url: str, credentials: AdministratorFile, *, now: datetime) -> None:
        self._url = _checked(url)
        try:
            check_certificate(credentials.identity.chain_pem, now, source="The administrator's certificate")
        except SealserveError as error:
            if error.code != PkiCode.CERTIFICATE_EXPIRED:
                raise
            raise PkiCode.CERTIFICATE_EXPIRED.error(
                error.message,
                hint="Ask the owner for a new administrator file: `sealserve broker admin issue`.",
            ) from error
        self._server_name = credentials.server_name
        self._http = httpx.Client(
            base_url=self._url,
            timeout=httpx.Timeout(_SECONDS, connect=_CONNECT),
            trust_env=False,
            cookies=no_cookies(),
            transport=_NamedTransport(_context(credentials), credentials.server_name),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def status(self) -> Status:
        """See `Administration.status`."""
        return self._call("GET", "/v1/status", StatusReply).value()

    def certificate(self) -> BrokerCertificate | None:
        """See `Administration.certificate`."""
        return self._call("GET", "/v1/certificate", CertificateReply).value()

    def releases(self) -> Sequence[KnownRelease]:
        """See `Administration.releases`."""
        return [item.value() for item in self._call("GET", "/v1/releases", ReleasesReply).releases]

    def release(self, name: str) -> KnownRelease:
        """See `Administration.release`."""
        return self._call("GET", f"/v1/releases/{_segment(name)}", ReleaseReply).value()

    def allow(self, name: str | None, *, reactivate: bool, secret_form: SecretForm | None = None) -> KnownRelease:
        """See `Administration.allow`. The release must be in the workspace of the broker's machine."""
        body: dict[str, object] = {"release": name, "reactivate": reactivate}
        if secret_form is not None:  # an older broker does not have this member
            body["secret_form"] = secret_form
        return self._call("POST", "/v1/releases", ReleaseReply, body).value()

    def drain(self, name: str, *, minutes: int) -> KnownRelease:
        """See `Administration.drain`."""
        return self._call("POST", f"/v1/releases/{_segment(name)}/drain", ReleaseReply, {"minutes": minutes}).value()

    def revoke(self, name: str) -> KnownRelease:
        """See `Administration.revoke`."""
        return self._call("POST", f"/v1/releases/{_segment(name)}/revoke", ReleaseReply).value()

    def platforms(self) -> Sequence[EnrolledPlatform]:
        """See `Administration.platforms`."""
        return [item.value() for item in self._call("GET", "/v1/platforms", PlatformsReply).platforms]

    def enrol_platform(self, platform_id: str, kind: PlatformKind | None, *, label: str) -> EnrolledPlatform:
        """See `Administration.enrol_platform`."""
        body = {"platform_id": platform_id, "platform": kind, "label": label}
        return self._call("POST", "/v1/platforms/enrol", PlatformReply, body).value()

    def withdraw_platform(self, platform_id: str, kind: PlatformKind | None) -> EnrolledPlatform:
        """See `Administration.withdraw_platform`."""
        body = {"platform_id": platform_id, "platform": kind}
        return self._call("POST", "/v1/platforms/withdraw", PlatformReply, body).value()

    def pending(self) -> Sequence[Pending]:
        """See `Administration.pending`."""
        return [item.value() for item in self._call("GET", "/v1/approvals/pending", AllPendingReply).pending]

    def approve(self, name: str, platform_id: str, *, minutes: int) -> Approved:
        """See `Administration.approve`."""
        body = {"platform_id": platform_id, "minutes": minutes}
        return self._call("POST", f"/v1/releases/{_segment(name)}/approve", ApprovedReply, body).value()

    def withdraw_approval(self, name: str, platform_id: str) -> Approved:
        """See `Administration.withdraw_approval`."""
        body = {"platform_id": platform_id}
        return self._call("POST", f"/v1/releases/{_segment(name)}/withdraw-approval", ApprovedReply, body).value()

    def log_page(self, selection: Selection, *, after: int, limit: int) -> LogPage:
        """See `Administration.log_page`. The reply is checked: each row follows the row before it."""
        found = self._call("GET", f"/v1/log?{_log_query(selection, after, limit)}", LogReply).value()
        numbers = [after, *(row.seq for row in found.rows), max(found.next, after)]
        in_order = all(first < second for first, second in pairwise(numbers[:-1])) and numbers[-2] <= numbers[-1]
        if not in_order or (found.next <= after < found.end):
            raise _odd("the rows of the audit log are not in order")
        return found

    def policy(self, name: str | None) -> NamedPolicy:
        """See `Administration.policy`."""
        if name is not None and not re.fullmatch(RELEASE_PATTERN, name):
            raise unknown(name)
        query = "" if name is None else f"?name={name}"
        return self._call("GET", f"/v1/policy{query}", PolicyReply).value()

    def try_policy(self, policy: TriedPolicy | None, *, since: datetime | None, early: bool) -> Sequence[Trial]:
        """See `Administration.try_policy`."""
        body: dict[str, object] = {"early": early}
        if since is not None:
            body["since"] = since.isoformat()
        if policy is not None and policy.file is not None:
            body["file"] = _policy_text(policy.file, policy.source)
        elif policy is not None:
            body["name"] = policy.name
        return [item.value() for item in self._call("POST", "/v1/policy/try", TrialsReply, body).trials]

    def token_keys(self) -> JsonWebKeySet:
        """See `Administration.token_keys`."""
        return self._call("GET", "/v1/token-keys", TokenKeysReply).value()

    def rotate_token_key(self, *, compromised: bool) -> JsonWebKeySet:
        """See `Administration.rotate_token_key`."""
        return self._call("POST", "/v1/token-keys/rotate", TokenKeysReply, {"compromised": compromised}).value()

    def collateral(self) -> Sequence[StoredDocument]:
        """See `Administration.collateral`."""
        return [item.value() for item in self._call("GET", "/v1/collateral", CollateralReply).documents]

    def refresh_collateral(self) -> Sequence[StoredDocument]:
        """See `Administration.refresh_collateral`."""
        return [item.value() for item in self._call("POST", "/v1/collateral/refresh", CollateralReply).documents]

    def test_notification(self) -> SentTest:
        """See `Administration.test_notification`."""
        return self._call("POST", "/v1/notifications/test", SentTestReply).value()

    def _call(self, method: str, path: str, kind: type[_Reply], body: dict[str, Any] | None = None) -> _Reply:
        try:
            with request(self._http, method, path, seconds=_SECONDS, json=body) as answer:
                status, content = answer.status, answer.body(_LARGEST)
        except HttpFailedError as error:
            raise self._unreachable(error.message) from None
        except (HttpSizeError, HttpSlowError, HttpEncodingError) as error:
            raise _odd(error.message.rstrip(".")) from error
        try:
            if status == httpx.codes.OK:
                return kind.model_validate_json(content)
            problem = ProblemReply.model_validate_json(content)
        except (ValidationError, RecursionError) as error:
            raise _odd(f"expected a document of the API, got HTTP status {status} with another content") from error
        raise problem.error()

    def _unreachable(self, reason: str) -> SealserveError:
        """Return the error for a failed connection. OpenSSL's reason tells which end rejected the other."""
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            why = "its certificate does not match" if "mismatch" in reason else "the certificate does not verify"
            return BrokerCode.ADMINISTRATION_UNTRUSTED.error(
                f"The server at {self._url} is not the owner's broker: {why} (expected the name {self._server_name}, "
                f"signed by the CA in the administrator file). {_ssl_reason(reason)}",
                hint="Check the address. If the owner replaced the broker's CA, ask for a new administrator file.",
            )
        if "ALERT" in reason.upper():
            return BrokerCode.ADMINISTRATION_REFUSED.error(
                f"The broker at {self._url} rejected the administrator's certificate. {_ssl_reason(reason)}",
                hint="Check that the port is broker.admin_port. If it is, ask the owner for a new administrator file: "
                "`sealserve broker admin issue`.",
            )
        proxy = any(os.environ.get(name) for name in _PROXIES)
        return BrokerCode.ADMINISTRATION_UNREACHABLE.error(
            f"The broker's administration port at {self._url} cannot be reached: {reason}",
            hint="Forward the port, for example with `ssh -L`: administration does not use the proxy in HTTPS_PROXY."
            if proxy
            else "Check the address, broker.admin_port and broker.admin_listen, and the firewall between the machines.",
        )


class _NamedTransport(httpx.HTTPTransport):
    """Verifies the broker's certificate for a fixed name, so that forwarded ports and IP addresses work as well."""

    def __init__(self, context: ssl.SSLContext, name: str) -> None:
        super().__init__(verify=context, trust_env=False)
        self._name = name

    def handle_request(self, request: httpx.Request) -> httpx.Response:  # as the base class
        request.extensions = {**request.extensions, "sni_hostname": self._name}
        return super().handle_request(request)


def _context(credentials: AdministratorFile) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=credentials.broker_ca.decode("ascii"))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    identity = credentials.identity
    with memory_file(identity.chain_pem) as chain, memory_file(identity.key_pem.reveal()) as key:
        context.load_cert_chain(chain, key, password=lambda: b"")
    return context


def _checked(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    is_root = not parsed.userinfo and not parsed.query and parsed.path in {"", "/"}
    if parsed.scheme != "https" or not parsed.host or (parsed.port or 1) > LARGEST_PORT or not is_root:
        raise BrokerCode.ADMINISTRATION_URL.error(
            f"The address of the broker is invalid: expected https://HOST:PORT, got {url[:200]!r}.",
            hint="Use the address and the port of broker.admin_port in the broker's sealserve.toml.",
        )
    return url.rstrip("/")


def _log_query(selection: Selection, after: int, limit: int) -> str:
    """Return the query of a request for rows. A release or label that no row can have is an error, as on the broker."""
    values: dict[str, object] = {"after": after, "limit": limit, "last": selection.last}
    if selection.since is not None:
        values["since"] = selection.since.isoformat()
    if selection.codes:
        values["code"] = ",".join(selection.codes)
    if selection.release is not None:
        values["release"] = _segment(selection.release)
    values["platform"] = selection.platform
    return urlencode({name: value for name, value in values.items() if value is not None}, quote_via=quote)


def _policy_text(content: bytes, source: str) -> str:
    if len(content) > LARGEST_POLICY:
        raise BrokerCode.ADMINISTRATION_SIZE.error(
            f"The policy file {source} is too large for a remote broker: expected at most {LARGEST_POLICY} bytes, "
            f"got {len(content)}."
        )
    return content.decode()


def _segment(name: str) -> str:
    """Return the name of a release as part of a path. No release has a name that would need an encoding."""
    if not re.fullmatch(RELEASE_PATTERN, name):
        raise unknown(name)
    return name


def _ssl_reason(reason: str) -> str:
    return f"TLS reported: {reason.partition('[')[2].partition(']')[0] or 'no reason'}."


def _odd(reason: str) -> SealserveError:
    return BrokerCode.ADMINISTRATION_REPLY.error(
        f"The reply of the broker is invalid: {reason}.",
        hint="Check that the address is the administration port of a broker with the same version of sealserve.",
    )
