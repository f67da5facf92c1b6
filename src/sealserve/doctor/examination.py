"""Checks whether a machine meets the requirements for its role, and how to meet them."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from sealserve.clouds.catalog import preset_of
from sealserve.deployment import Deployment
from sealserve.doctor import host_checks, machine_checks, owner_checks, shipped_release
from sealserve.doctor.finding import Finding, Machine, Verdict
from sealserve.enclave.launch.simulator import SimulatorMissingError, load_simulator
from sealserve.enclave.server_command import PRIVATE_ROOT
from sealserve.enclave.server_files import GRAMINE_FOLDER, LIBRARY_OS
from sealserve.errors import SealserveError
from sealserve.host.facts import HostFacts
from sealserve.ingress.nginx_program import find_nginx
from sealserve.owner import releases
from sealserve.terms import RuntimeKind, TlsMode
from sealserve.workspace import Workspace


def examine(
    machines: tuple[Machine, ...],
    workspace: Workspace | None,
    deployment: Deployment | None,
    *,
    runtime: RuntimeKind,
    host: HostFacts,
    production: bool,
) -> list[Finding]:
    """Return the findings for the roles that this machine has.

    Args:
        machines: The roles of this machine.
        workspace: The workspace in this folder, or None.
        deployment: The deployment that the workspace describes, or None.
        runtime: The program that will run the enclaves.
        host: Facts about this machine that matter for enclaves.
        production: Whether settings that weaken protection count as missing requirements.
    """
    checks: dict[Machine, Callable[[], Iterator[Finding]]] = {
        Machine.OWNER: lambda: owner_checks.owner(runtime.platform, workspace, deployment),
        Machine.HOST: lambda: _host(runtime, host, workspace, deployment),
        Machine.USER: lambda: _user(workspace, deployment),
    }
    findings = [finding for machine in machines for finding in checks[machine]()]
    if production:
        findings += owner_checks.production(runtime, deployment)
    return findings


def _host(
    runtime: RuntimeKind, host: HostFacts, workspace: Workspace | None, deployment: Deployment | None
) -> Iterator[Finding]:
    yield machine_checks.python(Machine.HOST)
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
    if runtime is RuntimeKind.SGX:
        yield from host_checks.checks(host)
        if workspace is not None and releases.any_in(workspace.host.releases):
            yield from shipped_release.checks(workspace.host.releases, host)
        if deployment is not None and (cloud := deployment.target.cloud) is not None:
            yield host_checks.cloud(host, preset_of(cloud))
    else:
        if runtime is RuntimeKind.GRAMINE_DIRECT:
            yield host_checks.gramine_direct(shutil.which(runtime), libos=Path(GRAMINE_FOLDER, LIBRARY_OS))
        yield from _simulated_host(host)


def _simulated_host(host: HostFacts) -> Iterator[Finding]:
    yield machine_checks.tensorflow(Machine.HOST, "for sealserve-model-server")
    try:
        method, refused = load_simulator().available_method(PRIVATE_ROOT)
    except SimulatorMissingError as error:
        yield Finding(machine=Machine.HOST, name="simulated platform", verdict=Verdict.MISSING, found=error.message,
                      remedy=error.hint or "")  # fmt: skip
        return
    yield Finding(
        machine=Machine.HOST,
        name="private memory",
        verdict=Verdict.NOTE if method.note else Verdict.OK,
        found=f"{method}" + (f" ({refused})" if refused else ""),
        remedy=f"{method.note}; run as root to prevent this" if method.note else "",
    )
    lacking = [finding.name for finding in host_checks.checks(host) if finding.verdict is Verdict.MISSING]
    yield Finding(
        machine=Machine.HOST,
        name="SGX",
        verdict=Verdict.NOTE,
        found="enclaves are simulated and do not protect the model from root; "
        + (
            f"for genuine enclaves, this machine lacks: {', '.join(lacking)}"
            if lacking
            else "this machine meets all requirements of genuine enclaves"
        ),
        remedy="run `sealserve doctor host --platform sgx` for instructions"
        if lacking
        else 'set platform = "sgx" in sealserve.toml',
    )


def _user(workspace: Workspace | None, deployment: Deployment | None) -> Iterator[Finding]:
    yield machine_checks.python(Machine.USER)
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
        remedy="on the owner's machine, create them with `sealserve certs two-way`" if missing else "",
    )
