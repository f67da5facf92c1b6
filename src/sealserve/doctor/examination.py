"""What a machine lacks for its part, and how to get it."""

import contextlib
import importlib.util
import platform
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from sealserve.addresses import is_ip_address
from sealserve.clouds.catalog import preset_of
from sealserve.deployment import Deployment
from sealserve.doctor import host_checks
from sealserve.doctor.finding import Finding, Machine, Verdict
from sealserve.enclave.launch.simulator import SimulatorMissingError, load_simulator
from sealserve.enclave.measurement import enclave_names, load_enclave
from sealserve.enclave.server_command import PRIVATE_ROOT
from sealserve.errors import SealserveError, UnavailableError
from sealserve.host.facts import HostFacts
from sealserve.ingress.nginx_program import find_nginx
from sealserve.owner import releases
from sealserve.terms import PlatformKind, TlsMode
from sealserve.workspace import Workspace

FREE_BYTES = 2 * 10**9


class NotReadyError(UnavailableError):
    """Something is missing for this machine's part, or is not fit for production."""

    code = "doctor.not-ready"


def examine(
    machines: tuple[Machine, ...],
    workspace: Workspace | None,
    deployment: Deployment | None,
    *,
    platform: PlatformKind,
    host: HostFacts,
    production: bool,
) -> list[Finding]:
    """Return what was found for the parts of ``machines``.

    Args:
        machines: Whose parts this machine plays.
        workspace: The workspace here, if there is one.
        deployment: What it describes.
        platform: What is to run the enclaves.
        host: What this machine offers to enclaves.
        production: Whether what weakens protection counts as missing.
    """
    checks: dict[Machine, Callable[[], Iterator[Finding]]] = {
        Machine.OWNER: lambda: _owner(platform, workspace, deployment),
        Machine.HOST: lambda: _host(platform, host, workspace, deployment),
        Machine.USER: lambda: _user(workspace, deployment),
    }
    findings = [finding for machine in machines for finding in checks[machine]()]
    if production:
        findings += _production(platform, deployment)
    return findings


def _owner(platform: PlatformKind, workspace: Workspace | None, deployment: Deployment | None) -> Iterator[Finding]:
    yield _python(Machine.OWNER)
    yield _tensorflow(Machine.OWNER, "to convert frozen graphs")
    yield _room(Machine.OWNER, workspace)
    if workspace is None:
        yield Finding(machine=Machine.OWNER, name="workspace", verdict=Verdict.NOTE, found="no sealserve.toml here",
                      remedy="`sealserve init` writes one")  # fmt: skip
        return
    exposed = [
        path.name
        for path in (
            workspace.owner.root,
            workspace.owner.master_key,
            workspace.owner.index_signing_key,
            workspace.owner.audit_signing_key,
        )
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    yield Finding(
        machine=Machine.OWNER,
        name="workspace",
        verdict=Verdict.MISSING if exposed else Verdict.OK,
        found=f"others can read {', '.join(exposed)}" if exposed else f"{workspace.root}, private",
        remedy=f"chmod -R go-rwx {workspace.owner.root}" if exposed else "",
    )
    if deployment is not None and platform is PlatformKind.SGX:
        yield from _broker_address(deployment.broker.address)


def _broker_address(address: str) -> Iterator[Finding]:
    """Yield a note for an address without a name: Mbed TLS before 3.5 compares names only, and ends with -9984."""
    if is_ip_address(address):
        yield Finding(
            machine=Machine.OWNER,
            name="broker address",
            verdict=Verdict.NOTE,
            found=f"broker.address is the IP address {address}, which enclaves with Gramine before 1.6 do not accept",
            remedy="give the broker a host name if such enclaves should get a key",
        )


def _host(
    platform: PlatformKind, host: HostFacts, workspace: Workspace | None, deployment: Deployment | None
) -> Iterator[Finding]:
    yield _python(Machine.HOST)
    try:
        program = find_nginx()
        yield Finding(
            machine=Machine.HOST,
            name="nginx",
            verdict=Verdict.OK,
            found=f"{program.path} {'.'.join(map(str, program.version))}",
        )
    except SealserveError as error:
        yield Finding(machine=Machine.HOST, name="nginx", verdict=Verdict.MISSING, found=error.message,
                      remedy=error.hint or "")  # fmt: skip
    if platform is PlatformKind.SGX:
        yield from host_checks.checks(host)
        if workspace is not None and (found := host_checks.room(host, _enclave_sizes(workspace))) is not None:
            yield found
        if deployment is not None and (cloud := deployment.target.cloud) is not None:
            yield host_checks.cloud(host, preset_of(cloud))
    else:
        yield from _simulated_host(host)


def _enclave_sizes(workspace: Workspace) -> list[int]:
    """Return the sizes of the enclaves of the newest release that was shipped here; none where it cannot be read."""
    with contextlib.suppress(SealserveError, OSError):
        release = releases.newest(workspace.host.releases)
        manifests = [load_enclave(release, name).manifest for name in enclave_names(release)]
        return [manifest.enclave_size for manifest in manifests if not manifest.sgx.edmm_enable]
    return []


def _simulated_host(host: HostFacts) -> Iterator[Finding]:
    yield _tensorflow(Machine.HOST, "for sealserve-model-server")
    try:
        way, refused = load_simulator().available_way(PRIVATE_ROOT)
    except SimulatorMissingError as error:
        yield Finding(machine=Machine.HOST, name="simulated platform", verdict=Verdict.MISSING, found=error.message,
                      remedy=error.hint or "")  # fmt: skip
        return
    yield Finding(
        machine=Machine.HOST,
        name="private memory",
        verdict=Verdict.NOTE if way.note else Verdict.OK,
        found=f"{way}" + (f" ({refused})" if refused else ""),
        remedy=f"{way.note}; run as root to keep them out" if way.note else "",
    )
    lacking = [finding.name for finding in host_checks.checks(host) if finding.verdict is Verdict.MISSING]
    yield Finding(
        machine=Machine.HOST,
        name="SGX",
        verdict=Verdict.NOTE,
        found="enclaves are simulated, and protect nothing from root; "
        + (f"real ones would need: {', '.join(lacking)}" if lacking else "this machine has all that real ones need"),
        remedy="`sealserve doctor host --platform sgx` says how to get it" if lacking else 'platform = "sgx"',
    )


def _user(workspace: Workspace | None, deployment: Deployment | None) -> Iterator[Finding]:
    yield _python(Machine.USER)
    if workspace is None or deployment is None:
        return
    wanted = [workspace.user.service_ca]
    if deployment.service.tls is TlsMode.TWO_WAY:
        wanted += [workspace.user.certificate, workspace.user.key]
    missing = [path.name for path in wanted if not path.is_file()]
    yield Finding(
        machine=Machine.USER,
        name="certificates",
        verdict=Verdict.NOTE if missing else Verdict.OK,
        found=f"missing: {', '.join(missing)}" if missing else f"{workspace.user.root}",
        remedy="the owner makes them with `sealserve certs two-way`" if missing else "",
    )


def _production(platform: PlatformKind, deployment: Deployment | None) -> Iterator[Finding]:
    simulated = platform is PlatformKind.SIMULATED
    yield Finding(
        machine=Machine.OWNER,
        name="platform",
        verdict=Verdict.MISSING if simulated else Verdict.OK,
        found="simulated: nothing is protected from the host" if simulated else "sgx",
        remedy='platform = "sgx" in sealserve.toml' if simulated else "",
    )
    if deployment is not None and (allowed := {name for m in deployment.models for name in m.dangerous_operations}):
        yield Finding(machine=Machine.OWNER, name="operations", verdict=Verdict.MISSING,
                      found=f"allowed: {', '.join(sorted(allowed))}; what they tell leaves the enclave",
                      remedy="export the models without them")  # fmt: skip
    if deployment is not None and deployment.target.kind == "kubernetes":
        yield _network_policy(deployment)
    if deployment is not None and deployment.service.tls is TlsMode.ONE_WAY:
        yield Finding(machine=Machine.OWNER, name="TLS", verdict=Verdict.NOTE,
                      found="one-way: anybody who reaches the service may use it",
                      remedy='service.tls = "two-way"')  # fmt: skip


def _network_policy(deployment: Deployment) -> Finding:
    """Judge what the NetworkPolicies bind: they have no DNS names, so they need the addresses of broker and store."""
    settings = deployment.kubernetes
    store = urlsplit(settings.store.source or "")
    found, remedy, verdict = "replicas reach the broker, the store and DNS, and nothing else", "", Verdict.OK
    if store.hostname and not settings.store.addresses and not is_ip_address(store.hostname):
        verdict = Verdict.NOTE
        found = f"replicas reach the port of {store.hostname} at every address"
        remedy = "kubernetes.store.addresses: the networks of the store"
    if not settings.broker.ip and not is_ip_address(deployment.broker.address):
        verdict = Verdict.MISSING
        found = f"replicas reach port {deployment.broker.port} of every address, not only the broker's"
        remedy = "kubernetes.broker.ip: the IP address of the broker"
    return Finding(machine=Machine.OWNER, name="network policy", verdict=verdict, found=found, remedy=remedy)


def _python(machine: Machine) -> Finding:
    return Finding(machine=machine, name="Python", verdict=Verdict.OK, found=platform.python_version())


def _tensorflow(machine: Machine, purpose: str) -> Finding:
    there = importlib.util.find_spec("tensorflow") is not None
    return Finding(
        machine=machine,
        name="TensorFlow",
        verdict=Verdict.OK if there else Verdict.MISSING,
        found=f"installed ({purpose})" if there else f"not installed ({purpose})",
        remedy="" if there else "`make setup`, or `pip install '.[server]'`, in a checkout of sealserve",
    )


def _room(machine: Machine, workspace: Workspace | None) -> Finding:
    folder = workspace.directory if workspace else Path.cwd()
    free = shutil.disk_usage(folder).free
    enough = free >= FREE_BYTES
    return Finding(
        machine=machine,
        name="disk",
        verdict=Verdict.OK if enough else Verdict.NOTE,
        found=f"{free / 1e9:.1f} GB free in {folder}",
        remedy="" if enough else "a release takes as much room as its model, twice while it travels",
    )
