"""An enclave waits for a person: it is refused, a person approves its platform, and its next start gets the key."""

from collections.abc import Iterator

import pytest
from tests.harness.running import Running, deployment

from sealserve.cli.status_document import DOWN

pytestmark = [pytest.mark.e2e, pytest.mark.tensorflow]


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Iterator[Running]:
    with deployment(capsys, broker={"approval": "manual"}) as running:
        yield running


def test_a_platform_that_waits_is_named_and_starts_after_its_approval(here: Running) -> None:
    # 1. The first start is refused. `up` and `status` print the reason, and the command that approves.
    refused = here.process("up", "--replicas", "1")
    assert refused.status != 0, refused
    (waiting,) = here.json("broker", "pending")
    approval = f"sealserve broker approve {waiting['release']} {waiting['platform_id']}"
    assert f"The platform {waiting['platform_id']} waits for an approval" in " ".join(refused.err.split())
    assert approval in " ".join(refused.err.split())
    status = here("status", "--json")
    assert status.status == DOWN
    assert any(approval in problem for problem in status.json["problems"])
    # 2. A person approves the platform.
    here.ok("broker", "approve", waiting["release"], waiting["platform_id"], "--for", "1h")
    assert here.json("broker", "pending") == []
    assert not any("approve" in problem for problem in here("status", "--json").json["problems"])
    # 3. The next start gets the key, and the service answers.
    here.up("--replicas", "1")
    assert here("status").status == 0
    assert here.json("predict", "--input", "x=[1, 2, 5]", "--timeout", "60")["outputs"]["y"] == [2.5, 3.0, 4.5]
    rows = [(row["decision"], row["code"]) for row in here.json("broker", "log")]
    assert ("refused", "policy.approval-pending") in rows
    approved, released = rows.index(("approved", "ok")), rows.index(("released", "ok"))
    assert rows.index(("refused", "policy.approval-pending")) < approved < released
    # 4. After the withdrawal, the enclave that runs continues, and another start is refused.
    here.ok("broker", "approve", waiting["release"], waiting["platform_id"], "--withdraw")
    assert here("status").status == 0
    here.ok("down", "--yes")
    assert approval in " ".join(here.process("up", "--replicas", "1").err.split())
