import logging
from pathlib import Path

import pytest

from sealserve.serving import program
from sealserve.serving.program import main


def test_help_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    output = capsys.readouterr()
    assert output.out.startswith("usage: sealserve-model-server")
    assert output.err == ""


@pytest.mark.tensorflow
def test_the_version_names_tensorflows(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert "\nTensorFlow Library: 2." in capfd.readouterr().out


def test_an_error_is_one_line_with_its_code_a_hint_and_an_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--prot=1"]) == 2
    assert capsys.readouterr().err == "error[flags.unknown]: The flag --prot is unknown.\n  Did you mean --port?\n"


def test_the_command_line_is_this_processs_by_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["sealserve-model-server", "--model_base_path=/m"])
    assert main() == 2
    assert capsys.readouterr().err.startswith("error[flags.plaintext-refused]: ")


def test_what_is_unknown_is_internal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> int:
        raise ValueError("canary")

    monkeypatch.setattr(program, "serve", fail)
    monkeypatch.setattr("sealserve.serving.log.configure", lambda: None)
    with caplog.at_level(logging.ERROR):
        assert main(["--model_base_path=/m", "--dangerous_plaintext"]) == 1
    assert capsys.readouterr().err.startswith("error[internal]: The server ended with an unexpected error")
    assert caplog.records[0].exc_info is not None


def test_the_package_and_the_module_start_the_program(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sealserve import serving  # noqa: PLC0415  # what is tested

    monkeypatch.setattr("sys.argv", ["x", "--help"])
    assert serving.main() == 0
    assert "usage" in capsys.readouterr().out
    assert Path(program.__file__).with_name("__main__.py").is_file()
