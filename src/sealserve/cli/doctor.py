"""``sealserve doctor``: what this machine lacks for its part."""

import contextlib
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from sealserve import deployment, workspace
from sealserve.broker.policy import PRESETS
from sealserve.cli import console
from sealserve.deployment import Platform
from sealserve.host import probe
from sealserve.host.facts import HostFacts
from sealserve.operations import host_report
from sealserve.operations.doctor import NotReadyError, examine
from sealserve.operations.finding import Finding, Machine, Verdict

app = typer.Typer(add_completion=False)
MARKS = {Verdict.OK: "[green]ok[/]     ", Verdict.NOTE: "[yellow]note[/]   ", Verdict.MISSING: "[red]missing[/]"}


@app.command()
def doctor(
    machine: Annotated[Machine | None, typer.Argument(help="Whose part to look at.", show_default="all")] = None,
    platform: Annotated[
        Platform | None, typer.Option(help="What is to run the enclaves.", show_default="as in sealserve.toml")
    ] = None,
    production: Annotated[bool, typer.Option("--production", help="Fail on what weakens protection.")] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Print what to send when a host of real enclaves is tried out.")
    ] = False,
    directory: console.Directory = console.HERE,
    as_json: console.Json = False,
) -> None:
    """Say what this machine lacks for its part, and how to get it."""
    here: workspace.Workspace | None = None
    described: deployment.Deployment | None = None
    with contextlib.suppress(workspace.WorkspaceMissingError):
        here = workspace.find(directory)
        described = deployment.read(here.deployment_file)
    if report:
        _report(described, as_json=as_json)
        return
    runs = platform or (described.platform if described else Platform.SIMULATED)
    machines = (machine,) if machine else tuple(Machine)
    host = probe.gather(ask=probe.ask if runs is Platform.SGX else None) if Machine.HOST in machines else HostFacts()
    findings = examine(machines, here, described, platform=runs, host=host, production=production)
    if as_json:
        console.print_json([asdict(finding) for finding in findings])
    else:
        _print(findings)
        _print_presets()
    missing = [finding.name for finding in findings if finding.verdict is Verdict.MISSING]
    if missing:
        if as_json:
            raise typer.Exit(NotReadyError.exit_status)  # one document: the findings tell what is missing
        raise NotReadyError(f"Missing: {', '.join(missing)}.")


def _report(described: deployment.Deployment | None, *, as_json: bool) -> None:
    facts = probe.gather(ask=probe.ask)
    findings = examine((Machine.HOST,), None, described, platform=Platform.SGX, host=facts, production=False)
    if as_json:
        console.print_json(host_report.as_data(facts, findings))
    else:
        sys.stdout.write(host_report.as_text(facts, findings))


def _print(findings: list[Finding]) -> None:
    for finding in findings:
        console.out.print(f"{MARKS[finding.verdict]} [dim]{finding.machine:<6}[/] {finding.name:<15} ", end="")
        console.out.print(finding.found, markup=False)
        if finding.remedy:
            console.out.print(f"{'':<32}{finding.remedy}", markup=False, style="dim")


def _print_presets() -> None:
    console.out.print("\nTCB presets (tcb.preset in sealserve.toml):")
    for name, policy in PRESETS.items():
        statuses = ", ".join(sorted(map(str, policy.statuses)))
        advisories = ", ".join(sorted(policy.advisories)) or "none"
        console.out.print(f"  {name}: {statuses}; advisories: {advisories}", markup=False)
