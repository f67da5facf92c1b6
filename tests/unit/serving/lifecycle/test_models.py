"""Configured models, with real SavedModels in real folders."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tests.harness.errors import raises
from tests.harness.tiny_model import saved_model

from sealserve.serving.base_path import BasePathSchemeError
from sealserve.serving.command_line import options as flags
from sealserve.serving.command_line.options import ServerOptions
from sealserve.serving.lifecycle.loading import LoadFailedError
from sealserve.serving.lifecycle.model_config import ModelConfigError, ModelLabelError
from sealserve.serving.lifecycle.models import Models, NotAvailableError
from sealserve.serving.lifecycle.versions import BasePathMissingError, NoVersionError
from sealserve.serving.request_errors import RequestCode, Status
from sealserve.serving.runtime.protos import ModelServerConfig, ModelSpec
from sealserve.serving.servables import Servable, Servables, State

pytestmark = pytest.mark.tensorflow

ONCE = ("--file_system_poll_wait_seconds=0", "--max_num_load_retries=0", "--tensorflow_session_parallelism=1")


def options(*arguments: str) -> ServerOptions:
    chosen = flags.parse(["--dangerous_plaintext", "--model_name=m", *ONCE, *arguments])
    assert isinstance(chosen, ServerOptions)
    return chosen


class Running:
    """Models that are closed at the end of a test."""

    def __init__(self) -> None:
        self.table = Servables()
        self.models: list[Models] = []

    def __call__(self, *arguments: str) -> Models:
        self.models.append(Models(options(*arguments), None, self.table))
        self.models[-1].start()
        return self.models[-1]

    def states(self, name: str = "m") -> dict[int, State]:
        return {version: entry.state for version, entry in self.table.states(name).items()}

    def version(self, name: str = "m", **choice: str) -> int:
        return self.table.find(ModelSpec(name=name, **choice)).version


@pytest.fixture
def start() -> Iterator[Running]:
    running = Running()
    yield running
    for models in running.models:
        models.close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    saved_model(tmp_path / "m/1")
    return tmp_path / "m"


def broken(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"\xff" * 64)
    return folder


def config(*models: str) -> ModelServerConfig:
    text = "".join(f'config {{ model_platform: "tensorflow" {model} }}' for model in models)
    return text_format.Parse(f"model_config_list {{ {text} }}", ModelServerConfig())


def test_one_model_of_the_command_line(start: Running, model: Path) -> None:
    assert start(f"--model_base_path={model}").names == ("m",)
    assert (start.version(), start.states()) == (1, {1: State.AVAILABLE})


def test_nothing_there_is_an_error_where_nobody_looks_again(start: Running, tmp_path: Path) -> None:
    with pytest.raises(BasePathMissingError):
        start(f"--model_base_path={tmp_path}/nothing")
    with pytest.raises(NoVersionError):
        start(f"--model_base_path={tmp_path}")


def test_a_config_file_with_several_models(start: Running, model: Path, tmp_path: Path) -> None:
    shutil.copytree(model / "1", model / "2")
    shutil.copytree(model / "1", tmp_path / "n/7")
    path = tmp_path / "models.config"
    path.write_text(
        str(
            config(
                f'name: "m" base_path: "{model}" model_version_policy {{ all {{}} }}'
                ' version_labels { key: "stable" value: 1 }',
                f'name: "n" base_path: "{tmp_path}/n"',
            )
        )
    )
    with pytest.raises(ModelLabelError, match="assign label to version 1 of model m, which is not currently available"):
        start(f"--model_config_file={path}")
    start(f"--model_config_file={path}", "--allow_version_labels_for_unavailable_models")
    assert start.states() == {1: State.AVAILABLE, 2: State.AVAILABLE}
    assert (start.version(), start.version(version_label="stable"), start.version("n")) == (2, 1, 7)


def test_labels_move_only_to_versions_that_are_available(start: Running, model: Path) -> None:
    shutil.copytree(model / "1", model / "2")
    models = start(f"--model_base_path={model}", "--allow_version_labels_for_unavailable_models")
    text = f'name: "m" base_path: "{model}" model_version_policy {{ all {{}} }} version_labels {{ key: "l" value: %d }}'
    models.reload(config(text % 2))
    assert start.version(version_label="l") == 2
    with pytest.raises(ModelLabelError) as caught:
        models.reload(config(text % 3))
    assert (caught.value.code, caught.value.status) == ("model-config.label", Status.FAILED_PRECONDITION)
    assert start.version(version_label="l") == 2
    models._manager.wait(lambda: start.states() == {1: State.AVAILABLE, 2: State.AVAILABLE})
    models.reload(config(text % 1))
    assert start.version(version_label="l") == 1


def test_a_reload_adds_models_and_takes_others_away(start: Running, model: Path, tmp_path: Path) -> None:
    models = start(f"--model_base_path={model}")
    shutil.copytree(model / "1", tmp_path / "n/7")
    models.reload(config(f'name: "n" base_path: "{tmp_path}/n"'))
    assert start.version("n") == 7
    models._manager.wait(lambda: start.states() == {1: State.END})
    with raises(RequestCode.SERVABLE_NOT_FOUND):
        start.version()
    models.reload(ModelServerConfig())
    assert models.names == ("n",)


LOOKS_AGAIN = ("--file_system_poll_wait_seconds=3600",)


def test_a_reload_to_a_model_without_a_version_is_refused(start: Running, model: Path, tmp_path: Path) -> None:
    models = start(f"--model_base_path={model}", *LOOKS_AGAIN)
    (tmp_path / "empty").mkdir()
    both = f'name: "m" base_path: "{model}"'
    for path, error in ((tmp_path / "nowhere", BasePathMissingError), (tmp_path / "empty", NoVersionError)):
        with pytest.raises(error, match=str(path)):
            models.reload(config(both, f'name: "n" base_path: "{path}"'))
        assert (models.names, start.version()) == (("m",), 1)
    models.reload(config(both))


def test_a_reload_ends_when_its_caller_gives_up_and_when_a_later_one_removes_its_model(
    start: Running, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = start(f"--model_base_path={model}", *LOOKS_AGAIN)
    shutil.copytree(model / "1", tmp_path / "slow/1")
    loading, held, given_up = threading.Event(), threading.Event(), threading.Event()
    load = models._manager._load_version

    def slowly(name: str, version: int, folder: Path) -> Servable:
        loading.set()
        assert held.wait(60)
        return load(name, version, folder)

    monkeypatch.setattr(models._manager, "_load_version", slowly)
    former, slow = f'name: "m" base_path: "{model}"', f'name: "slow" base_path: "{tmp_path}/slow"'
    outcomes: dict[str, str] = {}

    def reload(name: str, **arguments: Any) -> None:
        try:
            models.reload(config(former, slow), **arguments)
        except NotAvailableError as error:
            outcomes[name] = error.message
        else:
            outcomes[name] = "returned"

    patient = threading.Thread(target=reload, args=("patient",))
    patient.start()
    assert loading.wait(60)
    models._apply(config(former))  # a model that is added twice is new twice
    patient.join(60)
    assert outcomes == {"patient": "The reload failed: a later configuration removed slow before it was available."}
    impatient = threading.Thread(target=reload, args=("impatient",), kwargs={"given_up": given_up.is_set})
    impatient.start()
    given_up.set()
    models.wake()
    impatient.join(60)
    assert outcomes["impatient"] == "returned"
    assert start.version() == 1
    held.set()
    models._manager.wait(lambda: models._manager.settled("slow"))
    assert start.version("slow") == 1


def test_a_configuration_file_is_looked_at_again_while_a_model_still_loads(
    start: Running, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "models.config"
    path.write_text(str(config(f'name: "m" base_path: "{model}"')))
    models = start(f"--model_config_file={path}", *LOOKS_AGAIN)
    shutil.copytree(model / "1", tmp_path / "slow/1")
    held = threading.Event()
    load = models._manager._load_version
    monkeypatch.setattr(
        models._manager, "_load_version", lambda *arguments: load(*arguments) if held.wait(60) else pytest.fail("held")
    )
    path.write_text(str(config(f'name: "slow" base_path: "{tmp_path}/slow"', f'name: "m" base_path: "{model}"')))
    models._poll_config(path)
    assert list(models.names) == ["slow", "m"]
    path.write_text(str(config(f'name: "m" base_path: "{model}"')))
    models._poll_config(path)
    assert list(models.names) == ["m"]
    held.set()


def test_a_base_path_may_be_a_uri_of_this_machine(start: Running, model: Path, tmp_path: Path) -> None:
    models = start(f"--model_base_path=file://{model}")
    shutil.copytree(model / "1", tmp_path / "n/7")
    models.reload(config(f'name: "n" base_path: "file://{tmp_path}/n"'))
    assert start.version("n") == 7
    with pytest.raises(BasePathSchemeError, match="got the scheme s3"):
        models.reload(config('name: "n" base_path: "s3://bucket/n"'))


def test_a_reload_that_cannot_be_served_changes_nothing(start: Running, model: Path) -> None:
    models = start(f"--model_base_path={model}")
    with pytest.raises(ModelConfigError):
        models.reload(config('name: "n" base_path: "relative"'))
    assert (models.names, start.version()) == (("m",), 1)


def test_what_does_not_load_ends_the_start_and_says_why(start: Running, model: Path, tmp_path: Path) -> None:
    broken(tmp_path / "b/1")
    with pytest.raises(LoadFailedError, match="b/1 cannot be loaded"):
        start(f"--model_base_path={tmp_path}/b")
    broken(tmp_path / "b/2")
    path = tmp_path / "models.config"
    both = f'name: "b" base_path: "{tmp_path}/b" model_version_policy {{ all {{}} }}'
    path.write_text(str(config(both, f'name: "m" base_path: "{model}"')))
    with pytest.raises(NotAvailableError, match=r"2 servable\(s\) did not become available: .*name: b version: 2"):
        start(f"--model_config_file={path}")


def test_a_broken_version_beside_a_good_one_has_its_error(start: Running, model: Path) -> None:
    broken(model / "2")
    path = model / "models.config"
    path.write_text(str(config(f'name: "m" base_path: "{model}" model_version_policy {{ all {{}} }}')))
    start(f"--model_config_file={path}")
    assert start.states() == {1: State.AVAILABLE, 2: State.END}
    health = start.table.states("m")[2].health
    assert health.status is not Status.OK
    assert health.message
    assert NotAvailableError.code == "servable.not-available"


def test_new_versions_and_new_configurations_are_found(start: Running, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "models.config"
    path.write_text(str(config(f'name: "m" base_path: "{model}"')))
    models = start(
        f"--model_config_file={path}",
        "--file_system_poll_wait_seconds=1",
        "--model_config_file_poll_wait_seconds=1",
    )
    shutil.copytree(model / "1", tmp_path / "coming")
    (tmp_path / "coming").rename(model / "2")
    models._manager.wait(lambda: start.states() == {1: State.END, 2: State.AVAILABLE})
    shutil.copytree(model / "1", tmp_path / "n/7")
    (tmp_path / "next").write_text(str(config(f'name: "n" base_path: "{tmp_path}/n"')))
    (tmp_path / "next").rename(path)
    models._manager.wait(lambda: start.states("n") == {7: State.AVAILABLE} and start.states()[2] is State.END)


def test_what_is_wrong_at_each_look_is_logged_once(
    start: Running, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    models = start(f"--model_base_path={model}")
    shutil.rmtree(model)
    for _ in range(3):
        models._poll()
    assert caplog.text.count("no version of m: The folder") == 1
    assert start.version() == 1


def test_a_model_that_comes_later_is_waited_for(start: Running, model: Path, tmp_path: Path) -> None:
    later = tmp_path / "later"
    path = tmp_path / "models.config"
    path.write_text(str(config(f'name: "m" base_path: "{later}"')))
    timer = threading.Timer(0.5, lambda: model.rename(later))
    timer.start()
    start(f"--model_config_file={path}", "--file_system_poll_wait_seconds=1")
    timer.join()
    assert start.version() == 1
