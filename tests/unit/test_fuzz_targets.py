"""The fuzz targets hold for their own seeds, so that `make fuzz` starts from a state that passes."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, cast

import pytest

FOLDER = Path(__file__).parent.parent / "fuzz"
TARGETS = sorted(path.stem for path in FOLDER.glob("[a-z]*.py"))


class Target(Protocol):
    def seeds(self) -> Iterator[bytes]: ...
    def fuzz(self, data: bytes) -> None: ...


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_holds_for_its_seeds_and_for_small_changes_of_them(name: str) -> None:
    target = cast(Target, importlib.import_module(f"tests.fuzz.{name}"))
    assert target.__doc__
    seeds = list(target.seeds())
    assert seeds
    for data in (b"", b"\0", *seeds):
        target.fuzz(data)
        for offset in range(0, len(data), 1 + len(data) // 7):
            target.fuzz(data[:offset] + bytes([data[offset] ^ 0x11]) + data[offset + 1 :])
            target.fuzz(data[:offset])
