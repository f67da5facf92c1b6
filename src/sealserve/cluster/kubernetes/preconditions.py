"""Checks whether a cluster meets the requirements of a deployment, before any object is created.

Source: https://kubernetes.io/docs/reference/access-authn-authz/authorization/ (permissions), https://kubernetes.io/docs/
concepts/architecture/leases/ (a node renews its lease every ten seconds, by its own clock).
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from sealserve.clouds.catalog import preset_of
from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.kubernetes import sources
from sealserve.cluster.kubernetes.broker_name import COREFILE, is_named
from sealserve.cluster.kubernetes.capacity import allocatable, epc_of_replica, fitting_replicas, may_run
from sealserve.cluster.kubernetes.cluster_client import (
    ClusterClient,
    ClusterRefusedError,
    ClusterUnreachableError,
    KindUnknownError,
    ObjectName,
)
from sealserve.cluster.kubernetes.objects import namespace, objects
from sealserve.cluster.kubernetes.reach_probe import ProbeError, Reached, reach
from sealserve.cluster.kubernetes.readiness import FEATURE_GATE, unsupported
from sealserve.cluster.kubernetes.render_context import Manifest, NotRenderableError, RenderContext, quantity
from sealserve.doctor.finding import Finding, Machine, Verdict
from sealserve.doctor.host_checks import SKEW
from sealserve.terms import BrokerNaming

_APPLIED: Final = ("get", "create", "patch", "delete")
# Permissions besides those for the objects: for `up` (pod status and log), for these checks, and for both (nodes' EPC).
_LOOKED_AT: Final = (
    ("list", "v1", "Pod", ""),
    ("get", "v1", "Pod", "log"),
    ("create", "v1", "Pod", ""),
    ("delete", "v1", "Pod", ""),
    ("list", "apps/v1", "ReplicaSet", ""),
)
_LEASES: Final = "kube-node-lease"
_RENEWED: Final = timedelta(seconds=60)  # a node with an older lease does not respond


def examine_cluster(context: RenderContext, client: ClusterClient) -> Iterator[Finding]:
    """Yield the findings about a cluster. The last check runs a pod for a few seconds.

    Args:
        context: The deployment that would be applied.
        client: The cluster.
    """
    try:
        version, there = client.version_and_time()
    except ClusterUnreachableError as error:
        yield missing("API", error.message, error.hint or "")
        return
    yield _found("API", f"{client.address}, Kubernetes {version}")
    yield from _clocks(client, here=datetime.now(UTC), there=there)
    try:
        yield from _rights(context, client)
    except NotRenderableError as error:
        yield missing("objects", error.message, error.hint or "")
    yield from _nodes(context, client)
    yield from _readiness(context, client)
    yield _storage(context, client)
    yield _broker(context, client)


def check_rights(context: RenderContext, client: ClusterClient) -> None:
    """Check that all objects of a deployment may be created and removed, before any is created.

    Raises:
        UnavailableError: `kubernetes.rights` if a permission is missing, or the cluster does not support a kind.
        NotRenderableError: The deployment lacks settings that its objects require.
    """
    for finding in _rights(context, client):
        if finding.verdict is Verdict.MISSING:
            raise ClusterCode.KUBERNETES_RIGHTS.error(
                f"The cluster does not meet a requirement ({finding.name}): {finding.found}.",
                hint=f"{finding.remedy[:1].upper()}{finding.remedy[1:]}.",
            )


def check_readiness(context: RenderContext, client: ClusterClient) -> None:
    """Check that the cluster supports the readiness probe of the replicas, before any object is created.

    Raises:
        UnavailableError: `kubernetes.grpc-readiness` if it does not.
    """
    for finding in _readiness(context, client):
        if finding.verdict is Verdict.MISSING:
            raise ClusterCode.KUBERNETES_GRPC_READINESS.error(
                f"The cluster does not support kubernetes.grpc_readiness: {finding.found.rstrip('.')}.",
                hint=f"{finding.remedy[:1].upper()}{finding.remedy[1:]}.",
            )


def missing(name: str, found: str, remedy: str) -> Finding:
    """Return the finding that a cluster does not meet a requirement."""
    return _found(name, found, remedy, Verdict.MISSING)


def _found(name: str, found: str, remedy: str = "", verdict: Verdict = Verdict.OK) -> Finding:
    return Finding(machine=Machine.HOST, name=f"cluster {name}", verdict=verdict, found=found, remedy=remedy)


def _clocks(client: ClusterClient, *, here: datetime, there: datetime | None) -> Iterator[Finding]:
    """Compare this machine's clock and the nodes' clocks with the API server's."""
    if there is None:
        yield _found(
            "clocks", "unknown: the API server's answers have no date", "check the clocks yourself", Verdict.NOTE
        )
        return
    synchronise = "synchronize it (chrony, systemd-timesyncd): certificates and collateral depend on the time"
    ahead = here - there
    wrong = [f"this machine's clock is {_seconds(ahead)}"] if abs(ahead) > SKEW else []
    silent = []
    leases: Sequence[Manifest] = ()
    refused = ""
    try:
        leases = client.find("coordination.k8s.io/v1", "Lease", _LEASES, "")
    except ClusterRefusedError as error:
        refused = error.message
    for lease in leases:
        name, renewed = lease["metadata"]["name"], lease.get("spec", {}).get("renewTime")
        if renewed is None:
            continue
        ahead = datetime.fromisoformat(renewed) - there
        if ahead > SKEW:
            wrong.append(f"the clock of node {name} is {_seconds(ahead)}")
        elif -ahead > _RENEWED:
            silent.append(name)
    if wrong:
        yield missing("clocks", f"compared with the API server's, {', '.join(wrong)}", synchronise)
    elif refused:
        yield _found("clocks", refused, "use a role that may list leases in kube-node-lease", Verdict.NOTE)
    elif silent:
        yield _found("clocks", f"no lease renewal for a minute: {', '.join(silent)}",
                     "check whether the node is down, or its clock is behind", Verdict.NOTE)  # fmt: skip
    else:
        yield _found("clocks", f"this machine and {len(leases)} nodes agree within {SKEW.seconds} s")


def _seconds(ahead: timedelta) -> str:
    seconds = ahead.total_seconds()
    return f"{abs(seconds):.0f} s {'ahead' if seconds > 0 else 'behind'}"


def _rights(context: RenderContext, client: ClusterClient) -> Iterator[Finding]:
    """Check every permission that `up` and `down` need."""
    space = context.settings.namespace
    made = objects(
        context,
        platform_files={} if context.simulated else None,
        broker_files={} if context.settings.broker.dangerous_inside else None,  # only the kinds of objects matter
    )
    wanted = [(verb, item["apiVersion"], item["kind"], "", space) for item in made for verb in _APPLIED]
    wanted += [(verb, version, kind, part, space) for verb, version, kind, part in _LOOKED_AT]
    wanted.append(("list", "v1", "Node", "", ""))
    if context.settings.broker.naming is BrokerNaming.COREDNS_HOSTS:
        wanted += [(verb, "v1", "ConfigMap", "", COREFILE.namespace) for verb in ("get", "patch")]
    denied: dict[str, None] = {}
    unknown: dict[str, None] = {}
    asked = dict.fromkeys(wanted)
    for verb, version, kind, part, where in asked:
        try:
            lacking = client.may(verb, version, kind, namespace=where, subresource=part)
        except KindUnknownError:
            unknown[f"{kind} ({version})"] = None
        else:
            if lacking is not None:
                denied[f"{lacking} in {where}" if where else lacking] = None
    denied |= dict.fromkeys(_lacking_for_namespace(context, client))
    if unknown:
        remedy = (
            "install their definitions (CRDs), set a different kubernetes.ingress.kind, or set "
            "kubernetes.monitoring.enabled = false"
        )
        yield missing("kinds", f"not supported by the cluster: {', '.join(unknown)}", remedy)
    if denied:
        yield missing("rights", f"denied: {', '.join(denied)}",
                      f"ask an administrator for `kubectl create role` or `clusterrole` with bindings; "
                      f"`kubectl auth can-i --list --namespace {space}` shows the current permissions")  # fmt: skip
    else:
        yield _found("rights", f"all {len(asked)} that `up` and `down` need")


def _lacking_for_namespace(context: RenderContext, client: ClusterClient) -> Iterator[str]:
    """Yield the missing permissions to create and remove the namespace. None are needed if it already exists."""
    try:
        if client.get(ObjectName.of(namespace(context))) is not None:
            return
    except ClusterRefusedError:
        yield "get namespaces"
    for verb in ("create", "patch", "delete"):
        lacking = client.may(verb, "v1", "Namespace")
        if lacking is not None:
            yield lacking


def _nodes(context: RenderContext, client: ClusterClient) -> Iterator[Finding]:
    """Check the resources for enclaves that the nodes offer."""
    settings = context.settings
    try:
        nodes = client.find("v1", "Node", "", "")
    except ClusterRefusedError as error:
        yield missing("device plugin", error.message, "use a cluster role that may list nodes")
        return
    usable = [node for node in nodes if may_run(node, settings)]
    asked = epc_of_replica(context)
    if asked is None:
        yield _found(
            "device plugin",
            "not needed: enclaves are simulated, and do not protect the model from the hosts",
            verdict=Verdict.NOTE,
        )
        return
    resources = list(filter(None, (settings.resources.epc_resource, settings.resources.enclave_resource)))
    with_sgx = [node for node in usable if all(allocatable(node).get(name, "0") != "0" for name in resources)]
    if not with_sgx:
        cloud = context.deployment.target.cloud
        plugin = preset_of(cloud).kubernetes.device_plugin.value if cloud else (
            "install Intel's SGX device plugin (docs/how-to/kubernetes.md), or set kubernetes.resources.epc_resource "
            "and enclave_resource to the names of your plugin"
        )  # fmt: skip
        aside = (
            f"; {len(nodes) - len(usable)} nodes are not selected or are tainted" if len(usable) < len(nodes) else ""
        )
        yield missing("device plugin", f"none of {len(usable)} nodes offers {' and '.join(resources)}{aside}", plugin)
        return
    yield _found("device plugin", f"{len(with_sgx)} of {len(nodes)} nodes offer {' and '.join(resources)}")
    if not quantity(asked):
        yield _found("EPC", "the EPC of a replica is not known before an enclave is built", verdict=Verdict.NOTE)
        return
    fitting = fitting_replicas(asked, settings, with_sgx)
    most, wanted = sum(fitting.values()), max(context.replicas, settings.autoscaler.max_replicas or 0)
    room = ", ".join(f"{name}: {count}" for name, count in sorted(fitting.items()))
    found = f"capacity for replicas with {asked}: {room}; wanted: {wanted}"
    if wanted > most:
        yield missing("EPC", found, "use fewer replicas (target.replicas, kubernetes.autoscaler.max_replicas), more "
                      "nodes, or a smaller enclave (`sealserve enclave manifest --explain`)")  # fmt: skip
    elif wanted == most:
        yield _found("EPC", found, "leave capacity for one more: a roll-out starts a replica before it stops another",
                     Verdict.NOTE)  # fmt: skip
    else:
        yield _found("EPC", found)


def _readiness(context: RenderContext, client: ClusterClient) -> Iterator[Finding]:
    """Check the readiness probe of the replicas, if it calls gRPC."""
    if not context.settings.grpc_readiness:
        return
    name = "gRPC readiness"
    try:
        reasons = list(unsupported(context, client))
    except ClusterRefusedError as error:
        yield missing(name, error.message, "use a role that may list nodes, and create and patch pods")
        return
    except NotRenderableError as error:
        yield missing(name, error.message, error.hint or "")
        return
    if reasons:
        yield missing(name, "; ".join(reasons),
                      f"turn on the feature gate {FEATURE_GATE} (Kubernetes 1.37 or later) in the API server and in "
                      "each kubelet, or set kubernetes.grpc_readiness = false")  # fmt: skip
    else:
        yield _found(name, "the API server accepts gRPC probes over TLS, and no kubelet is known to lack them")


def _storage(context: RenderContext, client: ClusterClient) -> Finding:
    """Check the PersistentVolumeClaim of the releases, if the deployment uses one."""
    settings = context.settings
    name = sources.claim_of(context)
    if name is None:
        return _found("storage", "not needed: each pod fetches the release into its own folder")
    try:
        claim = client.get(ObjectName("v1", "PersistentVolumeClaim", settings.namespace, name))
        classes = [item["metadata"]["name"] for item in client.find("storage.k8s.io/v1", "StorageClass", "", "")]
    except ClusterRefusedError as error:
        return _found("storage", error.message, "use a role that may read claims and storage classes", Verdict.NOTE)
    cloud = context.deployment.target.cloud
    usual = preset_of(cloud).kubernetes.shared_storage_class if cloud else None
    advice = f"; on this cloud: {usual.value or usual.note}" if usual else ""
    remedy = f"create a PersistentVolumeClaim with accessModes [ReadWriteMany] and a class that supports it{advice}"
    if claim is None and settings.store.storage_class in classes:
        return _found("storage", f"`up` creates the claim {name} with class {settings.store.storage_class}")
    return _claim(claim, f"{settings.namespace}/{name}", classes, remedy)


def _claim(claim: Manifest | None, name: str, classes: Sequence[str], remedy: str) -> Finding:
    known = f"storage classes in the cluster: {', '.join(classes) or 'none'}"
    if claim is None:
        return missing("storage", f"the claim {name} does not exist; {known}", remedy)
    used, modes = claim["spec"].get("storageClassName"), claim["spec"].get("accessModes") or []
    if "ReadWriteMany" not in modes:
        found = f"the claim {name} is {', '.join(modes)}, so pods on several nodes cannot share it; {known}"
        return missing("storage", found, remedy)
    phase = claim.get("status", {}).get("phase", "Pending")
    found = f"the claim {name} is {phase}, of class {used or 'none'}"
    if phase == "Bound":
        return _found("storage", found)
    if used in classes:
        return _found("storage", found, "no action is needed if the class waits for the first pod", Verdict.NOTE)
    return missing("storage", f"{found}; {known}", remedy)


def _broker(context: RenderContext, client: ClusterClient) -> Finding:
    """Check with a pod whether the broker's name resolves and the broker answers."""
    name, port = context.shipped.broker
    settings = context.settings
    # `up` has not added the name to the cluster's DNS yet, so check the broker's address instead.
    expected = ""
    try:
        if settings.broker.naming is BrokerNaming.COREDNS_HOSTS:
            config = client.get(COREFILE)
            expected = "" if config is not None and is_named(config["data"]["Corefile"]) else settings.broker.ip
        elif settings.broker.naming is BrokerNaming.EXTERNAL_NAME:
            service = client.get(ObjectName("v1", "Service", settings.namespace, context.name("broker")))
            expected = "" if service is not None else settings.broker.external_name
        reached = reach(context, client, expected or name, port)
    except (ProbeError, ClusterRefusedError) as error:
        return _found("broker", f"not checked: {error.message}", error.hint or "", Verdict.NOTE)
    return _judge(reached, name=name, expected=expected, port=port)


def _judge(reached: Reached, *, name: str, expected: str, port: int) -> Finding:
    if not reached.addresses:
        return missing("broker", f"a pod cannot resolve {expected or name}: {reached.error}",
                       'create a DNS record, or set kubernetes.broker.naming = "coredns-hosts" with broker.ip: '
                       "an enclave uses no other source of names")  # fmt: skip
    added = f"{name}, which `up` adds for {expected}" if expected else name
    at = f"{added} ({', '.join(reached.addresses)})"
    if not reached.answers:
        remedy = "start it with `sealserve broker run` (`up` does so in simulation); check broker.listen and firewalls"
        found = f"{at} does not answer on port {port} yet: {reached.error}"
        return _found("broker", found, remedy, Verdict.NOTE)
    return _found("broker", f"{at} answers a pod on port {port}")
