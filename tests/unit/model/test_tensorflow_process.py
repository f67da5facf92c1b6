import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from sealserve.model import tensorflow_process
from sealserve.model.tensorflow_process import TensorFlowProcess

HONEST = """
from sealserve.model.tensorflow_process import messages, read_order
say = messages()
order = read_order()
print("not a message")
import os
os.system("echo not a message either")
say(got=len(order["text"]))
"""


@dataclass
class Order:
    text: str = "x"


def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\n{text}\n")
    script.chmod(0o755)
    monkeypatch.setattr(tensorflow_process, "PYTHON", str(script))


def test_what_tensorflow_prints_is_not_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, HONEST)
    with TensorFlowProcess("m", Order("x" * 1_000_000)) as process:
        assert process.next_message(None) == {"got": 1_000_000}
        assert process.next_message(None) is None
        assert process.ending() == "status 0"


def test_a_program_that_does_not_read_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, "import time; time.sleep(600)")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with TensorFlowProcess("m", Order("x" * 1_000_000)) as process, pytest.raises(TimeoutError):
        process.next_message(0.1)
    assert process.ending() == "SIGKILL"
    assert len(list(Path("/proc/self/fd").iterdir())) == before
