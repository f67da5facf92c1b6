"""`make setup` shows how far it is, and never mixes two packages of TensorFlow."""

import importlib.util
import re
import sys
from collections.abc import Generator
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "setup.py"
PROGRAM = "echo using; echo Resolved 3 packages; echo ' + a==1'; echo Installed 3 packages; echo broken; exit 7"


@pytest.fixture
def setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sealserve_setup", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def without_times(text: str) -> list[str]:
    return [re.sub(r" +\d+ s ", "", line) for line in text.splitlines()]


def test_a_log_gets_a_line_for_each_stage(setup: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = setup.follow(["sh", "-c", PROGRAM], setup.UV_PROGRESS)
    assert (status, lines[-1]) == (7, "broken")
    assert without_times(capsys.readouterr().out) == ["setup: Resolved 3 packages", "setup: Installed 3 packages"]


def test_a_terminal_gets_one_line_that_is_removed(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(setup, "is_terminal", lambda: True)
    setup.follow(["sh", "-c", PROGRAM], setup.UV_PROGRESS)
    out = capsys.readouterr().out
    assert "\n" not in out
    assert "Installed 3 packages" in out
    assert out.endswith("\r\x1b[K")


def test_a_terminal_stays_as_it_is_until_there_is_progress(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(setup, "is_terminal", lambda: True)
    setup.follow(["sh", "-c", "echo '[sudo] password for ann:'; sleep 0.5"], setup.APT_PROGRESS)
    assert capsys.readouterr().out == ""


def test_a_log_shows_that_a_silent_stage_goes_on(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(setup, "QUIET_SECONDS", 0)
    setup.follow(["sh", "-c", "sleep 0.5"], setup.UV_PROGRESS)
    assert "still working" in capsys.readouterr().out


def test_ctrl_c_waits_for_what_cleans_up(setup: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command gets the signal as well, from the terminal; here it goes on for a moment."""
    shown = setup.log_lines

    def interrupted_once() -> Generator[None, str, None]:
        monkeypatch.setattr(setup, "log_lines", shown)
        yield
        raise KeyboardInterrupt

    monkeypatch.setattr(setup, "log_lines", interrupted_once)
    with pytest.raises(SystemExit) as caught:
        setup.follow(["sh", "-c", f"echo Resolved; sleep 0.5; touch {tmp_path}/cleaned"], setup.UV_PROGRESS)
    assert caught.value.code == 130
    assert (tmp_path / "cleaned").exists()


@pytest.mark.parametrize(
    ("machine", "installed", "mixed"),
    [
        ("x86_64", "tensorflow-2.21.0.dist-info", True),
        ("x86_64", "tensorflow_cpu-2.21.0.dist-info", False),
        ("aarch64", "tensorflow_cpu-2.21.0.dist-info", True),
        ("aarch64", "tensorflow-2.21.0.dist-info", False),
        ("x86_64", "tensorflow_serving_api-2.21.0.dist-info", False),
    ],
)
def test_an_environment_with_the_other_tensorflow_is_made_again(
    machine: str,
    installed: str,
    mixed: bool,
    setup: ModuleType,
    tmp_path: Path,
) -> None:
    (tmp_path / "lib" / "python3.11" / "site-packages" / installed).mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "VENV", tmp_path)
        patch.setattr("platform.machine", lambda: machine)
        assert setup.other_tensorflow() is mixed


def test_the_lock_files_hold_one_tensorflow_for_each_machine() -> None:
    for path in (SCRIPT.parents[1] / "requirements").glob("*.lock"):
        found = dict(re.findall(r"^(tensorflow(?:-cpu)?)==\S+ ; (.+?) \\$", path.read_text(), re.MULTILINE))
        assert found in (
            {},
            {
                "tensorflow": "platform_machine != 'x86_64' or sys_platform != 'linux'",
                "tensorflow-cpu": "platform_machine == 'x86_64' and sys_platform == 'linux'",
            },
        ), path


def test_the_script_needs_nothing_but_the_standard_library() -> None:
    imported = re.findall(r"^(?:import|from) (\w+)", SCRIPT.read_text(), re.MULTILINE)
    assert set(imported) <= sys.stdlib_module_names
