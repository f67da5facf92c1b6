"""What a test needs and a machine lacks: the test is skipped, but not where nothing may be missing, as in CI."""

import os
from typing import NoReturn

import pytest

_SETTING = "SEALSERVE_TESTS"


def missing(reason: str) -> NoReturn:
    """Skip the test for a reason; fail it where ``SEALSERVE_TESTS=all`` says that this machine has everything."""
    if os.environ.get(_SETTING) == "all":
        pytest.fail(f"{_SETTING}=all, and yet: {reason}")
    pytest.skip(reason)
