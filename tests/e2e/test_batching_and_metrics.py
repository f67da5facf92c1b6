"""A release that brings batching and monitoring along: both work inside the enclave, and are seen over TLS."""

import ssl
import urllib.request
from pathlib import Path

import pytest
from tests.harness.running import Running, deployment

from sealserve.enclave.measurement import load_enclave, port_of
from sealserve.owner.enclaves import monitoring_port

pytestmark = [pytest.mark.integration, pytest.mark.tensorflow]

REQUESTS = 40
BATCHING = "max_batch_size { value: 4 } batch_timeout_micros { value: 2000000 } num_batch_threads { value: 1 }"


def scrape(here: Running, port: int, *, user: bool) -> str:
    """Return the page of metrics, asked for as a Prometheus that trusts the service's authority."""
    holds = here.site.workspace.user
    context = ssl.create_default_context(cafile=holds.service_ca)
    context.check_hostname = False  # the port is not behind the service's name
    if user:
        context.load_cert_chain(holds.certificate, holds.key)
    url = f"https://127.0.0.1:{port}/metrics"
    with urllib.request.urlopen(url, timeout=60, context=context) as response:  # our server
        page: str = response.read().decode()
        return page


def counted(page: str, metric: str) -> int:
    return sum(int(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(f"{metric}{{"))


def test_batches_are_run_and_counted_inside_the_enclave(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "batching.config").write_text(BATCHING)
    (tmp_path / "monitoring.config").write_text('prometheus_config { enable: true path: "/metrics" }')
    settings = {
        "batching_parameters_file": tmp_path / "batching.config",
        "monitoring_config_file": tmp_path / "monitoring.config",
        "dangerous_shared_batches": True,
    }
    with deployment(capsys, server=settings) as here:
        here.up("--replicas", "1")
        (release,) = here.json("release", "list")
        port = monitoring_port(port_of(load_enclave(Path(release["folder"]), "replica-0").manifest))
        before = scrape(here, port, user=True)
        report = here.json("bench", "-n", str(REQUESTS), "-c", "8")
        assert (report["answered"], report["errors"]) == (REQUESTS, {})
        page = scrape(here, port, user=True)
        session = ":tensorflow:serving:batching_session"
        inputs = counted(page, f"{session}:input_batch_size_count") - counted(
            before, f"{session}:input_batch_size_count"
        )
        runs = counted(page, f"{session}:wrapped_run_count") - counted(before, f"{session}:wrapped_run_count")
        assert inputs == REQUESTS
        assert 0 < runs < REQUESTS
        assert counted(page, ":tensorflow:cc:saved_model:load_attempt_count") == 1
        with pytest.raises(OSError, match=r"(?i)certificate|closed|reset|eof"):  # two-way TLS, as for gRPC
            scrape(here, port, user=False)
        here.ok("down", "--yes")
