import stat
from pathlib import Path

import pytest

from sealserve import workspace


def test_it_is_found_from_a_folder_below(tmp_path: Path) -> None:
    (tmp_path / "sealserve.toml").touch()
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert workspace.find(below) == workspace.Workspace(tmp_path)


def test_a_missing_one_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(workspace.WorkspaceMissingError, match="sealserve init") as caught:
        workspace.find(tmp_path)
    assert caught.value.code == "workspace.missing"


def test_what_is_private_is_private(tmp_path: Path) -> None:
    here = workspace.Workspace(tmp_path)
    here.create()
    here.create()
    for private in (here.owner.root, here.user.root, here.vendor.root):
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert (here.root / ".gitignore").read_text().endswith("*\n")
