"""The Docker engine of the tests, the images, and a deployment that runs in them."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from testbed.docker.base_image import BASE, make_base_image
from tests.harness.container_images import BASE_ARCHIVE, build_images, keep_images, running_engine
from tests.harness.running import Ended, run
from tests.harness.workspaces import Site, make_site

from sealserve.cluster import ports
from sealserve.containers.engine import Engine


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """The running engine, or a temporary engine."""
    with running_engine():
        yield Engine()


class Deployed:
    """A workspace whose deployment runs in Docker.

    Args:
        site: It.
    """

    def __init__(self, site: Site) -> None:
        self.site = site

    def __call__(self, *arguments: str) -> Any:
        """Run a command that must succeed, and return its JSON output."""
        done = self.run(*arguments, "--json")
        assert done.status == 0, f"{arguments}: {done.out}{done.err}"
        return done.json

    def run(self, *arguments: str) -> Ended:
        """Run a command."""
        return run(*arguments, "--directory", self.site.directory)

    def observed(self) -> Any:
        """Return the observations of `sealserve status`, for healthy and unhealthy deployments."""
        return self.run("status", "--json").json

    def status(self) -> dict[str, str]:
        """Return the state of each part."""
        return {part["role"]: part["state"] for part in self.observed()["parts"]}


@pytest.fixture(scope="session")
def site(engine: Engine) -> Iterator[Site]:
    """A workspace with a tiny model and certificates."""
    del engine
    make_base_image(BASE_ARCHIVE)
    with TemporaryDirectory(prefix="sealserve-") as folder:
        made = make_site(
            Path(folder), service={"port": ports.find_free(), "rest_port": ports.find_free()},
            server={"rest": True, "max_connection_age_seconds": 2}, target={"kind": "docker"},
        )  # fmt: skip
        made.import_model()
        made.certify()
        yield made
        run("down", "--yes", "--directory", made.directory)


@pytest.fixture(scope="session")
def images(site: Site) -> list[dict[str, Any]]:
    """The images of a simulated deployment, built with the user's command."""
    built = build_images("--base", BASE, "--directory", site.directory)
    keep_images(built)  # for the Kubernetes tests
    return built


@pytest.fixture
def deployed(site: Site, images: list[dict[str, Any]]) -> Iterator[Deployed]:
    """A deployment with two serving replicas. Parts that a test leaves running are stopped."""
    del images
    made = Deployed(site)
    made("up", "--replicas", "2")
    yield made
    made.run("down", "--yes")


def everything(label: str = "sealserve.project") -> dict[str, list[str]]:
    """Return the engine's containers and networks of deployments, and all volumes."""
    found = {}
    for kind, options in (("container", ["--all"]), ("network", []), ("volume", [])):
        chosen = ["--filter", f"label={label}"] if kind != "volume" else []
        listed = subprocess.run(
            ["docker", kind, "ls", "--quiet", *options, *chosen], capture_output=True, text=True, check=True
        )
        found[kind] = listed.stdout.split()
    return found


def docker_json(*arguments: str) -> Any:
    """Return the JSON output of a ``docker`` command."""
    return json.loads(subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout)
