from pathlib import Path

import pytest
from tests.harness.command_line import CommandLine
from tests.harness.workspaces import Site, make_site

from sealserve.sgx.signing_key import create_signing_key


@pytest.fixture(scope="session")
def enclave_signing_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An enclave signing key, which takes a second to make."""
    path = tmp_path_factory.mktemp("keys") / "enclave-signing-key.pem"
    create_signing_key(path)
    return path


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the person's environment counts, and relative paths are the test's own."""
    for name in ("SEALSERVE_DIRECTORY", "SEALSERVE_DEBUG", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A workspace with ``sealserve.toml`` and empty folders."""
    return make_site(tmp_path / "site")


@pytest.fixture
def cli(site: Site, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """The command line on ``site``."""
    return CommandLine(capsys, site.directory)


@pytest.fixture
def ready(site: Site, enclave_signing_key: Path) -> Site:
    """``site`` with a model, certificates and an enclave signing key."""
    site.import_model()
    site.certify()
    site.workspace.owner.enclave_signing_key.write_bytes(enclave_signing_key.read_bytes())
    return site
