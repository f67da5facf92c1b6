from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness.administration import RemoteSite, remote_site
from tests.harness.workspaces import make_site


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[RemoteSite]:
    with remote_site(make_site(tmp_path / "site")) as running:
        yield running


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteSite]:
    """One API for tests that change nothing, or that do not depend on the state. It has short time limits."""
    folder = tmp_path_factory.mktemp("shared") / "site"
    with remote_site(make_site(folder), burst=10**6, receive=1, handshake=1, connections=8) as running:
        yield running
