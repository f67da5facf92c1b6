"""What a cluster lacks for a deployment, found before anything of it is made there.

Source: https://kubernetes.io/docs/reference/access-authn-authz/authorization/ (rights), https://kubernetes.io/docs/
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
from sealserve.cluster.kubernetes.render_context import Manifest, NotRenderableError, RenderContext, quantity
from sealserve.doctor.finding import Finding, Machine, Verdict
from sealserve.doctor.host_checks import SKEW
from sealserve.terms import BrokerNaming

_APPLIED: Final = ("get", "create", "patch", "delete")
# What is needed beside the objects themselves: by `up` (what pods are, and log), by this, and by both (nodes' EPC).
_LOOKED_AT: Final = (
    ("list", "v1", "Pod", ""),
    ("get", "v1", "Pod", "log"),
    ("create", "v1", "Pod", ""),
    ("delete", "v1", "Pod", ""),
    ("list", "apps/v1", "ReplicaSet", ""),
)
_LEASES: Final = "kube-node-lease"
_RENEWED: Final = timedelta(seconds=60)  # a node whose lease is older does not answer


def examine_cluster(context: RenderContext, client: ClusterClient) -> Iterator[Finding]:
    """Yield what was found; the last finding starts a pod for some seconds.

    Args:
        context: What would be deployed.
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
    yield _storage(context, client)
    yield _broker(context, client)


def check_rights(context: RenderContext, client: ClusterClient) -> None:
    """Make sure that all of a deployment may be made and removed, before a part of it is.

    Raises:
        UnavailableError: `kubernetes.rights`: Something may not, or the cluster does not know what it is.
        NotRenderableError: The deployment lacks what its objects need.
    """
    for finding in _rights(context, client):
        if finding.verdict is Verdict.MISSING:
            raise ClusterCode.KUBERNETES_RIGHTS.error(
                f"The {finding.name} are not enough: {finding.found}.", hint=finding.remedy
            )


def missing(name: str, found: str, remedy: str) -> Finding:
    """Return the finding that a cluster lacks something."""
    return _found(name, found, remedy, Verdict.MISSING)


def _found(name: str, found: str, remedy: str = "", verdict: Verdict = Verdict.OK) -> Finding:
    return Finding(machine=Machine.HOST, name=f"cluster {name}", verdict=verdict, found=found, remedy=remedy)


def _clocks(client: ClusterClient, *, here: datetime, there: datetime | None) -> Iterator[Finding]:
    """Compare this machine's clock and the nodes' with the API server's."""
    if there is None:
        yield _found("clocks", "the API server's answers have no date", "look at each clock yourself", Verdict.NOTE)
        return
    synchronise = "synchronise it (chrony, systemd-timesyncd): certificates and collateral are valid for a time"
    ahead = here - there
    wrong = [f"this machine's is {_seconds(ahead)}"] if abs(ahead) > SKEW else []
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
            wrong.append(f"that of node {name} is {_seconds(ahead)}")
        elif -ahead > _RENEWED:
            silent.append(name)
    if wrong:
        yield missing("clocks", f"against the API server's, {', '.join(wrong)}", synchronise)
    elif refused:
        yield _found("clocks", refused, "a role that may list leases in kube-node-lease", Verdict.NOTE)
    elif silent:
        yield _found("clocks", f"no sign for a minute: {', '.join(silent)}",
                     "the node is down, or its clock is behind", Verdict.NOTE)  # fmt: skip
    else:
        yield _found("clocks", f"this machine and {len(leases)} nodes, within {SKEW.seconds} s")


def _seconds(ahead: timedelta) -> str:
    seconds = ahead.total_seconds()
    return f"{abs(seconds):.0f} s {'ahead' if seconds > 0 else 'behind'}"


def _rights(context: RenderContext, client: ClusterClient) -> Iterator[Finding]:
    """Ask for the right to each thing that `up` and `down` do."""
    space = context.settings.namespace
    made = objects(
        context,
        platform_files={} if context.simulated else None,
        broker_files={} if context.settings.broker.dangerous_inside else None,  # the kinds of objects are what counts
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
            "install what defines them, or another kubernetes.ingress.kind, or kubernetes.monitoring.enabled = false"
        )
        yield missing("kinds", f"not known there: {', '.join(unknown)}", remedy)
    if denied:
        yield missing("rights", f"denied: {', '.join(denied)}",
                      f"`kubectl create role`, `clusterrole` and their bindings, by an administrator; "
                      f"`kubectl auth can-i --list --namespace {space}` shows what there is")  # fmt: skip
    else:
        yield _found("rights", f"all {len(asked)} that `up` and `down` need")


def _lacking_for_namespace(context: RenderContext, client: ClusterClient) -> Iterator[str]:
    """Yield the rights to make and remove the namespace that are lacking; one that is there stays."""
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
    """Look at what the nodes offer to enclaves."""
    settings = context.settings
    try:
        nodes = client.find("v1", "Node", "", "")
    except ClusterRefusedError as error:
        yield missing("device plugin", error.message, "a cluster role that may list nodes")
        return
    usable = [node for node in nodes if may_run(node, settings)]
    asked = epc_of_replica(context)
    if asked is None:
        yield _found("device plugin", "not needed: enclaves are simulated, and protect nothing", verdict=Verdict.NOTE)
        return
    resources = list(filter(None, (settings.resources.epc_resource, settings.resources.enclave_resource)))
    with_sgx = [node for node in usable if all(allocatable(node).get(name, "0") != "0" for name in resources)]
    if not with_sgx:
        cloud = context.deployment.target.cloud
        plugin = preset_of(cloud).kubernetes.device_plugin.value if cloud else (
            "Intel's SGX device plugin (docs/how-to/kubernetes.md), or kubernetes.resources.epc_resource and "
            "enclave_resource as your plugin calls them"
        )  # fmt: skip
        aside = (
            f"; {len(nodes) - len(usable)} nodes are not selected or are tainted" if len(usable) < len(nodes) else ""
        )
        yield missing("device plugin", f"none of {len(usable)} nodes offers {' and '.join(resources)}{aside}", plugin)
        return
    yield _found("device plugin", f"{len(with_sgx)} of {len(nodes)} nodes offer {' and '.join(resources)}")
    if not quantity(asked):
        yield _found("EPC", "how much a replica takes is known when an enclave is built", verdict=Verdict.NOTE)
        return
    fitting = fitting_replicas(asked, settings, with_sgx)
    most, wanted = sum(fitting.values()), max(context.replicas, settings.autoscaler.max_replicas or 0)
    room = ", ".join(f"{name}: {count}" for name, count in sorted(fitting.items()))
    found = f"replicas of {asked} that fit: {room}; wanted: {wanted}"
    if wanted > most:
        yield missing("EPC", found, "fewer replicas (target.replicas, kubernetes.autoscaler.max_replicas), more "
                      "nodes, or a smaller enclave (`sealserve enclave manifest --explain`)")  # fmt: skip
    elif wanted == most:
        yield _found("EPC", found, "a roll-out needs room for one more: nothing that serves ends before", Verdict.NOTE)
    else:
        yield _found("EPC", found)


def _storage(context: RenderContext, client: ClusterClient) -> Finding:
    """Look at the claim that releases are on, if they are on one."""
    settings = context.settings
    name = sources.claim_of(context)
    if name is None:
        return _found("storage", "not needed: pods fetch the release into a folder of their own")
    try:
        claim = client.get(ObjectName("v1", "PersistentVolumeClaim", settings.namespace, name))
        classes = [item["metadata"]["name"] for item in client.find("storage.k8s.io/v1", "StorageClass", "", "")]
    except ClusterRefusedError as error:
        return _found("storage", error.message, "a role that may read claims and storage classes", Verdict.NOTE)
    cloud = context.deployment.target.cloud
    usual = preset_of(cloud).kubernetes.shared_storage_class if cloud else None
    advice = f"; on this cloud: {usual.value or usual.note}" if usual else ""
    remedy = f"a PersistentVolumeClaim with accessModes [ReadWriteMany] of a class that allows it{advice}"
    if claim is None and settings.store.storage_class in classes:
        return _found("storage", f"`up` makes the claim {name} of class {settings.store.storage_class}")
    return _claim(claim, f"{settings.namespace}/{name}", classes, remedy)


def _claim(claim: Manifest | None, name: str, classes: Sequence[str], remedy: str) -> Finding:
    known = f"storage classes here: {', '.join(classes) or 'none'}"
    if claim is None:
        return missing("storage", f"no claim {name}; {known}", remedy)
    used, modes = claim["spec"].get("storageClassName"), claim["spec"].get("accessModes") or []
    if "ReadWriteMany" not in modes:
        return missing("storage", f"the claim {name} is {', '.join(modes)}: not for pods on all nodes; {known}", remedy)
    phase = claim.get("status", {}).get("phase", "Pending")
    found = f"the claim {name} is {phase}, of class {used or 'none'}"
    if phase == "Bound":
        return _found("storage", found)
    if used in classes:
        return _found("storage", found, "fine if the class waits for the first pod", Verdict.NOTE)
    return missing("storage", f"{found}; {known}", remedy)


def _broker(context: RenderContext, client: ClusterClient) -> Finding:
    """Ask a pod for the broker's name, and whether anybody answers there."""
    name, port = context.shipped.broker
    settings = context.settings
    # What `up` adds to the cluster's names is not there yet: its address is tried instead.
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
        return _found("broker", f"not tried: {error.message}", error.hint or "", Verdict.NOTE)
    return _judge(reached, name=name, expected=expected, port=port)


def _judge(reached: Reached, *, name: str, expected: str, port: int) -> Finding:
    if not reached.addresses:
        return missing("broker", f"a pod cannot resolve {expected or name}: {reached.error}",
                       'a record in DNS, or kubernetes.broker.naming = "coredns-hosts" with broker.ip: '
                       "an enclave sees no other source of names")  # fmt: skip
    added = f"{name} is added by `up` and leads to {expected}" if expected else name
    at = f"{added} ({', '.join(reached.addresses)})"
    if not reached.answers:
        remedy = "`sealserve broker run` (`up` starts a simulated one), broker.listen, or a firewall between"
        found = f"{at}, where nobody answers on port {port} yet: {reached.error}"
        return _found("broker", found, remedy, Verdict.NOTE)
    return _found("broker", f"{at} answers a pod on port {port}")
