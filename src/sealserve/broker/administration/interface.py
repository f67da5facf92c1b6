"""The interface of the broker's administration. The commands use it, whether the broker is local or remote.

`sealserve.owner.administration` implements it on the broker's database. `sealserve.broker.administration.client`
implements it over HTTPS, and the server at the other end calls the first implementation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sealserve.attestation.json_web_keys import JsonWebKeySet
from sealserve.attestation.policy import AppraisalPolicy
from sealserve.attestation.secret_provisioning import SecretForm
from sealserve.broker.admin import KnownRelease, Status
from sealserve.broker.approval_requests import Approved, Pending
from sealserve.broker.audit_selection import LogPage, Selection
from sealserve.broker.platforms import EnrolledPlatform
from sealserve.broker.policy_trials import Trial
from sealserve.broker.server_identity import BrokerCertificate
from sealserve.broker.stored_collateral import StoredDocument
from sealserve.terms import PlatformKind


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedPolicy:
    """A policy, and the kind of platform that it applies to."""

    policy: AppraisalPolicy
    platform: PlatformKind

    @property
    def simulated(self) -> bool:
        """Whether the policy applies to simulated platforms."""
        return self.platform is PlatformKind.SIMULATED


@dataclass(frozen=True, slots=True, kw_only=True)
class TriedPolicy:
    """The policy of a trial: a preset or a registered release, or the content of a policy file.

    Args:
        name: The name of a preset or of a registered release.
        file: The content of a policy file.
        source: The name of this file in messages.
    """

    name: str | None = None
    file: bytes | None = None
    source: str = "the policy file"


@dataclass(frozen=True, slots=True, kw_only=True)
class SentTest:
    """A test notification that the receiver accepted.

    Args:
        receiver: The receiver's scheme, host and port.
        status: The HTTP status of its reply.
    """

    receiver: str
    status: int


class Administration(Protocol):
    """The operations of an administrator. Each change appends a row to the audit log, with the administrator's name.

    Every method raises a `SealserveError` with the same code in both implementations. The clock of the broker's machine
    decides on deadlines.
    """

    def status(self) -> Status:
        """Return a summary of the broker's database."""

    def certificate(self) -> BrokerCertificate | None:
        """Return the state of the broker's certificate, or `None` if it has no certificate."""

    def releases(self) -> Sequence[KnownRelease]:
        """Return all registered releases, oldest first."""

    def release(self, name: str) -> KnownRelease:
        """Return the release with this name, id or id prefix.

        Raises:
            ReleaseUnknownError: No release matches.
            ReleaseAmbiguousError: Several releases match.
        """

    def allow(self, name: str | None, *, reactivate: bool, secret_form: SecretForm | None = None) -> KnownRelease:
        """Verify a built release in the broker's workspace, and register its enclaves.

        Args:
            name: The name of the release's folder, or `None` for the newest release.
            reactivate: Make a draining release active again, with the TCB policy of the broker's ``sealserve.toml``.
            secret_form: The form in which the enclaves receive the key. `None`: as built, as registered, or raw.
        """

    def drain(self, name: str, *, minutes: int) -> KnownRelease:
        """Drain a release: the broker stops releasing its key after ``minutes`` minutes."""

    def revoke(self, name: str) -> KnownRelease:
        """Revoke a release permanently."""

    def platforms(self) -> Sequence[EnrolledPlatform]:
        """Return the enrolled platforms, oldest first."""

    def enrol_platform(self, platform_id: str, kind: PlatformKind | None, *, label: str) -> EnrolledPlatform:
        """Enroll a platform. `None` means the kind of platform in the broker's ``sealserve.toml``."""

    def withdraw_platform(self, platform_id: str, kind: PlatformKind | None) -> EnrolledPlatform:
        """Withdraw the enrollment of a platform. `None` means the kind in the broker's ``sealserve.toml``."""

    def pending(self) -> Sequence[Pending]:
        """Return the platforms that wait for an approval, newest request first."""

    def approve(self, name: str, platform_id: str, *, minutes: int) -> Approved:
        """Approve a platform for a release. The approval expires after ``minutes`` minutes."""

    def withdraw_approval(self, name: str, platform_id: str) -> Approved:
        """Withdraw the approval of a platform for a release."""

    def log_page(self, selection: Selection, *, after: int, limit: int) -> LogPage:
        """Return at most ``limit`` rows of the audit log that match ``selection`` and follow row ``after``."""

    def policy(self, name: str | None) -> NamedPolicy:
        """Return the policy of a preset or of a registered release. `None`: the policy of ``sealserve.toml``.

        Raises:
            InputError: `policy.unknown` if nothing has this name.
        """

    def try_policy(self, policy: TriedPolicy | None, *, since: datetime | None, early: bool) -> Sequence[Trial]:
        """Report which platforms a policy would refuse.

        Args:
            policy: The policy. `None` means the registered policy of each release.
            since: Ignore keys that were released before this time.
            early: Use the TCB status of the early update channel.
        """

    def token_keys(self) -> JsonWebKeySet:
        """Return the public keys that verify attestation results, the current key first."""

    def rotate_token_key(self, *, compromised: bool) -> JsonWebKeySet:
        """Replace the key that signs attestation results, and return the new set of public keys.

        Args:
            compromised: Whether to remove all former keys from the set.
        """

    def collateral(self) -> Sequence[StoredDocument]:
        """Return the stored documents of collateral."""

    def refresh_collateral(self) -> Sequence[StoredDocument]:
        """Download each stored document of collateral again, and return the documents.

        Raises:
            SealserveError: A download failed. The other documents are downloaded nevertheless.
        """

    def test_notification(self) -> SentTest:
        """Send a test notification to the configured receiver.

        Raises:
            NotDeliveredError: The receiver is unreachable, or did not accept the notification.
        """
