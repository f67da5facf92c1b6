"""The pages about attested serving do what they say, with one deployment on this machine for all of them."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest
from tests.harness.page_reader import ROOT, Reader
from tests.harness.running import Running, deployment

from sealserve.cluster import ports
from sealserve.owner.simulation import ROOT_FILE

pytestmark = [pytest.mark.integration, pytest.mark.tensorflow, pytest.mark.timeout(900)]

OWNERS_PAGES: Final = ("attested-serving", "attestation-results")
USERS_PAGES: Final = ("verify-a-service", "pin-a-release", "keep-receipts", "verifying-proxy")  # in a user's order


def test_the_pages_do_what_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("curl") is None:
        pytest.skip("the pages' commands need curl: apt-get install curl")
    service = {"rest_port": ports.find_free()}
    with deployment(
        capsys, model={"name": "half_plus_two"}, server={"rest": True}, target={"replicas": 1}, service=service
    ) as here, TemporaryDirectory() as name:  # fmt: skip
        here.up()
        user = Path(name)
        visit_owner(here, user)
        for page in USERS_PAGES:
            read(page, user)
        for page in OWNERS_PAGES:  # the last page rotates a key
            read(page, here.directory)


def visit_owner(here: Running, user: Path) -> None:
    """Give a user what the owner of a service gives, and the root of the simulated vendor."""
    assert here("user", "add", "ann").status == 0
    assert here("client", "bundle", "--for", "ann", "--output", user / "ann.json").status == 0
    shutil.copy(here.site.workspace.host.owner_key, user)
    shutil.copy(here.site.workspace.owner.trust / ROOT_FILE, user)


def read(page: str, folder: Path) -> None:
    """Execute a page. The policy is in the folder, because the folder is the reader's home folder."""
    variables = {"HOME": str(folder), "XDG_CONFIG_HOME": ""}
    with Reader(ROOT / f"docs/how-to/{page}.md", folder, variables) as reader:
        reader.read()
