"""``sealserve broker pending`` and ``sealserve broker approve``: a person decides which platforms get a key."""

import math
from datetime import timedelta
from typing import Annotated

import typer

from sealserve.cli import completion
from sealserve.cli.codes import CliCode
from sealserve.cli.context import Context
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.output import Table

with deferred:
    from sealserve.broker.approval_requests import DEFAULT, LONGEST, Approved
    from sealserve.broker.codes import BrokerCode
    from sealserve.cli.administration import administration
    from sealserve.cli.broker_json import encode, members
    from sealserve.cluster.logs.selection import parse_duration


def pending(context: Context) -> None:
    """List the platforms that wait for an approval: their evidence satisfies the policy of the release.

    The list comes from the refusals in the audit log since the last change of each approval, newest request first.
    """
    with administration(context) as broker:
        rows = broker.pending()
    table = Table(
        ("RELEASE", "PLATFORM ID", "KIND", "TCB", "FIRST (UTC)", "LAST (UTC)", "REQUESTS", "NETWORK"),
        [(row.release, row.platform_id, row.platform, row.tcb_status, f"{row.first:%Y-%m-%d %H:%M:%S}",
          f"{row.last:%Y-%m-%d %H:%M:%S}", str(row.count), row.network) for row in rows],
        empty="No platform waits for an approval.",
    )  # fmt: skip
    context.show(encode(rows), table)


def approve(
    context: Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="RELEASE",
            help="Name of the release, or the beginning of its id",
            autocompletion=completion.releases,
        ),
    ],
    platform_id: Annotated[
        str, typer.Argument(metavar="PLATFORM_ID", help="Platform id, 32 hex digits, as in `sealserve broker pending`")
    ],
    validity: Annotated[
        str | None,
        typer.Option("--for", metavar="DURATION", help="Validity of the approval, such as 12h", show_default="30d"),
    ] = None,
    withdraw: Annotated[
        bool, typer.Option("--withdraw", help="Withdraw the approval: the platform gets no further key of the release")
    ] = False,
) -> None:
    """Approve a platform for a release whose policy requires manual approval.

    Until the approval expires, enclaves of the release can start again on the platform without another approval. An
    enclave that already runs continues after the end of the approval.
    """
    if withdraw and validity is not None:
        raise CliCode.USAGE_ARGUMENTS.error(
            "--withdraw cannot be used together with --for.", hint="Give only one of the two options."
        )
    minutes = _minutes(validity)
    with administration(context) as broker:
        if withdraw:
            ended = broker.withdraw_approval(name, platform_id)
            context.show(
                {**members(ended), "withdrawn": True},
                f"Withdrew the approval of {ended.platform_id} for the release {ended.release}.",
            )
            return
        approved = broker.approve(name, platform_id, minutes=minutes)
    context.show({**members(approved), "withdrawn": False}, _sentence(approved))
    if not approved.required:
        context.say('The release does not require approvals. To require them, set broker.approval = "manual".')


def _sentence(approved: Approved) -> str:
    until = f"{approved.until:%Y-%m-%d %H:%M:%S} UTC"
    return f"Approved the platform {approved.platform_id} for the release {approved.release} until {until}."


def _minutes(text: str | None) -> int:
    """Return the validity in whole minutes, at least one."""
    duration = DEFAULT if text is None else None
    if text is not None:
        try:
            duration = parse_duration(text)
        except OverflowError:
            duration = None
    if duration is None or not timedelta() < duration <= LONGEST:
        raise BrokerCode.APPROVAL_VALIDITY.error(
            f"The validity of the approval is invalid: expected a duration from 1m to {LONGEST.days}d, such as "
            f"12h or 30d, got {text!r:.80}.",
            hint="Write a duration with the units d, h, m and s, in this order.",
        )
    return math.ceil(duration / timedelta(minutes=1))
