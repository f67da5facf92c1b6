from pathlib import Path

from tests.harness.command_line import CommandLine
from tests.harness.workspaces import Site

from sealserve.sealing.release import VerifiedRelease


def test_backup_and_restore(cli: CommandLine, site: Site, released: VerifiedRelease, tmp_path: Path) -> None:
    made = cli("backup", tmp_path / "backup")
    assert made.status == 0
    assert made.out.startswith(f"Wrote {tmp_path / 'backup'}: ")
    assert "but can be opened only with this key" in made.err
    assert cli.error("backup", tmp_path / "backup")["code"] == "file.exists"
    small = cli.json("backup", tmp_path / "backup", "--force", "--without-models", "--without-releases")
    assert small["file"] == str(tmp_path / "backup")
    key = site.workspace.owner.master_key
    new = "--directory", tmp_path / "new"
    restored = cli.bare("restore", tmp_path / "backup", "--master-key", key, *new, "--json")
    assert restored.json["files"] == small["files"]
    assert (
        "repeat each drain and revocation since that time"
        in cli.bare("restore", tmp_path / "backup", "--master-key", key, "--directory", tmp_path / "other").err
    )
    again = cli.bare("restore", tmp_path / "backup", "--master-key", key, *new)
    assert again.status == 2
    assert "Restore into another folder: --directory DIR." in again.err
    assert cli.bare("broker", "status", *new).status == 0
    missing = cli.bare("restore", tmp_path / "nothing", "--directory", tmp_path / "empty", "--json")
    assert missing.error["code"] == "input-file.missing"
    assert not (tmp_path / "empty").exists()
    assert released.folder.is_dir()
