"""A deployment on the test cluster: its owner's workspace, the store of its releases, and clients of its service."""

import functools
import http.server
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from testbed.kubernetes import layout
from tests.harness.container_images import Images
from tests.harness.running import run
from tests.harness.workspaces import NAME, Site, make_site
from tests.kubernetes.conftest import Kubectl

from sealserve.bundle import Bundle
from sealserve.cli.access import access
from sealserve.client.channel import open_channel
from sealserve.client.predict import Predictor
from sealserve.cluster.kubernetes.target import KubernetesTarget, stop_all
from sealserve.errors import SealserveError
from sealserve.owner.preparation import foresee, prepare

NODE_PORT = 30500
REST_NODE_PORT = 30501
BROKER_NAME = "attestation.service.com"
STORE_PORT = 8089


@dataclass(frozen=True, slots=True)
class Place:
    """The addresses by which a cluster and this machine reach each other.

    Args:
        node: A node's address from this machine.
        here: This machine's address from pods.
        has_epc: Whether every node advertises EPC.
    """

    node: str
    here: str
    has_epc: bool


TESTBED = Place(layout.Node(1).address, layout.CONTROL_PLANE, has_epc=True)


def find_place(kubectl: Kubectl) -> Place:
    """Return the address of a cluster's first node, and this machine's address on the route to it."""
    nodes = json.loads(kubectl("get", "nodes", "-o", "json"))["items"]
    addresses = {item["type"]: item["address"] for item in nodes[0]["status"]["addresses"]}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:  # no packet is sent
        way.connect((addresses["InternalIP"], NODE_PORT))
        here = str(way.getsockname()[0])
    has_epc = all("sgx.intel.com/epc" in node["status"]["allocatable"] for node in nodes)
    return Place(addresses["InternalIP"], here, has_epc)


def make_deployment(
    folder: Path,
    images: Images,
    *,
    place: Place = TESTBED,
    broker: str = BROKER_NAME,
    server: Mapping[str, Any] | None = None,
    tables: Mapping[str, Mapping[str, Any]] | None = None,
    grpc_readiness: bool = False,
) -> Site:
    """Write the workspace of a deployment whose owner is this machine, outside the cluster.

    Args:
        folder: The folder for the workspace.
        images: The images that the nodes run.
        place: The addresses of the nodes and of this machine.
        broker: The broker's address.
        server: Non-default settings in ``[server]``.
        tables: Non-default settings in the tables of ``[kubernetes]``.
        grpc_readiness: Whether kubelets check readiness by gRPC. The service then has one-way TLS.
    """
    kubernetes: dict[str, dict[str, Any]] = {
        "store": {"source": f"http://{place.here}:{STORE_PORT}/{{release}}.tar", "folder": folder / "store"},
        "images": {
            "pull_policy": "Never" if images.archive else "IfNotPresent",
            **({} if images.inventory is None else {"inventory": images.inventory}),
        },
        "service": {"type": "NodePort", "node_port": NODE_PORT, "rest_node_port": REST_NODE_PORT},
        "broker": {"naming": "coredns-hosts", "ip": place.here},
        "resources": {"cpu": "50m", "memory": "2Gi", **({"epc": "1Gi"} if place.has_epc else {})},
    }
    for name, values in (tables or {}).items():
        kubernetes[name] = {**kubernetes.get(name, {}), **values}
    site = make_site(
        folder,
        service={
            "listen": place.node,
            "port": NODE_PORT,
            "rest_port": REST_NODE_PORT,
            **({"tls": "one-way"} if grpc_readiness else {}),
        },
        server={"max_connection_age_seconds": 2, **(server or {})},
        broker={"listen": place.here, "address": broker},
        target={"kind": "kubernetes"},
        images={"prefix": images.prefix, "tag": images.tag},
        kubernetes={"start_seconds": 240, "grpc_readiness": grpc_readiness, **kubernetes},
    )
    site.import_model()
    site.certify()
    return site


def wait(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.3)


@dataclass
class Service:
    """A deployment, and the operations of its user."""

    site: Site

    @property
    def target(self) -> KubernetesTarget:
        """The target."""
        return KubernetesTarget(self.site.workspace, self.site.deployment, tell=print)

    def __call__(self, *arguments: str) -> Any:
        """Run a command that must succeed, and return its JSON output."""
        done = run(*arguments, "--json", "--directory", self.site.directory)
        assert done.status == 0, f"{arguments}: {done.out}{done.err}"
        return done.json

    def build_release(self) -> Path:
        """Build a new release."""
        return self.site.build_release().folder

    def prepare(self, release: Path) -> Bundle:
        """Prepare a release for the cluster, as its owner."""
        return prepare(self.site.workspace, release, self.target.destination(release.name, 1), tell=print)

    def up(self, release: Path, replicas: int = 2) -> None:
        """Start or roll out a release, and wait."""
        self.target.up(self.prepare(release), replicas)

    def difference(self, release: Path, replicas: int) -> str:
        """Return what `up` would change."""
        foreseen = foresee(self.site.workspace, release, self.target.destination(release.name, replicas))
        assert foreseen.bundle is not None
        return self.target.difference(foreseen.bundle, replicas)

    def down(self) -> None:
        """Remove the deployment."""
        stop_all(self.site.workspace, tell=print)

    def down_without_draining(self, kubectl: Kubectl) -> None:
        """Remove the deployment, with pods that do not wait for their users. `test_deployment.py` waits for them."""
        space = self.site.deployment.kubernetes.namespace
        kubectl("-n", space, "delete", "deployments,replicasets", "--all", "--cascade=orphan")  # they replace pods
        kubectl("-n", space, "delete", "pods", "--all", "--grace-period=1", "--timeout=120s")
        self.down()

    @contextmanager
    def load(self, *, clients: int = 3) -> Iterator["Load"]:
        """Send requests from several clients, each one after the other, until the block ends."""
        with Load(self, clients) as load:
            yield load


class Load:
    """Continuous requests, and their results."""

    def __init__(self, service: Service, clients: int) -> None:
        self.answered = 0
        self.instances: Counter[str] = Counter()
        self.errors: list[str] = []
        self._service = service
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _work(self) -> None:
        reach = access(self._service.site.workspace, self._service.site.deployment)
        with ExitStack() as stack:
            channel = stack.enter_context(
                open_channel(
                    reach.target, server_name=reach.server_name, ca=reach.ca, certificate=reach.certificate,
                    key=reach.key, timeout=30,
                )
            )  # fmt: skip
            predictor = Predictor([channel])
            while not self._stop.wait(0.01):
                try:
                    answer = predictor.predict(NAME, {"x": np.array([2.0], np.float32)}, timeout=20)
                except SealserveError as error:
                    with self._lock:
                        self.errors.append(str(error))
                    continue
                assert answer["y"].tolist() == [3.0]
                with self._lock:
                    self.answered += 1
                    self.instances[str(answer.instance)] += 1


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_arguments: object) -> None:
        pass


@contextmanager
def store(address: str, folder: Path) -> Iterator[None]:
    """Serve the packed releases in a folder to the cluster."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer((address, STORE_PORT), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:  # otherwise a failure at its start would keep the port from all later tests
        server.shutdown()
        server.server_close()
        thread.join()
