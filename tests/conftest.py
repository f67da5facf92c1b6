"""What all tests share: no example has a deadline, and hypothesis keeps no database in the checkout."""

import gc
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from tests.harness.signals import dispositions

from sealserve.sealing import node_cipher

if TYPE_CHECKING:
    from tests.harness.postgresql import Server

# gRPC starts its threads again in each child between fork and exec, where one that meets closed files ends the child.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

settings.register_profile(
    "sealserve", deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("sealserve")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a case of bytes by its argument: bytes may hold a time or a key, and all workers must name a case alike."""
    return argname if isinstance(val, (bytes, bytearray)) else None


def pytest_collection_finish() -> None:
    gc.collect()  # what was imported and collected stays: the collector need not go over it time and again
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _signals_of_a_terminal() -> Iterator[None]:
    """Let signals reach the tests and the processes that they start, under ``nohup`` and in a background job too."""
    with dispositions():
        yield


@pytest.fixture(scope="module", params=["native", "python"])
def each_cipher(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a module's tests twice: with the native cipher of sealed files, and with the one in Python."""
    cipher = node_cipher.native() if request.param == "native" else node_cipher.IN_PYTHON
    if cipher is None:
        pytest.skip("the native cipher is not compiled: `scripts/native.py --required` says why")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node_cipher, "DEFAULT", cipher)
        yield


@pytest.fixture(scope="session")
def postgresql() -> "Iterator[Server]":
    """A PostgreSQL server for this worker's tests; each test creates its own database."""
    from tests.harness.postgresql import running  # noqa: PLC0415  # a driver that most tests do not need

    with running() as server:
        yield server
