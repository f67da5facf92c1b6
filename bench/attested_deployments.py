"""Deployments on this machine for ``attested.py``: a replica that starts again and again, and a verifying proxy."""

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from model_servers import NAME
from tests.harness.running import command, run, short_folder
from tests.harness.workspaces import Site, make_site

from sealserve.attested.user_policy import UserPolicy
from sealserve.client.attested import read_policy
from sealserve.client.channel import ServiceChannel, open_channel
from sealserve.client.policy_file import trusting
from sealserve.cluster import ports
from sealserve.cluster.local.owner_services import registry
from sealserve.log_line import parse
from sealserve.owner.owner import Owner
from sealserve.owner.simulation import ROOT_FILE
from sealserve.secret import SecretBytes

SERVING: Final = re.compile(rf"serving {NAME} version 1 on ")
SECONDS: Final = 120
REPLICA: Final = "replica-1"
"""The replica that starts again. ``replica-0`` answers the requests."""


@dataclass(frozen=True, slots=True)
class BenchDeployment:
    """A running deployment with half_plus_two, two-way TLS and one replica."""

    site: Site

    @classmethod
    @contextlib.contextmanager
    def running(cls, *, owner_tls_key: bool) -> Iterator[Self]:
        """Start a deployment on free ports, and stop it at the end.

        Args:
            owner_tls_key: Whether the owner creates the TLS key, so that it is not attested serving.
        """
        with short_folder() as folder:
            site = make_site(
                folder,
                model={"name": NAME},
                server={"dangerous_owner_tls_key": owner_tls_key, "max_connection_age_seconds": 3600},
                target={"replicas": 1},
                service={"port": ports.find_free()},
                broker={"port": ports.find_free(), "collateral_url": f"http://127.0.0.1:{ports.find_free()}"},
            )
            made = cls(site)
            try:
                made.command("up")
                yield made
            finally:
                run("down", "--yes", "--directory", folder)

    def command(self, *arguments: str) -> None:
        """Run a command on the deployment. An error ends the benchmark."""
        ended = run(*arguments, "--directory", self.site.directory)
        if ended.status:
            sys.exit(f"bench: sealserve {' '.join(arguments)} failed:\n{ended.err}")

    @property
    def address(self) -> str:
        """The address of NGINX."""
        return f"127.0.0.1:{self.site.deployment.service.port}"

    def start_seconds(self) -> float:
        """Start a second replica, stop it, and return the seconds from its process to its open port."""
        self.command("scale", "2")
        began = registry(self.site.workspace).all()[REPLICA].began
        assert began is not None
        times = [
            line.time
            for line in map(parse, (self.site.workspace.host.logs / f"{REPLICA}.log").read_text().splitlines())
            if line.time is not None and line.time >= began and SERVING.match(line.text)
        ]
        self.command("scale", "1")
        assert times, f"{REPLICA} has not started"
        return (times[-1] - began).total_seconds()

    def policy(self) -> tuple[UserPolicy, Path]:
        """Return the policy of a user who pins the owner and the simulated vendor, and its file."""
        root = x509.load_der_x509_certificate((self.site.workspace.owner.trust / ROOT_FILE).read_bytes())
        key = Owner.open(self.site.workspace).public_key().public_bytes_raw()
        path = self.site.directory / "policy.toml"
        pem = root.public_bytes(Encoding.PEM).decode()
        path.write_bytes(trusting(None, owner_key=key, dangerous_simulated_root=pem))
        return read_policy(path), path

    def channel(self, *, attested: UserPolicy | None = None) -> ServiceChannel:
        """Return a new connection to the service."""
        user = self.site.workspace.user
        return open_channel(
            self.address,
            server_name=self.site.deployment.service.name,
            ca=user.service_ca.read_bytes(),
            certificate=user.certificate.read_bytes(),
            key=SecretBytes(user.key.read_bytes()),
            attested=attested,
        )

    @contextlib.contextmanager
    def proxy(self, policy: Path) -> Iterator[str]:
        """Run the verifying proxy, and yield its address."""
        address = f"127.0.0.1:{ports.find_free()}"
        line = command("proxy", "--listen", address, "--policy", policy, "--directory", self.site.directory)
        with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                with grpc.insecure_channel(address) as channel:
                    grpc.channel_ready_future(channel).result(timeout=SECONDS)
                yield address
            finally:
                process.terminate()
