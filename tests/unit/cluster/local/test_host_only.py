"""The local target on a machine that is only the host."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.harness.errors import raises
from tests.harness.workspaces import Site, make_site

from sealserve.bundle import Bundle, EnclaveFacts
from sealserve.cluster import ports, wanted
from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.local import host_only
from sealserve.cluster.local.owner_services import OwnerServices
from sealserve.cluster.local.target import LocalTarget
from sealserve.cluster.release_record import ReleaseRecord
from sealserve.errors import SealserveError


@pytest.fixture
def host(tmp_path: Path) -> Site:
    """A host whose workspace has a deployment file and no files of an owner."""
    return make_site(tmp_path / "host", service={"port": ports.find_free()})


def bundle(host: Site, *names: str) -> Bundle:
    folder = host.workspace.host.releases / "flowers-0123"
    folder.mkdir(parents=True, exist_ok=True)
    facts = EnclaveFacts(name="", port=8510, broker=("broker.example.com", 4433), memory=1, manifest="")
    return Bundle(folder=folder, size=1, enclaves=tuple(replace(facts, name=name) for name in names))


def test_a_host_needs_the_platform_that_the_owners_vendor_certified(host: Site) -> None:
    target = LocalTarget(host.workspace, host.deployment)
    with raises(ClusterCode.TARGET_HOST_INCOMPLETE, match="This host has no simulated platform") as caught:
        target.check(bundle(host).folder, broker_here=False)
    assert "simulated platform --create-only" in (caught.value.hint or "")
    assert not any(host.workspace.vendor.root.iterdir()), "a vendor of its own would be rejected by the broker"
    host.workspace.host.platform.mkdir()
    target.check(bundle(host).folder, broker_here=False)


def test_each_replica_needs_an_enclave_that_was_shipped(host: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OwnerServices, "start", lambda *_, **__: pytest.fail("nothing is started"))
    with raises(
        ClusterCode.TARGET_HOST_INCOMPLETE, match=r"has no enclave replica-1: .* for each of 2 replicas, got 1"
    ):
        LocalTarget(host.workspace, host.deployment).up(bundle(host, "replica-0"), 2)


def test_a_host_starts_neither_the_broker_nor_the_vendor(host: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    def start(_self: OwnerServices, *roles: str) -> None:
        started.extend(roles)

    monkeypatch.setattr(OwnerServices, "start", start)
    monkeypatch.setattr(OwnerServices, "start_supervisor", lambda _: None)  # it would outlive this test
    monkeypatch.setattr(OwnerServices, "require_free_ports", lambda _: pytest.fail("these ports are the owner's"))
    with pytest.raises(SealserveError, match="replica-0"):  # after the services; this release has no real enclaves
        LocalTarget(host.workspace, host.deployment).up(bundle(host, "replica-0", "replica-1"), 2)
    assert started == ["platform"]


def test_a_host_does_not_miss_the_owners_parts(host: Site) -> None:
    """Neither during the first start, nor if the owner's folder also has the release."""
    target = LocalTarget(host.workspace, host.deployment)
    assert {"broker", "pcs"} <= set(target.expected(1))
    wanted.keep_role(host.workspace, host_only=True)
    parts = ["supervisor", "nginx", "replica-0", "platform"]
    assert list(target.expected(1)) == parts
    (host.workspace.owner.releases / "flowers-0123").mkdir(parents=True)
    ReleaseRecord(host.workspace).serve("flowers-0123")
    assert list(target.expected(1)) == parts
    assert not host_only.is_owners(host.workspace, "flowers-0123")
    wanted.keep_role(host.workspace, host_only=False)
    assert list(target.expected(1)) == [*parts, "broker", "pcs"]
    assert host_only.is_owners(host.workspace, "flowers-0123")
