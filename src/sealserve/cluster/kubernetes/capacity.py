"""The EPC that replicas request, and the number of replicas that fit on each node. The EPC of a pod is fixed.

Source: https://github.com/intel/intel-device-plugins-for-kubernetes/tree/main/cmd/sgx_plugin (``sgx.intel.com/epc``, in
bytes); the clouds' plugins, whose units may differ, in `sealserve.clouds`.
"""

from collections.abc import Mapping, Sequence

from sealserve.clouds.catalog import epc_unit
from sealserve.cluster.kubernetes.render_context import Manifest, RenderContext, quantity
from sealserve.deployment import KubernetesSection

_TRANSIENT = "node.kubernetes.io/"  # taints for temporary conditions of a node


def epc_of_replica(context: RenderContext) -> str | None:
    """Return the EPC of one replica as a quantity of the plugin's resource. None for a simulated replica."""
    if context.settings.resources.epc is not None:
        return context.settings.resources.epc
    unit = epc_unit(context.deployment.target.cloud, context.settings.resources.epc_resource)
    return None if context.simulated else str(-(-context.shipped.epc // unit))


def epc_of_deployment(running: Manifest, settings: KubernetesSection) -> str | None:
    """Return the EPC of one replica of a Deployment in the cluster, or None."""
    (server,) = running["spec"]["template"]["spec"]["containers"]
    asked: str | None = server["resources"].get("limits", {}).get(settings.resources.epc_resource)
    return asked


def fitting_replicas(asked: str, settings: KubernetesSection, nodes: Sequence[Manifest]) -> Mapping[str, int]:
    """Return how many replicas fit on each eligible node, by the node's name. Empty if they request no EPC.

    Args:
        asked: EPC of one replica.
        settings: The section ``[kubernetes]``.
        nodes: The cluster's nodes, as the API returns them.
    """
    if not (each := quantity(asked)):
        return {}
    return {
        node["metadata"]["name"]: quantity(allocatable(node).get(settings.resources.epc_resource, "0")) // each
        for node in nodes
        if may_run(node, settings)
    }


def allocatable(node: Manifest) -> Mapping[str, str]:
    """Return the resources that a node offers to pods."""
    offered: Mapping[str, str] = node.get("status", {}).get("allocatable", {})
    return offered


def may_run(node: Manifest, settings: KubernetesSection) -> bool:
    """Return whether replicas may run on a node: it has the required labels, and only taints that they tolerate.

    Source: https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/.
    """
    labels = node["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in settings.scheduling.node_selector.items()):
        return False
    taints = node.get("spec", {}).get("taints") or ()
    return not any(
        taint["effect"] != "PreferNoSchedule"
        and taint["key"] not in settings.scheduling.tolerations
        and not taint["key"].startswith(_TRANSIENT)
        for taint in taints
    )
