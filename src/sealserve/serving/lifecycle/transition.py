"""Decides the order of loads and unloads, as pure functions of the states of one model's versions.

Source: tensorflow/serving, ``core/availability_preserving_policy.cc``, ``core/resource_preserving_policy.cc`` and
``core/aspired_version_policy.cc`` (``GetHighestAspiredNewServableId``).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum


class Phase(Enum):
    """The phase of a version in the manager (``LoaderHarness::State``; the steps of one thread are one phase here)."""

    NEW = "new"
    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"
    ENDED = "ended"


class Action(Enum):
    """The next step for a version."""

    LOAD = "load"
    UNLOAD = "unload"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of one version in the form that policies use.

    Args:
        phase: The version's phase.
        aspired: Whether it is still wanted.
    """

    phase: Phase
    aspired: bool


Decision = tuple[Action, int] | None
Policy = Callable[[Mapping[int, Snapshot]], Decision]
"""Returns the next step for one model: an action and a version, or None if no step is possible."""


def preserve_availability(versions: Mapping[int, Snapshot]) -> Decision:
    """Load new versions before old versions are unloaded, so that some version always answers."""
    aspired = [version for version in versions.values() if version.aspired]
    leaving = [number for number, version in versions.items() if not version.aspired and version.phase is Phase.READY]
    serving = any(version.phase is Phase.READY for version in aspired)
    if leaving and (not aspired or serving or len(leaving) > 1):
        return Action.UNLOAD, min(leaving)
    return _load_highest(versions)


def preserve_resources(versions: Mapping[int, Snapshot]) -> Decision:
    """Unload old versions before new versions are loaded, so that only wanted versions use memory."""
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
