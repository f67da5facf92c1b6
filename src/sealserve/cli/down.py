"""``sealserve down``: stop the deployment."""

import typer

from sealserve.cli import console
from sealserve.cli.interruption import stopping
from sealserve.cluster import targets

app = typer.Typer(add_completion=False)


@app.command()
def down(yes: console.Yes = False, directory: console.Directory = console.HERE, as_json: console.Json = False) -> None:
    """Stop everything that `up` started, wherever it runs. The workspace stays: keys, releases, logs."""
    workspace = console.find_workspace(directory)
    if running := targets.running(workspace):
        console.confirm(f"Stop {', '.join(running)}?", yes=yes)
    with console.spinner("Stopping") as tell, stopping(workspace):
        stopped = targets.stop_all(workspace, tell=tell)
    if as_json:
        console.print_json({"stopped": stopped})
    else:
        console.out.print(f"Stopped {', '.join(stopped)}." if stopped else "Nothing runs.")
