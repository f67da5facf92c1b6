import pytest

from sealserve.serving.lifecycle.transition import (
    Action,
    Decision,
    Phase,
    Snapshot,
    preserve_availability,
    preserve_resources,
)

NEW, LOADING, READY = Snapshot(Phase.NEW, True), Snapshot(Phase.LOADING, True), Snapshot(Phase.READY, True)
FAILED, OLD = Snapshot(Phase.ENDED, True), Snapshot(Phase.READY, False)
GOING, GONE = Snapshot(Phase.UNLOADING, False), Snapshot(Phase.ENDED, False)


@pytest.mark.parametrize(
    ("versions", "decision"),
    [
        ({}, None),
        ({1: NEW}, (Action.LOAD, 1)),
        ({1: NEW, 3: NEW, 2: NEW}, (Action.LOAD, 3)),
        ({1: OLD, 2: NEW}, (Action.LOAD, 2)),
        ({1: OLD, 2: LOADING}, None),
        ({1: OLD, 2: READY}, (Action.UNLOAD, 1)),
        ({1: OLD, 2: FAILED}, None),
        ({1: OLD, 2: OLD, 3: LOADING}, (Action.UNLOAD, 1)),
        ({1: OLD}, (Action.UNLOAD, 1)),
        ({1: GOING, 2: READY}, None),
        ({1: OLD, 2: READY, 3: NEW}, (Action.UNLOAD, 1)),
    ],
)
def test_availability_preserving_keeps_an_old_version_until_a_new_one_serves(
    versions: dict[int, Snapshot], decision: Decision
) -> None:
    assert preserve_availability(versions) == decision


@pytest.mark.parametrize(
    ("versions", "decision"),
    [
        ({}, None),
        ({1: NEW}, (Action.LOAD, 1)),
        ({1: OLD, 2: NEW}, (Action.UNLOAD, 1)),
        ({1: GOING, 2: NEW}, None),
        ({1: GONE, 2: NEW, 3: NEW}, (Action.LOAD, 3)),
    ],
)
def test_resource_preserving_never_holds_both(versions: dict[int, Snapshot], decision: Decision) -> None:
    assert preserve_resources(versions) == decision
