"""A secret of the owner's that is gone is not replaced in silence: the new one would be another identity."""

import shutil

import pytest
from tests.harness.command_line import CommandLine
from tests.harness.workspaces import Site


@pytest.fixture
def built(ready: Site, cli: CommandLine) -> Site:
    """A workspace with a release and an enclave."""
    cli.ok("release", "build")
    cli.ok("enclave", "build")
    return ready


@pytest.mark.parametrize(
    ("lost", "command"),
    [
        ("index-signing-key.pem", ("release", "build")),
        ("index-signing-key.pem", ("enclave", "build", "--name", "replica-1")),
        ("index-signing-key.pem", ("broker", "allow")),
        ("enclave-signing-key.pem", ("enclave", "build", "--name", "replica-1")),
        ("database/broker.sqlite", ("broker", "allow")),
        ("database/broker.sqlite", ("release", "build")),
        ("master.key", ("release", "build")),
    ],
)
def test_a_lost_secret_is_named_and_stays_lost(
    built: Site, cli: CommandLine, lost: str, command: tuple[str, ...]
) -> None:
    path = built.workspace.owner.root / lost
    path.unlink()
    before = built.workspace.host.owner_key.read_bytes()
    error = cli.error(*command)
    assert error["code"] in ("owner.identity-lost", "keystore.master-key-missing")
    assert error["status"] == 4
    assert str(path) in error["message"]
    if error["code"] == "owner.identity-lost":
        assert "`sealserve restore`" in error["hint"]
    assert not path.exists()
    assert built.workspace.host.owner_key.read_bytes() == before


def test_the_key_of_the_audit_log_is_not_replaced(built: Site, cli: CommandLine) -> None:
    cli.ok("broker", "allow")
    cli.ok("broker", "log", "--sign")
    kept = built.workspace.owner.audit_head.read_bytes()
    built.workspace.owner.audit_signing_key.unlink()
    for command in (("broker", "log", "--verify"), ("broker", "log", "--sign")):
        error = cli.error(*command)
        assert error["code"] == "owner.identity-lost"
        assert "The key that signs the audit log is missing" in error["message"]
    assert not built.workspace.owner.audit_signing_key.exists()
    assert built.workspace.owner.audit_head.read_bytes() == kept
    cli.ok("release", "build")  # a release does not need the key of the audit log


@pytest.mark.parametrize("kind", ["broker", "service", "users"])
def test_up_replaces_no_authority(built: Site, cli: CommandLine, kind: str) -> None:
    shutil.rmtree(built.workspace.owner.authorities / kind)
    error = cli.error("up")
    assert (error["code"], error["status"]) == ("owner.identity-lost", 4)
    assert f"The {kind} authority is missing" in error["message"]
    assert not (built.workspace.owner.authorities / kind).exists()
    result = cli("certs", "two-way")
    assert result.status == 0
    assert f"warning: the {kind} authority is missing and is replaced by a new authority." in result.err


def test_up_makes_no_other_vendor(built: Site, cli: CommandLine) -> None:
    (built.workspace.owner.trust / "simulated-root.der").write_bytes(b"an earlier vendor's")
    result = cli("simulated", "pcs", "--port", "0")
    assert result.status == 4
    assert " ERROR error[owner.identity-lost]: The simulated vendor is missing" in result.err


def test_a_stolen_key_is_replaced_on_purpose(built: Site, cli: CommandLine) -> None:
    owner = built.workspace.owner
    before = built.workspace.host.owner_key.read_bytes()
    for path in (owner.index_signing_key, owner.enclave_signing_key):
        path.rename(path.with_suffix(".stolen"))
    cli.ok("release", "build", "--new-signing-key")
    assert built.workspace.host.owner_key.read_bytes() != before
    cli.ok("enclave", "build", "--new-signing-key")
    key = owner.enclave_signing_key.read_bytes()
    cli.ok("enclave", "build", "--new-signing-key", "--name", "replica-1")  # a key that is there stays
    assert owner.enclave_signing_key.read_bytes() == key
