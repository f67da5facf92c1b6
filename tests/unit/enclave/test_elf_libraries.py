import ctypes.util
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.harness.images import elf

from sealserve.enclave.elf_libraries import needed_libraries

GOOD = elf("libssl.so.3", "libc.so.6")


def needed(folder: Path, content: bytes) -> tuple[str, ...]:
    path = folder / "file"
    path.write_bytes(content)
    return needed_libraries(path)


def test_the_names_are_in_their_order(tmp_path: Path) -> None:
    assert needed(tmp_path, GOOD) == ("libssl.so.3", "libc.so.6")
    assert needed(tmp_path, elf()) == ()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads this machine's own libraries")
def test_a_real_library() -> None:
    folder = Path("/usr/lib/x86_64-linux-gnu")
    name = ctypes.util.find_library("m")
    if name is None or not (folder / name).is_file():
        pytest.skip(f"there is no libm in {folder}")
    assert any(other.startswith("libc.so") for other in needed_libraries(folder / name))


@pytest.mark.parametrize(
    "content",
    [b"", b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF\x01\x01" + bytes(60), GOOD[:40], GOOD[:100], GOOD[:-20],
     elf("libc.so.6", machine=183), GOOD.replace(b"libc.so.6\0", b"libc.so.6\xff"), elf("x" * 300), elf("\u00e4")],
)  # fmt: skip
def test_what_is_no_library_for_this_machine_asks_for_none_or_less(tmp_path: Path, content: bytes) -> None:
    assert needed(tmp_path, content) in {(), ("libssl.so.3",)}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_a_changed_byte_never_crashes_it(tmp_path: Path, at: int, value: int) -> None:
    needed(tmp_path, GOOD[:at] + bytes([value]) + GOOD[at + 1 :])
