"""A service with fixed keys on a simulated platform. Tests do not change it."""

import pytest
from scripts.attested_example import Example


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    return Example(tmp_path_factory.mktemp("vendor") / "vendor")
