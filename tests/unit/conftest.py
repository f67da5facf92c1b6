"""Workspaces that are made once for all tests, and copied for each that changes something."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.harness.keys import signing_key
from tests.harness.workspaces import NAME, Site, make_site

from sealserve.broker.passphrase import ASK_PASSPHRASE, no_passphrase
from sealserve.owner import releases
from sealserve.owner.owner import Owner
from sealserve.sealing.release import VerifiedRelease
from sealserve.workspace import FOLDER


@pytest.fixture(scope="session", autouse=True)
def _no_waiting() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        # No test here survives a power cut, and thousands would wait for the disk. tests/integration waits.
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr("sealserve.broker.sqlite_engine.SYNCHRONOUS", "OFF")
        # To check an RSA key takes a sixth of a second; these workspaces have one that is known.
        patch.setattr("sealserve.owner.enclaves.load_signing_key", lambda _: signing_key())
        yield


@pytest.fixture(autouse=True)
def _no_terminal_asks() -> Iterator[None]:
    """Remove the question for a passphrase that the command line leaves behind when a test gives it a terminal."""
    yield
    ASK_PASSPHRASE.set(no_passphrase)


@pytest.fixture(scope="session")
def ready_template(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A workspace with a model, certificates and an enclave signing key."""
    site = make_site(tmp_path_factory.mktemp("ready"))
    site.import_model()
    site.certify()
    pem = signing_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    site.workspace.owner.enclave_signing_key.write_bytes(pem)
    site.workspace.owner.enclave_signing_key.chmod(0o600)
    return site


@pytest.fixture(scope="session")
def released_template(ready_template: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The same with a release that has two enclaves."""
    site = make_site(tmp_path_factory.mktemp("released"))
    _copy(ready_template, site)
    folder = site.build_release().folder
    for index in range(2):
        site.build_enclave(folder, name=f"replica-{index}", port=8510 + index)
    return site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A workspace with ``sealserve.toml`` and empty folders."""
    return make_site(tmp_path / "site")


@pytest.fixture
def ready(site: Site, ready_template: Site) -> Site:
    """``site`` with a model, certificates and an enclave signing key."""
    _copy(ready_template, site)
    return site


@pytest.fixture
def released(ready: Site, released_template: Site) -> VerifiedRelease:
    """A release with two enclaves, in ``site``, which is then ``ready``."""
    _copy(released_template, ready)  # after what ``ready`` copies, which would replace the database with the keys
    (folder,) = ready.workspace.owner.releases.iterdir()
    return releases.verify(folder, Owner.open(ready.workspace).public_key())


def _copy(template: Site, site: Site) -> None:
    # The model's source too: its record has the times of its files.
    for folder in (FOLDER, NAME):
        shutil.copytree(template.directory / folder, site.directory / folder, dirs_exist_ok=True)
