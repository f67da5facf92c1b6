from pathlib import Path

import pytest
from testbed.docker.base_image import MirrorMissingError, mirror


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "a.list",
            "# deb http://old.example.com/debian bookworm main\ndeb http://mirror.example.com/debian bookworm main\n",
        ),
        ("a.sources", "Types: deb\nURIs: http://mirror.example.com/debian\nSuites: bookworm\n"),
    ],
)
def test_the_mirror_is_that_of_this_machine(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "0-other.list").write_text("deb http://mirror.example.com/other stable main\n")
    (tmp_path / name).write_text(text)
    assert mirror([tmp_path / "missing", tmp_path]) == "http://mirror.example.com/debian"


def test_a_machine_without_a_mirror_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(MirrorMissingError, match=f"{tmp_path}.* name no Debian mirror"):
        mirror([tmp_path])
