"""What a kubelet's gRPC probe over TLS accepts, with servers whose answers a test chooses.

`test_sources.py` has replicas with this probe, and `test_testbed_of_one_node.py` a cluster without the feature.
"""

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from testbed.kubernetes.cluster import Cluster
from tests.harness.container_images import Images
from tests.kubernetes.conftest import Kubectl
from tests.kubernetes.service import make_deployment, wait

from sealserve.cluster.kubernetes import shipping
from sealserve.cluster.kubernetes.cluster_client import ClusterClient
from sealserve.cluster.kubernetes.preconditions import check_readiness
from sealserve.cluster.kubernetes.render_context import container_security
from sealserve.cluster.kubernetes.replicas import readiness_probe
from sealserve.enclave.server_files import PROGRAMS
from sealserve.terms import ServerKind

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(300)]

PROBE: Final = {"grpc": {"port": 8500, "mode": "TLS"}, "periodSeconds": 1, "timeoutSeconds": 2}
# The health service of the model server, on a separate gRPC server. The file /tmp/stop makes it report NOT_SERVING.
SCRIPT: Final = """
import os, threading
from concurrent.futures import ThreadPoolExecutor
import grpc
from sealserve.serving.wire.health import Health

health = Health()

class Call:
    def __init__(self, content):
        self.content = content
    def answer(self, content):
        self.answered = content

def check(request, context):
    if os.path.exists("/tmp/stop"):
        health.stop()
    call = Call(request)
    health.handlers["/grpc.health.v1.Health/Check"](call)
    return call.answered

server = grpc.server(ThreadPoolExecutor())
handlers = {"Check": grpc.unary_unary_rpc_method_handler(check)}
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", handlers),))
key, certificate = os.environ["KEY"].encode(), os.environ["CERTIFICATE"].encode()
clients = os.environ["TLS"] == "two-way"
credentials = grpc.ssl_server_credentials([(key, certificate)], certificate if clients else None, clients)
server.add_secure_port("0.0.0.0:8500", credentials)
server.start()
threading.Event().wait()
"""


@pytest.fixture
def servers(images: Images, kubectl: Kubectl, namespace: str) -> Iterator[str]:
    """Two pods with a self-signed certificate: one accepts every client, the other requires a client certificate."""
    key, certificate = self_signed()
    pods = [pod(images, name, KEY=key, CERTIFICATE=certificate, TLS=name) for name in ("one-way", "two-way")]
    kubectl("-n", namespace, "apply", "-f", "-", given={"apiVersion": "v1", "kind": "List", "items": pods})
    yield namespace
    kubectl("-n", namespace, "delete", "pods", "--all", "--grace-period=0", "--force")


def test_a_kubelet_needs_the_status_serving_and_has_no_client_certificate(
    testbed: Cluster | None, kubectl: Kubectl, servers: str
) -> None:
    if testbed is None:
        pytest.skip("another cluster may lack the feature gate")
    kubectl(
        "-n", servers, "wait", "pod/one-way", "--for=condition=Ready", "--timeout=120s"
    )  # it verifies no certificate
    kubectl("-n", servers, "exec", "one-way", "--", "touch", "/tmp/stop")  # noqa: S108  # in the pod
    kubectl("-n", servers, "wait", "pod/one-way", "--for=condition=Ready=false", "--timeout=60s")
    assert 'service unhealthy (responded with "NOT_SERVING")' in failures(kubectl, servers, "one-way")
    wait(lambda: "Readiness probe failed" in failures(kubectl, servers, "two-way"))
    kubectl("-n", servers, "wait", "pod/two-way", "--for=condition=Ready=false", "--timeout=1s")


def test_a_cluster_with_the_feature_gate(
    testbed: Cluster | None, kubectl: Kubectl, images: Images, tmp_path: Path
) -> None:
    if testbed is None:
        pytest.skip("another cluster may lack the feature gate")
    assert kubectl.kubeconfig
    site = make_deployment(tmp_path, images, grpc_readiness=True)
    context = shipping.provisional_context(site.deployment)
    assert readiness_probe(context)["grpc"] == PROBE["grpc"]
    check_readiness(context, ClusterClient())


def pod(images: Images, name: str, **environment: str) -> dict[str, Any]:
    container = {
        "name": "server",
        "image": f"{images.prefix}-server-simulated:{images.tag}",
        "imagePullPolicy": "Never",
        "command": [PROGRAMS[ServerKind.EMBEDDED], "-B", "-c", SCRIPT],
        "env": [{"name": variable, "value": value} for variable, value in environment.items()],
        "readinessProbe": PROBE,
        "securityContext": container_security(),
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108  # in the pod
    }
    spec = {"terminationGracePeriodSeconds": 0, "containers": [container], "volumes": [{"name": "tmp", "emptyDir": {}}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def failures(kubectl: Kubectl, namespace: str, name: str) -> str:
    """Return the messages of a pod's events."""
    events = json.loads(kubectl("-n", namespace, "get", "events", "-o", "json"))["items"]
    return "\n".join(event["message"] for event in events if event["involvedObject"]["name"] == name)


def self_signed() -> tuple[str, str]:
    """Return a private key and a certificate for another name, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "other.example.com")])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - dt.timedelta(days=2))
    certificate = builder.not_valid_after(now + dt.timedelta(days=1)).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private.decode(), certificate.public_bytes(pem).decode()
