from collections.abc import Iterator

import pytest
from tests.harness.demo import Demo, demonstration


@pytest.fixture
def demo() -> Iterator[Demo]:
    """A demonstration that was not started yet, with a tiny model."""
    with demonstration() as made:
        yield made
