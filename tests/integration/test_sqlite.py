"""The settings of SQLite that the tests in tests/unit turn off, because these tests would wait for the disk."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration


_READ = """
import sys
from pathlib import Path
from sealserve.broker.database import Database

for write in (True, False):
    with Database.open(Path(sys.argv[1])) as database, (database.write() if write else database.read()) as connection:
        for setting in ("synchronous", "journal_mode"):
            print(connection.exec_driver_sql(f"PRAGMA {setting}").scalar())
"""


def test_each_commit_waits_for_the_disk(tmp_path: Path) -> None:
    # Use another process: the tests in tests/unit change the setting of this process.
    command = [sys.executable, "-c", _READ, str(tmp_path / "broker.sqlite")]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert found == ["2", "wal"] * 2  # 2 means FULL
