"""Starts and stops the cluster. Both can be repeated at any time, also after an interrupted run."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from testbed.kubernetes import addons, certificates, control_plane, network, packages, remains, tools
from testbed.kubernetes import node as nodes_
from testbed.kubernetes.images import write_image
from testbed.kubernetes.layout import (
    BUSYBOX_IMAGE,
    CACHE,
    FEATURE_GATES,
    IMAGES,
    KUBECONFIG,
    LOGS,
    SOCKETS,
    STATE,
    Node,
)

from sealserve.cluster.local.processes import Registry, wait_ready, wait_until

NODES: Final = 2
# The resources that a node with SGX advertises: enclaves (110 in Intel's device plugin) and EPC bytes. Simulated here.
SIMULATED_SGX: Final = {"sgx.intel.com/enclave": "110", "sgx.intel.com/epc": "16Gi"}
_APPLETS: Final = ("cat", "httpd", "ls", "nc", "nslookup", "sh", "sleep", "true")
_READY_SECONDS: Final = 120.0
_STOP_SECONDS: Final = 3.0  # the API server waits longer for its clients, and its data is deleted anyway
_MOST_NODES: Final = 9
KEPT_LOGS: Final = CACHE / "last-failure"


class ClusterError(Exception):
    """The cluster does not start. The message names the part and its log."""


class Cluster:
    """The testbed's cluster on this machine.

    Args:
        say: Called with a line of progress.
        feature_gates: The feature gates that differ from the defaults of the version.
    """

    def __init__(
        self, *, say: Callable[[str], None] = print, feature_gates: Mapping[str, bool] = FEATURE_GATES
    ) -> None:
        self._say = say
        self._feature_gates = feature_gates
        self._registry = Registry(STATE / "processes.json")

    def up(self, *, node_count: int = NODES) -> None:
        """Start every part that does not run, and wait until every node is ready.

        Raises:
            ClusterError, ToolsError: It does not start. Started parts are stopped, and the logs are kept.
        """
        programs = self.build()
        try:
            self._start(programs, node_count)
        except BaseException:
            self.keep_logs()
            self.down()
            raise

    def build(self) -> Path:
        """Install the packages and build the programs that are missing. Return the programs' folder.

        Raises:
            ToolsError: The programs cannot be built.
        """
        packages.install()
        if not tools.folder().is_dir():
            self._say("building Kubernetes from its Go modules: about ten minutes on two cores, once per version")
        return tools.build()

    def _start(self, programs: Path, node_count: int) -> None:
        began = time.monotonic()
        for folder in (STATE, LOGS, SOCKETS, IMAGES):
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        remains.remember()
        nodes = self._connect(node_count)
        if not KUBECONFIG.exists():
            certificates.create(nodes)
        self._run("etcd", control_plane.etcd(programs))
        self._run("kube-apiserver", control_plane.api_server(programs, self._feature_gates))
        images = _own_images(programs)
        with ThreadPoolExecutor() as pool:
            runtimes = [pool.submit(self._start_runtime, node, images) for node in nodes]
            self._wait_api(programs)
            for role, command in (
                ("controller-manager", control_plane.controller_manager),
                ("scheduler", control_plane.scheduler),
            ):
                self._run(f"kube-{role}", command(programs))
            for runtime in runtimes:
                runtime.result()
        for node in nodes:
            self._run(f"kubelet-{node.name}", nodes_.kubelet(node, programs))
            self._run(f"kube-proxy-{node.name}", nodes_.kube_proxy(node, programs))
        self._wait_nodes(nodes)
        self.kubectl("apply", "--server-side", "-f", "-", given=addons.manifests())
        self.advertise_sgx()
        for workload in ("deployment/coredns", "daemonset/kube-network-policies"):
            self.kubectl("-n", "kube-system", "rollout", "status", workload, f"--timeout={_READY_SECONDS:.0f}s")
        names = ", ".join(node.name for node in nodes)
        self._say(f"ready after {time.monotonic() - began:.0f} s: {names}. Programs: {programs}")
        self._say(f"export KUBECONFIG={KUBECONFIG}")

    def down(self) -> None:
        """Stop all parts and remove everything except the built programs."""
        order = sorted(self._registry.all().values(), key=lambda process: -process.started)  # kubelets first, etcd last
        for process in order:
            process.stop(grace=_STOP_SECONDS)
            self._registry.remove(process.role)
        remains.kill_containers()
        remains.remove_shim_sockets()
        everyone = [Node(number) for number in range(1, _MOST_NODES + 1)]
        if (STATE / "shares-network").exists():
            _clean_shared_network()
        network.remove(everyone)
        remains.unmount()
        remains.remove_cgroups()
        remains.restore()
        for folder in (STATE, SOCKETS):
            shutil.rmtree(folder, ignore_errors=True)
        for folder in (STATE, SOCKETS):
            if folder.exists():
                raise ClusterError(f"{folder} could not be removed: something in it is still in use.")

    def nodes(self) -> list[Node]:
        """Return the cluster's nodes."""
        found = json.loads(self.kubectl("get", "nodes", "-o", "json"))["items"]
        shared = (STATE / "shares-network").exists()
        return [Node(int(item["metadata"]["name"].removeprefix("node-")), shares_network=shared) for item in found]

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """Run kubectl and return its output.

        Raises:
            ClusterError: kubectl failed.
        """
        command = [str(tools.folder() / "kubectl"), f"--kubeconfig={KUBECONFIG}", *arguments]
        result = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise ClusterError(f"kubectl {' '.join(arguments)}: {result.stderr.strip()}")
        return result.stdout

    def load(self, archives: Iterable[Path]) -> None:
        """Import container images on every node, from archives in the format of `docker save`."""
        chosen = self.nodes()
        with ThreadPoolExecutor() as pool:
            for archive in archives:
                list(pool.map(_import_image, chosen, [archive] * len(chosen)))

    def advertise_sgx(self) -> None:
        """Make every node advertise simulated SGX resources. A kubelet drops them when it restarts."""
        patch = json.dumps({"status": {"capacity": SIMULATED_SGX, "allocatable": SIMULATED_SGX}})
        for node in self.nodes():
            self.kubectl("patch", "node", node.name, "--subresource=status", "--type=merge", "-p", patch)

    def restart_kubelet(self, name: str) -> None:
        """Restart the kubelet of a node, as an update of the node would. Its pods continue."""
        node = next(node for node in self.nodes() if node.name == name)
        self._registry.all()[f"kubelet-{name}"].stop()
        self._run(f"kubelet-{name}", nodes_.kubelet(node, tools.folder()))
        self._wait_nodes([node])
        self.advertise_sgx()

    def keep_logs(self) -> None:
        """Copy the logs to a folder that `down` does not remove."""
        if LOGS.is_dir():
            shutil.rmtree(KEPT_LOGS, ignore_errors=True)
            shutil.copytree(LOGS, KEPT_LOGS, symlinks=True)
            self._say(f"the logs are kept in {KEPT_LOGS}")

    def is_up(self) -> bool:
        """Whether its processes run."""
        processes = self._registry.all().values()
        return bool(processes) and all(process.is_alive() for process in processes)

    def _connect(self, node_count: int) -> list[Node]:
        nodes = [Node(number) for number in range(1, node_count + 1)]
        network.make_bridge()
        try:
            if (STATE / "shares-network").exists():
                raise network.NetworkError("it started with one node")  # noqa: TRY301  # the same way as below
            for node in nodes:
                network.connect(node)
            network.introduce(nodes)
        except network.NetworkError as error:
            self._say(f"starting only one node, in this machine's own network: {error}")
            (STATE / "shares-network").touch()
            network.remember_rules()
            nodes = [Node(1, shares_network=True)]
            try:
                network.enforce(nodes[0])
            except network.NetworkError as unenforced:
                self._say(f"NetworkPolicies are not enforced: {unenforced}")
        return nodes

    def _start_runtime(self, node: Node, images: Sequence[Path]) -> None:
        remains.make_cgroups(node.name)
        nodes_.configure(node, self._feature_gates)
        self._run(f"containerd-{node.name}", nodes_.containerd(node))
        process = self._registry.all()[f"containerd-{node.name}"]
        wait_ready(process, lambda: _answers(node), seconds=_READY_SECONDS)
        for archive in images:
            _import_image(node, archive)

    def _run(self, role: str, command: Sequence[str]) -> None:
        running = self._registry.all().get(role)
        if running is None or not running.is_alive():
            self._registry.start(role, command, log=LOGS / f"{role}.log")

    def _wait_api(self, programs: Path) -> None:
        command = [str(programs / "kubectl"), f"--kubeconfig={KUBECONFIG}", "get", "--raw=/readyz"]
        process = self._registry.all()["kube-apiserver"]
        wait_ready(
            process,
            lambda: subprocess.run(command, capture_output=True, check=False).returncode == 0,
            seconds=_READY_SECONDS,
        )

    def _wait_nodes(self, nodes: Sequence[Node]) -> None:
        def ready() -> bool:
            found = json.loads(self.kubectl("get", "nodes", "-o", "json"))["items"]
            conditions = {item["metadata"]["name"]: item["status"].get("conditions", []) for item in found}
            return all(
                any(c["type"] == "Ready" and c["status"] == "True" for c in conditions.get(node.name, ()))
                for node in nodes
            )

        if not wait_until(ready, seconds=_READY_SECONDS, interval=0.5):
            raise ClusterError(
                f"Not every node is ready after {_READY_SECONDS:.0f} s. The kubelets' logs show the reason."
            )


def _own_images(programs: Path) -> list[Path]:
    """Write the images of the cluster's own pods, unless they exist."""
    images = {
        "busybox": (BUSYBOX_IMAGE, {"bin/busybox": Path("/bin/busybox")}, ("/bin/busybox", "sleep", "2147483647")),
        "coredns": (addons.DNS_IMAGE, {"bin/coredns": programs / "coredns"}, ("/bin/coredns",)),
        "policies": (addons.POLICY_IMAGE, {"bin/agent": programs / "kube-network-policies"}, ("/bin/agent",)),
    }
    written = []
    for file, (name, files, command) in images.items():
        archive = programs / f"{file}.tar"
        if not archive.exists():
            links = {f"bin/{applet}": "busybox" for applet in _APPLETS} if file == "busybox" else {}
            write_image(archive, name, files, command=command, links=links)
        written.append(archive)
    return written


def _import_image(node: Node, archive: Path) -> None:
    command = ["ctr", f"--address={node.containerd}", "--namespace=k8s.io", "images", "import", str(archive)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise ClusterError(f"{node.name} cannot import {archive}: {result.stderr.strip()}")


def _answers(node: Node) -> bool:
    command = ["ctr", f"--address={node.containerd}", "--timeout=2s", "version"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _clean_shared_network() -> None:
    """Remove what kube-proxy and the pods' bridge left in this machine's own network."""
    subprocess.run([str(tools.folder() / "kube-proxy"), "--cleanup"], capture_output=True, check=False)
    subprocess.run(["ip", "link", "delete", "seal-pods"], capture_output=True, check=False)
    network.forget_rules()
