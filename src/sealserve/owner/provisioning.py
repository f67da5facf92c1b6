"""The owner's broker: open it with the files of the workspace, and register, drain and check releases in it."""

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
    """Yield the deployment's broker, before it is started.

    `sealserve.owner.attestation` defines the evidence that the broker accepts.

    Raises:
        CertificateMissingError: The broker's certificate does not exist yet.
    """
    identity = broker_certificate(workspace)
    owner = Owner.open(workspace)
    owner.create_audit_key()
    signer = owner.audit_signer()  # never the key that signs releases, because this process is exposed to the network
    with contextlib.ExitStack() as stack:
        vault = stack.enter_context(owner.vault(create=True))
        verifier, collateral = stack.enter_context(open_verifier(workspace, deployment))
        keep = partial(keep_head, workspace.owner.audit_head, vault.database)
        broker = Broker(database=vault.database, keystore=vault.keystore, verifier=verifier, signer=signer, keep=keep)
        with vault.database.read() as connection:
            rows, _ = audit.head(connection)
        if rows > 0:  # sign the existing rows now, because this process may be killed later
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
    """Return the expiry time of each certificate. For the broker, it is the certificate that is loaded in memory."""
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
    """Verify a release, and register its enclaves, so that they can receive its key; see `register`.

    Raises:
        SealserveError: The release does not verify, or `register` raises an error.
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
    """Register all enclaves in a release's ``enclave/`` folder with the broker, so that they can receive its key.

    Without ``reactivate``, a draining release continues to drain, and the policy of a registered release does not
    change.

    Args:
        workspace: The owner's workspace.
        deployment: Supplies the TCB policy.
        verified: The verified release.
        now: The time on the owner's clock.
        reactivate: Make a draining release active again, with the deployment's current policy.
        keep_policy: Raise an error if this policy differs from the registered policy.
        dangerous: Classes of insecure settings that the enclaves' manifests may have.

    Returns:
        The registered release with all its enclaves.

    Raises:
        InputError: `broker.release-policy`: The release is registered with another policy that may not be replaced.
        SealserveError: The enclaves do not verify, or the release is registered with other values.
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
    """Make a draining release active again for a roll-back, with its registered policy.

    The target, which is not trusted, names the release of a roll-back. A roll-back therefore never changes a policy,
    and never reactivates a release whose deadline has passed. For these, the owner runs `broker allow --reactivate`.

    Returns:
        Whether the release was draining.

    Raises:
        VerificationError: `policy.release-draining-ended`: The deadline of the release has passed.
        InputError: `broker.release-policy`: The deployment's current policy differs from the registered policy.
        VerificationError: `policy.release-revoked`: The release is revoked.
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
    """Drain the releases that a roll-out has replaced. Their deadline is ``broker.drain_minutes`` from now.

    Nothing is drained if the new release itself is draining, or if ``drain_minutes`` is 0.

    Args:
        workspace: The owner's workspace.
        deployment: Supplies ``broker.drain_minutes``: until the deadline, restarts and a roll-back still get the key.
        replaced: Names of the replaced releases, as reported by the target.
        by: Folder of the new release.
        now: The time on the owner's clock.

    Returns:
        The releases that this call drained.
    """
    minutes, names = deployment.broker.drain_minutes, list(replaced)
    if not (minutes and names):
        return []
    deadline = now + timedelta(minutes=minutes)
    with Owner.open(workspace).database() as database:
        return admin.retire(database, names, by=_release_id(workspace, by), deadline=deadline, now=now)


def draining_until(workspace: Workspace, folder: Path) -> datetime | None:
    """Return the deadline of a draining release, or None if the release is not draining."""
    found = _known(workspace, _release_id(workspace, folder))
    return None if found is None else found.deadline


def has_ended(workspace: Workspace, folder: Path, *, now: datetime) -> bool:
    """Return whether the broker no longer releases the key of a release: it is revoked, or its deadline has passed."""
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
    """Verify the whole audit log against the signed heads in the database and outside of it.

    Args:
        workspace: The owner's workspace.
        kept: A head that was stored on another machine, or None.

    Returns:
        A summary of the log, and whether a head outside of the database was used. Without such a head, the deletion of
        rows at the end, or of the whole database, cannot be detected.

    Raises:
        SealserveError: As `sealserve.broker.audit.verify_chain` and `sealserve.broker.head_file.kept_head`.
    """
    heads = tuple(head for head in (kept_head(workspace.owner.audit_head), kept) if head is not None)
    owner = Owner.open(workspace)
    key, *former = owner.audit_keys()
    with owner.database() as database:
        summary = admin.verify_log(database, key, former_keys=former, kept=heads)
    return summary, bool(heads)


def sign_log(workspace: Workspace, *, now: datetime) -> Head:
    """Sign the head of the audit log, store it in the database and outside of it, and return it."""
    owner = Owner.open(workspace)
    owner.create_audit_key()
    with owner.database(create=True) as database:
        with database.write() as connection:
            head = audit.sign_head(connection, owner.audit_signer(), now=now)
        keep_head(workspace.owner.audit_head, database, head)
    return head
