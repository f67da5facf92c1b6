"""What becomes of the process that runs a model's signatures."""

import sys
from pathlib import Path

import pytest
from tests.harness.errors import raises
from tests.harness.tiny_model import saved_model

from sealserve.cli.codes import CliCode
from sealserve.cli.trial.signatures import Choice, run_signatures
from sealserve.model import saved_model_pb2 as pb
from sealserve.model import tensorflow_import, tensorflow_process
from sealserve.model.codes import ModelCode

PROGRAMS = {
    "dies": 'import os; print(\'{"loaded": true}\\n{"running": "\' + name + \'"}\', flush=True); os.abort()',
    "exits": "print('{\"running\": \"' + name + '\"}', flush=True); raise SystemExit(7)",
    "hangs": "print('{\"running\": \"' + name + '\"}', flush=True); import time; time.sleep(600)",
    "dies while it loads": "raise SystemExit(9)",
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = saved_model(tmp_path / "m")
    message = pb.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    definitions = message.meta_graphs[0].signature_def
    definitions["another"].CopyFrom(definitions["serving_default"])
    (folder / "saved_model.pb").write_bytes(message.SerializeToString())
    return folder


def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str) -> None:
    """Replace Python by a program that prints what it runs and ends as ``program`` has it."""
    script = tmp_path / "python"
    head = "import json, sys; name = next(iter(json.load(sys.stdin)['requests']))"
    script.write_text(f"#!{sys.executable}\n{head}\n{program}\n")
    script.chmod(0o755)
    monkeypatch.setattr(tensorflow_process, "PYTHON", str(script))
    monkeypatch.setattr(tensorflow_import, "find_spec", lambda _name: True)


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("dies", "TensorFlow crashed or exited (SIGABRT)"),
        ("exits", "TensorFlow crashed or exited (status 7)"),
        ("hangs", "no answer in 0.1 seconds"),
    ],
)
def test_a_signature_that_takes_its_process_away_fails_and_the_next_one_is_run(
    program: str, error: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, tmp_path, PROGRAMS[program])
    told: list[str] = []
    timeout = 0.1 if program == "hangs" else 600.0  # what ends by itself has all the time that it needs
    found = run_signatures(model, Choice(timeout=timeout), tell=told.append)
    assert [(each.signature, each.error) for each in found] == [("another", error), ("serving_default", error)]
    assert told == ["another", "serving_default"]


def test_a_model_that_takes_its_process_away_while_it_loads(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, tmp_path, PROGRAMS["dies while it loads"])
    with raises(
        CliCode.MODEL_NOT_LOADABLE, match=r"cannot be loaded: TensorFlow crashed or exited \(status 9\)"
    ) as caught:
        run_signatures(model, Choice(), tell=print)
    assert (caught.value.code, caught.value.exit_status) == ("model.not-loadable", 3)


@pytest.mark.tensorflow
def test_a_model_that_tensorflow_does_not_load(model: Path) -> None:
    message = pb.SavedModel.FromString((model / "saved_model.pb").read_bytes())
    message.meta_graphs[0].graph_def.node.add(name="odd", op="Add", input=["nowhere"])
    (model / "saved_model.pb").write_bytes(message.SerializeToString())
    with raises(CliCode.MODEL_NOT_LOADABLE, match="cannot be loaded: INVALID_ARGUMENT"):
        run_signatures(model, Choice(), tell=print)


def test_without_tensorflow_there_is_one_message(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorflow_import, "find_spec", lambda _name: None)
    with raises(ModelCode.TENSORFLOW_MISSING, match="The model cannot be run: TensorFlow is not installed"):
        run_signatures(model, Choice(), tell=print)


def test_what_cannot_be_generated_is_skipped(model: Path) -> None:
    message = pb.SavedModel.FromString((model / "saved_model.pb").read_bytes())
    for definition in message.meta_graphs[0].signature_def.values():
        definition.inputs["x"].tensor_shape.unknown_rank = True
        definition.inputs["x"].dtype = pb.DT_RESOURCE
    (model / "saved_model.pb").write_bytes(message.SerializeToString())
    found = run_signatures(model, Choice(signature="another"), tell=print)
    assert [(each.signature, each.error) for each in found] == [("another", None)]
    assert found[0].skipped


def test_strings_are_not_guessed(model: Path) -> None:
    """A text that does not fit would look like a broken model."""
    message = pb.SavedModel.FromString((model / "saved_model.pb").read_bytes())
    for definition in message.meta_graphs[0].signature_def.values():
        definition.inputs["x"].dtype = pb.DT_STRING
    (model / "saved_model.pb").write_bytes(message.SerializeToString())
    found = run_signatures(model, Choice(signature="another"), tell=print)
    assert found[0].error is None
    assert str(found[0].skipped).startswith("The input 'x' needs a value: a random string may not be valid for it.")


@pytest.mark.tensorflow
def test_inputs_that_are_not_given_are_generated(model: Path) -> None:
    message = pb.SavedModel.FromString((model / "saved_model.pb").read_bytes())
    for definition in message.meta_graphs[0].signature_def.values():
        definition.inputs["second"].CopyFrom(definition.inputs["x"])
    (model / "saved_model.pb").write_bytes(message.SerializeToString())
    found = run_signatures(model, Choice(signature="another", inputs=["x=[1]"]), tell=print)
    assert found[0].skipped is None
