"""Whatever another program writes into the database: no command crashes, or sends commands to the terminal."""

import contextlib
import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness.command_line import CommandLine
from tests.harness.running import run
from tests.harness.running_broker import Owned, owned

pytestmark = pytest.mark.integration

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")
CONTENT = 'UPDATE audit SET content = CAST(replace(CAST(content AS TEXT), \'"detail":""\', \'"detail":"{}"\') AS BLOB)'
CHANGES = {
    "escape sequences": CONTENT.format("\\u001b[2J\\u202etxt"),
    "half of a character": CONTENT.format("\\ud800"),
    "markup": CONTENT.format("[bold red]x[/nothing]"),
    "deep content": "UPDATE audit SET content = CAST(replace(hex(zeroblob(30000)), '0', '[') AS BLOB)",
    "format blob": "UPDATE audit SET format = x'00'",
    "hash blob": "UPDATE audit SET hash = CAST(hash AS BLOB)",
    "time": "UPDATE audit SET time = x'1b5b324a'",
    "surrogate code": "UPDATE audit SET code = CAST(x'eda080' AS TEXT)",
    "not UTF-8 code": "UPDATE audit SET code = CAST(x'80ff' AS TEXT)",
    "not UTF-8 label": "UPDATE platforms SET label = CAST(x'80ff' AS TEXT)",
    "big seq": "UPDATE audit SET seq = 9223372036854775807 WHERE seq = (SELECT max(seq) FROM audit)",
    "no log": "DELETE FROM audit",
    "no releases": "DROP TABLE releases",
    "blob revision": "UPDATE alembic_version SET version_num = x'00'",
    "old revision": "UPDATE alembic_version SET version_num = '0003'",
    "heads": "UPDATE audit_heads SET signature = x'00'",
    "policy": "UPDATE releases SET policy = x'00'",
    "platform id": "UPDATE platforms SET platform_id = x'00'",
    "key wrapper": "UPDATE keys SET wrapper = char(27) || '[2J'",
    "endless view": "ALTER TABLE audit RENAME TO a; CREATE VIEW audit AS SELECT * FROM audit",
}
COMMANDS = (("log", "--json"), ("log", "--verify"), ("releases", "--json"), ("platform", "list"))


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owned]:
    with owned(tmp_path_factory.mktemp("hostile") / "site") as made:
        yield made


@pytest.fixture(scope="module")
def saved(owner: Owned, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of the database and the signed head of its log, after a released key."""
    folder = tmp_path_factory.mktemp("saved")
    with owner.broker():
        owner.ask()
    assert run("broker", "platform", "enrol", "ab" * 16, "--label", "rack", "-C", owner.site.directory).status == 0
    shutil.copy(owner.site.workspace.owner.audit_head, folder / "head")
    with (
        contextlib.closing(sqlite3.connect(owner.site.workspace.owner.database)) as connection,
        contextlib.closing(sqlite3.connect(folder / "database")) as copy,
    ):
        connection.backup(copy)
    return folder


def restore(owner: Owned, saved: Path) -> Path:
    path = owner.site.workspace.owner.database
    for beside in path.parent.glob(f"{path.name}*"):
        beside.unlink()
    shutil.copy(saved / "database", path)
    shutil.copy(saved / "head", owner.site.workspace.owner.audit_head)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("name", CHANGES)
def test_each_command_prints_plain_text_or_one_error(
    owner: Owned, saved: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = CommandLine(capsys, owner.site.directory)
    for command in COMMANDS:
        with contextlib.closing(sqlite3.connect(restore(owner, saved), isolation_level=None)) as connection:
            connection.executescript(CHANGES[name])
        result = line("broker", *command)
        assert result.status in {0, 2, 3, 4}, result
        assert "Traceback" not in result.out + result.err
        assert CONTROL.search(result.out + result.err) is None, result
        if "--json" in command:
            json.loads(result.out)
        if "--verify" in command and name != "key wrapper":
            assert result.status in {2, 3, 4}, result
