"""The fuzz targets of the model server, run on their seeds and on slightly changed seeds."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz import open_inference, predict_request, rest_json, server_config

pytestmark = pytest.mark.tensorflow

TARGETS: tuple[Any, ...] = (rest_json, server_config, predict_request, open_inference)
SEEDS = {target: list(target.seeds()) for target in TARGETS}


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__.rpartition(".")[2])
def test_seeds(target: Any) -> None:
    for seed in SEEDS[target]:
        target.fuzz(seed)
    target.fuzz(b"")


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__.rpartition(".")[2])
@settings(max_examples=300)
@given(data=st.data())
def test_changed_seeds(target: Any, data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(SEEDS[target])))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        stop = data.draw(st.integers(start, min(start + 3, len(content))))
        content[start:stop] = data.draw(st.binary(max_size=3))
    target.fuzz(bytes(content))
