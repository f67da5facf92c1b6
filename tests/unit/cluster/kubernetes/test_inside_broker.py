"""A broker in the cluster: only for trials, restricted like every pod, and with only the files that it reads."""

import base64
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from tests.harness.workspaces import Site, make_site
from tests.unit.cluster.kubernetes.conftest import TOML, make_context
from tests.unit.cluster.kubernetes.policy_evaluator import Peer, allows

from sealserve import deployment, terms
from sealserve.broker.master_key import under_passphrase
from sealserve.bundle import BrokerPlace, Bundle, OwnersBroker
from sealserve.cluster.kubernetes import inside_broker
from sealserve.cluster.kubernetes.objects import objects
from sealserve.cluster.kubernetes.policies import policies
from sealserve.cluster.kubernetes.render_context import NotRenderableError, RenderContext
from sealserve.cluster.kubernetes.target import KubernetesTarget
from sealserve.owner import broker_files, simulation
from sealserve.owner.owner import Owner
from sealserve.secret import SecretBytes

ADDRESS = "sealserve-broker.sealserve.svc"


def trial(*, platform: str = "simulated", address: str = ADDRESS, toml: str = TOML) -> RenderContext:
    context = make_context("broker.dangerous_inside = true\n", platform=platform, toml=toml)
    return replace(context, shipped=replace(context.shipped, broker=(address, 4433)))


def owners_broker(site: Site) -> OwnersBroker:
    """Return the files that the owner's side provides, as `prepare` does."""
    broker_files.make_ready(site.workspace)
    return broker_files.describe(site.workspace, BrokerPlace.CLUSTER, with_files=True)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = make_site(tmp_path)
    made.certify()
    with Owner.open(made.workspace).vault(create=True):
        simulation.open_platform(made.workspace, now=made.now)
    Owner.create(made.workspace)
    return made


def test_the_broker_gets_only_the_files_that_it_reads(site: Site) -> None:
    (site.workspace.owner.models / "plain").mkdir(parents=True)
    (site.workspace.owner.models / "plain" / "weights").write_bytes(b"the model")
    files = inside_broker.material(trial(), owners_broker(site))
    names = {path.removeprefix(".sealserve/").partition("/vendor/")[0] for path in files}
    assert {
        "owner/master.key",
        "owner/audit-signing-key.pem",
        "owner/database/broker.sqlite",
        "sealserve.toml",
    } <= names
    assert not any("index-signing" in path or "enclave-signing" in path for path in files)
    assert not any("models" in path or "authorities" in path or "releases" in path for path in files)
    assert not any(path.startswith((".sealserve/host", ".sealserve/user")) for path in files)


def test_its_settings_are_a_deployment_file(site: Site) -> None:
    text = base64.b64decode(inside_broker.material(trial(), owners_broker(site))["sealserve.toml"]).decode()
    described = deployment.parse(text)
    assert (described.broker.listen, described.broker.port) == ("::", 4433)
    assert described.platform is terms.PlatformKind.SIMULATED


def test_the_copied_database_has_the_newest_changes(site: Site, tmp_path: Path) -> None:
    database = site.workspace.owner.database
    with closing(sqlite3.connect(database)) as other:  # its write-ahead log is not in the file yet
        other.execute("CREATE TABLE last_words (word TEXT)")
        other.commit()
        copied = tmp_path / "copy.sqlite"
        material = inside_broker.material(trial(), owners_broker(site))
        copied.write_bytes(base64.b64decode(material[".sealserve/owner/database/broker.sqlite"]))
    with closing(sqlite3.connect(copied)) as copy:
        assert copy.execute("SELECT count(*) FROM last_words").fetchone() == (0,)


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (trial(platform="sgx"), "works only with simulated enclaves"),
        (trial(address="attestation.service.com"), "'attestation.service.com', but its name in the cluster is"),
        (trial(toml=TOML.replace("[service]", '[keystore]\npassphrase_file = "secret"\n\n[service]')), "passphrase"),
    ],
)
def test_a_deployment_that_is_not_a_trial_is_rejected(site: Site, context: RenderContext, message: str) -> None:
    with pytest.raises(NotRenderableError, match=message) as caught:
        inside_broker.material(context, owners_broker(site))
    assert caught.value.code == "kubernetes.not-renderable"


def test_a_master_key_with_a_passphrase_is_rejected(site: Site) -> None:
    path = site.workspace.owner.master_key
    path.write_bytes(under_passphrase(SecretBytes(path.read_bytes()), SecretBytes(b"only typed")))
    with pytest.raises(NotRenderableError, match="without a passphrase"):
        inside_broker.material(trial(), owners_broker(site))


def test_files_that_exceed_a_secret_are_rejected(site: Site) -> None:
    with closing(sqlite3.connect(site.workspace.owner.database)) as database:
        database.execute("CREATE TABLE filling (content BLOB)")
        database.execute("INSERT INTO filling VALUES (zeroblob(1048576))")
        database.commit()
    with pytest.raises(NotRenderableError, match=r"do not fit into a Kubernetes Secret: \d+ bytes"):
        inside_broker.material(trial(), owners_broker(site))


def test_a_host_alone_has_no_keys_to_give(site: Site) -> None:
    target = KubernetesTarget(site.workspace, site.deployment)
    with pytest.raises(NotRenderableError, match="This machine is only the host, so it has no keys"):
        target._objects(trial(), Bundle(folder=site.directory, size=0, enclaves=()))


def test_a_rendering_never_has_the_owners_keys() -> None:
    with pytest.raises(NotRenderableError, match="works only with `sealserve up`"):
        objects(trial())


@pytest.mark.parametrize("version", ["1.30.0", "1.34.0"])
def test_its_objects_fit_the_schema_and_its_pod_is_confined(version: str) -> None:
    made: list[dict[str, Any]] = list(inside_broker.inside_broker(trial(), {".sealserve/owner/master.key": "AAAA"}))
    for item in made:
        kubernetes_validate.validate(item, version, strict=True)
    pod = next(item for item in made if item["kind"] == "Deployment")["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_it_restarts_when_what_it_reads_changes() -> None:
    templates = [
        next(item for item in inside_broker.inside_broker(trial(), {"a": content}) if item["kind"] == "Deployment")
        ["spec"]["template"]["metadata"]["annotations"]
        for content in ("AAAA", "AAAA", "BBBB")
    ]  # fmt: skip
    assert templates[0] == templates[1] != templates[2]


def test_replicas_reach_it_and_nobody_else_does() -> None:
    context = trial()
    rules = policies(context)

    def pod(part: str) -> Peer:
        return Peer(labels=context.labels(part), namespace=context.settings.namespace, address="10.1.0.20")

    outside = Peer(address="198.51.100.7")
    assert allows(rules, pod("replicas"), pod("broker"), 4433)
    assert not allows(rules, pod("replicas"), outside, 4433)
    for other in (outside, pod("front")):
        assert not allows(rules, other, pod("broker"), 4433)
    assert not allows(rules, pod("broker"), outside, 443)
