"""The operations of the administration API: method, path, documents, and the call of `Administration`.

The server, the OpenAPI description and the tests of the roles read this table. `sealserve.broker.administration.roles`
states who may use an operation.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, cast
from urllib.parse import parse_qsl

from pydantic import ValidationError

from sealserve.broker.administration.documents import (
    LARGEST_SEQ,
    RELEASE_PATTERN,
    AllowRequest,
    AllPendingReply,
    ApprovedReply,
    ApproveRequest,
    DrainRequest,
    EnrolRequest,
    PendingReply,
    PlatformReply,
    PlatformsReply,
    ReleaseReply,
    ReleasesReply,
    ReplyDocument,
    RequestDocument,
    StatusReply,
    WithdrawApprovalRequest,
    WithdrawRequest,
)
from sealserve.broker.administration.interface import Administration, TriedPolicy
from sealserve.broker.administration.log_documents import LogQuery, LogReply
from sealserve.broker.administration.policy_documents import (
    LARGEST_POLICY,
    PolicyQuery,
    PolicyReply,
    TrialReply,
    TrialsReply,
    TryPolicyRequest,
)
from sealserve.broker.administration.upkeep_documents import (
    CertificateReply,
    CollateralReply,
    RotateTokenKeyRequest,
    SentTestReply,
    StoredDocumentReply,
    TokenKeysReply,
)
from sealserve.broker.codes import BrokerCode
from sealserve.broker.stored_collateral import StoredDocument
from sealserve.errors import InputError, SealserveError

RELEASE: Final = "release"
"""The name of the path parameter for a release."""
_SEGMENT: Final = RELEASE_PATTERN.strip("^$")
_MOST_PARAMETERS: Final = 8


class MethodNotAllowedError(InputError):
    """The path of the administration API does not support the HTTP method."""

    code = "administration.method"

    def __init__(self, allowed: Sequence[str]) -> None:
        super().__init__(
            f"The path does not support this HTTP method: expected {' or '.join(allowed)}.",
            hint="Compare the request with the OpenAPI description, docs/reference/administration-openapi.json.",
        )
        self.allowed = allowed


@dataclass(frozen=True, kw_only=True)
class Operation:
    """An operation of the API.

    Args:
        name: The operation's name (``operationId``).
        summary: A sentence for the description.
        method: ``GET`` or ``POST``.
        path: The path, with ``{release}`` for a release.
        reply: The document of a successful reply.
        body: The document in the request's body, or `None` if the operation has no body.
        query: The document in the request's query, or `None` if the operation has no query.
        call: Calls the administration with the release and the document of the body or the query.
        slow: Whether the operation can take many seconds. Only one of them runs at a time, so that they cannot delay
            a revocation.
        largest: The maximum size of the body in bytes. `None` means the server's limit.
    """

    name: str
    summary: str
    method: str
    path: str
    reply: type[ReplyDocument]
    body: type[RequestDocument] | None = None
    query: type[RequestDocument] | None = None
    call: Callable[[Administration, str, Any], ReplyDocument]
    slow: bool = False
    largest: int | None = None

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The regular expression of the path. It has no percent-encoding, so a path has exactly one spelling."""
        return re.compile(self.path.replace("{release}", f"(?P<{RELEASE}>{_SEGMENT})"))

    def read(self, query: str, content: bytes) -> RequestDocument | None:
        """Parse the query and the body of a request.

        Raises:
            InputError: `administration.request` if one of them does not match the operation's documents.
        """
        if self.query is None and query:
            raise refused("the query", "expected no query")
        if self.body is None and content:
            raise refused("the body", "expected no body")
        if self.query is not None:
            return _validated(self.query, "the query", _parameters(query))
        if self.body is not None:
            return _validated(self.body, "the body", _json_object(content or b"{}"))
        return None


def _try_policy(administration: Administration, body: TryPolicyRequest) -> TrialsReply:
    policy = None if body.name is None and body.file is None else TriedPolicy(
        name=None if body.file is not None else body.name, file=None if body.file is None else body.file.encode()
    )  # fmt: skip
    found = administration.try_policy(policy, since=body.since, early=body.early)
    return TrialsReply(trials=[TrialReply.of(trial) for trial in found])


def _collateral(found: Sequence[StoredDocument]) -> CollateralReply:
    return CollateralReply(documents=[StoredDocumentReply.of(item) for item in found])


OPERATIONS: Final = (
    Operation(
        name="get_status", summary="Return a summary of the broker's database", method="GET", path="/v1/status",
        reply=StatusReply, call=lambda broker, _, __: StatusReply.of(broker.status()),
    ),
    Operation(
        name="list_releases", summary="List the registered releases, oldest first", method="GET", path="/v1/releases",
        reply=ReleasesReply,
        call=lambda broker, _, __: ReleasesReply(releases=[ReleaseReply.of(known) for known in broker.releases()]),
    ),
    Operation(
        name="allow_release", summary="Register the enclaves of a release that the owner built and signed",
        method="POST", path="/v1/releases", reply=ReleaseReply, body=AllowRequest,
        call=lambda broker, _, body: ReleaseReply.of(
            broker.allow(body.release, reactivate=body.reactivate, secret_form=body.secret_form)
        ),
    ),
    Operation(
        name="get_release", summary="Return a registered release", method="GET", path="/v1/releases/{release}",
        reply=ReleaseReply, call=lambda broker, name, _: ReleaseReply.of(broker.release(name)),
    ),
    Operation(
        name="drain_release", summary="Stop releasing the key of a release after a deadline", method="POST",
        path="/v1/releases/{release}/drain", reply=ReleaseReply, body=DrainRequest,
        call=lambda broker, name, body: ReleaseReply.of(broker.drain(name, minutes=body.minutes)),
    ),
    Operation(
        name="revoke_release", summary="Revoke a release permanently", method="POST",
        path="/v1/releases/{release}/revoke", reply=ReleaseReply,
        call=lambda broker, name, _: ReleaseReply.of(broker.revoke(name)),
    ),
    Operation(
        name="list_platforms", summary="List the enrolled platforms, oldest first", method="GET", path="/v1/platforms",
        reply=PlatformsReply,
        call=lambda broker, _, __: PlatformsReply(platforms=[PlatformReply.of(item) for item in broker.platforms()]),
    ),
    Operation(
        name="enrol_platform", summary="Enroll a platform, or change its label", method="POST",
        path="/v1/platforms/enrol", reply=PlatformReply, body=EnrolRequest,
        call=lambda broker, _, body: PlatformReply.of(
            broker.enrol_platform(body.platform_id, body.platform, label=body.label)
        ),
    ),
    Operation(
        name="withdraw_platform", summary="Withdraw the enrollment of a platform", method="POST",
        path="/v1/platforms/withdraw", reply=PlatformReply, body=WithdrawRequest,
        call=lambda broker, _, body: PlatformReply.of(broker.withdraw_platform(body.platform_id, body.platform)),
    ),
    Operation(
        name="list_pending", summary="List the platforms that wait for an approval, newest request first", method="GET",
        path="/v1/approvals/pending", reply=AllPendingReply,
        call=lambda broker, _, __: AllPendingReply(pending=[PendingReply.of(item) for item in broker.pending()]),
    ),
    Operation(
        name="approve_platform", summary="Approve a platform for a release", method="POST",
        path="/v1/releases/{release}/approve", reply=ApprovedReply, body=ApproveRequest,
        call=lambda broker, name, body: ApprovedReply.of(broker.approve(name, body.platform_id, minutes=body.minutes)),
    ),
    Operation(
        name="withdraw_approval", summary="Withdraw the approval of a platform for a release", method="POST",
        path="/v1/releases/{release}/withdraw-approval", reply=ApprovedReply, body=WithdrawApprovalRequest,
        call=lambda broker, name, body: ApprovedReply.of(broker.withdraw_approval(name, body.platform_id)),
    ),
    Operation(
        name="read_log", summary="Return rows of the audit log, oldest first", method="GET", path="/v1/log",
        reply=LogReply, query=LogQuery,
        call=lambda broker, _, query: LogReply.of(
            broker.log_page(query.selection(), after=query.after, limit=query.limit)
        ),
    ),
    Operation(
        name="get_certificate", summary="Return the state of the broker's certificate", method="GET",
        path="/v1/certificate", reply=CertificateReply,
        call=lambda broker, _, __: CertificateReply.of(broker.certificate()),
    ),
    Operation(
        name="get_policy", summary="Return a policy", method="GET", path="/v1/policy", reply=PolicyReply,
        query=PolicyQuery, call=lambda broker, _, query: PolicyReply.of(broker.policy(query.name)),
    ),
    Operation(
        name="try_policy", summary="Report which platforms a policy would refuse", method="POST",
        path="/v1/policy/try", reply=TrialsReply, body=TryPolicyRequest, slow=True, largest=8 * LARGEST_POLICY,
        call=lambda broker, _, body: _try_policy(broker, body),
    ),
    Operation(
        name="list_token_keys", summary="Return the public keys that verify attestation results, as a JWK set",
        method="GET", path="/v1/token-keys", reply=TokenKeysReply,
        call=lambda broker, _, __: TokenKeysReply.of(broker.token_keys()),
    ),
    Operation(
        name="rotate_token_key", summary="Replace the key that signs attestation results", method="POST",
        path="/v1/token-keys/rotate", reply=TokenKeysReply, body=RotateTokenKeyRequest,
        call=lambda broker, _, body: TokenKeysReply.of(broker.rotate_token_key(compromised=body.compromised)),
    ),
    Operation(
        name="list_collateral", summary="List the stored documents of collateral", method="GET",
        path="/v1/collateral", reply=CollateralReply, call=lambda broker, _, __: _collateral(broker.collateral()),
    ),
    Operation(
        name="refresh_collateral", summary="Download each stored document of collateral again", method="POST",
        path="/v1/collateral/refresh", reply=CollateralReply, slow=True,
        call=lambda broker, _, __: _collateral(broker.refresh_collateral()),
    ),
    Operation(
        name="test_notification", summary="Send a test notification to the configured receiver", method="POST",
        path="/v1/notifications/test", reply=SentTestReply, slow=True,
        call=lambda broker, _, __: SentTestReply.of(broker.test_notification()),
    ),
)  # fmt: skip
"""All operations. An operation that is not in the table of roles is refused."""


def find(method: str, path: str) -> tuple[Operation, str]:
    """Return the operation of a request, and the release in its path, or an empty text.

    Raises:
        InputError: `administration.path` if no operation has the path.
        MethodNotAllowedError: The operations with the path have other methods.
    """
    methods = []
    for operation in OPERATIONS:
        if (found := operation.pattern.fullmatch(path)) is not None:
            if operation.method == method:
                return operation, found.groupdict().get(RELEASE, "")
            methods.append(operation.method)
    if methods:
        raise MethodNotAllowedError(methods)
    raise BrokerCode.ADMINISTRATION_PATH.error(
        "The administration API does not have this path.",
        hint="Compare the path with the OpenAPI description. An older broker does not have newer operations.",
    )


def refused(where: str, reason: str) -> SealserveError:
    """Return the error for a request that does not match the description. It does not quote the request."""
    return BrokerCode.ADMINISTRATION_REQUEST.error(
        f"The request is invalid: {where}: {reason}.",
        hint="Compare the request with the OpenAPI description, docs/reference/administration-openapi.json.",
    )


def _validated(kind: type[RequestDocument], where: str, value: Mapping[str, Any]) -> RequestDocument:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        known = [str(part) for part in first["loc"] if str(part) in kind.model_fields]
        place = f"{where}, {'.'.join(known)}" if known else where
        raise refused(place, first["msg"]) from error


def _json_object(content: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(
            content.decode(), object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_number
        )
    except (ValueError, RecursionError) as error:
        raise refused("the body", "expected one JSON object without duplicate names") from error
    if not isinstance(found, dict):
        raise refused("the body", "expected a JSON object")
    return found


def _parameters(query: str) -> Mapping[str, Any]:
    try:
        pairs = parse_qsl(
            query, keep_blank_values=True, strict_parsing=bool(query), errors="strict", max_num_fields=_MOST_PARAMETERS
        )
        return _unique(cast("list[tuple[str, Any]]", pairs))
    except ValueError as error:
        raise refused("the query", "expected NAME=VALUE pairs without duplicate names") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):  # two parsers would use different values
        raise ValueError("a name occurs twice")
    return found


def _number(text: str) -> int | float:
    """Return a JSON number. JSON Schema regards 5.0 as an integer."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) <= LARGEST_SEQ else value


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")
