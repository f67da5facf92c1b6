"""The state of a deployment: the parts from its target, combined with the facts in the workspace."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sealserve.cli import approval_notice
from sealserve.cli.status_document import (
    CertificateEnd,
    Difference,
    Endpoint,
    Part,
    Replicas,
    Served,
    Standing,
    StatusDocument,
)
from sealserve.cluster import targets, wanted
from sealserve.cluster.missing_parts import with_missing
from sealserve.cluster.presented_certificate import PresentedCertificate
from sealserve.cluster.target import NGINX, REPLICA, Health, PartStatus, State, Target
from sealserve.deployment import Deployment
from sealserve.errors import SealserveError
from sealserve.owner import broker_certificate
from sealserve.owner.broker_database import is_shared, open_database
from sealserve.owner.drift import drift_of
from sealserve.owner.expiry import certificate_ends
from sealserve.pki import expiry
from sealserve.regular_file import read_regular
from sealserve.sealing.release_index import INDEX_FILE, parse_index
from sealserve.workspace import Workspace

_PHRASES: Final = {
    State.STARTING: "is starting",
    State.ATTESTED: "is loading the model",
    State.REFUSED: "is refused",
    State.ENDED: "has ended",
    State.MISSING: "is missing",
}
_SCHEMES: Final = {"grpc": "grpcs", "rest": "https"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """The desired state of a deployment.

    Args:
        desired: Desired number of replicas.
        expected: Roles of the expected parts; empty if the deployment was not started.
        drift: Differences between the running release and ``sealserve.toml``. None if this machine cannot compare them.
        unapplied: Number of replicas that `up` would start, if it differs from the number that was started last.
        rejected: Why a running broker does not accept its certificate in the workspace. None if it does.
        waiting: Sentences about platforms that wait for an approval.
        database: Why the broker's database on a server is not available. None if it is, or if the database is a file.
    """

    desired: int
    expected: Sequence[str]
    drift: Sequence[Difference] | None = None
    unapplied: int | None = None
    rejected: str | None = None
    waiting: Sequence[str] = ()
    database: str | None = None


def observe(workspace: Workspace, deployment: Deployment, target: Target, kind: str) -> StatusDocument:
    """Return the current state of a deployment.

    Args:
        workspace: The workspace of the deployment.
        deployment: The deployment that ``sealserve.toml`` describes.
        target: The target that runs the deployment.
        kind: The target's name.
    """
    now = datetime.now(UTC)
    # 1. Get the running parts from the target, and compare them with the expected parts.
    found = target.status()
    started = bool(found) or targets.in_use(workspace) == kind
    count = wanted.started(workspace, deployment)
    expected = target.expected(count) if started else ()
    parts = with_missing(found, expected)
    # 2. Find the folder of the served release: the owner's folder or the host's folder.
    release = _release_of(parts)
    folder = _folder(workspace, release)
    # 3. Collect the expiry dates of certificates. A date that a replica reports is better than one from the release.
    ends = dict(certificate_ends(workspace, folder, given=deployment.service.tls_certificate_file))
    if presented := [part.certificate for part in parts if part.certificate is not None]:
        ends |= _presented(deployment, min(presented, key=lambda one: one.ends), now)
    # 4. Compare the running release with sealserve.toml.
    drift = _drift(workspace, deployment, folder)
    desired = sum(role.startswith(REPLICA) for role in expected)
    asked = wanted.replicas(workspace, deployment).count
    unapplied = asked if started and asked != count else None
    certificate = broker_certificate.state_of(workspace, deployment, now=now)
    # 5. Without its database, the broker releases no keys, although the service still answers.
    fault = _database_fault(workspace) if started else None
    described = Described(
        desired=desired,
        expected=expected,
        drift=drift,
        unapplied=unapplied,
        rejected=certificate.problem if certificate else None,
        # 6. If a replica is missing, find out whether it waits for a person. The database has the answer.
        waiting=() if fault or (parts and _ready(parts) >= desired) else approval_notice.waiting(workspace),
        database=fault,
    )
    return document(
        parts,
        described,
        ends,
        now=now,
        target=kind,
        release=release,
        models=_models(deployment, folder),
        endpoints=_endpoints(deployment, target.endpoints() if started else {}),
    )


def _presented(deployment: Deployment, first: PresentedCertificate, now: datetime) -> Mapping[str, datetime]:
    """Return the expiry of the certificate that replicas present, by its purpose.

    An enclave with its own TLS key renews its certificate. Unless the renewals fail, the expiry does not concern a
    person.
    """
    if not deployment.server.attested:
        return {expiry.SERVICE: first.ends}
    return {expiry.ENCLAVES: first.ends} if first.is_late(now) else {}


def document(
    parts: Sequence[PartStatus],
    described: Described,
    ends: Mapping[str, datetime],
    *,
    now: datetime,
    target: str,
    release: str | None,
    models: Sequence[Served],
    endpoints: Sequence[Endpoint],
) -> StatusDocument:
    """Return the status document of an observed deployment. This function decides whether the deployment is well.

    Args:
        parts: The existing and the missing parts.
        described: The desired state.
        ends: Expiry times of certificates, by their purpose.
        now: Time of the observation.
        target: The target's name.
        release: Name of the release that replicas serve.
        models: The models in this release.
        endpoints: Addresses at which users reach the service.
    """
    replicas = [part for part in parts if part.role.startswith(REPLICA)]
    ready = _ready(replicas)
    fronts = [part for part in parts if part.role == NGINX]
    problems = [_problem(part) for part in parts if not part.is_well]
    over = [end for end in expiry.endings(ends) if end.is_over(now) and not end.is_of_administration]
    problems += [end.warning(now) for end in over]
    if not parts:
        problems.append("The deployment is not running. Start it: `sealserve up`.")
    elif ready < described.desired:
        problems.insert(0, f"Only {ready} of {described.desired} replicas are ready.")
    if ready < max(described.desired, 1):
        problems += described.waiting
    if described.database is not None:
        problems.append(
            f"The broker cannot release keys without its database: {described.database} Examine it: `sealserve doctor "
            "owner`."
        )
    serves = ready > 0 and (not fronts or any(part.is_well for part in fronts))
    state = Standing.WELL if serves and not problems else Standing.DEGRADED if serves else Standing.DOWN
    warnings = [end.warning(now) for end in expiry.endings(ends) if end.is_near(now) and end not in over]
    if described.drift:
        keys = ", ".join(difference.key for difference in described.drift)
        warnings.append(f"sealserve.toml differs from the running release: {keys}. Apply it: `sealserve up`.")
    if described.unapplied is not None:
        warnings.append(
            f"target.replicas is now {described.unapplied}, which differs from the number of started replicas. Apply "
            "it: `sealserve up`."
        )
    if described.rejected is not None:
        warnings.append(
            f"The broker cannot use its certificate in the workspace: {described.rejected} A running broker keeps its "
            "former certificate. Renew it: `sealserve certs renew`."
        )
    return StatusDocument(
        time=now,
        state=state,
        target=target,
        release=release,
        models=tuple(models),
        endpoints=tuple(endpoints),
        replicas=Replicas(desired=described.desired, ready=ready),
        drift=None if described.drift is None else tuple(described.drift),
        certificates=tuple(
            CertificateEnd(certificate=end.name, ends=end.time, days_left=(end.time - now).days)
            for end in expiry.endings(ends)
        ),
        problems=tuple(problems),
        warnings=tuple(warnings),
        parts=tuple(_row(part, now) for part in parts),
    )


def _database_fault(workspace: Workspace) -> str | None:
    """Return why the broker's database on a server is not available, on a machine that has the owner's files."""
    if not (workspace.owner.root.is_dir() and is_shared(workspace)):
        return None
    try:
        with open_database(workspace, create=False):
            return None
    except SealserveError as error:
        return error.message


def _ready(parts: Sequence[PartStatus]) -> int:
    """Return the number of replicas that serve and answer."""
    return sum(part.role.startswith(REPLICA) and part.state is State.SERVING and part.is_well for part in parts)


def _problem(part: PartStatus) -> str:
    """Return a sentence about a part that is not well. The reason is the last error in the part's own row."""
    unhealthy = f"is {part.health}"
    phrase = unhealthy if part.health is Health.UNHEALTHY else _PHRASES.get(part.state, unhealthy)
    return f"{part.role} {phrase}."


def _row(part: PartStatus, now: datetime) -> Part:
    runs = part.state not in {State.ENDED, State.MISSING, State.REFUSED}
    uptime = max(0, int((now - part.started).total_seconds())) if runs and part.started is not None else None
    return Part(
        role=part.role,
        state=part.state,
        health=part.health,
        port=part.port,
        pid=part.pid,
        instance=part.instance,
        release=part.release,
        started=part.started,
        uptime_seconds=uptime,
        restarts=part.restarts,
        connections=part.connections,
        requests=part.requests,
        error=part.error,
        error_time=part.error_time,
        detail=part.detail,
    )


def _drift(workspace: Workspace, deployment: Deployment, release: Path | None) -> Sequence[Difference] | None:
    """Return the differences between a release and ``sealserve.toml``, or None if they cannot be compared here.

    Only the owner's machine has the record of the settings and models from which a release was built.
    """
    if release is None or release.parent != workspace.owner.releases:
        return None
    try:
        found = drift_of(workspace, deployment, release, quick=True)
    except (SealserveError, OSError):  # `status` must work even if a record is damaged or a file disappears
        return None
    if not found.comparable:
        return None
    return [Difference(key=item.key, released=item.released, described=item.described) for item in found.differences]


def _release_of(parts: Sequence[PartStatus]) -> str | None:
    """Return the release that the first replica serves. During a roll-out, other replicas serve another release."""
    return next((part.release for part in parts if part.release), None)


def _folder(workspace: Workspace, release: str | None) -> Path | None:
    """Return the folder of a release, or None. The name comes from a target, so a name that is a path is rejected."""
    if release is None or Path(release).name != release:
        return None
    folders = (workspace.owner.releases / release, workspace.host.releases / release)
    return next((folder for folder in folders if (folder / INDEX_FILE).is_file()), None)


def _models(deployment: Deployment, folder: Path | None) -> Sequence[Served]:
    if folder is None:
        return ()
    try:
        index = parse_index(read_regular(folder / INDEX_FILE))
    except SealserveError:
        return ()
    described = {(model.name, model.version): model.labels for model in deployment.models}
    return [
        Served(
            name=servable.name,
            versions=servable.versions,
            labels={
                label: version for version in servable.versions for label in described.get((servable.name, version), ())
            },
        )
        for servable in index.servables
    ]


def _endpoints(deployment: Deployment, addresses: Mapping[str, str]) -> Sequence[Endpoint]:
    service = deployment.service
    return [
        Endpoint(
            protocol=protocol,
            address=address,
            url=f"{_SCHEMES.get(protocol, protocol)}://{address}",
            server_name=service.name,
            tls=service.tls,
        )
        for protocol, address in addresses.items()
    ]
