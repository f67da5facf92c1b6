"""In which order versions come and go: pure decisions over the states of one model's versions.

Source: tensorflow/serving, ``core/availability_preserving_policy.cc``, ``core/resource_preserving_policy.cc`` and
``core/aspired_version_policy.cc`` (``GetHighestAspiredNewServableId``).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum


class Phase(Enum):
    """How far the manager is with a version (``LoaderHarness::State``, the steps of one thread taken as one)."""

    NEW = "new"
    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"
    ENDED = "ended"


class Action(Enum):
    """What to do with a version."""

    LOAD = "load"
    UNLOAD = "unload"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version as the policy sees it.

    Args:
        phase: How far it is.
        aspired: Whether it is still wanted.
    """

    phase: Phase
    aspired: bool


Decision = tuple[Action, int] | None
Policy = Callable[[Mapping[int, Snapshot]], Decision]
"""The next step for one model: what to do with which version, or None where there is nothing to do."""


def preserve_availability(versions: Mapping[int, Snapshot]) -> Decision:
    """Load new versions before the old ones go, so that some version always answers."""
    aspired = [version for version in versions.values() if version.aspired]
    leaving = [number for number, version in versions.items() if not version.aspired and version.phase is Phase.READY]
    serving = any(version.phase is Phase.READY for version in aspired)
    if leaving and (not aspired or serving or len(leaving) > 1):
        return Action.UNLOAD, min(leaving)
    return _load_highest(versions)


def preserve_resources(versions: Mapping[int, Snapshot]) -> Decision:
    """Unload the old versions before new ones come, so that never more than the wanted ones take memory."""
    for number, version in versions.items():
        if not version.aspired and version.phase is Phase.READY:
            return Action.UNLOAD, number
    if any(
        version.phase is Phase.UNLOADING or (not version.aspired and version.phase is not Phase.ENDED)
        for version in versions.values()
    ):
        return None
    return _load_highest(versions)


def _load_highest(versions: Mapping[int, Snapshot]) -> Decision:
    fresh = [number for number, version in versions.items() if version.aspired and version.phase is Phase.NEW]
    return (Action.LOAD, max(fresh)) if fresh else None
