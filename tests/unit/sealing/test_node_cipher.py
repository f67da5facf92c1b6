"""The two node ciphers: each decrypts the output of the other, and the native cipher checks its arguments."""

import os

import pytest

from sealserve.sealing import node_cipher
from sealserve.sealing.node_cipher import SPARE, NativeNodeCipher, NodeCipher, NodeMacError

NODE = 4096


@pytest.fixture
def native() -> NativeNodeCipher:
    cipher = node_cipher.native()
    if cipher is None:
        pytest.skip("the native cipher is not compiled: `scripts/native.py --required` says why")
    return cipher


def buffers(count: int) -> tuple[memoryview, memoryview, memoryview]:
    plain = memoryview(bytearray(os.urandom(count * NODE)))
    return plain, memoryview(bytearray(count * NODE + SPARE)), memoryview(bytearray(count * 32))


@pytest.mark.parametrize("count", [0, 1, 5, 96, 200])
@pytest.mark.parametrize("native_seals", [True, False])
def test_each_opens_what_the_other_sealed(count: int, native_seals: bool, native: NativeNodeCipher) -> None:
    sealer: NodeCipher = native if native_seals else node_cipher.IN_PYTHON
    opener: NodeCipher = node_cipher.IN_PYTHON if native_seals else native
    plain, sealed, entries = buffers(count)
    before = bytes(plain)
    sealer.encrypt(plain, sealed, entries)
    assert bytes(plain) == before
    assert len({bytes(entries[32 * i : 32 * i + 16]) for i in range(count)}) == count
    back = memoryview(bytearray(count * NODE))
    opener.decrypt(sealed, entries, back)
    assert bytes(back) == before


def test_what_is_not_authentic_does_not_stay_in_memory(native: NativeNodeCipher) -> None:
    plain, sealed, entries = buffers(4)
    native.encrypt(plain, sealed, entries)
    sealed[2 * NODE + 77] ^= 4
    sealed[3 * NODE] ^= 1
    with pytest.raises(NodeMacError) as refused:
        native.decrypt(sealed, entries, plain)
    assert refused.value.index == 2
    assert not any(plain)


@pytest.mark.parametrize(
    ("plain", "sealed", "entries"), [(4095, 8192, 32), (4096, 4095, 32), (4096, 8192, 31), (4096, 8192, 64), (1, 1, 0)]
)
def test_buffers_that_do_not_fit_are_refused(plain: int, sealed: int, entries: int, native: NativeNodeCipher) -> None:
    arguments = [memoryview(bytearray(size)) for size in (plain, sealed, entries)]
    with pytest.raises(ValueError, match="do not match one run of nodes"):
        native.encrypt(*arguments)
    with pytest.raises(ValueError, match="do not match one run of nodes"):
        native.decrypt(arguments[1], arguments[2], arguments[0])


def test_what_cannot_be_written_is_refused(native: NativeNodeCipher) -> None:
    plain, sealed, entries = buffers(1)
    with pytest.raises((TypeError, BufferError)):
        native.encrypt(plain, memoryview(bytes(NODE)), entries)
    with pytest.raises((TypeError, BufferError)):
        native.decrypt(sealed, entries, memoryview(bytes(NODE)))
    with pytest.raises((TypeError, BufferError)):
        native.encrypt(plain[::-1], sealed, entries)  # not contiguous


def test_without_the_native_module_sealing_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_module(_: str) -> None:
        raise ImportError("libcrypto.so.3: cannot open shared object file")

    monkeypatch.setattr("importlib.import_module", no_module)
    assert node_cipher.native() is None
