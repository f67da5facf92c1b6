"""Every page's commands are executed as their reader would type them, and print what the page shows."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest
from tests.harness.page_reader import ROOT, Reader
from tests.harness.pages import Block, console_blocks

pytestmark = [pytest.mark.integration, pytest.mark.tensorflow, pytest.mark.timeout(900)]

ELSEWHERE: Final = {
    ROOT / "docs/how-to/docker.md",  # tests/docker/test_page.py
    ROOT / "docs/tutorial/laptop-to-cluster.md",  # tests/kubernetes/test_page.py
    *(  # tests/integration/test_attested_pages.py
        ROOT / f"docs/how-to/{name}.md"
        for name in (
            *("verify-a-service", "pin-a-release", "keep-receipts", "verifying-proxy"),
            *("attested-serving", "attestation-results"),
        )
    ),
}
PAGES: Final = [ROOT / "README.md", *sorted(set((ROOT / "docs").rglob("*.md")) - ELSEWHERE)]
TOOLS: Final = ("curl", "openssl")  # that a page may use, and a machine may lack


def executed(page: Path) -> list[Block]:
    return [block for block in console_blocks(page) if block.skipped is None]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if executed(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_the_page_does_what_it_says(page: Path) -> None:
    words = {word for block in executed(page) for command in block.commands for word in command.text.split()}
    lacking = [tool for tool in TOOLS if tool in words and shutil.which(tool) is None]
    if lacking:
        pytest.skip(f"the page's commands need {' and '.join(lacking)}: apt-get install {' '.join(lacking)}")
    with TemporaryDirectory() as folder, Reader(page, Path(folder)) as reader:  # a Unix socket's path must be short
        reader.read()
