import sys
from pathlib import Path

import pytest
import typer
from tests.harness.command_line import CommandLine
from tests.harness.workspaces import Site, make_site

PASSPHRASE = "correct horse battery staple"


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sealserve.broker.master_key._COST", 2**14)


@pytest.fixture
def passphrase_file(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.touch(mode=0o600)
    path.write_text(PASSPHRASE + "\n")
    return path


def described(ready: Site, **keystore: object) -> None:
    make_site(ready.directory, source=ready.directory / "half-plus-two", keystore=keystore)


def test_the_master_key_is_put_under_a_passphrase_and_freed_of_it(
    cli: CommandLine, ready: Site, passphrase_file: Path
) -> None:
    cli.ok("release", "build")
    path = ready.workspace.owner.master_key
    before = path.read_bytes()
    said = cli("broker", "rotate-master", "--passphrase-file", passphrase_file)
    assert said.out == f"2 stored keys are now encrypted under {path}, which needs a passphrase.\n"
    assert "replace your copies of the old master key" in said.err
    assert path.read_bytes().startswith(b"{")
    assert path.stat().st_mode & 0o777 == 0o600
    error = cli.error("release", "build")
    assert (error["code"], error["status"]) == ("keystore.passphrase-missing", 2)
    assert "keystore.passphrase_file" in (error["hint"] or "")
    described(ready, passphrase_file=passphrase_file)
    cli.ok("release", "build")
    rotated = {"place": str(path), "under_passphrase": True, "keys": 3, "copy_to_others": False}
    assert cli.json("broker", "rotate-master") == rotated
    assert cli.json("broker", "rotate-master", "--no-passphrase")["under_passphrase"] is False
    assert len(path.read_bytes()) == 32
    assert path.read_bytes() != before


def test_a_new_passphrase_may_not_be_short(cli: CommandLine, passphrase_file: Path, ready: Site) -> None:
    passphrase_file.write_text("elevenbytes")
    error = cli.error("broker", "rotate-master", "--passphrase-file", passphrase_file)
    assert error["code"] == "keystore.passphrase-short"
    assert error["message"] == "The new passphrase is too short: expected at least 12 bytes, got 11."
    assert len(ready.workspace.owner.master_key.read_bytes()) == 32


def test_nobody_can_type_it(cli: CommandLine, ready: Site) -> None:
    assert ready.workspace.deployment_file.is_file()
    assert cli.error("broker", "rotate-master", "--passphrase")["code"] == "keystore.passphrase-missing"
    both = cli("broker", "rotate-master", "--passphrase", "--no-passphrase")
    assert both.status == 2
    assert "--no-passphrase cannot be used together with --passphrase" in both.err


def test_a_person_types_it(cli: CommandLine, ready: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []

    def prompt(question: str, *, hide_input: bool, confirmation_prompt: bool, err: bool) -> str:
        assert hide_input
        assert err
        asked.append((question, confirmation_prompt))
        return PASSPHRASE

    monkeypatch.setattr(typer, "prompt", prompt)
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda _: True})())
    result = cli("broker", "rotate-master", "--passphrase")
    assert result.status == 0
    assert PASSPHRASE not in result.out + result.err
    assert cli("release", "build").status == 0
    assert asked == [("New passphrase of the master key", True), ("Passphrase of the master key", False)]
    assert ready.workspace.owner.master_key.read_bytes().startswith(b"{")
