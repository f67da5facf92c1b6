import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from tests.harness.command_line import CommandLine
from tests.harness.optimized_models import convolution_model, in_this_process, random, save
from tests.harness.workspaces import make_site

from sealserve.cli import console, optimization
from sealserve.cli.output import Table
from sealserve.host.facts import Processor
from sealserve.model.optimization.agreement import Agreement
from sealserve.model.optimization.report import Changes, Report, find_report
from sealserve.model.tensorflow_import import import_tensorflow
from sealserve.owner import models
from sealserve.owner.first_steps import missing_steps
from sealserve.terms import Precision


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    in_this_process(monkeypatch)
    return convolution_model(tmp_path / "original")


def with_flags(monkeypatch: pytest.MonkeyPatch, flags: str) -> None:
    monkeypatch.setattr(optimization, "read_processor", lambda: Processor(flags=frozenset(flags.split())))


@pytest.mark.tensorflow
def test_optimize_and_run(cli: CommandLine, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_flags(monkeypatch, "avx512f avx512bw avx512_bf16")
    np.save(tmp_path / "x.npy", random(6, 8, 8, 4))
    arguments = ["--input", f"x=@{tmp_path / 'x.npy'}", "--min-top1", "0"]
    found = cli.bare("model", "optimize", model, tmp_path / "result", *arguments, "--json").json
    report = find_report(tmp_path / "result")
    assert report is not None
    assert found == {"folder": str(tmp_path / "result"), **json.loads(report.to_bytes())}
    assert (found["precision"], found["instructions"], found["given"]) == ("bfloat16", "avx512_bf16", ["x"])
    assert found["signatures"]["serving_default"]["scores"]["rows"] == 6
    shown = cli.bare("model", "show", tmp_path / "result")
    assert f"optimized   bfloat16, from the model with SHA-256 {report.original}\n" in shown.out
    (as_json,) = cli.bare("model", "show", tmp_path / "result", "--json").json
    assert as_json["optimization"] == {"original": report.original, "precision": "bfloat16"}
    (of_original,) = cli.bare("model", "show", model, "--json").json
    assert of_original["optimization"] is None
    # The embedded server's own loader runs each signature of the result.
    outcomes = cli.bare("model", "test", tmp_path / "result", "--json").json
    assert [outcome["ok"] for outcome in outcomes] == [True, True]
    text = cli.bare("model", "optimize", model, tmp_path / "text", "--precision", "float32", "--rows", "4").out
    assert "precision   float32\n" in text
    assert "inputs      generated from seed 0\n" in text
    assert "serving_default  class     4     100.00 %  -" in text


@pytest.mark.tensorflow
def test_the_processor_decides_the_precision(
    cli: CommandLine, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_flags(monkeypatch, "avx2 fma")
    common = ["--min-top1", "0", "--rows", "2", "--json"]
    assert cli.bare("model", "optimize", model, tmp_path / "here", *common).json["precision"] == "float32"
    there = cli.bare("model", "optimize", model, tmp_path / "there", "--processor", "amx", *common)
    assert there.json["precision"] == "bfloat16"
    assert "warning" not in there.err
    slow = cli.bare("model", "optimize", model, tmp_path / "slow", "--precision", "bfloat16", *common)
    assert slow.status == 0
    assert "A processor with avx2 does not compute in bfloat16" in slow.err
    assert "Choose float32 for such a processor." in slow.err


@pytest.mark.tensorflow
def test_a_result_that_differs_too_much(cli: CommandLine, model: Path, tmp_path: Path) -> None:
    result = cli.bare(
        "model", "optimize", model, tmp_path / "result", "--precision", "bfloat16", "--max-difference", "0", "--json"
    )
    assert (result.status, result.error["code"]) == (3, "model.optimization-differs")
    assert not (tmp_path / "result").exists()


def test_inputs_of_the_command_line(cli: CommandLine, tmp_path: Path) -> None:
    model = cli.directory / "half-plus-two"
    for text in ("z=[1]", "no value"):
        error = cli.bare("model", "optimize", model, tmp_path / "result", "--input", text, "--json").error
        assert error["code"] == "predict.input"
        assert "Use one of these inputs: x." in error["hint"]
    error = cli.bare("model", "optimize", tmp_path / "nowhere", tmp_path / "result", "--json").error
    assert error["code"] == "model.missing"


@pytest.mark.tensorflow
def test_thresholds_without_an_output(cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)
    tf = import_tensorflow()
    dense = tf.Variable(random(4, 1))
    rows = [tf.TensorSpec([None, 4], tf.float32, name="x")]
    model = save(tmp_path / "regression", {"f": (lambda x: {"y": tf.matmul(x, dense)}, rows)}, dense=dense)
    common: list[str | Path] = ["model", "optimize", model, tmp_path / "result", "--precision", "bfloat16", "--json"]
    found = cli.bare(*common, "--min-top1", "1")
    assert (found.error["code"], found.status) == ("model.optimization-unproven", 2)
    found = cli.bare(*common, "--max-relative-difference", "0")
    assert (found.error["code"], found.status) == ("model.optimization-differs", 3)
    for given, reason in (("x=[[1, 2, 3]]", "expected the shape [any, 4], got [1, 3]"), ("x=[]", "got [0]")):
        error = cli.bare(*common, "--input", given).error
        assert error["code"] == "model.optimization-inputs"
        assert reason in error["message"]
    assert not (tmp_path / "result").exists()


@pytest.mark.tensorflow
def test_an_input_with_the_type_of_one_signature(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    tf = import_tensorflow()
    dense = tf.Variable(random(4, 8))
    signatures = {
        "numbers": (lambda x: {"y": tf.matmul(x, dense)}, [tf.TensorSpec([None, 4], tf.float32, name="x")]),
        "texts": (lambda x: {"y": tf.strings.length(x)}, [tf.TensorSpec([None], tf.string, name="x")]),
    }
    model = save(tmp_path / "mixed", signatures, dense=dense)
    common = ["--precision", "float32", "--json"]
    for given, compared, other in (("x=[[1, 2, 3, 4]]", "numbers", "texts"), ('x=["a"]', "texts", "numbers")):
        result = cli.bare("model", "optimize", model, tmp_path / compared, *common, "--input", given)
        assert list(result.json["signatures"]) == [compared]
        assert f"The signature '{other}' was not compared: the value for the input 'x' does not fit" in result.err


def test_a_name_with_a_line_break_makes_no_row(capsys: pytest.CaptureFixture[str]) -> None:
    agreement = Agreement(rows=1, top1=0.0)
    report = Report(
        original="0" * 64, precision=Precision.FLOAT32, sealserve="1", tensorflow="2", instructions="amx", seed=0,
        given=("x\nprecision   bfloat16",), skipped={},
        changes=Changes(
            nodes_before=2, nodes_after=1, batch_norms=0, bfloat16_nodes=1, bytes_before=2, bytes_after=1
        ),
        signatures={"serving_default": {"y\nserving_default  z       64    100.00 %": agreement}},
    )  # fmt: skip
    fields, table = optimization.optimization_as_text(Path("result"), report)
    assert isinstance(fields, Mapping)
    assert isinstance(table, Table)
    console.print_fields(fields)
    console.print_table(table.columns, table.rows)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(fields) + 2
    assert "inputs      given: x precision   bfloat16" in lines


@pytest.mark.tensorflow
def test_the_verbs_of_a_deployment_warn_too(cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)
    monkeypatch.setattr(models, "read_processor", lambda: Processor(flags=frozenset(("avx2", "fma"))))
    settings = {"optimize": "bfloat16", "optimize_min_top1": 0.0}
    source = convolution_model(tmp_path / "source")
    site = make_site(tmp_path / "site", source=source, model=settings)
    at = ("--directory", site.directory)
    told: list[str] = []
    monkeypatch.setattr(console, "warn", told.append)
    assert cli.bare("model", "convert", *at).status == 0
    (warning,) = told
    assert warning.startswith("half-plus-two version 1: A processor with avx2 does not compute in bfloat16")
    assert cli.bare("model", "convert", *at).status == 0
    assert told == [warning]  # it is up to date
    (source / "assets").mkdir(exist_ok=True)
    (source / "assets" / "note.txt").write_text("a change")
    assert cli.bare("model", "convert", *at).status == 0  # as `release build`
    assert told == [warning] * 2
    # `up` and `render` carry out these steps.
    other = make_site(tmp_path / "other", source=source, model=settings)
    for rebuild in (False, True):
        told.clear()
        (step, *_) = missing_steps(other.workspace, other.deployment, now=other.now, warn=told.append, rebuild=rebuild)
        step.run()
        assert told == [warning]
        (source / "assets" / "note.txt").write_text("another change")
