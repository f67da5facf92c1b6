"""The log of a broker's process in JSON."""

import json
from pathlib import Path

import pytest
from tests.harness.running import run
from tests.harness.running_broker import PATIENT, owned

from sealserve.errors import SealserveError
from sealserve.log_line import parse

pytestmark = pytest.mark.integration


def test_each_line_is_an_object_with_the_facts_of_a_decision(tmp_path: Path) -> None:
    with owned(tmp_path / "site", broker={"log_format": "json"}) as owner:
        with owner.broker() as broker:
            assert owner.ask() == owner.made.key.reveal()
            released = json.loads(broker.until("released the key"))
            assert run("broker", "revoke", "half-plus-two", "--yes", "-C", owner.site.directory).status == 0
            with pytest.raises(SealserveError):
                owner.ask()
            refused = json.loads(broker.until("refused 127.0.0.1"))
            broker.process.terminate()
            broker.until("the broker has stopped")
            assert broker.process.wait(PATIENT) == 0
        assert (released["level"], released["code"], released["release"]) == ("INFO", "ok", "half-plus-two")
        assert released["release_id"] == "a" * 64
        assert released["peer"].startswith("127.0.0.1:")
        assert (refused["level"], refused["code"]) == ("WARNING", "policy.release-revoked")
        assert refused["release"] == "half-plus-two"
        secret = owner.made.key.reveal()
        for line in broker.seen:
            assert {"time", "level", "logger", "message"} <= json.loads(line).keys()
            assert parse(line).time is not None
            assert secret.hex() not in line


def test_an_error_at_the_start_is_an_object_too(tmp_path: Path) -> None:
    with owned(tmp_path / "site", broker={"log_format": "json"}) as owner:
        owner.site.workspace.owner.master_key.write_bytes(b"short")
        ended = run("broker", "run", "-C", owner.site.directory)
        assert ended.status == 2
        error = json.loads(ended.err.splitlines()[-1])
        assert (error["level"], error["code"]) == ("ERROR", "keystore.master-key-length")
