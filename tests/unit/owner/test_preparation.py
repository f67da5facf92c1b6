"""What the owner prepares for a destination, and hands over."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.harness.workspaces import Site

from sealserve.bundle import BrokerPlace, Bundle, Destination, EnclavePlace, OwnersBroker
from sealserve.enclave.measurement import load_enclave
from sealserve.owner import drift, provisioning
from sealserve.owner.preparation import foresee, prepare
from sealserve.sealing.release_files import ReleaseFileChangedError

PLACES = tuple(EnclavePlace(name=f"replica-{index}", port=8510 + index) for index in range(2))


@pytest.fixture
def release(ready: Site) -> Path:
    return ready.build_release().folder


@pytest.fixture
def destination(ready: Site) -> Destination:
    return Destination(deployment=ready.deployment, enclaves=PLACES)


def manifests(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "enclave").glob("*"))}


def test_what_is_handed_over_is_at_the_hosts(ready: Site, release: Path, destination: Destination) -> None:
    told: list[str] = []
    bundle = prepare(ready.workspace, release, destination, tell=told.append)
    assert told == ["building the enclave replica-0", "building the enclave replica-1"]
    assert bundle.folder == ready.workspace.host.releases / release.name
    assert {enclave.name: enclave.port for enclave in bundle.enclaves} == {"replica-0": 8510, "replica-1": 8511}
    shipped, built = (
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (bundle.folder, release)
    )
    assert shipped == built
    assert provisioning.draining_until(ready.workspace, release) is None
    assert bundle.broker == OwnersBroker()
    assert foresee(ready.workspace, release, destination).bundle == replace(bundle, folder=release)


def test_preparing_again_builds_nothing(ready: Site, release: Path, destination: Destination) -> None:
    first = prepare(ready.workspace, release, destination)
    before, told = manifests(release), list[str]()
    assert prepare(ready.workspace, release, destination, tell=told.append) == first
    assert (told, manifests(release)) == ([], before)


def test_an_enclave_that_runs_stays_as_it_is_and_another_is_built_again(
    ready: Site, release: Path, destination: Destination
) -> None:
    prepare(ready.workspace, release, destination)
    before = manifests(release)
    broker = ready.deployment.broker.model_copy(update={"port": 4444})
    other = replace(
        destination,
        deployment=ready.deployment.model_copy(update={"broker": broker}),
        enclaves=(replace(PLACES[0], in_use=True), PLACES[1]),
    )
    told: list[str] = []
    bundle = prepare(ready.workspace, release, other, tell=told.append)
    assert told == ["building the enclave replica-1"]
    assert manifests(bundle.folder)["replica-0.manifest.sgx"] == before["replica-0.manifest.sgx"]
    changed = bundle.enclave("replica-1")
    assert changed is not None
    assert changed.broker[1] == 4444


def test_an_enclave_keeps_the_settings_that_its_release_was_built_with(
    ready: Site, release: Path, destination: Destination
) -> None:
    """Other settings are the next release's: `up` builds it. So a roll-back returns to what had run."""
    prepare(ready.workspace, release, destination)
    before = manifests(release)
    enclave = ready.deployment.enclave.model_copy(update={"isv_svn": 9})
    server = ready.deployment.server.model_copy(update={"threads": 4})
    later = ready.deployment.model_copy(update={"enclave": enclave, "server": server})
    told: list[str] = []
    prepare(ready.workspace, release, replace(destination, deployment=later), tell=told.append)
    assert (told, manifests(release)) == ([], before)
    # A release without a record takes the settings of today.
    drift.forget(ready.workspace, release.name)
    bundle = prepare(ready.workspace, release, replace(destination, deployment=later), tell=told.append)
    assert told == ["building the enclave replica-0", "building the enclave replica-1"]
    assert load_enclave(bundle.folder, "replica-1").sigstruct.isv_svn == 9


@pytest.mark.parametrize("half", [prepare, foresee])
def test_a_changed_release_is_prepared_for_nobody(
    ready: Site, release: Path, destination: Destination, half: Callable[[object, Path, Destination], object]
) -> None:
    sealed = release / "models/half-plus-two/1/saved_model.pb"
    sealed.write_bytes(sealed.read_bytes()[:-1] + b"x")
    with pytest.raises(ReleaseFileChangedError):
        half(ready.workspace, release, destination)
    assert not (release / "enclave").exists()
    assert provisioning._known(ready.workspace, provisioning._release_id(ready.workspace, release)) is None


def test_a_packed_release_stays_at_the_owners(ready: Site, release: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    destination = Destination(
        deployment=ready.deployment,
        enclaves=(EnclavePlace(name="server", port=8500),),
        on_this_machine=False,
        store=store,
        broker=BrokerPlace.CONTAINER,
    )
    bundle = prepare(ready.workspace, release, destination)
    assert bundle.folder == release
    assert [path.name for path in store.iterdir()] == [f"{release.name}.tar"]
    assert not (ready.workspace.host.releases / release.name).exists()
    assert ready.workspace.owner.audit_signing_key.is_file(), "the broker's container only reads its keys"


def test_keys_are_not_shown() -> None:
    broker = OwnersBroker(files={".sealserve/owner/master.key": b"sixteen secret b"})
    assert "secret" not in repr(Bundle(folder=Path("r"), size=0, enclaves=(), broker=broker))
