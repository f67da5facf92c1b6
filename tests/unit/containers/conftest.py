import os
from pathlib import Path

import pytest
from tests.harness.fake_docker import FakeDocker

from sealserve.containers.engine import Engine


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDocker:
    """A stand-in for ``docker``, first on the path."""
    folder = tmp_path / "fake-docker"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return FakeDocker(folder)


@pytest.fixture
def engine(docker: FakeDocker) -> Engine:
    """An engine behind the stand-in."""
    del docker
    return Engine()
