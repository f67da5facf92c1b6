from typing import Any

import pytest

from sealserve.cluster.kubernetes.progress import UNREADY, last_error, state_of
from sealserve.cluster.target import State

REFUSED = "2026-01-01 error[provisioning.refused]: The broker at b:4433 refused this enclave.\n"


def pod(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "status": status}


def container(name: str = "server", **state: Any) -> dict[str, Any]:
    return {"name": name, "state": {}, "lastState": {}, **state}


def test_a_ready_pod_serves() -> None:
    assert state_of(pod(conditions=[{"type": "Ready", "status": "True"}])) == (State.SERVING, "")


def test_a_pod_that_has_its_key_is_attested() -> None:
    log = ["x INFO step=measured enclave=server", "x INFO step=key key_name=release bytes=16"]
    assert state_of(pod(containerStatuses=[container()]), log) == (State.ATTESTED, "loading the model")
    assert state_of(pod(containerStatuses=[container()]), log[:1]) == (State.STARTING, "")


def test_a_replica_whose_readiness_probe_fails_is_not_loading() -> None:
    """A replica that hangs has an old log, which no longer shows its attestation."""
    hanging = container(started=True, ready=False, state={"running": {}})
    for log in ([], ["x INFO step=key bytes=16"]):
        assert state_of(pod(containerStatuses=[hanging]), log) == (State.ATTESTED, UNREADY)
    assert state_of(pod(containerStatuses=[{**hanging, "started": False}])) == (State.STARTING, "")
    nginx = {**hanging, "name": "nginx"}  # it has no startup probe
    assert state_of(pod(containerStatuses=[nginx])) == (State.STARTING, "")


def test_the_progress_of_a_pod_before_its_attestation() -> None:
    fetching = container("fetch", state={"running": {"startedAt": "2026-01-01T00:00:00Z"}})
    assert state_of(pod(initContainerStatuses=[fetching])) == (
        State.STARTING, "preparing the release (fetch)"
    )  # fmt: skip
    asking = ["x INFO step=measured enclave=server", "x INFO step=quote bytes=4734"]
    state, reason = state_of(pod(containerStatuses=[container()]), asking)
    assert (state, reason) == (State.STARTING, "waiting for the broker to check its quote and release the key")
    _, reason = state_of(pod(containerStatuses=[container()]), [*asking, "error[provisioning.unreachable]: no answer"])
    assert reason == "error[provisioning.unreachable]: no answer"


def test_a_refused_enclave_says_why() -> None:
    ended = container(lastState={"terminated": {"exitCode": 3, "message": f"x\n{REFUSED}"}})
    state, reason = state_of(pod(containerStatuses=[ended]))
    assert state is State.REFUSED
    assert reason == "server: error[provisioning.refused]: The broker at b:4433 refused this enclave."


def test_a_pod_that_got_its_key_after_a_refusal_is_attested() -> None:
    refused = {"terminated": {"exitCode": 3, "message": REFUSED}}
    got_it = ["x INFO step=quote bytes=4734", "x INFO step=key bytes=16"]
    again = container(state={"running": {}}, lastState=refused)
    assert state_of(pod(containerStatuses=[again]), got_it) == (State.ATTESTED, "loading the model")
    assert state_of(pod(containerStatuses=[again]), got_it[:1])[0] is State.REFUSED
    ended = container(state={"waiting": {"reason": "CrashLoopBackOff"}}, lastState=refused)
    assert state_of(pod(containerStatuses=[ended]), got_it)[0] is State.REFUSED


def test_errors_of_an_init_container_are_shown() -> None:
    found = "error[release.file-digest]: models/a is not what it was."
    ended = container("fetch", state={"terminated": {"exitCode": 3, "message": found}})
    state, reason = state_of(pod(initContainerStatuses=[ended]))
    assert (state, reason) == (State.REFUSED, f"fetch: {found}")


def test_an_image_that_cannot_be_had() -> None:
    waiting = container(state={"waiting": {"reason": "ErrImageNeverPull", "message": "not present"}})
    state, reason = state_of(pod(containerStatuses=[waiting]))
    assert (state, reason) == (State.STARTING, "server: ErrImageNeverPull: not present")


@pytest.mark.parametrize(("code", "final"), [("store-unreachable", False), ("store-refused", True)])
def test_a_store_that_is_away_is_waited_for(code: str, final: bool) -> None:
    ended = container("fetch", state={"terminated": {"exitCode": 4, "message": f"error[release.{code}]: Alas."}})
    assert state_of(pod(initContainerStatuses=[ended]))[0] is (State.REFUSED if final else State.STARTING)


def test_a_broker_that_is_away_is_waited_for() -> None:
    ended = container(
        lastState={"terminated": {"exitCode": 4, "message": "error[provisioning.unreachable]: The broker is down."}}
    )
    state, reason = state_of(pod(containerStatuses=[ended]))
    assert state is State.STARTING
    assert "provisioning.unreachable" in reason


def test_a_pod_that_no_node_has_capacity_for() -> None:
    conditions = [{"type": "PodScheduled", "status": "False", "message": "Insufficient sgx.intel.com/epc."}]
    assert state_of(pod(conditions=conditions))[1] == "no node has capacity: Insufficient sgx.intel.com/epc."


def test_a_pod_that_is_deleted_finishes() -> None:
    leaving = pod(conditions=[{"type": "Ready", "status": "True"}])
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert state_of(leaving)[0] is State.LEAVING


@pytest.mark.parametrize("message", ["", "Killed"])
def test_an_end_without_a_reason_tells_its_status(message: str) -> None:
    ended = container(lastState={"terminated": {"exitCode": 137, "message": message}})
    assert state_of(pod(containerStatuses=[ended]))[1] == "server: it ended by signal 9"


def test_the_last_error_counts() -> None:
    assert last_error(["error[a.b]: one", "error[c.d]: two", "x"]) == "error[c.d]: two"
    assert last_error(["x"]) is None
