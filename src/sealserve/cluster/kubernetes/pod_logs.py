"""The logs of a deployment's pods, and of its parts on this machine."""

from collections.abc import Iterator, Sequence

from sealserve.cluster.kubernetes.cluster_client import ClusterClient
from sealserve.cluster.kubernetes.pod_roles import roles
from sealserve.cluster.kubernetes.render_context import Manifest
from sealserve.cluster.local.logs import local_logs
from sealserve.cluster.logs.merge import LogLine, Timed, merged, together, wanted
from sealserve.cluster.logs.selection import LogSelection
from sealserve.cluster.target import no_log
from sealserve.workspace import Workspace


def deployment_logs(
    client: ClusterClient,
    workspace: Workspace,
    part: str | None,
    selection: LogSelection,
    *,
    pods: Sequence[Manifest],
    local: Sequence[str],
) -> Iterator[LogLine]:
    """Yield the log lines of a deployment's parts; see `Target.logs`.

    Args:
        client: The cluster.
        workspace: The workspace of the deployment.
        part: A role, or the name of a pod. None for all.
        selection: Which lines to yield.
        pods: The deployment's pods.
        local: The roles of the parts on this machine.

    Raises:
        InputError: `logs.unknown-part` if the part has no log.
    """
    named = roles(pods)
    chosen = {
        pod["metadata"]["name"]: (role, pod) for role, pod in named if part in {None, role, pod["metadata"]["name"]}
    }
    here = [role for role in local if part in {None, role}]
    if not chosen and not here:
        raise no_log(part, list(dict.fromkeys([*(role for role, _ in named), *local])))
    logs = [local_logs(workspace, role, selection) for role in here]
    if selection.follow:
        if chosen:
            space = next(iter(chosen.values()))[1]["metadata"]["namespace"]
            containers = {name: (role, _container(pod)) for name, (role, pod) in chosen.items()}
            logs.append(wanted(client.follow(space, containers, selection), selection.since))
        return together(logs)
    for name, (role, pod) in chosen.items():
        lines = client.stamped_log(pod["metadata"]["namespace"], name, _container(pod), selection)
        logs.append(wanted(map(Timed(role, name, stamped=True).line, lines), selection.since))
    return merged(logs)


def _container(pod: Manifest) -> str:
    return str(pod["spec"]["containers"][0]["name"])
