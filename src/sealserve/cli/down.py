"""``sealserve down``: stop the deployment."""

from sealserve.cli import console, options
from sealserve.cli.context import Context
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.verbs import Verbs

with deferred:
    from sealserve.cli.changing import changing
    from sealserve.cli.interruption import stopping
    from sealserve.cluster import targets

app = Verbs()


@app.command()
def down(context: Context, yes: options.Yes = False, no_wait: options.NoWait = False) -> None:
    """Stop everything that `up` started. Keys, releases and logs stay in the workspace.

    The command stops the deployment on every target: this machine, Docker and Kubernetes.
    """
    workspace = context.workspace
    if running := targets.running(workspace):
        console.confirm(f"Stop {', '.join(running)}?", yes=yes)
    # Ask without the lock, so that no other command waits for the answer.
    with changing(workspace, "down", no_wait=no_wait), console.spinner("Stopping") as tell, stopping(workspace):
        stopped = targets.stop_all(workspace, tell=tell)
    context.show({"stopped": stopped}, f"Stopped {', '.join(stopped)}." if stopped else "Nothing to stop.")
