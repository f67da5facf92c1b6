"""The Kubernetes target: applies a deployment's objects, watches its pods, and removes what it created.

The owner's broker runs on this machine or elsewhere, outside the cluster. In simulation, this target also starts the
broker and the vendor's service on this machine.
"""

import base64
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from sealserve.bundle import BrokerPlace, Bundle, Destination, EnclavePlace
from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.container_layout import ENCLAVE
from sealserve.cluster.kubernetes import front, inside_broker, shipping
from sealserve.cluster.kubernetes import replicas as replicas_module
from sealserve.cluster.kubernetes.broker_name import COREFILE, add_entry
from sealserve.cluster.kubernetes.capacity import epc_of_deployment, epc_of_replica, fitting_replicas
from sealserve.cluster.kubernetes.cluster_client import ClusterClient, ObjectName, tidy
from sealserve.cluster.kubernetes.objects import namespace, objects
from sealserve.cluster.kubernetes.platform import PART as PLATFORM
from sealserve.cluster.kubernetes.pod_logs import deployment_logs
from sealserve.cluster.kubernetes.pod_roles import is_replica, roles
from sealserve.cluster.kubernetes.preconditions import check_readiness, check_rights
from sealserve.cluster.kubernetes.progress import UNREADY, run_of, state_of
from sealserve.cluster.kubernetes.record import Record
from sealserve.cluster.kubernetes.removal import called, remove, wait_gone
from sealserve.cluster.kubernetes.render_context import Manifest, NotRenderableError, RenderContext
from sealserve.cluster.kubernetes.rollout import Rollout, deployment_name, restarts
from sealserve.cluster.kubernetes.service_address import addresses
from sealserve.cluster.kubernetes.takeover import PREVIOUS, take_over
from sealserve.cluster.local.owner_services import OwnerServices, stop_services
from sealserve.cluster.logs.certificate_log import logged_certificate
from sealserve.cluster.logs.merge import LogLine
from sealserve.cluster.logs.run_log import LoggedError
from sealserve.cluster.logs.selection import LogSelection
from sealserve.cluster.target import (
    BROKER,
    NGINX,
    PCS,
    REPLICA,
    Health,
    PartStatus,
    Scaled,
    State,
    Tell,
    quietly,
)
from sealserve.deployment import Deployment
from sealserve.tcp_ports import SERVICE_PORT
from sealserve.terms import BrokerNaming, PlatformKind, RuntimeKind
from sealserve.workspace import Workspace


class KubernetesTarget:
    """A deployment in a cluster.

    Args:
        workspace: The workspace, with the folders of the roles that this machine has.
        deployment: The deployment that the workspace describes.
        tell: Called with a short progress text before each step.
    """

    def __init__(self, workspace: Workspace, deployment: Deployment, *, tell: Tell = quietly) -> None:
        if deployment.runtime is RuntimeKind.GRAMINE_DIRECT:
            raise ClusterCode.TARGET_UNSUPPORTED.error(
                "The Kubernetes target does not support gramine-direct, but sealserve.toml has platform = "
                "'gramine-direct'.",
                hint="Set platform = 'simulated' or 'sgx', or use the target local or docker.",
            )
        self._workspace = workspace
        self._deployment = deployment
        self._tell = tell
        self._record = Record(workspace)
        self._open: ClusterClient | None = None

    @property
    def _client(self) -> ClusterClient:
        if self._open is None:
            self._open = ClusterClient()
        return self._open

    @property
    def _runs_services(self) -> bool:
        """Whether the broker and the vendor's service are processes of this machine."""
        inside = self._deployment.kubernetes.broker.dangerous_inside
        return self._deployment.platform is PlatformKind.SIMULATED and not inside

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
    def _front_name(self) -> str:
        return deployment_name(self._deployment.kubernetes.namespace, front.PART).name

    @property
    def _autoscaler_name(self) -> ObjectName:
        name = self._deployment_name
        return ObjectName("autoscaling/v2", "HorizontalPodAutoscaler", name.namespace, name.name)

    def check(self, release: Path, *, broker_here: bool) -> None:
        """Check that the cluster's API server answers; see `Target.check`."""
        del release, broker_here
        _ = self._client

    def destination(self, release: str, replicas: int) -> Destination:
        """Return the cluster as the destination of a release; see `Target.destination`.

        Each pod has its own IP address, so a single enclave with a fixed port works for all of them.
        """
        del release, replicas
        settings = self._deployment.kubernetes
        # Other deployments are rejected later, when the broker's objects are created. This requires no keys.
        inside = settings.broker.dangerous_inside and self._deployment.platform is PlatformKind.SIMULATED
        return Destination(
            deployment=self._deployment,
            enclaves=(EnclavePlace(name=ENCLAVE, port=SERVICE_PORT),),
            in_image=True,
            inventory=settings.images.inventory,
            on_this_machine=False,
            store=settings.store.folder,
            broker=BrokerPlace.CLUSTER if inside else BrokerPlace.PROCESS,
        )

    def up(self, bundle: Bundle, replicas: int) -> Sequence[str]:
        """Apply the deployment's objects, and wait until every replica serves the release. See `Target.up`.

        Raises:
            VerificationError: `kubernetes.rollout-refused` if the new enclaves are rejected. The roll-out stops, and
                old replicas continue to serve.
            UnavailableError: `kubernetes.rollout-slow` if it takes longer than ``kubernetes.start_seconds``.
            SealserveError: A requirement is missing, or the API server rejected a request.
        """
        client = self._client
        # 1. Reject a deployment that cannot work, before any object is applied.
        context = shipping.render_context(self._workspace, self._deployment, bundle, replicas=replicas)
        check_rights(context, client)
        check_readiness(context, client)
        self._check_room(epc_of_replica(context), max(context.replicas, context.settings.autoscaler.max_replicas or 0))
        # 2. In simulation, start the services of the owner's machine. The owner starts a genuine broker separately.
        if bundle.broker is not None:
            self._start_services()
        # 3. Describe the objects. The new Deployment inherits some state from the running one.
        made = list(self._objects(context, bundle))
        taken = take_over(made, client.get(self._deployment_name), context)
        # 4. Apply them. Each object is recorded before it is created, so that `down` finds it after an interruption.
        space = namespace(context)
        if client.get(ObjectName.of(space)) is None:
            self._record.add(ObjectName.of(space))
            client.apply(space)
        if context.settings.broker.naming is BrokerNaming.COREDNS_HOSTS:
            self._name_broker(context)
        self._tell("applying the objects")
        for item in made:
            self._record.add(ObjectName.of(item))
            client.apply(item)
        # 5. Wait for the pods. Then remove objects that are no longer described.
        self._rollout.wait(taken.replicas)
        left = self._no_longer_described(context, made)
        for name in left:
            self._tell(f"removing {called(name)}, which is no longer described")
            remove(client, name)
        for name in left:
            if name != COREFILE:
                wait_gone(client, name, self._tell)
            self._record.remove(name)
        return taken.replaced

    def difference(self, bundle: Bundle, replicas: int) -> str:
        """Return a unified diff of what `up` would change. Nothing is changed.

        A dry run does not read the owner's keys. So the objects of a broker in the cluster are not compared. The
        simulated platform's objects are not compared if the platform does not exist yet.
        """
        client = self._client
        context = shipping.render_context(self._workspace, self._deployment, bundle, replicas=replicas)
        texts: list[str] = []
        exists = client.get(ObjectName.of(namespace(context))) is not None
        described = list(self._objects(context, bundle))
        take_over(described, client.get(self._deployment_name) if exists else None, context)
        unknown = {context.name(inside_broker.PART)} if context.settings.broker.dangerous_inside else set()
        if not self._workspace.host.platform.is_dir():
            unknown.add(context.name(PLATFORM))
        made = [item for item in described if item["metadata"]["name"] not in unknown]
        for item in made if exists else [namespace(context), *made]:  # an existing namespace is not changed
            name = ObjectName.of(item)
            before = client.get(name) if exists else None
            after = client.apply(item, dry_run=True) if exists else item
            lines = [_lines(tidy(side)) if side else [] for side in (before, after)]
            if item["kind"] == "Secret":
                lines = [[f"# {len(text)} lines of a Secret\n"] if text else [] for text in lines]
            label = f"{name.kind.lower()}/{name.name}"
            texts += difflib.unified_diff(lines[0], lines[1], f"cluster/{label}", f"deployment/{label}")
        texts += [
            f"--- cluster/{called(name)}\n+++ /dev/null\n" for name in self._no_longer_described(context, described)
        ]
        return "".join(texts)

    def to_scale(self, replicas: int) -> Scaled | None:
        """Return None: the cluster already has everything that more replicas need. See `Target.to_scale`."""
        del replicas
        return None

    def scale(self, replicas: int, bundle: Bundle | None = None) -> None:
        """Change the number of replicas; see `Target.scale`."""
        del bundle
        running = self._client.get(self._deployment_name)
        if running is None:
            raise ClusterCode.TARGET_NOT_UP.error(
                "The deployment is not running: it has no replicas to scale.", hint="Start it with `sealserve up`."
            )
        if replicas > running["spec"]["replicas"]:
            self._check_room(epc_of_deployment(running, self._deployment.kubernetes), replicas)
        if (most := self._deployment.kubernetes.autoscaler.max_replicas) is not None:
            if replicas > most:
                raise ClusterCode.TARGET_UNSUPPORTED.error(
                    f"The autoscaler's limit is {most} replicas, got {replicas}.",
                    hint="Raise kubernetes.autoscaler.max_replicas in sealserve.toml, then run `sealserve up`.",
                )
            if self._client.get(self._autoscaler_name) is not None:
                self._client.merge(self._autoscaler_name, {"spec": {"minReplicas": replicas}})
        self._client.merge(self._deployment_name, {"spec": {"replicas": replicas}})
        self._rollout.wait(replicas)

    def previous_release(self) -> str:
        """Return the name of the release that was served before the current release.

        Raises:
            InputError: `target.not-up` if no other release was served before.
        """
        running = self._client.get(self._deployment_name) or {"metadata": {}}
        name = running["metadata"].get("annotations", {}).get(PREVIOUS)
        if not name:
            raise ClusterCode.TARGET_NOT_UP.error(
                "The roll-back is not possible: no other release was served before.",
                hint="Name the release to serve: `sealserve up --release NAME`.",
            )
        return str(name)

    def status(self) -> Sequence[PartStatus]:
        """Return the status of every pod, and of the parts on this machine."""
        if not self._record.names():
            return []
        return [*(self._pod_status(role, pod) for role, pod in roles(self._rollout.pods())), *self._local_status()]

    def expected(self, replicas: int) -> Sequence[str]:
        """Return the roles of the parts that should exist. The cluster's Deployments contain the wanted numbers."""
        del replicas
        if not self._record.names():
            return ()
        space = self._deployment.kubernetes.namespace
        wanted = [self._client.get(deployment_name(space, part)) or {} for part in (front.PART, replicas_module.PART)]
        fronts, servers = (int(found.get("spec", {}).get("replicas", 0)) for found in wanted)
        local = [] if not self._runs_services else [BROKER, PCS]
        return [*[NGINX] * fronts, *(f"{REPLICA}{index}" for index in range(servers)), *local]

    def endpoints(self) -> Mapping[str, str]:
        """Return where users reach the service: the address of its Service, if the cluster has assigned one."""
        name = ObjectName("v1", "Service", self._deployment.kubernetes.namespace, self._front_name)
        found = self._client.get(name) if self._record.names() else None
        return {} if found is None else addresses(found)

    def logs(self, part: str | None, selection: LogSelection) -> Iterator[LogLine]:
        """Yield the log lines of the pods and of the parts on this machine; see `Target.logs`."""
        local = [process.role for process in self._local_status()]
        pods = self._rollout.pods()
        return deployment_logs(self._client, self._workspace, part, selection, pods=pods, local=local)

    def _start_services(self) -> None:
        if self._runs_services:
            OwnerServices(self._workspace, self._deployment, tell=self._tell).start(PCS, BROKER)

    def _objects(self, context: RenderContext, bundle: Bundle) -> Sequence[Manifest]:
        files = None
        if context.simulated:
            files = {
                path.name: base64.b64encode(path.read_bytes()).decode()
                for path in sorted(self._workspace.host.platform.glob("*"))
                if path.is_file()
            }
        return objects(context, platform_files=files, broker_files=self._broker_files(context, bundle))

    def _broker_files(self, context: RenderContext, bundle: Bundle) -> Mapping[str, str] | None:
        if not context.settings.broker.dangerous_inside:
            return None
        if bundle.broker is None:
            raise NotRenderableError(
                "This machine is only the host, so it has no keys for a broker in the cluster.",
                hint="Set kubernetes.broker.dangerous_inside = false: it requires that owner and host are one machine.",
            )
        return inside_broker.material(context, bundle.broker)

    def _no_longer_described(self, context: RenderContext, made: Sequence[Manifest]) -> Sequence[ObjectName]:
        """Return recorded objects that are no longer described. For example, a trial's Secret must not remain."""
        described = {ObjectName.of(item) for item in [namespace(context), *made]}
        if context.settings.broker.naming is BrokerNaming.COREDNS_HOSTS:
            described.add(COREFILE)
        before = [
            name for name in self._record.names() if name.namespace in {context.settings.namespace, "kube-system"}
        ]
        return [name for name in before if name not in described]

    def _check_room(self, asked: str | None, wanted: int) -> None:
        """Compare the EPC that replicas request with the EPC of all nodes."""
        if asked is None:
            return
        settings = self._deployment.kubernetes
        most = sum(fitting_replicas(asked, settings, self._client.find("v1", "Node", "", "")).values())
        if wanted > most:
            raise ClusterCode.KUBERNETES_EPC.error(
                f"{wanted} replicas with {asked} of EPC each do not fit: the nodes' "
                f"{settings.resources.epc_resource} is enough for {most}.",
                hint="Use fewer replicas (target.replicas, kubernetes.autoscaler.max_replicas), more nodes, or a "
                "smaller enclave. `sealserve doctor host --target kubernetes` shows the capacity of each node.",
            )

    def _name_broker(self, context: RenderContext) -> None:
        config = self._client.get(COREFILE)
        if config is None:
            raise NotRenderableError(
                "The broker's name cannot be added to the cluster's DNS: no ConfigMap kube-system/coredns exists.",
                hint='Set kubernetes.broker.naming = "dns".',
            )
        text = config["data"]["Corefile"]
        named = add_entry(text, context.shipped.broker[0], context.settings.broker.ip)
        if named != text:
            self._tell(f"adding {context.shipped.broker[0]} to the cluster's DNS")
            self._record.add(COREFILE)
            self._client.merge(COREFILE, {"data": {"Corefile": named}})

    def _pod_status(self, role: str, pod: Manifest) -> PartStatus:
        log = self._rollout.log(pod)
        state, reason = state_of(pod, log)
        health = Health.HEALTHY if state in {State.SERVING, State.RUNNING} else Health.UNKNOWN
        if reason == UNREADY:
            health = Health.UNHEALTHY
        labels = pod["metadata"]["labels"]
        if state is State.SERVING and role != NGINX and not is_replica(pod):
            state = State.RUNNING
        run = run_of(pod)
        error = LoggedError(text=reason, time=run.ended) if reason else run.error
        return PartStatus(
            role=role,
            state=state,
            health=health,
            instance=pod["metadata"]["name"],
            release=labels.get(replicas_module.RELEASE_LABEL, ""),
            started=run.started,
            restarts=restarts(pod),
            error=error.text if error else "",
            error_time=error.time if error else None,
            certificate=logged_certificate(log) if state is State.SERVING else None,
            detail=pod["spec"].get("nodeName") or "",
        )

    def _local_status(self) -> Sequence[PartStatus]:
        """Return the status of the parts on this machine. Parts of an earlier setting are listed only if they run."""
        found = OwnerServices(self._workspace, self._deployment).status()
        return [part for part in found if self._runs_services or part.state is not State.ENDED]


def open_target(workspace: Workspace, deployment: Deployment, *, tell: Tell = quietly) -> KubernetesTarget:
    """Return the target; see `TargetModule`."""
    return KubernetesTarget(workspace, deployment, tell=tell)


def running(workspace: Workspace) -> Sequence[str]:
    """Return the objects of a workspace in the cluster; see `TargetModule`."""
    return [called(name) for name in Record(workspace).names()]


def stop_all(workspace: Workspace, *, tell: Tell = quietly) -> Sequence[str]:
    """Remove exactly the objects that were created, including the namespace, and wait until they are gone."""
    record = Record(workspace)
    names = record.names()
    stopped = []
    if names:
        client = ClusterClient()
        for name in reversed(names):
            tell(f"removing {called(name)}")
            remove(client, name)
        for name in names:
            if name != COREFILE:
                wait_gone(client, name, tell)
            record.remove(name)
            stopped.append(called(name))
    return [*stopped, *stop_services(workspace, tell=tell)]


def _lines(made: Manifest) -> list[str]:
    return yaml.safe_dump(made, sort_keys=True).splitlines(keepends=True)
