"""Status of a container, from the engine's data."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from sealserve.cluster.docker.container_status import ended_state, ending, error_of, health_of, read_time
from sealserve.cluster.docker.fleet import Running
from sealserve.cluster.target import Health, State

CONTAINER = Running(
    id="c", name="p-broker", role="broker", image="i", digest="d", release="", status="exited", health="unhealthy",
    ready="true", pid=None, networks=frozenset(), restarts=0, started="2026-11-28T12:00:00.123456789Z",
    finished="2026-11-28T12:00:05.5Z", exit_status=137,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({}, "it ended by signal 9 (SIGKILL)"),
        ({"exit_status": 128 + 99}, "it ended with exit status 227"),
        ({"exit_status": 0}, "it ended with exit status 0"),
        ({"out_of_memory": True}, "it ended because it ran out of memory"),
        ({"exit_status": 127, "error": "exec failed"}, "exec failed"),
    ],
)
def test_how_a_container_ended(changed: dict[str, object], text: str) -> None:
    found = ending(replace(CONTAINER, **changed))  # type: ignore[arg-type]
    assert (found.text, found.time) == (text, datetime(2026, 11, 28, 12, 0, 5, 500_000, tzinfo=UTC))


def test_an_error_in_the_log_has_precedence_over_the_exit_status() -> None:
    log = ["2026-11-28T12:00:04.1Z error[broker.database]: full.", "2026-11-28T12:00:04.2Z bye"]
    error = error_of(CONTAINER, log)
    assert error is not None
    assert (error.text, error.time) == (
        "error[broker.database]: full.", datetime(2026, 11, 28, 12, 0, 4, 100_000, tzinfo=UTC)
    )  # fmt: skip
    assert error_of(replace(CONTAINER, status="running"), []) is None


def test_states_and_times() -> None:
    refused = error_of(CONTAINER, ["error[provisioning.refused]: no"])
    assert ended_state(replace(CONTAINER, status="restarting"), refused) is State.REFUSED
    assert ended_state(replace(CONTAINER, status="created"), None) is State.STARTING
    assert ended_state(CONTAINER, refused) is State.ENDED
    assert health_of(CONTAINER) is Health.UNKNOWN
    assert health_of(replace(CONTAINER, status="running")) is Health.UNHEALTHY
    assert read_time("0001-01-01T00:00:00Z") is None
    assert read_time("soon") is None
