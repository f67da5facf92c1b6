"""`release prune` and `release diff`."""

from pathlib import Path

import pytest
from tests.harness.command_line import CommandLine
from tests.harness.deployment_text import with_key
from tests.harness.workspaces import NAME, Site, make_site

from sealserve.cluster import targets, wanted
from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.deployment_lock import held
from sealserve.cluster.local.owner_services import registry
from sealserve.cluster.local.processes import Phase, Process
from sealserve.cluster.release_record import ReleaseRecord
from sealserve.cluster.target import PartStatus, State
from sealserve.owner import drift, provisioning, releases
from sealserve.owner.owner import Owner
from sealserve.sealing.release import verify_release


@pytest.fixture
def built(ready: Site) -> list[Path]:
    """Six releases, oldest first, each with a copy at the host."""
    made = [ready.build_release().folder for _ in range(6)]
    for folder in made:
        releases.ship(ready.workspace, verify_release(folder, Owner.open(ready.workspace).public_key()))
    return made


def left(site: Site) -> set[str]:
    found = {path.name for path in site.workspace.owner.releases.iterdir()}
    assert {path.name for path in site.workspace.host.releases.iterdir()} == found
    return found


def test_what_nothing_needs_is_removed(cli: CommandLine, ready: Site, built: list[Path]) -> None:
    oldest, allowed, previous, served, middle, newest = built
    wanted.keep_release(ready.workspace, previous.name, newest=None)
    wanted.keep_release(ready.workspace, served.name, newest=None)
    ready.build_enclave(allowed)
    provisioning.allow(ready.workspace, ready.deployment, allowed, now=ready.now)
    found = cli.json("release", "prune", "--keep", "1", "--dry-run")
    assert left(ready) == {path.name for path in built}
    assert {row["release"]: row["kept"] for row in found} == {
        oldest.name: None,
        allowed.name: "active at the broker",
        previous.name: "a roll-back returns to it",
        served.name: "it served last",
        middle.name: None,
        newest.name: "one of the newest",
    }
    assert [len(row["copies"]) for row in found] == [2] * 6
    out = cli.ok("release", "prune", "--keep", "1", "--yes")
    assert left(ready) == {allowed.name, previous.name, served.name, newest.name}
    assert f"{oldest.name}" in out
    assert drift.released_facts(ready.workspace, served) is not None
    assert not (ready.workspace.owner.provenance / "releases" / f"{oldest.name}.json").exists()
    # A revoked release goes with the next call.
    cli.ok("broker", "revoke", allowed.name, "--yes")
    cli.ok("release", "prune", "--keep", "1", "--yes")
    assert left(ready) == {previous.name, served.name, newest.name}
    assert cli.json("broker", "releases")[0]["name"] == allowed.name  # its record stays


def test_what_serves_is_kept_without_the_record_of_up(cli: CommandLine, ready: Site, built: list[Path]) -> None:
    """As after an upgrade, on a machine that is only the host, where the broker's database is missing."""
    leaving, before, recorded, running, target_previous, newest = (path.name for path in built)
    record = ReleaseRecord(ready.workspace)
    record.serve(before)
    record.serve(recorded)
    for name, release, phase in (("replica-0", running, Phase.CURRENT), ("replica-1", leaving, Phase.LEAVING)):
        registry(ready.workspace).add(
            Process(role=name, pid=2**22 - 1, started=0, port=None, log="", release=release, phase=phase)
        )
    found = cli.json("release", "prune", "--keep", "1", "--dry-run")
    assert {row["release"]: row["kept"] for row in found} == {
        leaving: "it serves now",
        before: "a roll-back returns to it",
        recorded: "it served last",
        running: "it serves now",
        target_previous: None,
        newest: "one of the newest",
    }


def test_what_another_target_serves_is_kept(
    cli: CommandLine, ready: Site, built: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other:
        def previous_release(self) -> str:
            return built[0].name

        def status(self) -> list[PartStatus]:
            return [PartStatus(role="replica-0", state=State.SERVING, release=built[1].name)]

    targets.claim(ready.workspace, "docker")
    monkeypatch.setattr(targets, "open_target", lambda *_: Other())
    cli.ok("release", "prune", "--keep", "1", "--yes")
    assert left(ready) == {built[0].name, built[1].name, built[-1].name}
    # A target that does not answer may serve anything.
    monkeypatch.setattr(Other, "status", lambda _: fail(ClusterCode.CONTAINER_NOT_READY))
    assert cli.error("release", "prune", "--keep", "1", "--yes")["code"] == ClusterCode.CONTAINER_NOT_READY
    monkeypatch.setattr(Other, "previous_release", lambda _: fail(ClusterCode.TARGET_BUSY))
    assert cli.error("release", "prune", "--keep", "1", "--yes")["code"] == ClusterCode.TARGET_BUSY


def fail(code: ClusterCode) -> None:
    raise code.error("The target does not answer.")


def test_with_a_damaged_record_nothing_is_removed(cli: CommandLine, ready: Site, built: list[Path]) -> None:
    (ready.workspace.host.run / "wanted.json").write_bytes(b"{")
    error = cli.error("release", "prune", "--keep", "1", "--yes")
    assert (error["code"], error["status"]) == ("deployment.record", 2)
    assert len(left(ready)) == len(built)


def test_without_an_answer_nothing_is_removed(cli: CommandLine, ready: Site, built: list[Path]) -> None:
    assert cli("release", "prune", "--keep", "1").status != 0
    assert len(left(ready)) == len(built)


def test_a_changing_deployment_is_not_pruned(cli: CommandLine, ready: Site, built: list[Path]) -> None:
    with held(ready.workspace, "up"):
        assert cli.error("release", "prune", "--keep", "1", "--yes", "--no-wait")["code"] == "deployment.busy"
    assert len(left(ready)) == len(built)


def test_a_link_is_neither_followed_nor_removed(
    cli: CommandLine, ready: Site, built: list[Path], tmp_path: Path
) -> None:
    oldest = ready.workspace.host.releases / built[0].name
    oldest.rename(tmp_path / "elsewhere")
    oldest.symlink_to(tmp_path / "elsewhere")
    cli.ok("release", "prune", "--keep", "1", "--yes")
    assert (tmp_path / "elsewhere" / "release.json").is_file() or any((tmp_path / "elsewhere").iterdir())
    assert oldest.is_symlink()
    assert not built[0].exists()


def test_what_a_killed_prune_left_is_removed(cli: CommandLine, ready: Site, built: list[Path]) -> None:
    built[0].rename(built[0].with_name(f".pruned-{built[0].name}"))
    assert len(cli.json("release", "list")) == len(built) - 1
    cli.ok("release", "prune", "--keep", "1", "--yes")
    assert not list(ready.workspace.owner.releases.glob(".*"))


def test_the_packed_copy_goes_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    store = tmp_path / "store"
    site = make_site(tmp_path / "site", kubernetes={"store": {"folder": str(store)}})
    site.import_model()
    site.certify()
    cli = CommandLine(capsys, site.directory)
    store.mkdir()
    (store / ".pruned-of-a-killed-one.tar").write_bytes(b"half")
    first = site.build_release().folder
    cli.ok("release", "pack", store / f"{first.name}.tar")
    (store / "other.tar").write_bytes(b"not a release of this workspace")
    site.build_release()
    cli.ok("release", "prune", "--keep", "1", "--yes")
    assert [path.name for path in store.iterdir()] == ["other.tar"]


def test_diff_of_two_releases(cli: CommandLine, ready: Site) -> None:
    first = ready.build_release().folder
    same = ready.build_release().folder
    assert (
        cli.ok("release", "diff", first.name, same.name)
        == f"{first.name} and {same.name} were built from the same settings and models.\n"
    )
    file = ready.workspace.deployment_file
    file.write_text(with_key(with_key(file.read_text(), "server.threads", "3"), "model.labels", '["a"]'))
    cli.ok("release", "build")
    second = releases.newest(ready.workspace.owner.releases)
    assert cli.ok("release", "diff", first.name, second.name) == (
        f'model[{NAME}:1].labels: [] -> ["a"]\nserver.threads: 1 -> 3\n'
    )
    found = cli.json("release", "diff", second.name, first.name)
    assert found["differences"][1] == {"key": "server.threads", "a": "3", "b": "1"}
    drift.forget(ready.workspace, first.name)
    error = cli.error("release", "diff", first.name, second.name)
    assert (error["code"], error["status"]) == ("release.not-comparable", 2)
    assert error["message"].startswith(f"The release {first.name} cannot be compared: no record of its settings")
