"""What tests of the model server's process share."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.harness.model_server import CLIENT, SERVER, SERVICE, Process, Start, Tls, save_models

from sealserve.pki.authority import Authority, AuthorityKind


@pytest.fixture(scope="module")
def tls() -> Tls:
    now = datetime.now(UTC)
    service = Authority.create(AuthorityKind.SERVICE, names=[SERVICE], simulated=True, now=now)
    users = Authority.create(AuthorityKind.USERS, names=[CLIENT], simulated=True, now=now)
    server, client = service.issue_server([SERVICE], now=now), users.issue_client(CLIENT, now=now)
    return Tls(service=service, users=users, server=server, client=client)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "m"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_models(folder)
    return folder


@pytest.fixture
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    """Start servers, each on a separate port. They end with the test."""
    program = getattr(request, "param", SERVER)
    with ExitStack() as stack:

        def run(*flags: str) -> Process:
            process = Process(
                [*([] if any(flag.startswith("--port=") for flag in flags) else ["--port=0"]), *flags], program
            )
            stack.callback(process.close)
            return process

        yield run
