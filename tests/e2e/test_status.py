"""`status` tells the truth about a deployment whose parts are killed, with an exit status for scripts."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from tests.harness.running import Running, deployment

from sealserve.cluster.local.processes import wait_until

SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "reference" / "status.schema.json"
pytestmark = [pytest.mark.e2e, pytest.mark.tensorflow]


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Iterator[Running]:
    """A deployment that runs."""
    with deployment(capsys) as running:
        running.up()
        yield running


def test_each_part_that_is_killed_is_told(here: Running) -> None:
    well = here("status", "--json")
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.validate(well.json, schema)
    assert (well.status, well.json["state"]) == (0, "well"), well.json
    assert {part["health"] for part in well.json["parts"] if part["port"] is not None} == {"healthy"}
    assert well.json["certificates"]
    assert here("predict").status == 0
    assert wait_until(lambda: here.parts()["nginx"]["connections"] == 1, seconds=30)

    # An error of an earlier run is in the broker's log. It is not the reason for what happens now.
    log = here.site.workspace.owner.logs / "broker.log"
    former = "2020-01-01T00:00:00.000Z ERROR error[broker.port-taken]: Port 4433 on 127.0.0.1 is taken.\n"
    log.write_text(former + log.read_text())

    # The supervisor comes first: it would start the others again.
    for role, status in (
        ("supervisor", 5),
        ("pcs", 5),
        ("broker", 5),
        ("replica-1", 5),
        ("platform", 5),
        ("replica-0", 6),
        ("nginx", 6),
    ):
        os.kill(here.parts()[role]["pid"], signal.SIGKILL)
        assert wait_until(lambda role=role: here.states()[role] == "ended", seconds=60)  # type: ignore[misc]
        found = here("status", "--json")
        assert found.status == status, (role, found.json)
        assert f"{role} has ended." in found.json["problems"]
        part = {part["role"]: part for part in found.json["parts"]}[role]
        assert "port-taken" not in part["error"]
        assert part["uptime_seconds"] is None
    assert "Only 0 of 2 replicas are ready." in found.json["problems"]
    shown = here("status")
    assert shown.status == 6
    assert "port-taken" not in shown.out


def test_a_part_that_is_not_recorded_any_more_is_missing(here: Running) -> None:
    record = here.site.workspace.host.run / "local.json"
    rows = json.loads(record.read_text())
    record.write_text(json.dumps([row for row in rows if row["role"] != "replica-0"]))
    try:
        found = here("status", "--json")
        assert found.status == 5
        assert {part["role"]: part["state"] for part in found.json["parts"]}["replica-0"] == "missing"
    finally:
        record.write_text(json.dumps(rows))


def test_every_part_logs_in_one_form(here: Running) -> None:
    assert here("predict").status == 0
    assert wait_until(lambda: '"part": "nginx"' in here.ok("logs", "--json", "--tail", "1000"), seconds=30)
    lines = [json.loads(line) for line in here.ok("logs", "--json", "--tail", "1000").splitlines()]
    assert {line["part"] for line in lines} == set(here.parts())
    times = [line["time"] for line in lines]
    assert None not in times
    assert times == sorted(times)
    assert here.ok("logs", "--since", "1s", "--tail", "0") == ""
