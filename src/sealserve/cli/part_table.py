"""Show the state of a deployment, in `status` and at the end of each verb that changes a deployment."""

from typing import Final

from sealserve.cli import console
from sealserve.cli.context import Context
from sealserve.cli.overview import observe
from sealserve.cli.status_document import StatusDocument
from sealserve.cli.status_view import lines
from sealserve.cluster import targets
from sealserve.cluster.target import Target

_UNLIMITED: Final = 10**6
"""Width of an output that is not a terminal: lines are not wrapped, because a program reads complete lines."""


def show_deployment(context: Context, target: Target, kind: str | None = None) -> StatusDocument:
    """Print the state of a deployment, and return it.

    Args:
        context: The workspace and the output format.
        target: The target that runs the deployment.
        kind: The target's name. None means the target in use, else the target in ``sealserve.toml``.
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
    """Return the maximum width of a line on standard output, in columns."""
    return console.out.width if console.out.is_terminal else _UNLIMITED
