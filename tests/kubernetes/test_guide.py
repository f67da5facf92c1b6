"""The guide to an SGX cluster, as far as the testbed's cluster can reproduce it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness.container_images import Images
from tests.harness.pages import console_blocks
from tests.harness.running import run
from tests.kubernetes.conftest import OURS, Kubectl, follow
from tests.kubernetes.service import make_deployment

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(300)]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "sgx-cluster.md"
LABEL = "intel.feature.node.kubernetes.io/sgx"


@pytest.fixture
def labelled(kubectl: Kubectl) -> Iterator[None]:
    """The nodes have the label that Intel's rules for node feature discovery assign to nodes with SGX."""
    kubectl("label", "nodes", "--all", f"{LABEL}=true")
    yield
    kubectl("taint", "nodes", "--all", "sgx-", check=False)
    kubectl("label", "nodes", "--all", f"{LABEL}-")


def plugin(folder: Path) -> dict[str, str]:
    done = run("doctor", "host", "--target", "kubernetes", "--json", "--directory", folder)
    found: dict[str, str] = next(row for row in done.json if row["code"] == "host.cluster-device-plugin")
    return found


@pytest.mark.usefixtures("labelled")
def test_nodes_that_are_reserved_for_enclaves(images: Images, tmp_path: Path) -> None:
    shown, tainted, untainted = (block for block in console_blocks(PAGE) if block.skipped == OURS)
    rows = [line.split() for line in follow(shown)[1:]]
    assert rows
    assert all("<none>" not in row for row in rows)
    anywhere = make_deployment(tmp_path / "anywhere", images).directory
    there = make_deployment(
        tmp_path / "there", images, tables={"scheduling": {"tolerations": ("sgx",), "node_selector": {LABEL: "true"}}}
    ).directory  # fmt: skip
    assert plugin(anywhere)["verdict"] == plugin(there)["verdict"] == "ok"
    follow(tainted)
    assert plugin(anywhere)["verdict"] == "missing"
    assert "are tainted" in plugin(anywhere)["found"]
    assert plugin(there)["verdict"] == "ok"
    follow(untainted)
    assert plugin(anywhere)["verdict"] == "ok"
