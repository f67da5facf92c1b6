from pathlib import Path

import numpy as np
import pytest
from tests.harness.errors import raises
from tests.harness.optimized_models import convolution_model, in_this_process, random
from tests.harness.tiny_model import saved_model
from tests.harness.workspaces import Site, make_site

from sealserve import deployment
from sealserve.atomic_file import OutputExistsError
from sealserve.model.codes import ModelCode
from sealserve.model.optimization import optimize
from sealserve.model.optimization.report import digest_of_model, find_report
from sealserve.owner import models
from sealserve.owner.codes import OwnerCode
from sealserve.terms import Precision


def test_a_saved_model_comes_in_whole(site: Site) -> None:
    assert not models.is_imported(site.workspace, site.deployment.model)
    steps: list[str] = []
    imported = models.bring_in(site.workspace, site.deployment.model, progress=steps.append)
    assert imported.folder == site.workspace.owner.models / "half-plus-two" / "1"
    assert models.servable_folder(site.workspace, site.deployment.model) == imported.folder
    source = site.directory / "half-plus-two" / "saved_model.pb"
    assert (imported.folder / "saved_model.pb").read_bytes() == source.read_bytes()
    assert models.is_imported(site.workspace, site.deployment.model)
    assert steps


def test_a_version_comes_in_once(site: Site) -> None:
    site.import_model()
    with pytest.raises(OutputExistsError, match="half-plus-two/1 already exists"):
        models.bring_in(site.workspace, site.deployment.model)


def test_another_version_stands_beside_it(site: Site) -> None:
    site.import_model()
    newer = make_site(site.directory, source=site.directory / "half-plus-two", model={"version": 2})
    assert newer.import_model().name == "2"
    assert models.servable_folder(site.workspace, site.deployment.model).name == "1"


def test_a_path_in_the_file_is_relative_to_it(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site", source=Path("below/model"))
    saved_model(tmp_path / "site" / "below" / "model")
    assert site.import_model().is_dir()


def test_a_deployment_without_a_path_says_what_to_set(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    nowhere = deployment.parse('[model]\nname = "m"\n')
    with raises(OwnerCode.MODEL_NO_PATH, match=r"path of the model m is not set") as caught:
        models.bring_in(site.workspace, nowhere.model)
    assert caught.value.code == "model.no-path"
    assert "frozen graph (.pb) or SavedModel" in (caught.value.hint or "")


def test_a_missing_model_leaves_nothing(tmp_path: Path) -> None:
    site = make_site(tmp_path, source=Path("nowhere.pb"))
    with raises(ModelCode.MISSING, match=r"does not exist: expected .* at .*nowhere\.pb") as caught:
        models.bring_in(site.workspace, site.deployment.model)
    assert caught.value.code == "model.missing"
    assert list(site.workspace.owner.models.iterdir()) == []


def test_a_model_that_was_not_brought_in(site: Site) -> None:
    with raises(OwnerCode.MODEL_NOT_IMPORTED, match="The model half-plus-two, version 1, is not in the work") as caught:
        models.servable_folder(site.workspace, site.deployment.model)
    assert caught.value.code == "model.not-imported"
    assert "model convert" in (caught.value.hint or "")


@pytest.mark.tensorflow
def test_a_model_comes_in_optimized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)
    original = convolution_model(tmp_path / "original")
    np.savez(tmp_path / "inputs.npz", x=random(6, 8, 8, 4))
    settings = {"optimize": "bfloat16", "optimize_inputs": str(tmp_path / "inputs.npz"), "optimize_min_top1": 0.5}
    site = make_site(tmp_path / "site", source=original, model=settings)
    model = site.deployment.model
    imported = models.bring_in(site.workspace, model)
    assert imported.folder == site.workspace.owner.models / "half-plus-two" / "1"
    report = find_report(imported.folder)
    assert report is not None
    assert (report.original, report.precision, report.given) == (digest_of_model(original), "bfloat16", ("x",))
    assert models.check(site.workspace, [model])
    with pytest.raises(OutputExistsError, match="half-plus-two/1 already exists"):
        models.bring_in(site.workspace, model)
    # Another precision, another threshold or other inputs need a new conversion. The release shows the drift.
    assert not models.stale(site.workspace, [model])
    for changed in ({"optimize": "float32"}, {"optimize": None}, {"optimize_min_top1": 0.6}, {"optimize_inputs": None}):
        assert models.stale(site.workspace, [model.model_copy(update=changed)]), changed
    np.savez(tmp_path / "inputs.npz", x=random(7, 8, 8, 4))
    assert models.stale(site.workspace, [model])
    again = models.bring_in_again(site.workspace, model.model_copy(update={"optimize": "float32"}))
    report = find_report(again.folder)
    assert report is not None
    assert report.precision == "float32"


@pytest.mark.tensorflow
def test_a_rejected_optimization_keeps_the_former_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)
    original = convolution_model(tmp_path / "original")
    site = make_site(tmp_path / "site", source=original)
    former = site.import_model()
    digest = digest_of_model(former)
    stricter = site.deployment.model.model_copy(update={"optimize": Precision.BFLOAT16, "optimize_min_top1": 1.0})
    monkeypatch.setattr(optimize, "check", refusing)
    with raises(ModelCode.OPTIMIZATION_DIFFERS, match="refused by the test"):
        models.bring_in_again(site.workspace, stricter)
    assert digest_of_model(former) == digest
    assert [path.name for path in site.workspace.owner.models.iterdir()] == ["half-plus-two"]
    other = site.deployment.model.model_copy(update={"version": 2, "optimize": Precision.BFLOAT16})
    with raises(ModelCode.OPTIMIZATION_DIFFERS, match="refused by the test"):
        models.bring_in(site.workspace, other)
    assert [path.name for path in (site.workspace.owner.models / "half-plus-two").iterdir()] == ["1"]


def refusing(*_: object) -> None:
    raise ModelCode.OPTIMIZATION_DIFFERS.error("refused by the test")
