"""A release that its owner prepares from a folder that others can write: what they change after it was verified."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.harness.errors import raises
from tests.harness.workspaces import Site

from sealserve.atomic_file import write_file
from sealserve.broker import admin
from sealserve.broker.codes import BrokerCode
from sealserve.bundle import Destination, EnclavePlace
from sealserve.owner import preparation, provisioning
from sealserve.owner.keys import create_signer, public_pem, read_signer
from sealserve.owner.owner import Owner
from sealserve.regular_file import InputFileKindError
from sealserve.sealing.release import verify_release
from sealserve.sealing.release_files import ReleaseFileMissingError

PLACES = (EnclavePlace(name="replica-0", port=8510),)


def elsewhere(site: Site, tmp_path: Path) -> Path:
    """Return a release of the owner's in a folder that others can write."""
    folder = tmp_path / "shared" / site.build_release().folder.name
    shutil.copytree(site.workspace.owner.releases / folder.name, folder)
    return folder


def host_has(site: Site, secret: bytes) -> list[str]:
    root = site.workspace.host.root
    return [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and secret in path.read_bytes()]


def change_before_shipping(monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
    register = provisioning.register

    def registered(*args: object, **options: object) -> object:
        result = register(*args, **options)  # type: ignore[arg-type]
        change()
        return result

    monkeypatch.setattr(provisioning, "register", registered)


def test_the_plaintext_model_is_not_shipped_through_a_link(
    ready: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = elsewhere(ready, tmp_path)
    models = ready.workspace.owner.models
    graph = next(models.rglob("saved_model.pb"))

    def change() -> None:
        shutil.rmtree(release / "models")
        (release / "models").symlink_to(models)

    change_before_shipping(monkeypatch, change)
    with pytest.raises(ReleaseFileMissingError):
        preparation.prepare(ready.workspace, release, Destination(deployment=ready.deployment, enclaves=PLACES))
    assert host_has(ready, graph.read_bytes()) == []


def test_an_owners_secret_is_not_shipped_through_a_link(
    ready: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = elsewhere(ready, tmp_path)

    def change() -> None:
        (release / "enclave" / "more").symlink_to(ready.workspace.owner.master_key)

    change_before_shipping(monkeypatch, change)
    with pytest.raises(InputFileKindError, match="a symbolic link"):
        preparation.prepare(ready.workspace, release, Destination(deployment=ready.deployment, enclaves=PLACES))
    assert host_has(ready, ready.workspace.owner.master_key.read_bytes()) == []


def test_the_hosts_file_does_not_say_who_the_owner_is(ready: Site, tmp_path: Path) -> None:
    ready.build_release()
    create_signer(tmp_path / "other")
    other = read_signer(tmp_path / "other").public_key()
    write_file(ready.workspace.host.owner_key, public_pem(other))
    owner = Owner.open(ready.workspace)
    assert owner.public_key() == owner.index_signer().public_key()


def test_the_folder_does_not_say_which_release_is_brought_back(ready: Site) -> None:
    now = datetime.now(UTC)
    first, second = (ready.build_release().folder for _ in range(2))
    for folder in (first, second):
        preparation.prepare(ready.workspace, folder, Destination(deployment=ready.deployment, enclaves=PLACES))
    owner = Owner.open(ready.workspace)
    verified = verify_release(first, owner.index_signer().public_key())
    with owner.database() as database:
        admin.drain(database, first.name, deadline=now + timedelta(seconds=1), now=now)
        admin.drain(database, second.name, deadline=now + timedelta(hours=9), now=now)
    for name in ("release.json", "release.json.sig"):
        shutil.copyfile(second / name, first / name)
    with raises(BrokerCode.POLICY_RELEASE_DRAINING_ENDED):
        provisioning.bring_back(ready.workspace, ready.deployment, verified, now=now + timedelta(hours=1))
