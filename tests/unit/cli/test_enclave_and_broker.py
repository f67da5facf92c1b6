import copy
import hashlib
import json
import logging
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.harness.command_line import CommandLine
from tests.harness.deployment_text import with_key
from tests.harness.errors import raises
from tests.harness.hostile_manifests import CASES, PRELOADED_CASES
from tests.harness.images import embedded_image, tensorflow_serving_image
from tests.harness.workspaces import Site

from sealserve.broker import admin
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import Database
from sealserve.enclave import measurement
from sealserve.enclave.simulated import launcher
from sealserve.owner import provisioning
from sealserve.owner.owner import Owner
from sealserve.sealing.release import VerifiedRelease


@pytest.fixture
def release(released: VerifiedRelease) -> Path:
    """A release without enclaves."""
    shutil.rmtree(released.folder / "enclave")
    return released.folder


def test_an_enclave_is_shown_before_it_is_built(release: Path, cli: CommandLine) -> None:
    text = cli.ok("enclave", "manifest", "--port", "8599", "--name", "replica-5")
    assert "--port=8599" in text
    assert not (release / "enclave").exists()
    built = cli.json("enclave", "build", "--port", "8599", "--name", "replica-5")
    assert Path(built["manifest"]).read_text() == text
    assert (built["enclave"], built["release"], built["platform"]) == ("replica-5", release.name, "simulated")


def test_build_and_show(release: Path, cli: CommandLine) -> None:
    assert cli.ok("enclave", "show") == (
        f"{release.name} does not contain enclaves yet. Build one: `sealserve enclave build`.\n"
    )
    built = cli("enclave", "build")
    assert built.err == "Next: `sealserve broker allow` to register the enclave, then `sealserve release pack`.\n"
    (row,) = cli.json("enclave", "show")
    assert row == {"enclave": "replica-0", "port": 8510, "mr_enclave": row["mr_enclave"],
                   "mr_signer": row["mr_signer"], "debug": False}  # fmt: skip
    assert row["mr_enclave"] in built.out
    heading, line = cli.ok("enclave", "show", "--release", release.name).splitlines()
    assert heading.split() == ["ENCLAVE", "PORT", "MRENCLAVE", "MRSIGNER", "DEBUG"]
    assert line.split()[:2] == ["replica-0", "8510"]
    assert cli.error("enclave", "show", "--host")["code"] == "release.missing"


@pytest.mark.usefixtures("release")
def test_size_and_threads_are_explained(cli: CommandLine) -> None:
    heading, *lines = cli.ok("enclave", "manifest", "--explain").splitlines()
    assert heading.split() == ["WHAT", "SIZE", "WHY"]
    assert lines[-2].split()[:3] == ["sgx.enclave_size", "4096", "MiB"]
    assert lines[-1].split()[:2] == ["sgx.max_threads", "78"]
    explained = cli.json("enclave", "manifest", "--explain")
    assert explained["size"] == 2**32
    assert explained["needed"] == sum(item["size"] for item in explained["items"])
    assert explained["threads"]["all"] == 78
    manifest = cli.json("enclave", "manifest")
    assert (manifest["sgx"]["enclave_size"], manifest["sgx"]["max_threads"]) == ("4096M", 78)


def test_an_image_is_measured_without_a_workspace(cli: CommandLine, tmp_path: Path) -> None:
    image, output = embedded_image(tmp_path / "image"), tmp_path / "inventory.json"
    verb = ("enclave", "inventory", "--root", image)
    shown = cli.bare(*verb)
    assert shown.status == 0
    assert "program  /opt/sealserve/bin/python\n" in shown.out
    assert [line.split(",")[0].split(".")[0] for line in shown.err.splitlines()] == [
        "Gramine was not found", "2 modules do not have bytecode that can be measured",
        "The inventory was not written"]  # fmt: skip
    written = cli.bare(*verb, "--output", output, "--json")
    assert written.err == ""
    assert written.json["sha256"] == hashlib.sha256(output.read_bytes()).hexdigest()
    assert (written.json["server"], written.json["gramine"]) == ("embedded", None)
    again = cli.bare(*verb, "--output", output, "--json")
    assert (again.error["code"], again.status) == ("file.exists", 2)
    assert cli.bare(*verb, "--output", output, "--force").status == 0
    other = cli.bare(*verb, "--server", "tensorflow-serving", "--json")
    assert (other.error["code"], other.status) == ("inventory.server-missing", 2)
    assert cli.bare("enclave", "inventory", "--root", tmp_path / "none", "--json").error["code"] == (
        "image-root.unusable"
    )


@pytest.mark.usefixtures("release")
def test_an_enclave_for_an_image_is_built_on_a_machine_without_it(cli: CommandLine, tmp_path: Path) -> None:
    image, inventory = embedded_image(tmp_path / "image"), tmp_path / "inventory.json"
    assert cli.bare("enclave", "inventory", "--root", image, "--output", inventory).status == 0
    text = cli.ok("enclave", "manifest", "--inventory", inventory)
    assert 'entrypoint = "/opt/sealserve/bin/python"' in text
    assert 'uri = "file:/opt/sealserve/lib/python3.11/site-packages/sealserve/__init__.py"' in text
    assert str(tmp_path) not in text
    first = cli.json("enclave", "build", "--inventory", inventory)
    assert Path(first["manifest"]).read_text() == text
    assert cli.json("enclave", "build", "--inventory", inventory)["mr_enclave"] == first["mr_enclave"]
    assert cli.json("enclave", "build")["mr_enclave"] != first["mr_enclave"]
    serving = tensorflow_serving_image(tmp_path / "serving")
    assert cli.bare("enclave", "inventory", "--server", "tensorflow-serving", "--root", serving, "--output", inventory,
                    "--force").status == 0  # fmt: skip
    error = cli.error("enclave", "build", "--inventory", inventory)
    assert (error["code"], error["status"]) == ("inventory.other-server", 2)
    assert cli.error("enclave", "build", "--inventory", tmp_path)["code"] == "input-file.not-regular"


def test_an_insecure_manifest_is_refused_with_line_and_reason(release: Path, cli: CommandLine, tmp_path: Path) -> None:
    own = tmp_path / "own.manifest"
    own.write_text(cli.ok("enclave", "manifest").replace('log_level = "error"', 'log_level = "debug"'))
    assert cli.bare("enclave", "lint", own).status == 3
    refused = cli.bare("enclave", "lint", own, "--json")
    assert (refused.error["code"], refused.status) == ("manifest.insecure", 3)
    assert "line 5: loader.log_level: messages other than errors may leak secrets" in refused.error["message"]
    assert cli.error("enclave", "build", "--manifest", own)["code"] == "manifest.insecure"
    assert not (release / "enclave/replica-0.manifest.sgx").exists()
    allowed = cli("enclave", "build", "--manifest", own, "--dangerous-log")
    assert allowed.status == 0
    assert "warning: --dangerous-log allows log messages other than errors, which the host can read." in allowed.err
    assert (release / "enclave/replica-0.manifest.sgx").read_text() == own.read_text()
    shown = cli.bare("enclave", "lint", own, "--dangerous-log")
    assert shown.out.splitlines()[1].split()[:3] == ["5", "loader.log_level", "log"]
    assert cli.bare("enclave", "lint", own, "--dangerous-log", "--json").json[0]["danger"] == "log"
    assert cli.error("release", "verify")["code"] == "manifest.insecure"
    assert cli.error("broker", "allow")["code"] == "manifest.insecure"
    assert cli("broker", "allow", "--dangerous-log").status == 0


def test_a_manifest_of_ones_own_is_for_this_release(release: Path, cli: CommandLine, tmp_path: Path) -> None:
    own = tmp_path / "own.manifest"
    text = cli.ok("enclave", "manifest")
    own.write_text(text.replace('"2M"', '"4M"'))
    assert cli.bare("enclave", "lint", own).out == f"{own} has no insecure settings.\n"
    assert cli("enclave", "build", "--manifest", own).status == 0
    release_id = hashlib.sha256((release / "release.json").read_bytes()).hexdigest()
    own.write_text(text.replace(release_id, "0" * 64))
    error = cli.error("enclave", "build", "--manifest", own)
    assert (error["code"], error["status"]) == ("enclave.other-manifest", 2)
    assert "SEALSERVE_RELEASE_ID" in error["message"]
    own.write_text(text.replace("enclave/broker-ca.pem", "enclave/other-ca.pem"))
    assert cli.error("enclave", "build", "--manifest", own)["code"] == "manifest.invalid-setting"
    own.write_text(text.replace("4433", "4434"))
    assert cli.error("enclave", "build", "--manifest", own)["code"] == "enclave.other-manifest"
    own.write_text(text + "# {{ x }}\n")
    assert cli.error("enclave", "build", "--manifest", own)["code"] == "manifest.template"
    assert cli.bare("enclave", "lint", own, "--json").error["code"] == "manifest.template"
    assert cli.error("enclave", "build", "--manifest", tmp_path / "none")["code"] == "input-file.missing"
    own.write_text("[")
    assert cli.error("enclave", "build", "--manifest", own)["code"] == "manifest.syntax"
    assert cli.bare("enclave", "lint", own, "--json").error["code"] == "manifest.syntax"


@pytest.mark.parametrize("owner_key", [False, True], ids=["attested", "owner-key"])
def test_each_hostile_manifest_gets_one_clear_error_of_lint(
    cli: CommandLine,
    tmp_path: Path,
    ready: Site,
    owner_key: bool,  # a parameter of the test
) -> None:
    if owner_key:
        described = ready.workspace.deployment_file
        described.write_text(with_key(described.read_text(), "server.dangerous_owner_tls_key", "true"))
    cli.ok("release", "build")
    own = cli.json("enclave", "manifest")
    own["sgx"]["trusted_files"] = [
        file for file in own["sgx"]["trusted_files"] if not file["uri"].endswith(".py")
    ]  # fewer files, so that 200 manifests take little time
    file = tmp_path / "hostile.manifest"
    file.write_text(tomli_w.dumps(own))
    assert cli.bare("enclave", "lint", file).status == 0
    cases = CASES if owner_key else [case for case in CASES if case[0] not in PRELOADED_CASES]
    assert len(CASES) - len(cases) == (0 if owner_key else len(PRELOADED_CASES))
    for name, change, *_ in cases:
        data = copy.deepcopy(own)
        change(data)
        file.write_text(tomli_w.dumps(data))
        refused = cli.bare("enclave", "lint", file, "--json")
        assert refused.status == 3, f"{name}: {refused.error}"
        assert refused.error["code"].startswith("manifest."), name


def test_an_enclave_can_be_removed(release: Path, cli: CommandLine) -> None:
    for name in ("replica-0", "replica-1"):
        assert cli("enclave", "build", "--name", name).status == 0
    assert cli.ok("enclave", "remove", "--name", "replica-0").startswith("Removed the enclave replica-0 from ")
    assert [enclave["enclave"] for enclave in cli.json("enclave", "show")] == ["replica-1"]
    assert cli.error("enclave", "remove", "--name", "replica-0")["code"] == "enclave.missing"
    assert cli.json("enclave", "remove", "--name", "replica-1")["enclave"] == "replica-1"
    assert not (release / "enclave").exists()
    assert cli("release", "verify").status == 0


def test_an_enclaves_exit_status_is_the_commands(
    release: Path, cli: CommandLine, monkeypatch: pytest.MonkeyPatch, ready: Site
) -> None:
    calls: list[Any] = []

    def run_enclave(bundle: Path, name: str, *, quoting_socket: Path, **_: Any) -> int:
        calls.append((bundle, name, quoting_socket))
        logging.getLogger("sealserve.test").info("step=%s", "measured")
        return 143

    monkeypatch.setattr(launcher, "run_enclave", run_enclave)
    for name in ("replica-0", "replica-3"):
        cli.ok("enclave", "build", "--name", name)
    assert cli.error("enclave", "build", "--release", "nothing")["code"] == "release.missing"
    shipped = ready.workspace.host.releases / release.name
    release.rename(shipped)
    assert cli("enclave", "run", "--name", "replica-3").status == 143
    assert cli("enclave", "run", "--release", shipped, "--quoting-socket", "/other").status == 143
    run = ready.workspace.host.run
    assert calls == [(shipped, "replica-3", run / "quoting.sock"), (shipped, "replica-0", Path("/other"))]


def test_one_start_needs_no_port(release: Path, cli: CommandLine, monkeypatch: pytest.MonkeyPatch, ready: Site) -> None:
    monkeypatch.setattr(launcher, "run_enclave", lambda *_, **__: 7)
    monkeypatch.setattr(measurement, "PORT_FLAG", "--another-flag=")
    cli.ok("enclave", "build")
    release.rename(ready.workspace.host.releases / release.name)
    assert cli("enclave", "run").status == 7
    assert "error[enclave.port]" in cli("enclave", "run", "--attempts", "2").err


def test_what_was_built_for_simulation_does_not_start_on_sgx(release: Path, cli: CommandLine, ready: Site) -> None:
    cli.ok("enclave", "build")
    release.rename(ready.workspace.host.releases / release.name)
    result = cli("enclave", "run", "--platform", "sgx")
    assert result.status == 2
    expected = "The enclave 'replica-0' cannot start on SGX: it was built for the simulated platform."
    assert f"error[enclave.not-for-sgx]: {expected}" in result.err
    result = cli("enclave", "run", "--platform", "gramine-direct")
    assert result.status == 2
    assert "error[enclave.without-gramine]" in result.err


def test_a_release_whose_draining_is_over_has_ended(release: Path, ready: Site, cli: CommandLine) -> None:
    cli.ok("enclave", "build")
    cli.ok("broker", "allow")
    before = datetime.now(UTC) - timedelta(hours=2)
    with Owner.open(ready.workspace).vault() as vault:
        admin.drain(vault.database, release.name, deadline=before + timedelta(hours=1), now=before)
    assert "ended at " in cli.ok("broker", "releases")
    assert [row["state"] for row in cli.json("broker", "releases")] == ["draining"]


def test_a_release_is_ended_where_the_keystore_is_away(
    release: Path, ready: Site, cli: CommandLine, tmp_path: Path
) -> None:
    cli.ok("enclave", "build")
    cli.ok("broker", "allow")
    described = ready.workspace.deployment_file
    text = described.read_text(encoding="utf-8").replace('kind = "file"', 'kind = "transit"')
    text = text.replace('# transit_url = "..."', 'transit_url = "https://127.0.0.1:1"')
    described.write_text(text.replace('# transit_token_file = "..."', f'transit_token_file = "{tmp_path}/none"'))
    assert cli.error("release", "build")["code"] == "private-file.unreadable"  # this needs a key
    assert cli.json("broker", "drain", release.name)["state"] == "draining"
    assert cli.json("broker", "revoke", release.name, "--yes")["state"] == "revoked"
    assert [row["state"] for row in cli.json("broker", "releases")] == ["revoked"]
    assert len(cli.json("broker", "log", "--verify")) == 5  # with the issuing authority and the statement


def test_the_life_of_a_release_at_the_broker(release: Path, cli: CommandLine) -> None:
    assert cli.ok("broker", "releases") == "No releases are registered. Register one: `sealserve broker allow`.\n"
    assert [row["decision"] for row in cli.json("broker", "log")] == ["issuing-rotated"]
    assert cli.error("broker", "allow")["code"] == "enclave-index.missing"
    cli.ok("enclave", "build")
    allowed = cli.json("broker", "allow")
    assert (allowed["name"], allowed["state"]) == (release.name, "active")
    assert "replica-0  " in cli.ok("broker", "allow", release.name)
    drained = cli.json("broker", "drain", release.name, "--minutes", "5")
    assert drained["state"] == "draining"
    left = datetime.fromisoformat(drained["deadline"]) - datetime.now(UTC)
    assert 0 < left.total_seconds() <= 300
    deadline = datetime.fromisoformat(drained["deadline"])
    assert f"draining until {deadline:%Y-%m-%d %H:%M:%S} UTC" in cli.ok("broker", "releases")
    assert [row["state"] for row in cli.json("broker", "releases")] == ["draining"]
    assert cli.json("broker", "revoke", release.name[-12:], "--yes")["state"] == "revoked"
    error = cli.error("broker", "drain", release.name)
    assert (error["code"], error["status"]) == ("broker.release-final", 2)
    status = cli.json("broker", "status")
    assert status["releases"] == {"revoked": 1}
    assert status["keys"] == 1
    assert "1 revoked" in cli.ok("broker", "status")
    rows = cli.json("broker", "log")
    assert [row["decision"] for row in rows] == ["issuing-rotated", "allowed", "stated", "draining", "revoked"]
    assert [row["seq"] for row in cli.json("broker", "log", "--last", "2")] == [4, 5]
    heading, *lines = cli.ok("broker", "log").splitlines()
    assert heading.split()[:5] == ["#", "TIME", "(UTC)", "DECISION", "CODE"]
    assert len(lines) == 5


@pytest.mark.usefixtures("release")
def test_a_draining_release_is_active_again_only_when_that_is_said(cli: CommandLine) -> None:
    cli.ok("enclave", "build")
    cli.ok("broker", "allow", "--reactivate")  # nothing to re-activate yet
    cli.ok("broker", "drain", cli.json("broker", "releases")[0]["name"])
    assert cli.json("broker", "allow")["state"] == "draining"
    assert cli.json("broker", "allow", "--reactivate")["state"] == "active"
    decisions = [row["decision"] for row in cli.json("broker", "log")]
    assert decisions == ["issuing-rotated", "allowed", "stated", "draining", "reactivated"]


@pytest.mark.usefixtures("release")
def test_the_whole_log_is_verified(cli: CommandLine, ready: Site) -> None:
    cli.ok("enclave", "build")
    cli.ok("broker", "allow")
    with Owner.open(ready.workspace).vault() as vault:
        admin.sign_log(vault.database, Owner.open(ready.workspace).index_signer(), now=ready.now)
    verified = cli("broker", "log", "--verify", "--json")
    assert verified.err.startswith("The chain of 3 rows verifies; head ")
    assert len(verified.json) == 3
    with Owner.open(ready.workspace).vault() as vault, vault.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM audit")
    error = cli.error("broker", "log", "--verify")
    assert (error["code"], error["status"]) == ("audit.truncated", 3)


def test_rows_that_were_cut_off_are_found_with_a_head_that_was_kept(
    release: Path, cli: CommandLine, ready: Site, tmp_path: Path
) -> None:
    cli.ok("enclave", "build")
    cli.ok("broker", "allow")
    cli.ok("broker", "drain", release.name)
    signed = cli("broker", "log", "--sign")
    assert signed.json["seq"] == 4
    assert signed.err == f"The chain of 4 rows verifies; head {signed.json['hash']}.\n"
    (tmp_path / "head.json").write_text(signed.out)
    assert len(cli.json("broker", "log", "--check", tmp_path / "head.json")) == 4
    kept = ready.workspace.owner.audit_head
    newest = kept.read_bytes()
    kept.unlink()
    verified = cli("broker", "log", "--verify")
    assert verified.status == 0
    assert "Warning: deleted rows at the end of the log cannot be detected" in verified.err
    kept.write_bytes(newest)
    with Owner.open(ready.workspace).vault() as vault, vault.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM audit WHERE seq = 4")
        connection.exec_driver_sql("DELETE FROM audit_heads")
    assert cli.error("broker", "log", "--verify")["code"] == "audit.truncated"  # a head is kept beside the database
    assert json.loads(kept.read_text()) == signed.json
    kept.unlink()
    error = cli.error("broker", "log", "--verify")  # the release still shows that a row is missing
    assert (error["code"], error["status"]) == ("audit.state", 3)
    error = cli.error("broker", "log", "--check", tmp_path / "head.json")
    assert (error["code"], error["status"]) == ("audit.truncated", 3)
    assert cli.error("broker", "log", "--sign", "--check", tmp_path / "head.json")["code"] == "audit.truncated"
    assert cli.error("broker", "log", "--check", ready.workspace.deployment_file)["code"] == "audit.head-file"


def test_the_form_of_the_key_is_chosen_for_a_release(release: Path, cli: CommandLine) -> None:
    del release
    cli.ok("enclave", "build")
    assert cli.json("broker", "allow", "--secret-form", "string")["secret_form"] == "string"
    assert cli.json("broker", "allow")["secret_form"] == "string"  # as registered
    error = cli.error("broker", "allow", "--secret-form", "raw")
    assert (error["code"], error["status"]) == ("broker.release-conflict", 2)
    assert "secret form  raw" in cli.ok("broker", "allow", "--secret-form", "raw", "--reactivate")
    assert cli("broker", "log", "--verify").status == 0


def test_the_form_of_the_key_is_an_attribute_of_the_built_release(ready: Site, cli: CommandLine) -> None:
    del ready
    cli.ok("release", "build", "--secret-form", "string")
    assert cli.json("release", "show")["secret_form"] == "string"
    assert "secret form  string" in cli.ok("release", "show")
    cli.ok("enclave", "build")
    # The signed index decides, also with --reactivate.
    for more in ([], ["--reactivate"]):
        error = cli.error("broker", "allow", "--secret-form", "raw", *more)
        assert (error["code"], error["status"]) == ("broker.release-conflict", 2)
        assert "cannot change: expected string, as in its signed index, got raw." in error["message"]
        assert "release build --secret-form raw" in error["hint"]
    assert cli.json("broker", "allow")["secret_form"] == "string"
    assert cli.json("broker", "allow", "--secret-form", "string", "--reactivate")["secret_form"] == "string"
    assert cli("broker", "log", "--verify").status == 0


def test_a_platform_is_approved_for_a_limited_time(release: Path, cli: CommandLine) -> None:
    cli.ok("enclave", "build")
    assert "approval     none" in cli.ok("broker", "allow")
    platform_id = "ab" * 16
    assert cli.ok("broker", "pending") == "No platform waits for an approval.\n"
    said = cli.ok("broker", "approve", release.name, platform_id, "--for", "12h")
    assert said.startswith(f"Approved the platform {platform_id} for the release {release.name} until ")
    assert "does not require approvals" in cli("broker", "approve", release.name, platform_id).err
    approved = cli.json("broker", "approve", release.name, platform_id)
    lasts = datetime.fromisoformat(approved["until"]) - datetime.fromisoformat(approved["approved"])
    assert (approved["required"], lasts) == (False, timedelta(days=30))
    withdrawn = cli.json("broker", "approve", release.name, platform_id, "--withdraw")
    assert withdrawn == {**approved, "withdrawn": True}
    for arguments, code in (
        (("--withdraw",), "broker.not-approved"),
        (("--withdraw", "--for", "1h"), "usage.arguments"),
        (("--for", "soon"), "broker.approval-validity"),
        (("--for", "0s"), "broker.approval-validity"),
        (("--for", "999999d"), "broker.approval-validity"),
        (("--for", "2026-01-31T12:00:00Z"), "broker.approval-validity"),
    ):
        error = cli.error("broker", "approve", release.name, platform_id, *arguments)
        assert (error["code"], error["status"]) == (code, 2)
    assert cli.error("broker", "approve", release.name, "rack1")["code"] == "broker.platform-id"
    decisions = [row["decision"] for row in cli.json("broker", "log")][-4:]
    assert decisions == ["approved", "approved", "approved", "approval-removed"]
    assert cli("broker", "log", "--verify").status == 0


@pytest.mark.usefixtures("ready")
def test_platforms_are_enrolled_and_listed(cli: CommandLine) -> None:
    assert cli.ok("broker", "platform", "list") == (
        "No platforms are enrolled. Enroll one: `sealserve broker platform enrol`.\n"
    )
    said = cli.ok("broker", "platform", "enrol", "ab" * 16, "--label", "rack 1")
    assert said == f"Enrolled the platform {'ab' * 16} (simulated).\n"
    other = cli.json("broker", "platform", "enrol", "cd" * 16, "--kind", "sgx")
    assert (other["platform"], other["platform_id"], other["label"]) == ("sgx", "cd" * 16, "")
    heading, first, second = cli.ok("broker", "platform", "list").splitlines()
    assert heading.split() == ["PLATFORM", "ID", "KIND", "ENROLLED", "LABEL"]
    assert first.startswith("ab" * 16 + "  simulated  ")
    assert first.endswith("  rack 1")
    assert second.startswith("cd" * 16 + "  sgx ")
    assert cli.json("broker", "platform", "list")[1] == other
    assert [row["decision"] for row in cli.json("broker", "log")] == ["issuing-rotated", "enrolled", "enrolled"]
    error = cli.error("broker", "platform", "enrol", "rack1")
    assert (error["code"], error["status"]) == ("broker.platform-id", 2)


@pytest.mark.usefixtures("ready")
def test_an_enrolment_is_taken_back(cli: CommandLine) -> None:
    enrolled = cli.json("broker", "platform", "enrol", "ab" * 16, "--label", "rack 1")
    error = cli.error("broker", "platform", "withdraw", "ab" * 16, "--kind", "sgx", "--yes")
    assert (error["code"], error["status"]) == ("broker.platform-not-enrolled", 2)
    assert cli("broker", "platform", "withdraw", "ab" * 16).status == 1  # without an answer
    assert cli.json("broker", "platform", "withdraw", "ab" * 16, "--yes") == enrolled
    assert cli.json("broker", "platform", "list") == []
    last = cli.json("broker", "log")[-1]
    assert (last["decision"], last["platform_id"], last["detail"]) == ("withdrawn", "ab" * 16, "rack 1")


def test_a_revocation_asks_first(release: Path, cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.ok("enclave", "build")
    cli.ok("broker", "allow")
    answers = iter(["n\n"])
    monkeypatch.setattr("sys.stdin", _Answers(answers))
    asked = cli("broker", "revoke", release.name)
    assert asked.status == 1
    assert asked.out.strip() == ""
    assert f"Revoke {release.name} permanently? The broker will never release its key again." in asked.err
    assert [row["state"] for row in cli.json("broker", "releases")] == ["active"]


@pytest.mark.parametrize("verb", [["drain"], ["revoke", "--yes"]])
def test_a_release_that_the_broker_does_not_know(cli: CommandLine, verb: list[str]) -> None:
    error = cli.error("broker", *verb, "nothing")
    assert (error["code"], error["status"]) == ("broker.release-unknown", 2)
    assert error["message"] == "The release 'nothing' is not registered with the broker."


def test_no_broker_without_certificates(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sealserve.cli.broker.ensure_no_tickets", lambda _folder: None)  # starts this process again
    monkeypatch.setattr("sealserve.cli.broker.forbid_inspection", lambda: None)  # for this whole process
    result = cli("broker", "run")
    assert result.status == 2
    assert "error[certificate.missing]" in result.err


class _Answers:
    """Standard input from which a person answers."""

    def __init__(self, lines: Any) -> None:
        self._lines = lines

    def readline(self, *_: int) -> str:
        return next(self._lines, "")

    def isatty(self) -> bool:
        return False


def test_a_deleted_database_is_noticed_and_its_head_stays(cli: CommandLine, ready: Site, release: Path) -> None:
    del release
    cli.ok("enclave", "build")
    cli.ok("broker", "allow")
    cli.ok("broker", "log", "--sign")
    kept = ready.workspace.owner.audit_head.read_bytes()
    ready.workspace.owner.database.unlink()
    assert cli.error("broker", "log", "--verify")["code"] == "owner.identity-lost"  # no other one takes its place
    with Database.open(ready.workspace.owner.database):  # unless somebody puts it there
        pass
    error = cli.error("broker", "log", "--verify")
    assert error["code"] == "audit.truncated"
    assert "ends at row 0, but a head was signed at row 3" in error["message"]
    # No command builds on the other database, and the evidence is not overwritten.
    assert cli.error("broker", "platform", "enrol", "0" * 32)["code"] == "audit.truncated"
    with raises(BrokerCode.AUDIT_TRUNCATED, match="Row 3 of the audit log is missing"):
        provisioning.sign_log(ready.workspace, now=ready.now)
    assert ready.workspace.owner.audit_head.read_bytes() == kept


def test_heads_of_earlier_versions_verify_still(cli: CommandLine, ready: Site, release: Path) -> None:
    del release
    cli.ok("enclave", "build")
    cli.ok("broker", "allow")
    with Owner.open(ready.workspace).vault() as vault:
        with vault.database.write() as connection:
            connection.exec_driver_sql("DELETE FROM audit_heads")
        admin.sign_log(vault.database, Owner.open(ready.workspace).index_signer(), now=ready.now)
    ready.workspace.owner.audit_signing_key.unlink()  # an earlier version had none
    ready.workspace.owner.audit_head.unlink()
    assert cli.ok("broker", "log", "--verify", "--json")
    assert not ready.workspace.owner.audit_signing_key.exists()  # verifying needs the former key only
    cli.ok("broker", "log", "--sign")  # signing creates the key that an earlier version lacks
    assert ready.workspace.owner.audit_signing_key.stat().st_mode & 0o777 == 0o600
    with Owner.open(ready.workspace).vault() as vault, vault.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM audit_heads")
    with Owner.open(ready.workspace).vault() as vault:
        admin.sign_log(vault.database, Ed25519PrivateKey.generate(), now=ready.now)
    assert cli.error("broker", "log", "--verify")["code"] == "audit.head-signature"


def test_a_platform_is_created_without_being_started(cli: CommandLine, ready: Site) -> None:
    shown = cli.ok("simulated", "platform", "--create-only")
    assert str(ready.workspace.host.platform) in shown
    made = {path.name: path.read_bytes() for path in ready.workspace.host.platform.iterdir()}
    cli.ok("simulated", "platform", "--create-only")  # once more changes nothing
    assert {path.name: path.read_bytes() for path in ready.workspace.host.platform.iterdir()} == made
