from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sealserve.broker.database import Database


@pytest.fixture
def now() -> datetime:
    return datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database.open(tmp_path / "broker.sqlite") as opened:
        yield opened
