"""The administration of the broker on its own database, for the commands of the owner and for the remote server."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sealserve.attestation.json_web_keys import JsonWebKeySet
from sealserve.attestation.secret_provisioning import SecretForm
from sealserve.broker import admin, approval_requests
from sealserve.broker.admin import Actor, KnownRelease, Status
from sealserve.broker.administration.interface import NamedPolicy, SentTest, TriedPolicy
from sealserve.broker.approval_requests import Approved, Pending
from sealserve.broker.audit_selection import LogPage, Selection
from sealserve.broker.database import Database
from sealserve.broker.platforms import EnrolledPlatform
from sealserve.broker.policy_trials import Trial
from sealserve.broker.server_identity import BrokerCertificate
from sealserve.broker.stored_collateral import StoredDocument
from sealserve.deployment import Deployment
from sealserve.enclave.findings import Danger
from sealserve.owner import (
    broker_certificate,
    collateral,
    notifications,
    policies,
    policy_trial,
    provisioning,
    releases,
)
from sealserve.owner.owner import Owner
from sealserve.owner.token_keys import published_keys
from sealserve.owner.token_rotation import rotate_recorded
from sealserve.terms import PlatformKind
from sealserve.workspace import Workspace


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class LocalAdministration:
    """Implements `sealserve.broker.administration.interface.Administration` on the database of a workspace.

    Args:
        workspace: The owner's workspace.
        described: Returns the deployment. It is called only by operations that need ``sealserve.toml``.
        actor: Who makes the changes, for the audit log.
        database: The open database. `None` means that each operation opens the database of the workspace.
        clock: Returns the current time.
        dangerous: Classes of insecure settings that the enclaves of `allow` may have. Always empty for a remote actor.
    """

    workspace: Workspace
    described: Callable[[], Deployment]
    actor: Actor = admin.OWNER
    database: Database | None = None
    clock: Callable[[], datetime] = _now
    dangerous: Collection[Danger] = ()

    def status(self) -> Status:
        """See `Administration.status`."""
        with self._open() as database:
            return admin.status(database)

    def certificate(self) -> BrokerCertificate | None:
        """See `Administration.certificate`."""
        return broker_certificate.state_of(self.workspace, self.described(), now=self.clock())

    def releases(self) -> Sequence[KnownRelease]:
        """See `Administration.releases`."""
        with self._open() as database:
            return admin.every_release(database)

    def release(self, name: str) -> KnownRelease:
        """See `Administration.release`."""
        with self._open() as database:
            return admin.find_release(database, name)

    def allow(self, name: str | None, *, reactivate: bool, secret_form: SecretForm | None = None) -> KnownRelease:
        """See `Administration.allow`. Only the owner, at this machine, may name a folder outside of the workspace."""
        parent = self.workspace.owner.releases
        by_owner = name is None or self.actor.name is None
        folder = releases.find(parent, name) if by_owner else releases.find_in(parent, str(name))
        return provisioning.allow(
            self.workspace,
            self.described(),
            folder,
            now=self.clock(),
            reactivate=reactivate,
            dangerous=self.dangerous,
            actor=self.actor,
            secret_form=secret_form,
        )

    def drain(self, name: str, *, minutes: int) -> KnownRelease:
        """See `Administration.drain`."""
        now = self.clock()
        with self._open() as database:
            deadline = now + timedelta(minutes=minutes)
            return admin.drain(database, name, deadline=deadline, now=now, actor=self.actor)

    def revoke(self, name: str) -> KnownRelease:
        """See `Administration.revoke`."""
        with self._open() as database:
            return admin.revoke(database, name, now=self.clock(), actor=self.actor)

    def platforms(self) -> Sequence[EnrolledPlatform]:
        """See `Administration.platforms`."""
        with self._open() as database:
            return admin.every_platform(database)

    def enrol_platform(self, platform_id: str, kind: PlatformKind | None, *, label: str) -> EnrolledPlatform:
        """See `Administration.enrol_platform`."""
        platform = kind or self.described().platform
        with self._open(create=True) as database:
            return admin.enrol_platform(
                database, platform, platform_id, label=label, now=self.clock(), actor=self.actor
            )

    def withdraw_platform(self, platform_id: str, kind: PlatformKind | None) -> EnrolledPlatform:
        """See `Administration.withdraw_platform`."""
        platform = kind or self.described().platform
        with self._open() as database:
            return admin.withdraw_platform(database, platform, platform_id, now=self.clock(), actor=self.actor)

    def pending(self) -> Sequence[Pending]:
        """See `Administration.pending`."""
        with self._open() as database:
            return approval_requests.pending(database, now=self.clock())

    def approve(self, name: str, platform_id: str, *, minutes: int) -> Approved:
        """See `Administration.approve`."""
        validity = timedelta(minutes=minutes)
        with self._open() as database:
            return approval_requests.approve(
                database, name, platform_id, validity=validity, now=self.clock(), actor=self.actor
            )

    def withdraw_approval(self, name: str, platform_id: str) -> Approved:
        """See `Administration.withdraw_approval`."""
        with self._open() as database:
            return approval_requests.withdraw(database, name, platform_id, now=self.clock(), actor=self.actor)

    def log_page(self, selection: Selection, *, after: int, limit: int) -> LogPage:
        """See `Administration.log_page`."""
        with self._open() as database:
            return admin.log_page(database, selection, after=after, limit=limit)

    def policy(self, name: str | None) -> NamedPolicy:
        """See `Administration.policy`. Only the owner, at this machine, may name a file."""
        found = policies.find(self.workspace, self.described(), name, files=self.actor.name is None)
        return NamedPolicy(policy=found.policy, platform=found.platform)

    def try_policy(self, policy: TriedPolicy | None, *, since: datetime | None, early: bool) -> Sequence[Trial]:
        """See `Administration.try_policy`."""
        deployment, now = self.described(), self.clock()
        found = None
        if policy is not None and policy.file is not None:
            found = policies.of_content(policy.file, deployment, source=policy.source)
        elif policy is not None:
            found = policies.find(self.workspace, deployment, policy.name, files=False)
        return policy_trial.run(self.workspace, deployment, found, now=now, since=since, early=early)

    def token_keys(self) -> JsonWebKeySet:
        """See `Administration.token_keys`."""
        return published_keys(self.workspace)

    def rotate_token_key(self, *, compromised: bool) -> JsonWebKeySet:
        """See `Administration.rotate_token_key`."""
        with self._open(create=True) as database:
            return rotate_recorded(
                self.workspace, database, compromised=compromised, now=self.clock(), actor=self.actor
            )

    def collateral(self) -> Sequence[StoredDocument]:
        """See `Administration.collateral`."""
        return collateral.stored(self.workspace)

    def refresh_collateral(self) -> Sequence[StoredDocument]:
        """See `Administration.refresh_collateral`."""
        if errors := collateral.refresh(self.workspace, self.described()):
            raise next(iter(errors.values()))
        return collateral.stored(self.workspace)

    def test_notification(self) -> SentTest:
        """See `Administration.test_notification`."""
        receiver, status = notifications.send_test(self.described())
        return SentTest(receiver=receiver, status=status)

    @contextlib.contextmanager
    def _open(self, *, create: bool = False) -> Iterator[Database]:
        owner = Owner.open(self.workspace)
        if self.database is None:
            with owner.database(create=create) as database:
                yield database
        else:
            yield self.database
            owner.keep_head(self.database)
