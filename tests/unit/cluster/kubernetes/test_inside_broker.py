"""A broker in the cluster: only for trials, restricted like every pod, and with only the files that it reads."""

import base64
import json
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
from sealserve.private_file import PrivateFileExposedError
from sealserve.secret import SecretBytes

ADDRESS = "sealserve-broker.sealserve.svc"


def trial(*, platform: str = "simulated", address: str = ADDRESS, toml: str = TOML) -> RenderContext:
    context = make_context("broker.dangerous_inside = true\n", platform=platform, toml=toml)
    return replace(context, shipped=replace(context.shipped, broker=(address, 4433)))


TOKEN = ('pkcs11_module = "/m.so"', 'pkcs11_token = "owner"', 'pkcs11_pin_file = "/pin"')


def vault(url: str) -> tuple[str, ...]:
    return f'transit_url = "{url}"', 'transit_token_file = "/token"'


def with_settings(*lines: str) -> str:
    """Return the deployment file with one more section."""
    text = "\n".join(lines)
    return TOML.replace("[service]", f"{text}\n\n[service]")


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
    names = {path.removeprefix(".sealserve/") for path in files if not path.startswith(".sealserve/vendor/")}
    assert names == {
        "owner/master.key",
        "owner/audit-signing-key.pem",
        "owner/row-key",
        "owner/broker-tls/broker.key",
        "owner/broker-tls/broker.pem",
        "owner/issuing/ca.pem",
        "owner/token-signing-key.pem",
        "owner/database/broker.sqlite",
        "owner/trust/simulated-root.der",
        "sealserve.toml",
    }
    assert not any("index-signing" in path or "enclave-signing" in path for path in files)
    assert not any("models" in path or "authorities" in path or "releases" in path for path in files)
    assert not any(path.startswith((".sealserve/host", ".sealserve/user")) for path in files)


def test_its_settings_are_a_deployment_file(site: Site) -> None:
    text = base64.b64decode(inside_broker.material(trial(), owners_broker(site))["sealserve.toml"]).decode()
    described = deployment.parse(text)
    assert (described.broker.listen, described.broker.port) == ("::", 4433)
    assert described.platform is terms.PlatformKind.SIMULATED
    assert described.server.attested
    assert described.broker.certificate_hours == 24


def test_it_issues_certificates_only_if_the_owner_does_not_create_the_tls_key(site: Site) -> None:
    toml = with_settings("[server]", "dangerous_owner_tls_key = true", "[broker]", "certificate_hours = 48")
    files = inside_broker.material(trial(toml=toml), owners_broker(site))
    described = deployment.parse(base64.b64decode(files["sealserve.toml"]).decode())
    assert not described.server.attested
    assert described.broker.certificate_hours == 48


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
        (trial(toml=with_settings("[keystore]", 'kind = "pkcs11"', *TOKEN)), "cannot use a PKCS#11 token: .*nodes"),
        (trial(toml=with_settings("[keystore]", *TOKEN)), "cannot use a PKCS#11 token"),
        (
            trial(toml=with_settings("[database]", 'url = "postgresql://u@/n?host=/run/postgresql"')),
            "database.url is .*: in a pod, this address refers to the pod itself",
        ),
        (trial(toml=with_settings("[database]", 'url = "postgresql://u@127.0.0.1/n"')), "refers to the pod itself"),
        (
            trial(
                toml=with_settings(
                    "[database]", 'url = "postgresql://u@db.example.com/n?sslkey=/k"', 'ca_file = "/ca.pem"'
                )
            ),
            "does not have the file that sslkey in database.url names",
        ),
        (trial(toml=with_settings("[keystore]", *vault("http://127.0.0.1:8200"))), "refers to the pod itself"),
        (trial(toml=with_settings("[keystore]", *vault("https://[:8200"))), "transit_url is not valid"),
        (trial(toml=with_settings("[keystore]", *vault("https://vault:99999"))), "transit_url is not valid"),
    ],
)
def test_a_deployment_that_is_not_a_trial_is_rejected(site: Site, context: RenderContext, message: str) -> None:
    with pytest.raises(NotRenderableError, match=message) as caught:
        inside_broker.material(context, owners_broker(site))
    assert caught.value.code == "kubernetes.not-renderable"


def test_a_master_key_with_a_passphrase_is_rejected(site: Site) -> None:
    path = site.workspace.owner.master_key
    path.write_bytes(under_passphrase(SecretBytes(path.read_bytes()), SecretBytes(b"only typed")))
    with pytest.raises(NotRenderableError, match="requires a passphrase, which cannot be typed into a pod") as caught:
        inside_broker.material(trial(), owners_broker(site))
    assert caught.value.hint is not None
    assert "Set keystore.passphrase_file" in caught.value.hint


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Files that settings name, outside of the workspace."""
    folder = tmp_path / "outside"
    folder.mkdir()
    for name in ("password", "token", "passphrase"):
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(f"the secret {name}")
    for name in ("database-ca.pem", "vault-ca.pem"):
        (folder / name).write_text(f"the certificate {name}")
    return folder


def on_servers(folder: Path) -> str:
    return with_settings(
        "[database]",
        'url = "postgresql://broker@db.example.com/sealserve"',
        f'password_file = "{folder}/password"',
        f'ca_file = "{folder}/database-ca.pem"',
        "[keystore]",
        'kind = "transit"',
        'transit_url = "https://vault.example.com:8200"',
        f'transit_token_file = "{folder}/token"',
        f'transit_ca_file = "{folder}/vault-ca.pem"',
        f'passphrase_file = "{folder}/passphrase"',
    )


def test_the_files_of_its_database_and_key_service_are_only_in_the_secret(site: Site, outside: Path) -> None:
    """The passwords are not in the environment, an argument, an annotation or another object."""
    text = on_servers(outside)
    broker_files.make_ready(site.workspace)
    site.workspace.owner.master_key.unlink()  # the key service has the key
    site.workspace.deployment_file.write_text(f'platform = "simulated"\n{text}')
    described = broker_files.describe(site.workspace, BrokerPlace.CLUSTER, with_files=True)
    assert not described.needs_passphrase
    files = inside_broker.material(trial(toml=text), described)
    assert ".sealserve/owner/master.key" not in files
    assert not any("broker.sqlite" in path for path in files)
    expected = {
        "keystore/transit_token_file": "the secret token",
        "keystore/transit_ca_file": "the certificate vault-ca.pem",
        "keystore/passphrase_file": "the secret passphrase",
        "database/password_file": "the secret password",
        "database/ca_file": "the certificate database-ca.pem",
    }
    found = {path: content for path, content in files.items() if "/settings/" in path}
    assert {path.removeprefix(".sealserve/settings/"): decoded(content) for path, content in found.items()} == expected
    # 1. The pod's settings name the copies, and nothing else of this machine.
    pods = decoded(files["sealserve.toml"])
    parsed = deployment.parse(pods)
    assert str(parsed.database.password_file) == "/workspace/.sealserve/settings/database/password_file"
    assert str(parsed.keystore.transit_token_file) == "/workspace/.sealserve/settings/keystore/transit_token_file"
    assert parsed.database.url == "postgresql://broker@db.example.com/sealserve"
    assert parsed.keystore.kind == "transit"
    assert str(outside) not in pods
    # 2. Only the Secret contains the content.
    secret, *others = inside_broker.inside_broker(trial(toml=text), files)
    assert secret["kind"] == "Secret"
    shown = json.dumps(others)
    for content in found.values():
        assert content not in shown
        assert decoded(content) not in shown
    pod = others[0]["spec"]["template"]["spec"]
    assert not any("env" in container for container in (*pod["containers"], *pod["initContainers"]))


def test_a_secret_that_others_can_read_is_not_copied(site: Site, outside: Path) -> None:
    broker_files.make_ready(site.workspace)
    (outside / "password").chmod(0o640)
    site.workspace.deployment_file.write_text(f'platform = "simulated"\n{on_servers(outside)}')
    with pytest.raises(PrivateFileExposedError, match=r"the secret of database\.password_file"):
        broker_files.describe(site.workspace, BrokerPlace.CLUSTER, with_files=True)


def decoded(content: str) -> str:
    return base64.b64decode(content).decode()


@pytest.mark.parametrize(
    ("lines", "addresses", "reached", "refused"),
    [
        # 1. IP addresses: exactly these addresses and ports.
        (
            ["[database]", 'url = "postgresql://u@192.0.2.5,[2001:db8::7]:5433/n"', 'ca_file = "/ca.pem"',
             "[keystore]", *vault("https://192.0.2.9:8200")],
            "",
            [("192.0.2.5", 5432), ("2001:db8::7", 5433), ("192.0.2.9", 8200)],
            [("192.0.2.5", 5433), ("2001:db8::7", 5432), ("192.0.2.9", 443), ("192.0.2.6", 5432), ("192.0.2.5", 8200)],
        ),
        # 2. Names with networks: each service has its own networks.
        (
            ["[database]", 'url = "postgresql://u@db.example.com/n"', 'ca_file = "/ca.pem"',
             "[keystore]", *vault("https://vault.example.com")],
            'broker.database_addresses = ["192.0.2.0/28"]\nbroker.keystore_addresses = ["198.51.100.4"]\n',
            [("192.0.2.3", 5432), ("198.51.100.4", 443)],
            [("192.0.2.33", 5432), ("198.51.100.4", 5432), ("192.0.2.3", 443), ("198.51.100.5", 443)],
        ),
        # 3. A name without networks: one port at any address, because a policy has no names.
        (
            ["[database]", 'url = "postgresql://u@db.example.com:6432/n"', 'ca_file = "/ca.pem"'],
            "",
            [("192.0.2.3", 6432)],
            [("192.0.2.3", 5432), ("192.0.2.3", 443)],
        ),
        # 4. Nothing on a server.
        ([], "", [], [("192.0.2.3", 5432), ("192.0.2.3", 443), ("192.0.2.3", 53)]),
    ],
)  # fmt: skip
def test_it_reaches_its_database_and_key_service_and_nothing_else(
    lines: list[str], addresses: str, reached: list[tuple[str, int]], refused: list[tuple[str, int]]
) -> None:
    context = make_context(f"broker.dangerous_inside = true\n{addresses}", toml=with_settings(*lines))
    rules = policies(replace(context, shipped=replace(context.shipped, broker=(ADDRESS, 4433))))
    for item in rules:
        kubernetes_validate.validate(item, "1.37.0", strict=True)

    def pod(part: str) -> Peer:
        return Peer(labels=context.labels(part), namespace=context.settings.namespace, address="10.1.0.20")

    for address, port in reached:
        assert allows(rules, pod("broker"), Peer(address=address), port), (address, port)
        assert not allows(rules, pod("front"), Peer(address=address), port), (address, port)
    for address, port in refused:
        assert not allows(rules, pod("broker"), Peer(address=address), port), (address, port)
    dns = Peer(labels={"k8s-app": "kube-dns"}, namespace="kube-system", address="10.1.0.2")
    has_name = any("example.com" in line for line in lines)
    assert allows(rules, pod("broker"), dns, 53, protocol="UDP") is has_name


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


@pytest.mark.parametrize("version", ["1.30.0", "1.37.0"])
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
