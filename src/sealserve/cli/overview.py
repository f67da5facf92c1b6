"""The state of a deployment: what its target tells of the parts, and what the workspace tells of the whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

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
from sealserve.cluster.target import NGINX, REPLICA, PartStatus, State, Target
from sealserve.deployment import Deployment
from sealserve.errors import SealserveError
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
    """What a deployment should be.

    Args:
        desired: How many replicas there should be.
        expected: The roles of the parts that there should be; empty if the deployment was not started.
        drift: What differs from ``sealserve.toml``; None if that is not known here.
        unapplied: The number of replicas that `up` would start, if it is another one than was started last.
    """

    desired: int
    expected: Sequence[str]
    drift: Sequence[Difference] | None = None
    unapplied: int | None = None


def observe(workspace: Workspace, deployment: Deployment, target: Target, kind: str) -> StatusDocument:
    """Return the state of a deployment now.

    Args:
        workspace: Whose deployment it is.
        deployment: What ``sealserve.toml`` describes.
        target: Where it runs.
        kind: The target's name.
    """
    now = datetime.now(UTC)
    # 1. Ask the target for what runs, and compare it with what should run.
    found = target.status()
    started = bool(found) or targets.in_use(workspace) == kind
    count = wanted.started(workspace, deployment)
    expected = target.expected(count) if started else ()
    parts = with_missing(found, expected)
    # 2. Find the release that is served, in the owner's folder or in the host's.
    release = _release_of(parts)
    folder = _folder(workspace, release)
    # 3. Find out when certificates end. A replica's own answer is better than what the release's date tells.
    ends = dict(certificate_ends(workspace, folder))
    if presented := [part.certificate_end for part in parts if part.certificate_end is not None]:
        ends[expiry.SERVICE] = min(presented)
    # 4. Compare what runs with what is described.
    drift = _drift(workspace, deployment, folder)
    desired = sum(role.startswith(REPLICA) for role in expected)
    asked = wanted.replicas(workspace, deployment).count
    unapplied = asked if started and asked != count else None
    described = Described(desired=desired, expected=expected, drift=drift, unapplied=unapplied)
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
    """Return the document of what was observed; this decides how well the deployment is.

    Args:
        parts: The parts that there are, and those that are missing.
        described: What the deployment should be.
        ends: When certificates end, by what they are for.
        now: The time of the observation.
        target: The target's name.
        release: The release that replicas serve.
        models: The models in it.
        endpoints: Where users reach the service.
    """
    replicas = [part for part in parts if part.role.startswith(REPLICA)]
    ready = sum(part.state is State.SERVING and part.is_well for part in replicas)
    fronts = [part for part in parts if part.role == NGINX]
    problems = [_problem(part) for part in parts if not part.is_well]
    over = [end for end in expiry.endings(ends) if end.is_over(now)]
    problems += [end.warning(now) for end in over]
    if not parts:
        problems.append("Nothing runs: `sealserve up` starts it.")
    elif ready < described.desired:
        problems.insert(0, f"{ready} of {described.desired} replicas serve.")
    serves = ready > 0 and (not fronts or any(part.is_well for part in fronts))
    state = Standing.WELL if serves and not problems else Standing.DEGRADED if serves else Standing.DOWN
    warnings = [end.warning(now) for end in expiry.endings(ends) if end.is_near(now) and end not in over]
    if described.drift:
        keys = ", ".join(difference.key for difference in described.drift)
        warnings.append(f"sealserve.toml differs from the release that runs: {keys}. `sealserve up` applies it.")
    if described.unapplied is not None:
        warnings.append(
            f"{described.unapplied} replicas are described, another number was started: `sealserve up` applies it."
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


def _problem(part: PartStatus) -> str:
    """Return a sentence on a part that is not well. Its last error, which is the reason, stays with the part."""
    return f"{part.role} {_PHRASES.get(part.state, f'is {part.health}')}."


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
    """Return what differs between a release and ``sealserve.toml``, or None if that is not known here.

    Only the owner's machine has the record of what a release was made from.
    """
    if release is None or release.parent != workspace.owner.releases:
        return None
    try:
        found = drift_of(workspace, deployment, release, quick=True)
    except (SealserveError, OSError):  # status reports on what runs, even if a record is damaged or a file vanishes
        return None
    if not found.comparable:
        return None
    return [Difference(key=item.key, released=item.released, described=item.described) for item in found.differences]


def _release_of(parts: Sequence[PartStatus]) -> str | None:
    """Return the release that the first replica serves; during a roll-out, others serve another one."""
    return next((part.release for part in parts if part.release), None)


def _folder(workspace: Workspace, release: str | None) -> Path | None:
    """Return the folder of a release. Its name comes from a target, which may be the host's: it is never a path."""
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
