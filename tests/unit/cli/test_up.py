"""`up` is declarative: it compares the release with ``sealserve.toml``, asks, and rolls. No process is started here."""

import contextlib
import io
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.harness.command_line import CommandLine
from tests.harness.deployment_text import with_key
from tests.harness.workspaces import NAME, Site

from sealserve.bundle import Bundle
from sealserve.cli import up
from sealserve.cluster import wanted
from sealserve.cluster.deployment_lock import OWNERS, held, holder
from sealserve.cluster.local import target as local
from sealserve.cluster.local.processes import ProcessEndedError
from sealserve.cluster.release_record import ReleaseRecord
from sealserve.cluster.target import Scaled
from sealserve.owner import models, releases
from sealserve.owner.owner import Owner
from sealserve.pki.authority import AuthorityKind


class Rolling(local.LocalTarget):
    """A local target that starts nothing, and records the releases that it should serve."""

    served: Sequence[tuple[str, int]] = []
    before: Sequence[str] = []
    error: BaseException | None = None
    switches: bool = False
    """Whether the error comes after the release serves, as in the wait for open connections."""

    def check(self, release: Path, *, broker_here: bool) -> None:
        """Refuse nothing."""

    def up(self, bundle: Bundle, replicas: int) -> Sequence[str]:
        """Serve a release."""
        if Rolling.switches:
            ReleaseRecord(self._workspace).serve(bundle.name)
        if Rolling.error is not None:
            raise Rolling.error
        replaced = [Rolling.served[-1][0]] if Rolling.served else []
        Rolling.served = [*Rolling.served, (bundle.name, replicas)]
        return [name for name in replaced if name != bundle.name]

    def to_scale(self, _replicas: int) -> Scaled | None:
        return None

    def scale(self, _replicas: int, _bundle: Bundle | None) -> None:
        """Do nothing."""
        if Rolling.error is not None:
            raise Rolling.error

    def difference(self, bundle: Bundle, replicas: int) -> str:
        return f"{bundle.name} x {replicas}\n"

    def previous_release(self) -> str:
        return Rolling.served[-2][0]


@pytest.fixture(autouse=True)
def target(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Rolling]]:
    monkeypatch.setattr(local, "LocalTarget", Rolling)
    Rolling.served, Rolling.error, Rolling.switches = [], None, False
    yield Rolling
    Rolling.served, Rolling.error, Rolling.switches = [], None, False


class Keyboard(io.StringIO):
    """What a person types at a terminal."""

    def isatty(self) -> bool:
        return True


def change(site: Site, key: str, value: str) -> None:
    """Change a key of the deployment file."""
    file = site.workspace.deployment_file
    file.write_text(with_key(file.read_text(), key, value))


def names(site: Site) -> list[str]:
    """Return the names of the owner's releases."""
    return sorted(path.name for path in site.workspace.owner.releases.iterdir())


def test_without_a_change_nothing_is_built(cli: CommandLine, ready: Site, target: type[Rolling]) -> None:
    first = ready.build_release().folder.name
    for _ in range(2):
        done = cli("up")
        assert done.status == 0
        assert "differs" not in done.err
    assert target.served == [(first, 2), (first, 2)]
    assert names(ready) == [first]


@pytest.mark.parametrize("arguments", [(), ("--json",), ("--dry-run",)], ids=" ".join)
def test_every_dangerous_setting_causes_a_warning(cli: CommandLine, ready: Site, arguments: tuple[str, ...]) -> None:
    ready.build_release()
    assert "weakens security" not in cli("up", *arguments).err
    change(ready, "kubernetes.broker.dangerous_inside", "true")
    change(ready, "model.dangerous_operations", '["PrintV2"]')
    warnings = cli("up", "--keep-release", *arguments).err
    assert "weakens security: kubernetes.broker.dangerous_inside = true. Meaning: whether the broker runs" in warnings
    assert "weakens security: model.dangerous_operations = PrintV2 (model 'half-plus-two')" in warnings


def test_a_changed_setting_needs_a_word_where_nobody_can_answer(
    cli: CommandLine, ready: Site, target: type[Rolling]
) -> None:
    first = ready.build_release().folder.name
    cli.ok("up")
    change(ready, "server.threads", "2")
    for arguments in ((), ("--json",)):
        done = cli("up", *arguments)
        assert done.status == 2
    error = cli.error("up")
    assert error["code"] == "deployment.unconfirmed"
    assert f"differs from the release {first} in server.threads." in error["message"]
    assert "sealserve up --yes" in error["hint"]
    assert names(ready) == [first]
    assert target.served == [(first, 2)]
    # The release is served as it is if it is named.
    cli.ok("up", "--release", first)
    assert target.served[-1] == (first, 2)


def test_a_changed_setting_is_shown_and_rolled_out(cli: CommandLine, ready: Site, target: type[Rolling]) -> None:
    first = ready.build_release().folder.name
    cli.ok("up")
    change(ready, "server.threads", "2")
    change(ready, "service.tls", '"one-way"')
    done = cli("up", "--yes")
    assert done.status == 0
    assert f"sealserve.toml differs from {first} (released -> described):\n" in done.err
    assert '  server.threads: 1 -> 2\n  service.tls: "two-way" -> "one-way"\n' in done.err
    (second,) = set(names(ready)) - {first}
    assert target.served[-1] == (second, 2)
    assert f"{first} is draining" in done.err
    # Afterwards nothing differs.
    assert "differs" not in cli("up").err
    assert target.served[-1] == (second, 2)


def test_a_new_name_of_the_service_needs_a_new_authority(cli: CommandLine, ready: Site, target: type[Rolling]) -> None:
    first = ready.build_release().folder.name
    cli.ok("up")
    before = ready.workspace.user.service_ca.read_bytes()
    change(ready, "service.name", '"models.example.com"')
    change(ready, "broker.address", '"127.0.0.2"')
    assert cli.error("up")["code"] == "deployment.unconfirmed"
    assert ready.workspace.user.service_ca.read_bytes() == before
    done = cli("up", "--yes")
    assert done.status == 0, done.err
    assert "send the new user/service-ca.pem to the users.\n" in done.err
    assert "replicas of older releases cannot start again.\n" in done.err
    assert "replacing the certificate authorities of broker, service\n" in done.err
    assert target.served[-1][0] != first
    assert ready.workspace.user.service_ca.read_bytes() != before
    kept = [path.name for path in ready.workspace.owner.authorities.glob("service.replaced-*")]
    assert len(kept) == 1  # nothing is lost
    assert "differs" not in cli("up").err


OWNER_TLS_KEY = "server.dangerous_owner_tls_key"


def of_an_earlier_version(ready: Site, monkeypatch: pytest.MonkeyPatch, cli: CommandLine) -> str:
    """Serve a release of a version without attested serving. Return the release's name."""
    for folder in (ready.workspace.owner.authorities, ready.workspace.owner.issuing, ready.workspace.user.root):
        shutil.rmtree(folder)
    change(ready, "server.dangerous_owner_tls_key", "true")
    with monkeypatch.context() as version:
        version.setattr(AuthorityKind, "signs_authorities", property(lambda _: False))
        cli.ok("certs", "two-way")
    cli.ok("release", "build")
    cli.ok("up")
    (name,) = names(ready)
    records = [path for path in ready.workspace.owner.provenance.rglob("*.json") if OWNER_TLS_KEY in path.read_text()]
    assert len(records) == 2  # of the release, and of sealserve.toml
    for record in records:
        text = record.read_text().replace(f'"{OWNER_TLS_KEY}":"true",', "")
        assert OWNER_TLS_KEY not in text
        record.write_text(text)
    change(ready, "server.dangerous_owner_tls_key", "false")
    return name


def test_an_update_replaces_neither_the_release_nor_the_authority(
    cli: CommandLine, ready: Site, target: type[Rolling], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = of_an_earlier_version(ready, monkeypatch, cli)
    trusted = ready.workspace.user.service_ca.read_bytes()
    # The release can be served as before, and `up` shows that attested serving needs a new release.
    done = cli("up", "--keep-release")
    assert done.status == 0, done.err
    assert f"  {OWNER_TLS_KEY}: true -> false\n" in done.err
    assert [name for name, _ in target.served] == [first, first]
    # No command builds an attested release until the users have another certificate of the authority.
    for command in (("release", "build"), ("up", "--yes"), ("up",), ("up", "--dry-run"), ("certs", "rotate-issuing")):
        error = cli.error(*command)
        assert (error["code"], error["status"]) == ("authority.no-intermediate", 2), command
        assert "sealserve certs renew-service-ca" in error["hint"]
        assert "server.dangerous_owner_tls_key = true" in error["hint"]
    assert names(ready) == [first]
    assert ready.workspace.user.service_ca.read_bytes() == trusted
    # The first way out: the owner's TLS key, until the users have the certificate.
    change(ready, "server.dangerous_owner_tls_key", "true")
    assert "differs" not in cli("up").err
    assert names(ready) == [first]
    change(ready, "server.threads", "2")
    cli.ok("up", "--yes")
    (second,) = set(names(ready)) - {first}
    assert (ready.workspace.owner.releases / second / "tls/ssl.cfg").is_file()
    assert ready.workspace.user.service_ca.read_bytes() == trusted
    # The second way out: the authority gets another certificate, with the same key.
    change(ready, "server.dangerous_owner_tls_key", "false")
    key = (ready.workspace.owner.authorities / "service/ca.key").read_bytes()
    done = cli("certs", "renew-service-ca")
    assert done.status == 0, done.err
    assert f"Next: send {ready.workspace.user.service_ca} to the users" in done.err
    assert (ready.workspace.owner.authorities / "service/ca.key").read_bytes() == key
    assert ready.workspace.user.service_ca.read_bytes() != trusted
    done = cli("up", "--yes")
    assert done.status == 0, done.err
    third = target.served[-1][0]
    assert third not in {first, second}
    assert not (ready.workspace.owner.releases / third / "tls/ssl.cfg").exists()
    assert (ready.workspace.owner.issuing / "ca.pem").is_file()
    # A release of the earlier version can still be served.
    cli.ok("up", "--release", first)


def test_a_release_that_was_built_by_hand_gets_its_issuing_authority(
    cli: CommandLine, ready: Site, target: type[Rolling]
) -> None:
    cli.ok("release", "build")
    shutil.rmtree(ready.workspace.owner.issuing)
    assert "creating the issuing authority" in cli("up", "--dry-run").err
    assert not ready.workspace.owner.issuing.exists()
    cli.ok("up")
    assert (ready.workspace.owner.issuing / "ca.pem").is_file()
    assert len(target.served) == 1


def test_users_get_a_certificate_when_tls_becomes_two_way(cli: CommandLine, ready: Site) -> None:
    change(ready, "service.tls", '"one-way"')
    ready.workspace.user.key.unlink()
    cli.ok("release", "build")
    change(ready, "service.tls", '"two-way"')
    done = cli("up", "--yes")
    assert done.status == 0, done.err
    assert "issuing the user's certificate\n" in done.err
    assert ready.workspace.user.key.is_file()


@pytest.mark.parametrize(("answer", "builds"), [("y\n", True), ("n\n", False)])
def test_a_person_is_asked(
    cli: CommandLine, ready: Site, monkeypatch: pytest.MonkeyPatch, answer: str, builds: bool
) -> None:
    ready.build_release()
    change(ready, "server.threads", "2")
    monkeypatch.setattr(sys, "stdin", Keyboard(answer))
    done = cli("up")
    assert "Build a new release and roll it out?" in done.err
    assert (done.status == 0, len(names(ready))) == (builds, 2 if builds else 1)


def test_a_model_that_was_exported_again_is_sealed(cli: CommandLine, ready: Site, target: type[Rolling]) -> None:
    first = ready.build_release().folder
    cli.ok("up")
    source = ready.deployment.model.path
    assert source is not None
    (source / "assets").mkdir()
    (source / "assets" / "vocabulary.txt").write_text("new")
    done = cli("up", "--yes")
    assert done.status == 0, done.err
    assert f"  model[{NAME}:1].source: " in done.err
    assert "converting the changed model half-plus-two again\n" in done.err
    second = releases.newest(ready.workspace.owner.releases)
    assert target.served[-1][0] == second.name
    sealed = f"models/{NAME}/1/assets/vocabulary.txt"
    assert (second / sealed).is_file()
    assert not (first / sealed).exists()


def test_a_release_of_an_earlier_version_is_served_as_it_is(
    cli: CommandLine, ready: Site, target: type[Rolling]
) -> None:
    change(ready, "server.dangerous_owner_tls_key", "true")
    first = Path(cli.json("release", "build")["folder"]).name
    shutil.rmtree(ready.workspace.owner.provenance)
    change(ready, "server.dangerous_owner_tls_key", "false")
    change(ready, "server.threads", "2")
    done = cli("up")
    assert done.status == 0
    assert f"{first} was built by an earlier version, so it cannot be compared with sealserve.toml." in done.err
    assert target.served == [(first, 2)]
    assert names(ready) == [first]


def test_a_release_that_was_built_since_is_rolled_out(cli: CommandLine, ready: Site, target: type[Rolling]) -> None:
    ready.build_release()
    cli.ok("up")
    change(ready, "server.threads", "2")
    cli.ok("release", "build")
    assert cli("up").status == 0
    assert target.served[-1][0] == releases.newest(ready.workspace.owner.releases).name


def test_a_roll_back_stays_until_something_changes(cli: CommandLine, ready: Site, target: type[Rolling]) -> None:
    first = ready.build_release().folder.name
    cli.ok("up")
    cli.ok("release", "build")
    cli.ok("up")
    second = target.served[-1][0]
    assert second != first
    cli.ok("up", "--rollback")
    cli.ok("down", "--yes")
    cli.ok("up")
    assert [name for name, _ in target.served] == [first, second, first, first]
    states = {row["name"]: row["state"] for row in cli.json("broker", "releases")}
    assert states == {first: "active", second: "draining"}


def rolled_back(cli: CommandLine, site: Site, target: type[Rolling]) -> tuple[str, Path]:
    """Serve a release, then one with another model, and return to the first; return its name and the source."""
    first = site.build_release().folder.name
    cli.ok("up")
    source = site.deployment.model.path
    assert source is not None
    (source / "assets").mkdir()
    (source / "assets" / "vocabulary.txt").write_text("bad")
    assert cli("up", "--yes").status == 0
    cli.ok("up", "--rollback")
    assert target.served[-1][0] == first != target.served[-2][0]
    return first, source


def test_a_source_that_is_not_mounted_does_not_undo_a_roll_back(
    cli: CommandLine, ready: Site, target: type[Rolling], tmp_path: Path
) -> None:
    first, source = rolled_back(cli, ready, target)
    source.rename(tmp_path / "unmounted")
    for _ in range(2):
        assert cli("up", "--yes").status == 0
        assert target.served[-1][0] == first
    (tmp_path / "unmounted").rename(source)
    assert cli("up", "--yes").status == 0
    assert target.served[-1][0] == first
    assert len(names(ready)) == 2
    # A change while it was not mounted is still noticed.
    (source / "assets" / "vocabulary.txt").write_text("better")
    assert cli("up", "--yes").status == 0
    assert len(names(ready)) == 3


def test_a_setting_of_a_new_version_does_not_undo_a_roll_back(
    cli: CommandLine, ready: Site, target: type[Rolling]
) -> None:
    first, _ = rolled_back(cli, ready, target)
    kept = ready.workspace.owner.provenance / "described.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    document = json.loads(kept.read_text())
    del document["facts"][first]["server.rest"]  # as if the version before did not have it
    kept.write_text(json.dumps(document))
    assert cli("up", "--yes").status == 0
    assert target.served[-1][0] == first


@pytest.mark.parametrize("content", [b"", b"{", b'{"facts": 1}', b"\xff", b"[" * 5000])
def test_a_damaged_description_asks(cli: CommandLine, ready: Site, target: type[Rolling], content: bytes) -> None:
    rolled_back(cli, ready, target)
    (ready.workspace.owner.provenance / "described.json").write_bytes(content)
    assert cli.error("up")["code"] == "deployment.unconfirmed"


def test_a_start_of_the_machine_builds_no_release(cli: CommandLine, ready: Site, target: type[Rolling]) -> None:
    first = ready.build_release().folder.name
    cli.ok("up")
    change(ready, "server.threads", "2")
    done = cli("up", "--keep-release")
    assert done.status == 0
    assert f"sealserve.toml differs from {first}, which is served unchanged because of --keep-release." in done.err
    # Neither does it roll to a release that did not serve yet, even if what served is known from the target only.
    cli.ok("release", "build")
    cli.ok("up", "--keep-release", "--yes")
    (ready.workspace.host.run / "wanted.json").unlink()
    ReleaseRecord(ready.workspace).serve(first)
    cli.ok("up", "--keep-release")
    assert {name for name, _ in target.served} == {first}
    # The change still counts afterwards.
    cli.ok("up")
    assert target.served[-1][0] == releases.newest(ready.workspace.owner.releases).name


def test_a_start_of_the_machine_builds_the_first_release(cli: CommandLine, ready: Site, target: type[Rolling]) -> None:
    cli.ok("up", "--keep-release")
    assert [name for name, _ in target.served] == names(ready)


def test_a_revoked_user_is_rolled_out_and_a_roll_back_warns(
    cli: CommandLine, ready: Site, target: type[Rolling]
) -> None:
    first = ready.build_release().folder.name
    cli.ok("up")
    cli.ok("user", "add", "ann")
    assert "differs" not in cli("up").err
    cli.ok("user", "revoke", "ann", "--yes")
    done = cli("up", "--yes")
    assert "users.revocations: none -> " in done.err
    assert target.served[-1][0] != first
    back = cli("up", "--rollback")
    assert target.served[-1][0] == first
    assert f"{first} was built before these users were revoked, so it still accepts them: ann." in back.err
    assert f"The release {first} still accepts ann, because it was built before the revocation." in cli.ok(
        "user", "list"
    )
    assert cli.json("user", "list")["serving_release_accepts"] == ["ann"]


def test_a_release_that_has_ended_is_not_served_again(cli: CommandLine, ready: Site, target: type[Rolling]) -> None:
    first = ready.build_release().folder.name
    cli.ok("up")
    second = ready.build_release().folder.name
    cli.ok("up", "--release", first)
    cli.ok("broker", "revoke", first, "--yes")
    # Another release is not served without a word.
    error = cli.error("up")
    assert error["code"] == "deployment.unconfirmed"
    assert f"{first}, which served last, has ended" in error["message"]
    assert f"sealserve up --release {second}" in error["hint"]
    assert target.served[-1][0] == first
    done = cli("up", "--yes")
    assert f"The release {first}, which served last, has ended: " in done.err
    assert (done.status, target.served[-1][0]) == (0, second)
    assert "has ended" not in cli("up").err


@pytest.mark.parametrize(("answer", "serves"), [("y\n", True), ("n\n", False)])
def test_a_person_is_asked_about_the_release_that_takes_the_place_of_an_ended_one(
    cli: CommandLine, ready: Site, target: type[Rolling], monkeypatch: pytest.MonkeyPatch, *, answer: str, serves: bool
) -> None:
    first = ready.build_release().folder.name
    second = ready.build_release().folder.name
    cli.ok("up", "--release", first)
    cli.ok("broker", "revoke", first, "--yes")
    monkeypatch.setattr(sys, "stdin", Keyboard(answer))
    done = cli("up")
    assert f"Serve {second} instead?" in done.err
    assert (done.status == 0, target.served[-1][0]) == ((True, second) if serves else (False, first))


def test_a_roll_back_returns_to_the_enclaves_of_the_release(
    cli: CommandLine, ready: Site, target: type[Rolling]
) -> None:
    first = ready.build_release().folder
    cli.ok("up")
    before = (first / "enclave" / "replica-0.manifest.sgx").read_bytes()
    assert b"--tensorflow_intra_op_parallelism=1" in before
    change(ready, "server.threads", "2")
    change(ready, "model.labels", '["stable"]')
    cli.ok("up", "--yes")
    second = releases.newest(ready.workspace.owner.releases)
    manifest = (second / "enclave" / "replica-0.manifest.sgx").read_bytes()
    assert b"--tensorflow_intra_op_parallelism=2" in manifest
    cli.ok("up", "--rollback")
    assert target.served[-1][0] == first.name
    assert (first / "enclave" / "replica-0.manifest.sgx").read_bytes() == before
    # Nothing changes, so the same runs again, and a person reads that it differs.
    cli.ok("down", "--yes")
    again = cli("up")
    assert (again.status, target.served[-1][0]) == (0, first.name)
    assert f"did not change since {first.name} was started, so this release is served again." in again.err
    # Another change is asked about again.
    change(ready, "server.threads", "3")
    assert cli.error("up")["code"] == "deployment.unconfirmed"


def test_a_release_before_a_stop_ends_too(cli: CommandLine, ready: Site, target: type[Rolling]) -> None:
    first = ready.build_release().folder.name
    cli.ok("up")
    target.served = []  # it was stopped: the target knows of nothing that it replaces
    change(ready, "server.threads", "2")
    assert f"{first} is draining" in cli("up", "--yes").err


def test_a_failed_roll_out_is_tried_again(cli: CommandLine, ready: Site, target: type[Rolling]) -> None:
    first = ready.build_release().folder.name
    cli.ok("up")
    change(ready, "server.threads", "2")
    target.error = ProcessEndedError("replica-0 ended before it was ready: error[test]")
    assert cli.error("up", "--yes")["code"] == "process.ended"
    states = {row["name"]: row["state"] for row in cli.json("broker", "releases")}
    assert states[first] == "active"  # it continues to serve
    (second,) = set(names(ready)) - {first}
    target.error = None
    cli.ok("up")  # without a question: the release that was confirmed exists
    assert target.served[-1][0] == second
    assert len(names(ready)) == 2


@pytest.mark.parametrize("switches", [True, False])
def test_a_roll_back_that_is_interrupted_is_kept_once_it_serves(
    cli: CommandLine, ready: Site, target: type[Rolling], switches: bool
) -> None:
    first = ready.build_release().folder.name
    cli.ok("up")
    cli.ok("release", "build")
    cli.ok("up")
    second = target.served[-1][0]
    target.error, target.switches = KeyboardInterrupt(), switches
    assert cli("up", "--rollback", "--replicas", "1").status == 130
    target.error, target.switches = None, False
    cli.ok("up")
    assert target.served[-1] == ((first, 1) if switches else (second, 2))


def test_a_roll_back_that_is_killed_is_kept(
    cli: CommandLine, ready: Site, target: type[Rolling], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ready.build_release().folder.name
    cli.ok("up")
    cli.ok("release", "build")
    cli.ok("up")
    target.error = KeyboardInterrupt()
    with monkeypatch.context() as killed:
        killed.setattr(wanted, "restore", lambda *_: None)  # nothing is undone
        cli("up", "--rollback")
    target.error = None
    cli.ok("up")
    assert target.served[-1][0] == first


def test_the_role_of_the_machine_is_kept(cli: CommandLine, ready: Site, target: type[Rolling]) -> None:
    first = ready.build_release().folder
    ready.build_enclave(first)
    releases.ship(ready.workspace, releases.verify(first, Owner.open(ready.workspace).public_key()))
    newer = ready.build_release().folder
    cli.ok("up", "--role", "host")
    assert target.served == [(first.name, 2)]
    done = cli("up")
    assert "This machine is used only as the host, as at the last `up`." in done.err
    assert target.served[-1] == (first.name, 2)
    assert '"--role" "host"' in cli.ok("service", "install", "deployment", "--print")
    assert '"--role" "all"' in cli.ok("service", "install", "deployment", "--print", "--role", "all")
    cli.ok("up", "--role", "all")
    cli.ok("up")
    assert target.served[-1] == (newer.name, 2)
    assert '"--role" "all"' in cli.ok("service", "install", "deployment", "--print")
    assert '"--role" "host"' in cli.ok("service", "install", "deployment", "--print", "--role", "host")


def test_the_number_of_replicas_is_kept(cli: CommandLine, ready: Site, target: type[Rolling]) -> None:
    ready.build_release()
    cli.ok("up")
    cli.ok("scale", "3")
    done = cli("up")
    assert "Replicas: 3, as set by the last `scale` (target.replicas is 2).\n" in done.err
    cli.ok("down", "--yes")
    cli.ok("up")
    assert [count for _, count in target.served] == [2, 3, 3]
    # A changed file wins, and says so.
    change(ready, "target.replicas", "4")
    assert "Replicas: 4, because target.replicas was changed after `scale` had set 3.\n" in cli("up").err
    assert target.served[-1][1] == 4
    cli.ok("up", "--replicas", "1")
    cli.ok("up")
    assert target.served[-1][1] == 1
    assert wanted.read(ready.workspace).started == 1


def test_the_number_is_read_under_the_lock(
    cli: CommandLine, ready: Site, target: type[Rolling], monkeypatch: pytest.MonkeyPatch
) -> None:
    ready.build_release()

    @contextlib.contextmanager
    def after_a_scale(*_arguments: object, **_more: object) -> Iterator[None]:
        wanted.keep_replicas(ready.workspace, ready.deployment, 3)  # while this `up` waited
        yield

    monkeypatch.setattr(up, "changing", after_a_scale)
    cli.ok("up")
    assert target.served[-1][1] == 3


@pytest.mark.parametrize(
    ("error", "number", "kept"),
    [
        (KeyboardInterrupt(), "1", 1),  # the others finish their requests, and stop
        (KeyboardInterrupt(), "3", None),  # a new one does not serve
        (ProcessEndedError("replica-2 ended"), "3", None),
        (ProcessEndedError("nginx ended"), "1", None),
    ],
)
def test_the_number_of_an_interrupted_scaling(
    cli: CommandLine, ready: Site, target: type[Rolling], *, error: BaseException, number: str, kept: int | None
) -> None:
    ready.build_release()
    cli.ok("up")
    target.error = error
    assert cli("scale", number).status != 0
    found = wanted.read(ready.workspace)
    assert (found.replicas, found.started) == (kept, kept or 2)


@pytest.mark.parametrize("content", [b"", b"{", b'{"replicas": -1}', b'{"release": "../x"}', b"\xff", b"[" * 5000])
def test_a_damaged_record_is_as_none(cli: CommandLine, ready: Site, target: type[Rolling], content: bytes) -> None:
    first = ready.build_release().folder.name
    (ready.workspace.host.run / "wanted.json").write_bytes(content)
    assert wanted.read(ready.workspace) == wanted.Wanted()
    cli.ok("up")
    assert target.served == [(first, 2)]


def test_a_dry_run_shows_the_difference_to_programs(cli: CommandLine, ready: Site, target: type[Rolling]) -> None:
    first = ready.build_release().folder.name
    found = cli.json("up", "--dry-run")
    assert (found["release"], found["builds_release"], found["differences"]) == (first, False, [])
    assert found["changes"] == f"{first} x 2\n"
    change(ready, "server.threads", "2")
    found = cli.json("up", "--dry-run")
    assert found["builds_release"] is True
    assert found["differences"] == [{"key": "server.threads", "released": "1", "described": "2"}]
    assert (found["steps"], found["changes"]) == (["sealing a release"], None)
    assert target.served == []
    assert names(ready) == [first]


@pytest.mark.parametrize("verb", [("up",), ("scale", "2"), ("down", "--yes")])
def test_every_verb_that_changes_a_deployment_takes_the_lock(
    cli: CommandLine, ready: Site, target: type[Rolling], verb: tuple[str, ...]
) -> None:
    ready.build_release()
    with held(ready.workspace, "up"):
        error = cli.error(*verb, "--no-wait")
        assert (error["code"], error["status"]) == ("deployment.busy", 4)
        assert "by `sealserve up` (pid " in error["message"]
        assert cli("up", "--dry-run").status == 0  # what only looks does not wait
        assert cli("status").out.startswith("State      down")
    assert len(names(ready)) == 1
    assert target.served == []


@pytest.mark.parametrize("verb", [("up",), ("release", "build"), ("model", "convert")])
def test_every_verb_that_makes_models_or_releases_takes_the_owners_lock(
    cli: CommandLine, ready: Site, target: type[Rolling], verb: tuple[str, ...]
) -> None:
    ready.build_release()
    with held(ready.workspace, "release build", lock=OWNERS):
        error = cli.error(*verb, "--no-wait")
        assert (error["code"], error["status"]) == ("deployment.busy", 4)
        assert "The owner's models and releases are being changed by `sealserve release build`" in error["message"]
        assert holder(ready.workspace) is None  # parts that end are started again
    assert len(names(ready)) == 1
    assert target.served == []


def test_a_release_is_built_while_the_deployment_is_changed(cli: CommandLine, ready: Site) -> None:
    with held(ready.workspace, "scale"):
        cli.ok("release", "build", "--no-wait")


def test_no_lock_is_held_while_a_person_thinks_and_a_change_is_asked_about_again(
    cli: CommandLine, ready: Site, target: type[Rolling], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ready.build_release().folder.name
    change(ready, "server.threads", "2")
    asked: list[str] = []

    def confirm(question: str, **_more: object) -> None:
        asked.append(question)
        with held(ready.workspace, "up", seconds=0), held(ready.workspace, "up", lock=OWNERS, seconds=0):
            if len(asked) == 1:
                source = ready.deployment.model.path
                assert source is not None
                (source / "assets").mkdir()
                (source / "assets" / "vocabulary.txt").write_text("new")

    monkeypatch.setattr(sys, "stdin", Keyboard())
    monkeypatch.setattr(typer, "confirm", confirm)
    done = cli("up")
    assert done.status == 0, done.err
    assert asked == ["Build a new release and roll it out?"] * 2
    assert done.err.count(f"model[{NAME}:1].source: ") == 1
    assert target.served[-1][0] != first


def test_an_older_copy_of_a_model_is_converted_again(cli: CommandLine, ready: Site) -> None:
    source = ready.deployment.model.path
    assert source is not None
    assert "is up to date" in cli("model", "convert").err
    (source / "assets").mkdir()
    (source / "assets" / "vocabulary.txt").write_text("new")
    done: Any = cli("model", "convert")
    assert done.status == 0
    assert f"Converted {NAME}, version 1, again, because {source} or its settings changed.\n" in done.err
    assert (models.planned_folder(ready.workspace, ready.deployment.model) / "assets" / "vocabulary.txt").is_file()
    # `release build` converts again too.
    (source / "assets" / "vocabulary.txt").write_text("newer")
    cli.ok("release", "build")
    assert (
        models.planned_folder(ready.workspace, ready.deployment.model) / "assets" / "vocabulary.txt"
    ).read_text() == "newer"
