"""The owner's broker: what it needs from the workspace, and what is allowed, drained and revoked there."""

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from sealserve.attestation.policy import AppraisalPolicy
from sealserve.attestation.tcb_policy import PRESETS
from sealserve.broker import admin, audit
from sealserve.broker.admin import KnownRelease, VerifiedChain
from sealserve.broker.audit import Head
from sealserve.broker.decision import Broker
from sealserve.broker.head_file import keep_head, kept_head
from sealserve.broker.keystore import KeyId
from sealserve.broker.metrics import MetricsServer, Observed
from sealserve.broker.releases import Release, ReleaseId, ReleaseUnknownError
from sealserve.broker.server import BrokerServer
from sealserve.broker.standing import ReleaseState, check_standing
from sealserve.deployment import Deployment
from sealserve.enclave.findings import Danger
from sealserve.errors import VerificationError
from sealserve.owner.attestation import open_verifier
from sealserve.owner.certificates import broker_certificate, show_certificates
from sealserve.owner.enclaves import verified_sigstructs
from sealserve.owner.owner import Owner
from sealserve.pki.certificate import CertifiedKey, describe
from sealserve.sealing.release import VerifiedRelease, read_verified_index, verify_release
from sealserve.sgx.reference_values import ReferenceValues
from sealserve.terms import PlatformKind
from sealserve.workspace import Workspace


@contextlib.contextmanager
def open_broker(workspace: Workspace, deployment: Deployment) -> Iterator[BrokerServer]:
    """Yield the deployment's broker, not started yet.

    What it trusts, see `sealserve.owner.attestation`.

    Raises:
        CertificateMissingError: The broker has no certificate yet.
    """
    identity = broker_certificate(workspace)
    owner = Owner.open(workspace)
    owner.create_audit_key()
    signer = owner.audit_signer()  # never the key of indexes: this process faces the network
    with contextlib.ExitStack() as stack:
        vault = stack.enter_context(owner.vault(create=True))
        verifier, collateral = stack.enter_context(open_verifier(workspace, deployment))
        keep = partial(keep_head, workspace.owner.audit_head, vault.database)
        broker = Broker(database=vault.database, keystore=vault.keystore, verifier=verifier, signer=signer, keep=keep)
        with vault.database.read() as connection:
            rows, _ = audit.head(connection)
        if rows > 0:  # what was written until now is kept, even if this process never ends in order
            broker.sign_head()
        if deployment.broker.metrics_port is not None:
            observed = Observed(
                decisions=broker.decisions,
                certificates=lambda: _certificate_ends(workspace, identity),
                collateral=collateral,
            )
            stack.enter_context(MetricsServer(observed, deployment.broker.metrics_port))
        yield BrokerServer(broker, identity=identity, listen=deployment.broker.listen, port=deployment.broker.port)


def _certificate_ends(workspace: Workspace, identity: CertifiedKey) -> Mapping[str, datetime]:
    """Return when each certificate ends: the broker's as it is served, which a renewed file does not change."""
    ends = {named.role: named.info.not_after for named in show_certificates(workspace)}
    return {**ends, "broker": describe(identity.chain_pem)[0].not_after}


def allow(
    workspace: Workspace,
    deployment: Deployment,
    folder: Path,
    *,
    now: datetime,
    reactivate: bool = False,
    keep_policy: bool = False,
    dangerous: Collection[Danger] = (),
) -> KnownRelease:
    """Verify a release, and let its enclaves have its key; see `register`.

    Raises:
        SealserveError: The release does not verify, or what `register` raises.
    """
    verified = verify_release(folder, Owner.open(workspace).index_signer().public_key())
    return register(
        workspace,
        deployment,
        verified,
        now=now,
        reactivate=reactivate,
        keep_policy=keep_policy,
        dangerous=dangerous,
    )


def register(
    workspace: Workspace,
    deployment: Deployment,
    verified: VerifiedRelease,
    *,
    now: datetime,
    reactivate: bool = False,
    keep_policy: bool = False,
    dangerous: Collection[Danger] = (),
) -> KnownRelease:
    """Let the enclaves of a release have its key: all that the owner built and signed into its ``enclave/`` folder.

    A release that is draining goes on draining, and none changes its policy, unless it is to be re-activated.

    Args:
        workspace: The owner's.
        deployment: Says which states of a platform are accepted.
        verified: The release.
        now: The time on the owner's clock.
        reactivate: Make a draining release active again, with the policy that the deployment describes now.
        keep_policy: That must be the policy that it is known with.
        dangerous: The classes of insecure settings that the enclaves' manifests may have.

    Raises:
        InputError: `broker.release-policy`: The release is known with another policy, and is not to be re-activated
            with this one.
        SealserveError: The enclaves do not verify, or the release is known with other values.
    """
    folder, owner_key = verified.folder, Owner.open(workspace).index_signer().public_key()
    references = {
        label: ReferenceValues.of_sigstruct(sigstruct)
        for label, sigstruct in verified_sigstructs(folder, verified.id, owner_key, dangerous=dangerous).items()
    }
    release = Release(
        release_id=ReleaseId(verified.id),
        name=folder.name,
        platform=PlatformKind.SIMULATED if verified.index.simulated else PlatformKind.SGX,
        key_id=KeyId(verified.index.key_id),
        policy=AppraisalPolicy(
            tcb=PRESETS[deployment.tcb.preset], enrolled_platforms_only=not verified.index.simulated
        ),
        created=verified.index.created_at,
    )
    with Owner.open(workspace).database() as database:
        return admin.allow(database, release, references, now=now, reactivate=reactivate, keep_policy=keep_policy)


def bring_back(workspace: Workspace, deployment: Deployment, verified: VerifiedRelease, *, now: datetime) -> bool:
    """Make a release active again that is to be served once more, if it is draining; return whether it was.

    Which one that is was the target's word, so its policy stays as it is.

    Raises:
        VerificationError: `policy.release-draining-ended`: Its deadline is over: only the owner's own word brings it
            back.
        InputError: `broker.release-policy`: The deployment describes another policy now: that, too, takes the owner's
            own word.
        VerificationError: `policy.release-revoked`: It is revoked.
    """
    found = _known(workspace, verified.id)
    if found is None or found.state is ReleaseState.ACTIVE:
        return False
    check_standing(found.state, found.deadline, now)
    register(workspace, deployment, verified, now=now, reactivate=True, keep_policy=True)
    return True


def retire(
    workspace: Workspace, deployment: Deployment, replaced: Iterable[str], *, by: Path, now: datetime
) -> Sequence[Release]:
    """Let releases end that a roll-out has replaced, after ``broker.drain_minutes``; return those that drain by this.

    Nothing ends if the new one does, or if ``drain_minutes`` is 0.

    Args:
        workspace: The owner's.
        deployment: Says how long restarts and a roll-back still get an old release's key.
        replaced: The names of the old ones, as the target tells them.
        by: The new one's folder.
        now: The time on the owner's clock.
    """
    minutes, names = deployment.broker.drain_minutes, list(replaced)
    if not (minutes and names):
        return []
    deadline = now + timedelta(minutes=minutes)
    with Owner.open(workspace).database() as database:
        return admin.retire(database, names, by=_release_id(workspace, by), deadline=deadline, now=now)


def draining_until(workspace: Workspace, folder: Path) -> datetime | None:
    """Return when a release ends, or None if it is not draining."""
    found = _known(workspace, _release_id(workspace, folder))
    return None if found is None else found.deadline


def has_ended(workspace: Workspace, folder: Path, *, now: datetime) -> bool:
    """Return whether the broker releases a release's key no more: it is revoked, or its draining has ended."""
    found = _known(workspace, _release_id(workspace, folder))
    if found is None:
        return False
    try:
        check_standing(found.state, found.deadline, now)
    except VerificationError:
        return True
    return False


def _known(workspace: Workspace, release_id: str) -> Release | None:
    with Owner.open(workspace).database() as database:
        try:
            return admin.find_release(database, release_id).release
        except ReleaseUnknownError:
            return None


def _release_id(workspace: Workspace, folder: Path) -> str:
    return read_verified_index(folder, Owner.open(workspace).index_signer().public_key()).sha256


def verify_log(workspace: Workspace, *, kept: Head | None = None) -> tuple[VerifiedChain, bool]:
    """Check the whole audit log, with the signed heads that are kept in the database and outside of it.

    Args:
        workspace: The owner's.
        kept: A head that was kept on another machine.

    Returns:
        The log, and whether any head was kept outside of the database. Without one, nothing shows that rows at the
        end, or the whole database, were deleted.

    Raises:
        SealserveError: What `sealserve.broker.audit.verify_chain` and `sealserve.broker.head_file.kept_head` raise.
    """
    heads = tuple(head for head in (kept_head(workspace.owner.audit_head), kept) if head is not None)
    owner = Owner.open(workspace)
    key, *former = owner.audit_keys()
    with owner.database() as database:
        summary = admin.verify_log(database, key, former_keys=former, kept=heads)
    return summary, bool(heads)


def sign_log(workspace: Workspace, *, now: datetime) -> Head:
    """Sign the end of the audit log, keep the head outside of the database too, and return it."""
    owner = Owner.open(workspace)
    owner.create_audit_key()
    with owner.database(create=True) as database:
        with database.write() as connection:
            head = audit.sign_head(connection, owner.audit_signer(), now=now)
        keep_head(workspace.owner.audit_head, database, head)
    return head
