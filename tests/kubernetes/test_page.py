"""The commands of the tutorial work as described, on the testbed's cluster."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from testbed.kubernetes.cluster import Cluster
from tests.harness.container_images import ROOT, Images
from tests.harness.page_reader import Reader
from tests.harness.pages import WrittenFile, steps
from tests.harness.running import run
from tests.kubernetes.conftest import Kubectl

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900)]

PAGE = ROOT / "docs" / "tutorial" / "laptop-to-cluster.md"
INVENTORY = Path(".sealserve/owner/images/server-simulated.inventory.json")


def test_the_page_does_what_it_says(images: Images, testbed: Cluster | None, kubectl: Kubectl) -> None:
    if testbed is None or images.inventory is None:
        pytest.skip("the page has the testbed's own addresses")
    assert kubectl("get", "nodes")
    with TemporaryDirectory() as name, Reader(PAGE, Path(name)) as reader:
        folder = Path(name)
        try:
            for step in steps(PAGE):
                if isinstance(step, WrittenFile):
                    (folder / step.path).write_text(step.text, encoding="utf-8")
                elif step.skipped is None:
                    reader.follow(step)
                elif any("image build" in command.text for command in step.commands):
                    (folder / INVENTORY).parent.mkdir(parents=True)  # as `image build` leaves it
                    shutil.copyfile(images.inventory, folder / INVENTORY)
            assert reader.running() == []
        finally:
            run("down", "--yes", "--directory", folder)
