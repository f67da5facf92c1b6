import pytest

from sealserve import deployment
from sealserve.cluster.kubernetes.render_context import Manifest, RenderContext, Shipped

TOML = """
[model]
name = "resnet50"

[service]
name = "grpc.example.com"

[kubernetes]
store.source = "https://store.example.com:8443/{release}.tar"
"""


WITH_REST = TOML.replace("[service]", "[server]\nrest = true\n\n[service]\nrest_port = 9501")


ONE_WAY = TOML.replace("[service]", '[service]\ntls = "one-way"')


def make_context(text: str = "", *, platform: str = "simulated", replicas: int = 2, toml: str = TOML) -> RenderContext:
    """Return the render context of ``toml``, with ``text`` appended to its last section, ``[kubernetes]``."""
    described = deployment.parse(f'platform = "{platform}"\n{toml}{text}')
    shipped = Shipped(
        name="resnet50-0123456789ab", size=100_000_000, owner_key="-----BEGIN PUBLIC KEY-----\n",
        broker=("attestation.example.com", 4433), epc=4 * 2**30, rest=described.server.rest,
    )  # fmt: skip
    return RenderContext(deployment=described, shipped=shipped, replicas=replicas)


def node(name: str, *, epc: str = "", taint: str = "", kubelet: str = "", **labels: str) -> Manifest:
    """Return a node as the API represents it."""
    taints = [{"key": taint, "effect": "NoSchedule"}] if taint else []
    offered = {"sgx.intel.com/epc": epc, "sgx.intel.com/enclave": "20"} if epc else {}
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": taints},
        "status": {"allocatable": {"cpu": "4", **offered}, "nodeInfo": {"kubeletVersion": kubelet}},
    }


@pytest.fixture
def context() -> RenderContext:
    return make_context()
