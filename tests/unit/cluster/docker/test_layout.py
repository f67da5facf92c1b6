"""Reachability and restrictions of containers, and the equivalence of Compose and engine commands."""

import os
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.harness.errors import raises
from tests.harness.workspaces import Site, make_site

from sealserve import deployment
from sealserve.bundle import BrokerPlace
from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.docker import commands, keystore_files
from sealserve.cluster.docker.compose import compose_file
from sealserve.cluster.docker.configuration import (
    container_deployment,
    write_configuration,
    write_front,
    write_seccomp,
)
from sealserve.cluster.docker.layout import ContainerLayout, first_links, free_links
from sealserve.cluster.docker.parts import NO_HOST_ADDRESS, Container, Network, listens
from sealserve.cluster.docker.seccomp import ADDR_NO_RANDOMIZE, gramine_direct_profile
from sealserve.cluster.docker.served import Served, for_containers
from sealserve.deployment.sections.broker import NotificationsTable
from sealserve.deployment.sections.tcb import TcbSection
from sealserve.host.facts import AESM_FOLDER, ENCLAVE_DEVICE
from sealserve.ingress.nginx_config import Upstream
from sealserve.owner import administrators, broker_files, certificates, simulation
from sealserve.owner.master_key import rotate
from sealserve.owner.owner import Owner
from sealserve.private_file import PrivateFileExposedError
from sealserve.terms import AdministratorRole

REPLICAS = 3


@pytest.fixture
def bundle(tmp_path: Path) -> Served:
    return Served(
        folder=tmp_path / "half-plus-two-0123456789ab", enclave="server", port=8500,
        broker=("attestation.service.com", 4433), size=1000, manifest="m",
    )  # fmt: skip


def make_context(site: Site, *, broker_here: bool = True, **settings: Any) -> ContainerLayout:
    described = for_containers(site.deployment)
    folder = site.workspace.host.run / "docker"
    return ContainerLayout(
        site.workspace, described, broker_here=broker_here, user="65532:65532", folder=folder, **settings
    )


def everything(layout: ContainerLayout, bundle: Served) -> tuple[list[Network], list[Container]]:
    links = first_links(layout, REPLICAS)
    containers = [*layout.services(bundle), *(layout.replica(index, link, bundle) for index, link in enumerate(links))]
    return [layout.front, layout.collateral, *map(layout.link, links)], [*containers, layout.nginx(bundle)]


def neighbours(layout: ContainerLayout, bundle: Served, role: str) -> set[str]:
    """Return the roles of the containers that share a network with one."""
    links = first_links(layout, REPLICAS)
    places: dict[str, set[str]] = {
        container.role: {place.network for place in container.networks} for container in everything(layout, bundle)[1]
    }
    for link in links:
        places[layout.network_owner].add(layout.network_owner_on(link, bundle).network)
        places["nginx"].add(layout.nginx_on(link).network)
    return {other for other, networks in places.items() if other != role and networks & places[role]}


@pytest.mark.parametrize("broker_here", [True, False])
@pytest.mark.parametrize("platform", ["simulated", "sgx"])
def test_a_replica_reaches_the_broker_and_nothing_else(
    tmp_path: Path, bundle: Served, broker_here: bool, platform: str
) -> None:
    layout = make_context(make_site(tmp_path / "site", platform=platform), broker_here=broker_here)
    network_owner = "broker" if broker_here else "relay"
    for index in range(REPLICAS):
        assert neighbours(layout, bundle, f"replica-{index}") == {network_owner, "nginx"}
        network = layout.link(index)
        assert network.internal
        assert NO_HOST_ADDRESS + "=true" in commands.network_create(network, "p")
    # NGINX shares each replica's network, but listens only on its own network.
    assert ip_address(layout.front_address) in layout.front.subnet
    assert neighbours(layout, bundle, "nginx") == {network_owner, *(f"replica-{index}" for index in range(REPLICAS))}
    write_front(layout, deployment.parse('model = {name = "m"}'), [Upstream(layout.upstream(0), 8500)])
    config = (layout.folder / "nginx" / "nginx.conf").read_text()
    assert f"listen {layout.front_address}:8500 " in config
    assert f"server {layout.upstream(0)}:8500 " in config


def test_only_nginx_is_published(tmp_path: Path, bundle: Served) -> None:
    layout = make_context(make_site(tmp_path / "site", service={"port": 9000, "listen": "::1"}))
    published = [container.role for container in everything(layout, bundle)[1] if container.published]
    assert published == ["nginx"]
    assert "--publish=[::1]:9000:8500" in commands.container_create(layout.nginx(bundle), "p")


def test_rest_is_published_where_the_release_has_it(tmp_path: Path, bundle: Served) -> None:
    layout = make_context(make_site(tmp_path / "site", service={"rest_port": 9001, "listen": "::1"}))
    assert "--publish=[::1]:9001:8501" in commands.container_create(layout.nginx(replace(bundle, rest_port=8501)), "p")
    assert not any(":8501" in argument for argument in commands.container_create(layout.nginx(bundle), "p"))
    assert layout.nginx(replace(bundle, rest_port=8501)).digest != layout.nginx(bundle).digest
    with_rest = layout.replica(0, 0, replace(bundle, rest_port=8501))
    assert "--label=sealserve.fact.rest=8501" in commands.container_create(with_rest, "p")
    assert with_rest.facts.keys() - layout.replica(0, 0, bundle).facts.keys() == {"rest"}


def test_nginx_forwards_rest_to_the_replicas_that_have_it(tmp_path: Path) -> None:
    """During a roll-out that turns REST on, the replicas of the old release do not have it."""
    site = make_site(tmp_path / "site")
    layout = make_context(site)
    path = layout.folder / "nginx" / "nginx.conf"
    both = [Upstream("10.0.0.1", 8500), Upstream("10.0.0.2", 8500)]
    assert write_front(layout, site.deployment, both, [Upstream("10.0.0.2", 8501)])
    text = path.read_text()
    assert "server 10.0.0.2:8501 " in text
    assert "10.0.0.1:8501" not in text
    assert f"listen {layout.front_address}:8501 " in text
    assert write_front(layout, site.deployment, both)
    assert "8501" not in path.read_text()


def test_addresses_and_networks_are_distinct(tmp_path: Path, bundle: Served) -> None:
    site = make_site(tmp_path / "site")
    layout = make_context(site)
    links = [layout.link(number) for number in layout.links]
    assert (
        len(links) == site.deployment.replica_limit("docker").most + 1
    )  # the maximum number of replicas, and one more during a roll-out
    subnets = [network.subnet for network in (layout.front, layout.collateral, *links)]
    assert len(set(subnets)) == len(subnets)
    for number, network in enumerate(links[:2]):
        addresses = [
            layout.upstream(number),
            layout.nginx_on(number).address,
            layout.network_owner_on(number, bundle).address,
        ]
        assert len(set(addresses)) == 3
        assert all(ip_address(address) in network.subnet for address in addresses)
        assert str(network.address(1)) not in addresses  # the gateway's address
    assert list(free_links(layout, {0, 2}))[:2] == [1, 3]


@pytest.mark.parametrize("broker_here", [True, False])
@pytest.mark.parametrize("platform", ["simulated", "sgx"])
def test_every_container_is_confined(tmp_path: Path, bundle: Served, broker_here: bool, platform: str) -> None:
    layout = make_context(make_site(tmp_path / "site", platform=platform), broker_here=broker_here)
    for container in everything(layout, bundle)[1]:
        line = " ".join(commands.container_create(container, "p"))
        for option in (
            "--read-only", "--cap-drop ALL", "--security-opt no-new-privileges", "--user 65532:65532",
            "--pids-limit 4096",
            "--log-opt max-size=10m", "--log-opt max-file=3", "--restart unless-stopped", "--health-cmd ",
        ):  # fmt: skip
            assert option in line, container.role
        assert "privileged" not in line
        assert "docker.sock" not in line
        assert "seccomp" not in line  # Docker's default profile applies
        assert all("mode=0700" in commands.tmpfs_option(tmpfs, container.user) for tmpfs in container.tmpfs)


def test_on_sgx_a_replica_gets_the_enclave_device_and_the_folder_of_aesm(tmp_path: Path, bundle: Served) -> None:
    layout = make_context(make_site(tmp_path / "site", platform="sgx"), groups=(107,))
    line = commands.container_create(layout.replica(0, 0, bundle), "p")
    assert [option for option in line if option.startswith("--device")] == [f"--device={ENCLAVE_DEVICE}"]
    assert f"--mount=type=bind,source={AESM_FOLDER},target={AESM_FOLDER},readonly" in line
    assert "--group-add=107" in line
    assert not any("sgx_provision" in option for option in line)
    assert f"type=bind,source={bundle.folder}," in " ".join(line)
    assert not any(option.endswith(f"{bundle.folder.name},readonly") for option in line)  # Gramine opens it read-write
    assert not layout.collateral.internal  # the broker asks Intel's service
    assert not any(container.role in {"pcs", "platform"} for container in layout.services(bundle))


def test_in_simulation_private_memory_holds_the_model(tmp_path: Path, bundle: Served) -> None:
    layout = make_context(make_site(tmp_path / "site"))
    replica = layout.replica(0, 0, bundle)
    (memory,) = [tmpfs for tmpfs in replica.tmpfs if tmpfs.target == "/release"]
    assert memory.size > bundle.size
    assert replica.devices == ()
    assert all(mount.read_only for mount in replica.mounts)
    assert layout.collateral.internal


def test_the_broker_sees_who_administers_it_only_if_it_needs_to(tmp_path: Path, bundle: Served) -> None:
    for port, mounted in ((None, set()), (4434, {"administrators"})):
        site = make_site(tmp_path / f"site-{port}", broker={} if port is None else {"admin_port": port})
        site.certify()
        issued = site.directory / "alice.json"
        administrators.issue(
            site.workspace, site.deployment, "alice", AdministratorRole.VIEWER, issued, now=site.now, days=1
        )
        services = make_context(site).services(bundle)
        mounts = [
            mount for container in services for mount in container.mounts if "administrators" in str(mount.source)
        ]
        assert {mount.source.name for mount in mounts} == mounted
        assert all(mount.read_only for mount in mounts)


def test_the_broker_sees_the_issuing_authority_if_there_is_one(tmp_path: Path, bundle: Served) -> None:
    for attested, mounted in ((False, set()), (True, {"issuing"})):
        site = make_site(tmp_path / f"site-{attested}", server={"dangerous_owner_tls_key": not attested})
        site.certify()
        services = make_context(site).services(bundle)
        mounts = [mount for container in services for mount in container.mounts if mount.source.name == "issuing"]
        assert {mount.source.name for mount in mounts} == mounted
        assert all(mount.read_only for mount in mounts)


def test_the_broker_sees_what_it_needs_and_nothing_else(tmp_path: Path, bundle: Served) -> None:
    site = make_site(tmp_path / "site")
    site.certify()
    simulation.open_platform(site.workspace, now=site.now)
    owner = site.workspace.owner
    with Owner.open(site.workspace).vault(create=True):
        Owner.create(site.workspace)
    layout = make_context(site)
    (broker,) = [container for container in layout.services(bundle) if container.role == "broker"]
    seen = {mount.source: mount for mount in broker.mounts if mount.source.is_relative_to(owner.root)}
    assert set(seen) == {owner.master_key, owner.audit_signing_key, owner.row_key, owner.token_signing_key,
                         owner.broker_tls, owner.issuing, owner.trust, owner.database.parent, owner.audit_head.parent,
                         owner.collateral}  # fmt: skip
    assert {source for source, mount in seen.items() if not mount.read_only} == {
        owner.database.parent, owner.audit_head.parent, owner.collateral,
    }  # fmt: skip
    assert all(
        mount.target == f"/workspace/.sealserve/owner/{source.relative_to(owner.root)}"
        for source, mount in seen.items()
    )
    assert "/workspace/.sealserve/owner" in {tmpfs.target for tmpfs in broker.tmpfs}  # for files that may be lost
    assert {path.name for path in owner.database.parent.iterdir()} <= {"broker.sqlite", "broker.sqlite-turn"}
    others = [container for container in everything(layout, bundle)[1] if container.role != "broker"]
    assert not any("owner" in str(mount.source) for mount in chain.from_iterable(item.mounts for item in others))


def test_few_containers_write_to_this_machine(tmp_path: Path, bundle: Served) -> None:
    layout = make_context(make_site(tmp_path / "site"))
    written = {
        mount.source.name
        for container in everything(layout, bundle)[1]
        for mount in container.mounts
        if not mount.read_only
    }
    assert written == {"database", "audit", "collateral", "quoting"}


def test_a_replaced_key_starts_the_broker_anew(tmp_path: Path, bundle: Served) -> None:
    site = make_site(tmp_path / "site")
    with Owner.open(site.workspace).vault(create=True):
        pass
    layout = make_context(site)
    owner = site.workspace.owner

    def digest() -> str:
        (broker,) = [container for container in layout.services(bundle) if container.role == "broker"]
        return broker.digest

    before = digest()
    # 1. A rotation writes into the mounted file, which the broker reads again.
    with owner.master_key.open("rb") as mounted:
        rotate(site.workspace)
        assert mounted.read() == owner.master_key.read_bytes()
    assert digest() == before
    # 2. The mount of a file does not show another file, such as the file from a backup.
    replaced(owner.master_key)
    assert digest() != before
    # 3. The broker reads its other keys only once.
    before = digest()
    replaced(owner.row_key)
    assert digest() != before


def replaced(path: Path) -> None:
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.chmod(0o600)
    copy.replace(path)


def values(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        yield from chain.from_iterable(values(value) for value in node.values())
    elif isinstance(node, list):
        yield from chain.from_iterable(map(values, node))
    else:
        yield str(node)


def test_compose_has_the_same_containers(tmp_path: Path, bundle: Served) -> None:
    site = make_site(tmp_path / "site")
    layout = make_context(site, seccomp=write_seccomp(tmp_path))
    networks, containers = everything(layout, bundle)
    document = yaml.safe_load(compose_file("p", networks, containers))
    assert set(document["networks"]) == {network.name for network in networks}
    for network in networks:
        described = document["networks"][network.name]
        assert described["ipam"]["config"] == [{"subnet": str(network.subnet)}]
        assert described.get("internal", False) == network.internal
        assert ("true" in values(described.get("driver_opts", {}))) == network.internal
    for container in containers:
        service = document["services"][container.role]
        assert (service["image"], service.get("command", [])) == (container.image, list(container.command))
        assert service["user"] == container.user
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert (f"seccomp:{container.seccomp}" in service["security_opt"]) == (container.seccomp is not None)
        assert service["healthcheck"]["test"] == ["CMD-SHELL", container.health]
        mounts = {(item["source"], item["target"], item["read_only"]) for item in service.get("volumes", [])}
        assert mounts == {(str(mount.source), mount.target, mount.read_only) for mount in container.mounts}
        places = {name: place["ipv4_address"] for name, place in service.get("networks", {}).items()}
        assert places == {place.network: place.address for place in container.networks}
        assert ("network_mode" in service) == (not container.networks)
        assert set(service.get("depends_on", {})) == set(container.after)
    assert document["services"]["nginx"]["ports"] == [
        {"host_ip": "127.0.0.1", "published": "8500", "target": 8500, "protocol": "tcp"}
    ]


def test_compose_publishes_rest_where_the_release_has_it(tmp_path: Path, bundle: Served) -> None:
    layout = make_context(make_site(tmp_path / "site", service={"rest_port": 9001}))
    served = replace(bundle, rest_port=8501)
    document = yaml.safe_load(compose_file("p", [layout.front], [layout.nginx(served)]))
    published = [(port["published"], port["target"]) for port in document["services"]["nginx"]["ports"]]
    assert published == [("8500", 8500), ("9001", 8501)]


def test_changes_that_require_a_new_container(tmp_path: Path, bundle: Served) -> None:
    site = make_site(tmp_path / "site")
    layout = make_context(site)
    assert layout.replica(0, 0, bundle).digest == layout.replica(0, 0, bundle).digest
    other = Served(folder=bundle.folder, enclave="server", port=8500, broker=bundle.broker, size=1000, manifest="n")
    assert layout.replica(0, 0, bundle).digest != layout.replica(0, 0, other).digest
    site.certify()
    before = [container.digest for container in layout.services(bundle)]
    # The broker reloads renewed certificates and a new issuing authority, so its container continues.
    certificates.renew_certificates(site.workspace, site.deployment, now=site.now)
    certificates.rotate_issuing(site.workspace, site.deployment, now=site.now)
    after = [container.digest for container in layout.services(bundle)]
    assert before == after


def test_a_changed_setting_of_the_broker_starts_its_container_anew(tmp_path: Path, bundle: Served) -> None:
    site = make_site(tmp_path / "site")

    def digests(section: str, **changes: object) -> list[str]:
        changed = getattr(site.deployment, section).model_copy(update=changes)
        described = site.deployment.model_copy(update={section: changed})
        layout = ContainerLayout(
            site.workspace, for_containers(described), broker_here=True, user="65532:65532", folder=tmp_path
        )
        return [container.digest for container in layout.services(bundle)]

    before = digests("broker")
    for section, changes in (
        ("broker", {"name": "keys.example.com"}),
        ("broker", {"port": 4444}),
        ("keystore", {"transit_key": "another"}),
        ("database", {"url": "postgresql://broker@db.example.com/sealserve"}),
    ):
        same = [old == new for old, new in zip(before, digests(section, **changes), strict=True)]
        assert same == [True, False, True], section
    assert digests("target", replicas=5) == before


def test_the_containers_own_description(tmp_path: Path, bundle: Served) -> None:
    site = make_site(tmp_path / "site", broker={"port": 5555})
    described = deployment.parse(container_deployment(for_containers(site.deployment)))
    assert described.broker.listen == "0.0.0.0"  # noqa: S104
    assert described.broker.port == 5555
    assert described.broker.address == "attestation.service.com"  # containers find it by its name
    assert described.broker.collateral_url == "http://pcs:8081"
    assert described.target.kind == "docker"
    assert described.model.path is None
    named = make_site(tmp_path / "named", broker={"address": "keys.example.com"})
    assert for_containers(named.deployment).broker.address == "keys.example.com"
    layout = make_context(site, broker_here=False)
    write_configuration(layout, site.deployment, bundle, broker=Upstream("192.0.2.7", 5555))
    relay = (layout.folder / "relay" / "nginx.conf").read_text()
    assert "listen 0.0.0.0:4433 " in relay
    assert "proxy_pass 192.0.2.7:5555;" in relay


def test_a_container_needs_no_policy_file(tmp_path: Path) -> None:
    """The broker reads the policies in its database. The path on the owner's machine means nothing in a container."""
    site = make_site(tmp_path / "site", broker={"collateral_update": "early"})
    tcb = TcbSection(policy_file=tmp_path / "mine.toml")
    described = deployment.parse(container_deployment(site.deployment.model_copy(update={"tcb": tcb})))
    assert described.tcb.policy_file is None
    assert described.broker.collateral_update == "early"


def test_nginxs_configuration_is_written_only_if_it_changes(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    layout = make_context(site)
    assert write_front(layout, site.deployment, [Upstream("10.0.0.1", 1)])
    assert not write_front(layout, site.deployment, [Upstream("10.0.0.1", 1)])
    assert write_front(layout, site.deployment, [Upstream("10.0.0.2", 1)])


def allowed(profile: dict[str, Any], call: str, *arguments: int) -> bool:
    """Return whether a profile allows a call, evaluated like libseccomp."""
    for rule in profile["syscalls"]:
        if call in rule["names"]:
            fits = True
            for condition in rule.get("args", ()):
                value = arguments[condition["index"]]
                if condition["op"] == "SCMP_CMP_EQ":
                    fits = fits and value == condition["value"]
                else:
                    fits = fits and value & condition["value"] == condition["valueTwo"]
            if fits:
                return bool(rule["action"] == "SCMP_ACT_ALLOW")
    return False


def test_gramine_direct_may_turn_randomisation_off_and_little_else() -> None:
    profile = gramine_direct_profile()
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert allowed(profile, "personality", ADDR_NO_RANDOMIZE)
    assert allowed(profile, "personality", 0xFFFFFFFF)
    assert not allowed(profile, "personality", 0x0400000)  # READ_IMPLIES_EXEC
    for call in ("mount", "bpf", "ptrace", "process_vm_readv", "keyctl", "add_key", "io_uring_setup", "kexec_load",
                 "init_module", "unshare", "setns", "userfaultfd", "perf_event_open", "open_by_handle_at"):  # fmt: skip
        assert not allowed(profile, call, 0, 0, 0), call
    assert allowed(profile, "clone", 0x00010F00)  # the flags for a thread
    assert not allowed(profile, "clone", 0x10000000)  # CLONE_NEWUSER
    assert not allowed(profile, "clone3", 0)
    assert allowed(profile, "socket", 1)
    assert not allowed(profile, "socket", 40)  # AF_VSOCK


def test_health_checks_use_the_containers_network_namespace() -> None:
    assert listens(8500) == "grep -Eq ':2134 [0-9A-F]+:0000 0A ' /proc/net/tcp /proc/net/tcp6"


def with_keystore(site: Site, **settings: Any) -> ContainerLayout:
    keystore = site.deployment.keystore.model_copy(update=settings)
    described = for_containers(site.deployment.model_copy(update={"keystore": keystore}))
    folder = site.workspace.host.run / "docker"
    user = f"{os.getuid()}:{os.getgid()}"
    return ContainerLayout(site.workspace, described, broker_here=True, user=user, folder=folder)


def described_by(layout: ContainerLayout) -> deployment.Deployment:
    return layout._deployment


def secret_file(path: Path, content: bytes) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(content)
    return path


def test_the_brokers_container_gets_the_files_of_the_keystore_and_nobody_else(
    ready: Site, bundle: Served, tmp_path: Path
) -> None:
    token = secret_file(tmp_path / "token", b"t")
    layout = with_keystore(
        ready, kind="transit", transit_url="https://vault.example.org:8200", transit_token_file=token
    )
    write_configuration(layout, described_by(layout), bundle, broker=None)
    settings = deployment.parse((layout.folder / "sealserve.toml").read_text(encoding="utf-8"))
    having = {
        container.role: mount.target
        for container in everything(layout, bundle)[1]
        for mount in container.mounts
        if mount.source == token
    }
    assert having == {"broker": str(settings.keystore.transit_token_file)}
    assert not layout.collateral.internal
    (broker,) = (container for container in layout.services(bundle) if container.role == "broker")
    token.rename(tmp_path / "old")
    secret_file(token, b"t")
    (later,) = (container for container in layout.services(bundle) if container.role == "broker")
    assert broker.digest != later.digest


def test_the_brokers_container_gets_the_files_of_the_notifications(ready: Site, bundle: Served, tmp_path: Path) -> None:
    secret = secret_file(tmp_path / "webhook.secret", b"s")

    def layout_with(url: str) -> ContainerLayout:
        notifications = NotificationsTable(url=url, secret_file=secret)
        broker = ready.deployment.broker.model_copy(update={"notifications": notifications})
        return with_keystore(replace(ready, deployment=ready.deployment.model_copy(update={"broker": broker})))

    layout = layout_with("https://siem.example.org/hook")
    write_configuration(layout, described_by(layout), bundle, broker=None)
    settings = deployment.parse((layout.folder / "sealserve.toml").read_text(encoding="utf-8")).broker.notifications
    having = {
        container.role: mount.target
        for container in everything(layout, bundle)[1]
        for mount in container.mounts
        if mount.source == secret
    }
    assert having == {"broker": str(settings.secret_file)}
    assert not layout.collateral.internal
    (broker,) = (container for container in layout.services(bundle) if container.role == "broker")
    secret.rename(tmp_path / "old")
    secret_file(secret, b"t")
    (later,) = (container for container in layout.services(bundle) if container.role == "broker")
    assert broker.digest != later.digest
    layout = layout_with("http://127.0.0.1:9000/hook")
    with raises(ClusterCode.TARGET_UNSUPPORTED, match="is a loopback address, which refers to the broker's container"):
        write_configuration(layout, described_by(layout), bundle, broker=None)
    secret.chmod(0o640)
    layout = layout_with("https://siem.example.org/hook")
    with pytest.raises(PrivateFileExposedError):
        write_configuration(layout, described_by(layout), bundle, broker=None)


def test_a_passphrase_without_a_file_is_rejected(ready: Site, bundle: Served, tmp_path: Path) -> None:
    ready.workspace.owner.master_key.unlink(missing_ok=True)
    secret_file(ready.workspace.owner.master_key, b"{}")
    layout = with_keystore(ready)
    broker = broker_files.describe(ready.workspace, BrokerPlace.CONTAINER, with_files=True)
    assert broker.needs_passphrase
    with raises(
        ClusterCode.TARGET_UNSUPPORTED, match=r"cannot be typed into the broker's container.*keystore\.passphrase_file"
    ):
        write_configuration(layout, described_by(layout), bundle, broker=None, needs_passphrase=broker.needs_passphrase)
    layout = with_keystore(ready, passphrase_file=secret_file(tmp_path / "passphrase", b"of twelve bytes"))
    write_configuration(layout, described_by(layout), bundle, broker=None, needs_passphrase=broker.needs_passphrase)


def test_keystore_files_that_the_brokers_container_cannot_use_are_rejected(
    ready: Site, bundle: Served, tmp_path: Path
) -> None:
    token = secret_file(tmp_path / "token", b"t")
    layout = with_keystore(ready, kind="transit", transit_url="http://127.0.0.1:8200", transit_token_file=token)
    with raises(ClusterCode.TARGET_UNSUPPORTED, match="this address refers to the broker's container itself"):
        write_configuration(layout, described_by(layout), bundle, broker=None)
    token.chmod(0o644)
    with pytest.raises(PrivateFileExposedError):
        write_configuration(layout, described_by(layout), bundle, broker=None)
    token.chmod(0o600)
    settings = described_by(layout).keystore
    with raises(
        ClusterCode.TARGET_UNSUPPORTED, match=r"runs as user 4242, which cannot read .*token\. Run `chown 4242"
    ):
        keystore_files.check(ready.workspace, settings, user="4242:4242", needs_passphrase=False)


def with_token(site: Site, pin: Path, *files: Path) -> ContainerLayout:
    return with_keystore(
        site, kind="pkcs11", pkcs11_module=Path("/usr/lib/vendor/pkcs11.so"), pkcs11_token="owner", pkcs11_pin_file=pin,
        pkcs11_files=files,
    )  # fmt: skip


def test_the_brokers_container_gets_the_files_of_a_pkcs11_module(ready: Site, bundle: Served, tmp_path: Path) -> None:
    pin, client = secret_file(tmp_path / "pin", b"1234"), tmp_path / "vendor-client"
    client.mkdir()
    linked = tmp_path / "linked"
    linked.symlink_to(client)
    layout = with_token(ready, pin, client, linked)
    write_configuration(layout, described_by(layout), bundle, broker=None)
    settings = deployment.parse((layout.folder / "sealserve.toml").read_text(encoding="utf-8"))
    assert settings.keystore.pkcs11_files == ()
    assert str(settings.keystore.pkcs11_module) == "/usr/lib/vendor/pkcs11.so"
    having = {
        (container.role, mount.target, mount.source, mount.read_only)
        for container in everything(layout, bundle)[1]
        for mount in container.mounts
        if mount.source in {pin, client}
    }
    assert having == {
        ("broker", str(settings.keystore.pkcs11_pin_file), pin, True),
        ("broker", str(client), client, True),
        ("broker", str(linked), client, True),
    }
    assert not layout.collateral.internal  # the token can be in the network
    pin.chmod(0o640)
    with pytest.raises(PrivateFileExposedError):
        write_configuration(layout, described_by(layout), bundle, broker=None)


@pytest.mark.parametrize(
    "text",
    ["/", "/tmp", "/proc/self", "/workspace", "/keystore/x", "/opt", "/usr", "/dev"],  # noqa: S108
)
def test_files_of_a_module_do_not_replace_files_of_the_container(
    ready: Site, bundle: Served, tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "exists", lambda _: True)
    layout = with_token(ready, secret_file(tmp_path / "pin", b"1234"), Path(text))
    with raises(ClusterCode.TARGET_UNSUPPORTED, match="overlaps the workspace or a folder of the broker's container"):
        write_configuration(layout, described_by(layout), bundle, broker=None)


def test_files_of_a_module_do_not_show_the_workspace(ready: Site, bundle: Served, tmp_path: Path) -> None:
    pin, owner = secret_file(tmp_path / "pin", b"1234"), ready.workspace.owner.root
    link = tmp_path / "link"
    link.symlink_to(owner)
    for path in (owner, owner / "models", ready.directory, ready.directory.parent, link):
        layout = with_token(ready, pin, path)
        with raises(ClusterCode.TARGET_UNSUPPORTED, match="overlaps the workspace"):
            write_configuration(layout, described_by(layout), bundle, broker=None)
    layout = with_token(ready, pin, tmp_path / "absent")
    with raises(ClusterCode.TARGET_UNSUPPORTED, match="which does not exist on this machine"):
        write_configuration(layout, described_by(layout), bundle, broker=None)


def with_database(site: Site, **settings: Any) -> ContainerLayout:
    layout = with_keystore(site)
    described = described_by(layout)
    database = deployment.DatabaseSection(**settings)
    described = described.model_copy(update={"database": database})
    return ContainerLayout(site.workspace, described, broker_here=True, user=layout.user, folder=layout.folder)


def test_the_brokers_container_reaches_a_database_server_with_its_files(
    ready: Site, bundle: Served, tmp_path: Path
) -> None:
    password, ca = secret_file(tmp_path / "password", b"p"), secret_file(tmp_path / "ca.pem", b"c")
    layout = with_database(ready, url="postgresql://broker@db.example.com/keys", password_file=password, ca_file=ca)
    write_configuration(layout, described_by(layout), bundle, broker=None)
    settings = deployment.parse((layout.folder / "sealserve.toml").read_text(encoding="utf-8"))
    having = {
        (container.role, mount.source): mount.target
        for container in everything(layout, bundle)[1]
        for mount in container.mounts
        if mount.source in {password, ca}
    }
    assert having == {
        ("broker", password): str(settings.database.password_file), ("broker", ca): str(settings.database.ca_file)
    }  # fmt: skip
    assert not layout.collateral.internal
    (broker,) = (container for container in layout.services(bundle) if container.role == "broker")
    password.rename(tmp_path / "old")
    secret_file(password, b"q")
    (later,) = (container for container in layout.services(bundle) if container.role == "broker")
    assert broker.digest != later.digest


def test_a_database_that_the_brokers_container_cannot_reach_is_rejected(
    ready: Site, bundle: Served, tmp_path: Path
) -> None:
    password, ca = secret_file(tmp_path / "password", b"p"), secret_file(tmp_path / "ca.pem", b"c")
    for place in ("127.0.0.1/keys", "/keys?host=/run/postgresql"):
        layout = with_database(ready, url=f"postgresql://broker@{place}")
        with raises(ClusterCode.TARGET_UNSUPPORTED, match="this address refers to the broker's container itself"):
            write_configuration(layout, described_by(layout), bundle, broker=None)
    layout = with_database(ready, url="postgresql://broker@db/keys?sslcert=/c&sslkey=/k", ca_file=ca)
    with raises(ClusterCode.TARGET_UNSUPPORTED, match="does not have the file that sslcert in database"):
        write_configuration(layout, described_by(layout), bundle, broker=None)
    layout = with_database(ready, url="postgresql://broker@db/keys", ca_file=ca, password_file=password)
    password.chmod(0o644)
    with pytest.raises(PrivateFileExposedError):
        write_configuration(layout, described_by(layout), bundle, broker=None)


def test_the_network_of_a_replica_leads_outside_only_for_its_traces(tmp_path: Path) -> None:
    traces = {"endpoint": "https://collector.example.com:4317"}
    layout = make_context(make_site(tmp_path / "site", server={"traces": traces}))
    network = layout.link(0)
    assert not network.internal
    assert NO_HOST_ADDRESS + "=true" not in commands.network_create(network, "p")
