import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.harness.errors import raises
from tests.harness.images import add_gramine, embedded_image, tensorflow_serving_image

from sealserve.enclave import inventory as module
from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.image_root import ImageRoot
from sealserve.enclave.inventory import Inventory, measure, read_inventory, take_inventory
from sealserve.enclave.server_files import GRAMINE_FOLDER, PROGRAMS
from sealserve.regular_file import InputFileSizeError
from sealserve.terms import ServerKind


def take(folder: Path, server: ServerKind = ServerKind.EMBEDDED) -> Inventory:
    return take_inventory(ImageRoot(folder), server, program=PROGRAMS[server], gramine=GRAMINE_FOLDER)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return embedded_image(tmp_path / "image")


def test_an_image_is_measured_by_its_own_paths(image: Path) -> None:
    taken = take(image)
    files = {file.path: file for file in taken.files}
    assert list(files) == sorted(files)
    assert taken.size == sum(file.size for file in taken.files)
    python = files[taken.program]
    assert (python.size, python.sha256) == (len(b"interpreter"), hashlib.sha256(b"interpreter").hexdigest())
    assert not any(str(image) in path for path in files)
    assert taken.gramine is None
    assert taken.uncompiled == 2, "plugin.py, and __init__.py, whose bytecode is valid by time"


def test_equal_images_have_equal_inventories(image: Path, tmp_path: Path) -> None:
    other = embedded_image(tmp_path / "other")
    assert take(image).to_bytes() == take(other).to_bytes()
    (other / "usr/lib/python3.11/os.py").write_bytes(b"import evil")
    assert take(image).digest != take(other).digest


def test_what_was_written_is_read_again(image: Path, tmp_path: Path) -> None:
    add_gramine(image)
    taken = take(image)
    assert taken.gramine is not None
    assert taken.gramine.libos.sha256 == hashlib.sha256(b"library OS").hexdigest()
    assert taken.gramine.libpal.path == f"{GRAMINE_FOLDER}/sgx/libpal.so"
    assert taken.gramine.libpal.path not in {file.path for file in taken.files}
    path = tmp_path / "inventory.json"
    path.write_bytes(taken.to_bytes())
    assert read_inventory(path) == taken
    assert taken.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    root = ImageRoot(tensorflow_serving_image(tmp_path))
    add_gramine(tmp_path)
    done: list[int] = []
    server = ServerKind.TENSORFLOW_SERVING
    taken = take_inventory(root, server, program=PROGRAMS[server], gramine=GRAMINE_FOLDER, progress=done.append)
    assert taken.gramine is not None
    assert sum(done) == taken.size + taken.gramine.libos.size + taken.gramine.libpal.size


def test_files_are_measured_once_each_in_order(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"1")
    two.write_bytes(b"22")
    files = measure([str(two), str(one), str(two)])
    assert [(file.path, file.size) for file in files] == [(str(one), 1), (str(two), 2)]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with raises(
        EnclaveCode.TRUSTED_SOURCE, match="none cannot be measured, because it cannot be read: No such file"
    ) as caught:
        measure([str(tmp_path / "none")])
    assert caught.value.code == "enclave.trusted-source"


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i.pop("files"), "files: Field required"),
        (lambda i: i.update(version=2), "version: Input should be 1"),
        (lambda i: i.update(server="nginx"), "server: Input should be 'embedded' or 'tensorflow-serving'"),
        (lambda i: i.update(files=[]), "files: Tuple should have at least 1 item"),
        (lambda i: i.update(more=1), "more: Extra inputs are not permitted"),
        (lambda i: i["files"].reverse(), "the files must be in ascending order, without duplicates"),
        (lambda i: i["files"].insert(0, i["files"][0]), "the files must be in ascending order, without duplicates"),
        (lambda i: i.update(program="/bin/sh"), "the program /bin/sh must be among the files"),
        (lambda i: i["files"][-1].update(path="/usr/x/../y"), "the paths must be normalized"),
        (lambda i: i["files"][0].update(path="opt"), "files.0.path: String should match"),
        (lambda i: i["files"][0].update(path="/a\nb"), "files.0.path: String should match"),
        (lambda i: i["files"][0].update(size=-1), "files.0.size: Input should be greater"),
        (lambda i: i["files"][0].update(size="1"), "files.0.size: Input should be a valid integer"),
        (lambda i: i["files"][0].update(sha256="A" * 64), "files.0.sha256: String should match"),
    ],
)  # fmt: skip
def test_what_is_no_inventory(image: Path, change: Change, message: str) -> None:
    value = json.loads(take(image).to_bytes())
    change(value)
    with raises(EnclaveCode.INVENTORY_INVALID) as caught:
        Inventory.parse(json.dumps(value).encode(), name="inventory.json")
    assert message in caught.value.message
    assert caught.value.code == "inventory.invalid"


def test_another_text_for_the_same_inventory(image: Path) -> None:
    with raises(EnclaveCode.INVENTORY_INVALID, match="not in canonical form"):
        Inventory.parse(take(image).to_bytes() + b"\n", name="inventory.json")


def test_a_file_that_is_too_large_or_no_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "inventory.json"
    path.write_bytes(b"\xff" * 100)
    with raises(
        EnclaveCode.INVENTORY_INVALID, match=r"inventory\.json is no inventory of an enclave's files: the file"
    ):
        read_inventory(path)
    monkeypatch.setattr(module, "MAX_SIZE", 99)
    with pytest.raises(InputFileSizeError, match="more than 99 bytes"):
        read_inventory(path)
