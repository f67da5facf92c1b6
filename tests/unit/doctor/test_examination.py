import shutil
from collections.abc import Mapping
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest
from tests.harness.workspaces import Site, make_site

from sealserve.deployment import Deployment
from sealserve.doctor import broker_checks, host_checks
from sealserve.doctor import examination as doctor
from sealserve.doctor.codes import DoctorCode
from sealserve.doctor.finding import Finding, Machine, Verdict
from sealserve.enclave.simulated import private_memory
from sealserve.enclave.simulated.private_memory import PrivateMemoryMethod
from sealserve.host.facts import HostFacts
from sealserve.ingress.codes import IngressCode
from sealserve.ingress.nginx_program import NginxProgram
from sealserve.owner.owner import Owner
from sealserve.terms import RuntimeKind
from sealserve.workspace import Workspace

EVERY = tuple(Machine)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Return facts of a machine that meets all requirements except SGX, independently of this machine."""
    program = NginxProgram(Path("/usr/sbin/nginx"), (1, 22, 1), None)
    monkeypatch.setattr(doctor, "find_nginx", lambda: program)
    monkeypatch.setattr(private_memory, "available_method", lambda _inside: (PrivateMemoryMethod.NAMESPACE, ""))
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: object())


def examine(
    machines: tuple[Machine, ...],
    workspace: Workspace | None,
    described: Deployment | None,
    *,
    production: bool = False,
) -> list[Finding]:
    """Examine as the command line does. The host lacks all requirements of genuine enclaves."""
    runtime = described.runtime if described else RuntimeKind.SIMULATED
    return doctor.examine(machines, workspace, described, runtime=runtime, host=HostFacts(), production=production)


def by_name(findings: list[Finding]) -> dict[tuple[str, str], Finding]:
    return {(finding.machine, finding.name): finding for finding in findings}


def test_gramine_direct_is_checked_where_it_runs_enclaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make_site(tmp_path / "site", platform="gramine-direct")
    monkeypatch.setattr(doctor, "GRAMINE_FOLDER", str(tmp_path))
    monkeypatch.setenv("PATH", "/none")
    missing = by_name(examine((Machine.HOST,), site.workspace, site.deployment))["host", "gramine-direct"]
    assert (missing.verdict, missing.code) == (Verdict.MISSING, "host.gramine-direct")
    assert "gramine.readthedocs.io" in missing.remedy

    program = tmp_path / "gramine-direct"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    incomplete = by_name(examine((Machine.HOST,), site.workspace, site.deployment))["host", "gramine-direct"]
    assert incomplete.found == f"{program}, but {tmp_path}/libsysdb.so is missing"

    (tmp_path / "libsysdb.so").touch()
    found = by_name(examine(EVERY, site.workspace, site.deployment, production=True))
    assert found["host", "gramine-direct"].verdict is Verdict.OK
    assert found["owner", "platform"].found == "gramine-direct: the host can read the model and all data"
    assert ("host", "gramine-direct") not in by_name(examine((Machine.HOST,), None, None))


def test_a_fresh_machine_lacks_nothing_that_simulation_needs() -> None:
    findings = examine(EVERY, None, None)
    assert not [finding for finding in findings if finding.verdict is Verdict.MISSING]
    found = by_name(findings)
    assert found["owner", "workspace"].remedy == "create it with `sealserve init`"
    assert found["host", "nginx"].found == "/usr/sbin/nginx 1.22.1"
    assert found["host", "SGX"].verdict is Verdict.NOTE
    assert "do not protect the model from root" in found["host", "SGX"].found
    assert "driver" in found["host", "SGX"].found
    assert found["host", "SGX"].remedy.startswith("run `sealserve doctor host --platform sgx`")
    assert found["host", "private memory"].verdict is Verdict.OK
    assert [finding.name for finding in examine((Machine.USER,), None, None)] == ["Python"]


def test_each_missing_thing_has_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_nginx() -> NginxProgram:
        raise IngressCode.NGINX_MISSING.error("NGINX is not installed.", hint="apt-get install nginx")

    monkeypatch.setattr(doctor, "find_nginx", no_nginx)
    monkeypatch.setattr(
        private_memory, "available_method", lambda _inside: (PrivateMemoryMethod.SHARED, "unshare: not permitted")
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    site = make_site(tmp_path, platform="sgx")
    simulated = by_name(examine(EVERY, None, None))
    assert simulated["owner", "TensorFlow"].verdict is Verdict.MISSING
    assert (
        simulated["owner", "TensorFlow"].remedy
        == "run `pip install 'sealserve[server]'`, or `make setup` in a checkout"
    )
    assert simulated["host", "nginx"].verdict is Verdict.MISSING
    assert simulated["host", "nginx"].remedy == "apt-get install nginx"
    assert simulated["host", "private memory"].verdict is Verdict.NOTE
    assert "unshare: not permitted" in simulated["host", "private memory"].found
    genuine = by_name(examine(EVERY, site.workspace, site.deployment))
    assert ("host", "TensorFlow") not in genuine
    assert ("host", "private memory") not in genuine
    for name in ("driver", "Gramine"):
        assert genuine["host", name].verdict is Verdict.MISSING
        assert genuine["host", name].remedy


def test_a_clouds_machine_is_asked_for_the_clouds_pccs(tmp_path: Path) -> None:
    site = make_site(tmp_path, platform="sgx", target={"cloud": "azure-dcsv3"})
    found = by_name(examine((Machine.HOST,), site.workspace, site.deployment))
    assert (
        found["host", "cloud"].remedy == "run `sealserve cloud qcnl azure-dcsv3 | sudo tee /etc/sgx_default_qcnl.conf`"
    )


def ship(site: Site) -> Path:
    """Build a release with one enclave, and return its folder on the host."""
    site.certify()
    site.import_model()
    release = site.build_release()
    site.build_enclave(release.folder)
    shipped = site.workspace.host.releases / release.folder.name
    shutil.copytree(release.folder, shipped)
    return shipped


def test_the_features_that_shipped_enclaves_require_are_checked(tmp_path: Path) -> None:
    site = make_site(tmp_path, enclave={"required_cpu_features": ["amx"]})
    ship(site)
    found = by_name(
        doctor.examine(
            (Machine.HOST,),
            site.workspace,
            site.deployment,
            runtime=RuntimeKind.SGX,
            host=HostFacts(),
            production=False,
        )
    )
    assert found["host", "features"].verdict is Verdict.MISSING
    assert "lacks amx" in found["host", "features"].found


def test_the_enclaves_that_were_shipped_are_held_against_the_epc(site: Site) -> None:
    shipped = ship(site)

    def named(name: str) -> Finding | None:
        host = HostFacts(epc_bytes=1)
        findings = doctor.examine(
            (Machine.HOST,), site.workspace, site.deployment, runtime=RuntimeKind.SGX, host=host, production=False
        )
        return by_name(findings).get(("host", name))

    found = named("room")
    assert found is not None
    assert found.verdict is Verdict.NOTE
    assert "enclaves (1) use" in found.found
    (shipped / "enclave" / "replica-0.manifest.sgx").write_text("")
    assert named("room") is None
    unread = named("release")
    assert unread is not None
    assert (unread.verdict, unread.found[:47]) == (Verdict.NOTE, "its enclaves cannot be compared with this machi")


def test_a_machine_that_is_ready_for_genuine_enclaves_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_checks, "CHECKS", ())
    found = by_name(examine((Machine.HOST,), None, None))
    assert found["host", "SGX"].found.endswith("this machine meets all requirements of genuine enclaves")
    assert found["host", "SGX"].remedy == 'set platform = "sgx" in sealserve.toml'


def test_other_users_must_not_read_the_owners_secrets(site: Site) -> None:
    Owner.create(site.workspace)
    found = by_name(examine((Machine.OWNER,), site.workspace, site.deployment))
    assert found["owner", "workspace"].verdict is Verdict.OK
    site.workspace.owner.index_signing_key.chmod(0o640)
    site.workspace.owner.root.chmod(0o755)
    found = by_name(examine((Machine.OWNER,), site.workspace, site.deployment))
    assert found["owner", "workspace"].verdict is Verdict.MISSING
    assert found["owner", "workspace"].found == "other users can read owner, index-signing-key.pem"
    assert found["owner", "workspace"].remedy == f"run `chmod -R go-rwx {site.workspace.owner.root}`"


@pytest.mark.parametrize("platform", RuntimeKind)
def test_only_a_broker_for_genuine_enclaves_is_checked(
    tmp_path: Path, platform: RuntimeKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = Finding(machine=Machine.OWNER, name="collateral service", verdict=Verdict.OK, found="reachable")
    monkeypatch.setattr(broker_checks, "broker", lambda *_, **__: iter([finding]))
    site = make_site(tmp_path, platform=platform)
    findings = examine((Machine.OWNER,), site.workspace, site.deployment)
    assert (finding in findings) == (platform is RuntimeKind.SGX)


def test_a_full_disk_is_reported(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 10**9

    monkeypatch.setattr("shutil.disk_usage", lambda _folder: Usage())
    found = by_name(examine((Machine.OWNER,), site.workspace, site.deployment))
    assert found["owner", "disk"].verdict is Verdict.NOTE
    assert found["owner", "disk"].found == f"1.0 GB free in {site.directory}"


def test_what_a_user_needs_depends_on_the_mode(site: Site, tmp_path: Path) -> None:
    def certificates(of: Site) -> Finding:
        return by_name(examine((Machine.USER,), of.workspace, of.deployment))["user", "certificates"]

    assert certificates(site).found == "missing: service-ca.pem, client.pem, client.key"
    site.certify()
    assert certificates(site).verdict is Verdict.OK
    one_way = make_site(tmp_path / "one-way", service={"tls": "one-way"})
    assert certificates(one_way).found == "missing: service-ca.pem"


@pytest.mark.parametrize(
    ("settings", "verdicts"),
    [
        ({}, {"platform": Verdict.MISSING}),
        ({"platform": "sgx"}, {"platform": Verdict.OK}),
        (
            {"platform": "sgx", "model": {"dangerous_operations": ("Print",)}},
            {"platform": Verdict.OK, "operations": Verdict.MISSING},
        ),
        (
            {"platform": "sgx", "server": {"dangerous_shared_batches": True}},
            {"platform": Verdict.OK, "batches": Verdict.MISSING},
        ),
        (
            {"platform": "sgx", "target": {"kind": "kubernetes"}, "broker": {"address": "broker.example.com"}},
            {"platform": Verdict.OK, "network policy": Verdict.MISSING},
        ),
        (
            {
                "platform": "sgx",
                "target": {"kind": "kubernetes"},
                "broker": {"address": "broker.example.com"},
                "kubernetes": {
                    "broker": {"ip": "192.0.2.7"},
                    "store": {"source": "https://store.example.com/{release}.tar"},
                },
            },
            {"platform": Verdict.OK, "network policy": Verdict.NOTE},
        ),
        (
            {
                "platform": "sgx",
                "target": {"kind": "kubernetes"},
                "broker": {"address": "192.0.2.7"},
                "kubernetes": {"store": {"source": "https://192.0.2.9/{release}.tar"}},
            },
            {"platform": Verdict.OK, "network policy": Verdict.OK},
        ),
        (
            {
                "platform": "sgx",
                "target": {"kind": "kubernetes"},
                "broker": {"address": "192.0.2.7"},
                "kubernetes": {"store": {"source": "https://192.0.2.9/{release}.tar"}},
                "server": {"traces": {"endpoint": "https://collector.example.com:4317"}},
            },
            {"platform": Verdict.OK, "network policy": Verdict.NOTE},
        ),
        (
            {"platform": "sgx", "server": {"traces": {"endpoint": "http://192.0.2.9", "dangerous_plaintext": True}}},
            {"platform": Verdict.OK, "traces": Verdict.MISSING},
        ),
        ({"platform": "sgx", "service": {"tls": "one-way"}}, {"platform": Verdict.OK, "TLS": Verdict.NOTE}),
        (
            {"platform": "sgx", "server": {"dangerous_owner_tls_key": True}},
            {"platform": Verdict.OK, "TLS key": Verdict.NOTE},
        ),
    ],
)
def test_production_wants_more(tmp_path: Path, settings: dict[str, Any], verdicts: dict[str, Verdict]) -> None:
    site = make_site(tmp_path, **settings)
    plain = examine((Machine.USER,), site.workspace, site.deployment)
    production = examine((Machine.USER,), site.workspace, site.deployment, production=True)
    assert {finding.name: finding.verdict for finding in production[len(plain) :]} == verdicts


def test_production_checks_work_without_a_deployment() -> None:
    findings = examine((), None, None, production=True)
    assert [(finding.name, finding.verdict) for finding in findings] == [("platform", Verdict.MISSING)]
    assert DoctorCode.NOT_READY.value == "doctor.not-ready"


def test_a_certificate_that_ends_soon_is_noted_and_one_that_ended_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site(tmp_path, server={"dangerous_owner_tls_key": True})

    def found(now: datetime) -> Mapping[str, Finding]:
        class Clock(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
                return now.astimezone(tz)

        monkeypatch.setattr("sealserve.doctor.owner_checks.datetime", Clock)
        return {finding.name: finding for finding in examine((Machine.OWNER,), site.workspace, site.deployment)}

    site.import_model()
    site.certify()
    site.build_release()
    assert "the certificate of the" in found(site.now)["certificates"].found
    soon = found(site.now + timedelta(days=80))
    assert "certificates" not in soon
    assert soon["certificate service"].verdict is Verdict.NOTE
    assert "`sealserve release build`" in soon["certificate service"].remedy
    assert soon["certificate service"].code == "owner.certificate-service"
    over = found(site.now + timedelta(days=91))
    assert over["certificate broker"].verdict is Verdict.MISSING
    assert "expired at" in over["certificate broker"].found
