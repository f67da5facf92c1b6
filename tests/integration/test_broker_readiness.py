"""`/readyz` over HTTP: the running broker reports why it cannot release keys now, and recovers by itself."""

import http.client
import shutil
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import pytest
from tests.harness.postgresql import Server, created
from tests.harness.running_broker import Owned, owned

from sealserve.broker import server as broker_server
from sealserve.broker.metrics_server import HEALTH_PATH, READY_PATH
from sealserve.errors import SealserveError
from sealserve.owner import provisioning
from sealserve.owner.owner import Owner

pytestmark = pytest.mark.integration


@pytest.fixture
def own() -> Iterator[Server]:
    """A server that the test may stop."""
    with created() as server:
        server.start()
        yield server


def ask(port: int, path: str = READY_PATH) -> tuple[int, str]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_a_stopped_postgresql_is_reported_until_it_answers_again(own: Server, tmp_path: Path) -> None:
    url = own.url(own.new_database())
    with owned(tmp_path / "site", database={"url": url}) as owner:
        Owner.create(owner.site.workspace)  # a broker with a database on a server creates no key
        _is_ready_again_after_a_stop(owner, own)


def _is_ready_again_after_a_stop(owner: Owned, own: Server) -> None:
    with owner.broker():
        assert ask(owner.metrics_port) == (200, "ok\n")
        own.stop()
        assert ask(owner.metrics_port) == (503, "broker.database\n")
        assert ask(owner.metrics_port, HEALTH_PATH) == (200, "ok\n")  # a restart of the broker would not help
        own.start()
        assert ask(owner.metrics_port) == (200, "ok\n")
        assert owner.ask() == owner.made.key.reveal()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_database_file_that_is_gone_is_reported(tmp_path: Path, replaced: bool) -> None:
    """SQLite would continue with the deleted file, and the audit rows of released keys would be lost."""
    with owned(tmp_path / "site") as owner, owner.broker() as broker:
        assert ask(owner.metrics_port) == (200, "ok\n")
        path = owner.site.workspace.owner.database
        path.rename(tmp_path / "taken")
        if replaced:
            shutil.copy2(tmp_path / "taken", path)
        assert ask(owner.metrics_port) == (503, "broker.database\n")
        assert ask(owner.metrics_port, HEALTH_PATH) == (200, "ok\n")
        with pytest.raises(SealserveError):
            owner.ask()
        broker.until("was deleted or replaced while it was in use")
        (tmp_path / "taken").replace(path)
        assert ask(owner.metrics_port) == (200, "ok\n")
        assert owner.ask() == owner.made.key.reveal()


def test_an_expired_certificate_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        owned(tmp_path / "site") as owner,
        provisioning.open_broker(owner.site.workspace, owner.site.deployment) as server,
    ):
        assert ask(owner.metrics_port) == (503, "broker.busy\n")  # it does not listen yet
        with server:
            assert ask(owner.metrics_port) == (200, "ok\n")

            class Later(datetime):
                @classmethod
                def now(cls, tz: tzinfo | None = None) -> "Later":
                    later = datetime.now(tz) + timedelta(days=20_000)
                    return cls.fromtimestamp(later.timestamp(), tz)

            monkeypatch.setattr(broker_server, "datetime", Later)
            assert ask(owner.metrics_port) == (503, "certificate.expired\n")
