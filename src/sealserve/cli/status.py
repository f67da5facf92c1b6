"""``sealserve status``: what runs."""

from sealserve.cli import options
from sealserve.cli.context import Context
from sealserve.cli.part_table import show_parts
from sealserve.cli.verbs import Verbs
from sealserve.cluster.targets import open_target

app = Verbs()


@app.command()
def status(context: Context, target: options.Target = None) -> None:
    """Show every part of the deployment and how far it has come."""
    show_parts(context, open_target(context.workspace, context.deployment, target).status())
