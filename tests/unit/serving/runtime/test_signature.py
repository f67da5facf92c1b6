"""The outputs that are computed for a client's selection."""

from collections.abc import Sequence
from itertools import permutations, product
from typing import Any

from sealserve.serving.runtime.libtensorflow import Endpoint
from sealserve.serving.runtime.signature import MOST_SELECTIONS, Signature


class Recording:
    """A session that returns the index of each output, and records the requested outputs."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []

    def run(self, feeds: Sequence[Any], fetches: Sequence[Endpoint], *, timeout: float | None = None) -> list[Any]:
        assert not feeds
        assert timeout is None
        self.asked.append(tuple(endpoint.index for endpoint in fetches))
        return [endpoint.index for endpoint in fetches]


def signature(outputs: int) -> Any:
    return Signature(name="s", inputs={}, outputs={f"o{index}": Endpoint(None, index) for index in range(outputs)})


def test_the_order_of_outputs_is_not_an_executor_of_its_own() -> None:
    session, tried = Recording(), signature(5)
    for names in permutations(["o0", "o2", "o4"]):
        assert list(tried.run(session, {}, names, timeout=None).items()) == [(name, int(name[1:])) for name in names]
    assert set(session.asked) == {(0, 2, 4)}


def test_many_selections_end_in_computing_all_outputs() -> None:
    session, tried = Recording(), signature(8)
    for _ in range(2):
        for chosen in product([False, True], repeat=8):
            names = [f"o{index}" for index, wanted in enumerate(chosen) if wanted]
            found: dict[str, Any] = tried.run(session, {}, names, timeout=None)
            assert found == {name: int(name[1:]) for name in names}
    assert len(set(session.asked)) <= MOST_SELECTIONS + 1
    assert tuple(range(8)) in session.asked
    assert (7,) in session.asked, "the first selections are computed alone"
