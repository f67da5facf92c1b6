"""Roll-outs in Docker: the state after a failure or a kill at any step."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.harness.errors import raises
from tests.harness.workspaces import Site, make_site

from sealserve.bundle import Bundle, EnclaveFacts, OwnersBroker
from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.docker.fleet import Running
from sealserve.cluster.docker.parts import AGE_FACT, REST_FACT, Attachment, Container, Network
from sealserve.cluster.docker.target import DockerTarget
from sealserve.cluster.target import DRAIN_SECONDS, NGINX, REPLICA
from sealserve.containers.engine import Engine, Image

ADDRESS = re.compile(r"^ +server ([0-9.]+):", re.MULTILINE)


class KilledError(BaseException):
    """The command was killed: none of its later steps happen."""


class FakeFleet:
    """A simulated engine's containers, which check that users always have a replica.

    Args:
        front: NGINX's configuration file.
    """

    project = "p"

    def __init__(self, front: Path) -> None:
        self._front = front
        self._found: dict[str, tuple[Running, Container]] = {}
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.refused: set[tuple[str, str]] = set()
        self.steps_left: int | None = None
        self.least = 0
        self.waited: list[float] = []

    def _step(self) -> None:
        if self.steps_left is not None:
            self.steps_left -= 1
            if self.steps_left < 0:
                raise KilledError

    def _check(self) -> None:
        """Check that enough replicas serve and are listed by NGINX, and that NGINX lists no removed replica."""
        assert self.loaded <= self.addresses()
        assert len(self.loaded) >= self.least

    def containers(self) -> list[Running]:
        return [found for found, _ in self._found.values()]

    def find(self, role: str) -> Running | None:
        return next((found for found in self.containers() if found.role == role), None)

    def replicas(self) -> list[Running]:
        return [found for found in self.containers() if found.role.startswith(REPLICA)]

    def fits(self, found: Running, described: Container) -> bool:
        return found.digest == described.digest

    def ensure_network(self, network: Network) -> None:
        self._step()
        self.links.add(network.name)

    def connect(self, container: Running, place: Attachment) -> None:
        del container, place

    def ensure(self, container: Container) -> Running:
        before = self.find(container.role)
        return before if before is not None and self.fits(before, container) else self.start(container)

    def start(self, container: Container) -> Running:
        self._step()
        link = container.networks[0].network if container.networks else "none"
        found = Running(
            id=container.name, name=container.name, role=container.role, image="i", digest=container.digest,
            release=container.facts.get("release", ""), status="running", health="", ready="", pid=1,
            networks=frozenset({link}), restarts=0, connection_age=int(container.facts.get(AGE_FACT, 0)) or None,
            rest_port=int(container.facts.get(REST_FACT, 0)) or None,
        )  # fmt: skip
        assert container.name not in self._found
        self._found[container.name] = (found, container)
        if container.role == NGINX:
            self._load()
        return found

    def wait(self, container: Running, *, seconds: float) -> None:
        del seconds
        self._step()
        if (container.role, container.release) in self.refused:
            raise ClusterCode.CONTAINER_ENDED.error(f"{container.role} ended: error[provisioning.refused]")

    def is_ready(self, container: Running) -> bool:
        return (container.role, container.release) not in self.refused

    def reload_nginx(self, nginx: Running) -> None:
        assert nginx.role == NGINX
        self._step()
        self._load()

    def wait_drained(self, nginx: Running, *, seconds: float) -> bool:
        del nginx
        self._step()
        self.waited.append(seconds)
        return True

    def remove(self, container: Running, *, log: Path | None = None, grace: int | None = None) -> None:
        del log, grace
        self._step()
        del self._found[container.name]
        self._check()

    def remove_networks(self, *names: str) -> None:
        self._step()
        self.links -= set(names)

    def _load(self) -> None:
        self.loaded = set(ADDRESS.findall(self._front.read_text()))
        self._check()

    def addresses(self, *, of: str = "") -> set[str]:
        """Return the addresses of the existing replicas, of all releases or of one release."""
        return {
            described.networks[0].address
            for found, described in self._found.values()
            if found.role.startswith(REPLICA) and of in {"", found.release}
        }

    def served(self) -> dict[str, str]:
        """Return the releases of the replicas, by role."""
        found = self.replicas()
        assert len({replica.role for replica in found}) == len(found)
        return {replica.role: replica.release for replica in found}

    def settled(self) -> bool:
        """Whether NGINX lists all replicas, and exactly one link exists for each."""
        links = {f"link-{found.link}" for found in self.replicas()}
        return self.loaded == self.addresses() and {name for name in self.links if name.startswith("link-")} == links


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = make_site(tmp_path / "site", target={"kind": "docker"})
    made.certify()
    return made


@pytest.fixture
def told() -> list[str]:
    """The progress texts of the target."""
    return []


@pytest.fixture
def target(site: Site, told: list[str], monkeypatch: pytest.MonkeyPatch) -> DockerTarget:
    made = DockerTarget(site.workspace, site.deployment, tell=told.append)
    monkeypatch.setattr(made, "_fleet", FakeFleet(site.workspace.host.run / "docker/nginx/nginx.conf"))
    return made


def fleet(target: DockerTarget) -> FakeFleet:
    found: Any = target._fleet
    assert isinstance(found, FakeFleet)
    return found


def bundle(name: str, site: Site) -> Bundle:
    folder = site.workspace.host.releases / name
    folder.mkdir(parents=True, exist_ok=True)
    enclave = EnclaveFacts(name="server", port=8500, broker=("broker.example", 4433), memory=1, manifest=name)
    return Bundle(folder=folder, size=1, enclaves=(enclave,), broker=OwnersBroker())


def test_a_roll_out_and_a_roll_back(target: DockerTarget, site: Site, told: list[str]) -> None:
    assert target.up(bundle("a-1", site), 2) == []
    assert {"starting pcs", "starting broker", "starting platform", "starting NGINX"} <= set(told)
    told.clear()
    fleet(target).least = 2
    with raises(ClusterCode.TARGET_NOT_UP, match="no other release was served before"):
        target.previous_release()
    assert target.up(bundle("b-2", site), 2) == ["a-1"]
    assert [text for text in told if text.startswith("starting")] == ["starting replica-0", "starting replica-1"]
    assert fleet(target).served() == {"replica-0": "b-2", "replica-1": "b-2"}
    assert target.previous_release() == "a-1"
    assert target.up(bundle("a-1", site), 2) == ["b-2"]
    assert fleet(target).served() == {"replica-0": "a-1", "replica-1": "a-1"}
    assert target.previous_release() == "b-2"
    assert target.up(bundle("a-1", site), 2) == []
    assert target.previous_release() == "b-2"
    assert fleet(target).settled()


def test_a_rejected_release_does_not_stop_the_old_replicas(target: DockerTarget, site: Site) -> None:
    target.up(bundle("a-1", site), 2)
    fleet(target).least = 2
    fleet(target).refused = {("replica-0", "b-2")}
    with raises(ClusterCode.CONTAINER_ENDED, match="replica-0 ended"):
        target.up(bundle("b-2", site), 2)
    assert fleet(target).served() == {"replica-0": "a-1", "replica-1": "a-1"}
    assert fleet(target).settled()
    with raises(ClusterCode.TARGET_NOT_UP):  # it did not serve
        target.previous_release()


def test_a_later_replica_that_does_not_start_allows_a_roll_back(target: DockerTarget, site: Site) -> None:
    target.up(bundle("a-1", site), 2)
    fleet(target).least = 2
    fleet(target).refused = {("replica-1", "b-2")}
    with raises(ClusterCode.CONTAINER_ENDED, match="replica-1 ended"):
        target.up(bundle("b-2", site), 2)
    assert fleet(target).served() == {"replica-0": "b-2", "replica-1": "a-1"}
    assert fleet(target).settled()
    assert target.previous_release() == "a-1"
    assert target.up(bundle("a-1", site), 2) == ["b-2"]
    assert fleet(target).served() == {"replica-0": "a-1", "replica-1": "a-1"}


def test_the_only_replica_that_does_not_start_is_removed(target: DockerTarget, site: Site) -> None:
    fleet(target).refused = {("replica-0", "a-1")}
    with raises(ClusterCode.CONTAINER_ENDED):
        target.up(bundle("a-1", site), 1)
    assert fleet(target).replicas() == []


@pytest.mark.parametrize("first", [True, False], ids=["first-start", "roll-out"])
def test_an_up_that_is_killed_at_any_step_is_completed_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    site = make_site(tmp_path / "site", target={"kind": "docker"})
    site.certify()
    step, killed = 0, True
    while killed:
        target = DockerTarget(site.workspace, site.deployment)
        there = FakeFleet(site.workspace.host.run / "docker/nginx/nginx.conf")
        monkeypatch.setattr(target, "_fleet", there)
        (site.workspace.host.run / "release").unlink(missing_ok=True)
        if not first:
            target.up(bundle("a-1", site), 2)
            there.least = 2
        there.steps_left = step
        try:
            target.up(bundle("b-2", site), 2)
            killed = False
        except KilledError:
            step += 1
        there.steps_left = None
        if not first and there.loaded & there.addresses(of="b-2"):
            assert target.previous_release() == "a-1", step
        target.up(bundle("b-2", site), 2)
        assert there.served() == {"replica-0": "b-2", "replica-1": "b-2"}, step
        assert there.loaded == there.addresses(), step
    assert step > 10


def test_the_difference_has_a_line_for_each_container(
    target: DockerTarget, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image(reference="x", id="sha256:0123456789abcdef", digests=(), size=1, created="", layers=())
    monkeypatch.setattr(Engine, "image", lambda *_: image)
    lines = target.difference(bundle("a-1", site), 2).splitlines()
    assert {line.partition(":")[0] for line in lines if line.startswith("+")} >= {
        "+replica-0", "+replica-1", "+nginx", "+broker", "+pcs", "+platform",
    }  # fmt: skip
    assert not (site.workspace.host.run / "docker").exists()
    target.up(bundle("a-1", site), 2)
    there = fleet(target)
    there._found = {name: (replace(found, image=image.id), described)
                    for name, (found, described) in there._found.items()}  # fmt: skip
    assert target.difference(bundle("a-1", site), 2) == ""
    lines = target.difference(bundle("b-2", site), 1).splitlines()
    assert [line[:24] for line in lines if line[0] in "+-"][2:] == [
        "-replica-0: release a-1,", "-replica-1: release a-1,", "+replica-0: release b-2,",
    ]  # fmt: skip


def test_leaving_replicas_drain_at_the_age_of_their_release(target: DockerTarget, site: Site, told: list[str]) -> None:
    """A shorter age in sealserve.toml does not apply to the leaving enclaves, whose age is measured."""
    old, new = (
        replace(made, enclaves=tuple(replace(enclave, connection_age=age) for enclave in made.enclaves))
        for made, age in ((bundle("a-1", site), 600), (bundle("b-2", site), 30))
    )
    front = site.workspace.host.run / "docker/nginx/nginx.conf"
    target.up(old, 1)
    assert f"worker_shutdown_timeout {660 + DRAIN_SECONDS}s;" in front.read_text()
    target.up(new, 1)
    assert fleet(target).waited == [660 + DRAIN_SECONDS]
    assert f"moving open connections to the other replicas, within {660} s" in told
    assert f"worker_shutdown_timeout {33 + DRAIN_SECONDS}s;" in front.read_text()


def test_replicas_of_an_earlier_version_are_not_replaced(target: DockerTarget, site: Site) -> None:
    """A running replica without the fact of the age still matches its description."""
    made = bundle("a-1", site)
    target.up(made, 1)
    known = replace(made, enclaves=tuple(replace(enclave, connection_age=60) for enclave in made.enclaves))
    before = [found.id for found in fleet(target).replicas()]
    target.up(known, 1)
    assert [found.id for found in fleet(target).replicas()] == before
    assert fleet(target).waited == []


def test_the_running_replicas_decide_whether_rest_is_an_endpoint(target: DockerTarget, site: Site) -> None:
    """The endpoint exists if the served release has REST, even if sealserve.toml has turned REST off since."""
    made = bundle("a-1", site)
    assert set(target.endpoints()) == {"grpc"}
    target.up(replace(made, enclaves=tuple(replace(enclave, rest_port=8501) for enclave in made.enclaves)), 1)
    assert set(target.endpoints()) == {"grpc", "rest"}
