"""``sealserve --broker URL broker ...``: the same commands, with the same output, over the network."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness.administration import RemoteSite, register, remote_site
from tests.harness.command_line import CommandLine, Result
from tests.harness.workspaces import Site

from sealserve.attestation.secret_provisioning import SecretForm
from sealserve.broker.head_file import kept_head
from sealserve.owner.certificates import broker_certificate
from sealserve.pki.certificate import parse_chain
from sealserve.sealing.release import VerifiedRelease
from sealserve.terms import AdministratorRole

VIEWER, OPERATOR = AdministratorRole.VIEWER, AdministratorRole.OPERATOR
PLATFORM = "0" * 32


@pytest.fixture
def remote(site: Site) -> Iterator[RemoteSite]:
    with remote_site(site) as running:
        yield running


def over_network(cli: CommandLine, remote: RemoteSite, *words: str, role: AdministratorRole = OPERATOR) -> Result:
    return cli.bare("--broker", remote.url, "--administrator", remote.files[role], "broker", *words)


def test_reading_prints_the_same_as_the_local_command(cli: CommandLine, remote: RemoteSite) -> None:
    cli.ok("broker", "platform", "enrol", PLATFORM, "--label", "rack 3")
    for words in (
        ("releases",),
        ("releases", "--json"),
        ("log",),
        ("log", "--json"),
        ("log", "--last", "1", "--json"),
        ("platform", "list"),
        ("platform", "list", "--json"),
        ("status",),
        ("status", "--json"),
        ("log", "--code", "ok", "--since", "1h", "--platform", "rack 3", "--json"),
        ("log", "--release", "resnet50", "--last", "1"),
        ("policy", "show"),
        ("policy", "show", "cloud-smt", "--json"),
        ("policy", "show", "resnet50"),
        ("policy", "try", "strict", "--json"),
        ("token", "keys"),
        ("collateral",),
        ("collateral", "--json"),
    ):
        found = over_network(cli, remote, *words, role=VIEWER)
        assert (found.status, found.err) == (0, "")
        assert found.out == cli.ok("broker", *words)


def test_the_status_has_the_certificate_of_the_remote_broker(cli: CommandLine, remote: RemoteSite) -> None:
    found = over_network(cli, remote, "status", "--json", role=VIEWER).json["certificate"]
    ends = parse_chain(broker_certificate(remote.site.workspace).chain_pem)[0].not_valid_after_utc
    assert found == {"ends": ends.isoformat(), "problem": None}
    (remote.site.workspace.owner.broker_tls / "broker.pem").write_bytes(b"broken")
    broken = over_network(cli, remote, "status", "--json", role=VIEWER).json["certificate"]
    assert (broken["ends"], "certificate.unreadable" in broken["problem"]) == (None, True)


def test_an_unknown_code_is_reported_with_the_nearest_code(cli: CommandLine, remote: RemoteSite) -> None:
    for found in (
        cli("broker", "log", "--code", "policy.limits"),
        over_network(cli, remote, "log", "--code", "policy.limits"),
    ):
        assert (found.status, found.out) == (0, "No rows match.\n")
        assert "The code 'policy.limits' does not exist" in found.err.replace("\n", " ")
        assert "Did you mean policy.limit?" in found.err.replace("\n", " ")
    for known in ("ok", "several", "broker.release-unknown", "internal"):
        assert cli("broker", "log", "--code", known).err == ""


def test_a_policy_file_of_the_administrator_is_used(cli: CommandLine, remote: RemoteSite, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("version = 2\nname = 'mine'\n[tcb.accept]\nUpToDate = []\n")
    for words in (("show", file), ("check", file), ("try", file, "--json")):
        found = over_network(cli, remote, "policy", *map(str, words), role=VIEWER)
        assert (found.status, found.out) == (0, cli.ok("broker", "policy", *words))
    file.write_text("version = 3\n")
    for verb in ("show", "check", "try"):
        assert over_network(cli, remote, "policy", verb, str(file), "--json").error["code"] == "policy.file"
    file.write_text("#" * 40000)
    file.write_text(f"version = 2\nname = 'mine'\n[tcb.accept]\nUpToDate = []\n{'#' * 33000}\n")
    assert over_network(cli, remote, "policy", "try", str(file), "--json").error["code"] == "administration.size"


def test_a_file_of_the_brokers_machine_is_not_read(remote: RemoteSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(remote.site.directory)
    (remote.site.directory / "hidden").write_text("secret = 1")
    with remote.http(OPERATOR) as http:
        for answer in (http.get("/v1/policy?name=hidden"), http.post("/v1/policy/try", json={"name": "hidden"})):
            assert (answer.status_code, answer.json()["code"]) == (404, "policy.unknown")
            assert "secret" not in answer.text


def test_the_token_key_is_rotated_by_an_operator_and_recorded(
    cli: CommandLine, remote: RemoteSite, tmp_path: Path
) -> None:
    refused = over_network(cli, remote, "token", "rotate", "--yes", "--json", role=AdministratorRole.APPROVER)
    assert refused.error["code"] == "administration.role"
    before = cli.ok("broker", "token", "keys")
    rotated = over_network(cli, remote, "token", "rotate", "--yes", "--json").json
    assert cli.ok("broker", "token", "keys") != before
    row = remote.rows()[-1].entry
    assert (row.decision, row.actor, row.detail) == (
        "token-rotated", "a-operator", f"to the key {rotated['key']}"
    )  # fmt: skip
    cli.ok("broker", "token", "rotate", "--compromised", "--yes")
    row = remote.rows()[-1].entry
    assert (row.peer, row.actor, row.detail.endswith("; former keys are removed")) == ("owner", None, True)
    cli.ok("broker", "log", "--verify")
    # A token is verified with the keys of the remote broker.
    token = tmp_path / "token"
    token.write_text("a.b.c")
    words = ("token", "verify", str(token), "--issuer", "x", "--audience", "y", "--json")
    assert over_network(cli, remote, *words, role=VIEWER).error["code"].startswith("token.")
    assert cli("broker", *words).error["code"] == "usage.missing"


def test_the_form_of_a_key_is_the_same_over_the_network(cli: CommandLine, remote: RemoteSite) -> None:
    register(remote.database, remote.site, digit="b", name="strings", secret_form=SecretForm.STRING)
    listed = over_network(cli, remote, "releases", "--json", role=VIEWER).json
    assert [item["secret_form"] for item in listed] == ["raw", "string"]


def test_a_test_notification_needs_a_receiver(cli: CommandLine, remote: RemoteSite) -> None:
    found = over_network(cli, remote, "notify-test", "--json")
    assert {**found.error, "status": found.status} == cli.error("broker", "notify-test")
    assert found.error["code"] == "broker.notification-settings"


def test_a_change_over_the_network_stores_the_end_of_the_log_outside_of_the_database(
    cli: CommandLine, remote: RemoteSite
) -> None:
    assert over_network(cli, remote, "platform", "enrol", PLATFORM).status == 0
    rows = over_network(cli, remote, "log", "--json", role=VIEWER).json
    head = kept_head(remote.site.workspace.owner.audit_head)
    assert head is not None
    assert (head.seq, head.hash) == (rows[-1]["seq"], rows[-1]["hash"])
    assert rows[-1]["decision"] == "enrolled"


def test_changes_print_the_same_and_name_the_administrator(cli: CommandLine, remote: RemoteSite) -> None:
    drained = over_network(cli, remote, "drain", "resnet50", "--minutes", "5", "--json")
    assert drained.json["state"] == "draining"
    enrolled = over_network(cli, remote, "platform", "enrol", PLATFORM)
    assert enrolled.out == f"Enrolled the platform {PLATFORM} (simulated).\n"
    withdrawn = over_network(cli, remote, "platform", "withdraw", PLATFORM, "--yes")
    assert withdrawn.out == f"Withdrew the platform {PLATFORM} (simulated): it does not receive further keys.\n"
    assert over_network(cli, remote, "revoke", "resnet50", "--yes", "--json").json["state"] == "revoked"
    rows = cli.json("broker", "log", "--verify")
    assert [row["actor"] for row in rows] == [None, None, *["a-operator"] * 4]
    assert "a-operator at 127.0.0.1:" in cli.ok("broker", "log")


def test_an_error_has_the_same_code_message_and_exit_status(cli: CommandLine, remote: RemoteSite) -> None:
    for words in (("drain", "nowhere"), ("revoke", "nowhere", "--yes"), ("platform", "withdraw", PLATFORM, "--yes")):
        local, found = cli("broker", *words, "--json"), over_network(cli, remote, *words, "--json")
        assert found.status == local.status == 2
        assert found.error == local.error
    refused = over_network(cli, remote, "revoke", "resnet50", "--yes", role=VIEWER)
    assert (refused.status, refused.out) == (3, "")
    assert "error[administration.role]" in refused.err


@pytest.mark.parametrize(
    "words",
    [
        ["run"],
        ["accept-database", "--yes"],
        ["import"],
        ["rotate-master"],
        ["log", "--verify"],
        ["log", "--sign"],
        ["log", "--check", "head.json"],
        ["allow", "--dangerous-log"],
        ["admin", "list"],
        ["admin", "issue", "bob", "--output", "bob.json"],
        ["admin", "revoke", "a-viewer", "--yes"],
    ],
)
def test_a_command_that_needs_the_owners_files_says_where_to_run_it(
    cli: CommandLine, remote: RemoteSite, words: list[str]
) -> None:
    found = over_network(cli, remote, *words)
    assert found.status == 2
    assert "error[broker.owner-machine]" in found.err
    assert "Run it on the owner's machine" in " ".join(found.err.split())


def test_allow_reaches_only_releases_in_the_brokers_workspace(cli: CommandLine, remote: RemoteSite) -> None:
    """A release elsewhere is not found, although its folder exists for the broker's process."""
    other = remote.site.directory / "other"
    other.mkdir()
    (other / "release.json").write_text("{}")
    for name in ("other", "nowhere"):
        assert over_network(cli, remote, "allow", name, "--json").error["code"] == "release.missing"
    for name in ("../other", str(other)):
        assert over_network(cli, remote, "allow", name, "--json").error["code"] == "administration.request"


def test_allow_registers_a_release_that_the_owner_built(
    cli: CommandLine, released: VerifiedRelease, site: Site
) -> None:
    with remote_site(site) as remote:
        allowed = over_network(cli, remote, "allow", "--json").json
        assert (allowed["name"], allowed["state"]) == (released.folder.name, "active")
        assert len(allowed["enclaves"]) == 2
        assert allowed == over_network(cli, remote, "allow", released.folder.name, "--json").json
        over_network(cli, remote, "drain", released.folder.name)
        again = over_network(cli, remote, "allow", released.id[:12], "--reactivate", "--json").json
        assert again["state"] == "active"
        rows = [(row.entry.actor, row.entry.decision) for row in remote.rows()][2:]
        assert rows == [
            ("a-operator", decision) for decision in ("allowed", "allowed", "stated", "draining", "reactivated")
        ]
        # The owner's signatures decide: a changed file of the release is refused.
        index = released.folder / "enclave" / "index.json"
        index.write_bytes(index.read_bytes() + b" ")
        assert over_network(cli, remote, "allow", "--json").status == 3
        assert len(remote.rows()) == 7


def test_the_options_are_checked(cli: CommandLine, remote: RemoteSite, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_verb = cli.bare("--broker", remote.url, "--administrator", remote.files[VIEWER], "status")
    assert (wrong_verb.status, "error[usage.arguments]" in wrong_verb.err) == (2, True)
    without_file = cli.bare("--broker", remote.url, "broker", "status")
    assert (without_file.status, "error[usage.missing]" in without_file.err) == (2, True)
    monkeypatch.setenv("SEALSERVE_ADMINISTRATOR", str(remote.files[VIEWER]))
    assert cli.bare("--broker", remote.url, "broker", "status").status == 0
    assert cli.ok("broker", "status")  # the file alone does not select a remote broker
    missing = cli.bare("--broker", remote.url, "--administrator", "nowhere.json", "broker", "status")
    assert missing.status in {2, 4}
    plain = cli.bare("--broker", "http://127.0.0.1:1", "broker", "status")
    assert "error[administration.url]" in plain.err


def test_administrators_are_issued_listed_and_revoked(cli: CommandLine, site: Site, tmp_path: Path) -> None:
    site.certify()
    assert cli.ok("broker", "admin", "list").startswith("The broker does not have remote administrators.")
    file = tmp_path / "bob.json"
    issued = cli.ok("broker", "admin", "issue", "bob", "--role", "operator", "--output", file)
    assert issued.startswith("Issued a certificate for bob with the role operator, valid until ")
    document = json.loads(file.read_text())
    assert (document["name"], document["role"]) == ("bob", "operator")
    assert document["private_key"] not in issued
    listed = cli.json("broker", "admin", "list")
    assert [(item["name"], item["role"], item["state"]) for item in listed] == [("bob", "operator", "active")]
    assert cli.error("broker", "admin", "issue", "bob", "--output", file)["code"] == "file.exists"
    assert "Revoked all certificates of bob." in cli.ok("broker", "admin", "revoke", "bob", "--yes")
    assert cli.json("broker", "admin", "list")[0]["state"] == "revoked"
    assert cli.error("broker", "admin", "revoke", "bob", "--yes")["code"] == "administrator.unknown"
    assert "bob" in cli.ok("broker", "admin", "list")
