from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from sealserve.serving.wire.turns import Turns


def test_peers_take_turns_and_each_keeps_its_order() -> None:
    turns: Turns[str] = Turns()
    for number in range(1000):
        turns.add(b"crowd", f"crowd {number}")
    turns.add(b"a", "a 0")
    turns.add(b"a", "a 1")
    turns.add(b"b", "b 0")
    assert [turns.next() for _ in range(6)] == ["crowd 0", "a 0", "b 0", "crowd 1", "a 1", "crowd 2"]
    assert len(turns) == 997
    assert turns.remove("crowd 5")
    assert not turns.remove("crowd 5")
    assert [turns.next() for _ in range(3)] == ["crowd 3", "crowd 4", "crowd 6"]


@given(st.lists(st.one_of(st.sampled_from([b"a", b"b", b"c"]), st.none(), st.integers(0, 30))))
def test_nothing_is_lost_or_returned_twice(steps: list[bytes | int | None]) -> None:
    """A peer adds an item, None takes the next item, and a number removes an item."""
    turns: Turns[int] = Turns()
    waiting: dict[bytes, deque[int]] = {peer: deque() for peer in (b"a", b"b", b"c")}
    for number, step in enumerate(steps):
        present = [item for items in waiting.values() for item in items]
        if isinstance(step, bytes):
            turns.add(step, number)
            waiting[step].append(number)
        elif step is None:
            item = turns.next()
            assert (item is None) == (not present)
            if item is not None:
                (queue,) = (items for items in waiting.values() if item in items)
                assert queue.popleft() == item
        else:
            assert turns.remove(step) == (step in present)
            for items in waiting.values():
                if step in items:
                    items.remove(step)
        assert sorted(turns) == sorted(item for items in waiting.values() for item in items)
        assert len(turns) == len(list(turns))
    rest = [turns.next() for _ in range(len(turns))]
    assert turns.next() is None
    assert sorted(item for item in rest if item is not None) == sorted(
        item for items in waiting.values() for item in items
    )
