"""The Kubernetes target: applies a deployment's objects, watches its pods, and removes what it made.

The owner's part stays on this machine: releases are built here, and the broker runs here or elsewhere, outside of the
cluster. In simulation its broker and the vendor's service are started here as well.
"""

import base64
import difflib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import yaml

from sealserve.atomic_file import write_file
from sealserve.cluster.kubernetes import inside_broker, replicas, shipping
from sealserve.cluster.kubernetes.broker_name import COREFILE, add_entry, remove_entry
from sealserve.cluster.kubernetes.cluster_client import ClusterClient, ObjectName, tidy
from sealserve.cluster.kubernetes.objects import namespace, objects
from sealserve.cluster.kubernetes.plan import (
    ENCLAVE,
    SERVER_PORT,
    Manifest,
    NotRenderableError,
    Plan,
)
from sealserve.cluster.kubernetes.platform import PART as PLATFORM
from sealserve.cluster.kubernetes.preconditions import check_rights
from sealserve.cluster.kubernetes.record import Record
from sealserve.cluster.kubernetes.rollout import CHECK_SECONDS, Rollout, RolloutSlowError, deployment_name, restarts
from sealserve.cluster.kubernetes.room import epc_of_deployment, epc_of_replica, fitting_replicas
from sealserve.cluster.kubernetes.takeover import PREVIOUS, take_over
from sealserve.cluster.local import LocalTarget
from sealserve.cluster.local import stop_all as stop_local
from sealserve.cluster.target import (
    LogLine,
    PartStatus,
    Role,
    State,
    TargetNotUpError,
    TargetUnsupportedError,
    Tell,
    no_log,
    quietly,
)
from sealserve.containers.build import inventory_of
from sealserve.containers.engine import Engine
from sealserve.containers.recipes import images_for, reference
from sealserve.deployment import Deployment
from sealserve.enclave.inventory import Inventory, read_inventory
from sealserve.errors import UnavailableError
from sealserve.owner import enclaves, provisioning, releases, simulation
from sealserve.terms import BrokerNaming, PlatformKind
from sealserve.workspace import Workspace

_LOG: Final = logging.getLogger(__name__)


_COMPONENT: Final = "app.kubernetes.io/component"


class RoomMissingError(UnavailableError):
    """The nodes have too little EPC for that many replicas."""

    code = "kubernetes.epc"


class KubernetesTarget:
    """A deployment in a cluster.

    Args:
        workspace: With the parts of the machines that this one is.
        deployment: What it describes.
        role: Which machine this is.
        tell: Called with a few words before each thing that is done.
    """

    def __init__(
        self, workspace: Workspace, deployment: Deployment, *, role: Role = Role.ALL, tell: Tell = quietly
    ) -> None:
        self._workspace = workspace
        self._deployment = deployment
        self._role = role
        self._tell = tell
        self._record = Record(workspace)
        self._open: ClusterClient | None = None

    @property
    def _client(self) -> ClusterClient:
        if self._open is None:
            self._open = ClusterClient()
        return self._open

    @property
    def _rollout(self) -> Rollout:
        settings = self._deployment.kubernetes
        return Rollout(
            self._client, namespace=settings.namespace, start_seconds=settings.start_seconds, tell=self._tell
        )

    @property
    def _deployment_name(self) -> ObjectName:
        return deployment_name(self._deployment.kubernetes.namespace)

    @property
    def _autoscaler_name(self) -> ObjectName:
        name = self._deployment_name
        return ObjectName("autoscaling/v2", "HorizontalPodAutoscaler", name.namespace, name.name)

    def up(self, release: Path, replicas: int) -> Sequence[str]:
        """Apply the deployment's objects, and wait until every replica serves the release. See `Target.up`.

        Raises:
            RolloutRefusedError: The new enclaves are refused: the roll-out stands, what served goes on.
            RolloutSlowError: It takes longer than ``kubernetes.start_seconds``.
            SealserveError: What is missing, or was refused.
        """
        client = self._client
        plan = self._plan(release, replicas)
        check_rights(plan, client)
        self._check_room(epc_of_replica(plan), max(plan.replicas, plan.settings.autoscaler.max_replicas or 0))
        if self._role is Role.ALL:
            self._start_owner(release)
        made = list(self._objects(plan))
        taken = take_over(made, client.get(self._deployment_name), plan)
        space = namespace(plan)
        if client.get(ObjectName.of(space)) is None:
            self._record.add(ObjectName.of(space))
            client.apply(space)
        if plan.settings.broker.naming is BrokerNaming.COREDNS_HOSTS:
            self._name_broker(plan)
        self._tell("applying the objects")
        for item in made:
            self._record.add(ObjectName.of(item))
            client.apply(item)
        self._rollout.wait(taken.replicas)
        left = self._no_longer_described(plan, made)
        for name in left:
            self._tell(f"removing {_called(name)}, which is no longer described")
            _remove(client, name)
        for name in left:
            if name != COREFILE:
                _wait_gone(client, name, self._tell)
            self._record.remove(name)
        return taken.replaced

    def difference(self, release: Path, replicas: int) -> str:
        """Return, as a unified diff, what `up` would change; nothing is changed."""
        client = self._client
        plan = self._plan(release, replicas)
        texts: list[str] = []
        exists = client.get(ObjectName.of(namespace(plan))) is not None
        made = list(self._objects(plan))
        take_over(made, client.get(self._deployment_name) if exists else None, plan)
        for item in made if exists else [namespace(plan), *made]:  # one that is there stays as it is
            name = ObjectName.of(item)
            before = client.get(name) if exists else None
            after = client.apply(item, dry_run=True) if exists else item
            lines = [_lines(tidy(side)) if side else [] for side in (before, after)]
            if item["kind"] == "Secret":
                lines = [[f"# {len(text)} lines of a Secret\n"] if text else [] for text in lines]
            label = f"{name.kind.lower()}/{name.name}"
            texts += difflib.unified_diff(lines[0], lines[1], f"cluster/{label}", f"deployment/{label}")
        texts += [f"--- cluster/{_called(name)}\n+++ /dev/null\n" for name in self._no_longer_described(plan, made)]
        return "".join(texts)

    def scale(self, replicas: int) -> None:
        """Change the number of replicas; see `Target.scale`."""
        running = self._client.get(self._deployment_name)
        if running is None:
            raise TargetNotUpError("There are no replicas to scale.", hint="`sealserve up` starts the deployment.")
        if replicas > running["spec"]["replicas"]:
            self._check_room(epc_of_deployment(running, self._deployment.kubernetes), replicas)
        if (most := self._deployment.kubernetes.autoscaler.max_replicas) is not None:
            if replicas > most:
                raise TargetUnsupportedError(
                    f"The autoscaler may have {most} replicas at most.",
                    hint="Raise kubernetes.autoscaler.max_replicas in sealserve.toml, then `sealserve up`.",
                )
            if self._client.get(self._autoscaler_name) is not None:
                self._client.merge(self._autoscaler_name, {"spec": {"minReplicas": replicas}})
        self._client.merge(self._deployment_name, {"spec": {"replicas": replicas}})
        self._rollout.wait(replicas)

    def previous_release(self) -> str:
        """Return the name of the release that was served before this one.

        Raises:
            TargetNotUpError: None was.
        """
        running = self._client.get(self._deployment_name) or {"metadata": {}}
        name = running["metadata"].get("annotations", {}).get(PREVIOUS)
        if not name:
            raise TargetNotUpError("No other release was served before.", hint="`sealserve up --release NAME`.")
        return str(name)

    def status(self) -> Sequence[PartStatus]:
        """Return the state of every pod, and of the parts that run on this machine."""
        if not self._record.names():
            return []
        return [*self._local_status(), *(self._pod_status(pod) for pod in self._rollout.pods())]

    def logs(self, part: str | None, *, last: int, follow: bool) -> Iterator[LogLine]:
        """Yield what the pods logged; see `Target.logs`. A part is a pod, or the role of several: ``nginx``."""
        found = self._rollout.pods()
        pods = {pod["metadata"]["name"]: pod["spec"]["containers"][0]["name"] for pod in found}
        roles = {pod["metadata"]["name"]: pod["metadata"]["labels"][_COMPONENT] for pod in found}
        chosen = {name: container for name, container in pods.items() if part in {None, name, roles[name]}}
        if not chosen:
            raise no_log(part, list(pods))
        space = self._deployment.kubernetes.namespace
        if follow:
            return self._client.follow(space, chosen, last=last)
        return (
            LogLine(name, line)
            for name, container in chosen.items()
            for line in self._client.log(space, name, container, last=last)
        )

    def _plan(self, release: Path, replicas: int) -> Plan:
        if self._role is Role.ALL:
            self._build(release)
        return shipping.plan(self._workspace, self._deployment, release, replicas=replicas)

    def _build(self, release: Path) -> None:
        """Build the release's enclave if it has none that fits the image, and pack it for the store."""
        spec = enclaves.specify(
            self._workspace, self._deployment, release, name=ENCLAVE, port=SERVER_PORT, inventory=self._inventory()
        )
        manifest = release / "enclave" / f"{ENCLAVE}.manifest.sgx"
        if not manifest.is_file() or manifest.read_bytes() != enclaves.manifest_text(self._workspace, spec):
            self._tell("building the enclave")
            enclaves.build(self._workspace, release, spec, now=datetime.now(UTC))
        provisioning.allow(self._workspace, self._deployment, release, now=datetime.now(UTC))
        if (store := self._deployment.kubernetes.store.folder) is not None:
            self._tell("packing the release for the store")
            store.mkdir(parents=True, exist_ok=True)
            releases.pack(self._workspace, release, store / f"{release.name}.tar", overwrite=True)

    def _inventory(self) -> Inventory:
        if self._deployment.kubernetes.images.inventory is not None:
            return read_inventory(self._deployment.kubernetes.images.inventory)
        images, name = self._deployment.images, images_for(self._deployment.platform)[-1]
        place = reference(images.prefix, name, images.tag)
        return inventory_of(Engine(), name, place, records=self._workspace.owner.images, tell=self._tell)

    def _start_owner(self, release: Path) -> None:
        """In simulation, start what the owner's machine runs; a real broker is the owner's to run."""
        if self._deployment.platform is PlatformKind.SIMULATED:
            simulation.open_platform(self._workspace, now=datetime.now(UTC))
            local = LocalTarget(self._workspace, self._deployment, tell=self._tell)
            if not self._deployment.kubernetes.broker.dangerous_inside:
                local.start_vendor()
                local.start_broker()
        write_file(self._workspace.host.run / "release", release.name.encode())

    def _objects(self, plan: Plan) -> Sequence[Manifest]:
        files = None
        if plan.simulated:
            folder = self._workspace.host.platform
            files = {
                path.name: base64.b64encode(path.read_bytes()).decode()
                for path in sorted(folder.iterdir())
                if path.is_file()
            }
        return objects(plan, platform_files=files, broker_files=self._broker_files(plan))

    def _broker_files(self, plan: Plan) -> Mapping[str, str] | None:
        if not plan.settings.broker.dangerous_inside:
            return None
        if self._role is not Role.ALL:
            raise NotRenderableError(
                "A host has no keys to put into a broker in the cluster.",
                hint="kubernetes.broker.dangerous_inside is for trials where owner and host are one machine.",
            )
        _LOG.warning("dangerous: the broker is in the cluster, whose hosts hold the keys: this is for trials only")
        return inside_broker.material(self._workspace, plan)

    def _no_longer_described(self, plan: Plan, made: Sequence[Manifest]) -> Sequence[ObjectName]:
        """Return what was made before, and would not be made now: a trial's Secret must not outlive the trial."""
        described = {ObjectName.of(item) for item in [namespace(plan), *made]}
        if plan.settings.broker.naming is BrokerNaming.COREDNS_HOSTS:
            described.add(COREFILE)
        before = [name for name in self._record.names() if name.namespace in {plan.settings.namespace, "kube-system"}]
        return [name for name in before if name not in described]

    def _check_room(self, asked: str | None, wanted: int) -> None:
        """Compare the EPC that replicas ask for with what the nodes have together."""
        if asked is None:
            return
        settings = self._deployment.kubernetes
        most = sum(fitting_replicas(asked, settings, self._client.find("v1", "Node", "", "")).values())
        if wanted > most:
            raise RoomMissingError(
                f"{wanted} replicas with {asked} of EPC do not fit: the nodes' "
                f"{settings.resources.epc_resource} is for {most}.",
                hint="Fewer replicas (target.replicas, kubernetes.autoscaler.max_replicas), more nodes, or a smaller "
                "enclave; `sealserve doctor host --target kubernetes` shows what each node has.",
            )

    def _name_broker(self, plan: Plan) -> None:
        config = self._client.get(COREFILE)
        if config is None:
            raise NotRenderableError(
                "The cluster has no ConfigMap kube-system/coredns.", hint='Set kubernetes.broker.naming = "dns".'
            )
        text = config["data"]["Corefile"]
        named = add_entry(text, plan.shipped.broker[0], plan.settings.broker.ip)
        if named != text:
            self._tell(f"adding {plan.shipped.broker[0]} to the cluster's DNS")
            self._record.add(COREFILE)
            self._client.merge(COREFILE, {"data": {"Corefile": named}})

    def _pod_status(self, pod: Manifest) -> PartStatus:
        state, reason = self._rollout.state(pod)
        labels = pod["metadata"]["labels"]
        part = labels[_COMPONENT]
        about = [text for text in (labels.get(replicas.RELEASE_LABEL), pod["spec"].get("nodeName"), reason) if text]
        if state is State.SERVING and part == PLATFORM:
            state = State.RUNNING
        return PartStatus(
            role=part,
            state=state,
            instance=pod["metadata"]["name"],
            detail="; ".join(about),
            restarts=restarts(pod),
        )

    def _local_status(self) -> Sequence[PartStatus]:
        if self._deployment.platform is not PlatformKind.SIMULATED:
            return []
        return LocalTarget(self._workspace, self._deployment).status()


def open_target(
    workspace: Workspace, deployment: Deployment, *, role: Role = Role.ALL, tell: Tell = quietly
) -> KubernetesTarget:
    """Return the target; see `TargetModule`."""
    return KubernetesTarget(workspace, deployment, role=role, tell=tell)


def running(workspace: Workspace) -> Sequence[str]:
    """Return what there is of a workspace in the cluster; see `TargetModule`."""
    return [_called(name) for name in Record(workspace).names()]


def stop_all(workspace: Workspace, *, tell: Tell = quietly) -> Sequence[str]:
    """Remove exactly what was made, the namespace included if it was, and wait until it is gone; see `TargetModule`."""
    record = Record(workspace)
    names = record.names()
    stopped = []
    if names:
        client = ClusterClient()
        for name in reversed(names):
            tell(f"removing {_called(name)}")
            _remove(client, name)
        for name in names:
            if name != COREFILE:
                _wait_gone(client, name, tell)
            record.remove(name)
            stopped.append(_called(name))
    return [*stopped, *stop_local(workspace, tell=tell)]


def _remove(client: ClusterClient, name: ObjectName) -> None:
    """Remove an object; of one that was only changed, what was written into it."""
    if name == COREFILE:
        _forget_broker(client)
    else:
        client.delete(name)


def _forget_broker(client: ClusterClient) -> None:
    config = client.get(COREFILE)
    if config is not None:
        client.merge(COREFILE, {"data": {"Corefile": remove_entry(config["data"]["Corefile"])}})


def _wait_gone(client: ClusterClient, name: ObjectName, tell: Tell) -> None:
    deadline = time.monotonic() + 900
    while client.get(name) is not None:
        tell(f"{_called(name)} finishes")
        if time.monotonic() > deadline:
            raise RolloutSlowError(
                f"{_called(name)} is still there.", hint="`kubectl describe` it, then `sealserve down`."
            )
        time.sleep(CHECK_SECONDS)


def _called(name: ObjectName) -> str:
    return f"{name.kind.lower()}/{name.name}"


def _lines(made: Manifest) -> list[str]:
    return yaml.safe_dump(made, sort_keys=True).splitlines(keepends=True)
