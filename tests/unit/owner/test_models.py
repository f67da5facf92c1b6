from pathlib import Path

import pytest
from tests.harness.errors import raises
from tests.harness.tiny_model import saved_model
from tests.harness.workspaces import Site, make_site

from sealserve import deployment
from sealserve.atomic_file import OutputExistsError
from sealserve.model.codes import ModelCode
from sealserve.owner import models
from sealserve.owner.codes import OwnerCode


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
    with raises(OwnerCode.MODEL_NO_PATH, match=r"does not say where the model m is") as caught:
        models.bring_in(site.workspace, nowhere.model)
    assert caught.value.code == "model.no-path"
    assert "frozen graph (.pb) or SavedModel" in (caught.value.hint or "")


def test_a_missing_model_leaves_nothing(tmp_path: Path) -> None:
    site = make_site(tmp_path, source=Path("nowhere.pb"))
    with raises(ModelCode.MISSING, match=r"There is no model at .*nowhere\.pb") as caught:
        models.bring_in(site.workspace, site.deployment.model)
    assert caught.value.code == "model.missing"
    assert list(site.workspace.owner.models.iterdir()) == []


def test_a_model_that_was_not_brought_in(site: Site) -> None:
    with raises(OwnerCode.MODEL_NOT_IMPORTED, match="The model half-plus-two, version 1, is not in the work") as caught:
        models.servable_folder(site.workspace, site.deployment.model)
    assert caught.value.code == "model.not-imported"
    assert "model convert" in (caught.value.hint or "")
