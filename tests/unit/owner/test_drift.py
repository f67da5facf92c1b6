import os
import re
import shutil
import stat
from pathlib import Path

import pytest
from tests.harness.deployment_text import with_key
from tests.harness.errors import raises
from tests.harness.tiny_model import saved_model
from tests.harness.workspaces import NAME, Site, make_site

from sealserve import deployment
from sealserve.deployment import Deployment
from sealserve.model import convert
from sealserve.owner import drift, model_record, models, users
from sealserve.owner.codes import OwnerCode
from sealserve.owner.drift import Difference, compare, drift_of
from sealserve.owner.release_facts import OPTIMIZATION_SETTINGS
from sealserve.regular_file import LARGEST_TEXT

MODEL = f"model[{NAME}:1]"


def described(site: Site, key: str, value: str) -> Deployment:
    """Return what the deployment file describes with a key changed."""
    text = with_key(site.workspace.deployment_file.read_text(), key, value)
    return deployment.parse(text, folder=site.directory)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("service.name", '"other.example.com"'),
        ("service.tls", '"one-way"'),
        ("server.threads", "2"),
        ("server.max_connection_age_seconds", "61"),
        ("server.min_ping_seconds", "6"),
        ("server.soft_placement", "false"),
        ("server.metrics_port", "9000"),
        ("enclave.size", '"8G"'),
        ("enclave.edmm", "true"),
        ("enclave.isv_prod_id", "1"),
        ("enclave.required_cpu_features", '["amx"]'),
        ("enclave.isv_svn", "1"),
        ("broker.address", '"127.0.0.2"'),
        ("broker.port", "4434"),
        ("tcb.preset", '"cloud-smt"'),
        ("model.labels", '["stable"]'),
        ("model.inputs", '["x"]'),
        ("model.outputs", '["y"]'),
        ("model.tags", '["gpu"]'),
        ("model.dangerous_operations", '["ReadFile"]'),
    ],
)
def test_a_changed_setting(ready: Site, key: str, value: str) -> None:
    release = ready.build_release().folder
    (found,) = drift_of(ready.workspace, described(ready, key, value), release).differences
    assert found.key == key.replace("model", MODEL)
    assert found.released != found.described


def test_an_optimization(ready: Site) -> None:
    """Each setting is a fact only if it is set, so that other releases have the facts as before."""
    release = ready.build_release().folder
    optimized = described(ready, "model.optimize", '"bfloat16"')
    found = drift_of(ready.workspace, optimized, release).differences
    assert [(item.key, item.described) for item in found] == [(f"{MODEL}.optimize", '"bfloat16"')]
    for name in sorted(OPTIMIZATION_SETTINGS - {"optimize", "optimize_inputs"}):
        model = optimized.model.model_copy(update={name: 0.5})
        found = drift_of(ready.workspace, optimized.model_copy(update={"models": (model,)}), release).differences
        assert (f"{MODEL}.{name}", "0.5") in {(item.key, item.described) for item in found}


def test_a_revoked_user(ready: Site) -> None:
    release = ready.build_release().folder
    users.add(ready.workspace, ready.deployment, "ann", now=ready.now)
    assert drift_of(ready.workspace, ready.deployment, release).differences == ()  # a new user does not need a release
    users.revoke(ready.workspace, ready.deployment, "ann", now=ready.now)
    (found,) = drift_of(ready.workspace, ready.deployment, release).differences
    assert re.fullmatch(r"users\.revocations: none -> [0-9a-f]{12}\.\.\.", str(found))
    assert drift_of(ready.workspace, ready.deployment, ready.build_release().folder).differences == ()


def test_a_restored_register_with_as_many_revocations(ready: Site) -> None:
    users.add(ready.workspace, ready.deployment, "ann", now=ready.now)
    users.add(ready.workspace, ready.deployment, "bob", now=ready.now)
    register = ready.workspace.owner.users / "register.json"
    backup = register.read_bytes()
    users.revoke(ready.workspace, ready.deployment, "ann", now=ready.now)
    release = ready.build_release().folder
    register.write_bytes(backup)
    users.revoke(ready.workspace, ready.deployment, "bob", now=ready.now)
    (found,) = drift_of(ready.workspace, ready.deployment, release).differences
    assert found.key == "users.revocations"


def test_nothing_changed(ready: Site) -> None:
    release = ready.build_release().folder
    for quick in (False, True):
        found = drift_of(ready.workspace, ready.deployment, release, quick=quick)
        assert (found.release, found.comparable, found.differences) == (release.name, True, ())


def test_settings_that_need_no_release(ready: Site) -> None:
    release = ready.build_release().folder
    for key, value in [
        ("service.port", "8510"),
        ("target.replicas", "3"),
        ("broker.drain_minutes", "5"),
        ("target.kind", '"docker"'),
    ]:
        assert drift_of(ready.workspace, described(ready, key, value), release).differences == ()


def test_another_model_name_is_one_model_less_and_one_more(ready: Site) -> None:
    release = ready.build_release().folder
    found = drift_of(ready.workspace, described(ready, "model.name", '"other"'), release)
    assert list(map(str, found.differences)) == [f"{MODEL}: served -> none", "model[other:1]: none -> served"]


def test_a_changed_batching_file(tmp_path: Path) -> None:
    batching = tmp_path / "batching.config"
    batching.write_text("max_batch_size { value: 8 }")
    site = make_site(
        tmp_path / "site", server={"batching_parameters_file": str(batching), "dangerous_shared_batches": True}
    )
    site.import_model()
    site.certify()
    release = site.build_release().folder
    assert drift_of(site.workspace, site.deployment, release).differences == ()
    batching.write_text("max_batch_size { value: 16 }" + " " * LARGEST_TEXT)  # too large to be read as a setting
    (found,) = drift_of(site.workspace, site.deployment, release).differences
    assert found.key == "server.batching_parameters_file"
    assert found.described != "missing"
    batching.unlink()
    (found,) = drift_of(site.workspace, site.deployment, release).differences
    assert found.described == "missing"


@pytest.mark.parametrize("quick", [False, True])
def test_a_model_that_was_exported_again(ready: Site, quick: bool) -> None:
    release = ready.build_release().folder
    source = ready.deployment.model.path
    assert source is not None
    export_again(source)
    (found,) = drift_of(ready.workspace, ready.deployment, release, quick=quick).differences
    assert found.key == f"{MODEL}.source"
    assert models.stale(ready.workspace, ready.deployment.models) == ready.deployment.models


def test_a_look_reads_no_model(ready: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    release = ready.build_release().folder
    source = ready.deployment.model.path
    assert source is not None
    monkeypatch.setattr(model_record, "sha256_of", lambda _: pytest.fail("a file is read"))
    assert drift_of(ready.workspace, ready.deployment, release, quick=True).differences == ()
    export_again(source)
    (found,) = drift_of(ready.workspace, ready.deployment, release, quick=True).differences
    assert (found.key, found.described) == (f"{MODEL}.source", model_record.CHANGED)


def test_a_look_at_files_that_vanish_or_are_closed(ready: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    release = ready.build_release().folder
    for error in (FileNotFoundError, PermissionError):

        def refused(_: Path, error: type[OSError] = error) -> str:
            raise error

        monkeypatch.setattr(model_record, "state_of", refused)
        assert drift_of(ready.workspace, ready.deployment, release, quick=True).differences == ()


def export_again(source: Path) -> None:
    """Put another model in a model's place, of the same size and with the same times where that is possible."""
    (source / "assets").mkdir(exist_ok=True)
    (source / "assets" / "vocabulary.txt").write_text("again")


def test_a_source_with_the_same_size_and_time_is_read_when_a_release_is_built(ready: Site) -> None:
    source = ready.deployment.model.path
    assert source is not None
    export_again(source)
    models.bring_in(ready.workspace, ready.deployment.model, replace=True)
    release = ready.build_release().folder
    file = source / "assets" / "vocabulary.txt"
    before = file.stat()
    file.write_text("AGAIN")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    (found,) = drift_of(ready.workspace, ready.deployment, release).differences
    assert found.key == f"{MODEL}.source"


def test_the_converted_model_was_replaced_by_hand(ready: Site) -> None:
    release = ready.build_release().folder
    export_again(models.planned_folder(ready.workspace, ready.deployment.model))
    (found,) = drift_of(ready.workspace, ready.deployment, release).differences
    assert found.key == f"{MODEL}.content"
    assert models.stale(ready.workspace, ready.deployment.models) == ()  # replacing it could lose work
    # A release that seals it does not claim to be made from the source.
    again = drift.facts_to_seal(ready.workspace, ready.deployment)
    assert f"{MODEL}.source" not in again


def test_a_source_that_is_not_here_says_nothing(ready: Site) -> None:
    release = ready.build_release().folder
    source = ready.deployment.model.path
    assert source is not None
    shutil.rmtree(source)
    assert drift_of(ready.workspace, ready.deployment, release).differences == ()


def test_a_replaced_certificate_authority(ready: Site) -> None:
    release = ready.build_release().folder
    shutil.rmtree(ready.workspace.owner.authorities / "service")
    ready.certify()
    (found,) = drift_of(ready.workspace, ready.deployment, release).differences
    assert found.key == "certificates.service"


def test_a_release_without_a_record_cannot_be_compared(ready: Site) -> None:
    release = ready.build_release().folder
    other = ready.build_release().folder
    records = ready.workspace.owner.provenance / "releases"
    # Another release's record, a damaged record, no record.
    shutil.copy(records / f"{other.name}.json", records / f"{release.name}.json")
    assert not drift_of(ready.workspace, ready.deployment, release).comparable
    for content in (b"", b"{", b"[]", b'{"version": 2}', b"\xff" * 100):
        (records / f"{release.name}.json").write_bytes(content)
        assert not drift_of(ready.workspace, ready.deployment, release).comparable
    drift.forget(ready.workspace, release.name)
    assert drift_of(ready.workspace, ready.deployment, release) == drift.Drift(release=release.name, comparable=False)


def test_records_are_the_owners_alone(ready: Site) -> None:
    ready.build_release()
    files = [path for path in ready.workspace.owner.provenance.rglob("*") if path.is_file()]
    # One record of the settings and one of the models per release, and one of each model.
    assert {path.parent.name for path in files} == {NAME, "releases", "statements"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_comparing_looks_at_the_display_last() -> None:
    found = compare({"server.threads": "1", "a": "x"}, {"server.threads": "2", "a": "x"})
    assert found == (Difference(key="server.threads", released="1", described="2"),)
    assert str(found[0]) == "server.threads: 1 -> 2"
    assert str(Difference(key="k", released="ab" * 32, described=None)) == "k: abababababab... -> none"


def test_a_source_that_changes_during_the_conversion(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    source = site.deployment.model.path
    assert source is not None
    original = convert.import_model

    def exporting(*arguments: object, **more: object) -> object:
        made = original(*arguments, **more)  # type: ignore[arg-type]
        export_again(source)
        return made

    monkeypatch.setattr(models, "import_model", exporting)
    with raises(OwnerCode.MODEL_SOURCE_CHANGED, match="half-plus-two changed during the conversion"):
        models.bring_in(site.workspace, site.deployment.model)
    assert not models.is_imported(site.workspace, site.deployment.model)
    assert model_record.find_record(site.workspace, site.deployment.model) is None


def test_a_failed_conversion_leaves_the_copy_that_exists(ready: Site) -> None:
    folder = models.planned_folder(ready.workspace, ready.deployment.model)
    before = model_record.digest_of(folder)
    source = ready.deployment.model.path
    assert source is not None
    (source / "saved_model.pb").write_bytes(b"not a model")
    with pytest.raises(Exception, match=r"saved_model\.pb"):
        models.bring_in(ready.workspace, ready.deployment.model, replace=True)
    assert model_record.digest_of(folder) == before
    assert [path.name for path in ready.workspace.owner.models.iterdir()] == [NAME]


def test_a_model_is_converted_again_as_before(ready: Site, tmp_path: Path) -> None:
    source = ready.deployment.model.path
    assert source is not None
    export_again(source)
    models.bring_in_again(ready.workspace, ready.deployment.model)
    assert models.stale(ready.workspace, ready.deployment.models) == ()
    folder = models.planned_folder(ready.workspace, ready.deployment.model)
    assert (folder / "assets" / "vocabulary.txt").read_text() == "again"
    assert saved_model(tmp_path / "another").is_dir()
