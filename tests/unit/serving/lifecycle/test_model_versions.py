"""The state machine of one model. No sequence of requests, loads and failures causes an unrequested gap in serving."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sealserve.errors import InputError, SealserveError
from sealserve.serving.lifecycle.model_versions import ModelVersions
from sealserve.serving.lifecycle.transition import Action, Phase, Policy, preserve_availability, preserve_resources
from sealserve.serving.servables import State

NUMBERS = st.integers(1, 4)


class BrokenError(InputError):
    code = "test.broken"


def folders(*numbers: int, base: str = "a") -> Mapping[int, Path]:
    return {number: Path(base, str(number)) for number in numbers}


class Model:
    """A model whose loads and unloads end when a test permits it."""

    def __init__(self, policy: Policy = preserve_availability) -> None:
        self.states: dict[int, State] = {}
        self.machine = ModelVersions(policy, self.states.__setitem__)
        self.wanted: Mapping[int, Path] = {}

    def phases(self) -> dict[int, Phase]:
        return {number: version.phase for number, version in self.machine.versions.items()}

    def ready(self) -> set[int]:
        return {number for number, phase in self.phases().items() if phase is Phase.READY}

    def under_way(self) -> list[int]:
        return [number for number, phase in self.phases().items() if phase in {Phase.LOADING, Phase.UNLOADING}]

    def aspire(self, *numbers: int, base: str = "a") -> None:
        self.wanted = folders(*numbers, base=base)
        self.machine.aspire(self.wanted)
        self.advance()

    def advance(self) -> None:
        while self.machine.step() is not None:
            self.check()

    def check(self) -> None:
        """Called after each step."""

    def end(self, number: int, error: SealserveError | None = None) -> None:
        """End the load or unload of a version."""
        version = self.machine.versions[number]
        if version.phase is Phase.LOADING and error is None and not version.unwanted.is_set():
            servable: Any = object()
            if not self.machine.loaded(number, servable):
                self.machine.ended(number)
        else:
            self.machine.ended(number, error if version.phase is Phase.LOADING else None)
        self.advance()


@pytest.fixture
def model() -> Model:
    """A model whose version 1 serves."""
    made = Model()
    made.aspire(1)
    made.end(1)
    assert made.ready() == {1}
    return made


def test_a_roll_back_while_the_new_version_loads_takes_effect_at_once(model: Model) -> None:
    model.aspire(2)
    model.aspire(1)
    assert model.phases() == {1: Phase.READY, 2: Phase.LOADING}
    assert model.machine.settled
    model.end(2)
    assert model.phases() == {1: Phase.READY}


def test_a_roll_back_while_the_old_version_unloads_keeps_the_new_one_until_the_old_one_is_back(model: Model) -> None:
    model.aspire(2)
    model.end(2)
    assert model.phases() == {1: Phase.UNLOADING, 2: Phase.READY}
    model.aspire(1)
    assert model.ready() == {2}
    model.end(1)
    assert model.phases() == {1: Phase.LOADING, 2: Phase.READY}
    model.end(1)
    assert model.phases() == {1: Phase.READY, 2: Phase.UNLOADING}


def test_a_roll_back_after_the_new_version_failed_takes_effect_at_once(model: Model) -> None:
    model.aspire(2)
    model.end(2, BrokenError("no SavedModel"))
    assert model.phases() == {1: Phase.READY, 2: Phase.ENDED}
    model.aspire(1)
    assert model.phases() == {1: Phase.READY}
    assert model.machine.settled


def test_a_version_that_is_wanted_again_while_it_loads_serves(model: Model) -> None:
    model.aspire(2)
    model.aspire(1)
    model.aspire(2)
    assert not model.machine.versions[2].unwanted.is_set()
    model.end(2)
    assert model.phases() == {1: Phase.UNLOADING, 2: Phase.READY}


def test_a_load_that_was_cancelled_and_is_wanted_again_begins_anew(model: Model) -> None:
    model.aspire(2)
    model.aspire(1)
    model.machine.versions[2].want(Path("a/2"))  # between the end of the load's thread and its report
    model.machine.ended(2)
    model.advance()
    assert model.phases()[2] is Phase.LOADING


def test_a_version_from_another_folder_is_loaded_again_and_another_one_serves_meanwhile(model: Model) -> None:
    model.aspire(2)
    model.aspire(1, base="b")
    assert model.phases() == {1: Phase.READY, 2: Phase.LOADING}
    assert not model.machine.settled
    model.end(2)
    assert model.ready() == {2}
    model.end(1)
    assert model.ready() == {2}
    assert model.machine.versions[1].folder == Path("b/1")
    model.end(1)
    assert model.ready() == {1}


def test_a_loaded_version_stays_if_only_its_folder_changes(model: Model) -> None:
    model.aspire(1, base="b")
    assert model.phases() == {1: Phase.READY}
    assert model.machine.versions[1].folder == Path("a/1")


def test_a_failed_version_is_tried_again_from_another_folder_only() -> None:
    model = Model()
    model.aspire(1)
    model.end(1, BrokenError("no SavedModel"))
    model.aspire(1)
    assert model.phases() == {1: Phase.ENDED}
    model.aspire(1, base="b")
    assert model.phases() == {1: Phase.LOADING}


def test_a_version_that_moves_while_it_loads_leaves_no_gap(model: Model) -> None:
    model.aspire(2)
    model.aspire(2, base="b")
    assert model.ready() == {1}
    model.end(2)
    assert model.phases() == {1: Phase.READY, 2: Phase.LOADING}
    model.end(2)
    assert model.ready() == {2}


def test_a_model_that_is_removed_and_comes_back(model: Model) -> None:
    model.aspire()
    assert model.phases() == {1: Phase.UNLOADING}
    model.aspire(1)
    assert not model.machine.settled
    model.end(1)
    model.end(1)
    assert model.phases() == {1: Phase.READY}


def test_preserving_resources_waits_for_a_version_that_comes_back() -> None:
    model = Model(preserve_resources)
    model.aspire(1)
    model.end(1)
    model.aspire(2)
    model.aspire(1, 3)
    assert model.phases() == {1: Phase.UNLOADING, 3: Phase.NEW}
    model.end(1)
    assert model.phases() == {1: Phase.LOADING, 3: Phase.LOADING}


class Sequences(RuleBasedStateMachine):
    """Any sequence of reloads, load failures and completions, under either policy."""

    @initialize(policy=st.sampled_from([preserve_availability, preserve_resources]))
    def begin(self, policy: Policy) -> None:
        self.available = policy is preserve_availability
        self.model = Model(policy)
        self.before: set[int] = set()
        self.bases = {"a"}
        self.model.check = self.no_gap  # type: ignore[method-assign]  # look at each step, not only at each rule

    def no_gap(self) -> None:
        ready, wanted = self.model.ready(), self.model.wanted
        if self.available and self.before and not ready:
            # Only two requests may leave a model without a version: one for no version, and one for the very
            # versions that serve, from another folder.
            assert not wanted or self.before <= wanted.keys()
            assert not wanted or len(self.bases) > 1
        self.before = ready

    @rule(numbers=st.sets(NUMBERS), base=st.sampled_from(["a", "a", "a", "b"]))
    def reload(self, numbers: set[int], base: str) -> None:
        self.bases.add(base)
        self.model.aspire(*numbers, base=base)

    @rule(numbers=st.sets(NUMBERS, min_size=1))
    def reload_in_place(self, numbers: set[int]) -> None:
        self.model.aspire(*numbers)

    @precondition(lambda self: self.model.under_way())
    @rule(data=st.data(), fails=st.booleans())
    def end(self, data: st.DataObject, fails: bool) -> None:
        number = data.draw(st.sampled_from(self.model.under_way()))
        self.model.end(number, BrokenError("no SavedModel") if fails else None)

    @rule()
    def everything_settles(self) -> None:
        """When each load has succeeded, exactly the wanted versions are loaded."""
        for _ in range(100):
            if not self.model.under_way():
                break
            self.model.end(self.model.under_way()[0])
        assert not self.model.under_way()
        failed = {number for number, phase in self.model.phases().items() if phase is Phase.ENDED}
        if not failed:
            assert self.model.ready() == set(self.model.wanted)
        assert set(self.model.wanted) <= set(self.model.phases())
        assert self.model.machine.settled == bool(self.model.wanted)

    @invariant()
    def consistent(self) -> None:
        self.no_gap()
        for version in self.model.machine.versions.values():
            assert version.unwanted.is_set() == (version.wanted != version.folder)
            if version.phase in {Phase.NEW, Phase.ENDED}:
                assert version.wanted == version.folder


TestSequences = Sequences.TestCase


def test_the_search_finds_the_gap_of_a_policy_that_leaves_one() -> None:
    model = Model(lambda versions: (Action.UNLOAD, 1) if versions[1].phase is Phase.READY else None)
    model.machine.aspire(folders(1))
    model.machine.versions[1].phase = Phase.READY
    sequences = Sequences()
    sequences.available, sequences.model, sequences.before, sequences.bases = True, model, {1}, {"a"}
    model.wanted = folders(1)
    model.machine.step()
    with pytest.raises(AssertionError):
        sequences.no_gap()
