"""The JSON documents of the administration API, and their conversion from and to the broker's values.

Unknown members of a request are errors. Unknown members of a reply are ignored, so that an older client works with a
newer broker. Times are ISO 8601 with a time zone, and bytes are hexadecimal.
"""

import json
from datetime import timedelta
from typing import Annotated, Any, Final, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from sealserve.attestation.claims import Measurement
from sealserve.attestation.policy import AppraisalPolicy
from sealserve.attestation.secret_provisioning import SecretForm
from sealserve.broker.admin import KnownRelease, Status
from sealserve.broker.approval_requests import LONGEST, Approved, Pending
from sealserve.broker.keystore import KeyId
from sealserve.broker.platforms import EnrolledPlatform
from sealserve.broker.releases import Reference, Release, ReleaseId
from sealserve.broker.standing import ReleaseState
from sealserve.terms import PlatformKind

RELEASE_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
"""The name of a release, its id, or the beginning of its id."""
PLATFORM_PATTERN: Final = r"^[0-9a-f]{32}$"
LARGEST_SEQ: Final = 2**53 - 1
"""The largest integer that every JSON parser represents exactly."""


LABEL_PATTERN: Final = r"^[^\x00-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]*$"
"""Text without control characters and without characters that hide or reorder text in a terminal."""


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Count = Annotated[int, Field(ge=0)]


class RequestDocument(BaseModel):
    """The body or the query of a request."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ReplyDocument(BaseModel):
    """The body of a reply, or a part of it."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, use_attribute_docstrings=True, json_schema_serialization_defaults_required=True
    )


class AllowRequest(RequestDocument):
    """The release to register."""

    release: Annotated[str, Field(pattern=RELEASE_PATTERN)] | None = None
    """The release's name. By default, the newest release in the broker's workspace."""
    reactivate: Annotated[bool, Field(strict=True)] = False
    """Whether a draining release becomes active again, with the TCB policy of the broker's sealserve.toml."""
    secret_form: SecretForm | None = None
    """The form in which enclaves receive the key. By default, as built, as registered, or raw."""


class DrainRequest(RequestDocument):
    """The time until the deadline."""

    minutes: Annotated[int, Field(strict=True, ge=1, le=10**6)] = 60
    """Minutes until the broker stops releasing the key, by the broker's clock."""


class EnrolRequest(RequestDocument):
    """The platform to enroll."""

    platform_id: Annotated[str, Field(pattern=PLATFORM_PATTERN)]
    platform: PlatformKind | None = None
    """The kind of platform. By default, the kind in the broker's sealserve.toml."""
    label: Annotated[str, Field(max_length=64, pattern=LABEL_PATTERN)] = ""
    """The name of the machine for people: printable characters."""


class WithdrawRequest(RequestDocument):
    """The platform whose enrollment ends."""

    platform_id: Annotated[str, Field(pattern=PLATFORM_PATTERN)]
    platform: PlatformKind | None = None
    """The kind of platform. By default, the kind in the broker's sealserve.toml."""


class ApproveRequest(RequestDocument):
    """The platform to approve, and the validity of the approval."""

    platform_id: Annotated[str, Field(pattern=PLATFORM_PATTERN)]
    minutes: Annotated[int, Field(strict=True, ge=1, le=LONGEST // timedelta(minutes=1))] = 30 * 24 * 60
    """Minutes until the approval expires, by the broker's clock."""


class WithdrawApprovalRequest(RequestDocument):
    """The platform whose approval ends."""

    platform_id: Annotated[str, Field(pattern=PLATFORM_PATTERN)]


class EnclaveReply(ReplyDocument):
    """An enclave that may receive the key of a release."""

    label: str
    measurement: Annotated[str, Field(pattern=r"^([0-9a-f]{2}){1,64}$")]
    reference: dict[str, Any]
    """The reference values, in the format of their kind of evidence."""


class ReleaseReply(ReplyDocument):
    """A registered release."""

    release_id: Sha256
    name: str
    platform: PlatformKind
    key_id: str
    state: ReleaseState
    deadline: AwareDatetime | None
    created: AwareDatetime
    policy: dict[str, Any]
    """The appraisal policy of the release."""
    secret_form: SecretForm = SecretForm.RAW
    """The form in which enclaves receive the key."""
    enclaves: list[EnclaveReply]

    @classmethod
    def of(cls, known: KnownRelease) -> Self:
        """Convert a registered release."""
        release = known.release
        return cls(
            release_id=release.release_id,
            name=release.name,
            platform=release.platform,
            key_id=release.key_id,
            state=release.state,
            deadline=release.deadline,
            created=release.created,
            policy=json_document(release.policy.to_json()),
            secret_form=release.secret_form,
            enclaves=[
                EnclaveReply(label=item.label, measurement=item.measurement.hex(), reference=json.loads(item.values))
                for item in known.enclaves
            ],
        )

    def value(self) -> KnownRelease:
        """Return the registered release that the document describes."""
        release = Release(
            release_id=ReleaseId(self.release_id),
            name=self.name,
            platform=self.platform,
            key_id=KeyId(self.key_id),
            policy=AppraisalPolicy.from_json(json_text(self.policy)),
            created=self.created,
            state=self.state,
            deadline=self.deadline,
            secret_form=self.secret_form,
        )
        references = (
            Reference(
                label=item.label,
                measurement=Measurement(bytes.fromhex(item.measurement)),
                values=json_text(item.reference),
            )
            for item in self.enclaves
        )
        return KnownRelease(release=release, enclaves=tuple(references))


class ReleasesReply(ReplyDocument):
    """All registered releases, oldest first."""

    releases: list[ReleaseReply]


class PlatformReply(ReplyDocument):
    """An enrolled platform, or a former enrollment."""

    platform: PlatformKind
    platform_id: str
    label: str
    enrolled: AwareDatetime

    @classmethod
    def of(cls, enrolled: EnrolledPlatform) -> Self:
        """Convert an enrolled platform."""
        return cls(
            platform=enrolled.platform,
            platform_id=enrolled.platform_id,
            label=enrolled.label,
            enrolled=enrolled.enrolled,
        )

    def value(self) -> EnrolledPlatform:
        """Return the enrolled platform that the document describes."""
        return EnrolledPlatform(
            platform=self.platform, platform_id=self.platform_id, label=self.label, enrolled=self.enrolled
        )


class PlatformsReply(ReplyDocument):
    """The enrolled platforms, oldest first."""

    platforms: list[PlatformReply]


class PendingReply(ReplyDocument):
    """A platform that waits for an approval."""

    release_id: Sha256
    release: str
    """The release's name."""
    platform: PlatformKind
    platform_id: str
    tcb_status: str
    first: AwareDatetime
    """The first recorded request since the last change of the approval."""
    last: AwareDatetime
    """The newest recorded request."""
    count: _Count
    """The number of recorded requests since the last change of the approval."""
    network: str
    """The network of the newest request."""

    @classmethod
    def of(cls, pending: Pending) -> Self:
        """Convert a waiting platform."""
        return cls(**{name: getattr(pending, name) for name in cls.model_fields})

    def value(self) -> Pending:
        """Return the waiting platform that the document describes."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return Pending(**values | {"release_id": ReleaseId(self.release_id)})


class AllPendingReply(ReplyDocument):
    """The platforms that wait for an approval, newest request first."""

    pending: list[PendingReply]


class ApprovedReply(ReplyDocument):
    """An approval, or a withdrawn approval."""

    release_id: Sha256
    release: str
    """The release's name."""
    required: bool
    """Whether the release requires approvals."""
    platform: PlatformKind
    platform_id: str
    approved: AwareDatetime
    until: AwareDatetime

    @classmethod
    def of(cls, approved: Approved) -> Self:
        """Convert an approval."""
        return cls(**{name: getattr(approved, name) for name in cls.model_fields})

    def value(self) -> Approved:
        """Return the approval that the document describes."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return Approved(**values | {"release_id": ReleaseId(self.release_id)})


class StatusReply(ReplyDocument):
    """A summary of the broker's database."""

    database: str
    keys: _Count
    releases: dict[str, _Count]
    decisions: dict[str, _Count]
    refusals: dict[str, _Count]
    evaluation_floor: dict[str, _Count]
    audit_rows: _Count
    audit_head: Sha256

    @classmethod
    def of(cls, status: Status) -> Self:
        """Convert a summary."""
        return cls(**{name: getattr(status, name) for name in cls.model_fields})

    def value(self) -> Status:
        """Return the summary that the document describes."""
        return Status(**{name: getattr(self, name) for name in type(self).model_fields})


def json_document(text: str) -> dict[str, Any]:
    """Return the JSON object that a value of the broker is stored as."""
    found = json.loads(text)
    assert isinstance(found, dict)  # noqa: S101  # each of these values is an object
    return found


def json_text(value: object) -> str:
    """Return the text with which the broker stores a JSON object."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
