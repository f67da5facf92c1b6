import random
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.harness.errors import raises

from sealserve.errors import InputError, VerificationError
from sealserve.serving.lifecycle.manager import Manager, Retries
from sealserve.serving.lifecycle.transition import Policy, preserve_availability, preserve_resources
from sealserve.serving.request_errors import RequestCode, RequestError, Status
from sealserve.serving.runtime.protos import ModelSpec
from sealserve.serving.servables import Servable, Servables, State


class BrokenError(InputError):
    code = "test.broken"


class TamperedError(VerificationError):
    code = "test.tampered"


class FakeSession:
    """A session that only records whether it was closed."""

    library: Any = None

    def __init__(self) -> None:
        self.closed = threading.Event()

    def run(self, *_arguments: Any, **_options: Any) -> list[Any]:
        raise NotImplementedError

    def close(self) -> None:
        assert not self.closed.is_set()
        self.closed.set()


class World:
    """A manager of models that load when a test permits it."""

    def __init__(self, policy: Policy = preserve_availability, retries: int = 0, interval: float = 0.0) -> None:
        self.table = Servables()
        self.attempts: list[tuple[str, int]] = []
        self.sessions: dict[tuple[str, int], FakeSession] = {}
        self.held: dict[int, threading.Event] = {}
        self.broken: dict[int, Exception] = {}
        self.manager = Manager(
            self.table,
            self.load,
            policy=policy,
            retries=Retries(count=retries, interval=interval),
            load_threads=2,
            unload_threads=2,
        )

    def load(self, name: str, version: int, folder: Path) -> Servable:
        self.attempts.append((name, version))
        assert folder == Path(str(version))
        if version in self.held:
            assert self.held[version].wait(60)
        if version in self.broken:
            raise self.broken[version]
        session = self.sessions[name, version] = FakeSession()
        return Servable(name=name, version=version, session=session, definitions={}, signatures={})

    def aspire(self, *versions: int, name: str = "m") -> None:
        self.manager.aspire(name, {version: Path(str(version)) for version in versions})

    def states(self, name: str = "m") -> Mapping[int, State]:
        return {version: entry.state for version, entry in sorted(self.table.states(name).items())}

    def wait(self, reached: Callable[[], bool]) -> None:
        self.manager.wait(reached)

    def wait_for(self, name: str = "m", **states: State) -> None:
        self.wait(lambda: self.states(name) == {int(version[1:]): state for version, state in states.items()})


def spec(name: str = "m") -> ModelSpec:
    return ModelSpec(name=name)


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.manager.close()


def test_a_version_comes_up_and_is_found(world: World) -> None:
    world.aspire(3)
    world.wait(lambda: world.manager.settled("m"))
    assert world.states() == {3: State.AVAILABLE}
    assert world.table.find(spec()).version == 3


def test_a_new_version_serves_before_the_old_one_goes(world: World) -> None:
    world.aspire(1)
    world.wait_for(v1=State.AVAILABLE)
    world.held[2] = threading.Event()
    world.aspire(2)
    assert world.states() == {1: State.AVAILABLE, 2: State.LOADING}
    assert world.table.find(spec()).version == 1
    world.held[2].set()
    world.wait_for(v1=State.END, v2=State.AVAILABLE)
    assert world.table.find(spec()).version == 2
    assert world.sessions["m", 1].closed.is_set()


def test_an_old_version_is_freed_after_its_last_request(world: World) -> None:
    world.aspire(1)
    world.wait_for(v1=State.AVAILABLE)
    with world.table.use(spec()) as servable:
        world.aspire(2)
        world.wait_for(v1=State.UNLOADING, v2=State.AVAILABLE)
        assert servable.version == 1
        assert not world.sessions["m", 1].closed.is_set()
        with world.table.use(spec()) as newer:
            assert newer.version == 2
    world.wait_for(v1=State.END, v2=State.AVAILABLE)
    assert world.sessions["m", 1].closed.is_set()


def test_no_request_fails_while_versions_change(world: World) -> None:
    world.aspire(1)
    world.wait_for(v1=State.AVAILABLE)
    stopping, failures = threading.Event(), []

    def ask() -> None:
        while not stopping.is_set():
            try:
                with world.table.use(spec()) as servable:
                    session = servable.session
                    assert isinstance(session, FakeSession)
                    if session.closed.is_set():
                        failures.append(servable.version)
            except RequestError as error:
                if error.code != RequestCode.SERVABLE_NOT_FOUND:
                    raise
                failures.append(0)

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    for version in range(2, 60):
        world.aspire(version)
        world.wait(lambda: world.manager.settled("m"))
    stopping.set()
    for asker in askers:
        asker.join()
    assert failures == []


def test_no_request_fails_while_roll_backs_overtake_loads() -> None:  # noqa: C901  # it tells the errors of two threads apart
    """A thousand reloads of two models that do not wait for each other. Some versions fail to load."""
    world = World()
    choose = random.Random(1)  # noqa: S311  # the same sequence each time
    world.broken[4] = BrokenError("no SavedModel")
    for name in ("m", "n"):
        world.aspire(1, name=name)
        world.wait_for(name, v1=State.AVAILABLE)
    stopping, failures = threading.Event(), []

    def ask(name: str) -> None:
        while not stopping.is_set():
            try:
                with world.table.use(spec(name)) as servable:
                    session = servable.session
                    assert isinstance(session, FakeSession)
                    if session.closed.is_set():
                        failures.append(servable.version)
            except RequestError as error:
                if error.code != RequestCode.SERVABLE_NOT_FOUND:
                    raise
                failures.append(0)

    askers = [threading.Thread(target=ask, args=(name,)) for name in ("m", "n")]
    for asker in askers:
        asker.start()
    for _ in range(1000):
        world.aspire(*choose.sample(range(1, 5), choose.choice([1, 1, 2])), name=choose.choice(["m", "n"]))
    for name in ("m", "n"):
        world.aspire(3, name=name)
    world.wait(lambda: all(world.states(name).get(3) is State.AVAILABLE for name in ("m", "n")))
    world.wait(lambda: all(set(world.manager._models[name].versions) == {3} for name in ("m", "n")))
    stopping.set()
    for asker in askers:
        asker.join()
    assert failures == []
    world.manager.close()


def test_quick_reloads_do_not_load_what_was_given_up() -> None:
    world = World()
    world.aspire(1)
    world.wait_for(v1=State.AVAILABLE)
    world.held = {2: threading.Event(), 3: threading.Event()}
    world.aspire(2, 3)  # the two threads that load
    while len(world.attempts) < 3:
        pass
    for version in range(4, 304):
        world.aspire(version)
    world.aspire(1)
    assert world.table.find(spec()).version == 1
    for held in world.held.values():
        held.set()
    world.wait(lambda: set(world.manager._models["m"].versions) == {1})
    assert len(world.attempts) == 3
    assert world.states()[1] is State.AVAILABLE
    world.manager.close()


def test_resource_preserving_frees_the_old_version_first() -> None:
    world = World(preserve_resources)
    world.aspire(1)
    world.wait_for(v1=State.AVAILABLE)
    with world.table.use(spec()):
        world.aspire(2)
        world.wait_for(v1=State.UNLOADING, v2=State.START)
        with raises(RequestCode.SERVABLE_NOT_FOUND):
            world.table.find(spec())
    world.wait_for(v1=State.END, v2=State.AVAILABLE)
    world.manager.close()


def test_a_broken_version_has_its_error_and_the_others_go_on(world: World) -> None:
    world.broken[2] = BrokenError("no SavedModel")
    world.aspire(1, 2)
    world.wait(lambda: world.manager.settled("m"))
    assert world.states() == {1: State.AVAILABLE, 2: State.END}
    health = world.table.states("m")[2].health
    assert (health.status, health.message) == (Status.INVALID_ARGUMENT, "no SavedModel")
    assert world.manager.errors("m") == {}
    world.aspire(1, 2)
    assert world.attempts.count(("m", 2)) == 1


def test_a_broken_new_version_leaves_the_old_one(world: World) -> None:
    world.aspire(1)
    world.wait_for(v1=State.AVAILABLE)
    world.broken[2] = BrokenError("no SavedModel")
    world.aspire(2)
    world.wait_for(v1=State.AVAILABLE, v2=State.END)
    assert world.table.find(spec()).version == 1
    assert set(world.manager.errors("m")) == {2}


def test_what_nobody_foresaw_is_internal(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.broken[1] = ZeroDivisionError("secret")
    world.aspire(1)
    world.wait_for(v1=State.END)
    assert world.table.states("m")[1].health.message == "internal"
    assert "failed with an unexpected error" in caplog.text


def test_a_load_is_tried_again_and_one_that_does_not_verify_is_not() -> None:
    world = World(retries=2)
    world.broken[1] = BrokenError("no SavedModel")
    world.broken[2] = TamperedError("changed")
    world.aspire(1, 2)
    world.wait(lambda: world.manager.settled("m"))
    assert (world.attempts.count(("m", 1)), world.attempts.count(("m", 2))) == (3, 1)
    assert world.table.states("m")[2].health.status is Status.DATA_LOSS
    world.manager.close()


def test_a_version_that_is_not_wanted_any_more_is_not_tried_again() -> None:
    world = World(retries=5, interval=3600.0)
    world.broken[1] = BrokenError("no SavedModel")
    world.aspire(1)
    while ("m", 1) not in world.attempts:
        pass
    world.aspire(2)
    world.wait_for(v1=State.END, v2=State.AVAILABLE)
    assert world.table.states("m")[1].health.status is Status.CANCELLED
    world.manager.close()


def test_a_version_that_is_wanted_no_more_while_it_loads_never_serves(world: World) -> None:
    world.held[1] = threading.Event()
    world.aspire(1)
    world.aspire()
    world.held[1].set()
    world.wait_for(v1=State.END)
    assert world.sessions["m", 1].closed.is_set()


def test_a_version_that_is_going_and_wanted_again_comes_back(world: World) -> None:
    world.aspire(1)
    world.wait_for(v1=State.AVAILABLE)
    with world.table.use(spec()):
        world.aspire()
        world.wait_for(v1=State.UNLOADING)
        world.aspire(1)
        assert world.states() == {1: State.UNLOADING}
    world.wait_for(v1=State.AVAILABLE)


def test_models_do_not_wait_for_each_other(world: World) -> None:
    world.held[7] = threading.Event()
    world.aspire(7, name="slow")
    world.aspire(1)
    world.wait_for(v1=State.AVAILABLE)
    assert world.states("slow") == {7: State.LOADING}
    world.held[7].set()


def test_closing_frees_everything() -> None:
    world = World()
    world.aspire(1, 2)
    world.wait_for(v1=State.AVAILABLE, v2=State.AVAILABLE)
    world.manager.close()
    assert all(session.closed.is_set() for session in world.sessions.values())
    with raises(RequestCode.SERVABLE_NOT_FOUND):
        world.table.find(spec())
