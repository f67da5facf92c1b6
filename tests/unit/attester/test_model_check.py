"""The check of models inside the enclave. The owner may be the attacker: her own check is not sufficient."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.harness.tiny_model import saved_model

from sealserve.attester import program
from sealserve.attester.model_check import check_model
from sealserve.errors import InputError
from sealserve.model import saved_model_pb2 as pb

SERVE = ("serve",)


def writing(folder: Path) -> Path:
    """Return a model of an owner who wants to read the inputs: it can write files, which she can decrypt."""
    model = saved_model(folder)
    path = model / "saved_model.pb"
    content = pb.SavedModel.FromString(path.read_bytes())
    content.meta_graphs[0].graph_def.node.add(name="keep", op="WriteFile")
    path.write_bytes(content.SerializeToString())
    return model


def test_a_model_that_can_keep_inputs_is_refused(tmp_path: Path) -> None:
    model = writing(tmp_path / "m")
    with pytest.raises(InputError, match="WriteFile") as caught:
        check_model(model, tags=SERVE, dangerous_operations=())
    assert caught.value.code == "model.refused-operation"
    check_model(model, tags=SERVE, dangerous_operations=("WriteFile",))  # as the measured command line allows


def test_a_model_without_such_operations_is_accepted(tmp_path: Path) -> None:
    check_model(saved_model(tmp_path / "m"), tags=SERVE, dangerous_operations=())


def test_the_program_checks_each_model(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def serve(_: Sequence[str] | None, **options: Any) -> int:
        given.update(options)
        return 0

    monkeypatch.setattr(program, "serve", serve)
    assert program.main([]) == 0
    assert given["check_model"] is check_model
