from pathlib import Path

import pytest
from tests.harness.command_line import CommandLine
from tests.harness.workspaces import Site


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The user's environment is ignored, and relative paths refer to the test's folder."""
    for name in ("SEALSERVE_DIRECTORY", "SEALSERVE_DEBUG", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cli(site: Site, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """The command line on ``site``."""
    return CommandLine(capsys, site.directory)
