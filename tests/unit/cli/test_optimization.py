import json
from pathlib import Path

import numpy as np
import pytest
from tests.harness.command_line import CommandLine
from tests.harness.optimized_models import convolution_model, in_this_process, random

from sealserve.cli import optimization
from sealserve.host.facts import Processor
from sealserve.model.optimization.report import find_report


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
