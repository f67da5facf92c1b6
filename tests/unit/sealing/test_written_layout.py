"""Sealed files, parsed by independent code that repeats all offsets and rules."""

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

from sealserve.sealing.codec import seal_digested, seal_file, unseal_file
from sealserve.sealing.format_version import FormatVersion
from sealserve.secret import SecretBytes

GROUP = 96 * 4096
SIZES = [0, 1, 3071, 3072, 3073, 7168, 7169, 3072 + GROUP, 3072 + GROUP + 1, 3072 + 33 * GROUP, 3072 + 66 * GROUP + 5]
ZERO = bytes(32)

pytestmark = pytest.mark.usefixtures("each_cipher")


@dataclass
class Taken:
    path: bytes
    content: bytes
    keys: list[bytes]


def node(raw: bytes, number: int) -> bytes:
    assert (number + 1) * 4096 <= len(raw)
    return raw[number * 4096 : (number + 1) * 4096]


def opened(raw: bytes, number: int, entry: bytes) -> bytes:
    assert entry != ZERO
    return AESGCM(entry[:16]).decrypt(bytes(12), node(raw, number) + entry[16:], None)


def take_apart(raw: bytes, wrap_key: bytes, major: int) -> Taken:
    assert len(raw) % 4096 == 0
    start = {1: 58, 2: 59}[major]
    assert raw[:8] == struct.pack("<Q", 0x46505F5346415247)
    assert raw[8:10] == bytes([major, 0])
    nonce, mac = raw[10:42], raw[42:58]
    assert raw[58:start] == bytes(start - 58)  # feature flags
    assert raw[start + 3884 : 4096] == bytes(4096 - start - 3884)  # padding
    cmac = CMAC(AES(wrap_key))
    cmac.update(struct.pack("<I", 1) + b"SGX-PROTECTED-FS-METADATA-KEY".ljust(64, b"\0") + nonce + b"\x80\0\0\0")
    metadata_key = cmac.finalize()
    metadata = AESGCM(metadata_key).decrypt(bytes(12), raw[start : start + 3884] + mac, None)
    path = metadata[:772].rstrip(b"\0")
    (size,) = struct.unpack("<Q", metadata[772:780])
    root, head = metadata[780:812], metadata[812:3884]
    taken = Taken(path=path, content=b"", keys=[metadata_key])
    if size <= 3072:
        assert root == ZERO
        assert len(raw) == 4096
        assert head[size:] == bytes(3072 - size)
        taken.content = head[:size]
        return taken

    data_total = (size - 3072 + 4095) // 4096
    mht_total = (data_total + 95) // 96
    assert len(raw) == 4096 * (1 + data_total + mht_total)
    pieces, entries = [head], {0: root}
    for m in range(mht_total):
        taken.keys.append(entries[m][:16])
        content = opened(raw, 1 + 97 * m, entries[m])
        for slot in range(32):
            child = 32 * m + 1 + slot
            entry = content[3072 + 32 * slot : 3072 + 32 * slot + 32]
            if child < mht_total:
                entries[child] = entry
            else:
                assert entry == ZERO
        for slot in range(96):
            d = 96 * m + slot
            entry = content[32 * slot : 32 * slot + 32]
            if d < data_total:
                taken.keys.append(entry[:16])
                pieces.append(opened(raw, 2 + d + d // 96, entry))
            else:
                assert entry == ZERO
    everything = b"".join(pieces)
    assert not any(everything[size:])
    taken.content = everything[:size]
    return taken


@pytest.mark.parametrize("version", FormatVersion)
@pytest.mark.parametrize("size", SIZES)
def test_every_field_is_where_gramine_looks_for_it(
    size: int, version: FormatVersion, tmp_path: Path, key: SecretBytes
) -> None:
    content = hashlib.shake_128(str(size).encode()).digest(size)
    (tmp_path / "plain").write_bytes(content)
    result = seal_digested(
        tmp_path / "plain", tmp_path / "sealed", key=key, embedded_path="models/m.bin", version=version
    )
    raw = (tmp_path / "sealed").read_bytes()
    taken = take_apart(raw, key.reveal(), {FormatVersion.V1_0: 1, FormatVersion.V2_0: 2}[version])
    assert taken.path == b"models/m.bin"
    assert taken.content == content
    assert len(set(taken.keys)) == len(taken.keys)  # each node has its own key
    assert (result.plain_size, result.sealed_size) == (size, len(raw))
    assert result.plain_sha256 == hashlib.sha256(content).hexdigest()
    assert result.sealed_sha256 == hashlib.sha256(raw).hexdigest()

    back = unseal_file(tmp_path / "sealed", tmp_path / "back", key=key, embedded_path="models/m.bin")
    assert (tmp_path / "back").read_bytes() == content
    assert (back.size, back.embedded_path) == (size, "models/m.bin")


def test_sealing_again_uses_other_keys(tmp_path: Path, key: SecretBytes) -> None:
    (tmp_path / "plain").write_bytes(bytes(20000))
    keys: set[bytes] = set()
    for name in ("one", "two"):
        seal_file(tmp_path / "plain", tmp_path / name, key=key, embedded_path="p")
        keys.update(take_apart((tmp_path / name).read_bytes(), key.reveal(), 1).keys)
    assert len(keys) == 2 * (1 + 1 + 5)  # metadata, the MHT node, five data nodes, twice
