import hashlib
from pathlib import Path

import pytest
from tests.harness.command_line import CommandLine
from tests.harness.tiny_model import saved_model
from tests.harness.workspaces import make_site

from sealserve.model import saved_model_pb2 as pb


def test_convert_and_show(cli: CommandLine) -> None:
    error = cli.error("model", "show")
    assert (error["code"], error["status"]) == ("model.not-imported", 2)
    (converted,) = cli.json("model", "convert")
    assert converted["signatures"]["serving_default"] == {
        "method": "tensorflow/serving/predict",
        "inputs": {"x": {"dtype": "float32", "shape": [None]}},
        "outputs": {"y": {"dtype": "float32", "shape": [None]}},
    }
    assert cli.json("model", "show") == [converted]
    lines = cli.ok("model", "show").splitlines()
    assert lines[0].split() == ["folder", converted["folder"]]
    assert lines[-2].split() == ["serving_default", "in", "x", "float32", "?"]
    error = cli.error("model", "convert")
    assert (error["code"], error["status"]) == ("file.exists", 2)


def test_any_saved_model_can_be_shown(cli: CommandLine, tmp_path: Path) -> None:
    folder = saved_model(tmp_path / "another")
    (shown,) = cli.bare("model", "show", folder, "--json").json
    assert (shown["folder"], shown["files"], shown["tensorflow_version"]) == (str(folder), 1, "2.21.0")
    assert cli.bare("model", "show", tmp_path, "--json").error["code"] == "model.not-a-saved-model"


def test_a_model_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    cli = CommandLine(capsys, make_site(tmp_path / "site", source=Path("none.pb")).directory)
    error = cli.error("model", "convert")
    assert (error["code"], error["status"]) == ("model.missing", 2)
    assert error["message"] == f"There is no model at {tmp_path / 'site' / 'none.pb'}."


def test_an_example_never_replaces_a_file(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "mine.pb").write_bytes(b"mine")
    result = cli.bare("model", "make-example", "mine.pb")
    assert result.status == 2
    assert result.err.startswith("error[file.exists]: mine.pb exists already.")
    assert (tmp_path / "mine.pb").read_bytes() == b"mine"


def test_a_download_is_kept_with_the_right_digest_only(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "model.pb").write_bytes(b"model")
    digest = hashlib.sha256(b"model").hexdigest()
    kept = cli.bare("model", "fetch", "https://localhost:1/model.pb", "model.pb", "--sha256", digest)
    assert kept.out == "model.pb: 5 bytes, there already, SHA-256 as expected.\n"
    refused = cli.bare("model", "fetch", "http://models.invalid/m.pb", "new.pb", "--sha256", digest)
    assert refused.status == 2
    assert "https" in refused.err
    unreachable = cli.bare("model", "fetch", "https://localhost:1/model.pb", "new.pb", "--sha256", digest)
    assert unreachable.status == 4
    assert not (tmp_path / "new.pb").exists()


def printing(folder: Path) -> Path:
    """Make a SavedModel that prints."""
    path = saved_model(folder) / "saved_model.pb"
    message = pb.SavedModel.FromString(path.read_bytes())
    message.meta_graphs[0].graph_def.node.add(name="scope/[tell]", op="Print")
    path.write_bytes(message.SerializeToString())
    return folder


def test_a_model_that_prints_is_refused_and_allowed_by_name_only(cli: CommandLine, tmp_path: Path) -> None:
    folder = printing(tmp_path / "printing")
    refused = cli.bare("model", "lint", folder)
    assert refused.status == 2
    assert "error[model.refused-operation]" in refused.err
    assert "Print prints tensors to standard error, or to a file (at scope/[tell])" in refused.err
    site = make_site(tmp_path / "site", source=folder)
    site.import_model()
    site.certify()
    here = "--directory", site.directory
    assert cli.bare("release", "build", *here).status == 2
    assert list(site.workspace.owner.releases.iterdir()) == []
    make_site(site.directory, source=folder, model={"dangerous_operations": ("Print", "PyFunc")})
    built = cli.bare("release", "build", *here)
    assert built.status == 0
    assert "warning: dangerous: half-plus-two version 1 has Print prints tensors" in built.err
    linted = cli.bare("model", "lint", *here)
    assert linted.out.endswith("half-plus-two/1: nothing is refused; allowed: Print.\n")
    assert "also names what is not there: PyFunc" in linted.err
    (row,) = cli.bare("model", "lint", *here, "--json").json
    assert row["allowed"][0]["operation"] == "Print"
