"""``sealserve doctor``: check whether this machine meets the requirements of its role."""

import contextlib
import sys
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer

from sealserve.cli import console
from sealserve.cli.codes import CliCode
from sealserve.cli.context import Context
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.verbs import Verbs
from sealserve.doctor.finding import Machine, Verdict
from sealserve.errors import SealserveError
from sealserve.terms import RuntimeKind

with deferred:
    from sealserve.attestation.presets import PRESETS
    from sealserve.cli.bundles import received
    from sealserve.cluster.kubernetes import preconditions, shipping
    from sealserve.cluster.kubernetes.cluster_client import ClusterClient
    from sealserve.cluster.kubernetes.render_context import RenderContext
    from sealserve.cluster.kubernetes.target import KubernetesTarget
    from sealserve.deployment import Deployment
    from sealserve.doctor import host_report
    from sealserve.doctor.codes import DoctorCode
    from sealserve.doctor.examination import examine
    from sealserve.doctor.finding import Finding
    from sealserve.host import probe
    from sealserve.host.facts import HostFacts
    from sealserve.owner import releases
    from sealserve.workspace import Workspace, WorkspaceMissingError

app = Verbs()
MARKS = {Verdict.OK: ("ok", "green"), Verdict.NOTE: ("note", "yellow"), Verdict.MISSING: ("missing", "red")}


class Host(StrEnum):
    """What the host is: a machine, or a Kubernetes cluster."""

    MACHINE = "machine"
    KUBERNETES = "kubernetes"


@app.command()
def doctor(
    context: Context,
    machine: Annotated[
        Machine | None, typer.Argument(help="Role of this machine to check", show_default="all roles")
    ] = None,
    platform: Annotated[
        RuntimeKind | None,
        typer.Option(help="Platform that will run the enclaves", show_default="platform in sealserve.toml"),
    ] = None,
    production: Annotated[
        bool, typer.Option("--production", help="Fail also on settings that weaken the protection")
    ] = False,
    target: Annotated[
        Host,
        typer.Option("--target", "-t", help="The host to check: this machine, or the cluster of KUBECONFIG"),
    ] = Host.MACHINE,
    report: Annotated[
        bool,
        typer.Option("--report", help="Print a report about this host, to send with the results of a trial on SGX"),
    ] = False,
) -> None:
    """Check whether this machine meets the requirements of its role, and explain how to fix each gap.

    The exit status is 4 if something is missing. With `--target kubernetes`, the host is a cluster. The checks then
    cover its API, clocks, permissions, device plugin, EPC and storage. A pod runs for some seconds to reach the broker.
    """
    if target is Host.KUBERNETES:
        if report or machine not in {None, Machine.HOST}:
            raise CliCode.DOCTOR_CLUSTER_IS_HOST.error(
                f"A Kubernetes cluster can only be checked as the host: got {'--report' if report else machine}.",
                hint="Run `sealserve doctor host --target kubernetes`.",
            )
        _conclude(context, _examine_cluster(context, platform, production=production))
        return
    here: Workspace | None = None
    described: Deployment | None = None
    with contextlib.suppress(WorkspaceMissingError):
        here, described = context.workspace, context.deployment
    if report:
        _report(context, described)
        return
    runs = platform or (described.runtime if described else RuntimeKind.SIMULATED)
    machines = (machine,) if machine else tuple(Machine)
    host = probe.gather(ask=probe.ask if runs is RuntimeKind.SGX else None) if Machine.HOST in machines else HostFacts()
    findings = examine(machines, here, described, runtime=runs, host=host, production=production)
    _conclude(context, findings, presets=True)


def _examine_cluster(context: Context, platform: RuntimeKind | None, *, production: bool) -> list[Finding]:
    here, described = context.workspace, context.deployment
    if platform is not None:
        described = described.model_copy(update={"runtime": platform})
    with console.spinner("Checking the cluster") as tell:
        try:
            client = ClusterClient()
        except SealserveError as error:
            return [preconditions.missing("API", error.message, error.hint or "")]
        findings = []
        for finding in preconditions.examine_cluster(_context(here, described), client):
            findings.append(finding)
            tell(f"Checking the cluster: {finding.name} done")
    return [
        *findings,
        *examine((), here, described, runtime=described.runtime, host=HostFacts(), production=production),
    ]


def _context(here: Workspace, described: Deployment) -> RenderContext:
    """Return the context of the newest release that pods can run, or a provisional context without a release."""
    for folder in (here.owner.releases, here.host.releases):
        with contextlib.suppress(SealserveError, OSError):
            release = releases.newest(folder)
            destination = KubernetesTarget(here, described).destination(release.name, 1)
            return shipping.render_context(here, described, received(here, release, destination))
    return shipping.provisional_context(described)


def _conclude(context: Context, findings: list[Finding], *, presets: bool = False) -> None:
    if context.as_json:
        context.show([{"code": finding.code, **asdict(finding)} for finding in findings])
    else:
        _print(findings)
        if presets:
            _print_presets()
    missing = [finding.name for finding in findings if finding.verdict is Verdict.MISSING]
    if missing:
        if context.as_json:
            raise typer.Exit(DoctorCode.NOT_READY.family.exit_status)  # the findings already list what is missing
        raise DoctorCode.NOT_READY.error(
            f"This machine does not meet the requirements of its role. Missing: {', '.join(missing)}.",
            hint="Follow the instructions below each missing item.",
        )


def _report(context: Context, described: Deployment | None) -> None:
    facts = probe.gather(ask=probe.ask)
    findings = examine((Machine.HOST,), None, described, runtime=RuntimeKind.SGX, host=facts, production=False)
    if context.as_json:
        context.show(host_report.as_data(facts, findings))
    else:
        sys.stdout.write(host_report.as_text(facts, findings))


def _print(findings: list[Finding]) -> None:
    for finding in findings:
        mark, colour = MARKS[finding.verdict]
        console.out.print(f"{mark:<7} ", end="", style=colour)
        console.out.print(f"{finding.machine:<6} ", end="", style="dim")
        console.out.print(f"{finding.name:<21} ", end="")
        console.out.print(finding.found)
        if finding.remedy:
            console.out.print(f"{'':<38}{finding.remedy}", style="dim")


def _print_presets() -> None:
    console.out.print("\nTCB presets (tcb.preset in sealserve.toml):")
    for name, preset in PRESETS.items():
        accepted = preset.rules.tcb.accept
        statuses = ", ".join(sorted(map(str, accepted)))
        advisories = ", ".join(sorted(frozenset().union(*accepted.values()))) or "none"
        console.out.print(f"  {name}: {statuses}; advisories: {advisories}")
