"""The owner's part of `up`, for each target: a release is hashed once, and a dry run changes nothing."""

import hashlib
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.harness.command_line import CommandLine
from tests.harness.fake_docker import FakeDocker
from tests.harness.workspaces import Site, make_site

from sealserve.bundle import Bundle
from sealserve.cluster.docker.target import DockerTarget
from sealserve.cluster.kubernetes import shipping
from sealserve.cluster.kubernetes.target import KubernetesTarget
from sealserve.cluster.local.target import LocalTarget
from sealserve.cluster.target import Scaled
from sealserve.enclave.inventory import Inventory, measure
from sealserve.sealing.release_index import INDEX_FILE, parse_index
from sealserve.terms import ServerKind

TARGETS = ("local", "docker", "kubernetes")
ADDRESS = "attestation.service.com"


@pytest.fixture
def inventory() -> Inventory:
    """What stands for the files of the server's image."""
    return Inventory(server=ServerKind.EMBEDDED, program=sys.executable, files=measure([sys.executable]))


@pytest.fixture(params=TARGETS)
def elsewhere(
    request: pytest.FixtureRequest, tmp_path: Path, inventory: Inventory, monkeypatch: pytest.MonkeyPatch
) -> Site:
    """A workspace whose target does everything but start processes, containers or pods."""
    file = tmp_path / "inventory.json"
    file.write_bytes(inventory.to_bytes())
    site = make_site(
        tmp_path / "site",
        broker={"address": ADDRESS},
        target={"kind": request.param},
        kubernetes={
            "images": {"inventory": file},
            "store": {"folder": tmp_path / "store", "source": "https://store.example.com/{release}.tar"},
        },
    )
    docker = tmp_path / "docker"
    docker.mkdir()
    engine = FakeDocker(docker)
    engine.answer("container ls")
    engine.answer("image inspect", err="Error: No such image: x\n", status=1)
    monkeypatch.setenv("PATH", f"{docker}{os.pathsep}{os.environ['PATH']}")
    for name in ("inventory_of", "known_inventory"):
        monkeypatch.setattr(f"sealserve.owner.preparation.{name}", lambda *_, **__: inventory)
    monkeypatch.setattr("sealserve.cluster.kubernetes.target.ClusterClient", EmptyCluster)
    for target, up in ((LocalTarget, up_locally), (DockerTarget, up_in_docker), (KubernetesTarget, up_in_a_cluster)):
        monkeypatch.setattr(target, "check", lambda *_, **__: None)
        monkeypatch.setattr(target, "up", up)
        monkeypatch.setattr(target, "status", lambda _: [])
    return site


class EmptyCluster:
    """A cluster in which nothing was made yet, and nothing may be."""

    def get(self, _name: object) -> None:
        return None


def up_locally(target: LocalTarget, bundle: Bundle, replicas: int) -> tuple[str, ...]:
    assert [enclave.name for enclave in bundle.enclaves] == [f"replica-{index}" for index in range(replicas)]
    assert len({enclave.port for enclave in bundle.enclaves}) == replicas
    assert target.destination(bundle.name, replicas).enclaves
    return ()


def up_in_docker(target: DockerTarget, bundle: Bundle, replicas: int) -> tuple[str, ...]:
    assert target.render(bundle, replicas)
    return ()


def up_in_a_cluster(target: KubernetesTarget, bundle: Bundle, replicas: int) -> tuple[str, ...]:
    context = shipping.render_context(target._workspace, target._deployment, bundle, replicas=replicas)
    assert target._objects(context, bundle)
    return ()


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each digest was computed of a file or of bytes."""
    counted: Counter[str] = Counter()
    of_file, of_bytes = hashlib.file_digest, hashlib.sha256

    def file_digest(*arguments: Any, **more: Any) -> Any:
        digest = of_file(*arguments, **more)
        counted[digest.hexdigest()] += 1
        return digest

    def sha256(content: Any = b"", **more: Any) -> Any:
        digest = of_bytes(content, **more)
        counted[digest.hexdigest()] += 1
        return digest

    monkeypatch.setattr(hashlib, "file_digest", file_digest)
    monkeypatch.setattr(hashlib, "sha256", sha256)
    return counted


def most_hashed(release: Path, hashes: Counter[str]) -> int:
    """Return how often the file of a release was hashed that was hashed most often."""
    index = parse_index((release / INDEX_FILE).read_bytes())
    return max(hashes[file.sha256] for file in index.files)


@pytest.mark.parametrize("times", [1, 2], ids=["first", "again"])
def test_up_hashes_each_file_of_a_release_once(
    elsewhere: Site, capsys: pytest.CaptureFixture[str], hashes: Counter[str], times: int
) -> None:
    elsewhere.import_model()
    elsewhere.certify()
    release = elsewhere.build_release().folder
    cli = CommandLine(capsys, elsewhere.directory)
    for _ in range(times):
        hashes.clear()
        cli.ok("up", "--replicas", "3")
    assert most_hashed(release, hashes) == 1


def test_scaling_hashes_each_file_of_a_release_once(
    elsewhere: Site, capsys: pytest.CaptureFixture[str], hashes: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere.import_model()
    elsewhere.certify()
    release = elsewhere.build_release().folder
    needs_bundle = elsewhere.deployment.target.kind != "kubernetes"
    for target in (LocalTarget, DockerTarget):
        monkeypatch.setattr(target, "to_scale", lambda *_: Scaled(release=release.name))
    given: list[Bundle | None] = []
    for kind in (LocalTarget, DockerTarget, KubernetesTarget):
        monkeypatch.setattr(kind, "scale", lambda _self, _replicas, bundle: given.append(bundle))
    hashes.clear()
    CommandLine(capsys, elsewhere.directory).ok("scale", "3")
    assert most_hashed(release, hashes) == int(needs_bundle)
    assert (given != [None]) is needs_bundle


def state(folder: Path) -> dict[str, object]:
    """Return everything in a folder, if there is one: names, modes, times of change and contents."""
    return dict(_entries(folder))


def _entries(folder: Path) -> Iterator[tuple[str, object]]:
    for path in sorted([folder, *folder.rglob("*")] if folder.exists() else []):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else path.readlink() if path.is_symlink() else None
        yield str(path.relative_to(folder)), (status.st_mode, status.st_mtime_ns, content)


def dry_run(site: Site, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    """Do a dry run that must change neither the workspace nor the store, and return its output."""
    folders = (site.directory, site.directory.parent / "store")
    before = list(map(state, folders))
    done = CommandLine(capsys, site.directory)("up", "--dry-run", *arguments)
    assert done.status == 0, done.err
    assert list(map(state, folders)) == before
    return done.out, done.err


def test_a_dry_run_changes_nothing(elsewhere: Site, capsys: pytest.CaptureFixture[str]) -> None:
    kind = elsewhere.deployment.target.kind
    enclave = "replica-0" if kind == "local" else "server"
    # 1. Nothing was done yet.
    out, err = dry_run(elsewhere, capsys)
    assert out == ""
    assert "Step that `up` would do: converting the model half-plus-two.\n" in err
    assert "Step that `up` would do: creating certificates for two-way TLS.\n" in err
    assert "Step that `up` would do: sealing a release.\n" in err
    assert not elsewhere.workspace.owner.database.exists()
    # 2. There is a release without enclaves.
    elsewhere.import_model()
    elsewhere.certify()
    release = elsewhere.build_release().folder
    out, err = dry_run(elsewhere, capsys)
    assert f"Step that `up` would do: building the enclave {enclave}.\n" in err
    assert f"Step that `up` would do: registering the enclaves of {release.name} with the broker.\n" in err
    if kind == "kubernetes":
        assert "Step that `up` would do: packing the release for the store.\n" in err
        assert "+++ deployment/deployment/sealserve-replicas\n" in out
        assert release.name in out
    else:
        assert "Step that `up` would do: copying the release to the host's folder.\n" in err
    if kind == "local":
        assert f"+release: {release.name}\n" in out
        assert "+replica-0: a free port\n" in out
    if kind == "docker":
        assert f"+replica-0: release {release.name}, image not available yet" in out
    # 3. Everything was done, and only the deployment file differs.
    CommandLine(capsys, elsewhere.directory).ok("up")
    out, err = dry_run(elsewhere, capsys)
    assert "building" not in err
    file = elsewhere.workspace.deployment_file
    file.write_text(re.sub(r"(?m)^isv_svn = .*", "isv_svn = 9", file.read_text()))
    out, err = dry_run(elsewhere, capsys)
    assert out == (f"sealserve.toml differs from {release.name} (released -> described):\n  enclave.isv_svn: 0 -> 9\n")
    assert "Step that `up` would do: sealing a release.\n" in err


def test_a_dry_run_reads_no_key_for_a_broker_in_the_cluster(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], inventory: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "inventory.json"
    file.write_bytes(inventory.to_bytes())
    site = make_site(
        tmp_path / "site",
        broker={"address": "sealserve-broker.sealserve.svc"},
        target={"kind": "kubernetes"},
        kubernetes={
            "images": {"inventory": file},
            "store": {"source": "https://store.example.com/{release}.tar"},
            "broker": {"dangerous_inside": True},
        },
    )
    site.import_model()
    site.certify()
    site.build_release()
    monkeypatch.setattr("sealserve.cluster.kubernetes.target.ClusterClient", EmptyCluster)
    monkeypatch.setattr("sealserve.owner.broker_files._read", None)
    out, err = dry_run(site, capsys)
    assert "Step that `up` would do: certifying the simulated platform.\n" in err
    assert "copying the broker's keys and database into the cluster, without comparing them first.\n" in err
    assert "deployment/sealserve-replicas" in out
    assert "secret/" not in out


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_a_dry_run_measures_no_image(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site(tmp_path / "site", target={"kind": kind})
    site.import_model()
    site.certify()
    site.build_release()
    monkeypatch.setattr("sealserve.owner.preparation.known_inventory", lambda *_, **__: None)
    out, err = dry_run(site, capsys)
    assert out == ""
    assert "Step that `up` would do: measuring sealserve-server-simulated:" in err
    assert "building the release's enclave if it does not match" in err
