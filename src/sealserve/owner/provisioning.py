"""The owner's broker: open it with the files of the workspace, and register, drain and check releases in it."""

import contextlib
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from sealserve.attestation import evidence
from sealserve.attestation.secret_provisioning import SecretForm
from sealserve.broker import admin, audit
from sealserve.broker.admin import Actor, KnownRelease, VerifiedChain
from sealserve.broker.audit import Head
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import Database
from sealserve.broker.head_file import keep_head, kept_head
from sealserve.broker.keystore import KeyId
from sealserve.broker.metrics_server import MetricsServer
from sealserve.broker.releases import PRODUCT_LABEL, Release, ReleaseId, ReleaseUnknownError, references_of
from sealserve.broker.server import BrokerServer
from sealserve.broker.standing import ReleaseState, check_standing
from sealserve.deployment import Deployment
from sealserve.enclave.findings import Danger
from sealserve.errors import VerificationError
from sealserve.owner import policies, release_statements
from sealserve.owner.broker_database import is_shared
from sealserve.owner.broker_parts import open_part
from sealserve.owner.enclaves import verified_sigstructs
from sealserve.owner.owner import Owner
from sealserve.owner.release_facts import contains_tls_key
from sealserve.owner.token_keys import create_token_key, published_keys
from sealserve.sealing.release import VerifiedRelease, read_verified_index, verify_release
from sealserve.sgx.policy_rules import rules_of
from sealserve.sgx.reference_values import ReferenceValues
from sealserve.terms import PlatformKind
from sealserve.workspace import Workspace

_LOG: Final = logging.getLogger(__name__)


@contextlib.contextmanager
def open_broker(workspace: Workspace, deployment: Deployment) -> Iterator[BrokerServer]:
    """Yield the deployment's broker, before it is started. Its metrics page is already served.

    Raises:
        SealserveError: As `open_part`.
        UnavailableError: `broker.metrics-port` if the port is in use.
    """
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(open_part(workspace, deployment))
        if deployment.broker.metrics_port is not None:
            stack.enter_context(MetricsServer(opened.observed, deployment.broker.metrics_port))
        yield opened.server


def allow(
    workspace: Workspace,
    deployment: Deployment,
    folder: Path,
    *,
    now: datetime,
    reactivate: bool = False,
    keep_policy: bool = False,
    dangerous: Collection[Danger] = (),
    actor: Actor = admin.OWNER,
    secret_form: SecretForm | None = None,
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
        actor=actor,
        secret_form=secret_form,
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
    actor: Actor = admin.OWNER,
    secret_form: SecretForm | None = None,
) -> KnownRelease:
    """Register all enclaves in a release's ``enclave/`` folder with the broker, so that they can receive its key.

    Without ``reactivate``, a draining release continues to drain, and the policy of a registered release does not
    change.

    Args:
        workspace: The owner's workspace.
        deployment: Supplies the policy: a preset or a policy file.
        verified: The verified release.
        now: The time on the owner's clock.
        reactivate: Make a draining release active again, with the deployment's current policy.
        keep_policy: Raise an error if this policy differs from the registered policy.
        dangerous: Classes of insecure settings that the enclaves' manifests may have.
        actor: Who registers the release, for the audit log.
        secret_form: The form in which the enclaves receive the key. None: as built, as registered, or the raw form.

    Returns:
        The registered release with all its enclaves.

    Raises:
        InputError: `broker.release-policy`: The release is registered with another policy that may not be replaced.
        InputError: `policy.file`: The policy file of ``sealserve.toml`` is invalid.
        InputError: `broker.release-conflict`: The release was built with another form of its key, or is registered with
            other values.
        InputError: `release.statement`: The release uses attested serving, and cannot be stated to users.
        SealserveError: The enclaves do not verify.
    """
    owner, folder = Owner.open(workspace), verified.folder
    signer = owner.index_signer()
    references: dict[str, evidence.ReferenceValues] = {
        label: ReferenceValues.of_sigstruct(sigstruct)
        for label, sigstruct in verified_sigstructs(
            folder, verified.id, signer.public_key(), dangerous=dangerous
        ).items()
    }
    platform = PlatformKind.SIMULATED if verified.index.simulated else PlatformKind.SGX
    policy = policies.of_deployment(deployment).for_platform(platform)
    if references and (product := rules_of(policy.evidence_rules).dangerous_signer) is not None:
        _LOG.warning(
            "the policy %s weakens security: each enclave that the key with MRSIGNER %s signed receives the key of %s",
            policy.tcb.name, product.mr_signer, folder.name,
        )  # fmt: skip
        references[PRODUCT_LABEL] = product.reference()
    release = Release(
        release_id=ReleaseId(verified.id),
        name=folder.name,
        platform=platform,
        key_id=KeyId(verified.index.key_id),
        policy=policy,
        created=verified.index.created_at,
        secret_form=_secret_form(workspace, verified, secret_form),
    )
    wanted = not contains_tls_key(verified.index)
    if wanted and not is_shared(workspace):  # the statement names the broker's key
        create_token_key(workspace)
    with owner.database() as database:
        if wanted:
            _check_number_of_enclaves(database, release, references)
        known = admin.allow(
            database, release, references, now=now, reactivate=reactivate, keep_policy=keep_policy, actor=actor
        )
        # State the release to users. Repeating the registration signs nothing new.
        if wanted:
            keys = published_keys(workspace)
            statement = release_statements.describe(workspace, deployment, verified, known, keys, now=now)
            with database.write() as connection:
                release_statements.publish(connection, known, statement, signer, now=now, actor=actor)
        return known


def _check_number_of_enclaves(
    database: Database, release: Release, references: Mapping[str, evidence.ReferenceValues]
) -> None:
    """Check before the registration that a statement can list all enclaves, old and new."""
    with database.read() as connection:
        registered = references_of(connection, release.release_id)
    before = {found.measurement for found in registered if found.label != PRODUCT_LABEL}
    new = {values.measurement for label, values in references.items() if label != PRODUCT_LABEL}
    release_statements.check_number(release.name, before | new)


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


def _secret_form(workspace: Workspace, verified: VerifiedRelease, asked: SecretForm | None) -> SecretForm:
    """Return the form of a release's key: as its signed index states, as asked for, as registered, or raw."""
    built = verified.index.secret_form
    if built is None:
        known = _known(workspace, verified.id) if asked is None else None
        return asked or (SecretForm.RAW if known is None else known.secret_form)
    if asked not in {None, built}:
        raise BrokerCode.RELEASE_CONFLICT.error(
            f"The form of the key of {verified.folder.name} cannot change: expected {built}, as in its signed index, "
            f"got {asked}.",
            hint=f"Omit --secret-form, or run `sealserve release build --secret-form {asked}` to build a new release.",
        )
    return built


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
