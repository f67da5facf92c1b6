"""The state of a deployment, as `status` and the verbs that change a deployment show it in the end."""

from typing import Final

from sealserve.cli import console
from sealserve.cli.context import Context
from sealserve.cli.overview import observe
from sealserve.cli.status_document import StatusDocument
from sealserve.cli.status_view import lines
from sealserve.cluster import targets
from sealserve.cluster.target import Target

_UNLIMITED: Final = 10**6
"""The width of what is no terminal: a program reads whole lines."""


def show_deployment(context: Context, target: Target, kind: str | None = None) -> StatusDocument:
    """Print the state of a deployment, and return it.

    Args:
        context: The workspace, and where the result goes.
        target: Where the deployment runs.
        kind: The target's name; None as in `targets.open_target`.
    """
    chosen = kind or targets.in_use(context.workspace) or context.deployment.target.kind
    document = observe(context.workspace, context.deployment, target, chosen)
    if context.as_json:
        console.print_json(document.model_dump(mode="json"))
    else:
        for line in lines(document, width()):
            console.out.print(line.text, style=line.style or None)
    return document


def width() -> int:
    """Return the width that text may have on standard output."""
    return console.out.width if console.out.is_terminal else _UNLIMITED
