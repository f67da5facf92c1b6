"""The memory that large requests and answers use, measured in a separate process."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from sealserve.serving.http.memory import Loan, NoMemoryError
from sealserve.serving.http.rest import Rest
from sealserve.serving.request_errors import Status
from sealserve.serving.servables import Servables
from sealserve.serving.wire.allowance import Allowance

_BODY: Final = 24 * 2**20
_MARGIN: Final = 12 * 2**20
"""For what does not depend on the size of a request: pieces, TensorFlow's threads, the allocator."""
_FACTOR: Final = 3

_CHILD: Final = """
import re, sys
from pathlib import Path
from sealserve.serving.command_line import options
from sealserve.serving.http.rest import Rest
from sealserve.serving.lifecycle import versions
from sealserve.serving.lifecycle.loading import Loader
from sealserve.serving.servables import Servables

def memory(name):
    return int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

chosen = options.parse([f"--model_base_path={sys.argv[1]}", "--model_name=m", "--dangerous_plaintext", *sys.argv[3:]])
found = versions.available(chosen.model_base_path, None)
table = Servables()
table.publish(Loader(options=chosen, files=None).load("m", max(found), found[max(found)]))
rest = Rest(table, max_tensor_bytes=2**31)
body = bytearray(sys.stdin.buffer.read(int(sys.argv[2])))
rest.answer("POST", "/v1/models/m:predict", body[:0] + sys.stdin.buffer.read(), None)  # what comes once: a small one
size = len(body)
Path("/proc/self/clear_refs").write_text("5")  # the highest use so far is forgotten
before = memory("VmRSS") - size
answer = rest.answer("POST", "/v1/models/m:predict", body, None)
print(answer.status, size, len(answer.body), memory("VmHWM") - before)
"""


def measured(models: Path, name: str, unit: str, form: str, *flags: str) -> tuple[int, int, int, int]:
    """Return the status, the sizes of body and answer, and the memory that both used together."""
    bodies = []
    for size in (_BODY, 100):
        repeated = ",".join([unit] * max(size // (len(unit) + 1), 1))
        bodies.append((form % repeated).encode())
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(models / name), str(len(bodies[0])), *flags],
        input=b"".join(bodies),
        capture_output=True,
        check=True,
    )
    status, body, answer, peak = map(int, done.stdout.split())
    return status, body, answer, peak


_FLOATS: Final = ",".join(f"{number / 777_777:.8f}" for number in range(1000))
_ROW: Final = f"[{_FLOATS}]"


@pytest.mark.tensorflow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc/self/clear_refs")
@pytest.mark.parametrize(
    ("name", "unit", "form", "flags"),
    [
        ("types", _FLOATS, '{"signature_name": "float32", "inputs": [%s]}', True),
        ("types", _ROW, '{"inputs": [%s], "signature_name": "float32"}', True),
        ("types", "[[0.125,0.25,0.5],[0.5,0.75,0.125]]", '{"signature_name": "float32", "instances": [%s]}', True),
        ("types", '{"x":' + _ROW + "}", '{"signature_name": "float32", "instances": [%s]}', True),
        ("types", "1234567", '{"signature_name": "int32", "instances": [%s]}', True),
        ("types", "0.5,1,0.12345,0,7", '{"signature_name": "float32", "instances": [%s]}', True),
        ("several", '{"b64":"' + "QUJD" * 2**19 + '"}', '{"signature_name": "words", "inputs": [%s]}', False),
    ],
)
def test_a_large_request_takes_three_times_its_size_at_most(
    models: Path, name: str, unit: str, form: str, flags: bool
) -> None:
    chosen = ["--saved_model_tags=other,serve"] if flags else []
    status, body, answer, peak = measured(models, name, unit, form, *chosen)
    assert status == 200
    assert peak <= _FACTOR * max(body, answer) + min(body, answer) + _MARGIN, peak / body


def test_the_memory_of_a_document_is_borrowed_before_it_is_taken(servables: Servables) -> None:
    """A short text can describe a large amount of memory. The shared allowance limits it in every form."""
    rest = Rest(servables, max_tensor_bytes=2**30)
    for unit in ("[]", "{}", '"ab"', "[1,2],[3]", '{"a":[1]}', "null", '"\\n"', '{"b64":"AA=="}'):
        allowance = Allowance(2**22)
        body = bytearray(b'{"signature_name": "words", "instances": [' + ",".join([unit] * 200_000).encode() + b"]}")
        with Loan(allowance) as loan:
            answer = rest.answer("POST", "/v1/models/m:predict", body, None, loan)
        assert (answer.status, answer.body) == (
            429,
            b'{\n    "error": "The server is busy: the memory for requests is full."\n}',
        ), unit
        assert allowance.take(2**22)  # all memory was returned


def test_a_loan_comes_back_whatever_happens() -> None:
    allowance = Allowance(100)
    with Loan(allowance) as loan:
        loan.take(60)
        loan.take_anyway(30)
        loan.give_back(10)
        assert loan.size == 80
        with pytest.raises(NoMemoryError, match="memory for requests is full") as caught:
            loan.take(21)
    assert (caught.value.code, caught.value.status) == ("request.no-memory", Status.RESOURCE_EXHAUSTED)
    assert allowance.take(100)
