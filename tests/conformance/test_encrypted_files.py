"""Files from Gramine's own tools can be unsealed, and changes to them are detected."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sealserve.errors import VerificationError
from sealserve.sealing.codec import inspect_file, unseal_bytes, unseal_file
from sealserve.sealing.format_version import FormatVersion
from sealserve.secret import SecretBytes

FOLDER = Path(__file__).parent / "encrypted-files"
VECTORS: list[dict[str, Any]] = json.loads((FOLDER / "index.json").read_text())["vectors"]
pytestmark = pytest.mark.usefixtures("each_cipher")

LARGEST = "v2/size_396289.pf"  # two MHT nodes: root at node 1, its first child at node 98


def content(size: int) -> bytes:
    return hashlib.shake_128(b"gramine-pf-vector:" + str(size).encode()).digest(size)


def vector(file: str) -> dict[str, Any]:
    return next(entry for entry in VECTORS if entry["file"] == file)


@pytest.mark.parametrize("entry", VECTORS, ids=lambda entry: entry["file"])
def test_files_of_gramine_open(entry: dict[str, Any], tmp_path: Path) -> None:
    sealed = FOLDER / entry["file"]
    assert hashlib.sha256(sealed.read_bytes()).hexdigest() == entry["sha256"]
    key = SecretBytes(bytes.fromhex(entry["wrap_key_hex"]))
    result = unseal_file(sealed, tmp_path / "plain", key=key, embedded_path=entry["embedded_path"])
    plain = (tmp_path / "plain").read_bytes()
    assert plain == content(entry["plain_size"])
    assert hashlib.sha256(plain).hexdigest() == entry["plain_sha256"]
    assert result.size == entry["plain_size"]
    assert result.embedded_path == entry["embedded_path"]
    header = inspect_file(sealed)
    assert header.version is FormatVersion(entry["format_version"])
    assert header.sealed_size == sealed.stat().st_size


def flipped(raw: bytes, offset: int) -> bytes:
    return raw[:offset] + bytes([raw[offset] ^ 1]) + raw[offset + 1 :]


def swapped(raw: bytes, first: int, second: int) -> bytes:
    nodes = [raw[start : start + 4096] for start in range(0, len(raw), 4096)]
    nodes[first], nodes[second] = nodes[second], nodes[first]
    return b"".join(nodes)


MUTATIONS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "first byte of the file id": (lambda raw: flipped(raw, 0), "sealed-file.bad-magic"),
    "major version 3": (lambda raw: flipped(raw, 8), "sealed-file.unknown-version"),
    "major version 1": (lambda raw: raw[:8] + b"\1" + raw[9:], "sealed-file.wrong-key"),
    "nonce": (lambda raw: flipped(raw, 10), "sealed-file.wrong-key"),
    "metadata MAC": (lambda raw: flipped(raw, 57), "sealed-file.wrong-key"),
    "metadata, first byte": (lambda raw: flipped(raw, 59), "sealed-file.wrong-key"),
    "metadata, last byte": (lambda raw: flipped(raw, 3942), "sealed-file.wrong-key"),
    "root MHT node": (lambda raw: flipped(raw, 4096), "sealed-file.tampered-node"),
    "second MHT node": (lambda raw: flipped(raw, 98 * 4096 + 4095), "sealed-file.tampered-node"),
    "first data node": (lambda raw: flipped(raw, 2 * 4096), "sealed-file.tampered-node"),
    "last byte of the last data node": (lambda raw: flipped(raw, len(raw) - 1), "sealed-file.tampered-node"),
    "two data nodes swapped": (lambda raw: swapped(raw, 2, 3), "sealed-file.moved-node"),
    "MHT node and data node swapped": (lambda raw: swapped(raw, 98, 99), "sealed-file.tampered-node"),
    "last node cut off": (lambda raw: raw[:-4096], "sealed-file.truncated"),
    "last byte cut off": (lambda raw: raw[:-1], "sealed-file.truncated"),
    "node 0 alone": (lambda raw: raw[:4096], "sealed-file.truncated"),
    "empty": (lambda _: b"", "sealed-file.truncated"),
    "a node more": (lambda raw: raw + bytes(4096), "sealed-file.trailing-data"),
    "a byte more": (lambda raw: raw + b"\0", "sealed-file.trailing-data"),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_mutations_of_gramine_files_are_refused(mutation: str, tmp_path: Path) -> None:
    change, code = MUTATIONS[mutation]
    entry = vector(LARGEST)
    sealed = tmp_path / "sealed"
    sealed.write_bytes(change((FOLDER / LARGEST).read_bytes()))
    with pytest.raises(VerificationError) as refused:
        unseal_file(
            sealed, tmp_path / "plain", key=SecretBytes(bytes.fromhex(entry["wrap_key_hex"])), embedded_path=None
        )
    assert refused.value.code == code
    assert str(sealed) in refused.value.message
    assert list(tmp_path.iterdir()) == [sealed]


@pytest.mark.parametrize(
    ("file", "offset"),
    [
        (LARGEST, 9),  # minor version
        (LARGEST, 58),  # feature flags
        (LARGEST, 3943),  # padding of format 2.0
        (LARGEST, 4095),
        ("v1/size_7168.pf", 9),
        ("v1/size_7168.pf", 3942),  # padding of format 1.0
    ],
)
def test_what_the_format_does_not_authenticate_changes_nothing(file: str, offset: int, tmp_path: Path) -> None:
    entry = vector(file)
    sealed = tmp_path / "sealed"
    sealed.write_bytes(flipped((FOLDER / file).read_bytes(), offset))
    key = SecretBytes(bytes.fromhex(entry["wrap_key_hex"]))
    plain = unseal_bytes(sealed, key=key, embedded_path=entry["embedded_path"])
    assert plain.reveal() == content(entry["plain_size"])
