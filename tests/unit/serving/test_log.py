import io
import logging
import re
import subprocess
import sys

import pytest

from sealserve.serving import log
from sealserve.serving.log import DiscreetFormatter


def render(error: Exception) -> str:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(DiscreetFormatter())
    logger = logging.Logger("test")  # noqa: LOG001  # one of its own: nothing of it stays behind
    logger.addHandler(handler)
    logger.error("failed", exc_info=error)
    return stream.getvalue()


def raised(*, explicit: bool) -> Exception:
    try:
        try:
            int("canary-1")
        except ValueError as error:
            fail("canary-2", error if explicit else None)
    except KeyError as error:
        return error
    raise AssertionError


def fail(text: str, cause: Exception | None) -> None:
    raise KeyError(text) from cause


NATIVE = """
import ctypes, logging, os, sys
from sealserve.serving import log
log.configure()
log.detach()
os.write(1, b"canary on 1"); os.write(2, b"canary on 2")
libc = ctypes.CDLL(None)
libc.puts(b"canary from C"); libc.fflush(None); libc.perror(b"canary of an error")
logging.getLogger("x").warning("the log")
sys.stderr.write("a report\\n")
"""


def test_what_native_libraries_write_does_not_reach_the_host() -> None:
    done = subprocess.run([sys.executable, "-c", NATIVE], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert re.fullmatch(r"\S+ WARNING the log\na report\n", done.stderr)


def test_a_line_has_the_time_the_level_and_the_message() -> None:
    stream = render(RuntimeError())
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ERROR failed\n", stream)


def test_a_traceback_says_where_and_what_type_and_nothing_else() -> None:
    text = render(raised(explicit=True))
    assert "in raised" in text
    assert "builtins.KeyError\ncaused by:\n" in text
    assert text.endswith("builtins.ValueError\n")
    assert "'canary-2'" not in text  # the message of KeyError
    assert "invalid literal" not in text  # the message of int()


def test_a_suppressed_cause_stays_out() -> None:
    assert "ValueError\n" not in render(raised(explicit=False)).rpartition("KeyError")[2]


def test_the_log_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        log.configure()
        logging.getLogger("anything").info("here")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    assert capsys.readouterr().err.endswith("Z INFO here\n")
