"""The testbed is a real Kubernetes cluster: it schedules, balances, resolves, and enforces policies and security."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from testbed.kubernetes import layout
from testbed.kubernetes.cluster import Cluster
from tests.kubernetes.conftest import Kubectl

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900)]

NODE_PORT = 30981


def busybox(*command: str) -> dict[str, Any]:
    container: dict[str, Any] = {"name": "busybox", "image": layout.BUSYBOX_IMAGE, "imagePullPolicy": "Never"}
    if command:
        container["command"] = list(command)
    return {"terminationGracePeriodSeconds": 0, "containers": [container]}


@pytest.fixture(scope="module")
def web(testbed: Cluster | None, kubectl: Kubectl) -> Iterator[str]:
    """Two pods that return their names, one on each node, behind a Service, and a client pod."""
    if testbed is None:
        pytest.skip("this looks at the testbed's own cluster")
    namespace = "test-web"
    kubectl("create", "namespace", namespace)
    labels = {"app": "web"}
    pod = busybox("sh", "-c", "echo $HOSTNAME > /tmp/index.html && exec httpd -f -p 8080 -h /tmp")
    pod["topologySpreadConstraints"] = [
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
         "labelSelector": {"matchLabels": labels}},
    ]  # fmt: skip
    template = {"metadata": {"labels": labels}, "spec": pod}
    spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}
    ports = [{"port": 80, "targetPort": 8080, "nodePort": NODE_PORT}]
    items = [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
         "spec": {"type": "NodePort", "selector": labels, "ports": ports}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client"}, "spec": busybox()},
    ]  # fmt: skip
    kubectl("-n", namespace, "apply", "-f", "-", given={"apiVersion": "v1", "kind": "List", "items": items})
    kubectl("-n", namespace, "rollout", "status", "deployment/web", "--timeout=60s")
    kubectl("-n", namespace, "wait", "pod/client", "--for=condition=Ready", "--timeout=60s")
    wait_for(lambda: ask_outside() and ask_inside(kubectl, namespace))  # kube-proxy needs a moment
    yield namespace
    kubectl("delete", "namespace", namespace, "--wait=false")


def test_pods_on_both_nodes_are_reached_by_name_and_from_outside(kubectl: Kubectl, web: str) -> None:
    pods = json.loads(kubectl("-n", web, "get", "pods", "-l", "app=web", "-o", "json"))["items"]
    assert {pod["spec"]["nodeName"] for pod in pods} == {"node-1", "node-2"}
    inside = Counter(ask_inside(kubectl, web) for _ in range(10))
    outside = Counter(ask_outside() for _ in range(10))
    names = {pod["metadata"]["name"] for pod in pods}
    assert set(inside) <= names
    assert set(inside + outside) == names


def test_a_network_policy_is_enforced(kubectl: Kubectl, web: str) -> None:
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "nobody"},
        "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"]},
    }
    assert ask_outside()
    kubectl("-n", web, "apply", "-f", "-", given=policy)
    wait_for(lambda: ask_outside() == "")
    assert ask_inside(kubectl, web) == ""
    kubectl("-n", web, "delete", "networkpolicy", "nobody")
    wait_for(lambda: ask_outside() != "")


def test_a_privileged_pod_is_refused(testbed: Cluster | None, kubectl: Kubectl, namespace: str) -> None:
    if testbed is None:
        pytest.skip("this looks at the testbed's own cluster")
    pod = busybox()
    pod["containers"][0]["securityContext"] = {"privileged": True}
    given = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "privileged"}, "spec": pod}
    refusal = kubectl("-n", namespace, "apply", "-f", "-", given=given, check=False)
    assert "disallowed by cluster policy" in refusal


def test_every_node_advertises_simulated_sgx_after_its_kubelet_restarts(
    testbed: Cluster | None, kubectl: Kubectl
) -> None:
    if testbed is None:
        pytest.skip("this looks at the testbed's own cluster")
    testbed.restart_kubelet("node-1")
    for node in json.loads(kubectl("get", "nodes", "-o", "json"))["items"]:
        assert node["status"]["allocatable"]["sgx.intel.com/enclave"] == "110"
        assert node["status"]["allocatable"]["sgx.intel.com/epc"] == "16Gi"


def ask_inside(kubectl: Kubectl, namespace: str) -> str:
    request = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 web 80 2> /dev/null || true"
    answer = kubectl("-n", namespace, "exec", "client", "--", "sh", "-c", request)
    return answer.rpartition("\n\n")[2].replace("\r", "").strip().rpartition("\n")[2]


def ask_outside() -> str:
    try:
        return httpx.get(f"http://10.199.0.11:{NODE_PORT}/", timeout=2).text.strip()
    except httpx.TransportError:
        return ""


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "not so in 30 s"
        time.sleep(0.2)
