"""The cluster of the tests: the cluster of KUBECONFIG, or a local cluster that is stopped afterwards."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from testbed.kubernetes import layout, tools
from testbed.kubernetes.cluster import Cluster
from tests.harness.container_images import Images, kept_images
from tests.harness.missing import missing
from tests.harness.pages import Block, shows_all


class Kubectl:
    """kubectl with a cluster's kubeconfig."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig

    def __call__(self, *arguments: str, given: Mapping[str, Any] | None = None, check: bool = True) -> str:
        command = ["kubectl", f"--kubeconfig={self.kubeconfig}", *arguments]
        text = None if given is None else json.dumps(given)
        result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        assert not check or result.returncode == 0, f"{' '.join(arguments)}: {result.stderr}"
        return result.stdout + ("" if check else result.stderr)


OURS = "`make test-kubernetes` executes it"
"""The marker in a page for a block that one of these tests runs."""


def follow(block: Block, *, folder: Path | None = None) -> list[str]:
    """Run a block's commands in a folder, compare their output, and return the output lines of the last command."""
    lines: list[str] = []
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for command in block.commands:
        done = subprocess.run(
            ["sh", "-c", command.text], cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert not command.output or shows_all(command.output, lines), lines
    return lines


@pytest.fixture(scope="session")
def own_images() -> Images | None:
    """The images for the testbed's nodes, built before it starts. None if KUBECONFIG names a different cluster."""
    return None if _is_foreign() else kept_images()


@pytest.fixture(scope="session")
def images(own_images: Images | None, testbed: Cluster | None) -> Images:
    """The images of sealserve on the nodes."""
    if own_images is None or testbed is None:
        if (named := os.environ.get("SEALSERVE_IMAGES")) is None:
            pytest.skip(
                "another cluster has or pulls the images: SEALSERVE_IMAGES=PREFIX:TAG names them, and "
                "SEALSERVE_INVENTORY=FILE what is in the server's, unless Docker here has it"
            )
        prefix, _, tag = named.rpartition(":")
        inventory = os.environ.get("SEALSERVE_INVENTORY")
        return Images(prefix, tag, inventory=Path(inventory) if inventory else None)
    assert own_images.archive is not None
    testbed.load([own_images.archive])
    return own_images


@pytest.fixture(scope="session")
def found_running() -> bool:
    """Whether the testbed's cluster ran before the tests. If it did, the tests do not stop it."""
    return not _is_foreign() and Cluster().is_up()


@pytest.fixture(scope="session")
def testbed(found_running: bool) -> Iterator[Cluster | None]:
    """The testbed's cluster, or None if KUBECONFIG names a different cluster. A running cluster is used and kept."""
    if _is_foreign():
        yield None
        return
    cluster = Cluster()
    cluster.up()
    yield cluster
    if not found_running:
        cluster.keep_logs()
        cluster.down()


def _is_foreign() -> bool:
    """Return whether the cluster is that of KUBECONFIG. The testbed's cluster requires root."""
    if os.environ.get("KUBECONFIG", str(layout.KUBECONFIG)) != str(layout.KUBECONFIG):
        return True
    if os.geteuid() != 0:
        missing("the testbed makes network namespaces: run as root, or set KUBECONFIG to a cluster of yours")
    return False


@pytest.fixture(scope="session")
def kubectl(testbed: Cluster | None) -> Iterator[Kubectl]:
    with pytest.MonkeyPatch.context() as patch:
        if testbed is not None:
            patch.setenv("PATH", f"{tools.folder()}:{os.environ['PATH']}")
            patch.setenv("KUBECONFIG", str(layout.KUBECONFIG))
        elif shutil.which("kubectl") is None:
            pytest.skip("there is no kubectl on PATH")
        yield Kubectl(Path(os.environ["KUBECONFIG"]))


@pytest.fixture
def namespace(kubectl: Kubectl, request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"test-{request.node.name.removeprefix('test_').replace('_', '-')}"[:60].rstrip("-")
    kubectl("create", "namespace", name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")
