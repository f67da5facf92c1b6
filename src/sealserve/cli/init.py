"""``sealserve init``: a commented ``sealserve.toml``."""

from pathlib import Path
from typing import Annotated

import typer

from sealserve import deployment
from sealserve.atomic_file import write_file
from sealserve.cli import console
from sealserve.workspace import Workspace

app = typer.Typer(add_completion=False)


@app.command()
def init(
    model: Annotated[Path, typer.Option(help="Your frozen graph (.pb) or SavedModel folder.")] = Path(
        "resnet50-v15-fp32.pb"
    ),
    name: Annotated[str | None, typer.Option(help="The servable's name.", show_default="from the model's file")] = None,
    platform: Annotated[
        deployment.Platform, typer.Option(help="What runs the enclaves.")
    ] = deployment.Platform.SIMULATED,
    directory: console.Directory = console.HERE,
    force: console.Force = False,
) -> None:
    """Write a commented sealserve.toml, and the workspace's folders."""
    servable = name or deployment.suggest_name(model)
    text = deployment.write_example({"platform": platform.value, "model": {"name": servable, "path": model}})
    deployment.parse(text)
    workspace = Workspace(directory.resolve())
    workspace.directory.mkdir(parents=True, exist_ok=True)
    write_file(workspace.deployment_file, text.encode(), overwrite=force)
    workspace.create()
    console.out.print(f"Wrote {workspace.deployment_file}: look at \\[model], then `sealserve doctor`.")
    if not (directory / model).exists():
        console.say(f"There is no {model} yet: `sealserve model make-example` makes one to try with.")
