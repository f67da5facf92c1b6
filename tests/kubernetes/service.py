"""A deployment on the tests' cluster: its owner's workspace, the store of its releases, and clients of its service."""

import functools
import http.server
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from testbed.kubernetes import layout
from tests.harness.container_images import Images
from tests.harness.running import run
from tests.harness.workspaces import NAME, Site, make_site

from sealserve.client.channel import open_channel
from sealserve.client.predict import Predictor
from sealserve.cluster.kubernetes.target import KubernetesTarget, stop_all
from sealserve.errors import SealserveError
from sealserve.operations.service import access

NODE_PORT = 30500
BROKER_NAME = "attestation.service.com"
STORE_PORT = 8089


def make_deployment(folder: Path, images: Images, *, broker: str = BROKER_NAME, **kubernetes: Any) -> Site:
    """Write the workspace of a deployment whose owner is this machine, outside of the cluster."""
    site = make_site(
        folder,
        service={"listen": "10.199.0.11", "port": NODE_PORT},
        server={"max_connection_age_seconds": 2},
        broker={"listen": layout.CONTROL_PLANE, "address": broker},
        target={"kind": "kubernetes"},
        images={"prefix": images.prefix, "tag": images.tag},
        kubernetes={
            "release_source": f"http://{layout.CONTROL_PLANE}:{STORE_PORT}/{{release}}.tar",
            "store_folder": folder / "store",
            "pull_policy": "Never",
            "service_type": "NodePort",
            "node_port": NODE_PORT,
            "broker_naming": "coredns-hosts",
            "broker_ip": layout.CONTROL_PLANE,
            "cpu": "50m",
            "memory": "2Gi",
            "epc": "1Gi",
            "start_seconds": 240,
            **({} if images.inventory is None else {"inventory": images.inventory}),
            **kubernetes,
        },
    )
    site.import_model()
    site.certify()
    return site


def wait(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.3)


@dataclass
class Service:
    """A deployment, and what a person does with it."""

    site: Site

    @property
    def target(self) -> KubernetesTarget:
        """The target."""
        return KubernetesTarget(self.site.workspace, self.site.deployment, tell=print)

    def __call__(self, *arguments: str) -> Any:
        """Run a verb that must succeed; return what it printed as JSON."""
        done = run(*arguments, "--json", "--directory", self.site.directory)
        assert done.status == 0, f"{arguments}: {done.out}{done.err}"
        return done.json

    def build_release(self) -> Path:
        """Build another release."""
        return self.site.build_release().folder

    def up(self, release: Path, replicas: int = 2) -> None:
        """Start or roll, and wait."""
        self.target.up(release, replicas)

    def down(self) -> None:
        """Remove it all."""
        stop_all(self.site.workspace, tell=print)

    @contextmanager
    def load(self, *, clients: int = 3) -> Iterator["Load"]:
        """Send requests from several clients, one after the other each, until the block ends."""
        with Load(self, clients) as load:
            yield load


class Load:
    """Requests that go on, and what came of them."""

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
def store(folder: Path) -> Iterator[None]:
    """Serve the packed releases in a folder to the cluster."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer((layout.CONTROL_PLANE, STORE_PORT), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield
    server.shutdown()
    server.server_close()
    thread.join()
