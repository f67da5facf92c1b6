"""The files that root gives to the containers' user, and protection against giving more."""

import os
import stat
from pathlib import Path

import pytest
from tests.harness.errors import raises
from tests.harness.workspaces import Site, make_site

from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.docker.ownership import container_user, give, take_back
from sealserve.containers.recipes import SERVICE_USER
from sealserve.owner import simulation
from sealserve.owner.certificates import renew_certificates
from sealserve.owner.master_key import rotate
from sealserve.owner.owner import Owner

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = make_site(tmp_path / "site")
    made.certify()
    simulation.open_platform(made.workspace, now=made.now)
    with Owner.open(made.workspace).vault(create=True):
        Owner.create(made.workspace)
    (made.workspace.owner.models / "weights").write_text("x")
    folder = made.workspace.host.run / "docker"
    for name in ("quoting", "nginx"):
        (folder / name).mkdir(parents=True)
    (folder / "nginx" / "nginx.conf").write_text("x")
    return made


def hand_over(site: Site, release: Path | None = None) -> None:
    workspace = site.workspace
    give(workspace, container_user(workspace), configuration=workspace.host.run / "docker", release=release)


def owned(site: Site, uid: int) -> set[str]:
    root = site.workspace.root
    return {path.relative_to(root).as_posix() for path in [root, *root.rglob("*")] if path.lstat().st_uid == uid}


def test_the_containers_user_gets_only_the_needed_files(site: Site) -> None:
    hand_over(site)
    given = owned(site, SERVICE_USER)
    assert {"owner/master.key", "owner/audit-signing-key.pem", "owner/token-signing-key.pem", "owner/database",
            "owner/database/broker.sqlite", "owner/audit", "owner/broker-tls/broker.key",
            "host/run/docker/quoting"} <= given  # fmt: skip
    assert not {"owner", "owner/index-signing-key.pem", "owner/authorities/broker/ca.key"} & given
    assert not {name for name in given if name.startswith(("owner/authorities", "owner/models"))}
    # No folder in which root follows names is given away, except folders that a container must write to.
    folders = {name for name in given if (site.workspace.root / name).is_dir()}
    assert folders == {"owner/collateral", "owner/database", "owner/audit", "host/run/docker/quoting", "vendor"}
    for folder in (site.workspace.owner.broker_tls, site.workspace.host.platform):
        found = folder.stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode) & 0o077) == (0, SERVICE_USER, 0o050)
    take_back(site.workspace)
    assert owned(site, SERVICE_USER) == {"host/run/docker/quoting"}  # `down` removes this folder


def test_files_that_root_replaces_stay_readable_for_the_containers_user(site: Site) -> None:
    hand_over(site)
    owner = site.workspace.owner
    paths = (owner.master_key, owner.broker_tls / "broker.pem", owner.broker_tls / "broker.key")
    before = [path.read_bytes() for path in paths]
    rotate(site.workspace)
    renew_certificates(site.workspace, site.deployment, now=site.now)
    for path, former in zip(paths, before, strict=True):
        found = path.stat()
        assert path.read_bytes() != former
        assert (found.st_uid, found.st_gid) == (SERVICE_USER, SERVICE_USER), path
    assert {stat.S_IMODE(path.stat().st_mode) for path in (paths[0], paths[2])} == {0o600}
    # The key of a certificate authority and the certificate of a user stay root's.
    assert site.workspace.user.key.stat().st_uid == 0


def test_files_that_earlier_versions_gave_are_taken_back(site: Site) -> None:
    owner, configuration = site.workspace.owner.root, site.workspace.host.run / "docker"
    for path in (owner, configuration, configuration / "nginx"):
        os.chown(path, SERVICE_USER, SERVICE_USER)
    hand_over(site)
    assert {path.stat().st_uid for path in (owner, configuration, configuration / "nginx")} == {0}


def test_a_link_or_a_second_hard_link_is_rejected(site: Site, tmp_path: Path) -> None:
    victim = tmp_path / "shadow"
    victim.write_text("x")
    planted = site.workspace.owner.database.with_name("broker.sqlite-wal")
    planted.symlink_to(victim)
    with raises(
        ClusterCode.DOCKER_UNSAFE_FILE,
        match=r"broker\.sqlite-wal is not usable .*: expected a regular file with one name, or a folder",
    ) as caught:
        hand_over(site)
    assert caught.value.code == "docker.unsafe-file"
    assert caught.value.exit_status == 2
    planted.unlink()
    os.link(victim, planted)
    with raises(ClusterCode.DOCKER_UNSAFE_FILE, match="got a file with 2 hard links"):
        hand_over(site)
    assert victim.stat().st_uid == 0
    take_back(site.workspace)  # unexpected entries are not changed
    planted.unlink()


def test_replacing_a_release_meanwhile_gives_no_other_files_away(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "shadow").write_text("x")
    release = site.workspace.host.releases / "release"
    (release / "models").mkdir(parents=True)
    (release / "models" / "shadow").write_text("x")
    chown = os.chown

    def racing(path: object, uid: int, gid: int, **options: object) -> None:
        if (release / "models").is_dir() and not (release / "models").is_symlink():  # between any two steps
            (release / "models").rename(tmp_path / "moved")
            (release / "models").symlink_to(etc)
        chown(path, uid, gid, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "chown", racing)
    with raises(
        ClusterCode.DOCKER_UNSAFE_FILE,
        match="models is not usable .*: expected a regular file with one name, or a folder, got a symbolic link",
    ):
        hand_over(site, release)
    assert {etc.stat().st_uid, (etc / "shadow").stat().st_uid} == {0}


def test_a_container_cannot_replace_the_files_of_a_release(site: Site) -> None:
    release = site.workspace.host.releases / "release"
    (release / "enclave").mkdir(parents=True)
    (release / "enclave" / "file").write_text("x")
    hand_over(site, release)
    assert {release.stat().st_uid, (release / "enclave").stat().st_uid} == {0}
    assert (release / "enclave" / "file").stat().st_uid == SERVICE_USER
    (release / "enclave" / "file").chmod(0o666)
    take_back(site.workspace)
    found = (release / "enclave" / "file").stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o644)
