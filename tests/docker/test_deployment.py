"""A deployment in Docker, from its start to its end, on a real engine."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from tests.docker.conftest import Deployed, docker_json, everything
from tests.harness import attested_user
from tests.harness.container_images import CACHE
from tests.harness.rest import ANSWER, BODY, PREDICT, RestConnection, RestLoad, user_context
from tests.harness.running import command, run
from tests.harness.workspaces import Site

from sealserve.broker import admin
from sealserve.cluster import ports
from sealserve.cluster.docker import commands
from sealserve.cluster.docker.fleet import project_name
from sealserve.cluster.local.processes import wait_until
from sealserve.owner import releases, simulation
from sealserve.owner.owner import Owner
from sealserve.workspace import Workspace

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

CLIENTS = 4
EVERYWHERE = "0.0.0.0"  # noqa: S104  # the tests check whether a container can reach it
COMPOSE = CACHE / "docker-compose"
INSIDE = """
import json, socket, sys
def reaches(address):
    with socket.socket() as probe:
        probe.settimeout(3)
        try:
            probe.connect(address)
        except OSError:
            return False
        return True
print(json.dumps([reaches(tuple(address)) for address in json.loads(sys.argv[1])]))
"""


def container(deployed: Deployed, role: str) -> dict[str, Any]:
    """Return the engine's data about the container of a role."""
    project = project_name(deployed.site.workspace)
    options = [f"--filter=label={commands.PROJECT}={project}", f"--filter=label={commands.ROLE}={role}"]
    found = subprocess.run(["docker", "ps", "--all", "--quiet", *options], capture_output=True, text=True, check=True)
    (identifier,) = found.stdout.split()
    said: dict[str, Any] = docker_json("inspect", identifier)[0]
    return said


def addresses(said: dict[str, Any]) -> list[str]:
    return [network["IPAddress"] for network in said["NetworkSettings"]["Networks"].values()]


def load(deployed: Deployed, requests: int) -> dict[str, Any]:
    report = deployed(
        "bench", "--requests", str(requests), "--concurrency", str(CLIENTS), "--connections", str(CLIENTS)
    )
    assert isinstance(report, dict)
    return report


@contextlib.contextmanager
def under_load(deployed: Deployed, *, rest: int = 0) -> Iterator[dict[str, Any]]:
    """Send requests during the block. Afterwards, the yielded mapping has their number and their errors.

    Args:
        deployed: The deployment to send them to.
        rest: Number of REST clients, in addition to the gRPC clients.
    """
    total: dict[str, Any] = {"requests": 0, "answered": 0, "errors": {}}
    done = threading.Event()

    def send() -> None:
        while not done.is_set():
            report = load(deployed, 200)
            total["requests"] += report["requests"]
            total["answered"] += report["answered"]
            for code, count in report["errors"].items():
                total["errors"][code] = total["errors"].get(code, 0) + count

    with ThreadPoolExecutor(1) as pool, RestLoad(deployed.site, rest) as over_rest:
        sending = pool.submit(send)
        try:
            yield total
        finally:
            done.set()
        sending.result()
    total["errors"] |= {f"REST {error}": 1 for error in over_rest.errors}
    assert all(over_rest.answered)


def test_from_up_to_down(deployed: Deployed, site: Site) -> None:
    assert deployed.status() == {
        "nginx": "serving", "replica-0": "serving", "replica-1": "serving", "broker": "running", "pcs": "running",
        "platform": "running",
    }  # fmt: skip

    # Both replicas answer requests over two-way TLS. Requests without a certificate get no answer.
    report = load(deployed, 200)
    assert (report["answered"], report["errors"], len(report["instances"])) == (200, {}, 2)
    (site.directory / "no.pem").write_text("")
    assert (
        run("bench", "--requests", "1", "--cert", site.directory / "no.pem", "--directory", site.directory).status != 0
    )

    # A user verifies the service through NGINX, and then sends a request to a replica that she verified.
    first, policy = releases.newest(site.workspace.owner.releases), attested_user.trust(site)
    attested_user.check_verified(site, policy, release=first)
    _answers_over_rest(site)
    _reaches_the_broker_and_nothing_else(deployed)
    _is_confined(deployed, site)

    # Killing a replica loses only its current requests. The replica restarts by itself and is attested again. So it
    # gets its key, which is now encrypted under the new master key.
    victim = container(deployed, "replica-0")
    with under_load(deployed) as sent:
        subprocess.run(["docker", "kill", "--signal", "KILL", victim["Id"]], check=True, capture_output=True)
        assert wait_until(lambda: container(deployed, "replica-0")["State"]["Status"] == "exited", seconds=30)
        subprocess.run(["docker", "start", victim["Id"]], check=True, capture_output=True)
        assert wait_until(lambda: deployed.status()["replica-0"] == "serving", seconds=120, interval=1)
    assert sum(sent["errors"].values()) <= CLIENTS, sent
    assert sent["answered"] >= 200

    # Scale to three replicas and back to two, without a failed request.
    with under_load(deployed, rest=CLIENTS) as sent:
        three = {part["role"] for part in deployed("scale", "3")["parts"]}
        assert {"replica-0", "replica-1", "replica-2"} <= three
        seen: set[str] = set()  # the replicas that a few connections reach depend on the other connections
        while len(seen) < 3:
            seen |= set(load(deployed, 300)["instances"])
        two = {part["role"] for part in deployed("scale", "2")["parts"]}
        assert "replica-2" not in two
    assert sent["errors"] == {}, sent

    second = _rolls_out_and_back(deployed, site, policy)
    log = deployed.run("logs", "replica-0", "--last", "100").out
    assert "step=key" in log
    assert "released the key" in deployed.run("logs", "broker").out

    # `down` leaves only the workspace, with the containers' logs.
    stopped = deployed("down", "--yes")["stopped"]
    assert stopped == ["nginx", "replica-0", "replica-1", "broker", "pcs", "platform"]
    assert everything() == {"container": [], "network": [], "volume": []}
    assert "step=key" in (site.workspace.host.logs / "replica-0.log").read_text()
    assert deployed.observed()["parts"] == []
    shutil.rmtree(second)  # the next `up` continues with the first release


def _rolls_out_and_back(deployed: Deployed, site: Site, policy: Path) -> Path:
    """Roll to a release whose TLS key the owner creates, and back to the attested release. Return the former."""
    first = releases.newest(site.workspace.owner.releases)
    # Roll out the new release without a failed request. It offers no evidence.
    before = site.workspace.host.releases
    second = _release_with_the_owners_tls_key(site)
    with under_load(deployed, rest=CLIENTS) as sent:
        parts = deployed("up", "--release", second.name)["parts"]
    assert sent["errors"] == {}, sent
    assert {part["release"] for part in parts if part["role"].startswith("replica-")} == {second.name}
    assert {first.name, second.name} <= {path.name for path in before.iterdir()}
    states = {known["name"]: known["state"] for known in deployed("broker", "releases")}
    assert (states[first.name], states[second.name]) == ("draining", "active")
    assert load(deployed, 100)["answered"] == 100
    refused = attested_user.predict(site, policy)
    assert refused.json["error"]["code"] == "client.evidence-missing"
    assert "server.dangerous_owner_tls_key" in {difference["key"] for difference in deployed.observed()["drift"]}

    # Roll back to the previous release, which is attested, without a failed request.
    with under_load(deployed) as sent:
        parts = deployed("up", "--rollback")["parts"]
    assert sent["errors"] == {}, sent
    assert {part["release"] for part in parts if part["role"].startswith("replica-")} == {first.name}
    states = {known["name"]: known["state"] for known in deployed("broker", "releases")}
    assert (states[first.name], states[second.name]) == ("active", "draining")
    attested_user.check_verified(site, policy, release=first)
    return second


def _release_with_the_owners_tls_key(site: Site) -> Path:
    server = site.deployment.server.model_copy(update={"dangerous_owner_tls_key": True})
    described = site.deployment.model_copy(update={"server": server})
    return releases.build(site.workspace, described, now=site.now).folder


def _reaches_the_broker_and_nothing_else(deployed: Deployed) -> None:
    broker, nginx = container(deployed, "broker"), container(deployed, "nginx")
    replica, other = container(deployed, "replica-0"), container(deployed, "replica-1")
    gateways = [network["Gateway"] for network in replica["NetworkSettings"]["Networks"].values()]
    with subprocess.Popen([sys.executable, "-m", "http.server", "--bind", EVERYWHERE, str(port := ports.find_free())],
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as host:  # fmt: skip
        try:
            assert wait_until(lambda: not ports.is_free(port), seconds=30)
            asked = [
                ("attestation.service.com", 4433),
                *((address, 8500) for address in [*addresses(nginx), *addresses(other)]),
                *((address, 8081) for address in addresses(container(deployed, "pcs"))),
                *((gateway, port) for gateway in gateways if gateway),  # this machine
            ]
            done = subprocess.run(
                ["docker", "exec", replica["Id"], "/opt/sealserve/bin/python", "-c", INSIDE, json.dumps(asked)],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
        finally:
            host.terminate()
    assert json.loads(done.stdout) == [True] + [False] * (len(asked) - 1), asked
    assert set(replica["NetworkSettings"]["Networks"]) <= set(broker["NetworkSettings"]["Networks"])
    published = {role: container(deployed, role)["NetworkSettings"]["Ports"] for role in deployed.status()}
    assert [role for role, found in published.items() if any(found.values())] == ["nginx"]


def _takes_new_files(deployed: Deployed, site: Site) -> None:
    """The broker's container gets a new master key, certificate and issuing authority, without a restart."""
    broker, owner = container(deployed, "broker"), site.workspace.owner
    deployed("broker", "rotate-master")
    deployed("certs", "renew")
    deployed("certs", "rotate-issuing")
    for name in ("master.key", "broker-tls/broker.pem", "broker-tls/broker.key", "issuing/ca.pem"):
        shown = subprocess.run(
            ["docker", "exec", broker["Id"], "cat", f"/workspace/.sealserve/owner/{name}"],
            capture_output=True, check=True,
        )  # fmt: skip
        assert shown.stdout == (owner.root / name).read_bytes(), name

    def reloaded() -> bool:
        log = subprocess.run(["docker", "logs", broker["Id"]], capture_output=True, text=True, check=True).stderr
        return all(f"reloaded the {what}" in log for what in ("master key", "certificate", "issuing authority"))

    assert wait_until(reloaded, seconds=30)
    after = container(deployed, "broker")
    assert (after["Id"], after["State"]["StartedAt"]) == (broker["Id"], broker["State"]["StartedAt"])


def _is_confined(deployed: Deployed, site: Site) -> None:
    for role in deployed.status():
        said = container(deployed, role)
        assert said["Config"]["User"] not in {"", "0", "root", "0:0"}, role
        host = said["HostConfig"]
        assert host["ReadonlyRootfs"], role
        assert not host["Privileged"], role
        assert host["CapDrop"] == ["ALL"], role
        assert not host["CapAdd"], role
        assert "no-new-privileges" in host["SecurityOpt"], role
        assert host["RestartPolicy"]["Name"] == "unless-stopped", role
        assert host["LogConfig"]["Config"] == {"max-file": "3", "max-size": "10m"}, role
        assert said["Config"]["Healthcheck"]["Test"], role
    # The broker sees single files and three folders of the owner's, and writes only to these three folders.
    mounts = container(deployed, "broker")["Mounts"]
    seen = {
        found["Destination"].rpartition("/owner/")[2]: found["RW"]
        for found in mounts
        if "/owner/" in found["Destination"]
    }
    assert seen == {
        "master.key": False, "audit-signing-key.pem": False, "row-key": False, "token-signing-key.pem": False,
        "broker-tls": False, "issuing": False, "trust": False,
        "database": True, "audit": True, "collateral": True,
    }  # fmt: skip
    status = (Path("/proc") / str(container(deployed, "replica-0")["State"]["Pid"]) / "status").read_text()
    assert "CapEff:\t0000000000000000" in status
    assert "Seccomp:\t2" in status
    _takes_new_files(deployed, site)


def test_an_interrupted_start_is_cleared_away(site: Site, images: list[dict[str, Any]]) -> None:
    del images
    with subprocess.Popen(
        command("up", "--directory", site.directory), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as started:
        assert wait_until(lambda: len(everything()["container"]) > 2, seconds=120)
        started.send_signal(signal.SIGINT)
        assert started.wait(timeout=120) == 130
    run("down", "--yes", "--directory", site.directory)
    assert everything() == {"container": [], "network": [], "volume": []}


def test_a_release_that_the_broker_refuses_serves_nobody_and_harms_nobody(deployed: Deployed, site: Site) -> None:
    serving = deployed.observed()["release"]
    bad = site.build_release().folder
    deployed.run("enclave", "build", "--name", "server", "--release", bad.name)
    done = run("broker", "allow", bad.name, "--directory", site.directory)
    assert done.status == 0, done.err
    with Owner.open(site.workspace).database() as database:  # its deadline has passed: the broker keeps its key
        past = datetime.now(UTC) - timedelta(hours=1)
        admin.drain(database, bad.name, deadline=past + timedelta(seconds=1), now=past)
    before = everything()
    failed = deployed.run("up", "--release", bad.name, "--json")
    assert failed.json["error"]["code"] == "container.ended"
    assert "error[attest.refused]" in failed.json["error"]["message"]
    assert everything() == before
    assert deployed.status()["replica-0"] == "serving"
    assert load(deployed, 50)["answered"] == 50
    details = {part["release"] for part in deployed.observed()["parts"] if part["role"].startswith("replica-")}
    assert details == {serving}
    shutil.rmtree(bad)


@contextlib.contextmanager
def described(site: Site, **changes: str) -> Iterator[str]:
    """Change lines of a site's deployment file, selected by their beginning, during the block."""
    before = site.workspace.deployment_file.read_text()
    text = before
    for line, setting in changes.items():
        assert text.count(line) == 1, line
        text = text.replace(line, setting)
    site.workspace.deployment_file.write_text(text)
    yield text
    site.workspace.deployment_file.write_text(before)


@contextlib.contextmanager
def service(folder: Path, site: Site, *verb: str) -> Iterator[None]:
    """Run a command that serves, until the end of the block."""
    ready, log = folder / f"{verb[-1]}.ready", folder / f"{verb[-1]}.log"
    line = command(*verb, "--ready-file", ready, "--directory", site.directory)
    with log.open("wb") as stream, subprocess.Popen(line, stdout=stream, stderr=stream) as process:
        try:
            assert wait_until(ready.exists, seconds=60), log.read_text()
            yield
        finally:
            process.terminate()


def test_a_separate_host_runs_the_owners_release(site: Site, images: list[dict[str, Any]]) -> None:
    """Owner and host have separate workspaces. The host has a packed release, no key, and a relay to the broker."""
    del images
    release = site.build_release().folder.name
    port, pcs = ports.find_free(), ports.find_free()
    outside = list(site.deployment.docker.subnet.subnets(new_prefix=29))[1]
    changes = {
        'address = "127.0.0.1"': 'address = "attestation.service.com"',
        'listen = "127.0.0.1"  # the address the broker': f'listen = "{EVERYWHERE}"  # the address the broker',
        "port = 4433": f"port = {port}",
        '# collateral_url = "..."': f'collateral_url = "http://127.0.0.1:{pcs}"',
        '# reached_at = "..."': f'reached_at = "{outside[1]}"',  # this machine, as the relay's network sees it
    }
    with TemporaryDirectory(prefix="sealserve-") as name, described(site, **changes) as text:
        folder, bundle = Path(name), Path(name) / "bundle.tar"
        inventory = site.workspace.owner.images / "server-simulated.inventory.json"
        for verb in (
            ["enclave", "build", "--name", "server", "--port", "8500", "--release", release, "--inventory", inventory],
            ["broker", "allow", release],
            ["release", "pack", bundle, release],
        ):
            done = run(*verb, "--directory", site.directory)
            assert done.status == 0, done.err
        simulation.open_platform(site.workspace, now=site.now)
        here = Workspace(folder / "host")
        here.directory.mkdir()
        here.deployment_file.write_text(text)
        here.create()
        shutil.copytree(site.workspace.host.platform, here.host.platform)
        shutil.copyfile(site.workspace.host.owner_key, here.host.owner_key)
        assert run("release", "unpack", bundle, "--directory", here.directory).status == 0
        with service(folder, site, "simulated", "pcs"), service(folder, site, "broker", "run"):
            try:
                up = run("up", "--role", "host", "--replicas", "1", "--json", "--directory", here.directory)
                assert up.status == 0, up.out + up.err
                assert {part["role"]: part["state"] for part in up.json["parts"]} == {
                    "nginx": "serving", "replica-0": "serving", "platform": "running", "relay": "running",
                }  # fmt: skip
                answered = run("bench", "--requests", "20", "--json", "--directory", site.directory)
                assert answered.json["answered"] == 20, answered.out
                scaled = run("scale", "2", "--json", "--directory", here.directory)
                assert scaled.status == 0, scaled.out + scaled.err
            finally:
                down = run("down", "--yes", "--directory", here.directory)
        assert down.status == 0, down.err
        assert list(here.owner.root.rglob("*.key")) == []
        assert everything() == {"container": [], "network": [], "volume": []}


def test_compose_starts_the_same(deployed: Deployed, site: Site) -> None:
    """Start the deployment with the real `docker compose` from its Go module. `make compose` takes minutes."""
    first = releases.newest(site.workspace.owner.releases)
    deployed("down", "--yes")
    file = site.directory / "compose.yaml"
    done = run("render", "docker", "--release", first.name, "--output", file, "--force", "--directory", site.directory)
    assert done.status == 0, done.err
    assert set(yaml.safe_load(file.read_text())["services"]) == {
        "pcs", "broker", "platform", "replica-0", "replica-1", "nginx",
    }  # fmt: skip
    if not COMPOSE.is_file():
        pytest.skip("there is no Docker Compose: `make compose` builds it from its Go module")
    compose = [str(COMPOSE), "--file", str(file)]
    try:
        up = subprocess.run([*compose, "up", "--detach", "--wait", "--wait-timeout", "180"], capture_output=True,
                            text=True, check=False)  # fmt: skip
        assert up.returncode == 0, up.stderr
        report = load(deployed, 100)
        assert (report["answered"], len(report["instances"])) == (100, 2)
    finally:
        subprocess.run([*compose, "down", "--timeout", "30"], capture_output=True, check=False)
    assert everything("com.docker.compose.project") == {"container": [], "network": [], "volume": []}


def _answers_over_rest(site: Site) -> None:
    """Send requests over REST: they are answered with the client certificate of gRPC, and not without it."""
    with closing(RestConnection(site, user_context(site))) as connection:
        assert connection.ask("POST", PREDICT, BODY) == (200, ANSWER)
    with (
        closing(RestConnection(site, user_context(site, certificate=False))) as connection,
        pytest.raises(OSError, match=r".*"),  # reset, closed, or an alert of TLS
    ):
        connection.ask("POST", PREDICT, BODY)
