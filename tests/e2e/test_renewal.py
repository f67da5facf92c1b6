"""The broker is down when an enclave renews its certificate. All programs are real; the certificates are valid briefly.

No step depends on the speed of the machine: a connection may fail only after the end of the certificate.
"""

import re
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest
from cryptography import x509
from tests.harness.postgresql import Server
from tests.harness.rest import ANSWER, BODY, PREDICT, RestConnection, user_context
from tests.harness.running import Running, deployment
from tests.harness.running_proxy import Balancer
from tests.harness.short_certificates import copy_broker_files, start_broker, start_other_broker
from tests.harness.workspaces import on_server

from sealserve.broker import admin
from sealserve.broker.audit_entry import Decision
from sealserve.cluster import ports
from sealserve.cluster.local.processes import wait_until
from sealserve.cluster.logs.certificate_log import logged_certificate
from sealserve.cluster.presented_certificate import PresentedCertificate
from sealserve.cluster.target import BROKER
from sealserve.enclave.measurement import load_enclave, port_of
from sealserve.owner import simulation
from sealserve.owner.enclaves import monitoring_port
from sealserve.owner.owner import Owner
from sealserve.owner.token_keys import create_token_key

pytestmark = [pytest.mark.integration, pytest.mark.tensorflow]

SECONDS: Final = 15
_PATIENT: Final = 120.0
_EXPIRED: Final = 10  # X509_V_ERR_CERT_HAS_EXPIRED
_FAILED: Final = "sealserve_server_failed_renewals_total"


class User:
    """A user with one connection that stays open, and further connections.

    Args:
        here: The deployment.
    """

    def __init__(self, here: Running) -> None:
        self._here = here
        self._context = user_context(here.site, certificate=False)
        self._kept = self._connect()
        self._kept.connect()
        self._socket = self._kept.sock

    def asks_on_the_open_connection(self) -> None:
        """Check that the connection from the beginning still answers."""
        assert self._kept.ask("POST", PREDICT, BODY) == (200, ANSWER)
        assert self._kept.sock is self._socket

    def connects(self) -> bool:
        """Return whether the user accepts the certificate of a new connection, which then answers."""
        ends = self._presented()
        with closing(self._connect()) as connection:
            try:
                connection.connect()
            except ssl.SSLCertVerificationError as error:
                if error.verify_code == _EXPIRED and ends <= datetime.now(UTC):
                    return False
                raise
            assert connection.ask("POST", PREDICT, BODY) == (200, ANSWER)
            return True

    def asks_until(self, condition: Callable[[], bool]) -> None:
        """Send requests until a condition holds, on the open connection and on new ones."""
        deadline = time.monotonic() + _PATIENT
        while not condition():
            assert time.monotonic() < deadline
            self.asks_on_the_open_connection()
            self.connects()

    def close(self) -> None:
        """Close the open connection."""
        self._kept.close()

    def _connect(self, context: ssl.SSLContext | None = None) -> RestConnection:
        return RestConnection(self._here.site, context or self._context)

    def _presented(self) -> datetime:
        """Return the end of the certificate that the service presents now."""
        with closing(self._connect(unverified())) as connection:
            connection.connect()
            leaf = connection.sock.getpeercert(binary_form=True)
        assert leaf
        return x509.load_der_x509_certificate(leaf).not_valid_after_utc


def unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def log(here: Running) -> str:
    return (here.site.workspace.host.logs / "replica-0.log").read_text(encoding="utf-8")


def certificate(here: Running) -> PresentedCertificate:
    found = logged_certificate(log(here).splitlines())
    assert found is not None
    return found


def failed_renewals(here: Running) -> int:
    """Return the metric."""
    (folder,) = here.site.workspace.owner.releases.iterdir()
    port = monitoring_port(port_of(load_enclave(folder, "replica-0").manifest))
    with closing(RestConnection(here.site, unverified())) as connection:  # the certificate may have expired
        connection.port = port
        connection.request("GET", "/monitoring/prometheus/metrics")
        page = connection.getresponse().read().decode()
    return next(int(line.split()[-1]) for line in page.splitlines() if line.startswith(_FAILED))


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Running]:
    monitoring = tmp_path / "monitoring.config"
    monitoring.write_text('prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }')
    with deployment(
        capsys,
        server={"rest": True, "monitoring_config_file": monitoring, "max_connection_age_seconds": 3600},
        service={"rest_port": ports.find_free(), "tls": "one-way"},
        target={"replicas": 1},
    ) as running:
        site = running.site
        site.certify()
        simulation.open_vendor(site.workspace, now=site.now)
        start_broker(site, seconds=SECONDS)
        running.up()
        yield running


def test_a_broker_that_is_down_interrupts_nobody_before_the_certificate_expires(here: Running) -> None:
    with closing(User(here)) as user:
        pid = here.parts()["replica-0"]["pid"]
        # The broker works: the certificate is renewed, and nobody notices it.
        first = certificate(here)
        user.asks_until(lambda: certificate(here).ends > first.ends)
        assert failed_renewals(here) == 0
        # The broker is down for a moment at the time of the renewal.
        here.kill(BROKER)
        user.asks_until(lambda: "step=renewal-failed" in log(here))
        assert "step=renewal-failed code=provisioning.unreachable" in log(here)
        user.asks_until(lambda: failed_renewals(here) > 0)
        before = certificate(here)
        start_broker(here.site, seconds=SECONDS)
        user.asks_until(lambda: certificate(here).ends > before.ends)
        user.asks_until(user.connects)
        # The broker stays down until the certificate has expired. `status` reports it, and so does each new connection.
        here.kill(BROKER)
        user.asks_until(lambda: "The enclaves fail to renew it." in here("status", "--json").out)
        user.asks_until(lambda: not user.connects())
        found = here("status", "--json")
        assert found.status == 5, "the service answers, but something is wrong"
        (problem,) = [text for text in found.json["problems"] if "enclaves" in text]
        assert "The certificate of the enclaves expired" in problem
        # Open connections continue. The enclave continues with its attempts, and needs no restart.
        user.asks_on_the_open_connection()
        start_broker(here.site, seconds=SECONDS)
        user.asks_until(user.connects)
        user.asks_on_the_open_connection()
        assert here.parts()["replica-0"]["pid"] == pid


def test_one_of_two_brokers_is_enough(capsys: pytest.CaptureFixture[str], tmp_path: Path, postgresql: Server) -> None:
    """Two brokers share a database, behind a load balancer that does not notice which of them runs."""
    first, second = ports.find_free(), ports.find_free()
    with (
        Balancer([first, second]).running() as balancer,
        deployment(
            capsys, broker={"port": int(balancer.address.rpartition(":")[2])}, service={"tls": "one-way"},
            target={"replicas": 1},
        ) as here,
    ):  # fmt: skip
        here.site = site = on_server(here.site, postgresql.url(postgresql.new_database()))
        site.certify()
        simulation.open_vendor(site.workspace, now=site.now)
        Owner.open(site.workspace).create_audit_key()
        create_token_key(site.workspace)
        copied = copy_broker_files(site, tmp_path / "second")
        # The first broker is down when the enclave starts.
        start_broker(site, seconds=SECONDS, port=second, instance="second", workspace=copied)
        here.up()
        assert balancer.opened[first] > 0
        assert re.search(r"step=attempt broker=\S+ error\[provisioning\.connection\]", log(here))
        assert re.search(r"step=attest-again after=\d\.\ds", log(here))
        # The second broker is killed while the enclave serves, and the first one has come back.
        other = start_other_broker(site, seconds=SECONDS, port=first, instance="first")
        try:
            here.kill(BROKER)
            before = certificate(here)
            asked = balancer.opened[second]
            assert wait_until(lambda: certificate(here).ends > before.ends, seconds=_PATIENT)
            assert wait_until(lambda: balancer.opened[second] > asked, seconds=_PATIENT)
            assert wait_until(lambda: "step=renewal-failed code=provisioning.connection" in log(here), seconds=_PATIENT)
            before = certificate(here)
            assert wait_until(lambda: certificate(here).ends > before.ends, seconds=_PATIENT)
        finally:
            other.terminate()
            assert other.wait(_PATIENT) == 0
        with Owner.open(site.workspace).database() as database:
            admin.verify_log(database)
            released = [row.entry.broker for row in admin.log(database) if row.entry.decision is Decision.RELEASED]
            renewed = [row.entry.broker for row in admin.log(database) if row.entry.decision is Decision.ATTESTED]
        assert released == ["second"]
        assert "first" in renewed
