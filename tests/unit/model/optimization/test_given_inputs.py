import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.harness.errors import raises

from sealserve.model.codes import ModelCode
from sealserve.model.optimization import given_inputs
from sealserve.model.optimization.given_inputs import check_given, misfit, read_arrays
from sealserve.model.saved_model import SavedSignature, TensorSpec


def packed(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def archive(name: str, content: bytes, packing: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", packing) as file:
        file.writestr(name, content)
    return stream.getvalue()


def one_array() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros((3, 4), np.float32))
    return stream.getvalue()


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def flipped(content: bytes, start: int, stop: int) -> bytes:
    return content[:start] + bytes(byte ^ 0xFF for byte in content[start:stop]) + content[stop:]


def encrypted(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[6] |= 1
    changed[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(changed)


HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000000,)}\n"
DAMAGED = {
    "empty": (b"", "not a .npz file"),
    "text": (b"no archive", "not a .npz file"),
    "pickle": (packed(x=np.array([{"a": 1}], object)), "Python objects"),  # it could run a program
    "deflate": (flipped(packed(x=np.random.default_rng(0).random((64, 4))), 60, 200), "damaged"),
    "one array": (one_array(), "one array without the name of an input"),
    "huge": (
        archive("x.npy", header(HUGE)),
        "got 0",
    ),
    "no array": (archive("x", b"hello"), "a member that is not an array"),
    "header": (archive("x.npy", header("{'descr':(((((((\n")), "header is damaged"),
    "encrypted": (encrypted(archive("x.npy", one_array())), "encrypted"),
    "packing": (archive("x.npy", one_array(), zipfile.ZIP_LZMA), "compression method"),
    "cut": (packed(x=np.zeros(4))[:60], "damaged"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_one_clear_error(name: str, tmp_path: Path) -> None:
    content, reason = DAMAGED[name]
    path = tmp_path / "inputs.npz"
    path.write_bytes(content)
    with raises(ModelCode.OPTIMIZATION_INPUTS, match=r"cannot be read from .*inputs\.npz: ") as caught:
        read_arrays(path)
    assert reason in caught.value.message
    assert "numpy.savez" in (caught.value.hint or "")


def test_a_path_without_a_readable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, reason in ((tmp_path / "nothing.npz", "No such file"), (tmp_path, "Is a directory")):
        with raises(ModelCode.OPTIMIZATION_INPUTS, match=reason):
            read_arrays(path)
    path = tmp_path / "inputs.npz"
    path.write_bytes(packed(x=np.zeros(1000)))
    assert read_arrays(path)["x"].shape == (1000,)
    monkeypatch.setattr(given_inputs, "LARGEST", path.stat().st_size)  # the unpacked array is larger
    with raises(ModelCode.OPTIMIZATION_INPUTS, match="its arrays have more than"):
        read_arrays(path)
    monkeypatch.setattr(given_inputs, "LARGEST", 10)
    with raises(ModelCode.OPTIMIZATION_INPUTS, match="cannot be read"):
        read_arrays(path)


@pytest.mark.parametrize(
    ("array", "dtype", "shape", "reason"),
    [
        (np.zeros((2, 4), np.float32), "float32", (None, 4), None),
        (np.zeros((2, 4), ">f4"), "float32", None, None),
        (np.array([b"a"]), "string", (None,), None),
        (np.array(["a"]), "string", (None,), None),
        (np.array([b"a"], object), "string", (1,), None),
        (np.zeros(2, "V2"), "bfloat16", (None,), None),
        (np.zeros((2, 3), np.float32), "float32", (None, 4), r"expected the shape [any, 4], got [2, 3]"),
        (np.zeros(4, np.float32), "float32", (None, 4), r"expected the shape [any, 4], got [4]"),
        (np.zeros((2, 4)), "float32", (None, 4), "expected float32, got float64"),
        (np.full(2, 0.5), "int64", (None,), "expected int64, got float64"),  # it would become 0
        (np.array([b"a"]), "float32", (None,), "expected float32, got text"),
        (np.zeros(2), "string", (None,), "expected string, got float64"),
        (np.zeros(2, "complex64"), "float32", (None,), "expected float32, got complex64"),
        (np.zeros(2, np.uint16), "bfloat16", (None,), "expected bfloat16, got uint16"),
        (np.zeros(2, np.uint8), "qint8", (None,), "expected qint8, got uint8"),
        (np.zeros((0, 4), np.float32), "float32", (None, 4), "it has no values"),
    ],
)  # fmt: skip
def test_an_array_has_the_type_and_the_shape_of_its_input(
    array: Any, dtype: str, shape: tuple[int | None, ...] | None, reason: str | None
) -> None:
    found = misfit(array, dtype, shape)
    assert found is None if reason is None else reason in (found or "")


def signature(name: str, **inputs: str) -> SavedSignature:
    specs = tuple(TensorSpec(name=key, dtype=dtype, shape=(None,)) for key, dtype in inputs.items())
    return SavedSignature(name=name, method="", inputs=specs, outputs=())


def test_an_array_fits_at_least_one_signature() -> None:
    signatures = [signature("numbers", x="float32", y="int64"), signature("texts", x="string")]
    check_given({"x": np.zeros(2, np.float32), "y": np.zeros(2, np.int64)}, signatures)
    check_given({"x": np.array([b"a"])}, signatures)
    with raises(ModelCode.OPTIMIZATION_INPUTS, match=r"the input 'x' of 'numbers': expected float32, got int64"):
        check_given({"x": np.zeros(2, np.int64)}, signatures)
    with raises(ModelCode.OPTIMIZATION_INPUTS, match=r"it has no input 'z'") as caught:
        check_given({"z": np.zeros(2)}, [*signatures, signature("hostile", **{"a\nb": "float32"})])
    assert caught.value.hint == r"Use the names of its inputs: 'a\nb', 'x', 'y'."
