"""The broker's container with a real PostgreSQL server: TLS, a password, an outage of the server."""

import ipaddress
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from tests.docker.conftest import Deployed, docker_json
from tests.harness.postgresql import USER, Server, created
from tests.harness.running import run
from tests.harness.workspaces import Site, make_site

from sealserve.cluster import ports
from sealserve.cluster.docker import commands
from sealserve.cluster.docker.fleet import project_name
from sealserve.cluster.local.processes import wait_until
from sealserve.containers.recipes import SERVICE_USER
from sealserve.owner.owner import Owner
from sealserve.pki.authority import Authority, AuthorityKind

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

PASSWORD = "correct-horse-battery"  # of the test's own server


def own_address() -> str:
    """Return an address of this machine that its containers reach."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("198.51.100.1", 9))  # a datagram socket sends nothing here
        return str(probe.getsockname()[0])


@pytest.fixture
def server() -> Iterator[Server]:
    """A server on this machine's own address, over TLS."""
    address, now = ipaddress.ip_address(own_address()), datetime.now(UTC)
    with created() as made:
        authority = Authority.create(AuthorityKind.BROKER, names=[], addresses=[address], simulated=True, now=now)
        (made.folder / "ca.pem").write_bytes(authority.certificate_pem)
        authority.issue_server([], [address], now=now).write(
            certificate=made.folder / "server.pem", key=made.folder / "server.key"
        )
        if made.user is not None:
            shutil.chown(made.folder / "server.key", made.user)
        with (made.data / "pg_hba.conf").open("a") as rules:
            rules.write("hostssl all all all scram-sha-256\n")
        made.port = ports.find_free()
        start(made)
        yield made


def start(server: Server) -> None:
    server.start(
        listen_addresses=own_address(), ssl="on", ssl_cert_file=server.folder / "server.pem",
        ssl_key_file=server.folder / "server.key",
    )  # fmt: skip


@pytest.fixture
def deployment(server: Server, images: list[dict[str, Any]]) -> Iterator[Deployed]:
    """A deployment with one replica whose broker uses the server."""
    del images
    name = server.new_database()
    with server.administer() as administrator:
        administrator.execute(f"ALTER ROLE {USER} PASSWORD '{PASSWORD}'".encode())
    with TemporaryDirectory(prefix="sealserve-") as folder:
        password, ca = Path(folder) / "password", Path(folder) / "ca.pem"
        password.touch(mode=0o600)
        password.write_text(PASSWORD)
        if os.geteuid() == 0:
            os.chown(password, SERVICE_USER, SERVICE_USER)
        shutil.copy(server.folder / "ca.pem", ca)
        url = f"postgresql://{USER}@{own_address()}:{server.port}/{name}"
        site = make_site(
            Path(folder) / "site", service={"port": ports.find_free()}, target={"kind": "docker"},
            database={"url": url, "password_file": password, "ca_file": ca},
        )  # fmt: skip
        Owner.create(site.workspace)
        site.import_model()
        site.certify()
        made = Deployed(site)
        try:
            made("up", "--replicas", "1")
            yield made
        finally:
            run("down", "--yes", "--directory", site.directory)


def container(site: Site, role: str) -> dict[str, Any]:
    options = [
        f"--filter=label={commands.PROJECT}={project_name(site.workspace)}", f"--filter=label={commands.ROLE}={role}",
    ]  # fmt: skip
    listed = subprocess.run(["docker", "ps", "--all", "--quiet", *options], capture_output=True, text=True, check=True)
    (identifier,) = listed.stdout.split()
    found: dict[str, Any] = docker_json("inspect", identifier)[0]
    return found


def released(deployed: Deployed) -> int:
    return sum(row["decision"] == "released" for row in deployed("broker", "log"))


def test_the_container_releases_keys_from_the_servers_database(deployment: Deployed, server: Server) -> None:
    site = deployment.site
    assert deployment.status()["replica-0"] == "serving"
    assert not site.workspace.owner.database.exists()
    before = released(deployment)
    assert before >= 1
    # 1. The password is in a file that only the broker's container sees, and nowhere else.
    shown = json.dumps([container(site, role) for role in deployment.status()])
    assert PASSWORD not in shown
    having = {role for role in deployment.status() if "/database/password_file" in json.dumps(container(site, role))}
    assert having == {"broker"}
    # 2. During an outage of the server, no key leaves. The broker keeps running.
    broker, replica = container(site, "broker"), container(site, "replica-0")
    server.stop()
    subprocess.run(["docker", "restart", replica["Id"]], check=True, capture_output=True)

    def has_refused() -> bool:
        log = subprocess.run(["docker", "logs", broker["Id"]], capture_output=True, text=True, check=True)
        return "broker.database" in log.stderr

    assert wait_until(has_refused, seconds=120, interval=1)
    assert deployment.status()["replica-0"] != "serving"
    # 3. After the outage, the replica gets its key by itself, from the same container.
    start(server)
    assert wait_until(lambda: deployment.status()["replica-0"] == "serving", seconds=180, interval=1)
    assert released(deployment) > before
    assert container(site, "broker")["State"]["StartedAt"] == broker["State"]["StartedAt"]
    # 4. A revocation takes effect at once: the container and the owner share the database.
    name = deployment("broker", "releases")[0]["name"]
    deployment.run("broker", "revoke", name, "--yes")
    subprocess.run(["docker", "restart", container(site, "replica-0")["Id"]], check=True, capture_output=True)

    def is_refused() -> bool:
        return any(row["code"] == "policy.release-revoked" for row in deployment("broker", "log"))

    assert wait_until(is_refused, seconds=120, interval=1)
