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
    again = cli("model", "convert", "--json")
    assert (again.status, again.json) == (0, [converted])
    assert f"{converted['folder']} is up to date.\n" in again.err


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
    assert result.err.startswith("error[file.exists]: mine.pb already exists.")
    assert (tmp_path / "mine.pb").read_bytes() == b"mine"
    (tmp_path / "mine").mkdir()
    assert "error[file.exists]" in cli.bare("model", "make-example", tmp_path / "mine").err


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
    assert linted.out.endswith("half-plus-two/1: no refused operation; allowed: Print.\n")
    assert "also names what is not there: PyFunc" in linted.err
    (row,) = cli.bare("model", "lint", *here, "--json").json
    assert row["allowed"][0]["operation"] == "Print"


def test_a_graph_with_other_tags_is_chosen_by_them(cli: CommandLine, tmp_path: Path) -> None:
    folder = saved_model(tmp_path / "gpu")
    path = folder / "saved_model.pb"
    message = pb.SavedModel.FromString(path.read_bytes())
    message.meta_graphs[0].meta_info_def.tags.append("gpu")
    path.write_bytes(message.SerializeToString())
    for verb in ("show", "lint"):
        assert cli.bare("model", verb, folder, "--json").error["code"] == "model.no-serve-tag"
        assert cli.bare("model", verb, folder, "--tags", "gpu,serve").status == 0
    site = make_site(tmp_path / "site", source=folder, model={"tags": ("serve", "gpu")})
    converted = cli.bare("model", "convert", "--directory", site.directory)
    assert converted.status == 0
    assert cli.bare("model", "lint", "--directory", site.directory).status == 0


@pytest.mark.tensorflow
def test_each_signature_is_run_once(cli: CommandLine, tmp_path: Path) -> None:
    cli.ok("model", "convert")
    (outcome,) = cli.json("model", "test")
    assert outcome["signature"] == "serving_default"
    assert (outcome["ok"], outcome["outputs"], outcome["error"], outcome["skipped"]) == (True, {"y": [1]}, None, None)
    printed = cli("model", "test", "--input", "x=[2, 4, 6]")
    assert "serving_default  ok in " in printed.out
    assert printed.out.rstrip().endswith("ms: y [3]")
    assert printed.err == ""
    refused = cli.bare("model", "test", printing(tmp_path / "printing"), "--json")
    assert refused.error["code"] == "model.refused-operation"


@pytest.mark.tensorflow
def test_a_signature_that_fails_is_told_with_what_tensorflow_says(cli: CommandLine, tmp_path: Path) -> None:
    path = saved_model(tmp_path / "broken") / "saved_model.pb"
    message = pb.SavedModel.FromString(path.read_bytes())
    graph = message.meta_graphs[0]
    graph.graph_def.node.add(name="reading", op="ReadVariableOp", input=["variable"]).attr["dtype"].type = pb.DT_FLOAT
    variable = graph.graph_def.node.add(name="variable", op="VarHandleOp")
    variable.attr["dtype"].type = pb.DT_FLOAT
    variable.attr["shape"].MergeFromString(b"\x3a\x00")  # a scalar's
    next(node for node in graph.graph_def.node if node.name == "y").input[1] = "reading"
    path.write_bytes(message.SerializeToString())
    (path.parent / "variables").mkdir()
    (path.parent / "variables" / "variables.index").touch()
    (path.parent / "variables" / "variables.data-00000-of-00001").touch()
    failed = cli.bare("model", "test", path.parent)
    assert failed.status == 3
    assert "serving_default  failed: FAILED_PRECONDITION: Could not find variable" in failed.out
    assert "1 of 1 signatures failed. Give them other inputs with --input" in failed.err
    assert "Loading does not initialize the variable 'variable'" in failed.err
    as_json = cli.bare("model", "test", path.parent, "--json")
    assert as_json.status == 3
    assert (as_json.json[0]["ok"], as_json.json[0]["outputs"]) == (False, {})


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--signature", "other"], "There is no signature 'other'."),
        (["--input", "z=1"], "'z=1' is not NAME=VALUE with the name of an input."),
        (["--input", "x"], "'x' is not NAME=VALUE with the name of an input."),
    ],
)
def test_what_no_signature_has_cannot_be_tried(
    arguments: list[str], message: str, cli: CommandLine, tmp_path: Path
) -> None:
    error = cli.bare("model", "test", saved_model(tmp_path / "m"), *arguments, "--json").error
    assert (error["code"], error["message"]) == ("predict.input", message)
