from pathlib import Path

import pytest
from tests.harness.command_line import CommandLine

CONTENT = b"half a model " * 2000


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "plain"
    path.write_bytes(CONTENT)
    return path


def test_a_file_there_and_back(cli: CommandLine, plain: Path, tmp_path: Path) -> None:
    sealed = cli.bare("seal", "plain", "sealed", "--key-file", "key", "--new-key")
    assert (sealed.status, sealed.out) == (0, "Sealed 26000 bytes to sealed, bound to the path sealed.\n")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert CONTENT[:16] not in (tmp_path / "sealed").read_bytes()
    shown = cli.bare("inspect", "sealed").out
    assert "1.0" in shown
    assert f"{(tmp_path / 'sealed').stat().st_size} bytes" in shown
    back = cli.bare("unseal", "sealed", "back", "-w", "key", "--path", "sealed", "--json")
    assert back.json == {"embedded_path": "sealed", "size": 26000}
    assert (tmp_path / "back").read_bytes() == plain.read_bytes()
    assert (tmp_path / "back").stat().st_mode & 0o777 == 0o600
    text = cli.bare("unseal", "sealed", "back", "-w", "key", "--force").out
    assert text == "Unsealed 26000 bytes to back. The input is bound to the path sealed.\n"


@pytest.mark.usefixtures("plain")
def test_format_and_path_are_chosen(cli: CommandLine) -> None:
    options = ["-w", "key", "--format", "2.0", "--path", "models/m/1/x"]
    made = cli.bare("seal", "plain", "sealed", *options, "--new-key", "--json").json
    assert (made["path"], made["format"], made["plain_size"]) == ("models/m/1/x", "2.0", 26000)
    inspected = cli.bare("inspect", "sealed", "--json").json
    assert inspected["format"] == "2.0"
    assert inspected["sealed_size"] == made["sealed_size"] == 4096 * inspected["nodes"]
    assert cli.bare("seal", "plain", "sealed", *options).err.startswith(
        "error[file.exists]: The output sealed already exists."
    )
    assert cli.bare("seal", "plain", "sealed", *options, "--force").status == 0


def test_a_folder_there_and_back(cli: CommandLine, tmp_path: Path) -> None:
    for name in ("a", "below/b"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(name.encode())
    sealed = cli.bare("seal", "tree", "sealed", "-w", "key", "--new-key", "--path", "models")
    assert sealed.out == "Sealed 2 files, 8 bytes, to sealed, bound to models/.\n"
    rows = cli.bare("seal", "tree", "again", "-w", "key", "--json").json
    assert (rows["path"], [row["path"] for row in rows["files"]]) == ("again", ["a", "below/b"])
    shown = cli.bare("unseal", "sealed", "back", "-w", "key", "--path", "models").out
    assert shown.splitlines() == [
        "FILE     BOUND TO        SIZE",
        "a        models/a        1",
        "below/b  models/below/b  7",
    ]
    assert (tmp_path / "back/below/b").read_bytes() == b"below/b"
    found = cli.bare("unseal", "again", "back2", "-w", "key", "--json").json
    assert [row["file"] for row in found] == ["a", "below/b"]


@pytest.mark.usefixtures("plain")
def test_what_does_not_unseal_leaves_nothing(cli: CommandLine, tmp_path: Path) -> None:
    cli.bare("seal", "plain", "sealed", "-w", "key", "--new-key")
    (tmp_path / "other").write_bytes(bytes(16))
    raw = (tmp_path / "sealed").read_bytes()
    (tmp_path / "short").write_bytes(raw[:-4096])
    (tmp_path / "long").write_bytes(raw + bytes(4096))
    (tmp_path / "changed").write_bytes(raw[:9000] + bytes([raw[9000] ^ 1]) + raw[9001:])
    for code, arguments in {
        "sealed-file.wrong-key": ["sealed", "out", "-w", "other"],
        "sealed-file.path-mismatch": ["sealed", "out", "-w", "key", "--path", "elsewhere"],
        "sealed-file.truncated": ["short", "out", "-w", "key"],
        "sealed-file.trailing-data": ["long", "out", "-w", "key"],
        "sealed-file.tampered-node": ["changed", "out", "-w", "key"],
        "sealed-file.bad-magic": ["plain", "out", "-w", "key"],
    }.items():
        result = cli.bare("unseal", *arguments, "--json")
        assert (result.error["code"], result.status) == (code, 3)
        assert not (tmp_path / "out").exists()
    assert cli.bare("unseal", "long", "out", "-w", "key", "--allow-trailing").status == 0


def test_a_key_that_sealed_nothing_leaves_no_file(cli: CommandLine, tmp_path: Path) -> None:
    result = cli.bare("seal", "nowhere", "sealed", "-w", "key", "--new-key", "--json")
    assert (result.error["code"], result.status) == ("input-file.missing", 2)
    assert not (tmp_path / "key").exists()


@pytest.mark.usefixtures("plain")
def test_a_key_is_never_replaced_nor_removed(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(bytes(16))
    assert cli.bare("seal", "plain", "sealed", "-w", "key", "--new-key", "--json").error["code"] == "file.exists"
    assert cli.bare("seal", "nowhere", "sealed", "-w", "key", "--json").error["code"] == "input-file.missing"
    assert (tmp_path / "key").read_bytes() == bytes(16)
    assert not (tmp_path / "sealed").exists()


@pytest.mark.usefixtures("plain")
def test_keys_that_cannot_be_used(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("00" * 16)
    assert cli.bare("seal", "plain", "x", "-w", "none", "--json").error["code"] == "wrap-key.missing"
    assert cli.bare("seal", "plain", "x", "-w", "text", "--json").error["code"] == "wrap-key.size"


def test_inspecting_what_is_not_sealed(cli: CommandLine, plain: Path) -> None:
    result = cli.bare("inspect", plain, "--json")
    assert (result.error["code"], result.status) == ("sealed-file.bad-magic", 3)
    assert cli.bare("inspect", plain.parent, "--json").error["code"] == "input-file.not-regular"


def test_the_key_shows_what_is_authenticated(cli: CommandLine, plain: Path, tmp_path: Path) -> None:
    assert plain.stat().st_size == 26000
    cli.bare("seal", "plain", "sealed", "-w", "key", "--new-key", "--path", "models/m")
    shown = cli.bare("inspect", "sealed", "--key-file", "key").out
    assert "bound to       models/m\n" in shown
    assert "content        26000 bytes in 6 data nodes under 1 MHT nodes\n" in shown
    assert "verified       node 0 (--verify: every node)\n" in shown
    raw = (tmp_path / "sealed").read_bytes()
    (tmp_path / "sealed").write_bytes(raw + bytes(4096))
    content = cli.bare("inspect", "sealed", "-w", "key", "--path", "models/m", "--verify", "--json").json["content"]
    assert content == {
        "embedded_path": "models/m", "size": 26000, "data_nodes": 6, "mht_nodes": 1, "trailing": 4096, "complete": True
    }  # fmt: skip
    (tmp_path / "sealed").write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    assert cli.bare("inspect", "sealed", "-w", "key").status == 0
    refused = cli.bare("inspect", "sealed", "-w", "key", "--verify")
    assert refused.status == 3
    assert "node 7 (data node 5)" in refused.err
    assert cli.bare("inspect", "sealed", "-w", "key", "--path", "other").status == 3
    assert [path.name for path in tmp_path.glob("*.partial")] == []


@pytest.mark.usefixtures("plain")
def test_what_needs_the_key_says_so(cli: CommandLine) -> None:
    cli.bare("seal", "plain", "sealed", "-w", "key", "--new-key")
    for options in (["--verify"], ["--path", "sealed"]):
        refused = cli.bare("inspect", "sealed", *options)
        assert refused.status == 2
        assert refused.err.startswith("error[inspect.key-needed]: sealed cannot be verified: --verify and --path need")
