"""The commands of the page about Docker work as described."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from tests.docker.conftest import everything
from tests.harness.container_images import ROOT
from tests.harness.page_reader import Reader
from tests.harness.running import run
from tests.integration.test_docs import executed

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

PAGE = ROOT / "docs" / "how-to" / "docker.md"


def test_the_page_does_what_it_says(images: list[dict[str, Any]]) -> None:
    assert images, "the page's images are those of the tests"
    with TemporaryDirectory() as folder, Reader(PAGE, Path(folder)) as reader:
        try:
            for block in executed(PAGE):
                reader.follow(block)
            assert reader.running() == []
            assert everything() == {"container": [], "network": [], "volume": []}
        finally:
            run("down", "--yes", "--directory", folder)
