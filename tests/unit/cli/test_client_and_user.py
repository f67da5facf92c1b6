"""The verbs ``client`` and ``user``: from a new user to a bundle on another machine, and to the user's revocation."""

import json
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.harness.command_line import CommandLine
from tests.harness.workspaces import make_site

from sealserve.cli import completion
from sealserve.client.bundle import ClientBundle

COMPLETIONS = (completion.users, completion.models, completion.labels)


@pytest.fixture
def certified(cli: CommandLine) -> CommandLine:
    cli.ok("certs", "two-way")
    return cli


def test_a_user_is_added_listed_renewed_and_revoked(certified: CommandLine) -> None:
    ann = certified.json("user", "add", "ann")
    assert set(ann) == {"name", "state", "not_after", "serial", "revoked_at"}
    assert (ann["name"], ann["state"], ann["revoked_at"]) == ("ann", "active", None)
    assert certified.error("user", "add", "ann")["code"] == "user.exists"
    assert "client bundle --for bob" in certified.ok("user", "add", "bob")
    assert certified.json("user", "renew", "ann")["serial"] != ann["serial"]
    rows = certified.ok("user", "list").splitlines()
    assert rows[0].split() == ["USER", "STATE", "EXPIRES", "(UTC)", "DAYS", "LEFT"]
    assert [row.split()[0] for row in rows[1:]] == ["ann", "bob", "default"]
    told = certified.ok("user", "revoke", "ann", "--yes")
    assert "Running replicas still accept ann." in told
    listed = certified.json("user", "list")
    assert [user["state"] for user in listed["users"]] == ["revoked", "active", "active"]
    assert (listed["newest_release_accepts"], listed["serving_release_accepts"]) == ([], [])  # there is no release
    assert certified.error("user", "revoke", "ann", "--yes")["code"] == "user.unknown"
    assert certified.error("client", "bundle", "--for", "ann")["code"] == "user.unknown"


def test_a_revocation_is_asked_for(certified: CommandLine) -> None:
    certified.ok("user", "add", "ann")
    assert certified("user", "revoke", "ann").status == 1
    assert certified.json("user", "list")["users"][0]["state"] == "active"


def test_a_bundle_holds_what_a_user_needs(certified: CommandLine, tmp_path: Path) -> None:
    certified.ok("model", "convert")
    certified.ok("user", "add", "ann")
    path = tmp_path / "ann.json"
    result = certified("client", "bundle", "--for", "ann", "-o", path, "--address", "service.example.com:443")
    assert (result.status, "warning" in result.err) == (0, False)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = ClientBundle.read(path)
    assert (found.user, found.grpc, found.rest) == ("ann", "service.example.com:443", None)
    assert found.server_name == "grpc.tf-serving.service.com"
    assert found.model == "half-plus-two"
    assert found.models[0].signatures["serving_default"].inputs
    assert certified.error("client", "bundle", "--for", "ann", "-o", path)["code"] == "file.exists"
    local = certified("client", "bundle", "--for", "ann", "-o", path, "--force")
    assert "127.0.0.1:8500 can be reached only from this machine." in local.err


def test_a_service_on_every_address_is_reached_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = make_site(tmp_path / "site", service={"tls": "one-way", "listen": "::", "port": 9000})
    cli = CommandLine(capsys, site.directory)
    cli.ok("certs", "one-way")
    assert "It contains no secret." in cli.ok("client", "bundle", "--for", "all", "-o", tmp_path / "all.json")
    found = ClientBundle.read(tmp_path / "all.json")
    assert (found.grpc, found.certificate, found.key) == ("grpc.tf-serving.service.com:9000", None, None)
    assert cli.bare("client", "unpack", tmp_path / "all.json", "-o", tmp_path / "pem").status == 0
    assert [path.name for path in (tmp_path / "pem").iterdir()] == ["service-ca.pem"]


def test_a_bundle_is_shown_and_unpacked_without_a_workspace(certified: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "default.json"
    certified.ok("client", "bundle", "-o", path)
    shown = certified.bare("client", "show", path)
    assert "PRIVATE" not in shown.out
    assert "half-plus-two" in shown.out
    ca = {row["role"]: row for row in certified.json("certs", "show")}["service authority"]
    assert ca["fingerprint"] in shown.out
    value = certified.bare("client", "show", path, "--json").json
    assert (value["user"], value["ca_sha256"]) == ("default", ca["fingerprint"])
    assert certified.bare("client", "unpack", path, "-o", tmp_path / "pem").status == 0
    names = sorted(file.name for file in (tmp_path / "pem").iterdir())
    assert names == ["client.key", "client.pem", "service-ca.pem"]
    assert stat.S_IMODE((tmp_path / "pem" / "client.key").stat().st_mode) == 0o600
    again = certified.bare("client", "unpack", path, "-o", tmp_path / "pem", "--json")
    assert again.error["code"] == "file.exists"


def test_a_hostile_bundle_writes_nothing(certified: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "evil.json"
    certified.ok("client", "bundle", "-o", path)
    document = json.loads(path.read_text())
    for change in ({"../../x": "y"}, {"private_key": "no key"}, {"user": "../../x\n"}, {"certificate": None}):
        path.write_text(json.dumps(document | change))
        for verb in (("unpack", "-o", tmp_path / "out"), ("show",)):
            result = certified.bare("client", verb[0], path, *verb[1:], "--json")
            assert result.status == 2
            assert result.error["code"] in (
                "client.bundle-invalid", "certificate.key-unreadable", "client.credentials"
            )  # fmt: skip
    assert [file.name for file in tmp_path.iterdir() if file.name not in ("site", "half-plus-two")] == ["evil.json"]


def test_the_authority_is_unpacked_without_what_surrounds_it(certified: CommandLine, tmp_path: Path) -> None:
    """OpenSSL trusts blocks of other kinds too, which `client show` does not list."""
    path = tmp_path / "evil.json"
    certified.ok("client", "bundle", "-o", path)
    document = json.loads(path.read_text())
    trusted = document["ca"].replace("CERTIFICATE", "TRUSTED CERTIFICATE")
    path.write_text(json.dumps(document | {"ca": f"text\n{trusted}{document['ca']}{trusted}"}))
    certified.bare("client", "unpack", path, "-o", tmp_path / "pem")
    assert (tmp_path / "pem" / "service-ca.pem").read_text() == document["ca"]


def test_the_shell_completes_users_models_and_labels(certified: CommandLine, tmp_path: Path) -> None:
    certified.ok("user", "add", "ann")
    certified.ok("user", "add", "gone")
    certified.ok("user", "revoke", "gone", "--yes")
    here: Any = SimpleNamespace(params={"directory": certified.directory})
    nowhere: Any = SimpleNamespace(params={"directory": tmp_path})
    key = certified.directory / ".sealserve/user/client.key"
    key.write_text("not a key: completion does not read it")
    assert completion.users(here, "") == ["ann", "default"]
    assert completion.users(here, "a") == ["ann"]
    assert completion.models(here, "half") == ["half-plus-two"]
    assert completion.labels(here, "") == []
    assert [complete(nowhere, "") for complete in COMPLETIONS] == [[], [], []]


def test_a_completion_never_fails(certified: CommandLine) -> None:
    here: Any = SimpleNamespace(params={"directory": certified.directory})
    strange: Any = SimpleNamespace(params={"directory": "a\0b"})
    assert [complete(strange, "") for complete in COMPLETIONS] == [[], [], []]
    (certified.directory / ".sealserve/owner/users/register.json").write_text("{")
    (certified.directory / "sealserve.toml").write_bytes(b"\xff")
    assert [complete(here, "") for complete in COMPLETIONS] == [[], [], []]


def test_a_service_with_rest_has_its_address_in_the_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = make_site(tmp_path / "site", server={"rest": True}, service={"listen": "0.0.0.0", "rest_port": 9443})  # noqa: S104  # only an address in a file
    cli = CommandLine(capsys, site.directory)
    cli.ok("certs", "two-way")
    cli.ok("client", "bundle", "-o", tmp_path / "a.json")
    assert ClientBundle.read(tmp_path / "a.json").rest == "grpc.tf-serving.service.com:9443"
    cli.ok("client", "bundle", "-o", tmp_path / "b.json", "--rest-address", "other.example:1")
    assert ClientBundle.read(tmp_path / "b.json").rest == "other.example:1"


@pytest.mark.parametrize(
    ("options", "expected", "warned"),
    [
        ((), ("127.0.0.1:8500", "127.0.0.1:9443"), ["127.0.0.1:8500", "127.0.0.1:9443"]),
        (("--address", "s.example:443"), ("s.example:443", "s.example:9443"), []),
        (("--address", "[2001:db8::1]:443"), ("[2001:db8::1]:443", "[2001:db8::1]:9443"), []),
        (("--address", "localhost:1"), ("localhost:1", "localhost:9443"), []),  # a tunnel that the owner asked for
        (("--rest-address", "s.example:443"), ("127.0.0.1:8500", "s.example:443"), ["127.0.0.1:8500"]),
        (("--address", "s.example:1", "--rest-address", "t.example:2"), ("s.example:1", "t.example:2"), []),
    ],
)
def test_both_addresses_are_of_the_host_at_which_the_user_reaches_the_service(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    expected: tuple[str, str],
    warned: list[str],
) -> None:
    site = make_site(tmp_path / "site", server={"rest": True}, service={"tls": "one-way", "rest_port": 9443})
    cli = CommandLine(capsys, site.directory)
    cli.ok("certs", "one-way")
    result = cli("client", "bundle", "-o", tmp_path / "a.json", *options)
    found = ClientBundle.read(tmp_path / "a.json")
    assert (found.grpc, found.rest) == expected
    warnings = [line for line in result.err.splitlines() if "can be reached only from this machine" in line]
    assert [line.split()[1] for line in warnings] == warned


def test_a_wrong_address_is_named(certified: CommandLine, tmp_path: Path) -> None:
    for option in ("--address", "--rest-address"):
        error = certified.error("client", "bundle", "-o", tmp_path / "a.json", option, "https://h/")
        assert error["code"] in ("client.target", "client.bundle-invalid")
        assert not (tmp_path / "a.json").exists()
