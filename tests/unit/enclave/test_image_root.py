import os
from pathlib import Path

import pytest
from tests.harness.errors import raises

from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.image_root import ImageRoot


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder with an image's files that `root` uses."""
    image = tmp_path / "image"
    (image / "usr/lib").mkdir(parents=True)
    (image / "usr/lib/one.so.1").write_bytes(b"one")
    (tmp_path / "secret").write_bytes(b"of the machine")
    return image


@pytest.fixture
def root(folder: Path) -> ImageRoot:
    return ImageRoot(folder)


@pytest.mark.parametrize(
    ("target", "place"),
    [
        ("/usr/lib", "usr/lib"),
        ("usr/./lib//", "usr/lib"),
        ("../../usr/lib", "usr/lib"),
        ("/../usr/lib", "usr/lib"),
        ("usr/../usr/lib/../lib", "usr/lib"),
    ],
)
def test_links_stay_in_the_image(root: ImageRoot, folder: Path, target: str, place: str) -> None:
    (folder / "lib").symlink_to(target)
    assert root.locate("/lib") == folder / place
    assert root.is_file("/lib/one.so.1")
    assert root.is_folder("/lib/")


def test_a_link_to_the_machine_leads_to_nothing(root: ImageRoot, folder: Path, tmp_path: Path) -> None:
    (folder / "out").symlink_to(tmp_path / "secret")
    (folder / "up").symlink_to("../secret")
    assert not root.is_file("/out")
    assert not root.is_file("/up")
    assert list(root.files("/")) == ["/usr/lib/one.so.1"]


def test_links_to_files_are_files_and_links_to_folders_are_not_followed(root: ImageRoot, folder: Path) -> None:
    (folder / "usr/lib/one.so").symlink_to("one.so.1")
    (folder / "usr/lib/dangling.so").symlink_to("nowhere")
    (folder / "usr/lib64").symlink_to("lib")
    os.mkfifo(folder / "usr/lib/pipe")
    assert sorted(root.files("/usr/")) == ["/usr/lib/one.so", "/usr/lib/one.so.1"]
    assert list(root.files("/usr", deep=False)) == []
    assert sorted(root.files("/usr/lib64")) == ["/usr/lib64/one.so", "/usr/lib64/one.so.1"]


def test_a_circle_of_links(root: ImageRoot, folder: Path) -> None:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("/a")
    with raises(
        EnclaveCode.IMAGE_ROOT_UNUSABLE, match=r"/a in .* cannot be resolved: it goes through more than 40 links"
    ) as caught:
        root.locate("/a")
    assert caught.value.code == "image-root.unusable"


@pytest.mark.parametrize("name", [b"a\nb", b"a\xff"])
def test_a_name_that_no_manifest_can_have(root: ImageRoot, folder: Path, name: bytes) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/usr/" + name)).write_bytes(b"")
    with raises(EnclaveCode.IMAGE_ROOT_UNUSABLE, match="has a character that a manifest cannot contain"):
        list(root.files("/usr"))


def test_what_cannot_be_listed_is_named(root: ImageRoot) -> None:
    with raises(EnclaveCode.IMAGE_ROOT_UNUSABLE, match=r"/none in .* cannot be listed: No such file"):
        list(root.files("/none"))


@pytest.mark.parametrize("folder", [Path("relative"), Path("/none")])
def test_no_folder(folder: Path) -> None:
    with raises(
        EnclaveCode.IMAGE_ROOT_UNUSABLE, match="is not an absolute path of a folder with the files of an image"
    ):
        ImageRoot(folder)


def test_this_machine() -> None:
    machine = ImageRoot(Path("/"))
    assert machine.is_this_machine
    assert machine.locate(str(Path(__file__).resolve())) == Path(__file__).resolve()
    assert machine.locate("/../..") == Path("/")
