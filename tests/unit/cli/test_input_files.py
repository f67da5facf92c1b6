"""Inputs in files and complete requests, also untrusted: each is read correctly, or refused with one error."""

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sealserve import array_file
from sealserve.cli import input_files
from sealserve.cli.generated_input import TensorInputError
from sealserve.cli.tensor_input import read_inputs
from sealserve.client.examples import serialize
from sealserve.client.predict import Signature, TensorSpec

SPECS = {
    "image": TensorSpec("float32", (None, 2)),
    "count": TensorSpec("int64", (None,)),
    "text": TensorSpec("string", (None,)),
    "one": TensorSpec("string", ()),
    "column": TensorSpec("string", (None, 1)),
    "pair": TensorSpec("string", (None, 2)),
    "any": TensorSpec("string", None),
}
JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF"


def signature(*names: str) -> Signature:
    return Signature(method="tensorflow/serving/predict", inputs={name: SPECS[name] for name in names}, outputs={})


def read(text: str | list[str], *names: str, called: str = "serving_default") -> dict[str, npt.NDArray[Any]]:
    texts = [text] if isinstance(text, str) else text
    return dict(read_inputs(texts, signature(*names), signature_name=called).arrays)


def values(text: str, *names: str) -> dict[str, Any]:
    return {name: array.tolist() for name, array in read(text, *names).items()}


@pytest.fixture
def standard_input(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    def give(content: bytes) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))

    return give


@pytest.mark.parametrize(("name", "shape"), [("text", (1,)), ("one", ()), ("column", (1, 1)), ("any", (1,))])
def test_a_file_is_one_string_of_the_models_shape(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    (tmp_path / "p.jpg").write_bytes(JPEG)
    array = read(f"{name}=@{tmp_path}/p.jpg", name)[name]
    assert (array.shape, array.ravel()[0]) == (shape, JPEG)
    assert read(f"{name}=hello", name)[name].shape == shape


def test_text_needs_no_quotes() -> None:
    for text in ("good", "5", "null", "it's = fine", "", "é", " [1"):
        assert values(f"text={text}", "text") == {"text": [text.encode()]}
    assert values('text="@home"', "text") == {"text": [b"@home"]}
    assert values('text=["a", "b"]', "text") == {"text": [b"a", b"b"]}
    with pytest.raises(TensorInputError, match="got one string"):
        read("pair=good", "pair")


def test_json_files(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[[1, 2]]")
    (tmp_path / "words.JSON").write_text('["a", {"b64": "/w=="}]')
    assert values(f"image=@{tmp_path}/x.json", "image") == {"image": [[1, 2]]}
    assert values(f"text=@{tmp_path}/words.JSON", "text") == {"text": [b"a", b"\xff"]}


def test_archives(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "two.npz", image=np.ones((1, 2), np.float32), count=np.array([3], np.int64))
    np.savez(tmp_path / "one.npz", np.zeros((1, 2), np.float32))
    assert values(f"@{tmp_path}/two.npz", "image", "count") == {"image": [[1, 1]], "count": [3]}
    assert values(f"image=@{tmp_path}/two.npz", "image") == {"image": [[1, 1]]}
    assert values(f"image=@{tmp_path}/one.npz", "image") == {"image": [[0, 0]]}
    with pytest.raises(
        TensorInputError, match=r"it has the array 'count', which is not an input of the signature \(image\)\."
    ):
        read(f"@{tmp_path}/two.npz", "image")
    with pytest.raises(TensorInputError, match="but no array with the name text"):
        read(f"text=@{tmp_path}/two.npz", "text")


def test_fortran_order_big_endian_and_strings(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", np.asfortranarray(np.arange(4, dtype=">f4").reshape(2, 2)))
    np.save(tmp_path / "u.npy", np.array(["é", "b"]))
    assert values(f"image=@{tmp_path}/f.npy", "image") == {"image": [[0, 1], [2, 3]]}
    assert values(f"text=@{tmp_path}/u.npy", "text") == {"text": ["é", "b"]}


@pytest.mark.parametrize("whole", [True, False])
def test_rows_and_columns(whole: bool, tmp_path: Path, standard_input: Callable[[bytes], None]) -> None:
    rows = {"signature_name": "serving_default", "instances": [{"image": [1, 2], "count": 3}] * 2}
    columns = {"inputs": {"image": [[1, 2], [1, 2]], "count": [3, 3]}}
    expected = {"image": [[1, 2], [1, 2]], "count": [3, 3]}
    for body in (rows, columns):
        if whole:
            assert values(json.dumps(body), "image", "count") == expected
        else:
            (tmp_path / "r").write_text(json.dumps(body))
            assert values(f"@{tmp_path}/r", "image", "count") == expected
            standard_input(json.dumps(body).encode())
            assert values("@-", "image", "count") == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"instances": ["a", {"b64": "/w=="}]}', [b"a", b"\xff"]),
        ('{"instances": [{"text": "a"}]}', [b"a"]),
        ('{"inputs": ["a"]}', [b"a"]),
        ('{"inputs": "a"}', [b"a"]),
        ('{"inputs": {"b64": "/w=="}}', [b"\xff"]),
        ('{"inputs": {"text": ["a"]}}', [b"a"]),
        ('{"instances": [{"age": 41}]}', [serialize({"age": [41]})]),
    ],
)
def test_the_only_input_needs_no_name(body: str, expected: list[bytes]) -> None:
    assert values(body, "text") == {"text": expected}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("{}", 'either "instances" or "inputs"'),
        ('{"instances": [1], "inputs": [1]}', 'either "instances" or "inputs"'),
        ('{"instances": [[1, 2]], "predictions": 1}', "no other key"),
        ('{"signature_name": "other", "instances": [[1, 2]]}', "wrong: expected 'serving_default', got 'other'"),
        ('{"instances": []}', "at least one row"),
        ('{"instances": 3}', "at least one row"),
        ('{"instances": [{"image": [1, 2]}, {"imag": [1, 2]}]}', "row 1 does not have the same inputs as row 0"),
        ('{"instances": [{"image": [1, 2]}, 7]}', "row 1 does not have the same inputs as row 0"),
        ('{"instances": [{"imag": [1, 2]}]}', "row 0 has the unknown input 'imag'; the inputs of"),
        ('{"inputs": {"imag": [[1, 2]]}}', "inputs has the unknown input 'imag'; the inputs of"),
        ('{"inputs": 1, "inputs": 2}', "an object has a repeated key"),
        ("{", "Expecting"),
        ('{"instances": ' + "[" * 100_000, "nested too deeply"),
        ('{"instances": [[1], [2, 3]]}', "lists have different lengths"),
        ('{"instances": [["1", 2]]}', "not numbers: expected float32"),
        ('{"instances": [[1, null]]}', "float"),
    ],
)
def test_a_request_that_cannot_be_read(body: str, reason: str) -> None:
    with pytest.raises(TensorInputError) as caught:
        read(body, "image")
    assert caught.value.code == "predict.input"
    assert reason in caught.value.message
    assert len(caught.value.message) < 500


def test_not_a_number_is_a_float_only() -> None:
    assert np.isnan(read('{"instances": [[NaN, 1]]}', "image")["image"][0, 0])
    with pytest.raises(TensorInputError, match="'count' cannot be read"):
        read('{"instances": [NaN]}', "count")


def test_a_request_that_lacks_an_input_or_names_no_input() -> None:
    with pytest.raises(TensorInputError, match="no value was given for count"):
        read('{"inputs": {"image": [[1, 2]]}}', "image", "count")
    with pytest.raises(TensorInputError, match=r"has several inputs \(image, count\), so each value needs a name"):
        read('{"instances": [[1, 2]]}', "image", "count")
    with pytest.raises(TensorInputError, match="together with other inputs: expected either"):
        read(['{"inputs": 1}', "count=[1]"], "image", "count")


def test_standard_input_for_one_input(standard_input: Callable[[bytes], None]) -> None:
    standard_input(JPEG)
    assert values("text=@-", "text") == {"text": [JPEG]}
    standard_input(b"[[1, 2]]")
    assert values("image=@-", "image") == {"image": [[1, 2]]}
    buffer = io.BytesIO()
    np.save(buffer, np.ones((1, 2), np.float32))
    standard_input(buffer.getvalue())
    assert values("image=@-", "image") == {"image": [[1, 1]]}
    with pytest.raises(TensorInputError, match=r"use standard input \(@-\): expected at most one"):
        read(["image=@-", "text=@-"], "image", "text")


def test_a_picture_for_numbers_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "p.jpg").write_bytes(JPEG)
    with pytest.raises(TensorInputError) as caught:
        read(f"image=@{tmp_path}/p.jpg", "image")
    assert "p.jpg is a JPEG picture, but the model expects float32 of shape (any, 2). Decode" in caught.value.message


def npy(header: str, content: bytes = b"") -> bytes:
    padded = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + content


def member(content: bytes, *, name: str = "image.npy", packing: int = zipfile.ZIP_DEFLATED, times: int = 1) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as archive:
        for number in range(times):
            archive.writestr(name if times == 1 else f"a{number}.npy", content)
    return buffer.getvalue()


def lying(archive: bytes, size: int) -> bytes:
    """Change the declared size in both headers of the only member."""
    at = archive.index(b"PK\x01\x02")
    changed = bytearray(archive)
    changed[22:26] = changed[at + 24 : at + 28] = struct.pack("<I", size)
    return bytes(changed)


GOOD = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }", bytes(8))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1000000000000), }"), "bytes, got 0"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -2), }", bytes(8)), "bytes, got 8"),
        (GOOD + b"more", "bytes, got 12"),
        (GOOD[:-1], "bytes, got 7"),
        (npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"cos\nsystem\n."), "allow_pickle=False"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }", bytes(8)), "convert it with `astype`"),
        (
            npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", bytes(4)),
            "expected float32, got",
        ),
        (npy("__import__('os').system('true')"), ""),
        (npy("{'descr': '|S0', 'fortran_order': False, 'shape': (1000000000,), }"), "whose elements are empty"),
        (npy("{'descr': '<U0', 'fortran_order': False, 'shape': (1000000000,), }"), "whose elements are empty"),
        (npy("{'descr': '|V0', 'fortran_order': False, 'shape': (1,), }"), "whose elements are empty"),
        (npy("if x:\n    a\n  b"), "its header is damaged"),  # IndentationError
        (npy("{'descr': (), 'fortran_order': False, 'shape': (1,), }"), ""),
        (b"\x93NUMPY\x07\x00", ""),
        (b"\x93NUMPY", ""),
    ],
)
def test_a_hostile_array_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    for name, held in (("x.npy", content), ("x.npz", member(content))):
        (tmp_path / name).write_bytes(held)
        with pytest.raises(TensorInputError) as caught:
            read(f"image=@{tmp_path / name}", "image")
        assert reason in caught.value.message
        assert caught.value.code == "predict.input"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"PK\x03\x04", "not a .npz file, or it is damaged"),
        (lying(member(GOOD), 2**31 - 1), "more than"),
        (lying(member(GOOD), 10), ""),
        (lying(member(GOOD), 1000), "shorter than the archive declares"),
        (member(GOOD, times=array_file.MOST_MEMBERS + 1), "more than 1000 arrays"),
        (member(GOOD, name="image.txt"), "not an array"),
        (member(GOOD, packing=zipfile.ZIP_LZMA), "or use a compression method"),
        (member(GOOD)[:60], "damaged"),
    ],
)
def test_a_hostile_archive_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    for text in (f"image=@{tmp_path}/x.npz", f"@{tmp_path}/x.npz"):
        with pytest.raises(TensorInputError) as caught:
            read(text, "image")
        assert reason in caught.value.message


def test_a_member_cannot_leave_the_archive(tmp_path: Path) -> None:
    """Nothing is unpacked into files: the name of a member is only compared with the names of the inputs."""
    (tmp_path / "x.npz").write_bytes(member(GOOD, name="../../image.npy"))
    with pytest.raises(TensorInputError, match=r"it has the array '../../image'"):
        read(f"@{tmp_path}/x.npz", "image")
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_what_is_not_a_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with (tmp_path / "huge").open("wb") as huge:
        huge.truncate(2**40)  # sparse
    for name, reason in (("fifo", "not a regular file"), ("loop", "symbolic link"), (".", "Is a directory"),
                         ("huge", "a request can have at most"), ("nothing", "No such file")):  # fmt: skip
        for text in (f"text=@{tmp_path}/{name}", f"@{tmp_path}/{name}"):
            with pytest.raises(TensorInputError) as caught:
                read(text, "text")
            assert reason in caught.value.message


def test_large_json_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_files, "LARGEST_JSON", 10)
    (tmp_path / "x.json").write_text("[[1.0, 2.0]]")
    with pytest.raises(
        TensorInputError, match=r"JSON can have at most 10 bytes, so give a \.npy or \.npz file instead"
    ):
        read(f"image=@{tmp_path}/x.json", "image")
