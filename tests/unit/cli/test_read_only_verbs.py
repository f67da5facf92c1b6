"""A verb that only shows something changes no byte of the workspace: it creates no key, no file and no folder."""

from pathlib import Path

import pytest
from tests.harness.command_line import CommandLine
from tests.harness.workspaces import Site

from sealserve.cli.status_document import DOWN
from sealserve.owner import provisioning
from sealserve.sealing.release import VerifiedRelease

READ_ONLY = [
    ("status",),
    ("certs", "show"),
    ("release", "list"),
    ("release", "list", "--host"),
    ("broker", "log"),
    ("broker", "log", "--verify"),
    ("broker", "releases"),
    ("broker", "status"),
    ("broker", "platform", "list"),
    ("doctor", "owner"),
    ("doctor", "user"),
]
OF_A_RELEASE = [
    ("release", "verify"),
    ("release", "show"),
    ("enclave", "show"),
    ("enclave", "manifest"),
    ("enclave", "manifest", "--explain"),
    ("model", "show"),
    ("model", "lint"),
    ("doctor", "host"),
]


def state(site: Site) -> dict[str, tuple[int, bytes | None]]:
    """Return mode and content of everything in the folder."""
    return {
        str(path.relative_to(site.directory)): (path.stat().st_mode, path.read_bytes() if path.is_file() else None)
        for path in site.directory.rglob("*")
    }


def shown(cli: CommandLine, *verb: str) -> None:
    """Run a verb that does what it should: `status` ends with 6 since nothing runs."""
    result = cli(*verb)
    assert result.status == (DOWN if verb[0] == "status" else 0), result


@pytest.mark.parametrize("verb", [*READ_ONLY, *OF_A_RELEASE], ids=" ".join)
@pytest.mark.usefixtures("released")
def test_a_verb_that_shows_something_changes_nothing(site: Site, cli: CommandLine, verb: tuple[str, ...]) -> None:
    before = state(site)
    for options in ((), ("--json",)):
        shown(cli, *verb, *options)
        assert state(site) == before


@pytest.mark.parametrize("verb", READ_ONLY, ids=" ".join)
def test_nor_in_a_workspace_that_has_nothing_yet(site: Site, cli: CommandLine, verb: tuple[str, ...]) -> None:
    before = state(site)
    shown(cli, *verb)
    assert state(site) == before


def test_nor_with_a_database_that_was_used(site: Site, released: VerifiedRelease, cli: CommandLine) -> None:
    provisioning.allow(site.workspace, site.deployment, released.folder, now=site.now)
    provisioning.sign_log(site.workspace, now=site.now)
    before = state(site)
    for verb in READ_ONLY:
        shown(cli, *verb)
        assert state(site) == before, verb


def test_nor_the_file_that_is_looked_at(site: Site, released: VerifiedRelease, cli: CommandLine) -> None:
    before = state(site)
    cli.bare("inspect", released.folder / "tls/ssl.cfg")
    cli.bare("enclave", "lint", released.folder / "enclave/replica-0.manifest.sgx")
    assert state(site) == before


def test_nor_does_a_verb_that_fails(site: Site, released: VerifiedRelease, cli: CommandLine, tmp_path: Path) -> None:
    before = state(site)
    for verb in (("release", "show", "none"), ("release", "verify", "--owner-key", tmp_path / "none.pub")):
        assert cli.error(*verb)["status"] == 2
    assert cli.error("broker", "drain", released.folder.name)["code"] == "broker.release-unknown"
    assert cli.error("broker", "revoke", "--yes", released.folder.name)["code"] == "broker.release-unknown"
    assert state(site) == before
