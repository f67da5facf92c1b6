"""``sealserve broker policy``: show, check and try the rules that decide which platforms receive keys."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from sealserve.cli import completion, remote_broker
from sealserve.cli.context import Context
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.output import Table
from sealserve.cli.verbs import Verbs
from sealserve.errors import VerificationError
from sealserve.terms import PlatformKind

with deferred:
    from sealserve.attestation import policy_text
    from sealserve.attestation.policy_file import LARGEST_FILE
    from sealserve.attestation.presets import PRESETS
    from sealserve.broker.administration.interface import NamedPolicy, TriedPolicy
    from sealserve.broker.policy_trials import Verdict
    from sealserve.cli.administration import administration
    from sealserve.cli.broker_json import encode
    from sealserve.cluster.logs.selection import parse_since
    from sealserve.owner import policies
    from sealserve.regular_file import read_regular
    from sealserve.sgx.policy_rules import rules_of

app = Verbs("Show, check and try appraisal policies: the rules that a platform must satisfy to receive a key.")

Name = Annotated[
    str | None,
    typer.Argument(
        metavar="[POLICY]",
        help="A preset, a policy file, or a registered release",
        show_default="the policy of sealserve.toml",
        autocompletion=completion.policies,
    ),
]


@app.command()
def show(context: Context, name: Name = None) -> None:
    """Show a policy in the form of a policy file, which you can change and use as tcb.policy_file."""
    found = _find(context, name)
    if context.as_json:
        document = policy_text.document(found.policy, simulated=found.simulated)
        context.show(json.loads(json.dumps(document, default=str)))
        return
    sys.stdout.write(policy_text.render(found.policy, simulated=found.simulated))


@app.command()
def check(
    context: Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Policy file")],
) -> None:
    """Check a policy file, and describe in sentences which platforms and enclaves it accepts."""
    read = policies.read_file(file)
    policy = read.for_platform(_platform(context))
    sentences = [*policy_text.sentences(policy), *rules_of(policy.evidence_rules).sentences()]
    context.show({"file": str(file), "name": policy.tcb.name, "rules": sentences}, *sentences)
    context.say(f"The policy file {file} is valid. To use it, set tcb.policy_file in sealserve.toml.")


@app.command("try")
def try_(
    context: Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[POLICY]",
            help="A preset, a policy file, or a registered release",
            show_default="the registered policy of each release",
            autocompletion=completion.policies,
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="TIME",
            help="Use only keys released since this time or duration: 12h, 30d, 2026-01-31T12:00:00Z",
        ),
    ] = None,
    early: Annotated[
        bool,
        typer.Option("--early", help="Use the TCB status of the vendor's early update channel, not the recorded one"),
    ] = False,
    fail_if_refused: Annotated[
        bool,
        typer.Option(
            "--fail-if-refused",
            help="Exit with status 3 if a platform would be refused, or if a result is unknown",
        ),
    ] = False,
) -> None:
    """Report which platforms a policy would refuse, from the newest key that each platform received.

    With --early, the result is a warning before a TCB recovery: the vendor publishes new TCB levels on the early update
    channel weeks before they become standard.
    """
    now = datetime.now(UTC)
    start = None if since is None else parse_since(since, now=now)
    tried = None if name is None else TriedPolicy(name=name)
    if name is not None and _is_file(name):
        content = read_regular(Path(name), limit=LARGEST_FILE)
        policies.parse_file(content, source=str(Path(name)))  # an error names the file
        tried = TriedPolicy(file=content, source=name)
    with administration(context) as broker:
        trials = broker.try_policy(tried, since=start, early=early)
    table = Table(
        ("PLATFORM", "RELEASE", "POLICY", "RESULT", "TCB", "EVALUATION", "REASON"),
        [
            (item.platform_id, item.release, item.policy, item.verdict, item.tcb_status or "unknown",
             item.evaluation_number or "unknown",
             "\n".join(f"{problem.code or 'missing fact'}: {problem.message}" for problem in item.problems))
            for item in trials
        ],
        empty="The audit log contains no released key of an active release.",
    )  # fmt: skip
    context.show(encode(trials), table)
    if refused := sum(item.verdict is Verdict.REFUSED for item in trials):
        context.say(f"{refused} of {len(trials)} would be refused. Update these machines before the policy applies.")
    if unknown := sum(item.verdict is Verdict.UNKNOWN for item in trials):
        context.say(
            f"{unknown} of {len(trials)} are unknown, because an earlier version of sealserve wrote their rows. "
            "The next key that they receive records the missing facts."
        )
    if fail_if_refused and (refused or unknown):
        raise typer.Exit(VerificationError.exit_status)


def _find(context: Context, name: str | None) -> NamedPolicy:
    """Return a policy. A policy file is always on this machine, also with a remote broker."""
    with administration(context) as broker:
        if name is None or not _is_file(name):
            return broker.policy(name)
        read = policies.read_file(Path(name))
        platform = _platform(context)
    return NamedPolicy(policy=read.for_platform(platform), platform=platform)


def _platform(context: Context) -> PlatformKind:
    """Return the kind of platform of the broker."""
    if remote_broker.chosen() is None:
        return context.deployment.platform
    with administration(context) as broker:
        return broker.policy(None).platform


def _is_file(name: str) -> bool:
    return name not in PRESETS and Path(name).is_file()
