"""``sealserve down``: stop the deployment."""

import typer

from sealserve import deployment
from sealserve.cli import console
from sealserve.cluster.local import LocalTarget

app = typer.Typer(add_completion=False)


@app.command()
def down(yes: console.Yes = False, directory: console.Directory = console.HERE, as_json: console.Json = False) -> None:
    """Stop everything that `up` started. The workspace stays: keys, releases, logs."""
    workspace = console.find_workspace(directory)
    described = deployment.read(workspace.deployment_file)
    target = LocalTarget(workspace, described)
    running = [part.role for part in target.status()]
    if running:
        console.confirm(f"Stop {', '.join(running)}?", yes=yes)
    with console.spinner("Stopping") as tell:
        stopped = LocalTarget(workspace, described, tell=tell).down()
    if as_json:
        console.print_json({"stopped": stopped})
    else:
        console.out.print(f"Stopped {', '.join(stopped)}." if stopped else "Nothing runs.")
