"""Pods as users see them: roles as on the other targets, start of the current run, address of the service."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.harness.errors import raises

from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.kubernetes.pod_logs import deployment_logs
from sealserve.cluster.kubernetes.pod_roles import roles
from sealserve.cluster.kubernetes.progress import run_of
from sealserve.cluster.kubernetes.service_address import addresses
from sealserve.cluster.logs.selection import LogSelection
from sealserve.workspace import Workspace


def pod(name: str, part: str, created: str = "2026-11-28T12:00:00Z") -> dict[str, Any]:
    labels = {"app.kubernetes.io/component": part}
    return {"metadata": {"name": name, "labels": labels, "creationTimestamp": created}}


def test_pods_have_the_names_of_the_other_targets() -> None:
    pods = [
        pod("a", "replicas", "2026-11-28T12:00:02Z"),
        pod("b", "front"),
        pod("c", "replicas", "2026-11-28T12:00:01Z"),
        pod("d", "simulated-platform"),
        pod("e", "broker"),
        pod("f", "front"),
    ]
    assert [(role, found["metadata"]["name"]) for role, found in roles(pods)] == [
        ("nginx", "b"), ("nginx", "f"), ("replica-0", "c"), ("replica-1", "a"), ("platform", "d"), ("broker", "e"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("terminated", "text"),
    [
        ({"exitCode": 137, "reason": "OOMKilled"}, "it ended because it ran out of memory"),
        ({"exitCode": 137, "reason": "Error"}, "it ended by signal 9"),
        ({"exitCode": 3, "message": "x\nerror[a.b]: no"}, "error[a.b]: no"),
    ],
)
def test_why_the_run_before_ended(terminated: dict[str, Any], text: str) -> None:
    status = {
        "state": {"running": {"startedAt": "2026-11-28T12:00:00Z"}},
        "lastState": {"terminated": {"finishedAt": "2026-11-28T11:59:59Z", **terminated}},
    }
    run = run_of({"status": {"containerStatuses": [status]}})
    assert run.error is not None
    assert run.error.text == text
    assert run.started == datetime(2026, 11, 28, 12, tzinfo=UTC)
    assert run.ended == run.error.time == datetime(2026, 11, 28, 11, 59, 59, tzinfo=UTC)


def test_a_pod_without_a_status_has_no_run() -> None:
    assert run_of({}).started is None
    odd = {"state": {"running": {"startedAt": "soon"}}, "lastState": None}
    assert run_of({"status": {"containerStatuses": [odd]}}).started is None


def test_where_users_reach_the_service() -> None:
    ports = [{"name": "grpc", "port": 8500, "nodePort": 30500}, {"name": "rest", "port": 8501}]
    service: dict[str, Any] = {"spec": {"ports": ports, "clusterIP": "fd00::7"}}
    assert addresses(service) == {"grpc": "NODE:30500", "rest": "[fd00::7]:8501"}
    service["status"] = {"loadBalancer": {"ingress": [{"hostname": "lb.example"}]}}
    assert addresses(service) == {"grpc": "lb.example:8500", "rest": "lb.example:8501"}


def test_logs_of_pods_are_merged_with_those_of_this_machine(tmp_path: Path) -> None:
    class Client:
        def stamped_log(self, space: str, pod: str, container: str, _selection: LogSelection) -> list[bytes]:
            assert (space, container) == ("space", "server")
            return [f"2026-11-28T12:00:0{len(pod)}Z hello from {pod}".encode()]

    workspace = Workspace(tmp_path)
    workspace.create()
    (workspace.owner.logs / "broker.log").write_text("2026-11-28T12:00:02.000Z INFO released\n")
    pods = [pod("aaa", "replicas"), pod("b", "front")]
    for item in pods:
        item["metadata"]["namespace"], item["spec"] = "space", {"containers": [{"name": "server"}]}
    client: Any = Client()

    def shown(part: str | None) -> list[tuple[str, str, str]]:
        found = deployment_logs(client, workspace, part, LogSelection(), pods=pods, local=["broker"])
        return [(line.part, line.instance, line.text) for line in found]

    nginx, broker = ("nginx", "b", "hello from b"), ("broker", "", "released")
    replica = ("replica-0", "aaa", "hello from aaa")
    assert shown(None) == [nginx, broker, replica]
    assert shown("replica-0") == shown("aaa") == [replica]
    assert shown("broker") == [broker]
    with raises(
        ClusterCode.LOGS_UNKNOWN_PART,
        match="No log of pcs exists. Choose a part that has a log: nginx, replica-0, broker",
    ):
        shown("pcs")
